//! Commands, which go through the log, and what they return. Their encoding is described to the byte in `docs/kv-format.md`
//! in the project's repository.

use bytes::Bytes;

use crate::codec::{Malformed, Put, Reader};
use crate::limits::{LimitExceeded, check_key, check_value};

/// The version of the command encoding, its first byte.
const VERSION: u8 = 1;

/// A client's session: random, so that no two clients have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u128);

/// What a client asks the log to do. Borrows its bytes, so that reading one copies nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Opens a session. Done before its first write, so that a write of a session that was forgotten is never taken for a new one.
    OpenSession {
        /// The session.
        session: SessionId,
    },
    /// A numbered write, applied once however often it is sent (dissertation §6.3).
    Write {
        /// The session.
        session: SessionId,
        /// The write's number in the session, from 0.
        sequence: u64,
        /// The client will not ask again about lower numbers: their outcomes may be forgotten.
        acked_below: u64,
        /// What to write.
        write: Write<'a>,
    },
}

/// A change of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write<'a> {
    /// Sets a key.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Sets or removes a key if it is as expected.
    CompareAndSet {
        /// The key.
        key: &'a [u8],
        /// What it must be.
        expect: Expect<'a>,
        /// Its new value; `None` removes it.
        value: Option<&'a [u8]>,
    },
}

/// What a compare-and-set demands of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect<'a> {
    /// There is no such key.
    Absent,
    /// It has exactly this value.
    Value(&'a [u8]),
    /// It was last modified at this revision.
    ModRevision(u64),
}

/// What a command returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// The session is open.
    SessionOpened,
    /// The write was applied, now or when it was first sent.
    Written(WriteOutcome),
    /// The session is not known (any more): whether an earlier try was applied can not be told.
    SessionExpired,
    /// The write is too far ahead of what the client acknowledged.
    WindowExceeded,
    /// The write breaks a limit. Nothing was changed.
    Refused(LimitExceeded),
    /// The command could not be read. Nothing was changed.
    Malformed,
}

/// What a write did. Small and of a fixed size: it is kept until the client has acknowledged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The key has the new value since this revision.
    Put {
        /// The revision.
        revision: u64,
    },
    /// The key is gone since this revision.
    Deleted {
        /// The revision.
        revision: u64,
    },
    /// There was nothing to delete.
    NotFound,
    /// The key is not as expected.
    CompareFailed {
        /// When it was last modified; `None` if it does not exist.
        mod_revision: Option<u64>,
    },
}

impl<'a> Write<'a> {
    /// The key that it changes.
    pub fn key(&self) -> &'a [u8] {
        match *self {
            Write::Put { key, .. } | Write::Delete { key } | Write::CompareAndSet { key, .. } => {
                key
            }
        }
    }

    /// Checks the limits.
    ///
    /// # Errors
    /// The first limit that is broken.
    pub fn check(&self) -> Result<(), LimitExceeded> {
        check_key(self.key())?;
        match *self {
            Write::Put { value, .. } => check_value(value),
            Write::Delete { .. } => Ok(()),
            Write::CompareAndSet { expect, value, .. } => {
                if let Expect::Value(expected) = expect {
                    check_value(expected)?;
                }
                value.map_or(Ok(()), check_value)
            }
        }
    }
}

mod tag {
    pub(super) const OPEN_SESSION: u8 = 1;
    pub(super) const PUT: u8 = 2;
    pub(super) const DELETE: u8 = 3;
    pub(super) const COMPARE_AND_SET: u8 = 4;
    pub(super) const EXPECT_ABSENT: u8 = 0;
    pub(super) const EXPECT_VALUE: u8 = 1;
    pub(super) const EXPECT_REVISION: u8 = 2;
}

impl<'a> Command<'a> {
    /// The command's bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(64 + self.payload_bytes());
        self.encode_into(&mut out);
        out.into()
    }

    fn payload_bytes(&self) -> usize {
        match self {
            Command::OpenSession { .. } => 0,
            Command::Write { write, .. } => match write {
                Write::Put { key, value } => key.len() + value.len(),
                Write::Delete { key } => key.len(),
                Write::CompareAndSet { key, expect, value } => {
                    let expected = if let Expect::Value(bytes) = expect { bytes.len() } else { 8 };
                    key.len() + expected + value.map_or(0, <[u8]>::len)
                }
            },
        }
    }

    /// Appends the command's bytes.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        let (session, sequence, acked_below, write) = match self {
            Command::OpenSession { session } => {
                out.put_u8(tag::OPEN_SESSION);
                out.put_u128(session.0);
                return;
            }
            Command::Write { session, sequence, acked_below, write } => {
                (session, sequence, acked_below, write)
            }
        };
        out.put_u8(match write {
            Write::Put { .. } => tag::PUT,
            Write::Delete { .. } => tag::DELETE,
            Write::CompareAndSet { .. } => tag::COMPARE_AND_SET,
        });
        out.put_u128(session.0);
        out.put_u64(*sequence);
        out.put_u64(*acked_below);
        out.put_bytes(write.key());
        match *write {
            Write::Put { value, .. } => out.put_bytes(value),
            Write::Delete { .. } => {}
            Write::CompareAndSet { expect, value, .. } => {
                match expect {
                    Expect::Absent => out.put_u8(tag::EXPECT_ABSENT),
                    Expect::Value(expected) => {
                        out.put_u8(tag::EXPECT_VALUE);
                        out.put_bytes(expected);
                    }
                    Expect::ModRevision(revision) => {
                        out.put_u8(tag::EXPECT_REVISION);
                        out.put_u64(revision);
                    }
                }
                out.put_u8(u8::from(value.is_some()));
                if let Some(value) = value {
                    out.put_bytes(value);
                }
            }
        }
    }

    /// Reads a command. Limits are not checked here: see [`Write::check`].
    ///
    /// # Errors
    /// If the bytes are not a command of a known version.
    pub fn decode(bytes: &'a [u8]) -> Result<Command<'a>, Malformed> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8("a command")?;
        if version != VERSION {
            return Err(Malformed::UnknownVersion { found: version, known: VERSION });
        }
        let kind = reader.u8("a command")?;
        let session = SessionId(reader.u128("a session")?);
        if kind == tag::OPEN_SESSION {
            reader.finish()?;
            return Ok(Command::OpenSession { session });
        }
        let sequence = reader.u64("a sequence number")?;
        let acked_below = reader.u64("an acknowledgement")?;
        let key = reader.bytes("a key")?;
        let write = match kind {
            tag::PUT => Write::Put { key, value: reader.bytes("a value")? },
            tag::DELETE => Write::Delete { key },
            tag::COMPARE_AND_SET => {
                let expect = match reader.u8("an expectation")? {
                    tag::EXPECT_ABSENT => Expect::Absent,
                    tag::EXPECT_VALUE => Expect::Value(reader.bytes("an expected value")?),
                    tag::EXPECT_REVISION => Expect::ModRevision(reader.u64("a revision")?),
                    tag => return Err(Malformed::UnknownTag { what: "expectation", tag }),
                };
                let value = match reader.u8("a new value")? {
                    0 => None,
                    1 => Some(reader.bytes("a new value")?),
                    tag => return Err(Malformed::UnknownTag { what: "new value", tag }),
                };
                Write::CompareAndSet { key, expect, value }
            }
            tag => return Err(Malformed::UnknownTag { what: "command", tag }),
        };
        reader.finish()?;
        Ok(Command::Write { session, sequence, acked_below, write })
    }
}

impl WriteOutcome {
    /// A tag and a revision.
    pub(crate) const ENCODED_BYTES: usize = 9;

    pub(crate) fn put_to(self, out: &mut Vec<u8>) {
        let (tag, revision) = match self {
            WriteOutcome::Put { revision } => (1, revision),
            WriteOutcome::Deleted { revision } => (2, revision),
            WriteOutcome::NotFound => (3, 0),
            WriteOutcome::CompareFailed { mod_revision: None } => (4, 0),
            WriteOutcome::CompareFailed { mod_revision: Some(revision) } => (5, revision),
        };
        let mut bytes = [tag; WriteOutcome::ENCODED_BYTES];
        bytes[1..].copy_from_slice(&revision.to_le_bytes());
        out.put(&bytes);
    }

    pub(crate) fn read_from(reader: &mut Reader<'_>) -> Result<WriteOutcome, Malformed> {
        let tag = reader.u8("an outcome")?;
        let revision = reader.u64("an outcome")?;
        Ok(match tag {
            1 => WriteOutcome::Put { revision },
            2 => WriteOutcome::Deleted { revision },
            3 => WriteOutcome::NotFound,
            4 => WriteOutcome::CompareFailed { mod_revision: None },
            5 => WriteOutcome::CompareFailed { mod_revision: Some(revision) },
            tag => return Err(Malformed::UnknownTag { what: "outcome", tag }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_command_reads_back(
            session: u128, sequence: u64, acked_below: u64, kind in 0u8..6,
            key in proptest::collection::vec(any::<u8>(), 0..20),
            value in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let session = SessionId(session);
            let (key, value) = (&key[..], &value[..]);
            let write = match kind {
                0 => Write::Put { key, value },
                1 => Write::Delete { key },
                2 => Write::CompareAndSet { key, expect: Expect::Absent, value: Some(value) },
                3 => Write::CompareAndSet { key, expect: Expect::Value(value), value: None },
                _ => Write::CompareAndSet { key, expect: Expect::ModRevision(acked_below), value: Some(value) },
            };
            let command = if kind == 5 {
                Command::OpenSession { session }
            } else {
                Command::Write { session, sequence, acked_below, write }
            };
            let bytes = command.encode();
            prop_assert_eq!(Command::decode(&bytes), Ok(command));
            for cut in 0..bytes.len() {
                prop_assert!(Command::decode(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Command::decode(&bytes);
        }
    }
}
