//! Random stories of whole clusters, whose network loses, repeats and reorders, whose disks report in any order, whose nodes crash, and whose
//! members come and go: the properties of figure 3 hold at every step, no read is stale, and once the storm is over the group works again.
//! `raft-sim` does that for longer and with time; here every step is a step of the core.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::checker::Checker;
use common::{Cluster, Disk, cases};
use proptest::prelude::*;
use raft_core::{
    ChangeStep, Config, Entry, Index, Input, LeaseConfig, MembershipChange, NodeId, ReadAt, ReadId,
    Resolution, SnapshotMeta, StorageHealth,
};

/// The node that can only be a witness.
const WITNESS: u64 = 9;

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
    Read(u64, ReadAt),
    /// From now on its writes wait.
    SlowDisk(u64),
    /// Some of its writes reach the disk and are reported, the last one first if so wished.
    Write(u64, usize, bool),
    Crash(u64),
    Snapshot(u64),
    Isolate(u64),
    Heal,
    Change(u64, Vec<(u8, u64)>),
    /// To a member, or to whom the leader chooses.
    Transfer(u64, Option<u64>),
    Health(u64, StorageHealth),
    ClockSuspect(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0u64..7;
    let read_at = any::<bool>().prop_map(|is| if is { ReadAt::AnyMember } else { ReadAt::Leader });
    let health = any::<bool>()
        .prop_map(|is| if is { StorageHealth::Stalled } else { StorageHealth::Healthy });
    prop_oneof![
        50 => (0usize..64).prop_map(Step::Deliver),
        4 => (0usize..64).prop_map(Step::Lose),
        4 => (0usize..64).prop_map(Step::Repeat),
        4 => (1u64..120).prop_map(Step::Wait),
        5 => node().prop_map(Step::TimeOut),
        8 => node().prop_map(Step::Propose),
        4 => (node(), read_at).prop_map(|(n, at)| Step::Read(n, at)),
        3 => node().prop_map(Step::SlowDisk),
        10 => (node(), 1usize..4, any::<bool>())
            .prop_map(|(n, count, last)| Step::Write(n, count, last)),
        2 => node().prop_map(Step::Crash),
        2 => node().prop_map(Step::Snapshot),
        1 => node().prop_map(Step::Isolate),
        2 => Just(Step::Heal),
        5 => (node(), prop::collection::vec((0u8..6, node()), 1..3))
            .prop_map(|(n, steps)| Step::Change(n, steps)),
        2 => (node(), prop::option::of(node())).prop_map(|(n, to)| Step::Transfer(n, to)),
        1 => (node(), health).prop_map(|(n, health)| Step::Health(n, health)),
        1 => node().prop_map(Step::ClockSuspect),
    ]
}

/// A cluster in a storm, and what must hold of it.
struct Story {
    cluster: Cluster,
    checker: Checker,
    /// What was committed anywhere when a read was asked for.
    floors: BTreeMap<ReadId, Index>,
}

impl Story {
    /// `size` voters, and two more nodes that may join: one as a member with commands, one as a witness.
    fn begin(size: u64, configure: fn(&mut Config), has_stores: bool) -> Story {
        let mut cluster = Cluster::configured(size, configure);
        cluster.has_stores = has_stores;
        for id in 1..=size {
            let founding = cluster.host(id).disk.base_membership.clone();
            let disk = Disk { base_membership: founding, store: 100 + id, ..Disk::default() };
            cluster.start(id, disk);
        }
        for id in [size + 1, WITNESS] {
            cluster.start(id, Disk { store: 100 + id, ..Disk::default() });
        }
        if has_stores {
            // A member whose store is not recorded does not vote, so that a storm while the group is founded may leave nobody to be elected.
            cluster.run(Duration::from_secs(8));
            let membership = cluster.host(1).raft.status().membership;
            assert_eq!(membership.stores.len(), membership.voters.len());
        }
        Story { cluster, checker: Checker::default(), floors: BTreeMap::new() }
    }

    fn check(&mut self) {
        self.checker.check(&self.cluster);
        for host in self.cluster.hosts.values_mut() {
            for resolution in host.resolutions.drain(..) {
                if let Resolution::ReadReady { id, index } = resolution {
                    let floor = self.floors.remove(&id).expect("each read is answered once");
                    assert!(index >= floor, "read {id:?} at {index}, though {floor} was committed");
                }
            }
        }
    }

    /// Puts some of a slow disk's writes where they belong, in order, and reports them in another.
    fn write_some(&mut self, id: u64, count: usize, is_last_first: bool) {
        let now = self.cluster.now;
        let host = self.cluster.host(id);
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
        self.cluster.drain(id);
    }

    fn snapshot(&mut self, id: u64) {
        let applied = self.cluster.host(id).raft.status().applied;
        let disk = &mut self.cluster.host(id).disk;
        let entry = disk.entries.iter().find(|entry| entry.index == applied);
        if let Some(position) = entry.map(Entry::position) {
            let membership = disk.membership_at(applied).clone();
            let meta = SnapshotMeta { position, membership: membership.into() };
            disk.snapshot = Some(meta.clone());
            self.cluster.handle(id, Input::SnapshotTaken(meta));
        }
    }

    fn perform(&mut self, step: &Step) {
        let nodes = self.cluster.ids();
        let name = |node: u64| {
            nodes.get(usize::try_from(node).unwrap_or(0) % nodes.len()).copied().unwrap_or(WITNESS)
        };
        let cluster = &mut self.cluster;
        match step {
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
                cluster.now = cluster.now + Duration::from_millis(*milliseconds);
                for id in cluster.ids() {
                    cluster.handle(id, Input::Timeout);
                }
            }
            Step::TimeOut(node) => {
                let deadline = cluster.host(name(*node)).raft.poll_timeout();
                cluster.now = cluster.now.max(deadline.unwrap_or_default());
                cluster.handle(name(*node), Input::Timeout);
            }
            Step::Propose(node) => {
                cluster.propose(name(*node), &["p"]);
            }
            Step::Read(node, at) => {
                let commits = cluster.hosts.values().map(|host| host.raft.status().commit);
                let floor = commits.max().unwrap_or_default();
                self.floors.insert(cluster.next_read_id(), floor);
                cluster.read_at(name(*node), *at);
            }
            Step::SlowDisk(node) => cluster.host(name(*node)).holds_writes = true,
            Step::Write(node, count, last_first) => {
                self.write_some(name(*node), *count, *last_first);
            }
            Step::Crash(node) => cluster.restart(name(*node)),
            Step::Snapshot(node) => self.snapshot(name(*node)),
            Step::Isolate(node) => cluster.isolate(name(*node)),
            Step::Heal => cluster.heal(),
            Step::Change(node, steps) => {
                let steps = steps.iter().map(|(kind, node)| change(*kind, NodeId(name(*node))));
                cluster.change(name(*node), MembershipChange { steps: steps.collect() });
            }
            Step::Transfer(node, to) => {
                cluster.transfer(name(*node), to.map(|to| NodeId(name(to))));
            }
            Step::Health(node, health) => {
                cluster.handle(name(*node), Input::StorageHealth(*health));
            }
            Step::ClockSuspect(node) => cluster.handle(name(*node), Input::ClockSuspect),
        }
        self.check();
    }

    /// After the storm the group works again: it has a leader, and every member that it has then applies what that one takes.
    fn calm_down(&mut self) {
        self.cluster.heal();
        for id in self.cluster.ids() {
            self.cluster.host(id).holds_writes = false;
            self.cluster.write_all(id);
            self.cluster.handle(id, Input::StorageHealth(StorageHealth::Healthy));
        }
        for _ in 0..100 {
            self.cluster.run(Duration::from_millis(100));
            self.check();
        }
        let Some(leader) = self.cluster.leader() else {
            panic!("no leader ten seconds after the storm:\n{}", self.describe())
        };
        self.cluster.propose(leader, &["after the storm"]);
        self.cluster.run(Duration::from_secs(2));
        self.check();
        let membership = self.cluster.host(leader).raft.status().membership;
        for node in membership.members().filter(|node| !membership.is_witness(*node)) {
            let applied = self.cluster.applied(node.0);
            assert_eq!(applied.last().map(String::as_str), Some("after the storm"), "node {node}");
        }
    }
}

impl Story {
    fn describe(&self) -> String {
        let lines = self.cluster.hosts.values().map(|host| format!("{:?}\n", host.raft.status()));
        lines.collect()
    }
}

fn change(kind: u8, node: NodeId) -> ChangeStep {
    match kind {
        _ if node.0 == WITNESS && kind < 4 => ChangeStep::AddWitness(node),
        0 | 1 => ChangeStep::AddLearner(node),
        2 => ChangeStep::Promote(node),
        3 => ChangeStep::AddVoter(node),
        4 => ChangeStep::Demote(node),
        _ => ChangeStep::Remove(node),
    }
}

fn small(config: &mut Config) {
    config.retained_entries = 2;
    config.compaction_lag_max = 0;
    config.tail_bytes_max = 300;
    config.append_bytes_max = 200;
    config.is_witness = config.id.0 == WITNESS;
}

fn all_features(config: &mut Config) {
    small(config);
    config.lease = Some(LeaseConfig { clock_drift_max_ppm: 0 });
    config.forward_proposals = true;
    config.priority = Config::PRIORITY_MAX - u8::try_from(config.id.0 % 2).unwrap_or_default();
}

proptest! {
    #![proptest_config(cases(150))]

    /// Whatever the network, the disks, the power and the operators do, the five properties of figure 3 hold; and afterwards the group works.
    #[test]
    fn a_cluster_in_a_storm_is_safe_and_recovers(
        size in prop_oneof![Just(1u64), Just(3), Just(4), Just(5)],
        has_features in any::<bool>(),
        has_stores in any::<bool>(),
        steps in prop::collection::vec(step(), 20..250),
    ) {
        let configure = if has_features { all_features } else { small };
        let mut story = Story::begin(size, configure, has_stores);
        for step in &steps {
            story.perform(step);
        }
        story.calm_down();
    }
}
