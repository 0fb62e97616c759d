//! The receiving end of snapshot streams: one thread, which collects frames into a file of the scratch folder.
//!
//! The file is named by the snapshot's position, not by who sends it, so that another stream of the same snapshot goes on where
//! the last one stopped, even after a restart. Nothing is believed before its checksum fits, and the whole not before its digest does.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_core::{Input, LogPosition, NodeId, SnapshotMeta, Term};
use xxhash_rust::xxh3::xxh3_64;

use crate::feedback::{Feedback, Reporter};
use crate::handover::Handover;
use crate::storage::CloseOnDrop;
use crate::{SnapshotChunk, SnapshotFrame};

/// What the driver hands to the receiving thread.
#[derive(Debug)]
pub(crate) enum ReceiveWork {
    /// The core wants this snapshot from this leader.
    Begin { from: NodeId, term: Term, snapshot: SnapshotMeta },
    /// A frame has come.
    Frame { from: NodeId, frame: SnapshotFrame },
}

/// Where the whole, verified snapshot of this position lies.
pub(crate) fn received_file(scratch: &Path, position: LogPosition) -> PathBuf {
    scratch.join(format!("received-{}-{}.snapshot", position.index, position.term))
}

fn partial_file(scratch: &Path, position: LogPosition) -> PathBuf {
    scratch.join(format!("incoming-{}-{}{PARTIAL}", position.index, position.term))
}

const PARTIAL: &str = ".part";

/// Runs until the queue is closed.
pub(crate) fn run(
    scratch: &Path,
    size_bytes_max: u64,
    queue: &Arc<Handover<ReceiveWork>>,
    reporter: &Reporter,
) {
    let _close = CloseOnDrop(Arc::clone(queue));
    let mut receiver =
        Receiver { scratch, size_bytes_max, reporter, incoming: None, completed: None };
    let mut taken = VecDeque::new();
    while queue.take_all(&mut taken) {
        for work in taken.drain(..) {
            match work {
                ReceiveWork::Begin { from, term, snapshot } => {
                    receiver.on_begin(from, term, snapshot);
                }
                ReceiveWork::Frame { from, frame } => receiver.on_frame(from, frame),
            }
        }
    }
}

struct Receiver<'a> {
    scratch: &'a Path,
    size_bytes_max: u64,
    reporter: &'a Reporter,
    incoming: Option<Incoming>,
    /// The last stream that was complete, to say so again if that was lost.
    completed: Option<(NodeId, Term, LogPosition)>,
}

/// A snapshot that is arriving.
struct Incoming {
    from: NodeId,
    term: Term,
    snapshot: SnapshotMeta,
    file: File,
    path: PathBuf,
    /// How much is there.
    offset: u64,
    hasher: blake3::Hasher,
}

/// Why a stream can not go on.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the scratch file {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("it holds more than the {max} bytes that snapshot_bytes_max allows")]
    TooLarge { max: u64 },
    #[error("its digest does not fit: it was corrupted on the way, or its source is damaged")]
    Corrupted,
    #[error("the sender gave it up")]
    GivenUp,
}

impl Receiver<'_> {
    fn on_begin(&mut self, from: NodeId, term: Term, snapshot: SnapshotMeta) {
        self.completed = None;
        match &mut self.incoming {
            Some(incoming) if incoming.snapshot.position == snapshot.position => {
                (incoming.from, incoming.term) = (from, term);
                incoming.snapshot = snapshot;
            }
            _ => match open(self.scratch, from, term, snapshot.clone(), self.size_bytes_max) {
                Ok(incoming) => self.incoming = Some(incoming),
                Err(trouble) => {
                    self.incoming = None;
                    return self.fail(from, term, snapshot, &trouble);
                }
            },
        }
        self.acknowledge();
    }

    fn on_frame(&mut self, from: NodeId, frame: SnapshotFrame) {
        let name = (from, frame.term, frame.position);
        let expected =
            self.incoming.as_ref().is_some_and(|i| (i.from, i.term, i.snapshot.position) == name);
        if !expected {
            if self.completed == Some(name) && matches!(frame.chunk, SnapshotChunk::End { .. }) {
                let chunk = SnapshotChunk::Ack { offset: SnapshotChunk::ACK_COMPLETE };
                self.send(from, frame.term, frame.position, chunk);
            }
            return;
        }
        let result = match frame.chunk {
            SnapshotChunk::Data { offset, data, checksum } => self.on_data(offset, &data, checksum),
            SnapshotChunk::End { size_bytes, digest } => self.on_end(size_bytes, digest),
            SnapshotChunk::Abort => Err(Trouble::GivenUp),
            SnapshotChunk::Ack { .. } => Ok(()),
        };
        let Err(trouble) = result else { return };
        if let Some(incoming) = self.incoming.take() {
            let keep = matches!(trouble, Trouble::GivenUp);
            let Incoming { from, term, snapshot, path, file, .. } = incoming;
            drop(file);
            if !keep {
                drop(std::fs::remove_file(path));
            }
            self.fail(from, term, snapshot, &trouble);
        }
    }

    /// Appends what fits; answers in any case, so that the sender learns where to go on.
    fn on_data(&mut self, offset: u64, data: &[u8], checksum: u64) -> Result<(), Trouble> {
        let max = self.size_bytes_max;
        if let Some(incoming) = &mut self.incoming {
            let sound = data.len() <= SnapshotChunk::DATA_BYTES_MAX && xxh3_64(data) == checksum;
            if sound && offset == incoming.offset && !data.is_empty() {
                if offset.saturating_add(data.len() as u64) > max {
                    return Err(Trouble::TooLarge { max });
                }
                incoming
                    .file
                    .write_all(data)
                    .map_err(|source| Trouble::File { path: incoming.path.clone(), source })?;
                incoming.hasher.update(data);
                incoming.offset += data.len() as u64;
            }
        }
        self.acknowledge();
        Ok(())
    }

    fn on_end(&mut self, size_bytes: u64, digest: [u8; 32]) -> Result<(), Trouble> {
        let Some(incoming) = &self.incoming else { return Ok(()) };
        if size_bytes > incoming.offset {
            self.acknowledge();
            return Ok(());
        }
        let fits = size_bytes == incoming.offset && incoming.hasher.finalize() == digest;
        if !fits {
            return Err(Trouble::Corrupted);
        }
        let whole = received_file(self.scratch, incoming.snapshot.position);
        std::fs::rename(&incoming.path, &whole)
            .map_err(|source| Trouble::File { path: whole, source })?;
        if let Some(Incoming { from, term, snapshot, .. }) = self.incoming.take() {
            let position = snapshot.position;
            self.completed = Some((from, term, position));
            let chunk = SnapshotChunk::Ack { offset: SnapshotChunk::ACK_COMPLETE };
            self.send(from, term, position, chunk);
            self.reporter.input(Input::SnapshotReceived(snapshot));
        }
        Ok(())
    }

    fn acknowledge(&self) {
        if let Some(Incoming { from, term, snapshot, offset, .. }) = &self.incoming {
            let chunk = SnapshotChunk::Ack { offset: *offset };
            self.send(*from, *term, snapshot.position, chunk);
        }
    }

    fn fail(&self, from: NodeId, term: Term, snapshot: SnapshotMeta, trouble: &Trouble) {
        let position = snapshot.position;
        tracing::warn!(%from, %position, %trouble, "a snapshot was not received");
        self.send(from, term, position, SnapshotChunk::Abort);
        self.reporter.input(Input::SnapshotFailed(snapshot));
    }

    fn send(&self, to: NodeId, term: Term, position: LogPosition, chunk: SnapshotChunk) {
        let frame = SnapshotFrame { term, position, chunk };
        self.reporter.report(Feedback::Frame { to, frame });
    }
}

/// Opens the file of this position, with whatever an earlier stream left in it; older leavings are removed.
fn open(
    scratch: &Path,
    from: NodeId,
    term: Term,
    snapshot: SnapshotMeta,
    size_bytes_max: u64,
) -> Result<Incoming, Trouble> {
    let path = partial_file(scratch, snapshot.position);
    let trouble = |source| Trouble::File { path: path.clone(), source };
    for entry in std::fs::read_dir(scratch).map_err(trouble)? {
        let other = entry.map_err(trouble)?.path();
        if other != path && other.to_string_lossy().ends_with(PARTIAL) {
            drop(std::fs::remove_file(other));
        }
    }
    let mut options = OpenOptions::new();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).open(&path).map_err(trouble)?;
    let mut hasher = blake3::Hasher::new();
    let mut offset = file.metadata().map_err(trouble)?.len();
    if offset > size_bytes_max {
        file.set_len(0).map_err(trouble)?;
        offset = 0;
    }
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer).map_err(trouble)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    file.seek(SeekFrom::Start(offset)).map_err(trouble)?;
    Ok(Incoming { from, term, snapshot, file, path, offset, hasher })
}
