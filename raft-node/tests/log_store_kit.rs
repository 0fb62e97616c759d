//! The conformance kit fails stores that are wrong, each in one way. A kit that passes one of these would pass somebody's store.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use raft_node::raft_core::{
    Entries, Entry, HardState, Index, LogPosition, Membership, Persist, RestoredLog, StoreStamp,
    Term, Ticket,
};
use raft_node::testing::{
    CrashingDisk, MemoryDisk, MemoryLog, MemoryLogReader, check_log_store_crashes,
    check_log_store_within,
};
use raft_node::{LogReader, LogStore, ReadError, StorageError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    LosesHardStateOfLaterWrites,
    LosesHardStateOfEarlierWrites,
    LosesVote,
    LosesCommit,
    LosesTerm,
    LosesHardStateWithoutEntries,
    LosesHardStateOnCompact,
    LosesHardStateOnReset,
    IgnoresTruncation,
    IgnoresTruncationInLaterWrites,
    TruncatesOneTooFew,
    IgnoresReset,
    IgnoresResetInLaterWrites,
    IgnoresLaterWrites,
    CompactsOneTooMany,
    CompactsAll,
    ForgetsFounding,
    ForgetsLives,
    TakesAnotherIdAtEachStart,
    ForgetsConfigurations,
    ForgetsBaseConfiguration,
    ReaderCaches,
    ReaderSeesTheStart,
    ReaderIgnoresLast,
    ReaderIgnoresBudget,
    ReaderReturnsNothingForNoBudget,
    ReaderReturnsNothingForWhatIsNotThere,
    HangsInWrite,
    HangsInRead,
}

const ALL: [Wrong; 29] = [
    Wrong::LosesHardStateOfLaterWrites,
    Wrong::LosesHardStateOfEarlierWrites,
    Wrong::LosesVote,
    Wrong::LosesCommit,
    Wrong::LosesTerm,
    Wrong::LosesHardStateWithoutEntries,
    Wrong::LosesHardStateOnCompact,
    Wrong::LosesHardStateOnReset,
    Wrong::IgnoresTruncation,
    Wrong::IgnoresTruncationInLaterWrites,
    Wrong::TruncatesOneTooFew,
    Wrong::IgnoresReset,
    Wrong::IgnoresResetInLaterWrites,
    Wrong::IgnoresLaterWrites,
    Wrong::CompactsOneTooMany,
    Wrong::CompactsAll,
    Wrong::ForgetsFounding,
    Wrong::ForgetsLives,
    Wrong::TakesAnotherIdAtEachStart,
    Wrong::ForgetsConfigurations,
    Wrong::ForgetsBaseConfiguration,
    Wrong::ReaderCaches,
    Wrong::ReaderSeesTheStart,
    Wrong::ReaderIgnoresLast,
    Wrong::ReaderIgnoresBudget,
    Wrong::ReaderReturnsNothingForNoBudget,
    Wrong::ReaderReturnsNothingForWhatIsNotThere,
    Wrong::HangsInWrite,
    Wrong::HangsInRead,
];

/// A store that is right but for one thing.
struct WrongLog {
    inner: MemoryLog,
    wrong: Wrong,
    lives: u64,
}

fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

fn with_hard_state(hard_state: HardState) -> Persist {
    let (ticket, entries) = (Ticket(0), Entries::new());
    Persist { ticket, hard_state: Some(hard_state), reset: None, truncate_from: None, entries }
}

impl WrongLog {
    fn spoil(&self, at: usize, of: usize, mut write: Persist) -> Persist {
        let is_later = at > 0;
        match self.wrong {
            Wrong::LosesHardStateOfLaterWrites if is_later => write.hard_state = None,
            Wrong::LosesHardStateOfEarlierWrites if at + 1 < of => write.hard_state = None,
            Wrong::LosesHardStateWithoutEntries if write.entries.is_empty() => {
                write.hard_state = None;
            }
            Wrong::LosesHardStateOnReset if write.reset.is_some() => {
                write.hard_state = Some(HardState::default());
            }
            Wrong::IgnoresTruncation => write.truncate_from = None,
            Wrong::IgnoresTruncationInLaterWrites if is_later => write.truncate_from = None,
            Wrong::TruncatesOneTooFew => {
                write.truncate_from = write.truncate_from.map(Index::next);
            }
            Wrong::IgnoresReset => write.reset = None,
            Wrong::IgnoresResetInLaterWrites if is_later => write.reset = None,
            _ => {}
        }
        if let Some(state) = &mut write.hard_state {
            match self.wrong {
                Wrong::LosesVote => state.vote = None,
                Wrong::LosesCommit => state.commit = Index(0),
                Wrong::LosesTerm => state.term = Term(1),
                _ => {}
            }
        }
        write
    }
}

impl LogStore for WrongLog {
    type Reader = WrongReader;

    fn restore(&mut self) -> Result<RestoredLog, StorageError> {
        let mut restored = self.inner.restore()?;
        match self.wrong {
            Wrong::ForgetsConfigurations => restored.memberships.clear(),
            Wrong::ForgetsBaseConfiguration if restored.base.index > Index(0) => {
                restored.base_membership = Membership::default();
            }
            _ => {}
        }
        Ok(restored)
    }

    fn begin_life(&mut self) -> Result<StoreStamp, StorageError> {
        let mut stamp = self.inner.begin_life()?;
        match self.wrong {
            Wrong::ForgetsLives => {
                self.lives += 1;
                stamp.life = self.lives;
            }
            Wrong::TakesAnotherIdAtEachStart => stamp.id.0 += stamp.life << 32,
            _ => {}
        }
        Ok(stamp)
    }

    fn found(&mut self, membership: &Membership) -> Result<(), StorageError> {
        if self.wrong == Wrong::ForgetsFounding { Ok(()) } else { self.inner.found(membership) }
    }

    fn write(&mut self, writes: &[Persist]) -> Result<(), StorageError> {
        if self.wrong == Wrong::HangsInWrite {
            hang();
        }
        let kept = if self.wrong == Wrong::IgnoresLaterWrites { 1 } else { writes.len() };
        let writes = writes.iter().take(kept).enumerate();
        let spoilt: Vec<_> = writes.map(|(at, w)| self.spoil(at, kept, w.clone())).collect();
        self.inner.write(&spoilt)
    }

    fn compact(&mut self, through: LogPosition) -> Result<(), StorageError> {
        let restored = self.inner.restore()?;
        let through = match self.wrong {
            Wrong::CompactsOneTooMany => {
                LogPosition { index: through.index.next().min(restored.last), ..through }
            }
            Wrong::CompactsAll => LogPosition { index: restored.last, ..through },
            _ => through,
        };
        self.inner.compact(through)?;
        match self.wrong {
            Wrong::LosesHardStateOnCompact => {
                self.inner.write(&[with_hard_state(HardState::default())])
            }
            Wrong::CompactsOneTooMany | Wrong::CompactsAll => {
                self.inner.write(&[with_hard_state(restored.hard_state)])
            }
            _ => Ok(()),
        }
    }

    fn reader(&self) -> WrongReader {
        let inner = self.inner.reader();
        let seen = inner.read(Index(1), Index(u64::MAX - 1), usize::MAX).ok();
        WrongReader { inner, wrong: self.wrong, seen, cache: Mutex::default() }
    }
}

struct WrongReader {
    inner: MemoryLogReader,
    wrong: Wrong,
    seen: Option<Entries>,
    cache: Mutex<BTreeMap<Index, Entry>>,
}

impl LogReader for WrongReader {
    fn read(&self, first: Index, last: Index, budget_bytes: usize) -> Result<Entries, ReadError> {
        let all = |last| self.inner.read(first, last, usize::MAX);
        let nothing = || Ok(Entries::new());
        match self.wrong {
            Wrong::HangsInRead => hang(),
            Wrong::ReaderIgnoresLast => {
                return self.inner.read(first, Index(u64::MAX - 1), budget_bytes);
            }
            Wrong::ReaderIgnoresBudget => return all(last),
            Wrong::ReaderReturnsNothingForNoBudget if budget_bytes == 0 => return nothing(),
            Wrong::ReaderReturnsNothingForWhatIsNotThere if all(last).is_err() => return nothing(),
            Wrong::ReaderSeesTheStart => {
                let seen = self.seen.as_ref().and_then(|seen| seen.get(first));
                let one = seen.cloned().map(|entry| Entries::try_from_vec(vec![entry]));
                return one.and_then(Result::ok).ok_or(ReadError::NotThere { first });
            }
            Wrong::ReaderCaches => {
                let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(entry) = cache.get(&first) {
                    return Ok(Entries::try_from_vec(vec![entry.clone()]).expect("one"));
                }
                let read = self.inner.read(first, last, budget_bytes)?;
                cache.extend(read.iter().map(|entry| (entry.index, entry.clone())));
                return Ok(read);
            }
            _ => {}
        }
        self.inner.read(first, last, budget_bytes)
    }
}

fn check(wrong: Wrong, step: Duration) {
    let mut disks: HashMap<u32, MemoryDisk> = HashMap::new();
    check_log_store_within(step, move |number| WrongLog {
        inner: disks.entry(number).or_default().open(),
        wrong,
        lives: 0,
    });
}

fn told(check: impl FnOnce()) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(check)).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
}

#[test]
fn the_kit_fails_every_store_that_is_wrong_and_never_hangs() {
    check(Wrong::Nothing, Duration::from_secs(60));
    let hangs = [Wrong::HangsInWrite, Wrong::HangsInRead];
    for wrong in ALL {
        // Those that hang are waited for in vain; the others must not be taken for hung on a busy machine.
        let is_hung = hangs.contains(&wrong);
        let step = Duration::from_millis(if is_hung { 500 } else { 60_000 });
        let told = told(|| check(wrong, step)).unwrap_or_else(|| panic!("{wrong:?} passes"));
        assert!(!told.is_empty(), "{wrong:?}: the kit says what broke");
        assert_eq!(told.contains("did not get through this"), is_hung, "{wrong:?}: {told}");
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Durability {
    Right,
    /// A write returns before it is durable.
    NoSync,
    /// Each write of a group is durable by itself.
    WriteByWrite,
}

/// What a disk holds as the writes that made it.
#[derive(Default)]
struct Writes {
    durable: Vec<Persist>,
    unsynced: Vec<Persist>,
    /// After so many writes that become durable the power goes.
    fuse: Option<u64>,
}

impl Writes {
    fn use_power(&mut self) -> Result<(), StorageError> {
        match &mut self.fuse {
            Some(0) => Err(StorageError { message: "the power is gone".into(), source: None }),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

struct Disk {
    durability: Durability,
    writes: Arc<Mutex<Writes>>,
}

struct Store {
    inner: MemoryLog,
    durability: Durability,
    writes: Arc<Mutex<Writes>>,
}

impl CrashingDisk for Disk {
    type Store = Store;

    fn open(&mut self) -> Store {
        let mut inner = MemoryDisk::new().open();
        let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        inner.write(&writes.durable).expect("written before");
        let (durability, writes) = (self.durability, self.writes.clone());
        Store { inner, durability, writes }
    }

    fn lose_power(&mut self) {
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        writes.unsynced.clear();
        writes.fuse = None;
    }

    fn lose_power_after(&mut self, operations: u64) {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner).fuse = Some(operations);
    }
}

impl LogStore for Store {
    type Reader = MemoryLogReader;

    fn restore(&mut self) -> Result<RestoredLog, StorageError> {
        self.inner.restore()
    }

    fn begin_life(&mut self) -> Result<StoreStamp, StorageError> {
        self.inner.begin_life()
    }

    fn found(&mut self, membership: &Membership) -> Result<(), StorageError> {
        self.inner.found(membership)
    }

    fn write(&mut self, group: &[Persist]) -> Result<(), StorageError> {
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        match self.durability {
            Durability::Right => {
                writes.use_power()?;
                writes.durable.extend_from_slice(group);
            }
            Durability::NoSync => writes.unsynced.extend_from_slice(group),
            Durability::WriteByWrite => {
                for write in group {
                    writes.use_power()?;
                    writes.durable.push(write.clone());
                }
            }
        }
        self.inner.write(group)
    }

    fn compact(&mut self, through: LogPosition) -> Result<(), StorageError> {
        self.inner.compact(through)
    }

    fn reader(&self) -> MemoryLogReader {
        self.inner.reader()
    }
}

#[test]
fn the_kit_fails_stores_that_do_not_sync_or_tear_a_group() {
    let check = |durability| {
        told(|| check_log_store_crashes(move || Disk { durability, writes: Arc::default() }))
    };
    assert_eq!(check(Durability::Right), None);
    let told = check(Durability::NoSync).expect("a write that is lost");
    assert!(told.contains("survives the loss of power"), "{told}");
    let told = check(Durability::WriteByWrite).expect("half of a group");
    assert!(told.contains("as a whole or not at all"), "{told}");
}
