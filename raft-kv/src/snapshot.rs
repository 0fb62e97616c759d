//! A checkpoint as a stream of bytes for another node, and as records for a dump.

use std::collections::VecDeque;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use raft_core::SnapshotMeta;
use raft_node::MachineError;
use redb::Range;

use crate::codec::Put;
use crate::command::SessionId;
use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::query::{KeyRecord, Record};
use crate::session::Session;
use crate::state_file::{Head, RECORDS, SESSIONS, StateFile, StateFileError, decode_record};

/// How a stream begins: a magic and the version of the format.
const MAGIC: [u8; 8] = *b"RAFTKVS\x01";

mod tag {
    pub(super) const END: u8 = 0;
    pub(super) const RECORD: u8 = 1;
    pub(super) const SESSION: u8 = 2;
}

/// The most bytes in a session's row: its head and a full window.
const SESSION_BYTES_MAX: usize = 20 + 9 * crate::session::WINDOW_MAX as usize;

/// The records of one checkpoint in the order of their keys. Later checkpoints do not change them.
pub struct SnapshotRecords {
    head: Head,
    path: PathBuf,
    /// Keeps its pages alive by itself.
    rows: Range<'static, &'static [u8], &'static [u8]>,
}

impl std::fmt::Debug for SnapshotRecords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotRecords").field("head", &self.head).finish_non_exhaustive()
    }
}

impl SnapshotRecords {
    pub(crate) fn open(file: &StateFile) -> Result<Option<SnapshotRecords>, StateFileError> {
        let Some((head, view)) = file.view()? else { return Ok(None) };
        let path = file.path().to_path_buf();
        let fault = |error: redb::Error| StateFileError::redb(&path, error);
        let table = view.open_table(RECORDS).map_err(|error| fault(error.into()))?;
        let rows = table.range::<&[u8]>(..).map_err(|error| fault(error.into()))?;
        Ok(Some(SnapshotRecords { head, path, rows }))
    }

    /// What the records include.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.head.meta
    }
}

impl Iterator for SnapshotRecords {
    type Item = Result<KeyRecord, StateFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next()?;
        Some(row.map_err(|error| StateFileError::redb(&self.path, error)).and_then(
            |(key, value)| {
                let record =
                    decode_record(value.value()).map_err(|error| StateFileError::Damaged {
                        path: self.path.clone(),
                        detail: format!("a record: {error}"),
                    })?;
                Ok(KeyRecord { key: key.value().into(), record })
            },
        ))
    }
}

/// A checkpoint as bytes. Two streams of one checkpoint are equal, so that a transfer can resume.
pub(crate) struct SnapshotStream {
    records: Option<SnapshotRecords>,
    sessions: Option<Range<'static, u128, &'static [u8]>>,
    /// Bytes that were made and not yet read.
    ready: VecDeque<u8>,
    records_count: u64,
    sessions_count: u64,
    digest: u128,
}

impl SnapshotStream {
    pub(crate) fn open(
        file: &StateFile,
    ) -> Result<Option<(SnapshotMeta, SnapshotStream)>, StateFileError> {
        let Some((head, view)) = file.view()? else { return Ok(None) };
        let path = file.path().to_path_buf();
        let fault = |error: redb::Error| StateFileError::redb(&path, error);
        let table = view.open_table(RECORDS).map_err(|error| fault(error.into()))?;
        let rows = table.range::<&[u8]>(..).map_err(|error| fault(error.into()))?;
        let table = view.open_table(SESSIONS).map_err(|error| fault(error.into()))?;
        let sessions = table.range::<u128>(..).map_err(|error| fault(error.into()))?;
        let mut ready = Vec::new();
        ready.put(&MAGIC);
        ready.put_bytes(&head.encode());
        let digest = head.digest;
        let meta = head.meta.clone();
        let records = SnapshotRecords { head, path, rows };
        let stream = SnapshotStream {
            records: Some(records),
            sessions: Some(sessions),
            ready: ready.into(),
            records_count: 0,
            sessions_count: 0,
            digest,
        };
        Ok(Some((meta, stream)))
    }

    fn make_more(&mut self) -> std::io::Result<()> {
        let mut out = Vec::new();
        if let Some(records) = &mut self.records {
            match records.next() {
                Some(row) => {
                    let KeyRecord { key, record } = row.map_err(std::io::Error::other)?;
                    out.put_u8(tag::RECORD);
                    out.put_bytes(&key);
                    put_record(&record, &mut out);
                    self.records_count += 1;
                }
                None => self.records = None,
            }
        } else if let Some(sessions) = &mut self.sessions {
            if let Some(row) = sessions.next() {
                let (id, session) = row.map_err(std::io::Error::other)?;
                out.put_u8(tag::SESSION);
                out.put_u128(id.value());
                out.put_bytes(session.value());
                self.sessions_count += 1;
            } else {
                self.sessions = None;
                out.put_u8(tag::END);
                out.put_u64(self.records_count);
                out.put_u64(self.sessions_count);
                out.put_u128(self.digest);
            }
        }
        self.ready.extend(out);
        Ok(())
    }
}

impl Read for SnapshotStream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.ready.len() < buffer.len() && self.sessions.is_some() {
            self.make_more()?;
        }
        self.ready.read(buffer)
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

/// Reads a whole stream. Every length is checked before memory is taken for it.
pub(crate) fn read_stream(data: &mut dyn Read) -> Result<Received, MachineError> {
    let mut source = Source(std::io::BufReader::with_capacity(256 << 10, data));
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

fn malformed(what: &str) -> MachineError {
    MachineError::new(format!(
        "the received snapshot is malformed: {what}; the state was not changed"
    ))
}

struct Source<R>(R);

impl<R: Read> Source<R> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), MachineError> {
        self.0
            .read_exact(buffer)
            .map_err(|error| malformed(&format!("it ends too early ({error})")))
    }

    fn u8(&mut self) -> Result<u8, MachineError> {
        let mut bytes = [0; 1];
        self.fill(&mut bytes)?;
        Ok(bytes[0])
    }

    fn u64(&mut self) -> Result<u64, MachineError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn u128(&mut self) -> Result<u128, MachineError> {
        let mut bytes = [0; 16];
        self.fill(&mut bytes)?;
        Ok(u128::from_le_bytes(bytes))
    }

    fn bytes(&mut self, max: usize) -> Result<Vec<u8>, MachineError> {
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
