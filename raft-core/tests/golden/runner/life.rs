//! A core's life from one start to its end: what it was told is recorded, and can be lived again.

use raft_core::recording::{Record, Recorder, Replay};
use raft_core::{Action, Config, HandleError, Input, Instant, Raft, Restored};

use super::parse::Result;

/// What a core was told since it was built, and what it said to that.
pub(crate) struct Life {
    recorder: Recorder,
    outcomes: Vec<std::result::Result<(), HandleError>>,
    actions: Vec<Action>,
}

/// How much was lived again, and came out the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relived {
    pub(crate) inputs: usize,
    pub(crate) actions: usize,
}

impl Life {
    pub(crate) fn new(config: &Config, seed: u64, now: Instant, restored: &Restored) -> Life {
        let recorder = Recorder::new(config, seed, now, restored);
        Life { recorder, outcomes: Vec::new(), actions: Vec::new() }
    }

    pub(crate) fn handle(
        &mut self,
        raft: &mut Raft,
        now: Instant,
        input: Input,
    ) -> std::result::Result<(), HandleError> {
        self.recorder.record(now, &input);
        let outcome = raft.handle(now, input);
        self.outcomes.push(outcome.clone());
        outcome
    }

    pub(crate) fn drain(&mut self, raft: &mut Raft) -> Vec<Action> {
        let actions: Vec<Action> = std::iter::from_fn(|| raft.poll_action()).collect();
        self.recorder.drained();
        self.actions.extend(actions.iter().cloned());
        actions
    }

    /// Tells a fresh core the same. It must take and refuse the same, and do the same, one by one; and end as `raft` is now, if that still lives, to the last field.
    pub(crate) fn replay(&self, raft: Option<&Raft>) -> Result<Relived> {
        let recording = self.recorder.clone().take();
        let mut replay = Replay::new(&recording)?;
        let mut outcomes = self.outcomes.iter();
        let mut actions = self.actions.iter();
        let mut relived = Relived { inputs: 0, actions: 0 };
        for step in replay.by_ref() {
            let step = step?;
            if let Record::Input { input, .. } = &step.record {
                relived.inputs += 1;
                if outcomes.next() != Some(&step.outcome) {
                    return Err(format!(
                        "input {}, {input:?}, is answered otherwise: {:?}",
                        relived.inputs, step.outcome
                    )
                    .into());
                }
            }
            for action in &step.actions {
                relived.actions += 1;
                if actions.next() != Some(action) {
                    return Err(format!("action {} is another: {action:?}", relived.actions).into());
                }
            }
        }
        if outcomes.next().is_some() || actions.next().is_some() {
            return Err("the recording ends too early".into());
        }
        if raft.is_some_and(|raft| format!("{raft:?}") != format!("{:?}", replay.raft())) {
            return Err("all actions are the same, and the core's state is not".into());
        }
        Ok(relived)
    }
}
