//! The form in which a checkpoint travels to another node: a head, the records in the order of their keys, the sessions, an end.
//! Described to the byte in `docs/kv-format.md`. Where the rows come from is not its business.

use std::io::Read;
use std::sync::Arc;

use raft_core::{Index, LogPosition, Membership, NodeId, SnapshotMeta, StoreId, Term};

use crate::codec::{Malformed, Put, Reader};
use crate::command::SessionId;
use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::mutants::mutated;
use crate::query::Record;
use crate::session::Session;
use crate::state::State;

/// How a stream begins: a magic and the version of the format.
const MAGIC: [u8; 8] = *b"RAFTKVS\x01";

mod tag {
    pub(super) const END: u8 = 0;
    pub(super) const RECORD: u8 = 1;
    pub(super) const SESSION: u8 = 2;
}

/// The most bytes in a session's row: its head and a full window.
const SESSION_BYTES_MAX: usize = 20 + 9 * crate::session::WINDOW_MAX as usize;

/// What a checkpoint says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) meta: SnapshotMeta,
    pub(crate) revision: u64,
    pub(crate) digest: u128,
}

impl Head {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u64(self.meta.position.index.0);
        out.put_u64(self.meta.position.term.0);
        out.put_u64(self.revision);
        out.put_u128(self.digest);
        let Membership { voters, outgoing, learners, witnesses, stores } = &*self.meta.membership;
        for nodes in [voters, outgoing, learners, witnesses] {
            out.put_u32(nodes.len() as u32);
            for node in nodes {
                out.put_u64(node.0);
            }
        }
        out.put_u32(stores.len() as u32);
        for (node, store) in stores {
            out.put_u64(node.0);
            out.put_u64(store.0);
        }
        out
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Head, Malformed> {
        let mut reader = Reader::new(row);
        let index = Index(reader.u64("a position")?);
        let term = Term(reader.u64("a position")?);
        let revision = reader.u64("a revision")?;
        let digest = reader.u128("a digest")?;
        let mut nodes = || -> Result<_, Malformed> {
            let count = reader.u32("a configuration")?;
            (0..count).map(|_| reader.u64("a configuration").map(NodeId)).collect()
        };
        let (voters, outgoing, learners, witnesses) = (nodes()?, nodes()?, nodes()?, nodes()?);
        let count = reader.u32("a configuration")?;
        let mut store = || -> Result<_, Malformed> {
            let node = NodeId(reader.u64("a configuration")?);
            Ok((node, StoreId(reader.u64("a configuration")?)))
        };
        let stores = (0..count).map(|_| store()).collect::<Result<_, _>>()?;
        let membership = Membership { voters, outgoing, learners, witnesses, stores };
        reader.finish()?;
        Ok(Head {
            meta: SnapshotMeta {
                position: LogPosition { index, term },
                membership: membership.into(),
            },
            revision,
            digest,
        })
    }
}

/// Why a stream is not a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the received snapshot is malformed: {0}; the state was not changed")]
pub struct StreamError(String);

/// Makes a stream, piece by piece.
pub(crate) struct StreamWriter {
    records: u64,
    sessions: u64,
    digest: u128,
}

impl StreamWriter {
    pub(crate) fn begin(head: &Head, out: &mut Vec<u8>) -> StreamWriter {
        out.put(&MAGIC);
        out.put_bytes(&head.encode());
        StreamWriter { records: 0, sessions: 0, digest: head.digest }
    }

    /// The next record, in the order of the keys.
    pub(crate) fn put_record(&mut self, key: &[u8], record: &Record, out: &mut Vec<u8>) {
        out.put_u8(tag::RECORD);
        out.put_bytes(key);
        put_record(record, out);
        self.records += 1;
    }

    /// The next session, after all records.
    pub(crate) fn put_session(&mut self, id: SessionId, session: &[u8], out: &mut Vec<u8>) {
        if mutated!(SessionsMissingInSnapshot) {
            return;
        }
        out.put_u8(tag::SESSION);
        out.put_u128(id.0);
        out.put_bytes(session);
        self.sessions += 1;
    }

    pub(crate) fn finish(&self, out: &mut Vec<u8>) {
        out.put_u8(tag::END);
        out.put_u64(self.records);
        out.put_u64(self.sessions);
        out.put_u128(self.digest);
    }
}

fn put_record(record: &Record, out: &mut Vec<u8>) {
    out.put_u64(record.create_revision);
    out.put_u64(record.mod_revision);
    out.put_u64(record.version);
    out.put_bytes(&record.value);
}

/// The content of a stream, checked.
pub(crate) struct Received {
    pub(crate) head: Head,
    pub(crate) records: Vec<(Arc<[u8]>, Record)>,
    pub(crate) sessions: Vec<(SessionId, Session)>,
}

impl Received {
    /// The state that arrived, if it is the one of `meta`. Its digest is calculated, not believed.
    pub(crate) fn into_state(self, meta: &SnapshotMeta) -> Result<State, StreamError> {
        let Received { head, records, sessions } = self;
        if head.meta != *meta {
            let (found, wanted) = (head.meta.position, meta.position);
            return Err(malformed(&format!("it is of position {found}, not of {wanted}")));
        }
        let state = State::restore(records, sessions, head.revision);
        if state.digest != head.digest {
            return Err(malformed("it does not have the digest that it names"));
        }
        Ok(state)
    }
}

/// Reads a whole stream, byte by byte if need be. Every length is checked before memory is taken for it.
pub(crate) fn read_stream(data: impl Read) -> Result<Received, StreamError> {
    let mut source = Source(data);
    let mut magic = [0; 8];
    source.fill(&mut magic)?;
    if magic != MAGIC {
        return Err(malformed("it does not begin as a snapshot of this format version does"));
    }
    let head = source.bytes(1 << 20)?;
    let head = Head::decode(&head).map_err(|error| malformed(&format!("its head: {error}")))?;
    let mut received = Received { head, records: Vec::new(), sessions: Vec::new() };
    loop {
        match source.u8()? {
            tag::RECORD => {
                let key: Arc<[u8]> = source.bytes(KEY_BYTES_MAX)?.into();
                if received.records.last().is_some_and(|(last, _)| *last >= key) {
                    return Err(malformed("its keys are not in order"));
                }
                let (create_revision, mod_revision, version) =
                    (source.u64()?, source.u64()?, source.u64()?);
                let value = source.bytes(VALUE_BYTES_MAX)?.into();
                received
                    .records
                    .push((key, Record { value, create_revision, mod_revision, version }));
            }
            tag::SESSION => {
                let id = SessionId(source.u128()?);
                let session = source.bytes(SESSION_BYTES_MAX)?;
                let session = Session::decode(&session)
                    .map_err(|error| malformed(&format!("a session: {error}")))?;
                received.sessions.push((id, session));
            }
            tag::END => {
                let counts = (source.u64()?, source.u64()?);
                let digest = source.u128()?;
                let found = (received.records.len() as u64, received.sessions.len() as u64);
                if counts != found || digest != received.head.digest {
                    return Err(malformed("its end does not fit its content"));
                }
                return Ok(received);
            }
            _ => return Err(malformed("it holds something of an unknown kind")),
        }
    }
}

fn malformed(what: &str) -> StreamError {
    StreamError(what.to_owned())
}

struct Source<R>(R);

impl<R: Read> Source<R> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), StreamError> {
        self.0
            .read_exact(buffer)
            .map_err(|error| malformed(&format!("it ends too early ({error})")))
    }

    fn u8(&mut self) -> Result<u8, StreamError> {
        let mut bytes = [0; 1];
        self.fill(&mut bytes)?;
        Ok(bytes[0])
    }

    fn u64(&mut self) -> Result<u64, StreamError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn u128(&mut self) -> Result<u128, StreamError> {
        let mut bytes = [0; 16];
        self.fill(&mut bytes)?;
        Ok(u128::from_le_bytes(bytes))
    }

    fn bytes(&mut self, max: usize) -> Result<Vec<u8>, StreamError> {
        let mut length = [0; 4];
        self.fill(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > max {
            return Err(malformed(&format!(
                "a field has {length} bytes, more than the {max} allowed"
            )));
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}
