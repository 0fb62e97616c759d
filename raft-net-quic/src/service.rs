//! Streams of frames for services: what a client opens and a node accepts. Requests are pipelined; what they mean is the service's
//! affair.

use bytes::Bytes;
use quinn::{ReadError, RecvStream, SendStream, WriteError};

use crate::error::{NetError, lost};
use crate::framing::{Assembler, Gather};
use crate::identity::PeerIdentity;

/// A bidirectional stream of frames with an authenticated other side.
#[derive(Debug)]
pub struct ServiceStream {
    /// Who is on the other side, by its certificate.
    pub peer: PeerIdentity,
    reader: FrameReader,
    writer: FrameWriter,
}

impl ServiceStream {
    pub(crate) fn new(
        peer: PeerIdentity,
        send: SendStream,
        recv: RecvStream,
        frame_bytes_max: usize,
    ) -> ServiceStream {
        let name = peer.to_string();
        ServiceStream {
            reader: FrameReader::new(recv, frame_bytes_max, name.clone()),
            writer: FrameWriter { send, gather: Gather::new(), frame_bytes_max, peer: name },
            peer,
        }
    }

    /// The two directions, to be used from two tasks.
    pub fn split(self) -> (FrameReader, FrameWriter) {
        (self.reader, self.writer)
    }
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
}

impl FrameReader {
    pub(crate) fn new(recv: RecvStream, frame_bytes_max: usize, peer: String) -> FrameReader {
        FrameReader {
            recv,
            assembler: Assembler::new(frame_bytes_max),
            pieces: Box::new([const { Bytes::new() }; PIECES]),
            peer,
        }
    }

    /// The next frame; `None` once the other side has finished. Cancel safe: dropping the future loses nothing.
    ///
    /// # Errors
    /// [`NetError::FrameTooLarge`] for a frame beyond the limit, [`NetError::StreamCut`] if the stream ends within one, others if
    /// the connection is lost. After an error nothing more can be read.
    pub async fn next(&mut self) -> Result<Option<Bytes>, NetError> {
        loop {
            if let Some(frame) = self.assembler.pop()? {
                return Ok(Some(frame));
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
        while let Ok(Some(frame)) = self.assembler.pop() {
            frames.push(frame);
        }
        Ok(true)
    }

    /// Receives what is there, waiting for something. `false` at the end of the stream.
    async fn receive(&mut self) -> Result<bool, NetError> {
        let count = match self.recv.read_chunks(&mut self.pieces[..]).await {
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
            self.assembler.push(std::mem::take(piece));
        }
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
}

impl FrameWriter {
    /// Sends one frame. Waits while the other side takes nothing more.
    ///
    /// # Errors
    /// [`NetError::FrameTooLarge`] before anything is sent; others if the stream or the connection is lost.
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
    /// If the stream is closed already, or the connection is lost.
    pub async fn finish_and_wait(&mut self) -> Result<(), NetError> {
        self.finish()?;
        match self.send.stopped().await {
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
        let result = self.send.write_all_chunks(self.gather.chunks()).await;
        self.gather.clear();
        result.map_err(|error| write_failed(&self.peer, error))
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
