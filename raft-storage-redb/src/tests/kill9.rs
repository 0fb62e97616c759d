//! `kill -9` under load, with real files and a slow disk: every log opens, and holds what was acknowledged. `RAFT_KILL9_TIMES` says how
//! often; 300 times take some minutes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use raft_core::{Entries, Entry, HardState, Index, NodeId, Payload, Persist, Term, Ticket};
use raft_node::{LogReader as _, LogStore};
use redb::{BackendError, StorageBackend};

use crate::backend::LogFile;
use crate::journal::{Checkpoints, file as journal_file};
use crate::lives::FileMark;
use crate::{OpenError, Options, RedbLogStore};

/// Where the child works. Without it, it does nothing.
const FOLDER: &str = "RAFT_KILL9_FOLDER";
const TIMES: &str = "RAFT_KILL9_TIMES";
/// What stays of the log when it is compacted.
const KEPT: u64 = 2_000;

fn options(folder: &Path) -> Options {
    Options {
        // Small, so that it fills and commits go straight to the file, again and again.
        journal_bytes: 1 << 20,
        prefill_bytes: 0,
        ..Options::new(folder.join("log.redb"), [1; 16], NodeId(1))
    }
}

/// A file whose syncs take long.
#[derive(Clone, Debug)]
struct SlowSyncs(LogFile);

impl StorageBackend for SlowSyncs {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        std::thread::sleep(Duration::from_millis(150));
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.0.write(offset, data)
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.unlock_range(start, end)
    }
}

fn open_slowly(folder: &Path) -> Result<RedbLogStore, OpenError> {
    let options = options(folder);
    let journal = journal_file::open(&options)?.expect("made by the parent");
    let file = SlowSyncs(LogFile::open(&options.path, 0).expect("opened"));
    let mark = FileMark::of(&options.path).expect("marked");
    RedbLogStore::open_files(&options, file, journal, Checkpoints::Background, mark)
}

fn append(index: u64) -> Persist {
    // So large that what is brought into redb at once goes straight to the file.
    let length = 3_000 + (index % 800) as usize;
    let payload = Payload::Command(Bytes::from(vec![index as u8; length]));
    let entry = Entry { term: Term(1), index: Index(index), payload };
    Persist {
        ticket: Ticket(index),
        hard_state: Some(HardState { term: Term(1), vote: None, commit: Index(index - 1) }),
        reset: None,
        truncate_from: None,
        entries: Entries::try_from_vec(vec![entry]).expect("one"),
    }
}

/// Writes until it is killed, and says what is acknowledged.
#[test]
#[ignore = "the process that the test below kills"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let mut store = open_slowly(&folder).expect("opened");
    let restored = store.restore().expect("restored");
    let kept = Index(restored.last.0.saturating_sub(KEPT));
    if kept > restored.base.index {
        let position = raft_core::LogPosition { index: kept, term: Term(1) };
        store.compact(position).expect("compacted");
    }
    let mut out = std::io::stdout().lock();
    for index in restored.last.0 + 1.. {
        store.write(&[append(index)]).expect("written");
        // The parent may be gone: then so is the need for this process.
        if writeln!(out, "acknowledged {index}").and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

/// Lets a child write until it has acknowledged so many writes, kills it, and says which was the last that it acknowledged.
fn write_and_kill(folder: &Path, acknowledgements: u64) -> u64 {
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(program)
        .args(["--exact", "tests::kill9::child", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let acknowledged = lines.map_while(Result::ok).filter_map(|line| {
        line.strip_prefix("acknowledged ").and_then(|index| index.parse::<u64>().ok())
    });
    let (mut last, mut count) = (0, 0);
    for index in acknowledged {
        (last, count) = (index, count + 1);
        if count == acknowledgements {
            child.kill().expect("killed");
        }
    }
    child.wait().expect("ended");
    assert!(count >= acknowledgements, "the child ended by itself after {count} writes");
    last
}

/// What is wrong with the log that a killed process left.
fn look(folder: &Path, acknowledged: u64) -> Result<(), String> {
    let mut store = RedbLogStore::open(options(folder)).map_err(|error| error.to_string())?;
    let restored = store.restore().map_err(|error| error.to_string())?;
    if restored.last.0 < acknowledged {
        return Err(format!("it ends at {}, but {acknowledged} was acknowledged", restored.last));
    }
    let (reader, mut next) = (store.reader(), restored.base.index.next());
    while next <= restored.last {
        let read = reader.read(next, restored.last, 1 << 20).map_err(|error| error.to_string())?;
        for entry in read.iter() {
            if append(entry.index.0).entries.first() != Some(entry) {
                return Err(format!("entry {} is another", entry.index));
            }
        }
        next = read.last().map_or(next, |entry| entry.index).next();
    }
    Ok(())
}

#[test]
fn a_log_opens_after_kill_9_under_load_with_a_slow_disk() {
    let times = std::env::var(TIMES).ok().and_then(|times| times.parse().ok()).unwrap_or(5);
    let mut folder = tempfile::tempdir().expect("a folder");
    drop(RedbLogStore::open(options(folder.path())).expect("made"));
    let mut refused = Vec::new();
    for round in 0..times {
        let acknowledgements = 1 + (round * 7919) % 300;
        let acknowledged = write_and_kill(folder.path(), acknowledgements);
        if let Err(why) = look(folder.path(), acknowledged) {
            refused.push(format!("round {round}: {why}"));
            folder = tempfile::tempdir().expect("a folder");
            drop(RedbLogStore::open(options(folder.path())).expect("made"));
        }
    }
    assert!(refused.is_empty(), "{} of {times}: {refused:#?}", refused.len());
}
