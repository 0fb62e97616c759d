//! Random stories. Hostile peers: any message with any value in any field, to one core. And whole clusters whose network loses, repeats
//! and reorders, whose disks report in any order, and whose nodes crash: the properties of figure 3 hold at every step, and once the storm is
//! over the group works again. `raft-sim` does the latter for longer and with time; here every step is a step of the core.
#![allow(missing_docs)]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::checker::Checker;
use common::one::{follower_of_three, lead, message, voters, with_log};
use common::{Cluster, commands};
use proptest::prelude::*;
use raft_core::{
    Action, AppendOutcome, Body, Entries, Entry, ForwardId, ForwardOutcome, Index, Input, Instant,
    LogPosition, Membership, NodeId, Payload, ProposalId, Raft, Refusal, SnapshotMeta,
    SnapshotOutcome, StoreId, StoreStamp, Term,
};

/// The same cases in every run, unless `PROPTEST_RNG_SEED` says otherwise.
fn cases(count: u32) -> ProptestConfig {
    let rng_seed = match ProptestConfig::default().rng_seed {
        proptest::test_runner::RngSeed::Random => proptest::test_runner::RngSeed::Fixed(2014),
        fixed @ proptest::test_runner::RngSeed::Fixed(_) => fixed,
    };
    ProptestConfig { rng_seed, failure_persistence: None, ..ProptestConfig::with_cases(count) }
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0u64..6, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 1), 1 => any::<u64>()]
}

fn position() -> impl Strategy<Value = LogPosition> {
    (number(), number())
        .prop_map(|(index, term)| LogPosition { index: Index(index), term: Term(term) })
}

fn membership() -> impl Strategy<Value = Membership> {
    let some = || prop::collection::btree_set((1u64..6).prop_map(NodeId), 0..4);
    (some(), some(), some(), some(), any::<bool>()).prop_map(
        |(incoming, outgoing, learners, witnesses, is_sound)| {
            if is_sound {
                return voters(3);
            }
            Membership { voters: incoming, outgoing, learners, witnesses, ..Membership::default() }
        },
    )
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        4 => Just(Payload::Empty),
        4 => Just(Payload::Command(Bytes::from_static(b"x"))),
        1 => Just(Payload::Withheld),
        1 => membership().prop_map(|it| Payload::Membership(it.into())),
    ]
}

fn snapshot() -> impl Strategy<Value = SnapshotMeta> {
    (position(), membership())
        .prop_map(|(position, membership)| SnapshotMeta { position, membership })
}

fn append() -> impl Strategy<Value = Body> {
    let payloads = prop::collection::vec(payload(), 0..4);
    (position(), number(), payloads, number()).prop_map(|(prev, term, payloads, commit)| {
        let entries = payloads
            .into_iter()
            .zip(1..)
            .filter_map(|(payload, offset)| Some((payload, prev.index.0.checked_add(offset)?)))
            .map(|(payload, index)| Entry { term: Term(term), index: Index(index), payload })
            .collect();
        let entries = Entries::try_from_vec(entries).unwrap_or_default();
        Body::Append { prev, entries, commit: Index(commit) }
    })
}

fn forward() -> impl Strategy<Value = Body> {
    let id = || (number(), number()).prop_map(|(nonce, sequence)| ForwardId { nonce, sequence });
    let outcome = prop_oneof![
        Just(ForwardOutcome::Refused(Refusal::EmptyBatch)),
        (number(), number())
            .prop_map(|(first, count)| ForwardOutcome::Appended { first: Index(first), count }),
    ];
    prop_oneof![
        (id(), 0usize..3).prop_map(|(id, count)| Body::Forward {
            id,
            commands: vec![Bytes::from_static(b"y"); count],
        }),
        (id(), outcome).prop_map(|(id, outcome)| Body::ForwardResponse { id, outcome }),
    ]
}

fn body() -> impl Strategy<Value = Body> {
    let outcome = prop_oneof![
        Just(SnapshotOutcome::Wanted),
        Just(SnapshotOutcome::Failed),
        number().prop_map(|matched| SnapshotOutcome::Matched(Index(matched))),
    ];
    prop_oneof![
        position().prop_map(|last| Body::PreVote { last }),
        any::<bool>().prop_map(|granted| Body::PreVoteResponse { granted }),
        (position(), any::<bool>()).prop_map(|(last, transfer)| Body::Vote { last, transfer }),
        any::<bool>().prop_map(|granted| Body::VoteResponse { granted }),
        append(),
        number().prop_map(|m| Body::AppendResponse(AppendOutcome::Accepted { matched: Index(m) })),
        number().prop_map(|m| Body::AppendResponse(AppendOutcome::Witnessed { matched: Index(m) })),
        (number(), position()).prop_map(|(prev, hint)| Body::AppendResponse(
            AppendOutcome::Rejected { prev: Index(prev), hint }
        )),
        (number(), number())
            .prop_map(|(c, read_context)| Body::Heartbeat { commit: Index(c), read_context }),
        number().prop_map(|read_context| Body::HeartbeatResponse { read_context }),
        Just(Body::TimeoutNow),
        number().prop_map(|context| Body::ReadIndex { context }),
        (number(), prop::option::of(number())).prop_map(|(context, index)| {
            Body::ReadIndexResponse { context, index: index.map(Index) }
        }),
        forward(),
        snapshot().prop_map(|snapshot| Body::SnapshotOffer { snapshot }),
        (position(), outcome)
            .prop_map(|(position, outcome)| Body::SnapshotResponse { position, outcome }),
    ]
}

/// Drains, doing at once whatever it wants.
fn obey(raft: &mut Raft, now: Instant) {
    while let Some(action) = raft.poll_action() {
        let answer = match action {
            Action::Persist(persist) => Input::Persisted(persist.ticket),
            Action::Apply(apply) => Input::Applied(apply.last),
            Action::ReceiveSnapshot { snapshot, .. } => Input::SnapshotReceived(snapshot),
            Action::InstallSnapshot(snapshot) => Input::SnapshotInstalled(snapshot),
            Action::StreamSnapshot { to, .. } => Input::SnapshotStreamEnded { to },
            Action::Fetch { peer, .. } => Input::FetchFailed { peer },
            _ => continue,
        };
        raft.handle(now, answer).unwrap();
    }
}

proptest! {
    #![proptest_config(cases(400))]

    /// Any field may hold any value: nothing panics, and no invariant (checked after every input) breaks.
    #[test]
    fn hostile_messages_never_panic(
        kind in 0u8..3,
        storm in prop::collection::vec(
            (1u64..5, prop::option::of((0u64..3, number())), number(), body(), 0u64..900_000),
            1..60,
        ),
    ) {
        let mut raft = if kind == 0 { follower_of_three() } else { with_log(&[1, 1, 2], 2) };
        if kind == 2 {
            lead(&mut raft);
        }
        let mut now = 10_000_000;
        for (from, stamp, term, body, pause) in storm {
            now += pause;
            let store = stamp.map(|(id, life)| StoreStamp { id: StoreId(id), life });
            let input = Input::Message { from: NodeId(from), store, message: message(term, body) };
            let _ = raft.handle(Instant(now), input);
            let proposal = Input::Propose { id: ProposalId(1), commands: commands(&["x"]) };
            let _ = raft.handle(Instant(now), proposal);
            obey(&mut raft, Instant(now));
        }
    }
}

/// One step of a cluster's story. Numbers pick among what there is.
#[derive(Clone, Debug)]
enum Step {
    Deliver(usize),
    Lose(usize),
    Repeat(usize),
    /// Time passes for everybody.
    Wait(u64),
    /// This node's patience ends first.
    TimeOut(u64),
    Propose(u64),
    Read(u64),
    /// From now on its writes wait.
    SlowDisk(u64),
    /// Some of its writes reach the disk and are reported, the last one first if so wished.
    Write(u64, usize, bool),
    Crash(u64),
    Snapshot(u64),
    Isolate(u64),
    Heal,
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0u64..5;
    prop_oneof![
        40 => (0usize..64).prop_map(Step::Deliver),
        4 => (0usize..64).prop_map(Step::Lose),
        4 => (0usize..64).prop_map(Step::Repeat),
        4 => (1u64..120).prop_map(Step::Wait),
        5 => node().prop_map(Step::TimeOut),
        8 => node().prop_map(Step::Propose),
        2 => node().prop_map(Step::Read),
        3 => node().prop_map(Step::SlowDisk),
        10 => (node(), 1usize..4, any::<bool>()).prop_map(|(n, count, last)| Step::Write(n, count, last)),
        2 => node().prop_map(Step::Crash),
        2 => node().prop_map(Step::Snapshot),
        1 => node().prop_map(Step::Isolate),
        2 => Just(Step::Heal),
    ]
}

/// Puts some of a slow disk's writes where they belong, in order, and reports them in another.
fn write_some(cluster: &mut Cluster, id: u64, count: usize, is_last_first: bool) {
    let now = cluster.now;
    let host = cluster.host(id);
    let count = count.min(host.pending_writes.len());
    let mut written: Vec<_> = host.pending_writes.drain(..count).collect();
    for persist in &written {
        host.disk.write(persist);
    }
    if is_last_first {
        written.reverse();
    }
    for persist in written {
        host.raft.handle(now, Input::Persisted(persist.ticket)).expect("a known ticket");
    }
    cluster.drain(id);
}

fn perform(cluster: &mut Cluster, step: &Step, size: u64) {
    let name = |node: u64| node % size + 1;
    match *step {
        Step::Deliver(pick) if !cluster.network.is_empty() => {
            let place = pick % cluster.network.len();
            if let Some((from, to, message)) = cluster.network.remove(place) {
                cluster.deliver(from, to, message);
            }
        }
        Step::Lose(pick) if !cluster.network.is_empty() => {
            let place = pick % cluster.network.len();
            cluster.network.remove(place);
        }
        Step::Repeat(pick) if !cluster.network.is_empty() => {
            let again = cluster.network[pick % cluster.network.len()].clone();
            cluster.network.push_back(again);
        }
        Step::Deliver(_) | Step::Lose(_) | Step::Repeat(_) => {}
        Step::Wait(milliseconds) => {
            cluster.now = cluster.now + Duration::from_millis(milliseconds);
            for id in cluster.ids() {
                cluster.handle(id, Input::Timeout);
            }
        }
        Step::TimeOut(node) => {
            let deadline = cluster.host(name(node)).raft.poll_timeout();
            cluster.now = cluster.now.max(deadline.unwrap_or_default());
            cluster.handle(name(node), Input::Timeout);
        }
        Step::Propose(node) => {
            cluster.propose(name(node), &["p"]);
        }
        Step::Read(node) => {
            cluster.read(name(node));
        }
        Step::SlowDisk(node) => cluster.host(name(node)).holds_writes = true,
        Step::Write(node, count, is_last_first) => {
            write_some(cluster, name(node), count, is_last_first);
        }
        Step::Crash(node) => cluster.restart(name(node)),
        Step::Snapshot(node) => {
            let status = cluster.host(name(node)).raft.status();
            let disk = &cluster.hosts[&name(node)].disk;
            let term = disk.entries.iter().find(|entry| entry.index == status.applied);
            if let Some(position) = term.map(Entry::position) {
                let meta = SnapshotMeta { position, membership: status.membership };
                cluster.host(name(node)).disk.snapshot = Some(meta.clone());
                cluster.handle(name(node), Input::SnapshotTaken(meta));
            }
        }
        Step::Isolate(node) => cluster.isolate(name(node)),
        Step::Heal => cluster.heal(),
    }
}

fn small(config: &mut raft_core::Config) {
    config.retained_entries = 2;
    config.compaction_lag_max = 0;
    config.tail_bytes_max = 300;
    config.append_bytes_max = 200;
}

proptest! {
    #![proptest_config(cases(150))]

    /// Whatever the network, the disks and the power do, the five properties of figure 3 hold; and afterwards the group works.
    #[test]
    fn a_cluster_in_a_storm_is_safe_and_recovers(
        size in prop_oneof![Just(1u64), Just(3), Just(4), Just(5)],
        steps in prop::collection::vec(step(), 20..250),
    ) {
        let mut cluster = Cluster::configured(size, small);
        let mut checker = Checker::default();
        for step in &steps {
            perform(&mut cluster, step, size);
            checker.check(&cluster);
        }
        cluster.heal();
        for id in cluster.ids() {
            cluster.host(id).holds_writes = false;
            cluster.write_all(id);
        }
        for _ in 0..100 {
            cluster.run(Duration::from_millis(100));
            checker.check(&cluster);
        }
        let leader = cluster.leader().expect("a leader, ten seconds after the storm");
        cluster.propose(leader, &["after the storm"]);
        cluster.run(Duration::from_secs(2));
        checker.check(&cluster);
        for id in cluster.ids() {
            let applied = cluster.applied(id);
            prop_assert_eq!(applied.last().map(String::as_str), Some("after the storm"));
        }
    }
}
