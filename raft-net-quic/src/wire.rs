//! The wire format of messages between peers, version 1; `docs/wire-format.md` describes it to the byte. Pure: from messages to
//! bytes and back, nothing of streams or connections.
//!
//! A frame's *head* (rkyv, validated before it is believed) says what the message is. Entries follow as one block that does not
//! depend on the receiver, so that it is encoded once for all: a table (rkyv) of terms, kinds and lengths, then the payloads,
//! one after the other.

mod decode;
mod encode;
mod schema;
#[cfg(test)]
mod tests;

pub use decode::decode;
pub use encode::{Encoder, Frame};

use raft_core::NotARun;

/// Bounds of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireLimits {
    /// The most bytes in a frame.
    pub frame_bytes_max: usize,
}

impl WireLimits {
    /// The most entries in a frame: as many as fit at what the core counts for an empty one. So the memory that decoding
    /// takes is bounded by the frame's limit too.
    pub fn entries_max(&self) -> usize {
        self.frame_bytes_max / raft_core::Entry::OVERHEAD_BYTES
    }
}

/// The most facts in a configuration ([`raft_core::Membership::len`]).
pub const MEMBERS_MAX: usize = 4096;

/// The most commands in one forwarded batch.
pub const FORWARDED_MAX: usize = 64 << 10;

/// Why bytes are not a message, or a message can not become bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The first bytes are not this protocol's.
    #[error("the first bytes are not this protocol's: something else is speaking")]
    NotOurProtocol,
    /// No version of the wire format is known to both sides.
    #[error(
        "the other side speaks versions {} to {} of the wire format, this one {} to {}: upgrade the older",
        .theirs.0, .theirs.1, .ours.0, .ours.1
    )]
    NoCommonVersion {
        /// The other side's lowest and highest.
        theirs: (u8, u8),
        /// This side's lowest and highest.
        ours: (u8, u8),
    },
    /// The hello asks for a role that does not exist.
    #[error("the hello asks for the unknown role {role}")]
    UnknownRole {
        /// What it asks for.
        role: u8,
    },
    /// A peer of version 2 or later does not tell which store it runs on.
    #[error("the hello of a peer does not tell its store")]
    NoStamp,
    /// A stream begins with a class that does not exist.
    #[error("a stream begins with the unknown traffic class {class}")]
    UnknownClass {
        /// What it begins with.
        class: u8,
    },
    /// A message stands in a stream of another class.
    #[error("a message of the class {found:?} stands in a stream of the class {class:?}")]
    WrongClass {
        /// The message's class.
        found: raft_core::TrafficClass,
        /// The stream's class.
        class: raft_core::TrafficClass,
    },
    /// A frame is shorter than it says.
    #[error("the frame ends within its {what}")]
    Truncated {
        /// The part that is cut.
        what: &'static str,
    },
    /// A frame goes on after its end.
    #[error("{bytes} bytes follow the end of the message")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// rkyv's validation refused a part.
    #[error("the {what} is not valid: {reason}")]
    Invalid {
        /// The part.
        what: &'static str,
        /// What the validation says.
        reason: String,
    },
    /// More of something than is allowed.
    #[error("{count} {what}, where at most {max} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// The entries' table contradicts itself.
    #[error("the table of entries contradicts itself: {reason}")]
    Table {
        /// How.
        reason: &'static str,
    },
    /// The entries are no run of a log.
    #[error("the entries are no run of a log: {0}")]
    Entries(#[from] NotARun),
    /// A configuration lists members out of order or twice.
    #[error("a configuration lists its members out of order or twice")]
    Membership,
}
