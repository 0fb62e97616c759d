//! Figure 3: the five properties, each in the story that threatens it. `storms.rs` checks the same five on random stories.

use std::time::Duration;

use crate::common::Cluster;
use crate::common::checker::Checker;
use crate::common::one::message;
use raft_core::{Body, Index, Input, NodeId, RoleKind, Term};

/// Lets time pass, and checks every property at every step.
fn run_checked(cluster: &mut Cluster, checker: &mut Checker, milliseconds: u64) {
    for _ in 0..milliseconds / 10 {
        cluster.run(Duration::from_millis(10));
        checker.check(cluster);
    }
}

/// "Election Safety: at most one leader can be elected in a given term. §5.2"
#[test]
fn election_safety() {
    // Nodes 1 and 2 campaign in the same term; node 3 hears both, and restarts in between.
    let mut cluster = Cluster::new(3);
    let mut checker = Checker::default();
    for id in [1, 2] {
        let deadline = cluster.host(id).raft.poll_timeout().unwrap();
        cluster.now = cluster.now.max(deadline);
        cluster.handle(id, Input::Timeout);
        let granted = message(1, Body::PreVoteResponse { granted: true });
        cluster.handle(id, Input::Message { from: NodeId(3), store: None, message: granted });
        assert_eq!(cluster.host(id).raft.status().role, RoleKind::Candidate);
    }
    cluster.network.retain(|(_, _, message)| matches!(message.body, Body::Vote { .. }));
    let to_third: Vec<_> = cluster.network.iter().filter(|(_, to, _)| to.0 == 3).cloned().collect();
    assert_eq!(to_third.len(), 2);
    cluster.network.clear();
    for (from, to, message) in to_third {
        cluster.deliver(from, to, message);
        cluster.network.retain(|(from, ..)| from.0 == 3);
        let answers: Vec<_> = cluster.network.drain(..).collect();
        cluster.restart(3);
        for (from, to, message) in answers {
            cluster.deliver(from, to, message);
        }
        checker.check(&cluster);
    }
    let leaders = cluster.ids().into_iter().filter(|id| {
        cluster.hosts[id].raft.status().role == RoleKind::Leader && cluster.term(*id) == Term(1)
    });
    assert_eq!(leaders.count(), 1);
}

/// "Leader Append-Only: a leader never overwrites or deletes entries in its log; it only appends new entries. §5.3"
#[test]
fn leader_append_only() {
    let mut cluster = Cluster::new(5);
    let mut checker = Checker::default();
    cluster.elect(1);
    for round in 0..4 {
        let leader = cluster.leader().unwrap();
        for number in 0..3 {
            cluster.propose(leader, &[&format!("{round}.{number}")]);
        }
        checker.check(&cluster);
        // What it could not replicate goes on another's reign; what is in its own log stays as long as it leads.
        cluster.isolate(leader);
        cluster.propose(leader, &["lonely"]);
        run_checked(&mut cluster, &mut checker, 2_500);
        cluster.heal();
        run_checked(&mut cluster, &mut checker, 500);
    }
    assert!(cluster.leader().is_some());
}

/// "Log Matching: if two logs contain an entry with the same index and term, then the logs are identical in all entries up through the given
/// index. §5.3"
#[test]
fn log_matching() {
    // Every node in turn leads alone for a while: their logs end in different terms (figure 7).
    let mut cluster = Cluster::new(3);
    let mut checker = Checker::default();
    cluster.elect(1);
    for _ in 0..3 {
        let leader = cluster.leader().unwrap();
        cluster.isolate(leader);
        cluster.propose(leader, &["a", "b"]);
        run_checked(&mut cluster, &mut checker, 2_000);
        let next = cluster.leader().unwrap();
        cluster.propose(next, &["c"]);
        cluster.heal();
        run_checked(&mut cluster, &mut checker, 1_000);
    }
    let first = cluster.applied(1);
    assert!(cluster.ids().into_iter().all(|id| cluster.applied(id) == first));
}

/// "Leader Completeness: if a log entry is committed in a given term, then that entry will be present in the logs of the leaders for all
/// higher-numbered terms. §5.4"
#[test]
fn leader_completeness() {
    // Figure 8: an entry of term 1 on a minority; another node leads; the first leads again and replicates the old entry to a majority
    // before anything of its own: that does not commit it, so whoever comes next may be without it.
    let mut cluster = Cluster::new(5);
    let mut checker = Checker::default();
    cluster.elect(1);
    let base = cluster.commit(1);
    cluster.cut = vec![(1, 3), (1, 4), (1, 5)];
    cluster.propose(1, &["old"]);
    cluster.settle();
    checker.check(&cluster);
    assert_eq!(cluster.commit(1), base);
    cluster.heal();
    cluster.isolate(1);
    cluster.isolate(2);
    run_checked(&mut cluster, &mut checker, 3_000);
    let second = cluster.leader().unwrap();
    assert!(second > 2, "nodes 1 and 2 are a minority");
    cluster.propose(second, &["new"]);
    cluster.settle();
    assert!(cluster.commit(second) > base);
    cluster.heal();
    run_checked(&mut cluster, &mut checker, 3_000);
    for id in cluster.ids() {
        assert_eq!(cluster.applied(id), ["new"], "node {id}");
    }
}

/// "State Machine Safety: if a server has applied a log entry at a given index to its state machine, no other server will ever apply a different
/// log entry for the same index. §5.4.3"
#[test]
fn state_machine_safety() {
    let mut cluster = Cluster::new(3);
    let mut checker = Checker::default();
    cluster.elect(1);
    for round in 0..6 {
        let leader = cluster.leader().unwrap();
        // The others hear nothing of this; then the disk loses what was not written, and all start again.
        cluster.isolate(leader);
        cluster.host(leader).holds_writes = true;
        cluster.propose(leader, &[&format!("unwritten {round}")]);
        cluster.restart(leader);
        cluster.heal();
        run_checked(&mut cluster, &mut checker, 3_000);
        let leader = cluster.leader().unwrap();
        cluster.propose(leader, &[&format!("written {round}")]);
        run_checked(&mut cluster, &mut checker, 200);
    }
    let index = cluster.commit(1);
    assert!(index > Index(6));
    for id in cluster.ids() {
        assert_eq!(cluster.commit(id), index);
    }
}
