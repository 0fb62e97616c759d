//! The stamp that the file carries: which journal belongs to it, and how far the file is synced. It stands in redb's first
//! page behind redb's own header of 320 bytes, where redb leaves the rest of the page alone. There are two, written in
//! turns, each within one sector: the one that is being written may be lost, the other is whole.

use std::io;

use redb::StorageBackend;
use xxhash_rust::xxh3::xxh3_64;

use super::record::JOURNAL_VERSION;

const STAMP_MAGIC: [u8; 8] = *b"RAFTSTMP";
const STAMP_BYTES: usize = 56;
/// Where in the file they begin. Nothing before is a stamp's, and nothing behind it in the first block is redb's.
pub(crate) const STAMPS_OFFSET: usize = 1024;
const STAMP_OFFSETS: [u64; 2] = [STAMPS_OFFSET as u64, 2048];

/// What the file says of its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Rises with every stamp; says which of the two is the newer.
    pub(crate) number: u64,
    pub(crate) journal: [u8; 16],
    /// The file was synced when it held this record and all before it.
    pub(crate) synced: u64,
    /// Nobody has written to it since, so the journal is not needed.
    pub(crate) closed: bool,
}

impl Stamp {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(STAMP_BYTES);
        bytes.extend_from_slice(&STAMP_MAGIC);
        bytes.extend_from_slice(&JOURNAL_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[u8::from(self.closed), 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.journal);
        bytes.extend_from_slice(&self.synced.to_le_bytes());
        let checksum = xxh3_64(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; STAMP_BYTES]) -> Option<Stamp> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes[at..at + 8].try_into().ok()?));
        if !bytes.starts_with(&STAMP_MAGIC) || number(48)? != xxh3_64(&bytes[..48]) {
            return None;
        }
        Some(Stamp {
            number: number(16)?,
            journal: bytes[24..40].try_into().ok()?,
            synced: number(40)?,
            closed: bytes[10] == 1,
        })
    }

    /// Writes it in its turn. Does not sync.
    pub(crate) fn write(&self, file: &impl StorageBackend) -> io::Result<()> {
        file.write(STAMP_OFFSETS[(self.number % 2) as usize], &self.encode())
    }
}

/// What there is of stamps in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stamped {
    /// No journal was ever used with the file.
    Never,
    /// The newest whole one. If the other is broken, it may have been newer, so this one's `closed` is not believed.
    With(Stamp),
    /// In a version that this program does not know.
    Unknown(u16),
    /// Both are broken.
    Broken,
}

/// Reads both, and says which counts.
pub(crate) fn read_stamps(file: &impl StorageBackend) -> io::Result<Stamped> {
    if file.len()? < STAMP_OFFSETS[1] + STAMP_BYTES as u64 {
        return Ok(Stamped::Never);
    }
    let (mut newest, mut broken): (Option<Stamp>, bool) = (None, false);
    for offset in STAMP_OFFSETS {
        let mut bytes = [0; STAMP_BYTES];
        file.read(offset, &mut bytes)?;
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if bytes.starts_with(&STAMP_MAGIC) && version > JOURNAL_VERSION {
            return Ok(Stamped::Unknown(version));
        }
        match Stamp::decode(&bytes) {
            Some(stamp) if newest.is_none_or(|other| other.number < stamp.number) => {
                newest = Some(stamp);
            }
            Some(_) => {}
            None => broken |= bytes != [0; STAMP_BYTES],
        }
    }
    Ok(match newest {
        Some(stamp) => Stamped::With(Stamp { closed: stamp.closed && !broken, ..stamp }),
        None if broken => Stamped::Broken,
        None => Stamped::Never,
    })
}
