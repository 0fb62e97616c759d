//! Figure 2, "`AppendEntries` RPC", receiver implementation.

use crate::common::append;
use crate::common::one::*;
use raft_core::{
    Action, AppendOutcome, Body, Entries, Entry, Index, Membership, NodeId, Payload, PeerFault,
    Term,
};

fn accepted(matched: u64) -> Body {
    Body::AppendResponse(AppendOutcome::Accepted { matched: Index(matched) })
}

fn rejected(prev: u64, hint: (u64, u64)) -> Body {
    let hint = at(hint.0, hint.1);
    Body::AppendResponse(AppendOutcome::Rejected { prev: Index(prev), hint })
}

/// Receiver 1: "Reply false if term < currentTerm (§5.1)"
#[test]
fn rule_1_a_leader_of_an_earlier_term_is_told_the_term() {
    let mut raft = with_log(&[1], 5);
    let before = raft.status();
    let out = exchange(&mut raft, 2, 4, append((1, 1), &[(2, 4)], 2));
    assert!(matches!(&out[..], [(NodeId(2), answer)] if answer.term == Term(5)), "{out:?}");
    assert_eq!(raft.status(), before);
}

/// Receiver 2: "Reply false if log doesn't contain an entry at prevLogIndex whose term matches prevLogTerm (§5.3)"
#[test]
fn rule_2_entries_that_do_not_follow_the_log_are_rejected() {
    let mut raft = with_log(&[1, 1], 2);
    let missing = exchange(&mut raft, 2, 2, append((4, 2), &[(5, 2)], 0));
    assert_eq!(to(2, &missing), [rejected(4, (2, 1))]);
    let mut raft = with_log(&[1, 1], 3);
    let other = exchange(&mut raft, 2, 3, append((2, 2), &[(3, 3)], 0));
    assert_eq!(to(2, &other), [rejected(2, (1, 1))]);
    assert_eq!(raft.status().last, Index(2));
}

/// §5.3: "the follower can include the term of the conflicting entry … one `AppendEntries` RPC will be required for each term with conflicting
/// entries, rather than one RPC per entry"
#[test]
fn a_rejection_skips_a_whole_term() {
    let mut raft = with_log(&[1, 1, 1, 4, 4, 4, 4, 4], 5);
    let out = exchange(&mut raft, 2, 5, append((8, 3), &[], 0));
    assert_eq!(to(2, &out), [rejected(8, (3, 1))], "no entry of term 4 can be the leader's");
}

/// Receiver 3: "If an existing entry conflicts with a new one (same index but different terms), delete the existing entry and all that
/// follow it (§5.3)"
#[test]
fn rule_3_a_conflicting_entry_goes_with_all_that_follow() {
    let mut raft = with_log(&[1, 1, 1, 1], 2);
    receive(&mut raft, 2, 2, append((1, 1), &[(2, 2)], 0));
    let drained = actions(&mut raft);
    let write = drained.iter().find_map(|action| match action {
        Action::Persist(persist) => Some(persist),
        _ => None,
    });
    let write = write.unwrap();
    assert_eq!((write.truncate_from, write.entries.len()), (Some(Index(2)), 1));
    assert_eq!(raft.status().last, Index(2));
}

/// The same, for what an entry brought into force (dissertation §4.1: "if … removed from the log, … fall back to the previous configuration";
/// scenario 30).
#[test]
fn rule_3_a_configuration_goes_with_its_entry() {
    let mut raft = with_log(&[1], 1);
    let changed = Entry {
        term: Term(1),
        index: Index(2),
        payload: Payload::Membership(Membership::of_voters([1, 2, 3, 4].map(NodeId)).into()),
    };
    let entries = Entries::try_from_vec(vec![changed]).unwrap();
    exchange(&mut raft, 2, 1, Body::Append { prev: at(1, 1), entries, commit: Index(0) });
    assert_eq!(raft.membership().voters.len(), 4, "effective when appended");
    exchange(&mut raft, 3, 2, append((1, 1), &[(2, 2)], 0));
    assert_eq!(raft.membership(), &voters(3));
}

/// Receiver 3, the other way round: without a conflict nothing goes (scenario 13).
#[test]
fn rule_3_nothing_is_deleted_without_a_conflict() {
    let mut raft = with_log(&[1, 1, 1], 1);
    let out = exchange(&mut raft, 2, 1, append((0, 0), &[(1, 1), (2, 1)], 0));
    assert_eq!((raft.status().last, to(2, &out)), (Index(3), vec![accepted(2)]));
}

/// Receiver 4: "Append any new entries not already in the log"
#[test]
fn rule_4_only_what_is_new_is_appended() {
    let mut raft = with_log(&[1, 1], 1);
    receive(&mut raft, 2, 1, append((1, 1), &[(2, 1), (3, 1), (4, 1)], 0));
    let drained = actions(&mut raft);
    let [Action::Persist(write), ..] = &drained[1..] else { panic!("{drained:?}") };
    assert_eq!((write.truncate_from, write.entries.len()), (None, 2));
    assert_eq!(raft.status().last, Index(4));
}

/// Receiver 5: "If leaderCommit > commitIndex, set commitIndex = min(leaderCommit, index of last new entry)"
#[test]
fn rule_5_nothing_is_committed_beyond_what_was_compared() {
    let mut raft = with_log(&[1, 1, 1], 2);
    exchange(&mut raft, 2, 2, append((1, 1), &[], 3));
    assert_eq!(raft.status().commit, Index(1), "entries 2 and 3 may not be the leader's");
    exchange(&mut raft, 2, 2, append((1, 1), &[(2, 1)], 3));
    assert_eq!(raft.status().commit, Index(2));
}

/// Figure 3, leader completeness, from the receiving side: no leader can replace what is committed.
#[test]
fn a_committed_entry_is_never_replaced() {
    let mut raft = with_log(&[1, 1], 1);
    exchange(&mut raft, 2, 1, append((2, 1), &[], 2));
    let replace = message(2, append((1, 1), &[(2, 2)], 0));
    let input = raft_core::Input::Message { from: NodeId(3), store: None, message: replace };
    let error = raft.handle(raft_core::Instant(0), input).unwrap_err();
    let fault = PeerFault::OverwritesCommitted { index: Index(2) };
    assert_eq!(error, raft_core::HandleError::Peer { from: NodeId(3), fault });
}
