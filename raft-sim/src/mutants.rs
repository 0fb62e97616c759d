//! Seeded bugs in the disks, machines and networks of simulated nodes: each breaks one rule that a driver must keep, and the checkers must notice.
//! `cargo xtask recall` checks that, along with the seeded bugs of `raft-core` and those of the rules that all drivers share (`raft_node::order`).
//!
//! They exist only in builds with `--cfg raft_mutants`, where the environment variable `RAFT_SIM_MUTANT` names the one that is active; everywhere
//! else [`Mutant::is_active`] is the constant `false`. `cargo xtask recall` reads the names from here.

/// Whether a seeded bug is active.
macro_rules! mutated {
    ($name:ident) => {
        $crate::mutants::Mutant::$name.is_active()
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

    /// A write is reported as durable as soon as it is handed to the disk.
    PersistedReportedAtOnce,
    /// The disk loses the end of its log in a crash, though it was durable.
    DurableEntryLostInACrash,
    /// A write leaves the vote out.
    VoteNotWritten,
    /// A log that is replaced by a snapshot keeps its entries.
    ResetKeepsOldEntries,

    // Starting.

    /// The vote is not given back to the core after a restart.
    VoteNotRestored,
    /// Everything on the disk is taken for committed after a restart.
    EverythingRestoredAsCommitted,
    /// What an earlier life waited for is told to the next one.
    AnswersOfAnEarlierLife,
    /// A disk that was wiped keeps its identity.
    WipedDiskKeepsItsIdentity,

    // The machine.

    /// One entry more is applied than is committed.
    AppliedPastCommit,
    /// After a restart the machine's state is ahead of the place from which entries are applied: they are applied twice.
    AppliedTwiceAfterARestart,
    /// A checkpoint's data is of a later place than it says.
    CheckpointCutAtAnotherPlace,
    /// A checkpoint carries the configuration of a later place.
    CheckpointOfALaterConfiguration,
    /// The log is cut beyond the machine's checkpoint.
    CompactedPastTheCheckpoint,
    /// A snapshot is installed without its state: the place moves on, the data stays.
    InstalledWithoutItsState,
    /// A crash in the middle of an installation leaves the new place with the old data.
    InstallationNotAtomic,
    /// A stream that broke is taken for a whole snapshot.
    BrokenStreamTakenForWhole,

    // Answers, time and the network.

    /// What is fetched is always short of its first entry.
    FetchStartsLate,
    /// A suspended machine goes on without being told that its clock stood still.
    SuspensionNotNoticed,
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

    /// Whether `RAFT_SIM_MUTANT` names this one.
    ///
    /// # Panics
    /// If it names none of the list: a misspelt mutant would pass for one that no checker notices.
    #[cfg(raft_mutants)]
    pub(crate) fn is_active(self) -> bool {
        static CHOSEN: std::sync::OnceLock<Option<Mutant>> = std::sync::OnceLock::new();
        let choose = || {
            let name = std::env::var("RAFT_SIM_MUTANT").ok().filter(|name| !name.is_empty())?;
            let chosen = Self::ALL.iter().copied().find(|mutant| mutant.name() == name);
            Some(chosen.unwrap_or_else(|| panic!("RAFT_SIM_MUTANT={name}: no such mutant")))
        };
        *CHOSEN.get_or_init(choose) == Some(self)
    }
}
