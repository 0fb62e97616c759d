//! Opening: which records there are, whether they and the file belong together, and writing over the file what it may lack.

use std::collections::{HashMap, VecDeque};
use std::io;

use redb::StorageBackend;
use xxhash_rust::xxh3::xxh3_64;

use super::BLOCK_BYTES;
use super::record::{
    Change, Header, JOURNAL_BYTES_MAX, JOURNAL_BYTES_MIN, Note, Owner, RECORD_HEADER_BYTES, Record,
    changes, format_journal,
};
use super::ring::{Ring, Span};
use super::stamp::{Stamp, Stamped};

/// A journal that is ready for use, and what to go on with.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) id: [u8; 16],
    pub(crate) blocks: u64,
    pub(crate) ring: Ring,
    pub(crate) stamp: Stamp,
    /// The last commit of the log that is known to be in the file, 0 if none is known; and whether the file is written to directly.
    pub(crate) note: Note,
    /// The writes that redb may lack: their numbers, and those of their records.
    pub(crate) unsettled: VecDeque<(u64, u64)>,
    /// The same, with what they say.
    pub(crate) writes: Vec<(u64, Vec<u8>)>,
    /// The file was closed and is as it was then: redb will take it for whole without looking.
    pub(crate) was_closed: bool,
}

/// Why a file and a journal can not be used together.
#[derive(Debug)]
pub(crate) enum Refusal {
    Io(io::Error),
    /// The journal is broken in a way that no loss of power explains.
    Damaged(String),
    /// They are not of one log, or not of one moment.
    Mismatch(&'static str),
    /// The file's stamp is of a later version.
    Version(u16),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Io(error)
    }
}

/// The records that were found: by number, where each begins. Bodies are not looked at yet; a number may stand twice, once
/// for a record that was cut short.
struct Found<'a, J> {
    journal: &'a J,
    records: HashMap<u64, Vec<(Span, Header)>>,
}

impl<'a, J: StorageBackend> Found<'a, J> {
    fn scan(journal: &'a J, owner: &Owner) -> io::Result<Found<'a, J>> {
        let blocks = owner.bytes / BLOCK_BYTES as u64 - 1;
        let mut records: HashMap<u64, Vec<_>> = HashMap::new();
        let mut bytes = [0; RECORD_HEADER_BYTES];
        for start in 0..blocks {
            journal.read((1 + start) * BLOCK_BYTES as u64, &mut bytes)?;
            if let Some(header) = Header::decode(&bytes, &owner.journal)
                && start + header.blocks() <= blocks
            {
                let span = Span { sequence: header.sequence, start, blocks: header.blocks() };
                records.entry(header.sequence).or_default().push((span, header));
            }
        }
        Ok(Found { journal, records })
    }

    /// The record of that number, if there is a whole one.
    fn whole(&self, sequence: u64) -> io::Result<Option<(Span, Header, Vec<u8>)>> {
        for (span, header) in self.records.get(&sequence).into_iter().flatten() {
            let mut body = vec![0; header.body_bytes as usize];
            let at = (1 + span.start) * BLOCK_BYTES as u64 + RECORD_HEADER_BYTES as u64;
            self.journal.read(at, &mut body)?;
            if xxh3_64(&body) == header.body_checksum {
                return Ok(Some((*span, *header, body)));
            }
        }
        Ok(None)
    }

    /// The last record that is whole: only the very last may not be, when it was being written as the power went.
    fn last(&self) -> Result<Option<(Span, Header, Note)>, Refusal> {
        let Some(last) = self.records.keys().max().copied() else { return Ok(None) };
        let found = match self.whole(last)? {
            Some(found) => found,
            None => self.whole(last - 1)?.ok_or_else(|| broken(last - 1))?,
        };
        let (span, header, body) = found;
        let changes = changes(&body).unwrap_or_default();
        let note = changes.iter().rev().find_map(|change| match change {
            Change::Note(note) => Some(*note),
            _ => None,
        });
        Ok(Some((span, header, note.unwrap_or_default())))
    }
}

fn broken(sequence: u64) -> Refusal {
    Refusal::Damaged(format!(
        "its record {sequence} is missing or broken although later ones were written after it was complete"
    ))
}

/// Checks the journal against the file, brings the file up to date, and makes both ready for writing. Nothing is changed if
/// it refuses.
pub(crate) fn recover(
    file: &impl StorageBackend,
    journal: &impl StorageBackend,
    owner: &Owner,
    stamped: Stamped,
) -> Result<Recovered, Refusal> {
    let sensible = (JOURNAL_BYTES_MIN..=JOURNAL_BYTES_MAX).contains(&owner.bytes)
        && owner.bytes.is_multiple_of(BLOCK_BYTES as u64);
    if !sensible || journal.len()? != owner.bytes {
        return Err(Refusal::Damaged("it is not as long as it says".into()));
    }
    let found = Found::scan(journal, owner)?;
    let stamp = match stamped {
        Stamped::Unknown(version) => return Err(Refusal::Version(version)),
        Stamped::Broken => {
            return Err(Refusal::Damaged("both stamps in the log file are broken".into()));
        }
        Stamped::With(stamp) => Some(stamp),
        Stamped::Never => None,
    };
    let number = stamp.map_or(0, |stamp| stamp.number);
    let mut note = Note::default();
    let (mut unsettled, mut writes) = (VecDeque::new(), Vec::new());
    let mut needs_no_pages = false;
    let (spans, last) = match stamp {
        Some(stamp) if stamp.journal == owner.journal && !stamp.closed => {
            let replayed = replay(file, &found, &stamp)?;
            note = replayed.note;
            (unsettled, writes) = (replayed.unsettled, replayed.writes);
            needs_no_pages = replayed.needs_no_pages;
            if let Some(last) = replayed.spans.last() {
                write_last_again(journal, last)?;
            }
            (replayed.spans, replayed.last)
        }
        Some(stamp) if stamp.journal == owner.journal => {
            let last = found.last().ok().flatten();
            let newer = last.is_some_and(|(span, ..)| span.sequence > stamp.synced);
            match last {
                _ if newer => return Err(OLDER),
                Some((span, _, of_last)) if span.sequence == stamp.synced => {
                    note = of_last;
                    (vec![span], span.sequence)
                }
                // An older copy of the journal, or a broken one: the file needs none.
                _ => afresh(journal, owner)?,
            }
        }
        // A new journal, that the file does not know yet.
        _ if stamp.is_none_or(|stamp| stamp.closed) => match found.last()? {
            Some((span, header, _)) if header.sequence == 1 && header.oldest == 2 => {
                (vec![span], 1)
            }
            _ => return Err(OTHERS),
        },
        _ => return Err(OTHERS),
    };
    let known = stamp;
    let stamp = Stamp { number: number + 1, journal: owner.journal, synced: last, closed: false };
    stamp.write(file)?;
    file.sync_data()?;
    let blocks = owner.bytes / BLOCK_BYTES as u64 - 1;
    let mut ring = Ring::new(blocks, spans);
    // While the writes are being brought into redb, all goes straight to the file; the record that says so is written once, so that no
    // number of crashes fills the journal.
    let is_announced = needs_no_pages && note.writes_through;
    note.writes_through = !writes.is_empty();
    if writes.is_empty() || !is_announced {
        start_anew(journal, owner, &mut ring, note, unsettled.front().map(|(_, record)| *record))?;
    }
    let was_closed = known.is_none_or(|stamp| stamp.closed);
    let id = owner.journal;
    Ok(Recovered { id, blocks, ring, stamp, note, unsettled, writes, was_closed })
}

const OLDER: Refusal = Refusal::Mismatch("the log file is an older copy than its journal");
const OTHERS: Refusal = Refusal::Mismatch("the journal is of another log file");

/// Writes a record that says that the file needs none of those before it, but for the writes that redb lacks.
fn start_anew(
    journal: &impl StorageBackend,
    owner: &Owner,
    ring: &mut Ring,
    note: Note,
    unsettled: Option<u64>,
) -> Result<(), Refusal> {
    let start = ring.next_that_frees().ok_or_else(|| Refusal::Damaged("it has no room".into()))?;
    let sequence = ring.last() + 1;
    let mut record = Record::default();
    record.push_note(note);
    record.push_pages(sequence + 1);
    let oldest = unsettled.unwrap_or(sequence + 1);
    record.seal(&owner.journal, sequence, oldest);
    journal.write((1 + start) * BLOCK_BYTES as u64, &record.bytes)?;
    journal.sync_data()?;
    ring.push(Span { sequence, start, blocks: 1 }, oldest);
    Ok(())
}

fn afresh(journal: &impl StorageBackend, owner: &Owner) -> Result<(Vec<Span>, u64), Refusal> {
    format_journal(journal, owner)?;
    Ok((vec![Span { sequence: 1, start: 0, blocks: 1 }], 1))
}

/// What a replay found.
struct Replayed {
    spans: Vec<Span>,
    last: u64,
    note: Note,
    unsettled: VecDeque<(u64, u64)>,
    writes: Vec<(u64, Vec<u8>)>,
    /// The last record says that the file needs the pages of none.
    needs_no_pages: bool,
}

/// Writes over the file what it may lack. Everything is checked before anything is written.
fn replay<J: StorageBackend>(
    file: &impl StorageBackend,
    found: &Found<'_, J>,
    stamp: &Stamp,
) -> Result<Replayed, Refusal> {
    let Some((last, header, note)) = found.last()? else {
        return Err(Refusal::Damaged("it holds no records".into()));
    };
    if last.sequence < stamp.synced {
        return Err(Refusal::Mismatch("the journal is an older copy than the log file"));
    }
    let (mut spans, mut pages) = (Vec::new(), header.oldest);
    let (mut unsettled, mut writes) = (VecDeque::new(), Vec::new());
    for sequence in header.oldest.min(last.sequence)..=last.sequence {
        let (span, _, body) = found.whole(sequence)?.ok_or_else(|| broken(sequence))?;
        let Some(changes) = changes(&body) else {
            return Err(Refusal::Damaged(format!("its record {sequence} makes no sense")));
        };
        for change in changes {
            match change {
                Change::Pages(oldest) => pages = oldest,
                Change::LogWrite(number, write) if number > note.sequence => {
                    unsettled.push_back((number, sequence));
                    writes.push((number, write.to_vec()));
                }
                _ => {}
            }
        }
        spans.push(span);
    }
    if stamp.synced + 1 < pages.min(last.sequence) {
        return Err(OLDER);
    }
    for sequence in pages..=last.sequence {
        let Some((_, _, body)) = found.whole(sequence)? else { return Err(broken(sequence)) };
        for change in changes(&body).unwrap_or_default() {
            match change {
                Change::Length(length) => file.set_len(length)?,
                Change::Note(_) | Change::Pages(_) | Change::LogWrite(..) => {}
                Change::Write { offset, data, zeros } => {
                    let mut data = data.to_vec();
                    data.resize(data.len() + zeros, 0);
                    let end = offset + data.len() as u64;
                    if file.len()? < end {
                        file.set_len(end)?;
                    }
                    file.write(offset, &data)?;
                }
            }
        }
    }
    if note.writes_through {
        write_again(file)?;
    }
    let needs_no_pages = pages > last.sequence;
    Ok(Replayed { spans, last: last.sequence, note, unsettled, writes, needs_no_pages })
}

/// Makes the last record durable, before anything that rests on it is. If a sync of it failed, it may still be read and yet never reach
/// the disk, unless it is written once more. Those before it were synced, or it would not have been written.
fn write_last_again(journal: &impl StorageBackend, last: &Span) -> io::Result<()> {
    let at = (1 + last.start) * BLOCK_BYTES as u64;
    let mut bytes = vec![0; last.blocks as usize * BLOCK_BYTES];
    journal.read(at, &mut bytes)?;
    journal.write(at, &bytes)?;
    journal.sync_data()
}

/// Writes all of the file over itself. A commit was being written to it without a record. If a sync of it failed, what it wrote may
/// still be read and yet never reach the disk, unless it is written once more.
fn write_again(file: &impl StorageBackend) -> io::Result<()> {
    let length = file.len()?;
    let mut bytes = vec![0; 64 * BLOCK_BYTES];
    let mut at = 0;
    while at < length {
        let step = bytes.len().min((length - at) as usize);
        file.read(at, &mut bytes[..step])?;
        file.write(at, &bytes[..step])?;
        at += step as u64;
    }
    Ok(())
}
