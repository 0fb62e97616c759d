//! Every way in which a peer can break the rules is refused by its name, changes nothing, and says what happened.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeSet;

use common::append;
use common::one::{at, follower_of_three, lead, message, sent, snapshot};
use raft_core::{
    AppendOutcome, Body, Config, Entries, Entry, HandleError, Index, Input, Instant, Membership,
    Message, NodeId, Payload, PeerFault, Raft, Restored, SnapshotMeta, SnapshotOutcome, StoreId,
    StoreStamp, Term,
};

/// The name of a fault: a new one does not compile here before it has a row below.
fn name(fault: PeerFault) -> &'static str {
    match fault {
        PeerFault::OwnId => "OwnId",
        PeerFault::ImpossibleTerm { .. } => "ImpossibleTerm",
        PeerFault::TermTooFar { .. } => "TermTooFar",
        PeerFault::ImpossibleIndex { .. } => "ImpossibleIndex",
        PeerFault::SecondLeader { .. } => "SecondLeader",
        PeerFault::BrokenRun { .. } => "BrokenRun",
        PeerFault::EntryFromTheFuture { .. } => "EntryFromTheFuture",
        PeerFault::PositionFromTheFuture { .. } => "PositionFromTheFuture",
        PeerFault::OverwritesCommitted { .. } => "OverwritesCommitted",
        PeerFault::AcknowledgedTooMuch { .. } => "AcknowledgedTooMuch",
        PeerFault::UnknownReadContext { .. } => "UnknownReadContext",
        PeerFault::ImpossibleMembership => "ImpossibleMembership",
        PeerFault::WithheldCommand { .. } => "WithheldCommand",
        PeerFault::CommandForWitness { .. } => "CommandForWitness",
        PeerFault::CommandsMissing { .. } => "CommandsMissing",
        PeerFault::RolledBackStore { .. } => "RolledBackStore",
    }
}

/// The name of a fault, who is told, by whom, and what.
type Row = (&'static str, fn() -> Raft, u64, Message);

/// How many names there are above.
const NAMES: usize = 16;

/// A follower of node 2 in term 3, with one committed entry.
fn follower() -> Raft {
    let mut raft = follower_of_three();
    tell(&mut raft, 2, message(3, append((0, 0), &[(1, 3)], 1))).unwrap();
    sent(&mut raft);
    raft
}

/// A witness that follows node 2 in term 3, with one committed entry.
fn witness() -> Raft {
    let config = Config { is_witness: true, ..Config::new(NodeId(1)) };
    let members = Membership {
        voters: [1, 2, 3].map(NodeId).into(),
        witnesses: [NodeId(1)].into(),
        ..Membership::default()
    };
    let mut raft = Raft::new(config, 1, Instant(0), Restored::founding(members)).unwrap();
    tell(&mut raft, 2, message(3, append((0, 0), &[(1, 3)], 1))).unwrap();
    sent(&mut raft);
    raft
}

/// The leader of term 1, with its own entry only.
fn leader() -> Raft {
    let mut raft = follower_of_three();
    lead(&mut raft);
    raft
}

fn tell(raft: &mut Raft, from: u64, message: Message) -> Result<(), HandleError> {
    let store = Some(StoreStamp { id: StoreId(7), life: 2, nonce: 0 });
    raft.handle(Instant(0), Input::Message { from: NodeId(from), store, message })
}

fn entry_2(payload: Payload) -> Body {
    let entry = Entry { term: Term(3), index: Index(2), payload };
    let entries = Entries::try_from_vec(vec![entry]).unwrap();
    Body::Append { prev: at(1, 3), entries, commit: Index(0) }
}

fn accepted(matched: u64) -> Body {
    Body::AppendResponse(AppendOutcome::Accepted { matched: Index(matched) })
}

fn witnessed(matched: u64) -> Body {
    Body::AppendResponse(AppendOutcome::Witnessed { matched: Index(matched) })
}

const MAX: u64 = u64::MAX;

fn offer(snapshot: SnapshotMeta) -> Body {
    Body::SnapshotOffer { snapshot }
}

/// What a follower is told that could not be said at all.
fn impossible_messages() -> Vec<Row> {
    let nobody = SnapshotMeta { position: at(5, 3), membership: Membership::default().into() };
    let no_members = Payload::Membership(Membership::default().into());
    vec![
        ("OwnId", follower, 1, message(3, append((0, 0), &[], 0))),
        ("ImpossibleTerm", follower, 2, message(0, append((0, 0), &[], 0))),
        ("ImpossibleTerm", follower, 2, message(MAX, append((0, 0), &[], 0))),
        ("ImpossibleTerm", follower, 2, message((MAX >> 1) + 1, append((0, 0), &[], 0))),
        ("TermTooFar", follower, 2, message(MAX >> 1, append((0, 0), &[], 0))),
        ("TermTooFar", follower, 3, message(MAX >> 1, Body::PreVoteResponse { granted: false })),
        ("ImpossibleIndex", follower, 2, message(3, append((MAX - 1, 3), &[(MAX, 3)], 0))),
        ("ImpossibleIndex", follower, 2, message(3, offer(snapshot(MAX, 3)))),
        ("SecondLeader", follower, 3, message(3, append((0, 0), &[], 0))),
        ("BrokenRun", follower, 2, message(3, append((4, 3), &[(9, 3)], 0))),
        ("BrokenRun", follower, 2, message(3, append((MAX, 3), &[(9, 3)], 0))),
        ("BrokenRun", follower, 2, message(3, append((1, 3), &[(2, 2)], 0))),
        ("EntryFromTheFuture", follower, 2, message(3, append((1, 3), &[(2, 8)], 0))),
        ("ImpossibleMembership", follower, 2, message(3, entry_2(no_members))),
        ("ImpossibleMembership", follower, 2, message(3, offer(nobody))),
    ]
}

/// What a follower is told of positions and commands that do not fit its term, its log or its kind.
fn misfits() -> Vec<Row> {
    let vote = Body::Vote { last: at(MAX, MAX), transfer: false };
    vec![
        ("PositionFromTheFuture", follower, 2, message(3, append((4, 9), &[], 0))),
        ("PositionFromTheFuture", follower, 3, message(5, Body::PreVote { last: at(4, 9) })),
        ("PositionFromTheFuture", follower, 3, message(5, vote)),
        ("PositionFromTheFuture", follower, 2, message(3, offer(snapshot(5, 4)))),
        ("OverwritesCommitted", follower, 2, message(3, append((0, 0), &[(1, 2)], 0))),
        ("OverwritesCommitted", follower, 2, message(3, offer(snapshot(1, 2)))),
        ("WithheldCommand", follower, 2, message(3, entry_2(Payload::Withheld))),
        ("CommandForWitness", witness, 2, message(3, entry_2(Payload::Command("x".into())))),
    ]
}

/// What a leader is told.
fn false_answers() -> Vec<Row> {
    let matched = SnapshotOutcome::Matched(Index(MAX));
    let installed = Body::SnapshotResponse { position: at(1, 1), outcome: matched };
    let context = Body::HeartbeatResponse { read_context: MAX };
    vec![
        ("SecondLeader", leader, 2, message(1, append((0, 0), &[], 0))),
        ("AcknowledgedTooMuch", leader, 2, message(1, accepted(MAX))),
        ("AcknowledgedTooMuch", leader, 2, message(1, installed)),
        ("UnknownReadContext", leader, 2, message(1, context)),
        ("CommandsMissing", leader, 2, message(1, witnessed(1))),
    ]
}

#[test]
fn every_fault_is_refused_by_name_and_changes_nothing() {
    let table = [impossible_messages(), misfits(), false_answers()].concat();
    assert_eq!(table.len(), 28);
    let mut seen = BTreeSet::new();
    for (expected, build, from, message) in table {
        let mut raft = build();
        let before = raft.status();
        let error = tell(&mut raft, from, message.clone()).unwrap_err();
        let HandleError::Peer { from: accused, fault } = error else { panic!("{error}") };
        assert_eq!((accused, name(fault)), (NodeId(from), expected), "{message:?}");
        assert_eq!(raft.status(), before, "a refused message changes nothing: {message:?}");
        assert!(error.to_string().starts_with(&format!("node {from} broke the protocol: it ")));
        seen.insert(expected);
    }
    seen.insert(a_store_that_went_back());
    assert_eq!(seen.len(), NAMES, "a fault without a row: {seen:?}");
}

/// The one fault that is not in the message but in whom it comes from.
fn a_store_that_went_back() -> &'static str {
    let mut raft = follower();
    let store = Some(StoreStamp { id: StoreId(7), life: 1, nonce: 0 });
    let beat = message(3, Body::Heartbeat { commit: Index(1), read_context: 0 });
    let error = raft
        .handle(Instant(0), Input::Message { from: NodeId(2), store, message: beat })
        .unwrap_err();
    let HandleError::Peer { fault, .. } = error else { panic!("{error}") };
    assert_eq!(fault, PeerFault::RolledBackStore { life: 1, seen: 2 });
    name(fault)
}
