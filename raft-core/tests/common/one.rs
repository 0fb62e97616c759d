//! One core by hand: what it is told, and what it says to that. Everything that it wants written is durable at once, unless a test
//! takes the actions itself.

use raft_core::{
    Action, Body, Config, Entry, HardState, Index, Input, Instant, LogPosition, Membership,
    Message, NodeId, Payload, Raft, Restored, RestoredLog, RoleKind, SnapshotMeta, Term,
};

pub fn message(term: u64, body: Body) -> Message {
    Message { term: Term(term), body }
}

pub fn at(index: u64, term: u64) -> LogPosition {
    LogPosition { index: Index(index), term: Term(term) }
}

pub fn voters(size: u64) -> Membership {
    Membership::of_voters((1..=size).map(NodeId))
}

pub fn snapshot(index: u64, term: u64) -> SnapshotMeta {
    SnapshotMeta { position: at(index, term), membership: voters(3).into() }
}

pub fn follower_of_three() -> Raft {
    Raft::new(Config::new(NodeId(1)), 7, Instant(0), Restored::founding(voters(3))).unwrap()
}

/// What a disk reports that holds empty entries of these terms, from index 1 on, and this hard state.
pub fn disk(terms: &[u64], term: u64, vote: Option<u64>, commit: u64) -> RestoredLog {
    let hard_state = HardState { term: Term(term), vote: vote.map(NodeId), commit: Index(commit) };
    let entries: Vec<Entry> = terms
        .iter()
        .zip(1..)
        .map(|(&term, index)| Entry {
            term: Term(term),
            index: Index(index),
            payload: Payload::Empty,
        })
        .collect();
    RestoredLog::describe(hard_state, LogPosition::ORIGIN, voters(3), &entries)
}

/// Node 1 of three with entries of these terms, in this term, without a vote in it.
pub fn with_log(terms: &[u64], term: u64) -> Raft {
    let restored = Restored { log: disk(terms, term, None, 0), snapshot: None };
    Raft::new(Config::new(NodeId(1)), 7, Instant(0), restored).unwrap()
}

pub fn receive(raft: &mut Raft, from: u64, term: u64, body: Body) {
    let input = Input::Message { from: NodeId(from), store: None, message: message(term, body) };
    raft.handle(Instant(0), input).unwrap();
}

/// Drains, and carries nothing out.
pub fn actions(raft: &mut Raft) -> Vec<Action> {
    std::iter::from_fn(|| raft.poll_action()).collect()
}

/// Drains, carrying out every write and reporting every entry as applied; returns what was sent.
pub fn sent(raft: &mut Raft) -> Vec<(NodeId, Message)> {
    let mut out = Vec::new();
    while let Some(action) = raft.poll_action() {
        match action {
            Action::Persist(persist) => {
                raft.handle(Instant(0), Input::Persisted(persist.ticket)).unwrap();
            }
            Action::Apply(apply) => {
                raft.handle(Instant(0), Input::Applied(apply.last)).unwrap();
            }
            Action::Send { to, message } => out.push((to, message)),
            _ => {}
        }
    }
    out
}

/// Tells it something, and returns what it says to that.
pub fn exchange(raft: &mut Raft, from: u64, term: u64, body: Body) -> Vec<(NodeId, Message)> {
    receive(raft, from, term, body);
    sent(raft)
}

/// The messages among actions.
pub fn messages(actions: &[Action]) -> Vec<(NodeId, Message)> {
    let sends = actions.iter().filter_map(|action| match action {
        Action::Send { to, message } => Some((*to, message.clone())),
        _ => None,
    });
    sends.collect()
}

pub fn role(raft: &Raft) -> RoleKind {
    raft.status().role
}

/// Lets its patience end.
pub fn time_out(raft: &mut Raft) {
    let deadline = raft.poll_timeout().expect("it waits for something");
    raft.handle(deadline, Input::Timeout).unwrap();
}

/// Makes one of three a candidate of the next term: node 3 says that it would vote. What it wants to be written is not written yet.
pub fn stand(raft: &mut Raft) {
    time_out(raft);
    let term = raft.status().term.next().unwrap();
    receive(raft, 3, term.0, Body::PreVoteResponse { granted: true });
    assert_eq!((role(raft), raft.status().term), (RoleKind::Candidate, term));
}

/// Makes one of three the leader of the next term, by the vote of node 3; returns what it sent last.
pub fn lead(raft: &mut Raft) -> Vec<(NodeId, Message)> {
    stand(raft);
    sent(raft);
    let term = raft.status().term;
    let out = exchange(raft, 3, term.0, Body::VoteResponse { granted: true });
    assert_eq!(role(raft), RoleKind::Leader);
    out
}

/// What was said to one node.
pub fn to(node: u64, sent: &[(NodeId, Message)]) -> Vec<Body> {
    let bodies =
        sent.iter().filter(|(to, _)| to.0 == node).map(|(_, message)| message.body.clone());
    bodies.collect()
}
