//! Seeded bugs of the state machine: each takes one of its guards out, and the simulator must notice.
//!
//! They exist only in builds with `--cfg raft_mutants`, where the environment variable `RAFT_KV_MUTANT` names the one that is active
//! (`RAFT_MUTANT` is for those of `raft-core`). In every other build [`Mutant::is_active`] is the constant `false`.

/// Whether a seeded bug is active: `if mutated!(RetryAppliedTwice) { … }`.
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
    /// A write that is sent again is applied again. Dissertation §6.3.
    RetryAppliedTwice,
    /// A write's outcome is not remembered: its number in the session is not taken. Dissertation §6.3.
    OutcomeNotRemembered,
    /// A snapshot leaves the sessions away. Dissertation §6.3.
    SessionsMissingInSnapshot,
    /// A checkpoint does not learn of deleted keys: they are back after a restart.
    DeleteForgottenByCheckpoint,
    /// A checkpoint misses sessions that only wrote, without having been opened since the last one.
    SessionOfAWriteNotCheckpointed,
    /// A compare-and-set takes any value for the expected one.
    CompareTakesAnyValue,
    /// A compare-and-set looks at the revision of the creation, not at that of the last modification.
    CompareLooksAtTheCreation,
    /// An outcome is forgotten one number too early: while its client may still ask.
    OutcomeForgottenTooEarly,
    /// A restored state counts its revisions from those of its records, not from the snapshot's.
    RevisionGoesBackOnRestore,
    /// A put to a key that exists starts its version anew.
    VersionStartsAnew,
    /// A read of one key is answered from the last checkpoint.
    ReadFromTheCheckpoint,
}

impl Mutant {
    /// Whether this one is active: never, in this build.
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

    /// Whether `RAFT_KV_MUTANT` names this one.
    ///
    /// # Panics
    /// If it names none of the list: a misspelt mutant would pass for one that nobody catches.
    #[cfg(raft_mutants)]
    pub(crate) fn is_active(self) -> bool {
        static CHOSEN: std::sync::OnceLock<Option<Mutant>> = std::sync::OnceLock::new();
        let choose = || {
            let name = std::env::var("RAFT_KV_MUTANT").ok().filter(|name| !name.is_empty())?;
            let chosen = Self::ALL.iter().copied().find(|mutant| mutant.name() == name);
            Some(chosen.unwrap_or_else(|| panic!("RAFT_KV_MUTANT={name}: no such mutant")))
        };
        *CHOSEN.get_or_init(choose) == Some(self)
    }
}
