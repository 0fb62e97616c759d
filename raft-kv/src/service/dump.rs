//! Everything, as of one moment: a checkpoint made now, read at leisure on a thread of its own while writes go on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use raft_node::CheckpointFailed;
use tokio::sync::mpsc;

use super::Shared;
use super::frame::{Out, reply_bytes};
use crate::protocol::{Fault, Reply, ReplyBody};
use crate::query::{Answer, KeyRecord, Query};
use crate::snapshot::SnapshotRecords;

/// About how many bytes of keys and values go into one reply.
const CHUNK_BYTES: usize = 256 << 10;
/// How many chunks may be read ahead.
const CHUNKS_AHEAD: usize = 2;

type Chunk = Result<Vec<KeyRecord>, Fault>;

/// The dumps that are under way, by certificate: no one may have more than half of them, so that a reader that has gone to sleep keeps
/// nobody else from a backup.
pub(super) struct Dumps {
    max: usize,
    running: Mutex<BTreeMap<u64, usize>>,
}

impl Dumps {
    pub(super) fn new(max: usize) -> Dumps {
        Dumps { max, running: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, certificate: u64) -> Option<Running<'_>> {
        let mut running = self.lock();
        let all: usize = running.values().sum();
        let own = running.get(&certificate).copied().unwrap_or_default();
        if all >= self.max || own >= self.max.div_ceil(2) {
            return None;
        }
        running.insert(certificate, own + 1);
        Some(Running { dumps: self, certificate })
    }
}

/// A dump that is under way, until this is dropped.
struct Running<'a> {
    dumps: &'a Dumps,
    certificate: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut running = self.dumps.lock();
        match running.get_mut(&self.certificate) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(running.remove(&self.certificate)),
        }
    }
}

/// Answers one dump request with as many replies as it takes.
pub(super) async fn run(shared: Arc<Shared>, id: u64, start: Bytes, out: Out) {
    let result = match shared.dumps.begin(out.owner.certificate()) {
        Some(_running) => stream(&shared, id, start, &out).await,
        None => Err(Fault::Busy),
    };
    if let Err(fault) = result {
        out.fail([id].into_iter(), &fault).await;
    }
}

async fn stream(shared: &Shared, id: u64, start: Bytes, out: &Out) -> Result<(), Fault> {
    let records = checkpoint(shared).await?;
    let (chunks, mut ready) = mpsc::channel(CHUNKS_AHEAD);
    let reading = tokio::task::spawn_blocking(move || read(records, &start, &chunks));
    while let Some(chunk) = ready.recv().await {
        if out.is_closed() {
            return Ok(());
        }
        let body = ReplyBody::Page { records: chunk?, has_more: true };
        let held = out.owner.unsent().take(reply_bytes(&body)).await;
        out.send(vec![Reply { id, body }], held).await;
    }
    if reading.await.is_err() {
        return Err(Fault::Failed { why: "reading the checkpoint panicked".into() });
    }
    let body = ReplyBody::Page { records: Vec::new(), has_more: false };
    let held = out.owner.unsent().take(reply_bytes(&body)).await;
    out.send(vec![Reply { id, body }], held).await;
    Ok(())
}

/// A checkpoint that includes everything that was acknowledged before this call; `None` if there is nothing at all.
async fn checkpoint(shared: &Shared) -> Result<Option<Box<SnapshotRecords>>, Fault> {
    let node = &shared.node;
    // The barrier: after it, this node has applied whatever anybody was told.
    node.read_batch(vec![Query::Stats]).await.map_err(|error| shared.read_fault(error))?;
    match node.checkpoint().await {
        Ok(_) => {}
        Err(CheckpointFailed::NothingApplied) => return Ok(None),
        Err(CheckpointFailed::Busy) => return Err(Fault::Busy),
        Err(CheckpointFailed::Stopped { why }) => {
            return Err(Fault::Stopped { why: why.to_string() });
        }
    }
    let answer =
        node.query_local(Query::Checkpoint).await.map_err(|error| shared.read_fault(error))?;
    match answer {
        Answer::Checkpoint(Ok(records)) => Ok(records),
        Answer::Checkpoint(Err(error)) => Err(Fault::Failed { why: error.to_string() }),
        _ => Err(Fault::Failed { why: "an answer to another question".into() }),
    }
}

/// Reads records and hands them on in chunks; ends early when nobody takes them any more.
fn read(records: Option<Box<SnapshotRecords>>, start: &[u8], chunks: &mpsc::Sender<Chunk>) {
    let mut chunk = Vec::new();
    let mut bytes = 0;
    for record in records.into_iter().flatten() {
        match record {
            Ok(record) if *record.key < *start => {}
            Ok(record) => {
                bytes += record.key.len() + record.record.value.len() + 32;
                chunk.push(record);
                let is_full =
                    bytes >= CHUNK_BYTES || chunk.len() >= Query::PAGE_RECORDS_MAX as usize;
                if is_full && chunks.blocking_send(Ok(std::mem::take(&mut chunk))).is_err() {
                    return;
                }
                if is_full {
                    bytes = 0;
                }
            }
            Err(error) => {
                let _ = chunks.blocking_send(Err(Fault::Failed { why: error.to_string() }));
                return;
            }
        }
    }
    if !chunk.is_empty() {
        let _ = chunks.blocking_send(Ok(chunk));
    }
}
