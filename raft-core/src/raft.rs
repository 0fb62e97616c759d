//! The protocol's entry point.

use crate::{Action, Config, HandleError, Input, Instant, RestoreError, Restored, Status};

/// One member of one group.
#[derive(Debug)]
pub struct Raft {
    _config: Config,
}

impl Raft {
    /// Builds a member from what its disk holds. `now` starts its election timer; equal `seed`s and inputs give equal actions.
    ///
    /// # Errors
    /// [`RestoreError`] if the configuration can not work or the restored state contradicts itself.
    pub fn new(
        config: Config,
        seed: u64,
        now: Instant,
        restored: Restored,
    ) -> Result<Raft, RestoreError> {
        let _ = (seed, now, restored);
        config.validate()?;
        Ok(Raft { _config: config })
    }

    /// Takes one fact from the world. Drain [`Raft::poll_action`] afterwards, after one input or after many.
    ///
    /// # Errors
    /// [`HandleError`] if the input breaks the rules. The core stays usable.
    pub fn handle(&mut self, now: Instant, input: Input) -> Result<(), HandleError> {
        let _ = (now, input);
        Ok(())
    }

    /// The next thing to do; `None` once all is drained.
    pub fn poll_action(&mut self) -> Option<Action> {
        None
    }

    /// When to call [`Raft::handle`] with [`Input::Timeout`] at the latest; `None` if nothing waits for time.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// A view of this member.
    pub fn status(&self) -> Status {
        unreachable!("filled in with the protocol")
    }
}
