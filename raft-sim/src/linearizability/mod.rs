//! Is a history of concurrent operations linearizable? A checker that knows nothing of Raft, of logs or of indexes: only what clients asked,
//! when, and what they were told. It can be used for any system that has a sequential [`Model`].
//!
//! The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993) with Lowe's memory of configurations ("Testing for
//! linearizability", 2017): operations are taken in every order that respects real time, and a set of operations already taken, together
//! with the state that it led to, is never looked at twice. Operations on different keys do not concern each other (Herlihy and Wing, 1990: linearizability
//! is local), so that a history is best [split](partition) first.
//!
//! An operation whose outcome is unknown (its client gave up, or was killed) stays open to infinity: it may have taken effect at any time after its
//! call, or never.
//!
//! ```
//! use raft_sim::linearizability::{Limits, Model, Operation, check};
//!
//! /// A register that can be read and written.
//! struct Register;
//! impl Model for Register {
//!     type State = u32;
//!     type Input = Option<u32>; // `Some` writes, `None` reads
//!     type Output = u32;
//!     fn initial(&self) -> u32 { 0 }
//!     fn step(&self, state: &u32, input: &Option<u32>, output: Option<&u32>) -> Option<u32> {
//!         match input {
//!             Some(value) => Some(*value),
//!             None => output.is_none_or(|seen| seen == state).then_some(*state),
//!         }
//!     }
//! }
//!
//! let write = Operation { call: 0, input: Some(7), result: Some((10, 7)) };
//! let read = |call, seen| Operation { call, input: None, result: Some((call + 1, seen)) };
//! assert!(check(&Register, &[write.clone(), read(3, 0), read(5, 7)], Limits::default()).is_ok());
//! // What one reader has seen, no later one may miss.
//! assert!(check(&Register, &[write, read(3, 7), read(5, 0)], Limits::default()).is_err());
//! ```

mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hash;

pub use search::{check, is_linearization};

/// What a system does when one operation comes after the other.
pub trait Model {
    /// Everything that later answers depend on.
    type State: Clone + Eq + Hash;
    /// What a client asks.
    type Input;
    /// What it is told.
    type Output;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// The state after `input`, if a system in `state` could have answered `output` (anything, if that is `None`: unknown);
    /// `None` if it could not.
    fn step(
        &self,
        state: &Self::State,
        input: &Self::Input,
        output: Option<&Self::Output>,
    ) -> Option<Self::State>;

    /// Whether [`Model::step`] leads anywhere. For models that can say so with less work, of operations that change nothing.
    fn fits(
        &self,
        state: &Self::State,
        input: &Self::Input,
        output: Option<&Self::Output>,
    ) -> bool {
        self.step(state, input, output).is_some()
    }

    /// Whether `input` never changes the state, whatever that is, if it is answered so: a read, or a comparison that failed. To know of
    /// them makes searches much shorter.
    fn changes_nothing(&self, input: &Self::Input, output: &Self::Output) -> bool {
        let _ = (input, output);
        false
    }

    /// Where `input` stands among all operations that change the state, if its answer says so: a revision, a version, an offset in a log. Of two operations with
    /// positions the one with the lower took effect first; whoever was told otherwise was told something wrong. With it, a history of many thousand
    /// operations is searched in little more than one step each: only those that say nothing of their place leave a choice.
    fn position(&self, input: &Self::Input, output: &Self::Output) -> Option<u64> {
        let _ = (input, output);
        None
    }
}

/// One operation as its client saw it. Times are numbers of one clock that all clients share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<I, O> {
    /// When it was asked.
    pub call: u64,
    /// What was asked.
    pub input: I,
    /// When it was answered, and what; `None` if it never was: it may or may not have taken effect, at any later time.
    pub result: Option<(u64, O)>,
}

/// How long to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most steps of the model that are tried. A number rather than a time, so that the verdict is the same everywhere.
    pub steps_max: u64,
}

impl Default for Limits {
    /// Ten million steps: some seconds.
    fn default() -> Limits {
        Limits { steps_max: 10_000_000 }
    }
}

/// Why a history was not found to be linearizable. Running out of steps is a failure too: nothing was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotLinearizable {
    /// No order of the operations explains the answers.
    Impossible {
        /// The longest order that explains a beginning, as indexes into the history.
        explained: Vec<usize>,
        /// The operations that could come next by time, none of which fits after it.
        stuck_at: Vec<usize>,
    },
    /// The search was too long.
    OutOfSteps {
        /// How many steps were tried.
        steps: u64,
    },
    /// An operation was answered before it was asked.
    AnsweredBeforeAsked {
        /// Which one.
        operation: usize,
    },
}

/// More operations than this are not named in words.
const NAMED_MAX: usize = 20;

impl fmt::Display for NotLinearizable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotLinearizable::Impossible { explained, stuck_at } => {
                let end = &explained[explained.len().saturating_sub(NAMED_MAX)..];
                let stuck_at = &stuck_at[..stuck_at.len().min(NAMED_MAX)];
                write!(
                    f,
                    "no order explains the answers: at best {} operations in an order that ends with {end:?}, after which none of {stuck_at:?} fits",
                    explained.len()
                )
            }
            NotLinearizable::OutOfSteps { steps } => {
                write!(f, "undecided after {steps} steps: split the history, or allow more")
            }
            NotLinearizable::AnsweredBeforeAsked { operation } => {
                write!(f, "operation {operation} was answered before it was asked")
            }
        }
    }
}

impl std::error::Error for NotLinearizable {}

/// Splits a history by what its operations are about; each part can be checked by itself if no operation concerns two of them.
pub fn partition<K: Ord, I: Clone, O: Clone>(
    history: &[Operation<I, O>],
    key: impl Fn(&I) -> K,
) -> BTreeMap<K, Vec<Operation<I, O>>> {
    let mut parts: BTreeMap<K, Vec<Operation<I, O>>> = BTreeMap::new();
    for operation in history {
        parts.entry(key(&operation.input)).or_default().push(operation.clone());
    }
    parts
}
