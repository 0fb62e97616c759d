//! The receiving end of snapshot streams: one thread, which collects frames into a file of the scratch folder.
//!
//! The file is named by the snapshot's position, not by who sends it, so that another stream of the same snapshot goes on where
//! the last one stopped, even after a restart. What is believed of what arrives is decided by [`Receiving`] and [`ChunkReceiver`]; this keeps it.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_core::{Input, LogPosition, NodeId, SnapshotMeta, Term};

use crate::feedback::{Feedback, Reporter};
use crate::handover::Handover;
use crate::order::{Arriving, ChunkReceiver, ReceiveFailure, Received, Receiving, StreamId};
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
                ReceiveWork::Frame { from, frame } => receiver.on_frame(from, &frame),
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
    chunks: ChunkReceiver,
}

impl Incoming {
    fn append(&mut self, data: &[u8]) -> Result<(), Trouble> {
        self.file
            .write_all(data)
            .map_err(|source| Trouble::File { path: self.path.clone(), source })
    }
}

/// Why a stream can not go on.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the scratch file {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Stream(#[from] ReceiveFailure),
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

    fn on_frame(&mut self, from: NodeId, frame: &SnapshotFrame) {
        let id = StreamId { peer: from, term: frame.term, position: frame.position };
        if !self.receiving.expects(id) {
            if self.receiving.was_completed(id) && matches!(frame.chunk, SnapshotChunk::End { .. })
            {
                self.send(id, SnapshotChunk::Ack { offset: SnapshotChunk::ACK_COMPLETE });
            }
            return;
        }
        let Some(Arriving { data: incoming, .. }) = self.receiving.arriving_mut() else { return };
        let result = match incoming.chunks.on_chunk(&frame.chunk) {
            Received::Append(data) => incoming.append(data).map(|()| self.acknowledge()),
            Received::Acknowledge => {
                self.acknowledge();
                Ok(())
            }
            Received::Whole => self.on_whole(),
            Received::Failed(failure) => Err(failure.into()),
            Received::Nothing => Ok(()),
        };
        let Err(trouble) = result else { return };
        if let Some(Arriving { id, snapshot, data }) = self.receiving.give_up() {
            let keep = matches!(&trouble, Trouble::Stream(failure) if failure.keeps_what_arrived());
            let Incoming { path, file, .. } = data;
            drop(file);
            if !keep {
                drop(std::fs::remove_file(path));
            }
            self.fail(id, snapshot, &trouble);
        }
    }

    fn on_whole(&mut self) -> Result<(), Trouble> {
        let Some(Arriving { id, data, .. }) = self.receiving.arriving() else { return Ok(()) };
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
            self.send(*id, data.chunks.acknowledgement());
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
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file =
        options.read(true).write(true).create(true).truncate(false).open(&path).map_err(trouble)?;
    if file.metadata().map_err(trouble)?.len() > size_bytes_max {
        file.set_len(0).map_err(trouble)?;
    }
    let mut chunks = ChunkReceiver::new(size_bytes_max);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer).map_err(trouble)?;
        if read == 0 {
            break;
        }
        chunks.resume(&buffer[..read])?;
    }
    file.seek(SeekFrom::Start(chunks.offset())).map_err(trouble)?;
    Ok(Incoming { file, path, chunks })
}
