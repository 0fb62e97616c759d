//! Figure 2, "`RequestVote` RPC", and the pre-votes of dissertation §9.6, which follow the same rules and bind nobody.

use std::time::Duration;

use crate::common::append;
use crate::common::one::*;
use raft_core::{Body, Config, Input, Instant, Membership, NodeId, Raft, Restored, RoleKind, Term};

fn is_granted(raft: &mut Raft, from: u64, term: u64, body: Body) -> bool {
    let answers = to(from, &exchange(raft, from, term, body));
    match &answers[..] {
        [Body::VoteResponse { granted } | Body::PreVoteResponse { granted }] => *granted,
        _ => panic!("{answers:?}"),
    }
}

/// Receiver 1: "Reply false if term < currentTerm (§5.1)"
#[test]
fn rule_1_a_candidate_of_an_earlier_term_is_refused() {
    let mut raft = with_log(&[1], 5);
    let out = exchange(&mut raft, 2, 4, Body::Vote { last: at(9, 3), transfer: false });
    assert_eq!(out, [(NodeId(2), message(5, Body::VoteResponse { granted: false }))]);
    let out = exchange(&mut raft, 2, 5, Body::PreVote { last: at(9, 3) });
    assert_eq!(out, [(NodeId(2), message(5, Body::PreVoteResponse { granted: true }))]);
    let out = exchange(&mut raft, 2, 4, Body::PreVote { last: at(9, 3) });
    assert_eq!(out, [(NodeId(2), message(5, Body::PreVoteResponse { granted: false }))]);
}

/// Receiver 2: "If votedFor is null or candidateId, … grant vote (§5.2)"
#[test]
fn rule_2_one_vote_a_term_first_come_first_served() {
    let mut raft = follower_of_three();
    let vote = || Body::Vote { last: at(0, 0), transfer: false };
    assert!(is_granted(&mut raft, 2, 1, vote()));
    assert!(!is_granted(&mut raft, 3, 1, vote()), "the vote was given to another");
    assert!(is_granted(&mut raft, 2, 1, vote()), "the answer may have been lost");
    assert!(is_granted(&mut raft, 3, 2, vote()), "a new term, a new vote");
    assert_eq!((raft.status().term, raft.status().vote), (Term(2), Some(NodeId(3))));
}

/// Receiver 2: "… and candidate's log is at least as up-to-date as receiver's log, grant vote (§5.4)"
#[test]
fn rule_2_a_vote_only_for_a_log_at_least_as_up_to_date() {
    let cases = [
        (at(3, 1), false), // longer, of an earlier term
        (at(1, 2), false), // the same term, shorter
        (at(2, 2), true),  // the same
        (at(3, 2), true),  // the same term, longer
        (at(1, 3), true),  // shorter, of a later term
    ];
    for (last, expected) in cases {
        let vote =
            is_granted(&mut with_log(&[1, 2], 3), 2, 4, Body::Vote { last, transfer: false });
        let pre_vote = is_granted(&mut with_log(&[1, 2], 3), 2, 4, Body::PreVote { last });
        assert_eq!((vote, pre_vote), (expected, expected), "a log that ends at {last}");
    }
}

/// Dissertation §4.2.3: "if a server receives a `RequestVote` request within the minimum election timeout of hearing from a current leader,
/// it does not update its term or grant its vote"
#[test]
fn a_voter_that_hears_from_a_leader_elects_no_other() {
    let mut raft = follower_of_three();
    exchange(&mut raft, 2, 1, append((0, 0), &[], 0));
    assert_eq!(exchange(&mut raft, 3, 7, Body::Vote { last: at(9, 6), transfer: false }), []);
    assert_eq!(raft.status().term, Term(1));
    assert!(!is_granted(&mut raft, 3, 7, Body::PreVote { last: at(9, 6) }));
    let later = Instant(0) + Config::new(NodeId(1)).election_timeout;
    let vote = message(7, Body::Vote { last: at(9, 6), transfer: false });
    raft.handle(later, Input::Message { from: NodeId(3), store: None, message: vote }).unwrap();
    assert_eq!(raft.status().vote, Some(NodeId(3)));
}

/// Dissertation §9.6: a pre-vote changes nothing at its receiver.
#[test]
fn a_pre_vote_binds_nobody() {
    let mut raft = with_log(&[1], 3);
    let before = raft.status();
    assert!(is_granted(&mut raft, 2, 9, Body::PreVote { last: at(1, 1) }));
    assert!(is_granted(&mut raft, 3, 8, Body::PreVote { last: at(1, 1) }));
    assert_eq!(raft.status(), before);
}

/// Dissertation §4.2.1: learners (non-voting members) "are not counted as part of majorities", and never campaign.
#[test]
fn a_learner_never_campaigns() {
    let learners = [NodeId(1)].into();
    let membership = Membership { learners, ..Membership::of_voters([2, 3].map(NodeId)) };
    let mut raft =
        Raft::new(Config::new(NodeId(1)), 7, Instant(0), Restored::founding(membership)).unwrap();
    for seconds in 1..10 {
        raft.handle(Instant(0) + Duration::from_secs(seconds), Input::Timeout).unwrap();
        assert_eq!((role(&raft), sent(&mut raft)), (RoleKind::Learner, vec![]));
    }
}
