//! A core whose life is recorded, and everything that it gave.

use std::ops::{Deref, DerefMut};

use raft_core::recording::Recorder;
use raft_core::{Action, Config, HandleError, Input, Instant, Raft, Restored};

/// Stands where a [`Raft`] would. What a test does to the core itself, through a reference, is not recorded.
pub struct Recorded {
    raft: Raft,
    recorder: Recorder,
    recording: Vec<u8>,
    pub actions: Vec<Action>,
}

impl Recorded {
    pub fn new(config: Config, seed: u64, now: Instant, restored: Restored) -> Recorded {
        let recorder = Recorder::new(&config, seed, now, &restored);
        let raft = Raft::new(config, seed, now, restored).expect("the disk is sound");
        Recorded { raft, recorder, recording: Vec::new(), actions: Vec::new() }
    }

    pub fn handle(&mut self, now: Instant, input: Input) -> Result<(), HandleError> {
        self.recorder.record(now, &input);
        self.raft.handle(now, input)
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.recorder.polled();
        let action = self.raft.poll_action();
        self.actions.extend(action.clone());
        action
    }

    /// Everything since the start.
    pub fn recording(&mut self) -> Vec<u8> {
        self.recording.extend(self.recorder.take());
        self.recording.clone()
    }
}

impl Deref for Recorded {
    type Target = Raft;

    fn deref(&self) -> &Raft {
        &self.raft
    }
}

impl DerefMut for Recorded {
    fn deref_mut(&mut self) -> &mut Raft {
        &mut self.raft
    }
}
