//! The checkers find what they are there to find.

use std::fmt;

use raft_core::{
    AppendOutcome, Body, Entry, HardState, Index, LogPosition, Membership, Message, NodeId,
    Payload, Persist, Term,
};

use crate::{Checker, Image, Violation};

fn image(terms: &[u64], term: u64) -> Image {
    let mut image = Image::founding(Membership::of_voters((1..=3).map(NodeId)));
    image.hard_state = HardState { term: Term(term), vote: None, commit: Index(0) };
    for (i, &t) in terms.iter().enumerate() {
        let index = Index(i as u64 + 1);
        image.entries.push(Entry { term: Term(t), index, payload: Payload::Empty });
    }
    image
}

fn checker() -> Checker {
    Checker::new(Membership::of_voters((1..=3).map(NodeId)))
}

fn rule<T: fmt::Debug>(result: Result<T, Violation>) -> &'static str {
    result.expect_err("a violation").rule
}

#[test]
fn two_leaders_in_one_term_are_found() {
    let mut checker = checker();
    let log = image(&[], 1);
    assert_eq!(checker.on_leader(NodeId(1), Term(1), &log), Ok(true));
    assert_eq!(checker.on_leader(NodeId(1), Term(1), &log), Ok(false));
    assert_eq!(rule(checker.on_leader(NodeId(2), Term(1), &log)), "election safety");
}

#[test]
fn a_commit_needs_a_quorum_of_disks() {
    let mut checker = checker();
    let (full, empty) = (image(&[1], 1), image(&[], 1));
    let one = [(NodeId(1), &full), (NodeId(2), &empty), (NodeId(3), &empty)];
    let result = checker.on_commit(NodeId(1), Index(1), (&full, None), None, &one.iter().copied());
    assert_eq!(rule(result), "commit is durable");
    let two = [(NodeId(1), &full), (NodeId(2), &full), (NodeId(3), &empty)];
    assert_eq!(
        checker.on_commit(NodeId(1), Index(1), (&full, None), None, &two.iter().copied()),
        Ok(true)
    );
    // Another node that takes another entry for committed there.
    let other = image(&[2], 2);
    let result = checker.on_commit(NodeId(3), Index(1), (&other, None), None, &two.iter().copied());
    assert_eq!(rule(result), "state machine safety");
    // A leader without it.
    assert_eq!(rule(checker.on_leader(NodeId(3), Term(3), &empty)), "leader completeness");
    // One of an earlier term that wakes up late is no violation: nobody follows it.
    assert_eq!(checker.on_leader(NodeId(3), Term(1), &empty), Ok(true));
    assert_eq!(rule(checker.on_leader(NodeId(3), Term(4), &other)), "leader completeness");
    // And a disk that forgets it.
    let write = Persist {
        ticket: raft_core::Ticket(1),
        hard_state: None,
        reset: None,
        truncate_from: Some(Index(1)),
        entries: raft_core::Entries::new(),
    };
    assert_eq!(rule(checker.on_write(NodeId(1), &write, &full)), "committed entries stay");
}

#[test]
fn an_entry_with_two_payloads_or_two_predecessors_is_found() {
    let mut checker = checker();
    let entry = Entry { term: Term(2), index: Index(2), payload: Payload::Empty };
    assert_eq!(checker.on_entry(NodeId(1), &entry, Term(1)), Ok(()));
    assert_eq!(rule(checker.on_entry(NodeId(2), &entry, Term(2))), "log matching");
    let command = Payload::Command(bytes::Bytes::from_static(b"x"));
    let other = Entry { payload: command, ..entry };
    assert_eq!(rule(checker.on_entry(NodeId(2), &other, Term(1))), "log matching");
}

#[test]
fn a_vote_or_an_acknowledgement_ahead_of_its_disk_is_found() {
    let mut checker = checker();
    let vote = Message { term: Term(2), body: Body::VoteResponse { granted: true } };
    let rule_name = "durable before said";
    let send = |checker: &mut Checker, message: &Message, disk: &Image| {
        checker.on_send(NodeId(1), NodeId(2), message, disk)
    };
    assert_eq!(rule(send(&mut checker, &vote, &image(&[], 1))), rule_name);
    assert_eq!(rule(send(&mut checker, &vote, &image(&[], 2))), rule_name);
    let mut voted = image(&[], 2);
    voted.hard_state.vote = Some(NodeId(2));
    assert_eq!(send(&mut checker, &vote, &voted), Ok(()));
    let accepted = AppendOutcome::Accepted { matched: Index(1) };
    let ack = Message { term: Term(2), body: Body::AppendResponse(accepted) };
    assert_eq!(rule(send(&mut checker, &ack, &image(&[], 2))), rule_name);
    assert_eq!(send(&mut checker, &ack, &image(&[1], 2)), Ok(()));
}

#[test]
fn a_hard_state_that_falls_or_a_vote_that_moves_is_found() {
    let mut checker = checker();
    let mut log = image(&[], 3);
    log.hard_state.vote = Some(NodeId(1));
    let write = |term: u64, vote: u64| Persist {
        ticket: raft_core::Ticket(1),
        hard_state: Some(HardState {
            term: Term(term),
            vote: Some(NodeId(vote)),
            commit: Index(0),
        }),
        reset: None,
        truncate_from: None,
        entries: raft_core::Entries::new(),
    };
    assert!(checker.on_write(NodeId(1), &write(2, 1), &log).is_err());
    assert!(checker.on_write(NodeId(1), &write(3, 2), &log).is_err());
    assert!(checker.on_write(NodeId(1), &write(4, 2), &log).is_ok());
}

#[test]
fn states_that_differ_at_one_index_are_found() {
    let mut checker = checker();
    let log = image(&[1], 1);
    let disks = [(NodeId(1), &log), (NodeId(2), &log)];
    checker.on_commit(NodeId(1), Index(1), (&log, None), None, &disks.iter().copied()).unwrap();
    let at = LogPosition { index: Index(1), term: Term(1) };
    assert_eq!(checker.on_applied(NodeId(1), at, 7), Ok(()));
    assert_eq!(rule(checker.on_applied(NodeId(2), at, 8)), "state machine safety");
    let later = LogPosition { index: Index(2), term: Term(1) };
    assert_eq!(rule(checker.on_applied(NodeId(2), later, 8)), "only committed entries are applied");
}
