//! A checkpoint as a stream of bytes for another node.

use std::collections::VecDeque;
use std::io::Read;
use std::path::PathBuf;

use raft_core::SnapshotMeta;
use redb::Range;

use crate::command::SessionId;
use crate::query::KeyRecord;
use crate::state_file::{RECORDS, SESSIONS, StateFile, StateFileError, decode_record};
use crate::stream::StreamWriter;

/// The records of one checkpoint in the order of their keys. Later checkpoints do not change them.
struct SnapshotRecords {
    path: PathBuf,
    /// Keeps its pages alive by itself.
    rows: Range<'static, &'static [u8], &'static [u8]>,
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
    writer: StreamWriter,
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
        let writer = StreamWriter::begin(&head, &mut ready);
        let meta = head.meta.clone();
        let records = SnapshotRecords { path, rows };
        let stream = SnapshotStream {
            records: Some(records),
            sessions: Some(sessions),
            ready: ready.into(),
            writer,
        };
        Ok(Some((meta, stream)))
    }

    fn make_more(&mut self) -> std::io::Result<()> {
        let mut out = Vec::new();
        if let Some(records) = &mut self.records {
            match records.next() {
                Some(row) => {
                    let KeyRecord { key, record } = row.map_err(std::io::Error::other)?;
                    self.writer.put_record(&key, &record, &mut out);
                }
                None => self.records = None,
            }
        } else if let Some(sessions) = &mut self.sessions {
            if let Some(row) = sessions.next() {
                let (id, session) = row.map_err(std::io::Error::other)?;
                self.writer.put_session(SessionId(id.value()), session.value(), &mut out);
            } else {
                self.sessions = None;
                self.writer.finish(&mut out);
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
