//! Runs one seed and says what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustc_hash::FxHashMap;

use crate::timeline::Mark;
use crate::world::Observer;
use crate::{Case, Machine, Violation, World};

/// How often each thing happened. Faults that never fire test nothing, so runs report them.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// By where the name lies, since that is told apart faster than what it says; the same name may lie in several places.
    counts: FxHashMap<(usize, usize), (&'static str, u64)>,
    highest: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// Counts one.
    pub fn hit(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// Counts several.
    pub fn add(&mut self, what: &'static str, count: u64) {
        let place = (what.as_ptr().addr(), what.len());
        self.counts.entry(place).or_insert((what, 0)).1 += count;
    }

    /// Keeps the highest value instead of a count.
    pub fn highest(&mut self, what: &'static str, value: u64) {
        let before = self.highest.entry(what).or_default();
        *before = (*before).max(value);
    }

    /// Adds all of another run's counts.
    pub fn merge(&mut self, other: &Coverage) {
        for (what, count) in other.counts.values() {
            self.add(what, *count);
        }
        for (what, value) in &other.highest {
            self.highest(what, *value);
        }
    }

    /// How often `what` happened.
    pub fn count(&self, what: &str) -> u64 {
        let all = self.counts.values().filter(|(name, _)| *name == what);
        all.map(|(_, count)| count).sum()
    }

    /// All counts, by name, and then the highest values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
        for (what, count) in self.counts.values() {
            *counts.entry(what).or_default() += count;
        }
        counts.into_iter().chain(self.highest.iter().map(|(what, value)| (*what, *value)))
    }
}

impl PartialEq for Coverage {
    fn eq(&self, other: &Coverage) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Coverage {}

/// A property that did not hold, with the seed that shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// When, in virtual microseconds.
    pub at_us: u64,
    /// What.
    pub violation: Violation,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: at {} us: {}", self.seed, self.at_us, self.violation)
    }
}

/// What came of one run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// A hash over every action of every node, in order: equal for equal seeds.
    pub hash: u64,
    /// How long the run was, in virtual microseconds.
    pub simulated_us: u64,
    /// What happened in it.
    pub coverage: Coverage,
    /// The first property that did not hold.
    pub failure: Option<Failure>,
}

/// Runs one seed with the standard machine.
pub fn run_seed(seed: u64) -> Outcome {
    Case::of_seed(seed).run(None)
}

/// Runs a case with a state machine of the caller's choice, and tells `observer` of every moment. A panic in the core is a failure like any other.
pub fn run_case<M: Machine>(case: &Case, observer: Option<Observer<'_>>) -> Outcome {
    run_world(World::<M>::with_plan(case.seed, case.plan.clone(), case.rng(), observer))
}

fn run_world<M: Machine>(mut world: World<'_, M>) -> Outcome {
    let seed = world.seed;
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match result {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("a panic without a message");
            Some(Violation { rule: "no panic", detail: text.to_owned() })
        }
    };
    if let Some(violation) = &violation {
        world.mark(Mark::Broken, None, || {
            let words: Vec<String> =
                violation.to_string().split_whitespace().map(str::to_owned).collect();
            format!("BROKEN {}", words.join(" "))
        });
    }
    let at_us = world.now_us();
    Outcome {
        seed,
        hash: world.hash(),
        simulated_us: at_us,
        coverage: world.coverage(),
        failure: violation.map(|violation| Failure { seed, at_us, violation }),
    }
}

/// Runs a case with the standard machine; see [`run_case`].
pub(crate) fn run_standard(case: &Case, observer: Option<Observer<'_>>) -> Outcome {
    run_case::<raft_kv::Replica>(case, observer)
}

/// What tells a run of the standard machine from any other: a hash over the whole of every input and every action, over all counts, over how long it was, and over how
/// it ended.
pub(crate) fn fingerprint(case: &Case) -> u64 {
    let mut world =
        World::<raft_kv::Replica>::with_plan(case.seed, case.plan.clone(), case.rng(), None);
    world.hash_all();
    let outcome = run_world(world);
    let mut hasher = DefaultHasher::new();
    let counts: Vec<(&str, u64)> = outcome.coverage.iter().collect();
    (outcome.hash, outcome.simulated_us, counts).hash(&mut hasher);
    outcome.failure.map(|failure| failure.to_string()).hash(&mut hasher);
    hasher.finish()
}
