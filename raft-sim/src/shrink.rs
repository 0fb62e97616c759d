//! Makes a failing run smaller: fewer nodes, fewer kinds of faults, fewer requests, a shorter run, plainer settings, as long as it still fails by the
//! same rule.
//!
//! Whatever a plan changes moves all chance that comes after it, so a smaller plan is tried with the seed that it has and then with some others:
//! what is kept is a case of its own, not a part of the first. The same case always shrinks to the same one, on any number of threads.

use raft_core::Config;

use crate::{Case, ClientPlan, Failure, Fault, Plan};

/// How hard to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// How many seeds each smaller plan is tried with.
    pub tries: u64,
    /// After so many runs no other simplification is begun.
    pub runs_max: u64,
    /// On how many threads.
    pub jobs: usize,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// The smallest case that was found.
    pub case: Case,
    /// How it fails.
    pub failure: Failure,
    /// How many runs it took.
    pub runs: u64,
    /// What was made simpler, in order.
    pub steps: Vec<String>,
}

/// Shrinks a case. `fails` runs one and says how it fails; `progress` is told of each step.
///
/// `None` if the case does not fail at all.
pub fn shrink(
    case: &Case,
    effort: Effort,
    fails: &(dyn Fn(&Case) -> Option<Failure> + Sync),
    progress: &mut dyn FnMut(&Shrunk),
) -> Option<Shrunk> {
    let failure = fails(case)?;
    let best = Shrunk { case: case.clone(), failure, runs: 1, steps: Vec::new() };
    let mut search = Search { best, effort, fails, progress };
    loop {
        let before = search.best.steps.len();
        search.cut_the_end();
        search.fail_earlier();
        for simpler in simplifications() {
            search.try_all(&simpler);
        }
        search.cut_the_end();
        let is_over = search.best.runs >= effort.runs_max;
        if search.best.steps.len() == before || is_over {
            return Some(search.best);
        }
    }
}

struct Search<'a> {
    best: Shrunk,
    effort: Effort,
    fails: &'a (dyn Fn(&Case) -> Option<Failure> + Sync),
    progress: &'a mut dyn FnMut(&Shrunk),
}

impl Search<'_> {
    /// Takes every variant of a simplification that still fails, each on top of the one before.
    fn try_all(&mut self, simpler: &Simplification) {
        for variant in 0..VARIANTS_MAX {
            if self.best.runs >= self.effort.runs_max {
                return;
            }
            let mut plan = self.best.case.plan.clone();
            let Some(what) = (simpler.apply)(&mut plan, variant) else { return };
            if plan == self.best.case.plan || plan.config.validate().is_err() {
                continue;
            }
            if let Some((case, failure)) = self.first_failing(&plan) {
                self.keep(case, failure, what);
            }
        }
    }

    /// The first of the seeds with which this plan fails by the same rule.
    fn first_failing(&mut self, plan: &Plan) -> Option<(Case, Failure)> {
        let own = self.best.case.seed;
        let others = (0..self.effort.tries).filter(|seed| *seed != own);
        let seeds: Vec<u64> = std::iter::once(own).chain(others).collect();
        for some in seeds.chunks(self.effort.jobs.max(1)) {
            // Counted as if one ran after the other: the count decides when to stop, on any number of threads.
            for found in self.run_all(plan, some) {
                self.best.runs += 1;
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    /// Runs a plan with each seed, at the same time; those that fail by the same rule, in order.
    fn run_all(&self, plan: &Plan, seeds: &[u64]) -> Vec<Option<(Case, Failure)>> {
        let (fails, rule) = (self.fails, self.best.failure.violation.rule);
        let run = |seed: u64| {
            let case = Case { seed, plan: plan.clone() };
            let failure = fails(&case).filter(|failure| failure.violation.rule == rule)?;
            Some((case, failure))
        };
        if let [seed] = seeds {
            return vec![run(*seed)];
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                seeds.iter().map(|seed| scope.spawn(move || run(*seed))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(None)).collect()
        })
    }

    /// What comes after the failure is not needed: the same run, shorter.
    fn cut_the_end(&mut self) {
        let (at, chaos) = (self.best.failure.at_us, self.best.case.plan.chaos_us);
        if at.saturating_add(1) >= chaos {
            return;
        }
        let plan = Plan { chaos_us: at + 1, ..self.best.case.plan.clone() };
        self.best.runs += 1;
        let found = self.run_all(&plan, &[self.best.case.seed]);
        if let Some((case, failure)) = found.into_iter().flatten().next() {
            self.keep(case, failure, format!("faults for {} us", at + 1));
        }
    }

    /// Another seed may fail sooner.
    fn fail_earlier(&mut self) {
        let plan = self.best.case.plan.clone();
        let mut earliest: Option<(Case, Failure)> = None;
        let seeds: Vec<u64> = (0..self.effort.tries * 2).collect();
        for some in seeds.chunks(self.effort.jobs.max(1)) {
            self.best.runs += some.len() as u64;
            for found in self.run_all(&plan, some).into_iter().flatten() {
                let sooner = earliest.as_ref().map_or(self.best.failure.at_us, |e| e.1.at_us);
                if found.1.at_us < sooner {
                    earliest = Some(found);
                }
            }
        }
        if let Some((case, failure)) = earliest {
            let what = format!("seed {}, which fails at {} us", case.seed, failure.at_us);
            self.keep(case, failure, what);
        }
    }

    fn keep(&mut self, case: Case, failure: Failure, what: String) {
        self.best.case = case;
        self.best.failure = failure;
        self.best.steps.push(what);
        (self.progress)(&self.best);
    }
}

/// Makes a plan simpler in one respect. Of several ways, `variant` says which; `None` if there are no more.
struct Simplification {
    apply: Box<Change>,
}

/// Says what it made simpler.
type Change = dyn Fn(&mut Plan, usize) -> Option<String>;

/// No simplification has more ways than this.
const VARIANTS_MAX: usize = 64;

/// A simplification with one way.
fn once(what: &'static str, change: fn(&mut Plan)) -> Simplification {
    let apply = move |plan: &mut Plan, variant: usize| {
        (variant == 0).then(|| {
            change(plan);
            what.to_owned()
        })
    };
    Simplification { apply: Box::new(apply) }
}

/// A number that is to become smaller: at once, or by halves.
fn smaller(what: &'static str, least: u64, place: fn(&mut Plan) -> &mut u64) -> Simplification {
    let apply = move |plan: &mut Plan, variant: usize| {
        let value = place(plan);
        let wanted = match variant {
            0 => least,
            1..=4 => *value / 2,
            5 => *value - *value / 4,
            _ => return None,
        };
        *value = wanted.max(least).min(*value);
        Some(format!("{what} {value}"))
    };
    Simplification { apply: Box::new(apply) }
}

/// A time between two things that is to become longer: they happen less often.
fn rarer(what: &'static str, place: fn(&mut Plan) -> &mut u64) -> Simplification {
    let apply = move |plan: &mut Plan, variant: usize| {
        let chaos_us = plan.chaos_us;
        let value = place(plan);
        if variant >= 4 || *value == 0 {
            return None;
        }
        // Beyond the end of the run it would happen never.
        let longer = value.saturating_mul(if variant == 0 { 8 } else { 2 });
        *value = longer.min(chaos_us.max(*value));
        Some(format!("{what} every {value} us"))
    };
    Simplification { apply: Box::new(apply) }
}

/// What can be made simpler, the most telling first.
fn simplifications() -> Vec<Simplification> {
    let mut all = vec![
        once("no faults", |plan| plan.fault_every_us = 0),
        once("no changes of membership", |plan| plan.operate_every_us = 0),
        Simplification { apply: Box::new(without_fault_half) },
        Simplification { apply: Box::new(fewer_voters) },
        Simplification { apply: Box::new(fewer_spares) },
        Simplification { apply: Box::new(without_fault) },
        once("modelled disks", |plan| plan.disk.has_real_stores = false),
        once("no witness", |plan| plan.has_witness = false),
        once("no store identities", |plan| plan.has_stores = false),
        once("no transfers", |plan| plan.transfers = 0),
        once("no haste", |plan| plan.haste = 0),
        once("clocks run alike", |plan| plan.drift = 0),
        once("no exponential delays", |plan| plan.network.is_exponential = false),
        smaller("messages dropped", 0, |plan| &mut plan.network.drop),
        smaller("messages duplicated", 0, |plan| &mut plan.network.duplicate),
        smaller("messages late", 0, |plan| &mut plan.network.straggle),
        smaller("snapshot streams lost", 0, |plan| &mut plan.network.stream_loss),
        smaller("chunks damaged", 0, |plan| &mut plan.network.damage),
        smaller("chunks under way", 1, |plan| &mut plan.network.chunks_in_flight),
        smaller("chunks of a snapshot", 1, |plan| &mut plan.network.chunks),
        smaller("time of snapshot streams, us", 0, |plan| &mut plan.network.stream_us),
        smaller("time to install a snapshot, us", 0, |plan| &mut plan.install_us),
        smaller("slow writes", 0, |plan| &mut plan.disk.stall),
        smaller("late notices of writes, us", 0, |plan| &mut plan.disk.notice_us),
        smaller("writes that overtake others", 0, |plan| &mut plan.disk.overtaking),
        smaller("fetches lost", 0, |plan| &mut plan.disk.fetch_loss),
        smaller("crashes in recovery", 0, |plan| &mut plan.disk.crash_in_recovery),
        smaller("inputs gathered before a poll", 0, |plan| &mut plan.coalesce),
        smaller("checkpoints", 0, |plan| &mut plan.checkpoint_every),
        smaller("reads", 0, |plan| &mut plan.client.reads),
        smaller("requests to anybody", 0, |plan| &mut plan.client.anywhere),
        smaller("commands in a batch", 1, |plan| &mut plan.client.batch_max),
        smaller("keys", 1, |plan| &mut plan.client.keys),
        smaller("sessions", 1, |plan| &mut plan.client.sessions),
        smaller("writes of a session at a time", 1, |plan| &mut plan.client.pipeline_max),
        once("sessions are kept", |plan| plan.client.sessions_max = ClientPlan::SESSIONS_KEPT),
        smaller("bytes of a command", 8, |plan| &mut plan.client.command_bytes_max),
        rarer("requests", |plan| &mut plan.client.every_us),
        rarer("faults", |plan| &mut plan.fault_every_us),
        rarer("changes", |plan| &mut plan.operate_every_us),
        smaller("length of the faulty part, us", 1, |plan| &mut plan.chaos_us),
        once("equal priorities", |plan| plan.priorities.fill(Config::PRIORITY_MAX)),
    ];
    all.extend(plain_settings());
    all
}

/// The core's settings, back to their defaults one by one.
fn plain_settings() -> Vec<Simplification> {
    vec![
        once("no leases", |plan| plan.config.lease = None),
        once("no commit groups", |plan| plan.config.commit_groups = None),
        once("no forwarding", |plan| plan.config.forward_proposals = false),
        once("usual size of appends", |plan| {
            plan.config.append_bytes_max = default().append_bytes_max;
        }),
        once("usual number of appends in flight", |plan| {
            plan.config.in_flight_messages_max = default().in_flight_messages_max;
        }),
        once("usual bytes in flight", |plan| {
            plan.config.in_flight_bytes_max = default().in_flight_bytes_max;
        }),
        once("usual uncommitted bytes", |plan| {
            plan.config.uncommitted_bytes_max = default().uncommitted_bytes_max;
        }),
        once("usual tail", |plan| plan.config.tail_bytes_max = default().tail_bytes_max),
        once("usual batches to apply", |plan| {
            plan.config.apply_entries_max = default().apply_entries_max;
        }),
        once("usual retention", |plan| {
            plan.config.retained_entries = default().retained_entries;
        }),
        once("usual compaction lag", |plan| {
            plan.config.compaction_lag_max = default().compaction_lag_max;
        }),
        once("usual number of waiting reads", |plan| {
            plan.config.waiting_reads_max = default().waiting_reads_max;
        }),
        once("usual transfer lag", |plan| {
            plan.config.transfer_lag_max = default().transfer_lag_max;
        }),
    ]
}

fn default() -> Config {
    Config::new(raft_core::NodeId(0))
}

/// Half of the kinds of faults that are on go.
fn without_fault_half(plan: &mut Plan, variant: usize) -> Option<String> {
    let on: Vec<usize> = (0..plan.weights.len()).filter(|&kind| plan.weights[kind] > 0).collect();
    if variant >= 4 || on.len() < 2 {
        return None;
    }
    let (first, second) = on.split_at(on.len() / 2);
    let gone = if variant.is_multiple_of(2) { first } else { second };
    for kind in gone {
        plan.weights[*kind] = 0;
    }
    Some(format!("{} kinds of faults fewer", gone.len()))
}

/// One kind of fault goes.
fn without_fault(plan: &mut Plan, variant: usize) -> Option<String> {
    let weight = plan.weights.get_mut(variant)?;
    *weight = 0;
    let (fault, _) = Fault::ALL.get(variant)?;
    Some(format!("no {fault:?}"))
}

fn fewer_voters(plan: &mut Plan, variant: usize) -> Option<String> {
    let voters = variant as u64 + 1;
    if voters >= plan.voters {
        return None;
    }
    plan.has_witness = plan.has_witness && voters >= 3;
    plan.voters = voters;
    fit_nodes(plan);
    Some(format!("voters {voters}"))
}

fn fewer_spares(plan: &mut Plan, variant: usize) -> Option<String> {
    let spares = variant as u64;
    if spares >= plan.spares {
        return None;
    }
    plan.spares = spares;
    fit_nodes(plan);
    Some(format!("spare nodes {spares}"))
}

/// What is listed by node is listed for those that are left.
fn fit_nodes(plan: &mut Plan) {
    let nodes = plan.voters + plan.spares;
    plan.priorities.truncate(nodes as usize);
    if let Some(groups) = &mut plan.config.commit_groups {
        groups.zones.retain(|node, _| node.0 <= nodes);
    }
}

#[cfg(test)]
#[path = "shrink_tests.rs"]
mod tests;
