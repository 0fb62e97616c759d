//! Figure 2, "Rules for Servers": all servers, followers, candidates.

use std::time::Duration;

use crate::common::one::*;
use crate::common::{Cluster, append};
use raft_core::{
    Action, AppendOutcome, Body, Config, Index, Input, Instant, NodeId, RoleKind, SnapshotOutcome,
    Term,
};

/// All servers 1: "If commitIndex > lastApplied: increment lastApplied, apply log[lastApplied] to state machine (§5.3)"
#[test]
fn all_servers_1_what_is_committed_is_applied_in_order() {
    let mut raft = with_log(&[1, 1, 1], 1);
    exchange(&mut raft, 2, 1, append((3, 1), &[], 0));
    let mut applied = Vec::new();
    for commit in [1, 1, 3] {
        receive(&mut raft, 2, 1, append((3, 1), &[], commit));
        for action in actions(&mut raft) {
            if let Action::Apply(apply) = action {
                applied.push((apply.first.0, apply.last.0));
                raft.handle(Instant(0), Input::Applied(apply.last)).unwrap();
            }
        }
    }
    assert_eq!(applied, [(1, 1), (2, 3)]);
}

/// All servers 2: "If RPC request or response contains term T > currentTerm: set currentTerm = T, convert to follower (§5.1)"
#[test]
fn all_servers_2_a_higher_term_deposes() {
    let position = at(0, 0);
    let bodies = [
        Body::Vote { last: at(9, 8), transfer: false },
        Body::VoteResponse { granted: false },
        Body::PreVoteResponse { granted: false },
        append((0, 0), &[], 0),
        Body::AppendResponse(AppendOutcome::Accepted { matched: Index(0) }),
        Body::Heartbeat { commit: Index(0), read_context: 0 },
        Body::HeartbeatResponse { read_context: 0 },
        Body::SnapshotOffer { snapshot: snapshot(5, 5) },
        Body::SnapshotResponse { position, outcome: SnapshotOutcome::Failed },
    ];
    for body in bodies {
        let mut candidate = follower_of_three();
        stand(&mut candidate);
        sent(&mut candidate);
        exchange(&mut candidate, 2, 9, body.clone());
        assert_eq!((role(&candidate), candidate.status().term), (RoleKind::Follower, Term(9)));
        if matches!(body, Body::Vote { .. }) {
            // A leader that hears from its quorum is not deposed by somebody who does not (dissertation §4.2.3).
            continue;
        }
        let mut leader = follower_of_three();
        lead(&mut leader);
        exchange(&mut leader, 2, 9, body.clone());
        assert_eq!(
            (role(&leader), leader.status().term),
            (RoleKind::Follower, Term(9)),
            "{body:?}"
        );
    }
}

/// Followers 1: "Respond to RPCs from candidates and leaders"
#[test]
fn followers_1_every_request_is_answered() {
    let requests = [
        Body::PreVote { last: at(0, 0) },
        Body::Vote { last: at(0, 0), transfer: false },
        append((0, 0), &[], 0),
        append((7, 1), &[], 0),
        Body::Heartbeat { commit: Index(0), read_context: 3 },
        Body::SnapshotOffer { snapshot: snapshot(5, 1) },
    ];
    for request in requests {
        let mut raft = follower_of_three();
        let out = exchange(&mut raft, 2, 1, request.clone());
        assert!(matches!(&out[..], [(NodeId(2), _)]), "{request:?}: {out:?}");
    }
}

/// Followers 2: "If election timeout elapses without receiving `AppendEntries` RPC from current leader or granting vote to candidate: convert
/// to candidate" (here by way of a pre-vote, dissertation §9.6)
#[test]
fn followers_2_silence_makes_a_candidate_and_a_word_puts_it_off() {
    let mut silent = follower_of_three();
    let deadline = silent.poll_timeout().unwrap();
    silent.handle(Instant(deadline.0 - 1), Input::Timeout).unwrap();
    assert_eq!(role(&silent), RoleKind::Follower);
    time_out(&mut silent);
    assert_eq!(role(&silent), RoleKind::PreCandidate);
    for word in [append((0, 0), &[], 0), Body::Vote { last: at(0, 0), transfer: false }] {
        let mut raft = follower_of_three();
        let almost = Instant(deadline.0 - 1);
        let input = Input::Message { from: NodeId(2), store: None, message: message(1, word) };
        raft.handle(almost, input).unwrap();
        raft.handle(deadline, Input::Timeout).unwrap();
        assert_eq!(role(&raft), RoleKind::Follower);
        assert!(raft.poll_timeout().unwrap() >= almost + Config::new(NodeId(1)).election_timeout);
    }
}

/// Candidates 1: "On conversion to candidate, start election: increment currentTerm, vote for self, reset election timer, send `RequestVote`
/// RPCs to all other servers"
#[test]
fn candidates_1_start_an_election() {
    let mut raft = with_log(&[1, 1], 4);
    stand(&mut raft);
    let (term, vote, now) = (raft.status().term, raft.status().vote, raft.poll_timeout());
    assert_eq!((term, vote), (Term(5), Some(NodeId(1))));
    assert!(
        now.is_some_and(|deadline| deadline.0 >= 500_000 * 2),
        "the timer starts anew: {now:?}"
    );
    let out = sent(&mut raft);
    let vote = message(5, Body::Vote { last: at(2, 1), transfer: false });
    assert!(out.ends_with(&[(NodeId(2), vote.clone()), (NodeId(3), vote)]), "{out:?}");
}

/// Candidates 2: "If votes received from majority of servers: become leader"
#[test]
fn candidates_2_a_majority_makes_a_leader() {
    let mut raft = follower_of_three();
    stand(&mut raft);
    sent(&mut raft);
    exchange(&mut raft, 2, 1, Body::VoteResponse { granted: false });
    assert_eq!(role(&raft), RoleKind::Candidate);
    exchange(&mut raft, 3, 1, Body::VoteResponse { granted: true });
    assert_eq!(role(&raft), RoleKind::Leader);
}

/// Candidates 2: votes count once each, and in their own term only.
#[test]
fn candidates_2_a_vote_of_an_earlier_term_counts_no_more() {
    let mut raft = follower_of_three();
    stand(&mut raft);
    sent(&mut raft);
    stand(&mut raft);
    sent(&mut raft);
    exchange(&mut raft, 3, 1, Body::VoteResponse { granted: true });
    assert_eq!((role(&raft), raft.status().term), (RoleKind::Candidate, Term(2)));
    exchange(&mut raft, 3, 2, Body::VoteResponse { granted: true });
    assert_eq!(role(&raft), RoleKind::Leader);
}

/// Candidates 2, of five: the same voter twice is one vote, and two of four are no majority.
#[test]
fn candidates_2_half_is_no_majority() {
    let mut cluster = Cluster::new(4);
    cluster.cut = vec![(3, 1), (4, 1)];
    cluster.run(Duration::from_millis(1));
    let deadline = cluster.host(1).raft.poll_timeout().unwrap();
    cluster.now = deadline;
    cluster.handle(1, Input::Timeout);
    for _ in 0..2 {
        let granted = message(1, Body::PreVoteResponse { granted: true });
        cluster.handle(1, Input::Message { from: NodeId(2), store: None, message: granted });
    }
    assert_eq!(cluster.host(1).raft.status().role, RoleKind::PreCandidate);
}

/// Candidates 3: "If `AppendEntries` RPC received from new leader: convert to follower"
#[test]
fn candidates_3_a_leader_of_the_term_is_followed() {
    let mut raft = follower_of_three();
    stand(&mut raft);
    sent(&mut raft);
    exchange(&mut raft, 2, 1, append((0, 0), &[], 0));
    let status = raft.status();
    assert_eq!((status.role, status.leader), (RoleKind::Follower, Some(NodeId(2))));
    assert_eq!((status.term, status.vote), (Term(1), Some(NodeId(1))), "the vote stays given");
}

/// Candidates 4: "If election timeout elapses: start new election"
#[test]
fn candidates_4_a_split_vote_is_followed_by_another_election() {
    let mut raft = follower_of_three();
    stand(&mut raft);
    sent(&mut raft);
    time_out(&mut raft);
    assert_eq!(role(&raft), RoleKind::PreCandidate);
    let out = sent(&mut raft);
    assert!(out.contains(&(NodeId(2), message(2, Body::PreVote { last: at(0, 0) }))), "{out:?}");
    // It also asks again if nobody answers the pre-vote.
    time_out(&mut raft);
    assert_eq!((sent(&mut raft).len(), raft.status().term), (2, Term(1)));
}

/// §5.2: "Raft uses randomized election timeouts to ensure that split votes are rare"
#[test]
fn election_timeouts_differ_from_node_to_node_and_from_time_to_time() {
    let cluster = Cluster::new(5);
    let mut deadlines: Vec<_> =
        cluster.hosts.values().map(|host| host.raft.poll_timeout().unwrap()).collect();
    deadlines.sort();
    deadlines.dedup();
    assert_eq!(deadlines.len(), 5);
    let timeout = Config::new(NodeId(1)).election_timeout;
    let (low, high) = (Instant(0) + timeout, Instant(0) + timeout * 2);
    assert!(deadlines.iter().all(|deadline| (low..high).contains(deadline)), "{deadlines:?}");
}
