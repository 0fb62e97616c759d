//! A snapshot in chunks: both ends of a stream over a network that loses, repeats, reorders and corrupts what it carries.
//!
//! The receiver acknowledges up to where it has everything, and the sender's window slides along, as in TCP (RFC 9293, section 3.8). What is not
//! acknowledged in time is sent again from there on (go-back-n): the receiver takes nothing but what comes next, so that it holds nothing back.
//!
//! A stream begins with a question, a chunk without data. The answer says what the receiver has of the snapshot from earlier; the sender reads over that.
//! It ends with the digest of the whole, which is repeated until the receiver says that it fits. Who sends gives up after a time without progress
//! (scenario 45: never resent for ever). The core offers the snapshot again, and the next stream goes on where this one stopped.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::mutants::mutated;
use crate::SnapshotChunk;

/// How a [`ChunkSender`] behaves.
#[derive(Clone, Debug)]
pub struct ChunkSettings {
    /// The most bytes of data in one chunk; between 1 and [`SnapshotChunk::DATA_BYTES_MAX`], whatever is asked for. No more than the window.
    pub chunk_bytes_max: usize,
    /// How many bytes may be under way, and are held in memory until they are acknowledged; at least 1, whatever is asked for.
    pub window_bytes: u64,
    /// How fast data is sent; what is sent again is not held back by it. `None`: as fast as it is acknowledged.
    pub bytes_per_second: Option<u64>,
    /// What is not answered is sent again after this long without progress; at least a microsecond, whatever is asked for.
    pub resend_after: Duration,
    /// After this long without progress the stream is given up.
    pub stall_timeout: Duration,
}

/// What a [`ChunkSender`] wants.
#[derive(Clone, Debug)]
pub enum ToSend {
    /// Send this, and poll again.
    Chunk(SnapshotChunk),
    /// Nothing: poll again after an answer, and at this time at the latest. The time may be now: it had much to read.
    WaitUntil(Instant),
    /// Nothing any more: the receiver has verified the whole.
    Complete,
    /// Nothing any more.
    Failed(SendFailure),
}

/// Why a stream ended before the receiver had it all.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SendFailure {
    /// The receiver can not go on.
    #[error("the receiver gave it up")]
    ReceiverGaveUp,
    /// The receiver was silent, or said nothing new.
    #[error("no progress for {0:?}")]
    Stalled(Duration),
    /// The receiver claims to have more from earlier than the snapshot holds.
    #[error("the receiver claims {claimed_bytes} bytes of {size_bytes}")]
    ClaimedTooMuch {
        /// What it claims.
        claimed_bytes: u64,
        /// The size of the snapshot.
        size_bytes: u64,
    },
    /// The receiver acknowledges what was not sent.
    #[error("the receiver acknowledged {acknowledged_bytes} bytes of {sent_bytes} sent")]
    AcknowledgedTooMuch {
        /// What it acknowledges.
        acknowledged_bytes: u64,
        /// What was sent, with what it had from earlier.
        sent_bytes: u64,
    },
    /// The source failed.
    #[error("it can not be read: {0}")]
    Unreadable(#[source] Arc<io::Error>),
}

/// The sending end of one stream.
///
/// Its promises:
/// 1. No more than the window is under way, and no more is held in memory, but for the rest of a chunk that was acknowledged in part.
/// 2. What the receiver says is believed only as far as it can be true.
/// 3. It ends: with [`ToSend::Complete`], or with [`ToSend::Failed`] after [`ChunkSettings::stall_timeout`] without progress at the latest. What it
///    says at its end it says again whenever it is polled.
#[derive(Debug)]
pub struct ChunkSender<R> {
    source: R,
    settings: ChunkSettings,
    phase: Phase,
    /// Over all that was read.
    hasher: blake3::Hasher,
    /// How far the receiver has it. `acked <= next <= sent <= read`.
    acked: u64,
    /// What is sent next.
    next: u64,
    /// How far it was ever sent.
    sent: u64,
    /// How far the source is read.
    read: u64,
    /// What was read and is not acknowledged, in order and without gaps.
    window: VecDeque<Kept>,
    /// Since when the receiver owes an answer that tells something new.
    progress: Instant,
    /// When what is not answered is sent again.
    repeat_at: Instant,
    /// When the rate limit lets the next new chunk go.
    send_at: Instant,
    /// The last poll gave something to send.
    was_sending: bool,
}

#[derive(Debug)]
enum Phase {
    /// For where to go on.
    Asking,
    /// What the receiver has from earlier.
    Skipping {
        to: u64,
    },
    Streaming {
        at_end: bool,
    },
    /// Everything is acknowledged, but not that the digest fits.
    Ending {
        digest: [u8; 32],
    },
    Over(Result<(), SendFailure>),
}

#[derive(Debug)]
struct Kept {
    offset: u64,
    data: Bytes,
}

impl Kept {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

impl<R: Read> ChunkSender<R> {
    /// A stream of what `source` yields, from its start: two sources of the same snapshot must yield the same bytes.
    pub fn new(source: R, mut settings: ChunkSettings, now: Instant) -> ChunkSender<R> {
        settings.window_bytes = settings.window_bytes.max(1);
        let window = usize::try_from(settings.window_bytes).unwrap_or(usize::MAX);
        let most = SnapshotChunk::DATA_BYTES_MAX.min(window);
        settings.chunk_bytes_max = settings.chunk_bytes_max.clamp(1, most);
        settings.resend_after = settings.resend_after.max(Duration::from_micros(1));
        ChunkSender {
            source,
            settings,
            phase: Phase::Asking,
            hasher: blake3::Hasher::new(),
            acked: 0,
            next: 0,
            sent: 0,
            read: 0,
            window: VecDeque::new(),
            progress: now,
            repeat_at: now,
            send_at: now,
            was_sending: false,
        }
    }

    /// What it reads from.
    pub fn source_mut(&mut self) -> &mut R {
        &mut self.source
    }

    /// The receiver says that it has everything before `offset`; or all of it, verified ([`SnapshotChunk::ACK_COMPLETE`]). That is believed only once
    /// it was told what the whole is: what comes earlier answers another stream of the same snapshot.
    pub fn on_ack(&mut self, offset: u64, now: Instant) {
        match &mut self.phase {
            Phase::Over(_) => {}
            Phase::Ending { .. } if offset == SnapshotChunk::ACK_COMPLETE => self.end(Ok(())),
            _ if offset == SnapshotChunk::ACK_COMPLETE => {}
            Phase::Asking => self.phase = Phase::Skipping { to: offset },
            Phase::Skipping { to } => *to = offset.max(*to),
            Phase::Streaming { .. } | Phase::Ending { .. } if offset > self.sent => {
                self.end(Err(SendFailure::AcknowledgedTooMuch {
                    acknowledged_bytes: offset,
                    sent_bytes: self.sent,
                }));
            }
            Phase::Streaming { .. } | Phase::Ending { .. } => self.slide_to(offset, now),
        }
    }

    /// The receiver says that it can not go on.
    pub fn on_abort(&mut self) {
        if !matches!(self.phase, Phase::Over(_)) {
            self.end(Err(SendFailure::ReceiverGaveUp));
        }
    }

    /// What is to be done now. Reads one chunk at most.
    ///
    /// A chunk counts as sent when this is called next: sending may have taken its time.
    pub fn poll(&mut self, now: Instant) -> ToSend {
        if std::mem::take(&mut self.was_sending) {
            self.repeat_at = now + self.settings.resend_after;
        }
        if self.is_owed_an_answer() && now >= self.give_up_at() {
            self.end(Err(SendFailure::Stalled(self.settings.stall_timeout)));
        }
        loop {
            let step = match self.phase {
                Phase::Asking => Ok(Some(self.repeat(now, ask()))),
                Phase::Skipping { to } => self.skip(to, now),
                Phase::Streaming { at_end } => self.stream(at_end, now),
                Phase::Ending { digest } => {
                    let end = SnapshotChunk::End { size_bytes: self.read, digest };
                    Ok(Some(self.repeat(now, end)))
                }
                Phase::Over(Ok(())) => return ToSend::Complete,
                Phase::Over(Err(ref failure)) => return ToSend::Failed(failure.clone()),
            };
            match step {
                Ok(Some(to_send)) => return to_send,
                Ok(None) => {}
                Err(failure) => self.end(Err(failure)),
            }
        }
    }

    /// Reads over what the receiver has.
    fn skip(&mut self, to: u64, now: Instant) -> Result<Option<ToSend>, SendFailure> {
        if self.read < to {
            if self.read_chunk(to - self.read)?.is_none() {
                let (claimed_bytes, size_bytes) = (to, self.read);
                return Err(SendFailure::ClaimedTooMuch { claimed_bytes, size_bytes });
            }
            return Ok(Some(ToSend::WaitUntil(now)));
        }
        (self.acked, self.next, self.sent) = (self.read, self.read, self.read);
        self.progress = now;
        self.phase = Phase::Streaming { at_end: false };
        Ok(None)
    }

    /// The next chunk, if the window, the rate limit and the source have one; `None` if the next phase has begun.
    fn stream(&mut self, at_end: bool, now: Instant) -> Result<Option<ToSend>, SendFailure> {
        if self.next == self.read && !at_end && self.has_room() {
            let offset = self.read;
            match self.read_chunk(u64::MAX)? {
                Some(data) => self.window.push_back(Kept { offset, data }),
                None => self.phase = Phase::Streaming { at_end: true },
            }
            // The source may be at its end, and everything acknowledged.
            return Ok(None);
        }
        if at_end && self.acked == self.read {
            let digest = *self.hasher.finalize().as_bytes();
            self.phase = Phase::Ending { digest };
            self.repeat_at = now;
            return Ok(None);
        }
        let is_new = self.next == self.sent;
        if self.next < self.read && (!is_new || now >= self.send_at) {
            return Ok(self.send_next(is_new, now).map(ToSend::Chunk));
        }
        if self.acked < self.next && now >= self.repeat_at {
            self.next = self.acked;
            return Ok(None);
        }
        let mut until = Instant(u64::MAX);
        if self.next < self.read {
            until = until.min(self.send_at);
        }
        if self.acked < self.next {
            until = until.min(self.repeat_at);
        }
        if self.is_owed_an_answer() {
            until = until.min(self.give_up_at());
        }
        Ok(Some(ToSend::WaitUntil(until)))
    }

    fn send_next(&mut self, is_new: bool, now: Instant) -> Option<SnapshotChunk> {
        let at = self.window.partition_point(|kept| kept.end() <= self.next);
        let kept = self.window.get(at)?;
        let (offset, data, end) = (kept.offset, kept.data.clone(), kept.end());
        if is_new {
            if self.acked == self.sent {
                // Nobody owed anything while the rate limit held this back.
                self.progress = now;
            }
            if let Some(rate) = self.settings.bytes_per_second {
                let pause_us = (data.len() as u64 * 1_000_000).div_ceil(rate.max(1));
                self.send_at = self.send_at.max(now) + Duration::from_micros(pause_us);
            }
        }
        self.next = end;
        self.sent = self.sent.max(end);
        self.was_sending = true;
        Some(SnapshotChunk::Data { offset, checksum: xxh3_64(&data), data })
    }

    /// What is said again and again until it is answered.
    fn repeat(&mut self, now: Instant, chunk: SnapshotChunk) -> ToSend {
        if now < self.repeat_at {
            return ToSend::WaitUntil(self.repeat_at.min(self.give_up_at()));
        }
        self.was_sending = true;
        ToSend::Chunk(chunk)
    }

    /// The receiver has everything before this offset, of what was sent.
    fn slide_to(&mut self, offset: u64, now: Instant) {
        if offset <= self.acked {
            return;
        }
        self.acked = offset;
        self.next = self.next.max(offset);
        self.progress = now;
        self.repeat_at = now + self.settings.resend_after;
        while self.window.front().is_some_and(|kept| kept.end() <= offset) {
            self.window.pop_front();
        }
        // A receiver that was restarted may have a part of a chunk: it goes on within.
        if let Some(first) = self.window.front_mut().filter(|first| first.offset < offset) {
            first.data = first.data.slice((offset - first.offset) as usize..);
            first.offset = offset;
        }
    }

    /// Whether there is room for a whole chunk: small ones for every little room would only cost more frames (RFC 9293, section 3.8.6.2).
    fn has_room(&self) -> bool {
        let held = self.read - self.acked;
        held.saturating_add(self.settings.chunk_bytes_max as u64) <= self.settings.window_bytes
    }

    /// Reads a chunk, or `most` bytes; `None` at the end.
    fn read_chunk(&mut self, most: u64) -> Result<Option<Bytes>, SendFailure> {
        let size = most.min(self.settings.chunk_bytes_max as u64);
        let mut data = Vec::with_capacity(size as usize);
        // `take` fills the buffer across short reads, and retries interrupted ones.
        let read = self.source.by_ref().take(size).read_to_end(&mut data);
        read.map_err(|error| SendFailure::Unreadable(Arc::new(error)))?;
        if data.is_empty() {
            return Ok(None);
        }
        self.hasher.update(&data);
        self.read += data.len() as u64;
        Ok(Some(data.into()))
    }

    /// Whether the receiver could get further by itself: not while the sender reads, or waits for its rate limit.
    fn is_owed_an_answer(&self) -> bool {
        match self.phase {
            Phase::Asking | Phase::Ending { .. } => true,
            Phase::Streaming { .. } => self.acked < self.sent,
            Phase::Skipping { .. } | Phase::Over(_) => false,
        }
    }

    fn give_up_at(&self) -> Instant {
        self.progress + self.settings.stall_timeout
    }

    fn end(&mut self, end: Result<(), SendFailure>) {
        self.phase = Phase::Over(end);
        self.window = VecDeque::new();
    }
}

/// A chunk without data, which the receiver answers with where to go on.
fn ask() -> SnapshotChunk {
    SnapshotChunk::Data { offset: 0, data: Bytes::new(), checksum: xxh3_64(&[]) }
}

/// The receiving end: what has arrived of one snapshot, in however many streams. Where its bytes are kept is the caller's business.
///
/// Its promises:
/// 1. Only sound chunks are appended, each where the last one ended.
/// 2. There is never more than the size that it was made for.
/// 3. The whole is not believed before its size and its digest fit.
#[derive(Clone, Debug)]
pub struct ChunkReceiver {
    offset: u64,
    hasher: blake3::Hasher,
    size_bytes_max: u64,
}

/// What a [`ChunkReceiver`] makes of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// Append these bytes to what is there, then send the [acknowledgement](ChunkReceiver::acknowledgement). They count as arrived: if they can
    /// not be kept, drop the receiver.
    Append(&'a [u8]),
    /// Send the [acknowledgement](ChunkReceiver::acknowledgement), so that the sender learns where to go on.
    Acknowledge,
    /// All has arrived, and fits. Once it is kept as the whole, acknowledge [`SnapshotChunk::ACK_COMPLETE`], and that again for each end that still comes
    /// ([`Receiving::was_completed`](super::Receiving::was_completed)): the acknowledgement may be lost.
    Whole,
    /// The stream can not go on: send [`SnapshotChunk::Abort`].
    Failed(ReceiveFailure),
    /// It was meant for a sender.
    Nothing,
}

/// Why a stream can not go on at its receiving end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveFailure {
    /// It would be larger than it may.
    #[error("it holds more than the {max} bytes that snapshot_bytes_max allows")]
    TooLarge {
        /// How many bytes it may have.
        max: u64,
    },
    /// Its size or its digest does not fit what has arrived.
    #[error("its digest does not fit: it was corrupted on the way, or its source is damaged")]
    Corrupted,
    /// The sender can not go on.
    #[error("the sender gave it up")]
    GivenUp,
}

impl ReceiveFailure {
    /// Whether what has arrived is good for another stream of the same snapshot. Otherwise it is to be thrown away.
    pub fn keeps_what_arrived(self) -> bool {
        self == ReceiveFailure::GivenUp
    }
}

impl ChunkReceiver {
    /// Of a snapshot of at most so many bytes, nothing has arrived.
    pub fn new(size_bytes_max: u64) -> ChunkReceiver {
        ChunkReceiver { offset: 0, hasher: blake3::Hasher::new(), size_bytes_max }
    }

    /// These bytes come next, and are kept from an earlier stream. May be called several times, before the first chunk.
    ///
    /// # Errors
    /// [`ReceiveFailure::TooLarge`], and nothing is taken.
    pub fn resume(&mut self, prefix: &[u8]) -> Result<(), ReceiveFailure> {
        let end = self.offset.checked_add(prefix.len() as u64);
        let end = end.filter(|end| *end <= self.size_bytes_max);
        self.offset = end.ok_or(ReceiveFailure::TooLarge { max: self.size_bytes_max })?;
        self.hasher.update(prefix);
        Ok(())
    }

    /// How many bytes have arrived.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Says so to the sender.
    pub fn acknowledgement(&self) -> SnapshotChunk {
        SnapshotChunk::Ack { offset: self.offset }
    }

    /// A chunk has come. Whether its stream is the one that was meant is for [`Receiving`](super::Receiving) to say, before.
    pub fn on_chunk<'a>(&mut self, chunk: &'a SnapshotChunk) -> Received<'a> {
        match chunk {
            SnapshotChunk::Data { offset, data, checksum } => {
                let is_sound = data.len() <= SnapshotChunk::DATA_BYTES_MAX
                    && (xxh3_64(data) == *checksum || mutated!(ChunkChecksumNotChecked));
                let is_next = *offset == self.offset || mutated!(ChunkOffsetNotChecked);
                if !is_sound || !is_next || data.is_empty() {
                    return Received::Acknowledge;
                }
                match self.resume(data) {
                    Ok(()) => Received::Append(data),
                    Err(failure) => Received::Failed(failure),
                }
            }
            SnapshotChunk::End { size_bytes, .. } if *size_bytes > self.offset => {
                Received::Acknowledge
            }
            SnapshotChunk::End { size_bytes, digest } => {
                let fits = self.hasher.finalize() == *digest || mutated!(DigestNotChecked);
                if *size_bytes == self.offset && fits {
                    Received::Whole
                } else {
                    Received::Failed(ReceiveFailure::Corrupted)
                }
            }
            SnapshotChunk::Abort => Received::Failed(ReceiveFailure::GivenUp),
            SnapshotChunk::Ack { .. } => Received::Nothing,
        }
    }
}
