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
use crate::order::{Arriving, Receiving, StreamId};
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
        Receiver { scratch, size_bytes_max, reporter, receiving: Receiving::default() };
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
    receiving: Receiving<Incoming>,
}

/// What has arrived of a snapshot.
struct Incoming {
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
        let (scratch, max) = (self.scratch, self.size_bytes_max);
        let open = |snapshot: &SnapshotMeta| open(scratch, snapshot.position, max);
        match self.receiving.begin((from, term), snapshot.clone(), open) {
            Ok(()) => self.acknowledge(),
            Err(trouble) => {
                let id = StreamId { peer: from, term, position: snapshot.position };
                self.fail(id, snapshot, &trouble);
            }
        }
    }

    fn on_frame(&mut self, from: NodeId, frame: SnapshotFrame) {
        let id = StreamId { peer: from, term: frame.term, position: frame.position };
        if !self.receiving.expects(id) {
            if self.receiving.was_completed(id) && matches!(frame.chunk, SnapshotChunk::End { .. })
            {
                self.send(id, SnapshotChunk::Ack { offset: SnapshotChunk::ACK_COMPLETE });
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
        if let Some(Arriving { id, snapshot, data }) = self.receiving.give_up() {
            let keep = matches!(trouble, Trouble::GivenUp);
            let Incoming { path, file, .. } = data;
            drop(file);
            if !keep {
                drop(std::fs::remove_file(path));
            }
            self.fail(id, snapshot, &trouble);
        }
    }

    /// Appends what fits; answers in any case, so that the sender learns where to go on.
    fn on_data(&mut self, offset: u64, data: &[u8], checksum: u64) -> Result<(), Trouble> {
        let max = self.size_bytes_max;
        if let Some(Arriving { data: incoming, .. }) = self.receiving.arriving_mut() {
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
        let Some(Arriving { id, data, .. }) = self.receiving.arriving() else { return Ok(()) };
        if size_bytes > data.offset {
            self.acknowledge();
            return Ok(());
        }
        let fits = size_bytes == data.offset && data.hasher.finalize() == digest;
        if !fits {
            return Err(Trouble::Corrupted);
        }
        let whole = received_file(self.scratch, id.position);
        std::fs::rename(&data.path, &whole)
            .map_err(|source| Trouble::File { path: whole, source })?;
        if let Some(Arriving { id, snapshot, .. }) = self.receiving.complete() {
            self.send(id, SnapshotChunk::Ack { offset: SnapshotChunk::ACK_COMPLETE });
            self.reporter.input(Input::SnapshotReceived(snapshot));
        }
        Ok(())
    }

    fn acknowledge(&self) {
        if let Some(Arriving { id, data, .. }) = self.receiving.arriving() {
            self.send(*id, SnapshotChunk::Ack { offset: data.offset });
        }
    }

    fn fail(&self, id: StreamId, snapshot: SnapshotMeta, trouble: &Trouble) {
        tracing::warn!(from = %id.peer, position = %id.position, %trouble, "a snapshot was not received");
        self.send(id, SnapshotChunk::Abort);
        self.reporter.input(Input::SnapshotFailed(snapshot));
    }

    fn send(&self, id: StreamId, chunk: SnapshotChunk) {
        let frame = SnapshotFrame { term: id.term, position: id.position, chunk };
        self.reporter.report(Feedback::Frame { to: id.peer, frame });
    }
}

/// Opens the file of this position, with whatever an earlier stream left in it; older leavings are removed.
fn open(scratch: &Path, position: LogPosition, size_bytes_max: u64) -> Result<Incoming, Trouble> {
    let path = partial_file(scratch, position);
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
    Ok(Incoming { file, path, offset, hasher })
}
