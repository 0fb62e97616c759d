//! What drivers send each other: the core's messages, and snapshot data.

use bytes::Bytes;
use raft_core::{LogPosition, Message, Term, TrafficClass};

/// What one driver sends another. A transport carries it whole or not at all, and does not look inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    /// A message of the protocol.
    Raft(Message),
    /// A part of a snapshot stream.
    Snapshot(SnapshotFrame),
}

impl PeerMessage {
    /// The class of traffic that it belongs to.
    pub fn class(&self) -> TrafficClass {
        match self {
            PeerMessage::Raft(message) => message.class(),
            PeerMessage::Snapshot(_) => TrafficClass::Bulk,
        }
    }
}

/// A part of a snapshot stream between two drivers. A stream is named by the sender's term and the snapshot's position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFrame {
    /// The streaming leader's term.
    pub term: Term,
    /// Which snapshot.
    pub position: LogPosition,
    /// What the frame says.
    pub chunk: SnapshotChunk,
}

/// What a [`SnapshotFrame`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotChunk {
    /// Sender: these bytes stand at `offset`.
    Data {
        /// Where they belong.
        offset: u64,
        /// The bytes; at most [`SnapshotChunk::DATA_BYTES_MAX`]. None at all is a question: the receiver answers where to start.
        data: Bytes,
        /// xxh3-64 of `data`, checked before it is written.
        checksum: u64,
    },
    /// Sender: that was all.
    End {
        /// The size of the whole.
        size_bytes: u64,
        /// BLAKE3 of the whole, checked before it is installed.
        digest: [u8; 32],
    },
    /// Receiver: everything before `offset` is here; go on there. Also opens the window, and says where to resume.
    Ack {
        /// The next byte wanted; [`SnapshotChunk::ACK_COMPLETE`] once the whole is verified.
        offset: u64,
    },
    /// Either side: the stream can not go on.
    Abort,
}

impl SnapshotChunk {
    /// The most bytes of data in one frame.
    pub const DATA_BYTES_MAX: usize = 256 << 10;

    /// The offset of the last acknowledgement of all: the whole has arrived, and its digest fits.
    pub const ACK_COMPLETE: u64 = u64::MAX;
}
