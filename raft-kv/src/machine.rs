//! The state machine that `raft-node` drives: the state in memory, and checkpoints of it in the background.

use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use raft_core::{Entry, Payload, SnapshotMeta};
use raft_node::{CheckpointDone, MachineError, SnapshotSource, StateMachine};

use crate::command::{Command, Response};
use crate::query::{Answer, Query, Stats};
use crate::snapshot::SnapshotStream;
use crate::state::{Changes, State};
use crate::state_file::{StateFile, StateFileError, StateFileOptions};
use crate::stream::read_stream;

/// The replicated key-value store of one node.
///
/// Commands are applied to memory and answered from it; a checkpoint hands what has changed to a thread that writes it to the state
/// file in one transaction. After a restart the file is loaded and the log's tail applied again.
#[derive(Debug)]
pub struct KvMachine {
    state: State,
    applied: u64,
    file: Arc<StateFile>,
    /// What the file held when it was opened; handed out by `restore`.
    restored: Option<SnapshotMeta>,
    writer: Writer,
}

impl KvMachine {
    /// Opens the state file, creating it if there is none, and loads what it holds.
    ///
    /// # Errors
    /// [`StateFileError`] if the file can not be used; nothing was modified then.
    pub fn open(options: &StateFileOptions) -> Result<KvMachine, StateFileError> {
        let file = Arc::new(StateFile::open(options)?);
        let (restored, state) = match file.load()? {
            Some((meta, state)) => (Some(meta), state),
            None => (None, State::default()),
        };
        let applied = restored.as_ref().map_or(0, |meta| meta.position.index.0);
        let writer = Writer::start(Arc::clone(&file));
        Ok(KvMachine { state, applied, file, restored, writer })
    }

    fn stats(&self) -> Stats {
        Stats {
            applied: self.applied,
            revision: self.state.revision,
            keys: self.state.len() as u64,
            sessions: self.state.sessions.len() as u64,
            digest: self.state.digest,
        }
    }
}

impl StateMachine for KvMachine {
    type Response = Response;
    type Query = Query;
    type Answer = Answer;

    /// Everything is in memory; the disk's part is the writer's.
    const IS_QUICK: bool = true;

    fn is_quick(query: &Query) -> bool {
        match query {
            Query::Get { .. } | Query::Stats | Query::Scan { .. } => true,
            // Long ones.
            Query::Range { .. } | Query::ScanPage(_) => false,
        }
    }

    fn restore(&mut self) -> Result<Option<SnapshotMeta>, MachineError> {
        Ok(self.restored.clone())
    }

    fn apply(
        &mut self,
        entries: &[Entry],
        responses: &mut Vec<Response>,
    ) -> Result<(), MachineError> {
        for entry in entries {
            self.applied = entry.index.0;
            if let Payload::Command(command) = &entry.payload {
                responses.push(self.state.apply(entry.index.0, Command::decode(command)));
            }
        }
        Ok(())
    }

    fn query(&self, query: Query) -> Answer {
        match query {
            Query::Get { key } => Answer::Value(self.state.get(&key)),
            Query::Range { start, end, limit, keys_only } => {
                let (records, has_more) =
                    self.state.range(&start, end.as_deref(), limit, keys_only);
                Answer::Page { records, has_more }
            }
            Query::Stats => Answer::Stats(self.stats()),
            Query::Scan { start, kept_bytes_max } => {
                Answer::Scan(self.state.scan(&start, kept_bytes_max))
            }
            Query::ScanPage(scan) => Answer::Scanned(self.state.scan_page(&scan)),
        }
    }

    fn checkpoint(&mut self, meta: SnapshotMeta, done: CheckpointDone) -> Result<(), MachineError> {
        let changes = self.state.take_changes();
        self.writer.submit(Job { meta, changes, done })
    }

    fn open_snapshot(&self) -> Result<Option<SnapshotSource>, MachineError> {
        let opened = SnapshotStream::open(&self.file)
            .map_err(|error| failed("a snapshot can not be opened", error))?;
        Ok(opened.map(|(meta, stream)| SnapshotSource { meta, data: Box::new(stream) }))
    }

    fn install_snapshot(
        &mut self,
        meta: SnapshotMeta,
        data: &mut dyn Read,
    ) -> Result<(), MachineError> {
        let data = std::io::BufReader::with_capacity(256 << 10, data);
        // Checked in full before anything is replaced by it.
        let state = read_stream(data)
            .and_then(|received| received.into_state(&meta))
            .map_err(|error| MachineError::new(error.to_string()))?;
        // A checkpoint that is being written would come out on top of the new state.
        self.writer.wait_until_idle();
        self.file
            .replace(meta.clone(), &state)
            .map_err(|error| failed("a snapshot can not be installed", error))?;
        self.applied = meta.position.index.0;
        self.state = state;
        Ok(())
    }
}

fn failed(what: &str, error: StateFileError) -> MachineError {
    MachineError { message: format!("{what}: {error}"), source: Some(Box::new(error)) }
}

/// A checkpoint to write.
struct Job {
    meta: SnapshotMeta,
    changes: Changes,
    done: CheckpointDone,
}

/// The thread that writes checkpoints.
#[derive(Debug)]
struct Writer {
    /// `None` only while dropping.
    jobs: Option<SyncSender<Job>>,
    idle: Receiver<()>,
    is_busy: std::cell::Cell<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(file: Arc<StateFile>) -> Writer {
        // One job at a time, so room for one job and one report is enough for neither side ever to wait.
        let (jobs, queue) = sync_channel::<Job>(1);
        let (report_idle, idle) = sync_channel(1);
        let run = move || {
            for Job { meta, changes, done } in queue {
                let result = file
                    .save(meta, changes)
                    .map_err(|error| failed("a checkpoint can not be written", error));
                if report_idle.send(()).is_err() {
                    return;
                }
                done.report(result);
            }
        };
        let thread = std::thread::Builder::new().name("kv-checkpoint".into()).spawn(run).ok();
        Writer { jobs: Some(jobs), idle, is_busy: std::cell::Cell::new(false), thread }
    }

    fn submit(&self, job: Job) -> Result<(), MachineError> {
        self.wait_until_idle();
        self.is_busy.set(true);
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if sent {
            Ok(())
        } else {
            Err(MachineError::new("the checkpoint thread is gone: restart the node"))
        }
    }

    fn wait_until_idle(&self) {
        if self.is_busy.replace(false) {
            let _ = self.idle.recv();
        }
    }
}

impl Drop for Writer {
    /// Lets the checkpoint that is being written finish, so that nobody opens the file while it is still in use.
    fn drop(&mut self) {
        self.jobs = None;
        self.is_busy.set(false);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, SessionId, Write, WriteOutcome};
    use raft_core::{Index, LogPosition, Membership, NodeId, Term};
    use std::path::Path;

    const SESSION: SessionId = SessionId(7);

    fn options(folder: &Path) -> StateFileOptions {
        StateFileOptions::new(folder.join("state.redb"), [1; 16], NodeId(1))
    }

    fn entry(index: u64, command: &Command<'_>) -> Entry {
        Entry { term: Term(1), index: Index(index), payload: Payload::Command(command.encode()) }
    }

    fn put(sequence: u64, key: &str, value: &str) -> Entry {
        let write = Write::Put { key: key.as_bytes(), value: value.as_bytes() };
        entry(sequence + 2, &Command::Write { session: SESSION, sequence, acked_below: 0, write })
    }

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta {
            position: LogPosition { index: Index(index), term: Term(1) },
            membership: Membership::of_voters([NodeId(1)]).into(),
        }
    }

    fn apply(machine: &mut KvMachine, entries: &[Entry]) -> Vec<Response> {
        let mut responses = Vec::new();
        machine.apply(entries, &mut responses).unwrap();
        responses
    }

    fn checkpoint(machine: &mut KvMachine) {
        let (tell, told) = std::sync::mpsc::channel();
        let meta = meta(machine.applied);
        machine
            .checkpoint(meta, CheckpointDone::new(move |result| tell.send(result).unwrap()))
            .unwrap();
        told.recv().unwrap().unwrap();
    }

    fn filled(folder: &Path, writes: u64) -> KvMachine {
        let mut machine = KvMachine::open(&options(folder)).unwrap();
        apply(&mut machine, &[entry(1, &Command::OpenSession { session: SESSION })]);
        for sequence in 0..writes {
            apply(
                &mut machine,
                &[put(sequence, &format!("key {}", sequence % 50), &format!("value {sequence}"))],
            );
        }
        machine
    }

    #[test]
    fn a_restart_is_at_the_last_checkpoint_and_the_log_brings_it_up_to_date() {
        // scenario 43 (etcd 13766): the applied index is atomic with the data
        let folder = tempfile::tempdir().unwrap();
        let mut machine = filled(folder.path(), 100);
        checkpoint(&mut machine);
        let at_checkpoint = machine.stats();
        let tail: Vec<Entry> = (100..150).map(|sequence| put(sequence, "key 3", "late")).collect();
        apply(&mut machine, &tail);
        let at_end = machine.stats();
        drop(machine);

        let mut machine = KvMachine::open(&options(folder.path())).unwrap();
        assert_eq!(machine.restore().unwrap(), Some(meta(101)));
        assert_eq!(machine.stats(), at_checkpoint);
        apply(&mut machine, &tail);
        assert_eq!(machine.stats(), at_end);
        checkpoint(&mut machine);
        drop(machine);
        assert_eq!(KvMachine::open(&options(folder.path())).unwrap().stats(), at_end);
    }

    #[test]
    fn a_retry_after_a_restart_is_applied_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = filled(folder.path(), 10);
        checkpoint(&mut machine);
        let before = machine.stats();
        drop(machine);
        let mut machine = KvMachine::open(&options(folder.path())).unwrap();
        let again = apply(&mut machine, &[put(4, "key 4", "value 4")]);
        assert_eq!(again, [Response::Written(WriteOutcome::Put { revision: 5 })]);
        assert_eq!(
            (machine.stats().digest, machine.stats().revision),
            (before.digest, before.revision)
        );
    }

    #[test]
    fn a_snapshot_makes_another_machine_equal_and_outlives_later_checkpoints() {
        let (folder, other_folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut machine = filled(folder.path(), 200);
        checkpoint(&mut machine);
        let expected = machine.stats();
        let mut source = machine.open_snapshot().unwrap().unwrap();
        apply(&mut machine, &[put(200, "key 9", "changed")]);
        checkpoint(&mut machine);

        let mut other = filled(other_folder.path(), 3);
        other.install_snapshot(source.meta.clone(), &mut source.data).unwrap();
        assert_eq!(other.stats(), expected);
        let retried = apply(&mut other, &[put(7, "key 7", "value 7")]);
        assert_eq!(
            retried,
            [Response::Written(WriteOutcome::Put { revision: 8 })],
            "sessions travel along"
        );
        drop(other);
        let options = StateFileOptions {
            path: other_folder.path().join("state.redb"),
            ..options(folder.path())
        };
        assert_eq!(KvMachine::open(&options).unwrap().stats(), expected);
    }

    #[test]
    fn a_dump_that_nobody_reads_on_holds_no_pages_of_the_file() {
        // scenario 51 (etcd 18509): one stopped reader, and the file grew by all that was written meanwhile
        let folder = tempfile::tempdir().unwrap();
        let mut machine = filled(folder.path(), 50);
        let overwrite = |machine: &mut KvMachine, rounds: std::ops::Range<u64>| {
            for round in rounds {
                for number in 0..50 {
                    let value = format!("{round:04000}");
                    let sequence = 50 * round + number;
                    apply(machine, &[put(sequence, &format!("key {number}"), &value)]);
                }
                checkpoint(machine);
            }
            std::fs::metadata(folder.path().join("state.redb")).unwrap().len()
        };
        let before = overwrite(&mut machine, 1..10);
        let begin = Query::Scan { start: "".into(), kept_bytes_max: 1 << 20 };
        let Answer::Scan(scan) = machine.query(begin) else { panic!("another answer") };
        let after = overwrite(&mut machine, 10..60);
        // All that was written meanwhile is 10 MB.
        assert!(after <= 4 * before, "{before} bytes, then {after}");
        let Answer::Scanned(Ok(page)) = machine.query(Query::ScanPage(scan)) else {
            panic!("it was ended")
        };
        assert_eq!(page.records.len(), 50);
        assert!(page.records.iter().all(|record| record.record.value.ends_with(b"09")));
    }

    #[test]
    fn two_streams_of_one_checkpoint_are_equal() {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = filled(folder.path(), 60);
        checkpoint(&mut machine);
        let read = || {
            let mut bytes = Vec::new();
            machine.open_snapshot().unwrap().unwrap().data.read_to_end(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(read(), read());
    }

    #[test]
    fn a_malformed_snapshot_leaves_the_old_state() {
        let (folder, other_folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut machine = filled(folder.path(), 60);
        checkpoint(&mut machine);
        let mut bytes = Vec::new();
        let mut source = machine.open_snapshot().unwrap().unwrap();
        source.data.read_to_end(&mut bytes).unwrap();
        let mut other = filled(other_folder.path(), 3);
        let before = other.stats();
        for cut in (0..bytes.len()).step_by(7) {
            assert!(other.install_snapshot(source.meta.clone(), &mut &bytes[..cut]).is_err());
        }
        assert!(other.install_snapshot(meta(9), &mut &bytes[..]).is_err());
        let mut lying = bytes.clone();
        let value = lying.windows(8).position(|window| window == b"value 59").unwrap();
        lying[value] = b'V';
        let error = other.install_snapshot(source.meta.clone(), &mut &lying[..]).unwrap_err();
        assert!(error.to_string().contains("digest"), "{error}");
        assert_eq!(other.stats(), before);
        checkpoint(&mut other);
        drop(other);
        let reopened = KvMachine::open(&options(other_folder.path())).unwrap();
        assert_eq!(reopened.stats(), before, "the file was not changed either");
    }

    #[test]
    fn what_can_be_wrong_with_a_file_is_told_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = filled(folder.path(), 60);
        checkpoint(&mut machine);
        let own = options(folder.path());
        assert!(matches!(KvMachine::open(&own), Err(StateFileError::InUse { .. })));
        drop(machine);
        let other_cluster = StateFileOptions { cluster: [2; 16], ..own.clone() };
        assert!(matches!(KvMachine::open(&other_cluster), Err(StateFileError::OtherOwner { .. })));
        let other_node = StateFileOptions { node: NodeId(2), ..own.clone() };
        assert!(matches!(KvMachine::open(&other_node), Err(StateFileError::OtherOwner { .. })));
        let whole = std::fs::read(&own.path).unwrap();
        for keep in [0, 5, 100, 4096, 9000] {
            std::fs::write(&own.path, &whole[..keep.min(whole.len())]).unwrap();
            assert!(KvMachine::open(&own).is_err(), "{keep} bytes of {}", whole.len());
        }
        std::fs::write(&own.path, b"something else entirely, and long enough").unwrap();
        assert!(matches!(KvMachine::open(&own), Err(StateFileError::Damaged { .. })));
        std::fs::write(&own.path, &whole).unwrap();
        assert_eq!(KvMachine::open(&own).unwrap().stats().keys, 50);
        let missing =
            StateFileOptions { path: folder.path().join("no/such/folder/state.redb"), ..own };
        assert!(matches!(KvMachine::open(&missing), Err(StateFileError::Io { .. })));
    }

    #[test]
    fn bytes_flipped_in_the_file_never_pass_for_another_state() {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = filled(folder.path(), 60);
        checkpoint(&mut machine);
        let (expected, own) = (machine.stats(), options(folder.path()));
        drop(machine);
        let whole = std::fs::read(&own.path).unwrap();
        for at in (0..whole.len()).step_by(4093) {
            let mut torn = whole.clone();
            torn[at] ^= 0xA5;
            std::fs::write(&own.path, &torn).unwrap();
            if let Ok(machine) = KvMachine::open(&own) {
                assert_eq!(machine.stats(), expected, "a flip at {at} went unnoticed");
            }
        }
    }
}
