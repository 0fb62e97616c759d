//! The rows of the file, byte by byte: `docs/log-format.md` describes the same. Encoding and decoding only; nothing here
//! knows redb. Whatever is decoded comes from a file and is not believed before it is checked: no length is used before
//! it was compared with the bytes that are there.

use bytes::Bytes;
use raft_core::{
    Entries, Entry, HardState, Index, LogPosition, Membership, NodeId, Payload, SnapshotMeta,
    StoreId, Term,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::plan::{Logged, Plan};

/// The version of every row. A change to any of them raises it.
pub(crate) const FORMAT_VERSION: u16 = 1;
/// How an identity row begins.
const MAGIC: [u8; 8] = *b"RAFTLOG\n";
/// The largest payload: the two low bits of a 32-bit length word hold the kind.
pub(crate) const PAYLOAD_BYTES_MAX: usize = (1 << 30) - 1;

const CHECKSUM_BYTES: usize = 8;
const CHUNK_HEADER_BYTES: usize = 24;
const STATE_BYTES: usize = 40;
const RUN_BYTES: usize = 12;
const WORD_BYTES: usize = 4;
const FLAG_STATE: u8 = 1;

const KIND_EMPTY: u32 = 0;
const KIND_COMMAND: u32 = 1;
const KIND_MEMBERSHIP: u32 = 2;
const KIND_WITHHELD: u32 = 3;
/// What the encoding of a configuration has beside eight bytes for each fact.
const MEMBERSHIP_COUNTS_BYTES: usize = 20;

/// Why a row is not what it should be. Becomes a typed error that names the file and the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("its checksum does not match")]
    Checksum,
    #[error("its length does not match what it says it holds")]
    Length,
    #[error("it has format version {found}, this program reads version {FORMAT_VERSION}")]
    Version { found: u16 },
    #[error("it does not begin with the magic bytes of a Raft log")]
    Magic,
    #[error("it holds a value that no writer produces")]
    Value,
}

/// Whose log the file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: [u8; 16],
    pub(crate) node: NodeId,
    pub(crate) store: [u8; 16],
}

/// A hard state and the number of the write that stored it: the highest number in the file counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NumberedState {
    pub(crate) sequence: u64,
    pub(crate) hard_state: HardState,
}

/// The row of what changes rarely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) state: NumberedState,
    pub(crate) base: SnapshotMeta,
}

/// Reads fixed-width little-endian numbers off the front of a slice; runs out as an error.
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (front, rest) = self.0.split_at_checked(count).ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(front)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed::Length)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn finish(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Length) }
    }
}

pub(crate) fn seal(row: &mut Vec<u8>) {
    let checksum = xxh3_64(row);
    row.extend_from_slice(&checksum.to_le_bytes());
}

/// The row without its checksum, once that is found to be right.
pub(crate) fn unseal(row: &[u8]) -> Result<&[u8], Malformed> {
    let (body, checksum) = row.split_last_chunk::<CHECKSUM_BYTES>().ok_or(Malformed::Length)?;
    if xxh3_64(body) == u64::from_le_bytes(*checksum) { Ok(body) } else { Err(Malformed::Checksum) }
}

impl Identity {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(64);
        row.extend_from_slice(&MAGIC);
        row.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        row.extend_from_slice(&self.cluster);
        row.extend_from_slice(&self.node.0.to_le_bytes());
        row.extend_from_slice(&self.store);
        seal(&mut row);
        row
    }

    /// The version is looked at before the checksum: of a later version only the first ten bytes are known.
    pub(crate) fn decode(row: &[u8]) -> Result<Identity, Malformed> {
        let mut cursor = Cursor(row);
        if cursor.array::<8>().map_err(|_| Malformed::Magic)? != MAGIC {
            return Err(Malformed::Magic);
        }
        check_version(cursor.u16()?)?;
        let mut cursor = Cursor(unseal(row)?);
        cursor.take(MAGIC.len() + 2)?;
        let identity = Identity {
            cluster: cursor.array()?,
            node: NodeId(cursor.u64()?),
            store: cursor.array()?,
        };
        cursor.finish()?;
        Ok(identity)
    }
}

pub(crate) fn check_version(found: u16) -> Result<(), Malformed> {
    if found == FORMAT_VERSION { Ok(()) } else { Err(Malformed::Version { found }) }
}

fn push_state(row: &mut Vec<u8>, state: &NumberedState) {
    let NumberedState { sequence, hard_state } = state;
    row.extend_from_slice(&sequence.to_le_bytes());
    row.extend_from_slice(&hard_state.term.0.to_le_bytes());
    row.extend_from_slice(&hard_state.commit.0.to_le_bytes());
    row.extend_from_slice(&u64::from(hard_state.vote.is_some()).to_le_bytes());
    row.extend_from_slice(&hard_state.vote.map_or(0, |vote| vote.0).to_le_bytes());
}

fn take_state(cursor: &mut Cursor<'_>) -> Result<NumberedState, Malformed> {
    let sequence = cursor.u64()?;
    let term = Term(cursor.u64()?);
    let commit = Index(cursor.u64()?);
    let vote = match (cursor.u64()?, cursor.u64()?) {
        (0, 0) => None,
        (1, node) => Some(NodeId(node)),
        _ => return Err(Malformed::Value),
    };
    Ok(NumberedState { sequence, hard_state: HardState { term, vote, commit } })
}

impl Head {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(128);
        row.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        push_state(&mut row, &self.state);
        row.extend_from_slice(&self.base.position.index.0.to_le_bytes());
        row.extend_from_slice(&self.base.position.term.0.to_le_bytes());
        push_membership(&mut row, &self.base.membership);
        seal(&mut row);
        row
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Head, Malformed> {
        check_version(Cursor(row).u16()?)?;
        let mut cursor = Cursor(unseal(row)?);
        cursor.take(2)?;
        let state = take_state(&mut cursor)?;
        let position = LogPosition { index: Index(cursor.u64()?), term: Term(cursor.u64()?) };
        let membership = decode_membership(cursor.0)?;
        Ok(Head { state, base: SnapshotMeta { position, membership: membership.into() } })
    }
}

fn push_membership(row: &mut Vec<u8>, membership: &Membership) {
    let Membership { voters, outgoing, learners, witnesses, stores } = membership;
    for nodes in [voters, outgoing, learners, witnesses] {
        row.extend_from_slice(&(nodes.len() as u32).to_le_bytes());
        for node in nodes {
            row.extend_from_slice(&node.0.to_le_bytes());
        }
    }
    row.extend_from_slice(&(stores.len() as u32).to_le_bytes());
    for (node, store) in stores {
        row.extend_from_slice(&node.0.to_le_bytes());
        row.extend_from_slice(&store.0.to_le_bytes());
    }
}

/// A configuration: four lists, each a count and that many ids that rise; then a count and that many pairs of a member, rising, and its store.
fn decode_membership(bytes: &[u8]) -> Result<Membership, Malformed> {
    let mut cursor = Cursor(bytes);
    let mut membership = Membership::default();
    let Membership { voters, outgoing, learners, witnesses, stores } = &mut membership;
    for nodes in [voters, outgoing, learners, witnesses] {
        let count = cursor.u32()? as usize;
        for id in cursor.take(count.checked_mul(8).ok_or(Malformed::Length)?)?.chunks_exact(8) {
            let node = NodeId(Cursor(id).u64()?);
            if nodes.last().is_some_and(|last| *last >= node) {
                return Err(Malformed::Value);
            }
            nodes.insert(node);
        }
    }
    let count = cursor.u32()? as usize;
    for pair in cursor.take(count.checked_mul(16).ok_or(Malformed::Length)?)?.chunks_exact(16) {
        let mut pair = Cursor(pair);
        let (node, store) = (NodeId(pair.u64()?), StoreId(pair.u64()?));
        if stores.last_key_value().is_some_and(|(last, _)| *last >= node) {
            return Err(Malformed::Value);
        }
        stores.insert(node, store);
    }
    cursor.finish()?;
    Ok(membership)
}

/// The row of a configuration entry in the table of configurations.
pub(crate) fn encode_membership_row(membership: &Membership) -> Vec<u8> {
    let mut row = FORMAT_VERSION.to_le_bytes().to_vec();
    push_membership(&mut row, membership);
    seal(&mut row);
    row
}

pub(crate) fn decode_membership_row(row: &[u8]) -> Result<Membership, Malformed> {
    check_version(Cursor(row).u16()?)?;
    let mut cursor = Cursor(unseal(row)?);
    cursor.take(2)?;
    decode_membership(cursor.0)
}

/// How many bytes an entry adds to a chunk, apart from a possible new run of terms.
pub(crate) fn encoded_bytes(entry: &Entry) -> usize {
    WORD_BYTES
        + match &entry.payload {
            Payload::Empty | Payload::Withheld => 0,
            Payload::Command(command) => command.len(),
            Payload::Membership(membership) => MEMBERSHIP_COUNTS_BYTES + 8 * membership.len(),
        }
}

/// How many bytes a chunk of no entries and one run of terms has.
pub(crate) const CHUNK_OVERHEAD_BYTES: usize =
    CHUNK_HEADER_BYTES + STATE_BYTES + RUN_BYTES + CHECKSUM_BYTES;

/// Encodes a non-empty run of consecutive entries into `row`, which is cleared first and can be used again.
pub(crate) fn encode_chunk<'a>(
    row: &mut Vec<u8>,
    entries: impl Iterator<Item = &'a Entry> + Clone,
    state: Option<&NumberedState>,
) {
    row.clear();
    let first = entries.clone().next().map_or(0, |entry| entry.index.0);
    row.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    row.extend_from_slice(&[if state.is_some() { FLAG_STATE } else { 0 }, 0]);
    row.extend_from_slice(&[0; 12]); // counts of entries and runs, and padding: filled in below
    row.extend_from_slice(&first.to_le_bytes());
    if let Some(state) = state {
        push_state(row, state);
    }
    let (mut count, mut runs) = (0u32, 0u32);
    let mut run: Option<(Term, u32)> = None;
    for entry in entries.clone() {
        count += 1;
        match &mut run {
            Some((term, length)) if *term == entry.term => *length += 1,
            _ => {
                runs += u32::from(push_run(row, run));
                run = Some((entry.term, 1));
            }
        }
    }
    runs += u32::from(push_run(row, run));
    row[4..8].copy_from_slice(&count.to_le_bytes());
    row[8..12].copy_from_slice(&runs.to_le_bytes());
    for entry in entries.clone() {
        let kind = match entry.payload {
            Payload::Empty => KIND_EMPTY,
            Payload::Command(_) => KIND_COMMAND,
            Payload::Membership(_) => KIND_MEMBERSHIP,
            Payload::Withheld => KIND_WITHHELD,
        };
        let length = (encoded_bytes(entry) - WORD_BYTES) as u32;
        row.extend_from_slice(&(length << 2 | kind).to_le_bytes());
    }
    for entry in entries {
        match &entry.payload {
            Payload::Empty | Payload::Withheld => {}
            Payload::Command(command) => row.extend_from_slice(command),
            Payload::Membership(membership) => push_membership(row, membership),
        }
    }
    seal(row);
}

fn push_run(row: &mut Vec<u8>, run: Option<(Term, u32)>) -> bool {
    if let Some((term, length)) = run {
        row.extend_from_slice(&term.0.to_le_bytes());
        row.extend_from_slice(&length.to_le_bytes());
    }
    run.is_some()
}

/// A chunk whose frame was checked: the checksum is right and the parts add up. Entries are decoded on demand.
#[derive(Debug)]
pub(crate) struct Chunk<'a> {
    first: Index,
    count: u32,
    state: Option<NumberedState>,
    runs: &'a [u8],
    words: &'a [u8],
    payloads: &'a [u8],
}

/// The first and last index that a chunk says it holds; its checksum is not looked at.
pub(crate) fn peek_span(row: &[u8]) -> Result<(Index, Index), Malformed> {
    let mut cursor = Cursor(row);
    check_version(cursor.u16()?)?;
    cursor.take(2)?;
    let count = cursor.u32()?;
    cursor.take(8)?;
    let first = cursor.u64()?;
    span(first, count)
}

fn span(first: u64, count: u32) -> Result<(Index, Index), Malformed> {
    if first == 0 || count == 0 {
        return Err(Malformed::Value);
    }
    let last = first.checked_add(u64::from(count) - 1).ok_or(Malformed::Value)?;
    Ok((Index(first), Index(last)))
}

impl<'a> Chunk<'a> {
    pub(crate) fn parse(row: &'a [u8]) -> Result<Chunk<'a>, Malformed> {
        check_version(Cursor(row).u16()?)?;
        let mut cursor = Cursor(unseal(row)?);
        cursor.take(2)?;
        let (flags, _) = (cursor.u8()?, cursor.u8()?);
        if flags & !FLAG_STATE != 0 {
            return Err(Malformed::Value);
        }
        let count = cursor.u32()?;
        let run_count = cursor.u32()? as usize;
        cursor.take(4)?;
        let first = cursor.u64()?;
        span(first, count)?;
        let state = if flags & FLAG_STATE == 0 { None } else { Some(take_state(&mut cursor)?) };
        let runs = cursor.take(run_count.checked_mul(RUN_BYTES).ok_or(Malformed::Length)?)?;
        let words =
            cursor.take((count as usize).checked_mul(WORD_BYTES).ok_or(Malformed::Length)?)?;
        let chunk = Chunk { first: Index(first), count, state, runs, words, payloads: cursor.0 };
        let held: u64 = chunk.runs().map(|(_, length)| u64::from(length)).sum();
        let bytes: u64 = chunk.words().map(|word| u64::from(word >> 2)).sum();
        let terms_rise = chunk.runs().zip(chunk.runs().skip(1)).all(|(a, b)| a.0 < b.0);
        let first_term = chunk.runs().next().map_or(0, |(term, _)| term.0);
        if held != u64::from(count) || bytes != chunk.payloads.len() as u64 {
            return Err(Malformed::Length);
        }
        if !terms_rise || first_term == 0 || chunk.runs().any(|(_, length)| length == 0) {
            return Err(Malformed::Value);
        }
        Ok(chunk)
    }

    pub(crate) fn first(&self) -> Index {
        self.first
    }

    pub(crate) fn last(&self) -> Index {
        self.first.plus(u64::from(self.count) - 1)
    }

    pub(crate) fn state(&self) -> Option<NumberedState> {
        self.state
    }

    /// The term of the last entry.
    pub(crate) fn last_term(&self) -> Term {
        self.runs().last().map_or(Term(0), |(term, _)| term)
    }

    fn runs(&self) -> impl Iterator<Item = (Term, u32)> + use<'a> {
        self.runs.chunks_exact(RUN_BYTES).map(|run| {
            let (term, length) = run.split_at(8);
            (Term(le_u64(term)), le_u32(length))
        })
    }

    fn words(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.words.chunks_exact(WORD_BYTES).map(le_u32)
    }

    /// Decodes the entries from `from` to `to` (both inclusive) into `into`, as long as they fit `budget_bytes`, which it
    /// lowers; the first entry of an empty `into` always fits. Payloads share one copy. Says whether all of them fit.
    pub(crate) fn decode_into(
        &self,
        from: Index,
        to: Index,
        budget_bytes: &mut usize,
        into: &mut Vec<Entry>,
    ) -> Result<bool, Malformed> {
        let skip = usize::try_from(from.0.saturating_sub(self.first.0)).unwrap_or(usize::MAX);
        let start: usize = self.words().take(skip).map(|word| (word >> 2) as usize).sum();
        let wanted = usize::try_from(to.0.saturating_sub(from.0)).unwrap_or(usize::MAX);
        let wanted = wanted.saturating_add(1).min((self.count as usize).saturating_sub(skip));
        let (taken, bytes) = self.fitting(skip, wanted, *budget_bytes, into.is_empty());
        let shared = Bytes::copy_from_slice(
            self.payloads.get(start..start + bytes).ok_or(Malformed::Length)?,
        );
        let terms = self
            .runs()
            .flat_map(|(term, length)| std::iter::repeat_n(term, length as usize))
            .skip(skip);
        let mut offset = 0;
        into.reserve(taken);
        for (position, (word, term)) in self.words().skip(skip).take(taken).zip(terms).enumerate() {
            let length = (word >> 2) as usize;
            let payload = shared.slice(offset..offset + length);
            offset += length;
            let payload = match word & 3 {
                KIND_EMPTY if length == 0 => Payload::Empty,
                KIND_WITHHELD if length == 0 => Payload::Withheld,
                KIND_COMMAND => Payload::Command(payload),
                KIND_MEMBERSHIP => Payload::Membership(decode_membership(&payload)?.into()),
                _ => return Err(Malformed::Value),
            };
            let index = self.first.plus((skip + position) as u64);
            let entry = Entry { term, index, payload };
            *budget_bytes = budget_bytes.saturating_sub(entry.size_bytes());
            into.push(entry);
        }
        Ok(taken == wanted)
    }

    /// How many of the `wanted` entries after `skip` fit the budget, and how many payload bytes they have.
    fn fitting(&self, skip: usize, wanted: usize, budget: usize, one: bool) -> (usize, usize) {
        let (mut taken, mut bytes, mut left) = (0, 0, budget);
        for word in self.words().skip(skip).take(wanted) {
            let length = (word >> 2) as usize;
            // A configuration counts eight bytes a fact, its encoding has the counts besides.
            let counts = if word & 3 == KIND_MEMBERSHIP { MEMBERSHIP_COUNTS_BYTES } else { 0 };
            let counted = length - length.min(counts);
            let size = Entry::OVERHEAD_BYTES + counted;
            if size > left && !(one && taken == 0) {
                break;
            }
            left = left.saturating_sub(size);
            taken += 1;
            bytes += length;
        }
        (taken, bytes)
    }
}

const HAS_STATE: u8 = 1;
const HAS_COMPACTION: u8 = 2;
const HAS_RESET: u8 = 4;
const HAS_TRUNCATION: u8 = 8;
const HAS_ENTRIES: u8 = 16;
const KNOWN_FLAGS: u8 = 31;

fn push_position(bytes: &mut Vec<u8>, position: &LogPosition) {
    bytes.extend_from_slice(&position.index.0.to_le_bytes());
    bytes.extend_from_slice(&position.term.0.to_le_bytes());
}

fn take_position(cursor: &mut Cursor<'_>) -> Result<LogPosition, Malformed> {
    Ok(LogPosition { index: Index(cursor.u64()?), term: Term(cursor.u64()?) })
}

/// Encodes a write for the journal. `row` is used on the way.
pub(crate) fn encode_write(bytes: &mut Vec<u8>, row: &mut Vec<u8>, write: &Logged) {
    let Logged { sequence, compacted, plan } = write;
    let flags = [
        (plan.hard_state.is_some(), HAS_STATE),
        (compacted.is_some(), HAS_COMPACTION),
        (plan.reset.is_some(), HAS_RESET),
        (plan.truncate_from.is_some(), HAS_TRUNCATION),
        (!plan.entries.is_empty(), HAS_ENTRIES),
    ];
    bytes.clear();
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.push(flags.iter().filter(|flag| flag.0).map(|flag| flag.1).sum());
    if let Some(hard_state) = plan.hard_state {
        push_state(bytes, &NumberedState { sequence: *sequence, hard_state });
    }
    if let Some(through) = compacted {
        push_position(bytes, through);
    }
    if let Some(snapshot) = &plan.reset {
        push_position(bytes, &snapshot.position);
        row.clear();
        push_membership(row, &snapshot.membership);
        bytes.extend_from_slice(&(row.len() as u32).to_le_bytes());
        bytes.extend_from_slice(row);
    }
    if let Some(from) = plan.truncate_from {
        bytes.extend_from_slice(&from.0.to_le_bytes());
    }
    if !plan.entries.is_empty() {
        let entries: Vec<&Entry> = plan.entries.iter().collect();
        encode_chunk(row, entries.iter().copied(), None);
        bytes.extend_from_slice(row);
        row.shrink_to(1 << 20);
    }
}

/// Decodes what [`encode_write`] wrote.
pub(crate) fn decode_write(sequence: u64, bytes: &[u8]) -> Result<Logged, Malformed> {
    let mut cursor = Cursor(bytes);
    check_version(cursor.u16()?)?;
    let flags = cursor.u8()?;
    if flags & !KNOWN_FLAGS != 0 {
        return Err(Malformed::Value);
    }
    let mut plan = Plan::default();
    if flags & HAS_STATE != 0 {
        plan.hard_state = Some(take_state(&mut cursor)?.hard_state);
    }
    let compacted =
        if flags & HAS_COMPACTION == 0 { None } else { Some(take_position(&mut cursor)?) };
    if flags & HAS_RESET != 0 {
        let position = take_position(&mut cursor)?;
        let length = cursor.u32()? as usize;
        let membership = decode_membership(cursor.take(length)?)?;
        plan.reset = Some(SnapshotMeta { position, membership: membership.into() });
    }
    if flags & HAS_TRUNCATION != 0 {
        plan.truncate_from = Some(Index(cursor.u64()?));
    }
    if flags & HAS_ENTRIES == 0 {
        cursor.finish()?;
    } else {
        let chunk = Chunk::parse(cursor.0)?;
        let (mut entries, mut unlimited) = (Vec::new(), usize::MAX);
        chunk.decode_into(chunk.first(), chunk.last(), &mut unlimited, &mut entries)?;
        plan.entries = Entries::try_from_vec(entries).map_err(|_| Malformed::Value)?;
    }
    Ok(Logged { sequence, compacted, plan })
}

fn le_u64(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn le_u32(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}
