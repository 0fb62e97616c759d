//! Figure 2, "State".

use std::time::Duration;

use crate::common::one::*;
use crate::common::{Cluster, append};
use raft_core::{
    Action, AppendOutcome, Body, Config, HardState, Index, Input, Instant, LogPosition, NodeId,
    Raft, ReplicationKind, RestoreError, Restored, RestoredLog, RoleKind, Term, TermRun,
};

fn restore(log: RestoredLog) -> Result<Raft, RestoreError> {
    Raft::new(Config::new(NodeId(1)), 7, Instant(0), Restored { log, snapshot: None })
}

/// "Persistent state on all servers: currentTerm, votedFor, log[]"
#[test]
fn term_vote_and_log_survive_a_restart() {
    let mut raft = restore(disk(&[1, 1, 2], 3, Some(2), 1)).unwrap();
    let status = raft.status();
    assert_eq!((status.term, status.vote, status.last), (Term(3), Some(NodeId(2)), Index(3)));
    // The vote of before the restart binds.
    let refused = exchange(&mut raft, 3, 3, Body::Vote { last: at(9, 2), transfer: false });
    assert_eq!(refused, [(NodeId(3), message(3, Body::VoteResponse { granted: false }))]);
    let again = exchange(&mut raft, 2, 3, Body::Vote { last: at(9, 2), transfer: false });
    assert_eq!(again, [(NodeId(2), message(3, Body::VoteResponse { granted: true }))]);
}

/// "Updated on stable storage before responding to RPCs": the term and the vote.
#[test]
fn nothing_is_said_in_a_term_that_is_not_durable() {
    // Scenario 3: the entries may be durable long since.
    let mut raft = with_log(&[1], 1);
    receive(&mut raft, 2, 2, append((1, 1), &[], 1));
    let drained = actions(&mut raft);
    let Some(Action::Persist(persist)) =
        drained.iter().find(|action| matches!(action, Action::Persist(_)))
    else {
        panic!("{drained:?}")
    };
    assert_eq!(messages(&drained), [], "an acknowledgement in a term that a crash would forget");
    raft.handle(Instant(0), Input::Persisted(persist.ticket)).unwrap();
    let accepted = Body::AppendResponse(AppendOutcome::Accepted { matched: Index(1) });
    assert_eq!(messages(&actions(&mut raft)), [(NodeId(2), message(2, accepted))]);
}

/// "Updated on stable storage before responding to RPCs": the log.
#[test]
fn an_append_is_acknowledged_when_it_is_durable() {
    let mut raft = with_log(&[], 1);
    exchange(&mut raft, 2, 1, append((0, 0), &[], 0));
    receive(&mut raft, 2, 1, append((0, 0), &[(1, 1)], 1));
    let drained = actions(&mut raft);
    let [Action::Persist(persist)] = &drained[..] else { panic!("{drained:?}") };
    raft.handle(Instant(0), Input::Persisted(persist.ticket)).unwrap();
    let drained = actions(&mut raft);
    let accepted = Body::AppendResponse(AppendOutcome::Accepted { matched: Index(1) });
    assert_eq!(messages(&drained), [(NodeId(2), message(1, accepted))]);
    assert!(drained.iter().any(|action| matches!(action, Action::Apply(_))), "{drained:?}");
}

/// The same for what is applied: a follower whose disk is slow applies nothing that a crash would take from it.
#[test]
fn what_is_applied_is_durable_here() {
    let mut raft = with_log(&[], 1);
    receive(&mut raft, 2, 1, append((0, 0), &[(1, 1)], 1));
    let drained = actions(&mut raft);
    assert!(!drained.iter().any(|action| matches!(action, Action::Apply(_))), "{drained:?}");
    assert_eq!(raft.status().commit, Index(1));
}

/// "votedFor: candidateId that received vote in current term": the vote for oneself is a vote.
#[test]
fn a_candidates_own_vote_counts_when_it_is_durable() {
    let mut raft = follower_of_three();
    receive(&mut raft, 2, 1, append((0, 0), &[(1, 1)], 0));
    let before = actions(&mut raft);
    stand(&mut raft);
    // Somebody votes before he was asked.
    receive(&mut raft, 3, 2, Body::VoteResponse { granted: true });
    let after = actions(&mut raft);
    let (Some(Action::Persist(earlier)), Some(Action::Persist(own))) = (
        before.iter().find(|action| matches!(action, Action::Persist(_))),
        after.iter().find(|action| matches!(action, Action::Persist(_))),
    ) else {
        panic!("{before:?} {after:?}")
    };
    let vote = HardState { term: Term(2), vote: Some(NodeId(1)), commit: Index(0) };
    assert_eq!(own.hard_state, Some(vote));
    raft.handle(Instant(0), Input::Persisted(earlier.ticket)).unwrap();
    assert_eq!(role(&raft), RoleKind::Candidate, "an earlier write is not its vote");
    raft.handle(Instant(0), Input::Persisted(own.ticket)).unwrap();
    assert_eq!(role(&raft), RoleKind::Leader);
}

/// What is restored must be possible, or entries or votes have been lost (scenarios 3 and 32).
#[test]
fn a_disk_that_contradicts_itself_is_refused_by_name() {
    let behind = disk(&[1, 3], 2, None, 0);
    assert!(matches!(restore(behind), Err(RestoreError::TermBeyondHardState { .. })));
    let lost = disk(&[1, 1], 1, None, 3);
    assert!(matches!(restore(lost), Err(RestoreError::CommitBeyondLog { .. })));
    let mut gap = disk(&[], 2, None, 0);
    (gap.base, gap.last) = (at(4, 2), Index(4));
    assert!(matches!(restore(gap), Err(RestoreError::MachineBehindLog { .. })));
    let mut falling = disk(&[1, 2], 2, None, 0);
    falling.terms = vec![
        TermRun { term: Term(2), first: Index(1) },
        TermRun { term: Term(1), first: Index(2) },
    ];
    assert!(matches!(restore(falling), Err(RestoreError::BrokenTerms { .. })));
    let mut short = disk(&[], 2, None, 0);
    short.last = Index(7);
    assert!(matches!(restore(short), Err(RestoreError::BrokenTerms { .. })));
    let mut misplaced = disk(&[1], 1, None, 0);
    misplaced.memberships = vec![(Index(2), voters(3))];
    assert!(matches!(restore(misplaced), Err(RestoreError::BrokenMembership { .. })));
    let mut config = Config::new(NodeId(1));
    config.heartbeat_interval = config.election_timeout;
    let refused = Raft::new(config, 7, Instant(0), Restored::founding(voters(3)));
    assert!(matches!(refused, Err(RestoreError::Config(_))));
}

/// "commitIndex (initialized to 0, increases monotonically)"
#[test]
fn the_commit_index_never_falls() {
    let mut raft = with_log(&[], 1);
    exchange(&mut raft, 2, 1, append((0, 0), &[(1, 1), (2, 1)], 2));
    assert_eq!(raft.status().commit, Index(2));
    exchange(&mut raft, 2, 1, append((2, 1), &[(3, 1)], 1));
    exchange(&mut raft, 2, 1, Body::Heartbeat { commit: Index(0), read_context: 0 });
    assert_eq!(raft.status().commit, Index(2));
}

/// "lastApplied (initialized to 0, increases monotonically)"
#[test]
fn what_is_applied_never_falls() {
    let mut raft = with_log(&[], 1);
    exchange(&mut raft, 2, 1, append((0, 0), &[(1, 1), (2, 1)], 2));
    assert_eq!(raft.status().applied, Index(2));
    assert!(raft.handle(Instant(0), Input::Applied(Index(1))).is_err());
    assert!(raft.handle(Instant(0), Input::Applied(Index(3))).is_err());
    assert_eq!(raft.status().applied, Index(2));
}

/// "nextIndex[]: initialized to leader last log index + 1; matchIndex[]: initialized to 0", "reinitialized after election"
#[test]
fn a_new_leader_assumes_nothing_of_its_peers_but_their_best() {
    let mut raft = with_log(&[1, 1, 1], 1);
    let out = lead(&mut raft);
    let prev = at(3, 1);
    let probes = |node| matches!(&to(node, &out)[..], [Body::Append { prev: p, .. }] if *p == prev);
    assert!(probes(2) && probes(3), "{out:?}");
    for peer in raft.status().peers {
        assert_eq!((peer.matched, peer.replication), (Index(0), ReplicationKind::Probe));
    }
}

/// "matchIndex[] … increases monotonically"
#[test]
fn a_late_acknowledgement_takes_nothing_back() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, &["a", "b"]);
    cluster.settle();
    let matched = cluster.host(1).raft.status().peers[0].matched;
    let late = Body::AppendResponse(AppendOutcome::Accepted { matched: Index(1) });
    let late = message(cluster.term(1).0, late);
    cluster.handle(1, Input::Message { from: NodeId(2), store: None, message: late });
    assert_eq!(cluster.host(1).raft.status().peers[0].matched, matched);
    cluster.run(Duration::from_millis(100));
    assert_eq!(cluster.host(2).raft.status().commit, cluster.commit(1));
    assert_ne!(LogPosition::ORIGIN.index, matched);
}
