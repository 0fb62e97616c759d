//! Cuts a stream of bytes into length-prefixed frames. Knows nothing of what is in them, nor of QUIC.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::NetError;

/// The length before each frame: 4 bytes, little-endian, of the bytes that follow.
pub(crate) const PREFIX_BYTES: usize = 4;

/// Frames smaller than this get memory of their own. A slice of a received buffer keeps the whole buffer (up to 64 KiB) alive, and
/// frames may be kept for long (entries in the log's tail): copying the small ones bounds that waste to a few times their size.
const COPY_BELOW: usize = 16 << 10;

/// Collects received pieces and gives out whole frames.
///
/// What is left over when no whole frame is here is copied together: a piece keeps the whole datagram that it came in alive, which may be a
/// thousand times its size. So what an unfinished frame takes is at most twice of what has arrived of it, whatever it claims to become.
#[derive(Debug)]
pub(crate) struct Assembler {
    /// The beginning of the frame that comes next; of what has arrived, the first.
    begun: Vec<u8>,
    pieces: VecDeque<Bytes>,
    /// In the pieces.
    bytes: usize,
    frame_bytes_max: usize,
    /// The length of the frame that comes next, once its prefix is here.
    next: Option<usize>,
}

impl Assembler {
    pub(crate) fn new(frame_bytes_max: usize) -> Assembler {
        let (begun, pieces) = (Vec::new(), VecDeque::new());
        Assembler { begun, pieces, bytes: 0, frame_bytes_max, next: None }
    }

    /// Adds what was received.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Whether the stream may end here: nothing is left over.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0 && self.begun.is_empty() && self.next.is_none()
    }

    /// What the memory of an unfinished frame is at most, in bytes.
    #[cfg(test)]
    fn kept_bytes(&self) -> usize {
        self.begun.capacity() + self.bytes
    }

    /// The next whole frame, if it is here. Allocates no more than has arrived, rounded up to a power of two. After an error there is nothing
    /// but that error.
    pub(crate) fn pop(&mut self) -> Result<Option<Bytes>, NetError> {
        let length = match self.next {
            Some(length) => length,
            None if self.begun.len() + self.bytes < PREFIX_BYTES => {
                self.set_aside();
                return Ok(None);
            }
            None => {
                let mut prefix = [0; PREFIX_BYTES];
                let begun = std::mem::take(&mut self.begun);
                prefix[..begun.len()].copy_from_slice(&begun);
                self.copy_out(&mut prefix[begun.len()..]);
                *self.next.insert(u32::from_le_bytes(prefix) as usize)
            }
        };
        if length > self.frame_bytes_max {
            return Err(NetError::FrameTooLarge { bytes: length, max: self.frame_bytes_max });
        }
        if self.begun.len() + self.bytes < length {
            self.set_aside();
            return Ok(None);
        }
        self.next = None;
        Ok(Some(self.take(length)))
    }

    /// Copies the pieces to what has begun. The bytes are at most a frame's, or less than a prefix's.
    fn set_aside(&mut self) {
        let length = self.next.unwrap_or(PREFIX_BYTES);
        let needed = self.begun.len() + self.bytes;
        if needed > self.begun.capacity() {
            let capacity = needed.checked_next_power_of_two().unwrap_or(needed).min(length);
            self.begun.reserve_exact(capacity.max(needed) - self.begun.len());
        }
        for piece in self.pieces.drain(..) {
            self.begun.extend_from_slice(&piece);
        }
        self.bytes = 0;
    }

    fn take(&mut self, length: usize) -> Bytes {
        if !self.begun.is_empty() {
            let begun = self.begun.len();
            let mut frame = std::mem::take(&mut self.begun);
            frame.reserve_exact(length - begun);
            frame.resize(length, 0);
            self.copy_out(&mut frame[begun..]);
            return Bytes::from(frame);
        }
        if length >= COPY_BELOW && self.pieces.front().is_some_and(|piece| piece.len() >= length) {
            let piece = &mut self.pieces[0];
            let frame = piece.split_to(length);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
            self.bytes -= length;
            return frame;
        }
        let mut frame = vec![0; length];
        self.copy_out(&mut frame);
        Bytes::from(frame)
    }

    /// Fills `target`; the bytes are known to be here.
    fn copy_out(&mut self, mut target: &mut [u8]) {
        self.bytes -= target.len();
        while !target.is_empty() {
            let Some(piece) = self.pieces.front_mut() else { return };
            let count = piece.len().min(target.len());
            let (now, later) = target.split_at_mut(count);
            now.copy_from_slice(&piece[..count]);
            piece.advance(count);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
            target = later;
        }
    }
}

/// Gathers frames for one write: small parts are copied together (cheaper than a chunk each), large ones are passed on as they are.
#[derive(Debug)]
pub(crate) struct Gather {
    small: BytesMut,
    chunks: Vec<Bytes>,
}

/// From this size on, a part is passed on instead of copied.
const SHARE_FROM: usize = 2 << 10;

impl Gather {
    pub(crate) fn new() -> Gather {
        Gather { small: BytesMut::new(), chunks: Vec::new() }
    }

    /// Adds the prefix of a frame of `length` bytes, whose parts follow.
    pub(crate) fn prefix(&mut self, length: u32) {
        self.small.put_u32_le(length);
    }

    /// Adds a part.
    pub(crate) fn part(&mut self, part: Bytes) {
        if part.len() < SHARE_FROM {
            self.small.extend_from_slice(&part);
        } else {
            self.seal();
            self.chunks.push(part);
        }
    }

    /// Everything added since the last call of [`Gather::clear`], in order.
    pub(crate) fn chunks(&mut self) -> &mut [Bytes] {
        self.seal();
        &mut self.chunks
    }

    /// Forgets the chunks; their memory is kept for the next batch.
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.small.clear();
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.chunks.push(self.small.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_the_stream_is_cut(
            sizes in prop::collection::vec(0_usize..40_000, 1..6),
            cuts in prop::collection::vec(1_usize..30_000, 1..8),
        ) {
            let frames: Vec<Bytes> = sizes
                .iter()
                .map(|size| (0..*size).map(|i| (i % 251) as u8).collect::<Vec<_>>().into())
                .collect();
            let mut gather = Gather::new();
            for frame in &frames {
                gather.prefix(u32::try_from(frame.len()).unwrap());
                gather.part(frame.clone());
            }
            let mut stream = Bytes::from(gather.chunks().concat());
            let mut assembler = Assembler::new(40_000);
            let mut out = Vec::new();
            for cut in cuts.iter().cycle() {
                while let Some(frame) = assembler.pop().unwrap() {
                    out.push(frame);
                }
                if stream.is_empty() {
                    break;
                }
                assembler.push(stream.split_to((*cut).min(stream.len())));
            }
            prop_assert!(assembler.is_empty());
            prop_assert_eq!(out, frames);
        }
    }

    #[test]
    fn an_oversize_frame_is_refused_by_its_prefix_alone_and_nothing_after_it_is_read() {
        let mut assembler = Assembler::new(100);
        assembler.push(Bytes::from_static(&[101, 0, 0, 0, 1, 0, 0, 0, 7]));
        for _ in 0..2 {
            let popped = assembler.pop();
            assert!(matches!(popped, Err(NetError::FrameTooLarge { bytes: 101, max: 100 })));
        }
    }

    /// A frame that claims 4 GiB where that is allowed, and one that dribbles in: memory follows what has arrived.
    #[test]
    fn an_unfinished_frame_takes_twice_of_what_has_arrived_at_most() {
        let mut assembler = Assembler::new(usize::MAX);
        assembler.push(Bytes::from_static(&[0xff; PREFIX_BYTES]));
        assert!(assembler.pop().unwrap().is_none());
        assert_eq!(assembler.kept_bytes(), 0, "nothing of it is here");
        for arrived in 1..10_000 {
            // One byte, in a datagram of many.
            let datagram = Bytes::from(vec![arrived as u8; 1_500]);
            assembler.push(datagram.slice(7..8));
            assert!(assembler.pop().unwrap().is_none());
            assert!(assembler.kept_bytes() <= 2 * arrived, "{arrived}");
            assert!(assembler.pieces.is_empty());
        }
    }
}
