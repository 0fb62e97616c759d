//! The journal's header and its records, byte by byte: `docs/log-format.md` describes the same.

use std::io;

use raft_core::NodeId;
use redb::StorageBackend;
use xxhash_rust::xxh3::xxh3_64;

use super::BLOCK_BYTES;

/// The version of the journal and of the stamps. A change to any of them raises it.
pub(crate) const JOURNAL_VERSION: u16 = 3;
/// Without notes in its records; version 2 is without writes of the log; otherwise the same.
const JOURNAL_VERSION_FIRST: u16 = 1;
const JOURNAL_MAGIC: [u8; 8] = *b"RAFTJRN\n";
const RECORD_MAGIC: [u8; 8] = *b"RAFTREC\n";
const OWNER_BYTES: usize = 66;
/// What a record has before its changes.
pub(crate) const RECORD_HEADER_BYTES: usize = 64;
const CHANGE_HEADER_BYTES: usize = 16;
/// In place of how many bytes follow: the change is one of the file's length.
const IS_LENGTH: u32 = u32::MAX;
/// The same: what follows is no change but a note.
const IS_NOTE: u32 = u32::MAX - 1;
/// The same: what follows is a write of the log.
const IS_LOG_WRITE: u32 = u32::MAX - 2;
/// The same: from which record on the pages may be needed.
const IS_PAGES: u32 = u32::MAX - 3;
/// No change that is written down is larger: it must fit a record.
const CHANGE_BYTES_MAX: usize = 1 << 30;
/// No file is larger.
const FILE_BYTES_MAX: u64 = 1 << 62;
/// A journal is at least this large: its header and room for a few records.
pub(crate) const JOURNAL_BYTES_MIN: u64 = 16 * BLOCK_BYTES as u64;
/// And at most this large, since all of it is read at the start.
pub(crate) const JOURNAL_BYTES_MAX: u64 = 1 << 30;

/// Whose journal it is, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) cluster: [u8; 16],
    pub(crate) node: NodeId,
    /// Random: another journal, even of the same log, has another.
    pub(crate) journal: [u8; 16],
    /// How large the whole journal is.
    pub(crate) bytes: u64,
}

/// Why the beginning of a journal is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnerFault {
    Magic,
    Version(u16),
    Damaged,
}

fn le<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

impl Owner {
    fn encode(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(BLOCK_BYTES);
        header.extend_from_slice(&JOURNAL_MAGIC);
        header.extend_from_slice(&JOURNAL_VERSION.to_le_bytes());
        header.extend_from_slice(&self.cluster);
        header.extend_from_slice(&self.node.0.to_le_bytes());
        header.extend_from_slice(&self.journal);
        header.extend_from_slice(&self.bytes.to_le_bytes());
        let checksum = xxh3_64(&header);
        header.extend_from_slice(&checksum.to_le_bytes());
        header.resize(BLOCK_BYTES, 0);
        header
    }

    /// The version is looked at before the checksum: of a later version only the first ten bytes are known.
    pub(crate) fn decode(header: &[u8]) -> Result<Owner, OwnerFault> {
        if le(header, 0) != Some(JOURNAL_MAGIC) {
            return Err(OwnerFault::Magic);
        }
        let version = le(header, 8).map(u16::from_le_bytes).ok_or(OwnerFault::Damaged)?;
        if !(JOURNAL_VERSION_FIRST..=JOURNAL_VERSION).contains(&version) {
            return Err(OwnerFault::Version(version));
        }
        let decoded = || {
            let body = header.get(..OWNER_BYTES - 8)?;
            (xxh3_64(body) == u64::from_le_bytes(le(header, OWNER_BYTES - 8)?)).then_some(())?;
            Some(Owner {
                cluster: le(header, 10)?,
                node: NodeId(u64::from_le_bytes(le(header, 26)?)),
                journal: le(header, 34)?,
                bytes: u64::from_le_bytes(le(header, 50)?),
            })
        };
        decoded().ok_or(OwnerFault::Damaged)
    }
}

/// Writes an empty journal over the whole length, and syncs it. Every block is written, so that no later write allocates.
pub(crate) fn format_journal(journal: &impl StorageBackend, owner: &Owner) -> io::Result<()> {
    journal.set_len(owner.bytes)?;
    let zeros = vec![0; 64 * BLOCK_BYTES];
    let mut filled = 0;
    while filled < owner.bytes {
        let step = zeros.len().min((owner.bytes - filled) as usize);
        journal.write(filled, &zeros[..step])?;
        filled += step as u64;
    }
    journal.write(0, &owner.encode())?;
    let mut first = Record::default();
    first.seal(&owner.journal, 1, 2);
    journal.write(BLOCK_BYTES as u64, &first.bytes)?;
    journal.sync_data()
}

/// A record under construction: what was written to the file since the last one.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) bytes: Vec<u8>,
}

impl Default for Record {
    fn default() -> Record {
        Record { bytes: vec![0; RECORD_HEADER_BYTES] }
    }
}

impl Record {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() == RECORD_HEADER_BYTES
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.truncate(RECORD_HEADER_BYTES);
    }

    /// Pages often end in zeros; those are not written down.
    pub(crate) fn push_write(&mut self, offset: u64, data: &[u8]) {
        // Without an exit in the middle of a chunk, so that it is looked at in wide steps.
        let is_zero = |chunk: &&[u8]| chunk.iter().fold(0, |seen, byte| seen | byte) == 0;
        let zeros = data.rchunks(32).take_while(is_zero);
        let stored = data.len() - zeros.map(<[u8]>::len).sum::<usize>();
        self.push_header(offset, data.len() as u32, stored as u32);
        self.bytes.extend_from_slice(&data[..stored]);
    }

    pub(crate) fn push_length(&mut self, length: u64) {
        self.push_header(length, 0, IS_LENGTH);
    }

    pub(crate) fn push_note(&mut self, note: Note) {
        self.push_header(note.sequence, u32::from(note.writes_through), IS_NOTE);
    }

    pub(crate) fn push_pages(&mut self, oldest: u64) {
        self.push_header(oldest, 0, IS_PAGES);
    }

    /// The write of the log with that number, as whoever reads it again encoded it.
    pub(crate) fn push_log_write(&mut self, number: u64, write: &[u8]) {
        self.push_header(number, write.len() as u32, IS_LOG_WRITE);
        self.bytes.extend_from_slice(write);
    }

    fn push_header(&mut self, offset: u64, length: u32, stored: u32) {
        self.bytes.extend_from_slice(&offset.to_le_bytes());
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(&stored.to_le_bytes());
    }

    /// How many bytes it would have with a write of `length` more, and with the file's length, a note and the oldest pages at the end.
    pub(crate) fn bytes_with(&self, length: usize) -> usize {
        self.bytes.len() + 4 * CHANGE_HEADER_BYTES + length
    }

    /// How many blocks it takes once [`Record::push_note`] and [`Record::push_pages`] have said their part.
    pub(crate) fn blocks(&self) -> u64 {
        (self.bytes.len() + 2 * CHANGE_HEADER_BYTES).div_ceil(BLOCK_BYTES) as u64
    }

    /// Fills in the header, and zeros up to the next block.
    pub(crate) fn seal(&mut self, journal: &[u8; 16], sequence: u64, oldest: u64) {
        let body = &self.bytes[RECORD_HEADER_BYTES..];
        let header = Header {
            sequence,
            oldest,
            body_bytes: body.len() as u64,
            body_checksum: xxh3_64(body),
        };
        self.bytes[..RECORD_HEADER_BYTES].copy_from_slice(&header.encode(journal));
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    }
}

/// The first 64 bytes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) sequence: u64,
    /// The first record that the file may still need.
    pub(crate) oldest: u64,
    pub(crate) body_bytes: u64,
    pub(crate) body_checksum: u64,
}

impl Header {
    fn encode(&self, journal: &[u8; 16]) -> [u8; RECORD_HEADER_BYTES] {
        let mut header = [0; RECORD_HEADER_BYTES];
        header[..8].copy_from_slice(&RECORD_MAGIC);
        header[8..24].copy_from_slice(journal);
        let numbers = [self.sequence, self.oldest, self.body_bytes, self.body_checksum];
        for (number, at) in numbers.iter().zip((24..).step_by(8)) {
            header[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let checksum = xxh3_64(&header[..56]);
        header[56..].copy_from_slice(&checksum.to_le_bytes());
        header
    }

    /// `None` if these bytes are not the header of a record of that journal.
    pub(crate) fn decode(bytes: &[u8; RECORD_HEADER_BYTES], journal: &[u8; 16]) -> Option<Header> {
        let number = |at| le(bytes, at).map(u64::from_le_bytes);
        if !bytes.starts_with(&RECORD_MAGIC)
            || bytes[8..24] != *journal
            || number(56)? != xxh3_64(&bytes[..56])
        {
            return None;
        }
        let header = Header {
            sequence: number(24)?,
            oldest: number(32)?,
            body_bytes: number(40)?,
            body_checksum: number(48)?,
        };
        let says_what_can_be = header.sequence > 0
            && header.oldest > 0
            && header.oldest - 1 <= header.sequence
            && header.body_bytes <= JOURNAL_BYTES_MAX;
        says_what_can_be.then_some(header)
    }

    pub(crate) fn blocks(&self) -> u64 {
        (RECORD_HEADER_BYTES as u64 + self.body_bytes).div_ceil(BLOCK_BYTES as u64)
    }
}

/// A change to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    /// `zeros` of them follow the data.
    Write {
        offset: u64,
        data: &'a [u8],
        zeros: usize,
    },
    Length(u64),
    Note(Note),
    /// Of the records before this one, the file needs no pages.
    Pages(u64),
    /// A write of the log, and its number.
    LogWrite(u64, &'a [u8]),
}

/// What a record says beside its changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Note {
    /// The last commit of the log that is durable with this record. If the file shows an older one, it has lost it.
    pub(crate) sequence: u64,
    /// What follows this record goes straight to the file, until the next record.
    pub(crate) writes_through: bool,
}

/// The changes in a body whose checksum was found to be right. `None` if it still is not what a writer produces.
pub(crate) fn changes(mut body: &[u8]) -> Option<Vec<Change<'_>>> {
    let mut changes = Vec::new();
    while !body.is_empty() {
        let offset = u64::from_le_bytes(le(body, 0)?);
        let length = u32::from_le_bytes(le(body, 8)?);
        let stored = u32::from_le_bytes(le(body, 12)?);
        body = &body[CHANGE_HEADER_BYTES..];
        if stored == IS_LENGTH {
            changes.push(Change::Length(offset));
            continue;
        }
        if stored == IS_NOTE {
            changes.push(Change::Note(Note { sequence: offset, writes_through: length == 1 }));
            continue;
        }
        if stored == IS_PAGES {
            changes.push(Change::Pages(offset));
            continue;
        }
        if stored == IS_LOG_WRITE {
            let (write, rest) = body.split_at_checked(length as usize)?;
            changes.push(Change::LogWrite(offset, write));
            body = rest;
            continue;
        }
        let (data, rest) = body.split_at_checked(stored as usize)?;
        let zeros = length.checked_sub(stored)? as usize;
        if length as usize > CHANGE_BYTES_MAX
            || offset.checked_add(u64::from(length))? > FILE_BYTES_MAX
        {
            return None;
        }
        changes.push(Change::Write { offset, data, zeros });
        body = rest;
    }
    Some(changes)
}
