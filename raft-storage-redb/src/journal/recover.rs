//! Opening: which records there are, whether they and the file belong together, and writing over the file what it may lack.

use std::collections::{HashMap, VecDeque};
use std::io;

use redb::StorageBackend;
use xxhash_rust::xxh3::xxh3_64;

use super::BLOCK_BYTES;
use super::durable::{self, CommitNumber, Durable};
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
    /// Up to which record the file is synced.
    pub(crate) synced: Durable<u64>,
    /// The last commit of redb that the file shows.
    pub(crate) commit: Durable<CommitNumber>,
    /// The writes that redb lacks: their numbers, and those of their records.
    pub(crate) unsettled: VecDeque<(u64, u64)>,
    /// The same, with what they say.
    pub(crate) writes: Vec<(u64, Vec<u8>)>,
}

/// A file and its journal that belong together, and what the file lacks. Nothing is written yet.
#[derive(Debug)]
pub(crate) struct Examined<'a, J> {
    found: Found<'a, J>,
    owner: Owner,
    stamp: Option<Stamp>,
    kind: Kind,
    /// The records that are needed, at least the last one.
    spans: Vec<Span>,
    /// What the last record says. Up to its commit, something else must hold every write that redb does not show.
    note: Note,
    /// The first record whose pages the file may lack.
    pages: u64,
    writes: Vec<LogWrite>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The file may lack what the records hold.
    Replay,
    /// The file needs no record.
    Whole,
    /// The same, and the journal is to be made anew.
    Afresh,
}

/// A write of the log in a record.
#[derive(Debug)]
struct LogWrite {
    number: u64,
    record: u64,
    bytes: Vec<u8>,
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
#[derive(Debug)]
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

    /// Whether that record is there, and is nothing but a write of the log: a file that was synced before it lacks nothing of it.
    fn is_append(&self, sequence: u64) -> io::Result<bool> {
        let Some((_, _, body)) = self.whole(sequence)? else { return Ok(false) };
        let changes = changes(&body).unwrap_or_default();
        let is_write = |change: &Change<'_>| matches!(change, Change::LogWrite(..));
        let is_page =
            |change: &Change<'_>| matches!(change, Change::Write { .. } | Change::Length(_));
        Ok(changes.iter().any(is_write) && !changes.iter().any(is_page))
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

/// Checks the journal against the file's stamps. Writes nothing.
pub(crate) fn examine<'a, J: StorageBackend>(
    journal: &'a J,
    owner: &Owner,
    stamped: Stamped,
) -> Result<Examined<'a, J>, Refusal> {
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
    let of_this = stamp.filter(|stamp| stamp.journal == owner.journal);
    let (kind, span, note) = match (of_this, stamp) {
        (Some(stamp), _) if !stamp.closed => return examine_records(found, owner, stamp),
        (Some(stamp), _) => match found.last().ok().flatten() {
            Some((span, ..)) if span.sequence > stamp.synced => return Err(OLDER),
            Some((span, _, note)) if span.sequence == stamp.synced => (Kind::Whole, span, note),
            // An older copy of the journal, or a broken one: the file needs none.
            _ => (Kind::Afresh, FIRST, Note::default()),
        },
        // A new journal, that the file does not know yet.
        (None, stamp) if stamp.is_none_or(|stamp| stamp.closed) => match found.last()? {
            Some((span, header, _)) if header.sequence == 1 && header.oldest == 2 => {
                (Kind::Whole, span, Note::default())
            }
            _ => return Err(OTHERS),
        },
        (None, _) => return Err(OTHERS),
    };
    let (owner, pages, spans) = (*owner, span.sequence + 1, vec![span]);
    Ok(Examined { found, owner, stamp, kind, spans, note, pages, writes: Vec::new() })
}

/// The record of an empty journal.
const FIRST: Span = Span { sequence: 1, start: 0, blocks: 1 };

/// The same, for a file that may need its journal: whether all that it may need is there.
fn examine_records<'a, J: StorageBackend>(
    found: Found<'a, J>,
    owner: &Owner,
    stamp: Stamp,
) -> Result<Examined<'a, J>, Refusal> {
    let Some((last, header, note)) = found.last()? else {
        return Err(Refusal::Damaged("it holds no records".into()));
    };
    if last.sequence < stamp.synced {
        return Err(Refusal::Mismatch("the journal is an older copy than the log file"));
    }
    let (mut spans, mut writes, mut pages) = (Vec::new(), Vec::new(), header.oldest);
    for sequence in header.oldest.min(last.sequence)..=last.sequence {
        let (span, _, body) = found.whole(sequence)?.ok_or_else(|| broken(sequence))?;
        let Some(changes) = changes(&body) else {
            return Err(Refusal::Damaged(format!("its record {sequence} makes no sense")));
        };
        for change in changes {
            match change {
                Change::Pages(oldest) => pages = oldest,
                Change::LogWrite(number, write) => {
                    writes.push(LogWrite { number, record: sequence, bytes: write.to_vec() });
                }
                _ => {}
            }
        }
        spans.push(span);
    }
    if pages < header.oldest {
        return Err(Refusal::Damaged(format!("its record {} makes no sense", last.sequence)));
    }
    for sequence in stamp.synced + 1..pages.min(last.sequence) {
        if !found.is_append(sequence)? {
            return Err(OLDER);
        }
    }
    let (owner, kind, stamp) = (*owner, Kind::Replay, Some(stamp));
    Ok(Examined { found, owner, stamp, kind, spans, note, pages, writes })
}

impl<J: StorageBackend> Examined<'_, J> {
    /// The file was closed and is as it was then: redb takes it for whole without looking.
    pub(crate) fn was_closed(&self) -> bool {
        self.stamp.is_none_or(|stamp| stamp.closed)
    }

    /// Up to which commit the journal says that all is durable.
    pub(crate) fn claimed(&self) -> CommitNumber {
        CommitNumber(self.note.sequence)
    }

    /// The writes that a file lacks which shows this commit.
    pub(crate) fn writes_after(
        &self,
        shown: CommitNumber,
    ) -> impl Iterator<Item = (u64, &[u8])> + '_ {
        let lacking = self.writes.iter().filter(move |write| write.number > shown.0);
        lacking.map(|write| (write.number, write.bytes.as_slice()))
    }

    /// The first record whose pages, and the first whose write of the log the file may lack.
    #[cfg(test)]
    pub(crate) fn oldest(&self) -> (u64, Option<u64>) {
        (self.pages, self.writes.first().map(|write| write.record))
    }

    /// Writes over `file` the pages that it may lack. Does not sync.
    pub(crate) fn write_pages(&self, file: &impl StorageBackend) -> Result<(), Refusal> {
        let last = self.spans.last().map_or(0, |last| last.sequence);
        for sequence in self.pages..=last {
            let Some((_, _, body)) = self.found.whole(sequence)? else {
                return Err(broken(sequence));
            };
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
        Ok(())
    }

    /// Brings the file up to date, and makes both ready for writing. The file shows this commit then.
    pub(crate) fn carry_out(
        self,
        file: &impl StorageBackend,
        journal: &J,
        shown: CommitNumber,
    ) -> Result<Recovered, Refusal> {
        self.write_pages(file)?;
        let owner = self.owner;
        if self.kind == Kind::Replay {
            if self.note.writes_through {
                write_again(file)?;
            }
            if let Some(last) = self.spans.last() {
                write_last_again(journal, last)?;
            }
        }
        if self.kind == Kind::Afresh {
            format_journal(journal, &owner)?;
        }
        let last = self.spans.last().map_or(0, |last| last.sequence);
        let number = self.stamp.map_or(0, |stamp| stamp.number) + 1;
        let stamp = Stamp { number, journal: owner.journal, synced: last, closed: false };
        stamp.write(file)?;
        let (synced, commit) = durable::sync(file, (last, shown))?.split();
        let needs_no_pages = self.kind == Kind::Replay && self.pages > last;
        let is_announced = needs_no_pages && self.note.writes_through;
        let lacking = self.writes.into_iter().filter(|write| write.number > shown.0);
        let (unsettled, writes): (VecDeque<_>, Vec<_>) = lacking
            .map(|write| ((write.number, write.record), (write.number, write.bytes)))
            .unzip();
        let blocks = owner.bytes / BLOCK_BYTES as u64 - 1;
        let mut ring = Ring::new(blocks, self.spans);
        // While the writes are being brought into redb, all goes straight to the file; the record that says so is written once, so that no
        // number of crashes fills the journal.
        if writes.is_empty() || !is_announced {
            let note = Note { sequence: shown.0, writes_through: !writes.is_empty() };
            let oldest = unsettled.front().map(|(_, record)| *record);
            start_anew(journal, &owner, &mut ring, note, oldest)?;
        }
        Ok(Recovered { id: owner.journal, blocks, ring, stamp, synced, commit, unsettled, writes })
    }
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
