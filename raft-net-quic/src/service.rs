//! Streams of frames for services: what a client opens and a node accepts. Requests are pipelined; what they mean is the service's
//! affair.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use tokio::time::Instant;

use crate::accounts::{Owner, StreamPlace};
use crate::budget::Held;
use crate::config::Limits;
use crate::error::{CloseCode, NetError, lost};
use crate::framing::{Assembler, Gather, PREFIX_BYTES};
use crate::identity::PeerIdentity;

/// A bidirectional stream of frames with an authenticated other side.
#[derive(Debug)]
pub struct ServiceStream {
    /// Who is on the other side, by its certificate.
    pub peer: PeerIdentity,
    /// Whose budgets it uses.
    pub owner: Owner,
    reader: FrameReader,
    writer: FrameWriter,
}

impl ServiceStream {
    /// One that this side has opened: it trusts the other, and waits as long as it takes.
    pub(crate) fn dialed(
        peer: PeerIdentity,
        send: SendStream,
        recv: RecvStream,
        frame_bytes_max: usize,
    ) -> ServiceStream {
        let (name, owner) = (peer.to_string(), Owner::unlimited());
        ServiceStream {
            reader: FrameReader::new(recv, frame_bytes_max, name.clone()),
            writer: FrameWriter::new(send, frame_bytes_max, name),
            owner,
            peer,
        }
    }

    /// One that the other side has opened: within its budgets, and with deadlines.
    pub(crate) fn accepted(
        peer: PeerIdentity,
        (send, recv): (SendStream, RecvStream),
        (owner, place): (Owner, StreamPlace),
        limits: &Limits,
    ) -> ServiceStream {
        let (name, place) = (peer.to_string(), Arc::new(place));
        let max = limits.service_frame_bytes_max;
        let reader = FrameReader {
            held: owner.received().nothing(),
            owner: owner.clone(),
            begun: Some(Instant::now()),
            frame_timeout: Some(limits.frame_timeout),
            _place: Some(Arc::clone(&place)),
            ..FrameReader::new(recv, max, name.clone())
        };
        let writer = FrameWriter {
            unread_timeout: Some(limits.unread_timeout),
            _place: Some(place),
            ..FrameWriter::new(send, max, name)
        };
        ServiceStream { peer, owner, reader, writer }
    }

    /// The two directions, to be used from two tasks.
    pub fn split(self) -> (FrameReader, FrameWriter) {
        (self.reader, self.writer)
    }
}

/// A received frame, and the part of its owner's budget that it takes until this is dropped.
#[derive(Debug)]
pub struct HeldFrame {
    /// The frame.
    pub bytes: Bytes,
    /// Its part of the budget.
    pub held: Held,
}

/// How many received pieces are taken at once.
const PIECES: usize = 32;

/// The receiving direction of a [`ServiceStream`].
#[derive(Debug)]
pub struct FrameReader {
    recv: RecvStream,
    assembler: Assembler,
    pieces: Box<[Bytes; PIECES]>,
    peer: String,
    owner: Owner,
    /// For what has arrived and is no whole frame yet.
    held: Held,
    /// What has arrived and is not held yet.
    owed: usize,
    /// Since when a frame is awaited that has to come.
    begun: Option<Instant>,
    frame_timeout: Option<Duration>,
    _place: Option<Arc<StreamPlace>>,
}

impl FrameReader {
    pub(crate) fn new(recv: RecvStream, frame_bytes_max: usize, peer: String) -> FrameReader {
        let owner = Owner::unlimited();
        FrameReader {
            recv,
            assembler: Assembler::new(frame_bytes_max),
            pieces: Box::new([const { Bytes::new() }; PIECES]),
            peer,
            held: owner.received().nothing(),
            owner,
            owed: 0,
            begun: None,
            frame_timeout: None,
            _place: None,
        }
    }

    /// The next frame; `None` once the other side has finished. Cancel safe: dropping the future loses nothing.
    ///
    /// # Errors
    /// [`NetError::FrameTooLarge`] for a frame beyond the limit, [`NetError::StreamCut`] if the stream ends within one,
    /// [`NetError::TimedOut`] if an accepted stream's frame does not come in time, others if the connection is lost. After an error nothing
    /// more can be read.
    pub async fn next(&mut self) -> Result<Option<Bytes>, NetError> {
        loop {
            if let Some(frame) = self.pop()? {
                return Ok(Some(frame.bytes));
            }
            if !self.receive().await? {
                return Ok(None);
            }
        }
    }

    /// Waits for at least one frame, then appends every frame that is here already to `frames`. `false` once the other side has
    /// finished. Cancel safe.
    ///
    /// # Errors
    /// As for [`FrameReader::next`]; frames before the fault are delivered first.
    pub async fn next_batch(&mut self, frames: &mut Vec<Bytes>) -> Result<bool, NetError> {
        match self.next().await? {
            Some(frame) => frames.push(frame),
            None => return Ok(false),
        }
        while let Ok(Some(frame)) = self.pop() {
            frames.push(frame.bytes);
        }
        Ok(true)
    }

    /// As [`FrameReader::next_batch`], with what each frame takes of its owner's budget.
    ///
    /// # Errors
    /// As for [`FrameReader::next`]; frames before the fault are delivered first.
    pub async fn next_held(&mut self, frames: &mut Vec<HeldFrame>) -> Result<bool, NetError> {
        let before = frames.len();
        loop {
            match self.pop() {
                Ok(Some(frame)) => frames.push(frame),
                // The error is still there the next time.
                _ if frames.len() > before => return Ok(true),
                Err(error) => return Err(error),
                Ok(None) => {
                    if !self.receive().await? {
                        return Ok(false);
                    }
                }
            }
        }
    }

    fn pop(&mut self) -> Result<Option<HeldFrame>, NetError> {
        let Some(bytes) = self.assembler.pop()? else {
            return Ok(None);
        };
        self.owner.note_request();
        self.begun = (!self.assembler.is_empty()).then(Instant::now);
        let held = self.held.split(bytes.len() + PREFIX_BYTES);
        Ok(Some(HeldFrame { bytes, held }))
    }

    /// Receives what is there, waiting for something. `false` at the end of the stream.
    async fn receive(&mut self) -> Result<bool, NetError> {
        let deadline = self.begun.zip(self.frame_timeout);
        let Some((begun, limit)) = deadline else {
            return self.receive_some().await;
        };
        let received = tokio::time::timeout_at(begun + limit, self.receive_some()).await;
        received.unwrap_or_else(|_| {
            // Fails only if it is stopped already.
            let _ = self.recv.stop(CloseCode::Busy.code());
            Err(NetError::TimedOut { what: "a frame", limit })
        })
    }

    async fn receive_some(&mut self) -> Result<bool, NetError> {
        if self.owed == 0 {
            // What waits for room is not held yet: the less at a time, the better.
            let most = if self.owner.received().is_tight() { 1 } else { PIECES };
            let count = match self.recv.read_chunks(&mut self.pieces[..most]).await {
                Ok(Some(count)) => count,
                Ok(None) if self.assembler.is_empty() => return Ok(false),
                Ok(None) => {
                    return Err(NetError::StreamCut {
                        reason: format!("{} finished it within a frame", self.peer),
                    });
                }
                Err(error) => return Err(read_failed(&self.peer, error)),
            };
            for piece in &mut self.pieces[..count] {
                self.owed += piece.len();
                self.assembler.push(std::mem::take(piece));
            }
        }
        self.begun.get_or_insert_with(Instant::now);
        self.held.grow(self.owed).await;
        self.owed = 0;
        Ok(true)
    }
}

/// The sending direction of a [`ServiceStream`]. Its methods are *not* cancel safe: a frame that is written in part would
/// break the stream. Dropping it finishes the stream.
#[derive(Debug)]
pub struct FrameWriter {
    send: SendStream,
    gather: Gather,
    frame_bytes_max: usize,
    peer: String,
    unread_timeout: Option<Duration>,
    _place: Option<Arc<StreamPlace>>,
}

impl FrameWriter {
    fn new(send: SendStream, frame_bytes_max: usize, peer: String) -> FrameWriter {
        let gather = Gather::new();
        FrameWriter { send, gather, frame_bytes_max, peer, unread_timeout: None, _place: None }
    }

    /// Sends one frame. Waits while the other side takes nothing more.
    ///
    /// # Errors
    /// [`NetError::FrameTooLarge`] before anything is sent; [`NetError::TimedOut`] if the other side of an accepted stream takes nothing for too
    /// long, which resets it; others if the stream or the connection is lost.
    pub async fn send(&mut self, frame: Bytes) -> Result<(), NetError> {
        self.send_all(&mut [frame]).await
    }

    /// Sends one frame that consists of `parts`. Leaves them empty.
    ///
    /// # Errors
    /// As for [`FrameWriter::send`].
    pub async fn send_parts(&mut self, parts: &mut [Bytes]) -> Result<(), NetError> {
        let prefix = self.check(parts.iter().map(Bytes::len).sum())?;
        self.gather.prefix(prefix);
        for part in parts {
            self.gather.part(std::mem::take(part));
        }
        self.write().await
    }

    /// Sends many frames in one go: much cheaper than one by one. Leaves `frames` empty.
    ///
    /// # Errors
    /// As for [`FrameWriter::send`]; if any frame is too large, none is sent.
    pub async fn send_all(&mut self, frames: &mut [Bytes]) -> Result<(), NetError> {
        for frame in frames.iter() {
            self.check(frame.len())?;
        }
        for frame in frames {
            self.gather.prefix(frame.len() as u32);
            self.gather.part(std::mem::take(frame));
        }
        self.write().await
    }

    /// Tells the other side that nothing more comes. Does not wait for it to have read everything.
    ///
    /// # Errors
    /// [`NetError::StreamCut`] if the stream is closed already.
    pub fn finish(&mut self) -> Result<(), NetError> {
        self.send
            .finish()
            .map_err(|_| NetError::StreamCut { reason: format!("{} is closed", self.peer) })
    }

    /// Finishes, and waits until the other side has everything, or does not want it.
    ///
    /// # Errors
    /// If the stream is closed already, or the connection is lost; [`NetError::TimedOut`] if the other side of an accepted stream does not
    /// take the rest in time.
    pub async fn finish_and_wait(&mut self) -> Result<(), NetError> {
        self.finish()?;
        let stopped = self.send.stopped();
        let ended = match self.unread_timeout {
            None => stopped.await,
            Some(limit) => match tokio::time::timeout(limit, stopped).await {
                Ok(ended) => ended,
                Err(_) => return Err(self.give_up(limit)),
            },
        };
        match ended {
            Ok(_) => Ok(()),
            Err(error) => Err(NetError::StreamCut { reason: format!("{}: {error}", self.peer) }),
        }
    }

    fn check(&self, bytes: usize) -> Result<u32, NetError> {
        u32::try_from(bytes)
            .ok()
            .filter(|_| bytes <= self.frame_bytes_max)
            .ok_or(NetError::FrameTooLarge { bytes, max: self.frame_bytes_max })
    }

    async fn write(&mut self) -> Result<(), NetError> {
        let result = self.write_chunks().await;
        self.gather.clear();
        result
    }

    async fn write_chunks(&mut self) -> Result<(), NetError> {
        let mut rest = self.gather.chunks();
        while !rest.is_empty() {
            let writing = self.send.write_chunks(rest);
            let written = match self.unread_timeout {
                None => writing.await,
                Some(limit) => match tokio::time::timeout(limit, writing).await {
                    Ok(written) => written,
                    Err(_) => return Err(self.give_up(limit)),
                },
            };
            let written = written.map_err(|error| write_failed(&self.peer, error))?;
            rest = &mut rest[written.chunks..];
        }
        Ok(())
    }

    /// What waits to be sent is kept no longer.
    fn give_up(&mut self, limit: Duration) -> NetError {
        // Fails only if it is closed already.
        let _ = self.send.reset(CloseCode::Busy.code());
        NetError::TimedOut { what: "taking any of the answers", limit }
    }
}

pub(crate) fn read_failed(peer: &str, error: ReadError) -> NetError {
    match error {
        ReadError::ConnectionLost(error) => lost(peer, &error),
        other => NetError::StreamCut { reason: format!("{peer}: {other}") },
    }
}

pub(crate) fn write_failed(peer: &str, error: WriteError) -> NetError {
    match error {
        WriteError::ConnectionLost(error) => lost(peer, &error),
        other => NetError::StreamCut { reason: format!("{peer}: {other}") },
    }
}
