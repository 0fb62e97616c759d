//! The same three members with raft-rs: its `RawNode` and `MemStorage`, driven in the order that its documentation asks for.

use std::collections::VecDeque;
use std::hint::black_box;

use bytes::Bytes;
use raft::eraftpb::{Entry, Message, MessageType};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};

struct Host {
    node: RawNode<MemStorage>,
    store: MemStorage,
    applied: u64,
    applied_bytes: u64,
}

/// Three voters; the first is the leader.
pub(crate) struct Trio {
    hosts: Vec<Host>,
    network: VecDeque<Message>,
}

impl Trio {
    pub(crate) fn new() -> Trio {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let ours = raft_core::Config::new(raft_core::NodeId(1));
        let hosts = (1..=3)
            .map(|id| {
                let store = MemStorage::new_with_conf_state((vec![1, 2, 3], vec![]));
                // As much as raft-core is given, and no empty append to tell followers of a commit: they learn it with the next one, as
                // raft-core's do.
                let config = Config {
                    id,
                    max_size_per_msg: ours.append_bytes_max as u64,
                    max_inflight_msgs: ours.in_flight_messages_max,
                    max_uncommitted_size: ours.uncommitted_bytes_max as u64,
                    pre_vote: true,
                    check_quorum: true,
                    skip_bcast_commit: true,
                    ..Config::default()
                };
                let node = RawNode::new(&config, store.clone(), &logger).expect("a sound start");
                Host { node, store, applied: 0, applied_bytes: 0 }
            })
            .collect();
        let mut trio = Trio { hosts, network: VecDeque::new() };
        trio.hosts[0].node.campaign().expect("a voter may campaign");
        trio.settle();
        assert_eq!(trio.hosts[0].node.raft.state, StateRole::Leader, "the first is elected");
        trio
    }

    /// Proposes a batch at the leader as one message, and pumps until it is committed and applied there and nobody has anything to say.
    pub(crate) fn commit(&mut self, commands: Vec<Bytes>) {
        let expected = self.hosts[0].applied + commands.len() as u64;
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = 1;
        let entries: Vec<Entry> =
            commands.into_iter().map(|data| Entry { data, ..Entry::default() }).collect();
        message.set_entries(entries.into());
        self.hosts[0].node.step(message).expect("a leader takes proposals");
        self.settle();
        assert_eq!(self.hosts[0].applied, expected, "the batch was not committed");
    }

    /// Compacts all three logs as far as they are applied.
    pub(crate) fn compact(&mut self) {
        for host in &self.hosts {
            host.store.wl().compact(host.applied).expect("compacted");
        }
    }

    pub(crate) fn applied_bytes(&self) -> u64 {
        self.hosts[0].applied_bytes
    }

    fn settle(&mut self) {
        self.drain(0);
        while let Some(message) = self.network.pop_front() {
            let to = usize::try_from(message.to).expect("a small id") - 1;
            self.hosts[to].node.step(message).expect("honest messages are taken");
            self.drain(to);
        }
    }

    fn drain(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        while host.node.has_ready() {
            let mut ready = host.node.ready();
            self.network.extend(ready.take_messages());
            host.apply(&ready.take_committed_entries());
            {
                let mut store = host.store.wl();
                store.append(ready.entries()).expect("appended");
                if let Some(hard_state) = ready.hs() {
                    store.set_hardstate(hard_state.clone());
                }
            }
            self.network.extend(ready.take_persisted_messages());
            let mut light = host.node.advance(ready);
            if let Some(commit) = light.commit_index() {
                host.store.wl().mut_hard_state().set_commit(commit);
            }
            self.network.extend(light.take_messages());
            host.apply(&light.take_committed_entries());
            host.node.advance_apply();
        }
    }
}

impl Host {
    fn apply(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.applied_bytes += black_box(&entry.data).len() as u64;
            self.applied = entry.index;
        }
    }
}
