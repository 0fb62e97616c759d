//! A world in which nothing goes wrong, some seconds old: three voters, one of whom leads, a node that stands by, writes, reads and checkpoints.

use raft_core::{
    Config, Entry, Index, Instant, LeaseConfig, LogPosition, Membership, Message, NodeId, Payload,
    Persist, SnapshotMeta, Term, Ticket,
};
use raft_kv::Replica;

use crate::node::Node;
use crate::{ClientPlan, DiskPlan, Fault, NetworkPlan, Plan, Rng, World};

pub(super) type Quiet = World<'static, Replica>;

/// The node that stands by, and is no member.
pub(super) const OUTSIDER: NodeId = NodeId(4);

fn plan() -> Plan {
    let lease = LeaseConfig { clock_drift_max_ppm: 200 };
    Plan {
        voters: 3,
        spares: 1,
        config: Config {
            lease: Some(lease),
            uncommitted_bytes_max: 10_000,
            append_bytes_max: 1_000,
            retained_entries: 20,
            transfer_lag_max: 10,
            ..Config::new(NodeId(0))
        },
        priorities: vec![Config::PRIORITY_MAX; 4],
        has_witness: false,
        has_stores: false,
        chaos_us: 3_000_000,
        apply_us: 100,
        install_us: 0,
        checkpoint_every: 50,
        fault_every_us: 0,
        fault_us: 100_000,
        weights: vec![0; Fault::ALL.len()],
        operate_every_us: 0,
        transfers: 0,
        haste: 0,
        coalesce: 0,
        drift: 0,
        network: NetworkPlan {
            chunks: 4,
            chunks_in_flight: 4,
            damage: 0,
            delay_us: 500,
            drop: 0,
            duplicate: 0,
            straggle: 0,
            straggle_us: 0,
            is_exponential: false,
            stream_loss: 0,
            stream_us: 0,
        },
        disk: DiskPlan {
            write_us: 200,
            stall: 0,
            notice_us: 0,
            overtaking: 0,
            fetch_loss: 0,
            crash_in_recovery: 0,
            has_real_stores: false,
        },
        client: ClientPlan {
            patience_us: 0,
            every_us: 20_000,
            reads: 300,
            anywhere: 0,
            batch_max: 1,
            requests_max: 10_000,
            command_bytes_max: 8,
            keys: 3,
            sessions: 4,
            pipeline_max: 4,
            sessions_max: ClientPlan::SESSIONS_KEPT,
        },
    }
}

/// The world, between two events.
pub(super) fn world() -> Quiet {
    let mut world = World::with_plan(0, plan(), Rng::new(0), None);
    world.begin().expect("it starts");
    let end = world.plan.chaos_us;
    world.run_until(end, |_| false).expect("nothing goes wrong");
    // Between two writes: everybody knows that everything is committed, and has applied it.
    let is_quiet = world.run_until(end + 1_000_000, |world| {
        let is_committed = |node: &Node<Replica>| {
            let status = node.raft.as_ref().map(raft_core::Raft::status);
            let end = node.disk.last().index;
            status.is_some_and(|status| status.commit == end && status.applied == end)
        };
        world.nodes.iter().take(3).all(is_committed)
    });
    assert_eq!(is_quiet, Ok(true), "writes pause");
    assert!(world.checker.committed() > Index(60), "clients write");
    world
}

/// The place of who leads.
pub(super) fn leader(world: &Quiet) -> usize {
    (0..3).find(|node| world.nodes[*node].claims_to_lead()).expect("somebody leads")
}

/// The place of a voter that does not lead.
pub(super) fn follower(world: &Quiet) -> usize {
    (0..3).find(|node| !world.nodes[*node].claims_to_lead()).expect("somebody follows")
}

pub(super) fn id(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

/// The term in which all is.
pub(super) fn term(world: &Quiet) -> Term {
    world.nodes[leader(world)].log.hard_state.term
}

/// Where a node's log ends.
pub(super) fn last(world: &Quiet, node: usize) -> LogPosition {
    world.nodes[node].log.last()
}

/// What a node's clock shows.
pub(super) fn clock(world: &Quiet, node: usize) -> Instant {
    world.nodes[node].clock.local(world.now_us())
}

pub(super) fn message(term: Term, body: raft_core::Body) -> Message {
    Message { term, body }
}

/// A write of nothing.
pub(super) fn nothing() -> Persist {
    Persist {
        ticket: Ticket(1 << 40),
        hard_state: None,
        reset: None,
        truncate_from: None,
        entries: raft_core::Entries::new(),
    }
}

/// A write of one entry.
pub(super) fn writes(entry: Entry) -> Persist {
    Persist { entries: entries(vec![entry]), ..nothing() }
}

pub(super) fn entries(all: Vec<Entry>) -> raft_core::Entries {
    raft_core::Entries::try_from_vec(all).expect("they follow each other")
}

/// An entry without content.
pub(super) fn entry(index: u64, term: Term) -> Entry {
    Entry { term, index: Index(index), payload: Payload::Empty }
}

pub(super) fn voters() -> Membership {
    Membership::of_voters((1..=3).map(NodeId))
}

pub(super) fn snapshot(position: LogPosition) -> SnapshotMeta {
    SnapshotMeta { position, membership: voters().into() }
}
