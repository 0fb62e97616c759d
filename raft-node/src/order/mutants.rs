//! Seeded bugs of the driver's rules: each breaks one promise of this module, and the simulator, which drives its members by the same code, must notice.
//!
//! They exist only in builds with `--cfg raft_mutants`, where the environment variable `RAFT_NODE_MUTANT` names the one that is active; everywhere
//! else [`Mutant::is_active`] is the constant `false`. `cargo xtask recall` reads the names from here.

/// Whether a seeded bug is active.
macro_rules! mutated {
    ($name:ident) => {
        $crate::order::mutants::Mutant::$name.is_active()
    };
}
pub(crate) use mutated;

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The list.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Mutant {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Mutant {
            #[cfg(raft_mutants)]
            const ALL: &[Mutant] = &[$(Mutant::$name),+];

            #[cfg(raft_mutants)]
            const fn name(self) -> &'static str {
                match self {
                    $(Mutant::$name => stringify!($name)),+
                }
            }
        }
    };
}

mutants! {
    // Writing.

    /// Writes of one group reach the disk last one first.
    WritesOutOfOrder,
    /// Writes are reported as durable though nothing was written.
    ReportedThoughNotWritten,
    /// Writes are reported as durable though their commit failed.
    FailedWriteReported,

    // The machine.

    /// Of entries to apply, those that are not in memory are left out.
    EndAppliedAlone,
    /// A snapshot is installed while a checkpoint is being made.
    InstalledDuringACheckpoint,
    /// Small work is done at once, though what was handed over before waits.
    LaneOvertaken,

    // Answers.

    /// A read is answered from what happens to be applied, without waiting for its index.
    ReadDoesNotWaitForItsIndex,
    /// A batch is answered with the responses of commands before it.
    ResponsesOfOthers,

    // Snapshots on their way.

    /// Another snapshot is streamed than was offered.
    AnotherSnapshotStreamed,
    /// Whatever arrives is taken for the snapshot that was asked for.
    AnyStreamBelieved,
    /// A chunk is appended though its checksum does not fit.
    ChunkChecksumNotChecked,
    /// A snapshot is taken for whole though its digest does not fit.
    DigestNotChecked,
    /// A chunk is appended though it does not start where the last one ended.
    ChunkOffsetNotChecked,
}

impl Mutant {
    /// Whether this one was chosen: never, outside a build for mutants.
    #[cfg(not(raft_mutants))]
    #[inline(always)]
    #[allow(
        clippy::inline_always,
        clippy::unused_self,
        reason = "a constant, also without optimization"
    )]
    pub(crate) const fn is_active(self) -> bool {
        false
    }

    /// Whether `RAFT_NODE_MUTANT` names this one.
    ///
    /// # Panics
    /// If it names none of the list: a misspelt mutant would pass for one that no checker notices.
    #[cfg(raft_mutants)]
    pub(crate) fn is_active(self) -> bool {
        static CHOSEN: std::sync::OnceLock<Option<Mutant>> = std::sync::OnceLock::new();
        let choose = || {
            let name = std::env::var("RAFT_NODE_MUTANT").ok().filter(|name| !name.is_empty())?;
            let chosen = Self::ALL.iter().copied().find(|mutant| mutant.name() == name);
            Some(chosen.unwrap_or_else(|| panic!("RAFT_NODE_MUTANT={name}: no such mutant")))
        };
        *CHOSEN.get_or_init(choose) == Some(self)
    }
}
