//! Guards that only a rare order of events needs, one test each. Most were found by taking the guard out and seeing that no other test noticed
//! (`cargo xtask mutants`).
#![allow(missing_docs)]

mod common;

use std::time::Duration;

use common::one::{
    actions, at, disk, exchange, lead, message, receive, role, sent, time_out, to, voters,
};
use common::{Cluster, Disk, commands};
use raft_core::{
    Action, AppendOutcome, Body, ChangeStep, CommitGroups, Config, ConfigError, Entries, Entry,
    ForwardId, ForwardOutcome, Index, Input, Instant, LeaseConfig, Membership, Memory, NodeId,
    Payload, ProposalId, Raft, ReadAt, ReadId, Refusal, RequestId, Resolution, Restored,
    RestoredLog, RoleKind, StorageHealth, StoreId, StoreStamp, Term, TrafficClass,
};

fn start(membership: &Membership, configure: impl FnOnce(&mut Config)) -> Raft {
    let mut config = Config::new(NodeId(1));
    configure(&mut config);
    Raft::new(config, 7, Instant(0), Restored::founding(membership.clone())).unwrap()
}

fn with_leases(config: &mut Config) {
    config.lease = Some(LeaseConfig { clock_drift_max_ppm: 0 });
}

fn tell(raft: &mut Raft, now: Instant, from: u64, body: Body) -> Vec<Action> {
    let term = raft.status().term.0;
    let input = Input::Message { from: NodeId(from), store: None, message: message(term, body) };
    raft.handle(now, input).unwrap();
    carry_out(raft, now)
}

/// Writes and applies at once; returns the rest.
fn carry_out(raft: &mut Raft, now: Instant) -> Vec<Action> {
    let mut rest = Vec::new();
    while let Some(action) = raft.poll_action() {
        match action {
            Action::Persist(persist) => {
                raft.handle(now, Input::Persisted(persist.ticket)).unwrap();
            }
            Action::Apply(apply) => raft.handle(now, Input::Applied(apply.last)).unwrap(),
            other => rest.push(other),
        }
    }
    rest
}

fn resolutions(actions: Vec<Action>) -> Vec<Resolution> {
    let of =
        |action| if let Action::Resolve(resolution) = action { Some(resolution) } else { None };
    actions.into_iter().filter_map(of).collect()
}

fn orders_to_campaign(actions: &[Action]) -> usize {
    let is_order = |action: &&Action| matches!(action, Action::Send { message, .. } if message.body == Body::TimeoutNow);
    actions.iter().filter(is_order).count()
}

/// Makes it the leader by the vote of node 3, and commits its first entry; returns the time then.
fn settle(raft: &mut Raft) -> Instant {
    let now = raft.poll_timeout().unwrap();
    lead(raft);
    let accepted = AppendOutcome::Accepted { matched: raft.status().last };
    tell(raft, now, 3, Body::AppendResponse(accepted));
    assert_eq!(raft.status().commit, raft.status().last);
    now
}

#[test]
fn a_target_campaigns_only_with_the_whole_log() {
    // dissertation §3.10: a target that lacks entries would depose the leader and not be elected
    let mut raft = start(&voters(3), |_| ());
    let now = settle(&mut raft);
    let proposal = Input::Propose { id: ProposalId(1), commands: commands(&["x"]) };
    raft.handle(now, proposal).unwrap();
    carry_out(&mut raft, now);
    let id = RequestId(2);
    raft.handle(now, Input::TransferLeadership { id, to: Some(NodeId(3)) }).unwrap();
    assert_eq!(orders_to_campaign(&carry_out(&mut raft, now)), 0);
    let accepted = AppendOutcome::Accepted { matched: raft.status().last };
    let then = tell(&mut raft, now, 3, Body::AppendResponse(accepted));
    assert_eq!(orders_to_campaign(&then), 1);
}

#[test]
fn a_lease_counts_from_when_the_heartbeat_left() {
    // dissertation §6.4.1: the promise began when the heartbeat arrived; how long its answer took says nothing
    let mut raft = start(&voters(3), with_leases);
    let mut now = settle(&mut raft);
    raft.handle(now, Input::Timeout).unwrap();
    let beat = loop {
        now = raft.poll_timeout().unwrap();
        raft.handle(now, Input::Timeout).unwrap();
        let beats = carry_out(&mut raft, now).into_iter().find_map(|action| match action {
            Action::Send { message, .. } => match message.body {
                Body::Heartbeat { read_context, .. } => Some(read_context),
                _ => None,
            },
            _ => None,
        });
        if let Some(context) = beats {
            break context;
        }
    };
    let left_at = now;
    for _ in 0..6 {
        now = now + Duration::from_millis(50);
        raft.handle(now, Input::Timeout).unwrap();
        carry_out(&mut raft, now);
    }
    tell(&mut raft, now, 3, Body::HeartbeatResponse { read_context: beat });
    while now < left_at + Duration::from_millis(500) {
        let id = ReadId(now.0);
        raft.handle(now, Input::Read { id, at: ReadAt::Leader }).unwrap();
        let answered = resolutions(carry_out(&mut raft, now));
        assert_eq!(answered, [Resolution::ReadReady { id, index: Index(1) }], "at {now:?}");
        now = now + Duration::from_millis(50);
    }
    raft.handle(now, Input::Read { id: ReadId(1), at: ReadAt::Leader }).unwrap();
    assert_eq!(resolutions(carry_out(&mut raft, now)), []);
}

#[test]
fn a_leader_whose_disk_stalls_has_no_lease_even_if_nobody_can_take_over() {
    let mut membership = voters(3);
    membership.witnesses = [NodeId(2), NodeId(3)].into();
    let mut raft = start(&membership, with_leases);
    let now = settle(&mut raft);
    raft.handle(now, Input::Read { id: ReadId(1), at: ReadAt::Leader }).unwrap();
    carry_out(&mut raft, now);
    let answered = tell(&mut raft, now, 3, Body::HeartbeatResponse { read_context: 1 });
    assert_eq!(resolutions(answered).len(), 1);
    raft.handle(now, Input::Read { id: ReadId(2), at: ReadAt::Leader }).unwrap();
    assert_eq!(resolutions(carry_out(&mut raft, now)).len(), 1, "under the lease");
    raft.handle(now, Input::StorageHealth(StorageHealth::Stalled)).unwrap();
    raft.handle(now, Input::Read { id: ReadId(3), at: ReadAt::Leader }).unwrap();
    assert_eq!(resolutions(carry_out(&mut raft, now)), []);
}

/// Node 1 of three on store 9, whose log says that it was admitted with store 5.
fn on_another_store() -> Raft {
    let mut membership = voters(3);
    membership.stores = [(NodeId(1), StoreId(5))].into();
    let config = Config {
        store: Some(StoreStamp { id: StoreId(9), life: 1, nonce: 0 }),
        ..Config::new(NodeId(1))
    };
    let log = RestoredLog { base_membership: membership, ..disk(&[1, 1], 1, None, 2) };
    Raft::new(config, 7, Instant(0), Restored { log, snapshot: None }).unwrap()
}

#[test]
fn a_member_on_a_store_that_is_not_recorded_votes_and_does_not_campaign() {
    // scenario 32; rule 2 of `stores`: the candidate judges whether the vote counts
    let mut raft = on_another_store();
    sent(&mut raft);
    let answer = exchange(&mut raft, 2, 2, Body::Vote { last: at(2, 1), transfer: false });
    assert_eq!(to(2, &answer), [Body::VoteResponse { granted: true }]);
    if raft.poll_timeout().is_some() {
        time_out(&mut raft);
    }
    raft.handle(Instant(60_000_000), Input::Timeout).unwrap();
    assert_eq!((role(&raft), raft.status().term), (RoleKind::Follower, Term(2)));
}

/// A follower of node 2 in term 1 that passes proposals on, up to 150 bytes of them.
fn forwarder(seed: u64) -> Raft {
    let config =
        Config { forward_proposals: true, uncommitted_bytes_max: 150, ..Config::new(NodeId(1)) };
    let mut raft = Raft::new(config, seed, Instant(0), Restored::founding(voters(3))).unwrap();
    let out = exchange(&mut raft, 2, 1, Body::Heartbeat { commit: Index(0), read_context: 1 });
    assert_eq!(to(2, &out), [Body::HeartbeatResponse { read_context: 1 }]);
    raft
}

fn propose(raft: &mut Raft, id: u64) -> Vec<Action> {
    let commands = commands(&["0123456789012345678901234567890123456789"]);
    raft.handle(Instant(0), Input::Propose { id: ProposalId(id), commands }).unwrap();
    actions(raft)
}

fn forwarded(actions: &[Action]) -> Option<ForwardId> {
    actions.iter().find_map(|action| match action {
        Action::Send { message, .. } => match &message.body {
            Body::Forward { id, .. } => Some(*id),
            _ => None,
        },
        _ => None,
    })
}

#[test]
fn proposals_are_passed_on_within_the_quota() {
    let mut raft = forwarder(7);
    assert!(forwarded(&propose(&mut raft, 1)).is_some());
    let refused = resolutions(propose(&mut raft, 2));
    let [Resolution::Refused { id: ProposalId(2), reason }] = refused[..] else {
        panic!("{refused:?}")
    };
    assert!(matches!(reason, Refusal::QuotaExceeded { max_bytes: 150, .. }), "{reason}");
}

#[test]
fn an_answer_to_an_earlier_life_settles_no_proposal_of_this_one() {
    let earlier = forwarded(&propose(&mut forwarder(7), 1)).unwrap();
    let mut raft = forwarder(8);
    let now = forwarded(&propose(&mut raft, 1)).unwrap();
    assert_eq!(earlier.sequence, now.sequence);
    let outcome = ForwardOutcome::Appended { first: Index(9), count: 1 };
    let echo = tell(&mut raft, Instant(0), 2, Body::ForwardResponse { id: earlier, outcome });
    assert_eq!(resolutions(echo), []);
    let answer = tell(&mut raft, Instant(0), 2, Body::ForwardResponse { id: now, outcome });
    assert_eq!(resolutions(answer).len(), 1);
}

/// A follower of node 2 in term 1 in one life of its store. Its seed is the same in every life: a driver's mistake.
fn reborn(life: u64) -> Raft {
    let store = Some(StoreStamp { id: StoreId(9), life, nonce: 0 });
    let config = Config { forward_proposals: true, store, ..Config::new(NodeId(1)) };
    let mut raft = Raft::new(config, 7, Instant(0), Restored::founding(voters(3))).unwrap();
    exchange(&mut raft, 2, 1, Body::Heartbeat { commit: Index(0), read_context: 1 });
    raft
}

#[test]
fn lives_with_one_seed_ask_different_questions() {
    let ask = |raft: &mut Raft| {
        let read = Input::Read { id: ReadId(1), at: ReadAt::AnyMember };
        raft.handle(Instant(0), read).unwrap();
        let context =
            |body| if let Body::ReadIndex { context } = body { Some(context) } else { None };
        to(2, &sent(raft)).into_iter().find_map(context).unwrap()
    };
    let old = ask(&mut reborn(1));
    let mut raft = reborn(2);
    ask(&mut raft);
    let answer = Body::ReadIndexResponse { context: old, index: Some(Index(0)) };
    assert_eq!(resolutions(tell(&mut raft, Instant(0), 2, answer)), [], "a stale read");
}

#[test]
fn lives_with_one_seed_name_their_batches_differently() {
    let old = forwarded(&propose(&mut reborn(1), 1)).unwrap();
    let mut raft = reborn(2);
    propose(&mut raft, 1);
    let outcome = ForwardOutcome::Appended { first: Index(9), count: 1 };
    let echo = tell(&mut raft, Instant(0), 2, Body::ForwardResponse { id: old, outcome });
    assert_eq!(resolutions(echo), [], "a false acknowledgement");
}

#[test]
fn a_forwarded_proposal_goes_no_further_than_one_hop() {
    // the leader that a follower knows may be one no more; passed on and on, a batch could circle
    let mut raft = forwarder(7);
    let id = ForwardId { nonce: 1, sequence: 1 };
    let body = Body::Forward { id, commands: commands(&["x"]) };
    let said = exchange(&mut raft, 3, 1, body);
    assert_eq!(said, []);
}

#[test]
fn a_change_makes_no_quorum_depend_on_who_does_not_vote_yet() {
    // Rule 4 of `stores`: node 3, whose log is blank, and node 4 vote for no log. If node 1 went down with the change in its log alone, it
    // would need one of them.
    let mut cluster = Cluster::new(3);
    cluster.has_stores = true;
    for id in 1..=4 {
        let founding = if id == 4 { Membership::default() } else { voters(3) };
        let disk = Disk { base_membership: founding, store: 100 + id, ..Disk::default() };
        cluster.start(id, disk);
    }
    cluster.isolate(3);
    cluster.elect(1);
    let add = || ChangeStep::AddVoter(NodeId(4)).into();
    let id = cluster.change(1, add());
    let reason = Refusal::NotCaughtUp { node: NodeId(3), behind: 1 };
    let refused = Resolution::RequestRefused { id, reason };
    assert!(cluster.host(1).resolutions.contains(&refused), "{:?}", cluster.host(1).resolutions);
    cluster.heal();
    cluster.run(Duration::from_secs(2));
    let id = cluster.change(1, add());
    cluster.run(Duration::from_secs(2));
    assert!(cluster.host(1).resolutions.contains(&Resolution::RequestDone { id }));
}

#[test]
fn a_witness_gets_no_entry_that_the_leader_may_lose() {
    // If only a witness had an entry, no member that could lead would get its vote.
    let mut membership = voters(3);
    membership.witnesses = [NodeId(2), NodeId(3)].into();
    let mut raft = start(&membership, |_| ());
    let now = settle(&mut raft);
    let proposal = Input::Propose { id: ProposalId(1), commands: commands(&["x"]) };
    raft.handle(now, proposal).unwrap();
    let first = actions(&mut raft);
    let appends = |actions: &[Action]| {
        let is_append = |action: &&Action| matches!(action, Action::Send { message, .. } if matches!(message.body, Body::Append { .. }));
        actions.iter().filter(is_append).count()
    };
    assert_eq!(appends(&first), 0, "{first:?}");
    for action in first {
        if let Action::Persist(persist) = action {
            raft.handle(now, Input::Persisted(persist.ticket)).unwrap();
        }
    }
    assert_eq!(appends(&actions(&mut raft)), 1);
}

#[test]
fn a_known_store_keeps_what_it_acknowledged_however_often_an_old_answer_denies_it() {
    let stamp = |id| StoreStamp { id: StoreId(id), life: 1, nonce: 1 };
    let mut raft = start(&voters(3), |config| config.store = Some(stamp(1)));
    lead(&mut raft);
    let now = raft.status().peers[0].last_contact;
    let term = raft.status().term.0;
    let answer = |raft: &mut Raft, outcome| {
        let message = message(term, Body::AppendResponse(outcome));
        let input = Input::Message { from: NodeId(2), store: Some(stamp(2)), message };
        raft.handle(now, input).unwrap();
        sent(raft);
    };
    answer(&mut raft, AppendOutcome::Accepted { matched: Index(1) });
    raft.handle(now, Input::Unreachable(NodeId(2))).unwrap();
    sent(&mut raft);
    for _ in 0..3 {
        answer(&mut raft, AppendOutcome::Rejected { prev: Index(1), hint: at(0, 0) });
        assert_eq!(raft.status().peers[0].matched, Index(1));
    }
}

#[test]
fn settings_that_can_not_work_are_refused_by_name() {
    let lease = Some(LeaseConfig { clock_drift_max_ppm: 1_000_000 });
    let config = Config { lease, ..Config::new(NodeId(1)) };
    assert_eq!(config.validate(), Err(ConfigError::DriftTooLarge));
    let groups = CommitGroups { zones: std::collections::BTreeMap::new(), zones_min: 0 };
    let config = Config { commit_groups: Some(groups), ..Config::new(NodeId(1)) };
    let zero = ConfigError::Zero { setting: "commit_groups.zones_min" };
    assert_eq!(config.validate(), Err(zero));
}

#[test]
fn elections_never_wait_behind_entries() {
    let class = |body| message(1, body).class();
    let (prev, entries) = (at(0, 0), Entries::new());
    let append = Body::Append { prev, entries, commit: Index(0) };
    let vote = Body::Vote { last: at(0, 0), transfer: false };
    assert_eq!(class(append), TrafficClass::Append);
    assert_eq!(class(vote), TrafficClass::Control);
}

#[test]
fn a_large_batch_is_appended_in_order_after_a_small_one() {
    // From 64 commands on a batch is sealed as it is.
    let mut raft = start(&voters(3), |_| {});
    lead(&mut raft);
    let texts: Vec<String> = (0..70).map(|number| number.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for (id, commands) in [(1, commands(&["small"])), (2, commands(&texts))] {
        raft.handle(Instant(0), Input::Propose { id: ProposalId(id), commands }).unwrap();
    }
    let persists = actions(&mut raft).into_iter().filter_map(|action| match action {
        Action::Persist(persist) => Some(persist.entries),
        _ => None,
    });
    let written: Vec<_> =
        persists.flat_map(|all| all.iter().cloned().collect::<Vec<_>>()).collect();
    let last = written.last().expect("they are written");
    assert_eq!(last.index, raft.status().last);
    assert_eq!(last.payload, Payload::Command("69".into()));
    assert!(written.windows(2).all(|pair| pair[0].index.next() == pair[1].index));
}

#[test]
fn a_member_says_how_much_it_holds_in_memory() {
    let mut raft = start(&voters(3), |_| {});
    assert_eq!(raft.memory(), Memory { tail_bytes: 0, withheld_messages: 0 });
    // Answers wait until the term is durable, and entries stay in memory until they are.
    receive(&mut raft, 2, 1, Body::Heartbeat { commit: Index(0), read_context: 0 });
    let prev = at(0, 0);
    let entry = Entry { term: Term(1), index: Index(1), payload: Payload::Empty };
    let entries = Entries::try_from_vec(vec![entry]).unwrap();
    let bytes = entries.size_bytes();
    receive(&mut raft, 2, 1, Body::Append { prev, entries, commit: Index(0) });
    assert_eq!(raft.memory(), Memory { tail_bytes: bytes, withheld_messages: 1 });
    sent(&mut raft);
    assert_eq!(raft.memory().withheld_messages, 0);
}
