//! Records what the core is told into a file, in the format of [`raft_core::recording`], so that what happened can be lived again at a desk. The driver
//! only encodes; a thread of its own writes. A recording that can not be written ends: the node goes on.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_core::recording::Recorder;
use raft_core::{Input, Instant};

use crate::config::RecordingConfig;
use crate::handover::Handover;
use crate::storage::CloseOnDrop;

/// More than this does not wait for the file: a disk that is too slow ends the recording.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// The driver's side.
pub(crate) struct Tape {
    recorder: Recorder,
    queue: Arc<Handover<Vec<u8>>>,
    /// How many bytes may still be recorded.
    left: u64,
    /// Something was told since the last poll.
    is_told: bool,
    is_over: bool,
}

impl Tape {
    pub(crate) fn new(recorder: Recorder, queue: Arc<Handover<Vec<u8>>>, bytes_max: u64) -> Tape {
        Tape { recorder, queue, left: bytes_max, is_told: true, is_over: false }
    }

    /// The core is about to be told this.
    pub(crate) fn record(&mut self, now: Instant, input: &Input) {
        if !self.is_over {
            self.recorder.record(now, input);
            self.is_told = true;
        }
    }

    /// The core was polled until it had nothing more to say.
    pub(crate) fn drained(&mut self) {
        if self.is_told && !self.is_over {
            self.is_told = false;
            self.recorder.drained();
            self.hand_over();
        }
    }

    /// What is handed over ends where a record does: so does the file, when there is no more room.
    fn hand_over(&mut self) {
        let bytes = self.recorder.take();
        let length = bytes.len();
        if length as u64 > self.left {
            self.end("it has its full length");
            return;
        }
        self.left -= length as u64;
        match self.queue.push(bytes, length) {
            Ok(fill) if fill.bytes > WAITING_BYTES_MAX => self.end("its disk is too slow"),
            Ok(_) => {}
            // The thread said why.
            Err(_) => self.is_over = true,
        }
    }

    fn end(&mut self, why: &'static str) {
        tracing::warn!("the recording ends here: {why}");
        self.is_over = true;
        self.queue.close();
    }
}

impl Drop for Tape {
    /// What the core was told last matters most, if it ended the driver.
    fn drop(&mut self) {
        if !self.is_over {
            self.hand_over();
        }
        self.queue.close();
    }
}

/// Makes the file. One that is there is kept under its name with `.1` after it, so that a restart does not lose what led to it.
pub(crate) fn create(config: &RecordingConfig) -> io::Result<File> {
    if config.file.exists() {
        std::fs::rename(&config.file, older(&config.file))?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    // It holds what the log holds.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(&config.file)
}

fn older(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// The thread's side: runs until the queue is closed and empty.
pub(crate) fn run(mut file: impl io::Write, queue: &Arc<Handover<Vec<u8>>>) {
    let _close = CloseOnDrop(Arc::clone(queue));
    let mut taken = VecDeque::new();
    while queue.take_all(&mut taken) {
        for bytes in taken.drain(..) {
            if let Err(error) = file.write_all(&bytes) {
                tracing::warn!(%error, "the recording ends here: it can not be written");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use raft_core::recording::{Recording, replay};
    use raft_core::{Config, Membership, NodeId, Restored};

    fn recorder() -> Recorder {
        let restored = Restored::founding(Membership::of_voters([NodeId(1)]));
        Recorder::new(&Config::new(NodeId(1)), 7, Instant(0), &restored)
    }

    fn written(queue: &Arc<Handover<Vec<u8>>>) -> Vec<u8> {
        let mut file = Vec::new();
        run(&mut file, queue);
        file
    }

    #[test]
    fn a_recording_ends_with_a_whole_record_at_its_full_length() {
        let queue = Arc::new(Handover::new());
        let mut tape = Tape::new(recorder(), Arc::clone(&queue), 200);
        for now in 0..1000 {
            tape.record(Instant(now), &Input::Timeout);
            tape.drained();
        }
        let file = written(&queue);
        assert!(file.len() <= 200 && file.len() > 150, "{}", file.len());
        let records: Vec<_> = Recording::read(&file).expect("a recording").collect();
        assert!(records.iter().all(Result::is_ok) && records.len() > 10);
    }

    #[test]
    fn what_was_told_last_is_there_when_the_driver_ends_before_it_polls() {
        let queue = Arc::new(Handover::new());
        let mut tape = Tape::new(recorder(), Arc::clone(&queue), 1 << 20);
        tape.drained();
        tape.record(Instant(3), &Input::ClockSuspect);
        drop(tape);
        let file = written(&queue);
        assert_eq!(Recording::read(&file).expect("a recording").count(), 2);
        assert!(replay(&file).is_ok());
    }

    #[test]
    fn a_disk_that_fails_ends_the_recording_alone() {
        struct Full;
        impl io::Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let queue = Arc::new(Handover::new());
        let mut tape = Tape::new(recorder(), Arc::clone(&queue), 1 << 20);
        tape.drained();
        run(Full, &queue);
        tape.record(Instant(3), &Input::ClockSuspect);
        tape.drained();
        assert!(tape.is_over);
        assert!(written(&queue).is_empty());
    }

    #[test]
    fn the_recording_before_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("node.rec");
        let config = RecordingConfig { file: file.clone(), bytes_max: 10 };
        for text in ["one", "two", "three"] {
            create(&config).expect("a file").write_all(text.as_bytes()).expect("written");
        }
        assert_eq!(std::fs::read_to_string(&file).expect("read"), "three");
        assert_eq!(std::fs::read_to_string(older(&file)).expect("read"), "two");
    }
}
