//! The sending end of a snapshot stream: one thread per stream, from the state machine's reader to frames for the driver.
//!
//! What is sent when is decided by [`ChunkSender`]. This is its clock, and its link to the driver.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use raft_core::{Input, LogPosition, NodeId, Term};

use crate::feedback::{Feedback, Reporter};
use crate::order::{ChunkSender, ChunkSettings, ToSend};
use crate::{SnapshotChunk, SnapshotFrame, SnapshotSource};

/// One stream.
pub(crate) struct Stream {
    pub(crate) to: NodeId,
    pub(crate) term: Term,
    pub(crate) source: SnapshotSource,
    pub(crate) control: Arc<StreamControl>,
}

/// What the driver tells a stream's thread.
#[derive(Debug, Default)]
pub(crate) struct StreamControl {
    state: Mutex<ControlState>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct ControlState {
    news: News,
    /// This node gave up: the thread ends without a word.
    aborted: bool,
}

/// What the receiver said since the thread asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct News {
    /// The highest offset acknowledged: acknowledgements are cumulative.
    acked: Option<u64>,
    /// The receiver has verified the whole.
    complete: bool,
    /// The receiver gave up.
    refused: bool,
}

impl StreamControl {
    /// The receiver has everything before `offset`.
    pub(crate) fn on_ack(&self, offset: u64) {
        self.change(|state| {
            if offset == SnapshotChunk::ACK_COMPLETE {
                state.news.complete = true;
            } else {
                state.news.acked = state.news.acked.max(Some(offset));
            }
        });
    }

    /// The receiver can not go on.
    pub(crate) fn on_abort(&self) {
        self.change(|state| state.news.refused = true);
    }

    /// Ends the stream from this side.
    pub(crate) fn abort(&self) {
        self.change(|state| state.aborted = true);
    }

    fn change(&self, change: impl FnOnce(&mut ControlState)) {
        change(&mut self.lock());
        self.wake.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, ControlState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the news; waits for some as long as `left` gives time.
    fn news(&self, left: impl Fn() -> Duration) -> Result<News, StreamEnd> {
        let mut state = self.lock();
        loop {
            if state.aborted {
                return Err(StreamEnd::Aborted);
            }
            let left = left();
            if state.news != News::default() || left.is_zero() {
                return Ok(std::mem::take(&mut state.news));
            }
            let waited = self.wake.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A stream's control, in the driver's hands: letting go of it ends the stream.
#[derive(Debug)]
pub(crate) struct StreamGuard(pub(crate) Arc<StreamControl>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a stream ended without success.
#[derive(Debug)]
enum StreamEnd {
    /// By this node: somebody knows already.
    Aborted,
    /// In any other way.
    Failed(String),
}

/// Starts a stream's thread.
pub(crate) fn spawn(
    stream: Stream,
    settings: ChunkSettings,
    reporter: Reporter,
) -> std::io::Result<JoinHandle<()>> {
    let name = format!("raft-snapshot-to-{}", stream.to);
    std::thread::Builder::new().name(name).spawn(move || {
        let Stream { to, term, source: SnapshotSource { meta, data }, control } = stream;
        let link = Link { to, term, position: meta.position, control, reporter: &reporter };
        // The reader is the application's code.
        let run = std::panic::AssertUnwindSafe(|| link.carry(data, settings));
        let end = std::panic::catch_unwind(run)
            .unwrap_or_else(|_| Err(StreamEnd::Failed("its reader panicked".into())));
        let position = link.position;
        match end {
            Ok(()) => tracing::info!(%to, %position, "streamed a snapshot"),
            Err(StreamEnd::Failed(why)) => {
                tracing::warn!(%to, %position, why, "a snapshot stream failed");
            }
            Err(StreamEnd::Aborted) => {}
        }
        // Who let go of a stream need not be told.
        if !link.control.lock().aborted {
            reporter.input(Input::SnapshotStreamEnded { to, position });
        }
    })
}

/// A stream's way to its receiver and back.
struct Link<'a> {
    to: NodeId,
    term: Term,
    position: LogPosition,
    control: Arc<StreamControl>,
    reporter: &'a Reporter,
}

impl Link<'_> {
    /// Streams until the end.
    fn carry(&self, data: impl Read, settings: ChunkSettings) -> Result<(), StreamEnd> {
        let begun = Instant::now();
        let now = || raft_core::Instant::default() + begun.elapsed();
        let mut sender = ChunkSender::new(data, settings, now());
        loop {
            let until = match sender.poll(now()) {
                ToSend::Chunk(chunk) => {
                    self.send(chunk)?;
                    raft_core::Instant::default()
                }
                ToSend::WaitUntil(until) => until,
                ToSend::Complete => return Ok(()),
                ToSend::Failed(failure) => return Err(StreamEnd::Failed(failure.to_string())),
            };
            let news = self.control.news(|| until.since(now()))?;
            if let Some(offset) = news.acked {
                sender.on_ack(offset, now());
            }
            if news.complete {
                sender.on_ack(SnapshotChunk::ACK_COMPLETE, now());
            }
            if news.refused {
                sender.on_abort();
            }
        }
    }

    fn send(&self, chunk: SnapshotChunk) -> Result<(), StreamEnd> {
        let frame = SnapshotFrame { term: self.term, position: self.position, chunk };
        if self.reporter.report(Feedback::Frame { to: self.to, frame }) {
            Ok(())
        } else {
            Err(StreamEnd::Aborted)
        }
    }
}
