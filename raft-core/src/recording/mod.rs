//! Recording what a core is told, and telling it again: since a core is a function of its inputs and their times, the
//! same inputs give the same actions, byte for byte. For finding out, at a desk, what happened in the field. The format
//! stands to the byte in `docs/recording-format.md` in the project's repository.
//!
//! A recording holds everything that was said, commands included: whoever may not read the log may not read its
//! recordings either.
//!
//! ```
//! use raft_core::{Action, Config, Input, Instant, Membership, NodeId, Raft, Restored};
//! use raft_core::recording::{Recorder, replay};
//!
//! let (config, seed, start) = (Config::new(NodeId(1)), 42, Instant(0));
//! let restored = Restored::founding(Membership::of_voters([NodeId(1)]));
//! let mut recorder = Recorder::new(&config, seed, start, &restored);
//! let mut raft = Raft::new(config, seed, start, restored)?;
//!
//! let now = raft.poll_timeout().expect("a voter waits");
//! let input = Input::Timeout;
//! recorder.record(now, &input);
//! raft.handle(now, input)?;
//! let actions: Vec<Action> = std::iter::from_fn(|| raft.poll_action()).collect();
//! recorder.drained();
//!
//! let file: Vec<u8> = recorder.take(); // append each piece to a file as it comes
//! assert_eq!(replay(&file)?, actions);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod codec;
mod vocabulary;

use alloc::vec::Vec;

use crate::{Action, Config, HandleError, Input, Instant, NotARun, Raft, RestoreError, Restored};
use codec::{Code, Reader};

/// The first bytes of every recording.
pub const MAGIC: [u8; 8] = *b"raft-rec";

/// The version of the format that this crate writes and reads.
pub const VERSION: u64 = 5;

/// Encodes what a core is told. It does no I/O: whoever owns it appends what [`Recorder::take`] gives to a file, in
/// order, as often as it likes.
#[derive(Clone, Debug)]
pub struct Recorder {
    bytes: Vec<u8>,
    latest: Instant,
    /// Polls since the last record.
    polls: u64,
}

impl Recorder {
    /// Begins a recording with what [`Raft::new`] is given.
    pub fn new(config: &Config, seed: u64, now: Instant, restored: &Restored) -> Recorder {
        let mut bytes = MAGIC.to_vec();
        VERSION.encode(&mut bytes);
        config.encode(&mut bytes);
        seed.encode(&mut bytes);
        now.encode(&mut bytes);
        restored.encode(&mut bytes);
        Recorder { bytes, latest: now, polls: 0 }
    }

    /// Records what [`Raft::handle`] is given, whether or not it takes it.
    pub fn record(&mut self, now: Instant, input: &Input) {
        self.end_polls();
        self.bytes.push(INPUT);
        zigzag(now.0.wrapping_sub(self.latest.0)).encode(&mut self.bytes);
        input.encode(&mut self.bytes);
        self.latest = now;
    }

    /// Records one call of [`Raft::poll_action`], whatever came of it. For drivers that handle inputs between polls; others call
    /// [`Recorder::drained`].
    pub fn polled(&mut self) {
        self.polls = self.polls.saturating_add(1);
    }

    /// Records that [`Raft::poll_action`] was called until nothing more came.
    pub fn drained(&mut self) {
        self.end_polls();
        self.bytes.push(DRAINED);
    }

    /// Takes what was encoded since the last time. It always ends where a record does.
    pub fn take(&mut self) -> Vec<u8> {
        self.end_polls();
        core::mem::take(&mut self.bytes)
    }

    /// How many bytes wait to be taken, about: for drivers that write in larger pieces.
    pub fn pending_bytes(&self) -> usize {
        self.bytes.len()
    }

    fn end_polls(&mut self) {
        if self.polls > 0 {
            self.bytes.push(POLLED);
            core::mem::take(&mut self.polls).encode(&mut self.bytes);
        }
    }
}

const INPUT: u8 = 0;
const POLLED: u8 = 1;
const DRAINED: u8 = 2;

/// Small differences in either direction become small numbers; every difference has its own.
fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ (0u64.wrapping_sub(difference >> 63))
}

fn unzigzag(code: u64) -> u64 {
    (code >> 1) ^ (0u64.wrapping_sub(code & 1))
}

/// What a recording begins with: the arguments of [`Raft::new`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The settings.
    pub config: Config,
    /// What all randomness of the core comes from.
    pub seed: u64,
    /// When it was built.
    pub now: Instant,
    /// What it found on its disk.
    pub restored: Restored,
}

/// One step of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A call of [`Raft::handle`].
    Input {
        /// When.
        now: Instant,
        /// With what.
        input: Input,
    },
    /// So many calls of [`Raft::poll_action`].
    Polled(u64),
    /// Calls of [`Raft::poll_action`] until it gave nothing more.
    Drained,
}

/// Reads a recording: its start at once, its records as an iterator, which ends after the first error.
#[derive(Clone, Debug)]
pub struct Recording<'a> {
    start: Start,
    reader: Reader<'a>,
    latest: Instant,
    has_failed: bool,
}

impl<'a> Recording<'a> {
    /// Reads the start of a recording.
    ///
    /// # Errors
    /// [`RecordingError`] if these bytes do not begin a recording of this version.
    pub fn read(bytes: &'a [u8]) -> Result<Recording<'a>, RecordingError> {
        let mut reader = Reader::new(bytes);
        if reader.take(MAGIC.len()).ok() != Some(&MAGIC[..]) {
            return Err(RecordingError::NotARecording);
        }
        let found = u64::decode(&mut reader)?;
        if found != VERSION {
            return Err(RecordingError::UnknownVersion { found, known: VERSION });
        }
        let start = Start {
            config: Code::decode(&mut reader)?,
            seed: Code::decode(&mut reader)?,
            now: Code::decode(&mut reader)?,
            restored: Code::decode(&mut reader)?,
        };
        let latest = start.now;
        Ok(Recording { start, reader, latest, has_failed: false })
    }

    /// What the recording begins with.
    pub fn start(&self) -> &Start {
        &self.start
    }

    /// How many bytes were read: after [`Recording::read`] or a record, the place where the next record begins.
    pub fn offset(&self) -> usize {
        self.reader.at()
    }

    fn record(&mut self) -> Result<Record, RecordingError> {
        let at = self.reader.at();
        match self.reader.byte()? {
            INPUT => {
                let difference = unzigzag(u64::decode(&mut self.reader)?);
                let now = Instant(self.latest.0.wrapping_add(difference));
                self.latest = now;
                Ok(Record::Input { now, input: Input::decode(&mut self.reader)? })
            }
            POLLED => u64::decode(&mut self.reader).map(Record::Polled),
            DRAINED => Ok(Record::Drained),
            tag => Err(RecordingError::UnknownTag { of: "a record", tag, at }),
        }
    }
}

impl Iterator for Recording<'_> {
    type Item = Result<Record, RecordingError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed || self.reader.is_at_end() {
            return None;
        }
        let record = self.record();
        self.has_failed = record.is_err();
        Some(record)
    }
}

/// One record, and what the core made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayedStep {
    /// The record.
    pub record: Record,
    /// What [`Raft::handle`] said to it, if it is an input.
    pub outcome: Result<(), HandleError>,
    /// What was polled, if it is a poll.
    pub actions: Vec<Action>,
}

/// A core that lives a recorded life again, one record at a time: between records it can be looked at.
#[derive(Debug)]
pub struct Replay<'a> {
    raft: Raft,
    recording: Recording<'a>,
}

impl<'a> Replay<'a> {
    /// Builds the core as the recording says.
    ///
    /// # Errors
    /// [`ReplayError`] if these bytes do not begin a recording, or the core can not be built from its start.
    pub fn new(bytes: &'a [u8]) -> Result<Replay<'a>, ReplayError> {
        let recording = Recording::read(bytes)?;
        let Start { config, seed, now, restored } = recording.start.clone();
        let raft = Raft::new(config, seed, now, restored)?;
        Ok(Replay { raft, recording })
    }

    /// The core as it is after the records so far.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    fn step(&mut self, record: Record) -> ReplayedStep {
        let mut outcome = Ok(());
        let mut actions = Vec::new();
        let polls = match &record {
            Record::Input { now, input } => {
                outcome = self.raft.handle(*now, input.clone());
                0
            }
            Record::Polled(count) => *count,
            Record::Drained => u64::MAX,
        };
        for _ in 0..polls {
            // Once nothing came, nothing comes before the next input.
            let Some(action) = self.raft.poll_action() else { break };
            actions.push(action);
        }
        ReplayedStep { record, outcome, actions }
    }
}

impl Iterator for Replay<'_> {
    type Item = Result<ReplayedStep, RecordingError>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.recording.next()?;
        Some(record.map(|record| self.step(record)))
    }
}

/// Every action that the recorded core gave, in order.
///
/// # Errors
/// [`ReplayError`] if the recording can not be read to its end, or its core can not be built.
pub fn replay(bytes: &[u8]) -> Result<Vec<Action>, ReplayError> {
    let mut actions = Vec::new();
    for step in Replay::new(bytes)? {
        actions.extend(step?.actions);
    }
    Ok(actions)
}

/// Why bytes can not be read as a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordingError {
    /// It does not begin as recordings do.
    #[error("this is no recording: it does not begin with \"raft-rec\"")]
    NotARecording,
    /// It was written in another version of the format.
    #[error(
        "the recording is of version {found}, and this program reads version {known}: replay it with the program that wrote it"
    )]
    UnknownVersion {
        /// The version in the recording.
        found: u64,
        /// The version that this crate reads: [`VERSION`].
        known: u64,
    },
    /// It ends in the middle of something. What was written before is sound: the writer was cut off.
    #[error("the recording ends at byte {at}, in the middle of something: its writer was cut off")]
    Truncated {
        /// Where more bytes were wanted.
        at: usize,
    },
    /// A byte that should tell kinds apart names none.
    #[error(
        "byte {at} of the recording is {tag}, which names no kind of {of}: the file is damaged"
    )]
    UnknownTag {
        /// What was to be read.
        of: &'static str,
        /// The byte.
        tag: u8,
        /// Where it is.
        at: usize,
    },
    /// A number of more than 64 bits, or one that is written in more bytes than it needs.
    #[error("no number can be read at byte {at} of the recording: the file is damaged")]
    BadNumber {
        /// Where it begins.
        at: usize,
    },
    /// A number that does not fit its place.
    #[error(
        "the number {value} at byte {at} of the recording is too large there: the file is damaged"
    )]
    OutOfRange {
        /// The number.
        value: u64,
        /// Where it begins.
        at: usize,
    },
    /// The members of a set do not rise.
    #[error(
        "the set with the item at byte {at} of the recording does not rise: the file is damaged"
    )]
    OutOfOrder {
        /// Where the item begins that is not beyond the one before.
        at: usize,
    },
    /// Entries that are no run of a log.
    #[error(
        "the entries at byte {at} of the recording are no run of a log ({fault}): the file is damaged"
    )]
    NotARun {
        /// What is wrong with them.
        fault: NotARun,
        /// Where they begin.
        at: usize,
    },
}

/// Why a recording can not be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// It can not be read.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// Its core can not be built: what it was given was refused when it was recorded, too, unless the file is damaged.
    #[error("the recorded core can not be built: {0}")]
    Restore(#[from] RestoreError),
}
