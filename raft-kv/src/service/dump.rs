//! Everything, as of one moment, a page at a time while writes go on. What it costs this node is bounded: pages that wait to be
//! sent, what is put aside of overwritten records, and the time that a reader may take for a page.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::Shared;
use super::frame::{Out, reply_bytes};
use crate::protocol::{Fault, Reply, ReplyBody, ServeAt};
use crate::query::{Answer, Query};
use crate::scan::{Scan, ScanPage};

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
pub(super) async fn run(shared: Arc<Shared>, id: u64, at: ServeAt, start: Bytes, out: Out) {
    let result = match shared.dumps.begin(out.owner.certificate()) {
        Some(_running) => stream(&shared, id, at, start, &out).await,
        None => Err(Fault::Busy),
    };
    if let Err(fault) = result {
        out.fail([id].into_iter(), &fault).await;
    }
}

async fn stream(
    shared: &Shared,
    id: u64,
    at: ServeAt,
    start: Bytes,
    out: &Out,
) -> Result<(), Fault> {
    let scan = begin(shared, at, start).await?;
    let patience = shared.options.dump_stall_timeout;
    loop {
        let ScanPage { records, has_more } = next(shared, &scan).await?;
        let body = ReplyBody::Page { records, has_more };
        let room = out.owner.unsent().take(reply_bytes(&body));
        let Ok(held) = tokio::time::timeout(patience, room).await else {
            tracing::warn!(?patience, "a dump was ended: its reader took nothing for too long");
            let why = format!("the dump was ended: nothing of it was read for {patience:?}");
            return Err(Fault::Failed { why });
        };
        if out.is_closed() {
            return Ok(());
        }
        out.send(vec![Reply { id, body }], held).await;
        if !has_more {
            return Ok(());
        }
    }
}

/// A scan that includes everything that was acknowledged before this call.
async fn begin(shared: &Shared, at: ServeAt, start: Bytes) -> Result<Scan, Fault> {
    let kept_bytes_max = shared.options.dump_kept_bytes_max;
    let query = Query::Scan { start, kept_bytes_max };
    let answers = shared.read(at, vec![query]).await;
    match answers.map_err(|error| shared.read_fault(error))?.pop() {
        Some(Answer::Scan(scan)) => Ok(scan),
        _ => Err(other_answer()),
    }
}

async fn next(shared: &Shared, scan: &Scan) -> Result<ScanPage, Fault> {
    let answer = shared.node.query_local(Query::ScanPage(scan.clone())).await;
    match answer.map_err(|error| shared.read_fault(error))? {
        Answer::Scanned(Ok(page)) => Ok(page),
        Answer::Scanned(Err(ended)) => {
            tracing::warn!(%ended, "a dump was ended");
            Err(Fault::Failed { why: ended.to_string() })
        }
        _ => Err(other_answer()),
    }
}

fn other_answer() -> Fault {
    Fault::Failed { why: "an answer to another question".into() }
}
