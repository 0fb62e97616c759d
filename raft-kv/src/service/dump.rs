//! Everything, as of one moment: a checkpoint made now, read at leisure on a thread of its own while writes go on.

use std::sync::Arc;

use bytes::Bytes;
use raft_node::CheckpointFailed;
use tokio::sync::mpsc;

use super::Shared;
use super::frame::Out;
use crate::protocol::{Fault, Reply, ReplyBody};
use crate::query::{Answer, KeyRecord, Query};
use crate::snapshot::SnapshotRecords;

/// About how many bytes of keys and values go into one reply.
const CHUNK_BYTES: usize = 256 << 10;
/// How many chunks may be read ahead.
const CHUNKS_AHEAD: usize = 2;

type Chunk = Result<Vec<KeyRecord>, Fault>;

/// Answers one dump request with as many replies as it takes.
pub(super) async fn run(shared: Arc<Shared>, id: u64, start: Bytes, out: Out) {
    let result = match Arc::clone(&shared.dumps).try_acquire_owned() {
        Ok(_permit) => stream(&shared, id, start, &out).await,
        Err(_) => Err(Fault::Busy),
    };
    if let Err(fault) = result {
        out.send(vec![Reply { id, body: ReplyBody::Failed(fault) }]).await;
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
        out.send(vec![Reply { id, body }]).await;
    }
    if reading.await.is_err() {
        return Err(Fault::Failed { why: "reading the checkpoint panicked".into() });
    }
    let body = ReplyBody::Page { records: Vec::new(), has_more: false };
    out.send(vec![Reply { id, body }]).await;
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
