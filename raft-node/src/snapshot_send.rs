//! The sending end of a snapshot stream: one thread per stream, from the state machine's reader to frames for the driver.
//!
//! Frames may be lost. What is not acknowledged is kept and sent again; a stream that makes no progress for the stall
//! timeout is given up (scenario 45: never resent for ever). The core offers the snapshot again, and the receiver says
//! where to go on.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::{Input, NodeId, Term};
use xxhash_rust::xxh3::xxh3_64;

use crate::feedback::{Feedback, Reporter};
use crate::{SnapshotChunk, SnapshotFrame, SnapshotSource};

/// How streams behave.
#[derive(Clone, Debug)]
pub(crate) struct StreamSettings {
    pub(crate) bytes_per_second: Option<u64>,
    pub(crate) window_bytes: u64,
    pub(crate) stall_timeout: Duration,
    /// What is not acknowledged is sent again after this long without progress.
    pub(crate) resend_after: Duration,
}

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

#[derive(Clone, Copy, Debug, Default)]
struct ControlState {
    /// The highest offset acknowledged; `None` before the first answer.
    acked: Option<u64>,
    /// The receiver has verified the whole.
    complete: bool,
    /// The receiver gave up.
    refused: bool,
    /// This node gave up: the thread ends without a word.
    aborted: bool,
}

impl StreamControl {
    /// The receiver has everything before `offset`.
    pub(crate) fn on_ack(&self, offset: u64) {
        self.change(|state| {
            if offset == SnapshotChunk::ACK_COMPLETE {
                state.complete = true;
            } else {
                state.acked = state.acked.max(Some(offset));
            }
        });
    }

    /// The receiver can not go on.
    pub(crate) fn on_abort(&self) {
        self.change(|state| state.refused = true);
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

    /// Waits until `ready`, the stream's end, or the deadline.
    fn wait(
        &self,
        deadline: Instant,
        ready: impl Fn(&ControlState) -> bool,
    ) -> Result<ControlState, StreamEnd> {
        let mut state = self.lock();
        loop {
            if state.aborted {
                return Err(StreamEnd::Aborted);
            }
            if state.refused {
                return Err(StreamEnd::Failed("the receiver gave it up".into()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if ready(&state) || left.is_zero() {
                return Ok(*state);
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
    settings: StreamSettings,
    reporter: Reporter,
) -> std::io::Result<JoinHandle<()>> {
    let name = format!("raft-snapshot-to-{}", stream.to);
    std::thread::Builder::new().name(name).spawn(move || {
        let (to, position) = (stream.to, stream.source.meta.position);
        let control = Arc::clone(&stream.control);
        let mut sender = Sender::new(stream, settings, &reporter);
        // The reader is the application's code.
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sender.run()));
        let end = run.unwrap_or_else(|_| Err(StreamEnd::Failed("its reader panicked".into())));
        match end {
            Ok(()) => tracing::info!(%to, %position, "streamed a snapshot"),
            Err(StreamEnd::Failed(why)) => {
                tracing::warn!(%to, %position, why, "a snapshot stream failed");
            }
            Err(StreamEnd::Aborted) => {}
        }
        // Who let go of a stream need not be told.
        if !control.lock().aborted {
            reporter.input(Input::SnapshotStreamEnded { to, position });
        }
    })
}

/// A chunk that is not acknowledged yet.
struct Chunk {
    offset: u64,
    data: Bytes,
    checksum: u64,
}

struct Sender<'a> {
    stream: Stream,
    settings: StreamSettings,
    reporter: &'a Reporter,
    hasher: blake3::Hasher,
    /// How far the source is read.
    read: u64,
    /// How far the receiver has it.
    acked: u64,
    /// What was read and is not acknowledged.
    window: VecDeque<Chunk>,
    /// Since when there was no progress.
    progress: Instant,
    /// When the rate limit lets the next chunk go.
    send_at: Instant,
}

impl<'a> Sender<'a> {
    fn new(stream: Stream, settings: StreamSettings, reporter: &'a Reporter) -> Sender<'a> {
        let now = Instant::now();
        Sender {
            stream,
            settings,
            reporter,
            hasher: blake3::Hasher::new(),
            read: 0,
            acked: 0,
            window: VecDeque::new(),
            progress: now,
            send_at: now,
        }
    }

    fn run(&mut self) -> Result<(), StreamEnd> {
        self.resume()?;
        let mut at_end = false;
        while !at_end || self.acked < self.read {
            while !at_end && self.read - self.acked < self.settings.window_bytes {
                at_end = !self.send_next()?;
            }
            if self.acked < self.read {
                self.await_progress()?;
            }
        }
        self.finish()
    }

    /// Asks the receiver where to go on (an empty chunk makes it answer), and skips what it has.
    fn resume(&mut self) -> Result<(), StreamEnd> {
        let acked = loop {
            self.send(SnapshotChunk::Data {
                offset: 0,
                data: Bytes::new(),
                checksum: xxh3_64(&[]),
            })?;
            let state = self.wait(|state| state.acked.is_some())?;
            if let Some(acked) = state.acked {
                break acked;
            }
        };
        while self.read < acked {
            let most = acked - self.read;
            if self.read_chunk(most)?.is_none() {
                return Err(StreamEnd::Failed(format!(
                    "the receiver claims {acked} bytes of {}",
                    self.read
                )));
            }
        }
        self.acked = acked;
        self.progress = Instant::now();
        Ok(())
    }

    /// Reads and sends one chunk; `false` at the end.
    fn send_next(&mut self) -> Result<bool, StreamEnd> {
        let offset = self.read;
        let Some(data) = self.read_chunk(u64::MAX)? else { return Ok(false) };
        if let Some(rate) = self.settings.bytes_per_second {
            self.stream.control.wait(self.send_at, |_| false)?;
            let pause = Duration::from_secs_f64(data.len() as f64 / rate.max(1) as f64);
            self.send_at = self.send_at.max(Instant::now()) + pause;
        }
        let checksum = xxh3_64(&data);
        self.send(SnapshotChunk::Data { offset, data: data.clone(), checksum })?;
        self.window.push_back(Chunk { offset, data, checksum });
        Ok(true)
    }

    /// Waits for an acknowledgement; sends again what may be lost if none comes.
    fn await_progress(&mut self) -> Result<(), StreamEnd> {
        let before = self.acked;
        let state = self.wait(|state| state.acked > Some(before))?;
        let acked = state.acked.unwrap_or(before);
        if acked > self.read {
            return Err(StreamEnd::Failed(format!(
                "the receiver acknowledged {acked} bytes of {} sent",
                self.read
            )));
        }
        if acked > before {
            self.acked = acked;
            self.progress = Instant::now();
            while self.window.front().is_some_and(|c| c.offset + c.data.len() as u64 <= acked) {
                self.window.pop_front();
            }
            return Ok(());
        }
        for at in 0..self.window.len() {
            let Chunk { offset, data, checksum } = &self.window[at];
            let (offset, data, checksum) = (*offset, data.clone(), *checksum);
            self.send(SnapshotChunk::Data { offset, data, checksum })?;
        }
        Ok(())
    }

    /// Says that that was all, until the receiver says that it is.
    fn finish(&mut self) -> Result<(), StreamEnd> {
        let digest = *self.hasher.finalize().as_bytes();
        loop {
            self.send(SnapshotChunk::End { size_bytes: self.read, digest })?;
            if self.wait(|state| state.complete)?.complete {
                return Ok(());
            }
        }
    }

    /// Waits until `ready` or until it is time to send again.
    fn wait(&self, ready: impl Fn(&ControlState) -> bool) -> Result<ControlState, StreamEnd> {
        let give_up = self.progress + self.settings.stall_timeout;
        let now = Instant::now();
        let state =
            self.stream.control.wait(give_up.min(now + self.settings.resend_after), &ready)?;
        if !ready(&state) && Instant::now() >= give_up {
            let patience = self.settings.stall_timeout;
            return Err(StreamEnd::Failed(format!("no progress for {patience:?}")));
        }
        Ok(state)
    }

    /// Reads up to a chunk, or `most` bytes; `None` at the end.
    fn read_chunk(&mut self, most: u64) -> Result<Option<Bytes>, StreamEnd> {
        let size = most.min(SnapshotChunk::DATA_BYTES_MAX as u64);
        let mut data = Vec::with_capacity(size as usize);
        // `take` fills the buffer across short reads, and retries interrupted ones.
        let read = (&mut self.stream.source.data).take(size).read_to_end(&mut data);
        read.map_err(|error| StreamEnd::Failed(format!("it can not be read: {error}")))?;
        if data.is_empty() {
            return Ok(None);
        }
        self.hasher.update(&data);
        self.read += data.len() as u64;
        Ok(Some(data.into()))
    }

    fn send(&self, chunk: SnapshotChunk) -> Result<(), StreamEnd> {
        let Stream { to, term, ref source, .. } = self.stream;
        let frame = SnapshotFrame { term, position: source.meta.position, chunk };
        if self.reporter.report(Feedback::Frame { to, frame }) {
            Ok(())
        } else {
            Err(StreamEnd::Aborted)
        }
    }
}
