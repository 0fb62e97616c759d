//! What must hold after a round, whatever was done to the cluster. Asks clients, logs and processes; takes nothing on trust.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use raft_core::RoleKind;
use raft_kv::WriteOutcome;
use raft_kv::client::{Client, NodeReport};
use raft_sim::history::{Answer, Judged, Request, judge_within};
use raft_sim::linearizability::Limits;

use crate::cluster::{Cluster, Exit};
use crate::nemesis::Nemesis;

/// How long a healed cluster may take until all its states agree.
const AGREES_WITHIN: Duration = Duration::from_secs(60);
/// How long the search for an order may be: some seconds, with hundreds of requests open at a time.
const LIMITS: Limits = Limits { steps_max: 100_000_000 };
/// How much memory a node may hold beside its state (which is small here), in KiB.
const MEMORY_KIB_MAX: u64 = 512 << 10;
/// How much a node's data folder may take, in KiB: the budget of the log and two checkpoints, and room for reserves.
const DISK_KIB_MAX: u64 = 1 << 20;

/// The verdict on one round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// What does not hold; empty if all does.
    pub(crate) faults: Vec<String>,
    pub(crate) judged: Option<Judged>,
    pub(crate) agreed_after: Option<Duration>,
    pub(crate) memory_kib_max: u64,
    pub(crate) disk_kib_max: u64,
    pub(crate) exits: u64,
}

/// Judges a history; `base` is added to what is said of revisions.
pub(crate) fn history(
    verdict: &mut Verdict,
    requests: &[Request],
    last_revision: &mut u64,
    base: u64,
) {
    match judge_within(requests, LIMITS) {
        Ok(judged) => verdict.judged = Some(judged),
        Err(violation) => verdict.faults.push(format!("history: {violation}")),
    }
    let mut revisions = BTreeSet::new();
    for request in requests {
        let Some((_, Answer::Written(outcome))) = &request.result else { continue };
        let (WriteOutcome::Put { revision } | WriteOutcome::Deleted { revision }) = outcome else {
            continue;
        };
        if *revision == u64::MAX || *revision == 0 {
            verdict
                .faults
                .push(format!("a write has a revision at or below {base}, from before the round"));
        } else if !revisions.insert(*revision) {
            verdict.faults.push(format!("revision {} was given twice", base + revision));
        }
    }
    *last_revision = revisions.last().map_or(base, |revision| base + revision).max(*last_revision);
}

/// Waits until one node leads, all answer and vote, and all hold the same state. The state's last revision.
pub(crate) async fn agreement(
    verdict: &mut Verdict,
    cluster: &mut Cluster,
    client: &Client,
) -> Option<u64> {
    let begun = Instant::now();
    let nodes = cluster.ids().len();
    let mut seen = String::new();
    while begun.elapsed() < AGREES_WITHIN {
        cluster.reap();
        let reports = client.status_all().await;
        let states: BTreeMap<_, _> = reports
            .iter()
            .filter_map(|(node, _, report)| {
                let report = report.as_ref().ok()?;
                // A member that lost its store is a voter again only once it is in step.
                let votes = matches!(report.role, RoleKind::Leader | RoleKind::Follower);
                let stats = report.stats.filter(|_| votes)?;
                Some((*node, (stats.applied, stats.revision, stats.digest)))
            })
            .collect();
        let leaders = reports
            .iter()
            .filter(|(_, _, report)| report.as_ref().is_ok_and(NodeReport::is_serving_leader));
        let distinct: BTreeSet<_> = states.values().collect();
        if states.len() == nodes && distinct.len() == 1 && leaders.count() == 1 {
            verdict.agreed_after = Some(begun.elapsed());
            return states.values().next().map(|(_, revision, _)| *revision);
        }
        seen = reports
            .iter()
            .map(|(node, _, report)| match report {
                Ok(report) => format!("node {node}: {:?}, {:?}", report.role, report.stats),
                Err(error) => format!("node {node}: {error}"),
            })
            .collect::<Vec<_>>()
            .join("; ");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    verdict.faults.push(format!("no agreement within {AGREES_WITHIN:?} after healing: {seen}"));
    None
}

/// Looks at how processes ended, at what was logged, and at what the nodes hold.
pub(crate) fn processes(verdict: &mut Verdict, cluster: &mut Cluster, nemeses: &[Nemesis]) {
    let is_explained = |text: &str| {
        nemeses.iter().flat_map(|nemesis| nemesis.explains()).any(|part| text.contains(part))
    };
    let may_end = nemeses.iter().any(|nemesis| nemesis.ends_processes());
    for Exit { node, status, log_tail, was_asked } in cluster.take_exits() {
        verdict.exits += 1;
        let is_expected = was_asked || (may_end && is_explained(&log_tail));
        if !is_expected {
            verdict
                .faults
                .push(format!("node {node} ended ({status}) and nothing explains it:\n{log_tail}"));
        }
    }
    let mut unexplained = 0;
    for (node, line) in cluster.take_log_lines() {
        let is_error = line.contains(" ERROR ") || line.contains("panicked at");
        if is_error && !is_explained(&line) {
            unexplained += 1;
            if unexplained <= 5 {
                verdict.faults.push(format!("node {node} logged: {line}"));
            }
        }
    }
    if unexplained > 5 {
        verdict.faults.push(format!("{unexplained} such lines in all"));
    }
    let over = |what: &str, held: &BTreeMap<u64, u64>, max: u64, faults: &mut Vec<String>| {
        for (node, kib) in held.iter().filter(|(_, kib)| **kib > max) {
            let (held, max) = (kib >> 10, max >> 10);
            faults.push(format!("node {node} holds {held} MiB of {what}; its budget is {max} MiB"));
        }
        held.values().copied().max().unwrap_or(0)
    };
    verdict.memory_kib_max =
        over("memory", &cluster.memory_kib(), MEMORY_KIB_MAX, &mut verdict.faults);
    verdict.disk_kib_max = over("disk", &cluster.disk_kib(), DISK_KIB_MAX, &mut verdict.faults);
}

/// The longest time without an acknowledged write, in microseconds, from the beginning to `end`.
pub(crate) fn longest_gap(acknowledged: &[u64], end: u64) -> u64 {
    let ends = acknowledged.iter().copied().chain([end]);
    let begins = [0].into_iter().chain(acknowledged.iter().copied());
    begins.zip(ends).map(|(before, after)| after.saturating_sub(before)).max().unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use raft_sim::history::Ask;

    use super::*;

    fn put(value: u64, at: u64, revision: u64) -> Request {
        let result = Some((at + 1, Answer::Written(WriteOutcome::Put { revision })));
        let ask = Ask::Put { key: 0, value };
        Request { ask, call: at, result, is_refused: false, guess: None }
    }

    #[test]
    fn a_good_history_passes_and_a_bad_one_does_not() {
        let (mut verdict, mut last) = (Verdict::default(), 7);
        history(&mut verdict, &[put(1, 0, 1), put(2, 10, 2)], &mut last, 7);
        assert!(verdict.faults.is_empty(), "{:?}", verdict.faults);
        assert_eq!(last, 9);
        // A later write cannot have the earlier revision.
        history(&mut verdict, &[put(1, 0, 2), put(2, 10, 1)], &mut last, 7);
        assert_eq!(verdict.faults.len(), 1);
        history(&mut verdict, &[put(1, 0, 1), put(2, 10, 1)], &mut last, 7);
        assert!(verdict.faults.iter().any(|fault| fault.contains("revision 8 was given twice")));
    }

    #[test]
    fn a_gap_counts_from_the_beginning_and_to_the_end() {
        assert_eq!(longest_gap(&[], 50), 50);
        assert_eq!(longest_gap(&[40, 45], 50), 40);
        assert_eq!(longest_gap(&[1, 20, 22], 60), 38);
    }
}
