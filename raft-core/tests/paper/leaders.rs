//! Figure 2, "Rules for Servers": leaders; and what §8 and the dissertation (§6.2, §6.4) add to them.

use std::time::Duration;

use crate::common::one::*;
use crate::common::{Cluster, append, commands};
use raft_core::{
    Action, AppendOutcome, Body, Entries, Entry, HandleError, Index, Input, Instant, NodeId,
    Payload, PeerFault, ProposalId, Raft, ReadAt, ReadId, Resolution, RoleKind, Term,
};

fn accepted(matched: u64) -> Body {
    Body::AppendResponse(AppendOutcome::Accepted { matched: Index(matched) })
}

fn rejected(prev: u64, hint: (u64, u64)) -> Body {
    let hint = at(hint.0, hint.1);
    Body::AppendResponse(AppendOutcome::Rejected { prev: Index(prev), hint })
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { term: Term(term), index: Index(index), payload: Payload::Empty }
}

fn propose(raft: &mut Raft, texts: &[&str]) {
    let input = Input::Propose { id: ProposalId(1), commands: commands(texts) };
    raft.handle(Instant(0), input).unwrap();
}

/// Leaders 1: "Upon election: send initial empty `AppendEntries` RPCs (heartbeat) to each server; repeat during idle periods to prevent election
/// timeouts (§5.2)" (here the first carries the leader's own empty entry, §8)
#[test]
fn leaders_1_are_heard_at_once_and_while_they_are_idle() {
    let mut raft = with_log(&[1], 1);
    let out = lead(&mut raft);
    for node in [2, 3] {
        let bodies = to(node, &out);
        let [Body::Append { prev, entries, .. }] = &bodies[..] else { panic!("{bodies:?}") };
        assert_eq!((*prev, entries.len()), (at(1, 1), 1));
        assert_eq!(entries.first().unwrap().payload, Payload::Empty);
    }
    let quiet = raft.poll_timeout().unwrap();
    raft.handle(quiet, Input::Timeout).unwrap();
    let out = sent(&mut raft);
    for node in [2, 3] {
        assert!(
            to(node, &out).iter().any(|body| matches!(body, Body::Heartbeat { .. })),
            "{out:?}"
        );
    }
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let term = cluster.term(1);
    cluster.run(Duration::from_secs(5));
    assert_eq!((cluster.leader(), cluster.term(1)), (Some(1), term));
}

/// Leaders 2: "If command received from client: append entry to local log, respond after entry applied to state machine (§5.3)"
#[test]
fn leaders_2_append_what_clients_want_and_apply_it_once_a_quorum_has_it() {
    let mut raft = follower_of_three();
    lead(&mut raft);
    propose(&mut raft, &["a"]);
    assert_eq!(raft.status().last, Index(2));
    sent(&mut raft);
    assert_eq!(raft.status().applied, Index(0));
    exchange(&mut raft, 2, 1, accepted(2));
    assert_eq!((raft.status().commit, raft.status().applied), (Index(2), Index(2)));
}

/// Leaders 3: "If last log index ≥ nextIndex for a follower: send `AppendEntries` RPC with log entries starting at nextIndex. If successful:
/// update nextIndex and matchIndex for follower (§5.3)"
#[test]
fn leaders_3_send_what_a_follower_lacks() {
    let mut raft = follower_of_three();
    lead(&mut raft);
    exchange(&mut raft, 2, 1, accepted(1));
    assert_eq!(raft.status().peers[0].matched, Index(1));
    propose(&mut raft, &["a", "b"]);
    let out = to(2, &sent(&mut raft));
    let [Body::Append { prev, entries, commit }] = &out[..] else { panic!("{out:?}") };
    assert_eq!((*prev, entries.len(), *commit), (at(1, 1), 2, Index(1)));
}

/// Leaders 3: "If `AppendEntries` fails because of log inconsistency: decrement nextIndex and retry (§5.3)"
#[test]
fn leaders_3_go_back_where_the_logs_may_agree() {
    let mut raft = with_log(&[1, 1, 1, 3, 3], 3);
    lead(&mut raft);
    // It has entries of term 2, which no one else has, up to index 9.
    receive(&mut raft, 2, 4, rejected(5, (4, 2)));
    let drained = actions(&mut raft);
    let fetch = |action: &Action| matches!(action, Action::Fetch { first: Index(4), .. });
    assert!(drained.iter().any(fetch), "the last place where no term is beyond the hint's is 3");
    let entries = Entries::try_from_vec(vec![entry(4, 3), entry(5, 3)]).unwrap();
    raft.handle(Instant(0), Input::Fetched { peer: NodeId(2), entries }).unwrap();
    let out = to(2, &sent(&mut raft));
    assert!(matches!(&out[..], [Body::Append { prev, .. }] if *prev == at(3, 1)), "{out:?}");
    // The same answer, delivered twice, moves nothing.
    receive(&mut raft, 2, 4, rejected(5, (4, 2)));
    assert_eq!(actions(&mut raft), []);
    // Nor does a late one once they agree.
    exchange(&mut raft, 2, 4, accepted(6));
    receive(&mut raft, 2, 4, rejected(3, (2, 1)));
    assert_eq!(actions(&mut raft), []);
    assert_eq!(raft.status().peers[0].matched, Index(6));
}

/// §5.3: one round trip per term that differs, however many entries.
#[test]
fn leaders_3_find_the_place_in_one_round_trip_a_term() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.isolate(1);
    for number in 0..50 {
        cluster.propose(1, &[&format!("lost {number}")]);
    }
    cluster.network.clear();
    cluster.run(Duration::from_secs(3));
    let leader = cluster.leader().unwrap();
    for number in 0..50 {
        cluster.propose(leader, &[&format!("kept {number}")]);
    }
    cluster.settle();
    cluster.heal();
    cluster.now = cluster.now + Duration::from_millis(60);
    cluster.handle(leader, Input::Timeout);
    let mut rejections = 0;
    while let Some((from, to, message)) = cluster.network.pop_front() {
        let is_rejection =
            matches!(message.body, Body::AppendResponse(AppendOutcome::Rejected { .. }));
        rejections += u32::from(is_rejection);
        cluster.deliver(from, to, message);
    }
    assert_eq!(cluster.applied(1).last().map(String::as_str), Some("kept 49"));
    assert!(rejections <= 2, "{rejections} round trips for one term");
}

/// Leaders 4: "If there exists an N such that N > commitIndex, a majority of matchIndex[i] ≥ N, and log[N].term == currentTerm: set
/// commitIndex = N (§5.3, §5.4)"
#[test]
fn leaders_4_commit_what_a_majority_has_if_it_is_of_their_own_term() {
    let mut raft = with_log(&[1, 1], 1);
    lead(&mut raft);
    exchange(&mut raft, 2, 2, accepted(2));
    assert_eq!(raft.status().commit, Index(0), "figure 8: not by counting");
    exchange(&mut raft, 2, 2, accepted(3));
    assert_eq!(raft.status().commit, Index(3), "the earlier ones along with it");
}

/// Leaders 4: the leader is one of the majority as far as its own disk is (scenario 41).
#[test]
fn leaders_4_count_themselves_when_their_disk_has_it() {
    let mut raft = follower_of_three();
    lead(&mut raft);
    propose(&mut raft, &["a"]);
    let drained = actions(&mut raft);
    let ticket = drained.iter().find_map(|action| match action {
        Action::Persist(persist) => Some(persist.ticket),
        _ => None,
    });
    exchange(&mut raft, 2, 1, accepted(2));
    assert_eq!(raft.status().commit, Index(1), "one disk of three");
    raft.handle(Instant(0), Input::Persisted(ticket.unwrap())).unwrap();
    sent(&mut raft);
    assert_eq!(raft.status().commit, Index(2));
}

/// Figure 3, leader append-only, against its own disk: what was fetched under an earlier leadership is not its log.
#[test]
fn entries_from_disk_are_compared_before_they_are_sent() {
    let mut raft = with_log(&[1, 1, 1, 1], 1);
    lead(&mut raft);
    receive(&mut raft, 2, 2, rejected(4, (2, 1)));
    let drained = actions(&mut raft);
    let fetch =
        |action: &Action| matches!(action, Action::Fetch { peer: NodeId(2), first: Index(3), .. });
    assert!(drained.iter().any(fetch), "{drained:?}");
    let entries = Entries::try_from_vec(vec![entry(3, 2), entry(4, 2)]).unwrap();
    raft.handle(Instant(0), Input::Fetched { peer: NodeId(2), entries }).unwrap();
    assert_eq!(messages(&actions(&mut raft)), []);
    // It tries again at the next heartbeat.
    time_out(&mut raft);
    time_out(&mut raft);
    assert!(actions(&mut raft).iter().any(fetch));
    let entries = Entries::try_from_vec(vec![entry(3, 1), entry(4, 1)]).unwrap();
    raft.handle(Instant(0), Input::Fetched { peer: NodeId(2), entries }).unwrap();
    let out = messages(&actions(&mut raft));
    assert!(
        matches!(&to(2, &out)[..], [Body::Append { entries, .. }] if entries.len() == 2),
        "{out:?}"
    );
}

/// What is in flight is given back with each answer (scenario 15).
#[test]
fn a_window_of_bytes_opens_again() {
    let mut cluster = Cluster::configured(3, |config| config.in_flight_bytes_max = 300);
    cluster.elect(1);
    let texts: Vec<String> = (0..40).map(|number| format!("value {number}")).collect();
    for text in &texts {
        cluster.propose(1, &[text]);
        cluster.settle();
    }
    assert_eq!(cluster.applied(1), texts);
    assert_eq!(cluster.host(2).raft.status().last, cluster.host(1).raft.status().last);
}

/// An answer about entries that the leader does not have, or to a question that it never asked, is a peer's fault.
#[test]
fn answers_to_what_was_never_sent_are_refused_by_name() {
    let fault = |body| {
        let mut raft = follower_of_three();
        lead(&mut raft);
        let input = Input::Message { from: NodeId(2), store: None, message: message(1, body) };
        match raft.handle(Instant(0), input) {
            Err(HandleError::Peer { fault, .. }) => fault,
            other => panic!("{other:?}"),
        }
    };
    let too_much = PeerFault::AcknowledgedTooMuch { matched: Index(2), last: Index(1) };
    assert_eq!(fault(accepted(2)), too_much);
    let unknown = PeerFault::UnknownReadContext { read_context: 1 };
    assert_eq!(fault(Body::HeartbeatResponse { read_context: 1 }), unknown);
}

/// §8: "a leader must have the latest information on which entries are committed … by having each leader commit a blank no-op entry into the
/// log at the start of its term" (scenario 20)
#[test]
fn a_read_waits_for_the_leaders_own_first_entry() {
    let mut raft = with_log(&[1, 1], 1);
    lead(&mut raft);
    raft.handle(Instant(0), Input::Read { id: ReadId(7), at: ReadAt::Leader }).unwrap();
    let answer_all = |raft: &mut Raft, mut out: Vec<Action>| {
        let mut ready = Vec::new();
        while !out.is_empty() {
            for (_, message) in messages(&out) {
                if let Body::Heartbeat { read_context, .. } = message.body {
                    receive(raft, 2, 2, Body::HeartbeatResponse { read_context });
                }
            }
            ready.extend(out.iter().filter_map(|action| match action {
                Action::Resolve(Resolution::ReadReady { id, index }) => Some((*id, *index)),
                _ => None,
            }));
            out = actions(raft);
        }
        ready
    };
    time_out(&mut raft);
    let drained = actions(&mut raft);
    assert_eq!(answer_all(&mut raft, drained), []);
    receive(&mut raft, 2, 2, accepted(3));
    let drained = actions(&mut raft);
    assert_eq!(answer_all(&mut raft, drained), [(ReadId(7), Index(3))]);
}

/// Dissertation §6.2: "a leader in Raft steps down if an election timeout elapses without a successful round of heartbeats to a majority of its
/// cluster"
#[test]
fn a_leader_that_hears_from_no_quorum_steps_down() {
    let mut raft = follower_of_three();
    lead(&mut raft);
    exchange(&mut raft, 2, 1, accepted(1));
    let begun = raft.poll_timeout().unwrap();
    while role(&raft) == RoleKind::Leader {
        let now = raft.poll_timeout().unwrap();
        assert!(now.since(begun) < Duration::from_secs(2), "it still leads");
        time_out(&mut raft);
        sent(&mut raft);
    }
    assert_eq!((role(&raft), raft.status().term), (RoleKind::Follower, Term(1)));
}

/// Only one leader a term is ever followed (figure 3, election safety, from the receiving side).
#[test]
fn a_leader_that_sees_another_in_its_term_says_so() {
    let mut raft = follower_of_three();
    lead(&mut raft);
    let other = message(1, append((0, 0), &[], 0));
    let input = Input::Message { from: NodeId(2), store: None, message: other };
    let fault = PeerFault::SecondLeader { term: Term(1), leader: NodeId(1) };
    let expected = HandleError::Peer { from: NodeId(2), fault };
    assert_eq!(raft.handle(Instant(0), input), Err(expected));
}
