//! Whole nodes in one process: what applications rely on, whatever happens to the others.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Group, PATIENCE, applied, command, until};
use raft_node::raft_core::recording::Replay;
use raft_node::raft_core::{
    Action, Body, ChangeStep, CommitReason, HandleError, Index, LeadershipReason, Message, NodeId,
    Refusal, RoleKind, StoreStamp, Term,
};
use raft_node::{
    CheckpointFailed, Health, PeerMessage, ProposeError, ReadFailed, RecordingConfig, RequestError,
    Transport as _,
};

#[tokio::test]
async fn three_nodes_elect_propose_and_read() {
    let group = Group::start(3, |_| {}).await;
    let leader = group.leader_of(1..=3).await;
    let node = &group.nodes[&leader];
    assert_eq!(node.propose(command("a")).await, Ok(1));
    assert_eq!(node.propose_batch(vec![command("b"), command("c")]).await, Ok(vec![2, 3]));
    let many: Vec<_> = (0..50)
        .map(|i| {
            let node = node.clone();
            tokio::spawn(async move { node.propose(command(&format!("m{i}"))).await })
        })
        .collect();
    for task in many {
        assert!(task.await.expect("no panic").is_ok());
    }
    let all = node.read(()).await.expect("the leader reads");
    assert_eq!((all.len(), &all[..3]), (53, &[command("a"), command("b"), command("c")][..]));
    assert_eq!(node.read_batch(vec![(), ()]).await, Ok(vec![all.clone(), all.clone()]));

    let (other, follower) = group.nodes.iter().find(|(id, _)| **id != leader).expect("there");
    let not_leader = ProposeError::NotLeader { leader: Some(leader) };
    assert_eq!(follower.propose(command("x")).await, Err(not_leader), "node {other}");
    assert_eq!(follower.read(()).await, Err(ReadFailed::NotLeader { leader: Some(leader) }));
    assert_eq!(applied(follower, 53).await, all);
    assert_eq!(node.propose_batch(vec![]).await, Err(ProposeError::Refused(Refusal::EmptyBatch)));
    let metrics = node.metrics();
    assert_eq!((metrics.batches_answered, metrics.commands_proposed), (52, 53));
    assert!(metrics.write_groups > 0 && metrics.write_latency.count() == metrics.write_groups);
    group.shutdown().await;
}

#[tokio::test]
async fn a_node_explains_itself() {
    let mut group = Group::start(3, |_| {}).await;
    let leader = group.leader_of(1..=3).await;
    group.nodes[&leader].propose(command("a")).await.expect("committed");
    // The answer comes from the state machine; the core hears of it a moment later.
    until(&group.nodes[&leader], |status| status.raft.applied >= Index(2)).await;
    let why = group.nodes[&leader].explain().await.expect("runs");
    assert!(matches!(why.leadership, LeadershipReason::Leads { .. }), "{why}");
    assert_eq!(why.commit, CommitReason::Committed { unapplied: None }, "{why}");
    let (_, follower) = group.nodes.iter().find(|(id, _)| **id != leader).expect("there");
    let follower = follower.clone();
    let why = follower.explain().await.expect("runs");
    assert!(
        matches!(why.leadership, LeadershipReason::Follows { leader: led, .. } if led == leader),
        "{why}"
    );
    let me = follower.status().raft.id;
    for other in (1..=3).map(NodeId).filter(|id| *id != me) {
        let stopped = group.nodes.remove(&other).expect("there");
        stopped.shutdown().await.expect("stops in good order");
    }
    until(&follower, |status| status.raft.leader.is_none()).await;
    let why = follower.explain().await.expect("runs").to_string();
    assert!(!why.contains("leads since") && !why.contains("follows node"), "{why}");
    follower.shutdown().await.expect("stops in good order");
    assert!(matches!(follower.explain().await, Err(RequestError::Stopped { .. })));
}

#[tokio::test]
async fn the_others_go_on_when_the_leader_stops() {
    let mut group = Group::start(3, |_| {}).await;
    let leader = group.leader_of(1..=3).await;
    assert_eq!(group.nodes[&leader].propose(command("a")).await, Ok(1));
    group.nodes[&leader].shutdown().await.expect("stops in good order");
    let rest = (1..=3).filter(|id| *id != leader.0);
    // The rest may still name the old leader for a while.
    let next = loop {
        for id in rest.clone() {
            until(&group.nodes[&NodeId(id)], |s| s.raft.leader != Some(leader)).await;
        }
        let next = group.leader_of(rest.clone()).await;
        if next != leader {
            break next;
        }
    };
    assert_eq!(group.nodes[&next].propose(command("b")).await, Ok(2));
    group.start_node(leader).await;
    assert_eq!(applied(&group.nodes[&leader], 2).await, [command("a"), command("b")]);
    group.shutdown().await;
}

#[tokio::test]
async fn a_restart_replays_the_log_in_pieces() {
    let mut group = Group::start(1, |config| {
        config.replay_bytes = 300;
        config.raft.tail_bytes_max = 500;
        config.raft.apply_entries_max = 7;
    })
    .await;
    let me = group.leader_of([1]).await;
    let commands: Vec<Bytes> = (0..100).map(|i| command(&format!("number {i}"))).collect();
    for batch in commands.chunks(9) {
        group.nodes[&me].propose_batch(batch.to_vec()).await.expect("accepted");
    }
    group.nodes[&me].shutdown().await.expect("stops in good order");
    group.disks[&me].log.crash();
    group.start_node(me).await;
    group.leader_of([1]).await;
    assert_eq!(group.nodes[&me].read(()).await, Ok(commands), "everything acknowledged is there");
    group.shutdown().await;
}

#[tokio::test]
async fn a_failed_write_stops_the_node_and_answers_all_who_wait() {
    // scenario 40 (cockroach 37102): never retried
    let group = Group::start(1, |_| {}).await;
    let me = group.leader_of([1]).await;
    let (node, disk) = (&group.nodes[&me], &group.disks[&me].log);
    assert_eq!(node.propose(command("a")).await, Ok(1));
    disk.fail_writes("input/output error");
    let why = match node.propose(command("b")).await {
        Err(ProposeError::Stopped { why }) => why,
        other => panic!("{other:?}"),
    };
    assert!(why.contains("input/output error"), "{why}");
    assert_eq!(node.status().health, Health::Failed { why: why.clone() });
    node.stopped().await;
    let calls = disk.write_calls();
    let stopped = ProposeError::Stopped { why: why.clone() };
    assert_eq!(node.propose(command("c")).await, Err(stopped));
    assert_eq!(node.read(()).await, Err(ReadFailed::Stopped { why: why.clone() }));
    assert_eq!(node.query_local(()).await, Err(ReadFailed::Stopped { why: why.clone() }));
    assert_eq!(node.checkpoint().await, Err(CheckpointFailed::Stopped { why: why.clone() }));
    assert_eq!(node.shutdown().await.expect_err("it had failed").why, why);
    assert_eq!(disk.write_calls(), calls);
}

#[tokio::test]
async fn a_panic_in_a_store_or_a_machine_is_a_failure_like_any_other() {
    for in_machine in [false, true] {
        let group = Group::start(1, |_| {}).await;
        let me = group.leader_of([1]).await;
        let disks = &group.disks[&me];
        if in_machine {
            disks.machine.panic_on_apply();
        } else {
            disks.log.panic_on_write();
        }
        match group.nodes[&me].propose(command("a")).await {
            Err(ProposeError::Stopped { why }) => assert!(why.contains("told to panic"), "{why}"),
            other => panic!("{other:?}"),
        }
        group.nodes[&me].stopped().await;
    }
}

#[tokio::test]
async fn a_full_node_says_busy_and_recovers() {
    let group = Group::start(1, |config| config.waiting_batches_max = 4).await;
    let me = group.leader_of([1]).await;
    let node = &group.nodes[&me];
    group.disks[&me].log.hold_writes();
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move { node.propose(command("waits")).await })
        })
        .collect();
    let in_driver = async {
        while node.metrics().batches_proposed < 4 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, in_driver).await.expect("all are taken");
    assert_eq!(node.propose(command("too much")).await, Err(ProposeError::Busy));
    assert_eq!(node.metrics().busy, 1);
    group.disks[&me].log.release_writes();
    for task in waiting {
        assert!(task.await.expect("no panic").is_ok());
    }
    assert_eq!(node.propose(command("fits again")).await, Ok(5));
    group.shutdown().await;
}

#[tokio::test]
async fn writes_that_queue_behind_a_slow_one_share_the_next() {
    let group = Group::start(1, |_| {}).await;
    let me = group.leader_of([1]).await;
    let (node, disk) = (&group.nodes[&me], &group.disks[&me].log);
    assert_eq!(node.propose(command("first")).await, Ok(1));
    let before = disk.write_calls();
    disk.hold_writes();
    let mut waiting = Vec::new();
    for i in 0..20 {
        let (node, taken) = (node.clone(), node.metrics().batches_proposed);
        let proposer = node.clone();
        waiting.push(tokio::spawn(async move { proposer.propose(command(&i.to_string())).await }));
        let in_driver = async {
            while node.metrics().batches_proposed == taken {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, in_driver).await.expect("it is taken");
    }
    disk.release_writes();
    for task in waiting {
        assert!(task.await.expect("no panic").is_ok());
    }
    let calls = disk.write_calls() - before;
    assert!(calls <= 3, "{calls} durable commits for 20 proposals during one");
    group.shutdown().await;
}

#[tokio::test]
async fn a_leader_that_is_cut_off_never_claims_success() {
    let group = Group::start(3, |_| {}).await;
    let leader = group.leader_of(1..=3).await;
    let node = &group.nodes[&leader];
    assert_eq!(node.propose(command("a")).await, Ok(1));
    group.network.isolate(leader);
    let lost = node.propose(command("lost")).await;
    let read = node.read(()).await;
    assert!(
        matches!(lost, Err(ProposeError::OutcomeUnknown | ProposeError::NotLeader { .. })),
        "{lost:?}"
    );
    assert!(matches!(read, Err(ReadFailed::NotLeader { .. })), "{read:?}");
    let rest = (1..=3).filter(|id| *id != leader.0);
    let next = group.leader_of(rest).await;
    assert_eq!(group.nodes[&next].propose(command("b")).await, Ok(2));
    group.network.mend();
    until(node, |status| status.raft.role == RoleKind::Follower).await;
    assert_eq!(applied(node, 2).await, [command("a"), command("b")]);
    group.shutdown().await;
}

#[tokio::test]
async fn a_checkpoint_on_demand_shortens_the_log() {
    let mut group = Group::start(1, |config| {
        config.raft.retained_entries = 2;
        config.raft.compaction_lag_max = 0;
    })
    .await;
    let me = group.leader_of([1]).await;
    for i in 0..10 {
        group.nodes[&me].propose(command(&format!("{i}"))).await.expect("accepted");
    }
    let meta = group.nodes[&me].checkpoint().await.expect("durable");
    let status = until(&group.nodes[&me], |status| status.raft.applied.0 == 11).await;
    assert_eq!(
        meta.position.index, status.raft.applied,
        "ten commands and the leader's first entry"
    );
    assert!(meta.membership.is_voter(me));
    until(&group.nodes[&me], |status| status.raft.base.0 == meta.position.index.0 - 2).await;
    assert_eq!(group.nodes[&me].checkpoint().await, Ok(meta), "nothing has changed since");
    group.nodes[&me].propose(command("more")).await.expect("accepted");
    group.nodes[&me].shutdown().await.expect("stops in good order");
    group.start_node(me).await;
    group.leader_of([1]).await;
    assert_eq!(group.nodes[&me].read(()).await.map(|all| all.len()), Ok(11));
    group.shutdown().await;
}

#[tokio::test]
async fn a_follower_that_lost_everything_catches_up_by_snapshot() {
    let mut group = Group::start(3, |config| {
        config.raft.retained_entries = 0;
        config.raft.compaction_lag_max = 0;
        config.snapshot_window_bytes = 512 << 10;
    })
    .await;
    let leader = group.leader_of(1..=3).await;
    let wiped = NodeId(leader.0 % 3 + 1);
    group.nodes[&wiped].shutdown().await.expect("stops in good order");
    // Some megabytes, so that the stream needs many windows.
    let ballast = Bytes::from(vec![7; 100 << 10]);
    for _ in 0..30 {
        group.nodes[&leader].propose(ballast.clone()).await.expect("two of three");
    }
    let meta = group.nodes[&leader].checkpoint().await.expect("durable");
    until(&group.nodes[&leader], |status| status.raft.base == meta.position.index).await;
    group.nodes[&leader].propose(command("after")).await.expect("two of three");

    group.disks.insert(wiped, common::Disks::default());
    group.start_node(wiped).await;
    let all = applied(&group.nodes[&wiped], 31).await;
    assert_eq!((all.len(), all.last()), (31, Some(&command("after"))));
    assert_eq!(group.nodes[&wiped].metrics().snapshots_installed, 1);
    let installed = group.disks[&wiped].machine.checkpoint().expect("durable").0;
    assert_eq!(installed.position, meta.position);
    group.shutdown().await;
}

#[tokio::test]
async fn shutdown_finishes_queued_writes_and_tells_those_who_wait() {
    let group = Group::start(1, |_| {}).await;
    let me = group.leader_of([1]).await;
    let (node, disk) = (&group.nodes[&me], &group.disks[&me].log);
    assert_eq!(node.propose(command("a")).await, Ok(1));
    disk.hold_writes();
    let waiting = tokio::spawn({
        let node = node.clone();
        async move { node.propose(command("under way")).await }
    });
    let in_driver = async {
        while node.metrics().batches_proposed < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, in_driver).await.expect("it is taken");
    let stopping = tokio::spawn({
        let node = node.clone();
        async move { node.shutdown().await }
    });
    let answer = waiting.await.expect("no panic");
    assert!(matches!(answer, Err(ProposeError::Stopped { .. })), "{answer:?}");
    disk.release_writes();
    stopping.await.expect("no panic").expect("stops in good order");
    let entries = disk.durable_entries();
    assert_eq!(entries.len(), 3, "the leader's first entry and both commands");
    assert_eq!(node.status().health, Health::Stopped);
    node.shutdown().await.expect("may be called again");
}

#[tokio::test]
async fn a_node_stops_when_its_last_handle_is_dropped() {
    let mut group = Group::start(1, |_| {}).await;
    let me = group.leader_of([1]).await;
    let node = group.nodes.remove(&me).expect("there");
    let mut status = node.watch_status();
    drop(node);
    let stopped = status.wait_for(|status| status.health == Health::Stopped);
    let stopped = tokio::time::timeout(Duration::from_secs(20), stopped).await;
    assert!(stopped.expect("in time").is_ok());
}

#[tokio::test]
async fn a_peer_that_can_not_be_right_shows_in_the_health_and_the_node_serves_on() {
    let group = Group::start(1, |_| {}).await;
    let me = group.leader_of([1]).await;
    let node = group.nodes[&me].clone();
    assert_eq!(node.propose(command("a")).await, Ok(1));
    assert!(node.status().health.is_ok());
    // Another machine runs as the same member.
    let body = Body::HeartbeatResponse { read_context: 0 };
    let message = Message { term: Term(1), body };
    group.network.transport(me).send(me, PeerMessage::Raft(message));
    let status = until(&node, |status| status.health.suspicion().is_some()).await;
    let why = status.health.suspicion().expect("said");
    assert!(why.contains("two machines run as one member"), "{why}");
    assert_eq!(node.propose(command("b")).await, Ok(2));
    assert!(node.status().health.why_stopped().is_none());
    group.shutdown().await;
    assert_eq!(node.status().health, Health::Stopped);
}

#[tokio::test]
async fn a_command_that_is_too_large_is_refused_and_stops_nobody() {
    for forwards in [false, true] {
        let change: fn(&mut raft_node::NodeConfig) =
            if forwards { |config| config.raft.forward_proposals = true } else { |_| {} };
        let group = Group::start(3, change).await;
        let leader = group.leader_of(1..=3).await;
        let other = (1..=3).map(NodeId).find(|id| *id != leader).expect("three nodes");
        let large = Bytes::from(vec![0; 20 << 20]);
        for at in [leader, other] {
            let refused = group.nodes[&at].propose(large.clone()).await;
            let Err(ProposeError::Refused(why)) = refused else {
                assert!(!forwards && at == other, "{refused:?}");
                continue;
            };
            let text = why.to_string();
            assert!(text.contains("20971520 bytes, and at most 8388608"), "{text}");
        }
        assert_eq!(group.nodes[&leader].propose(command("a")).await, Ok(1));
        group.shutdown().await;
    }
}

/// Passes everything on, and says that it can carry little.
struct Narrow(raft_node::testing::SwitchboardTransport);

impl raft_node::Transport for Narrow {
    fn start(
        &mut self,
        inbox: raft_node::Inbox,
        own: StoreStamp,
    ) -> Result<(), raft_node::TransportError> {
        self.0.start(inbox, own)
    }

    fn size_limit(&self) -> Option<raft_node::SizeLimit> {
        Some(raft_node::SizeLimit { bytes_max: 1 << 20, setting: "the pipe's width" })
    }

    fn send(&mut self, to: NodeId, message: PeerMessage) {
        self.0.send(to, message);
    }
}

#[tokio::test]
async fn settings_that_the_transport_can_not_meet_are_named_at_the_start() {
    use common::{Disks, Journal};
    use raft_node::{Node, NodeConfig};
    let (network, disks) = (raft_node::testing::Switchboard::new(), Disks::default());
    let start = |config: NodeConfig| {
        let transport = Narrow(network.transport(NodeId(1)));
        Node::start(config, disks.log.open(), transport, Journal::on(&disks))
    };
    let scratch = tempfile::tempdir().expect("a folder");
    let mut config = NodeConfig::new(NodeId(1));
    config.scratch_dir = scratch.path().into();
    let error = start(config.clone()).await.expect_err("they disagree").to_string();
    assert!(error.contains("raft.command_bytes_max is 8388608"), "{error}");
    assert!(error.contains("the pipe's width"), "{error}");
    config.raft.command_bytes_max = 1 << 20;
    start(config).await.expect("they agree").shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_leader_that_is_shut_down_hands_over_first() {
    // An election timeout that nobody would wait for: only the transfer can elect the next leader.
    let group = Group::start(3, |_| {}).await;
    let leader = group.leader_of(1..=3).await;
    let rest: Vec<u64> = (1..=3).filter(|id| *id != leader.0).collect();
    assert_eq!(group.nodes[&leader].propose(command("a")).await, Ok(1));
    for id in &rest {
        applied(&group.nodes[&NodeId(*id)], 1).await;
    }
    let term = group.nodes[&leader].status().raft.term;
    group.nodes[&leader].shutdown().await.expect("stops in good order");
    // By the time that the shutdown returns, another leads, in the very next term.
    let status = group.nodes[&leader].status().raft;
    assert!(rest.contains(&status.leader.expect("another leads").0), "{status:?}");
    assert_eq!(status.term, Term(term.0 + 1));
    group.shutdown().await;
}

#[tokio::test]
async fn leadership_goes_where_it_is_told_to_and_only_where_it_can() {
    let group = Group::start(3, |_| {}).await;
    let leader = group.leader_of(1..=3).await;
    let node = &group.nodes[&leader];
    assert_eq!(node.propose(command("a")).await, Ok(1));
    let to = NodeId(leader.0 % 3 + 1);
    applied(&group.nodes[&to], 1).await;
    let stranger = RequestError::Refused(Refusal::CannotLead { node: NodeId(9) });
    assert_eq!(node.transfer_leadership(Some(NodeId(9))).await, Err(stranger));
    assert_eq!(node.transfer_leadership(Some(to)).await, Ok(()));
    assert_eq!(group.leader_of([to.0]).await, to);
    let elsewhere = RequestError::NotLeader { leader: Some(to) };
    assert_eq!(node.transfer_leadership(None).await, Err(elsewhere));
    group.shutdown().await;
}

#[tokio::test]
async fn members_leave_and_come_back_and_any_member_answers_reads() {
    let group = Group::start(3, |_| {}).await;
    let leader = group.leader_of(1..=3).await;
    let (node, other) = (&group.nodes[&leader], NodeId(leader.0 % 3 + 1));
    assert_eq!(node.propose(command("a")).await, Ok(1));
    assert_eq!(group.nodes[&other].read_batch_here(vec![()]).await, Ok(vec![vec![command("a")]]));

    assert_eq!(node.change_membership(ChangeStep::Demote(other)).await, Ok(()));
    assert_eq!(node.status().raft.membership.learners, [other].into());
    until(&group.nodes[&other], |s| s.raft.role == RoleKind::Learner).await;
    assert_eq!(node.propose(command("b")).await, Ok(2));
    assert_eq!(applied(&group.nodes[&other], 2).await.len(), 2);
    let promote = || node.change_membership(ChangeStep::Promote(other));
    while promote().await != Ok(()) {
        // Its first round of catching up is measured from one heartbeat to the next.
        tokio::task::yield_now().await;
    }
    assert_eq!(node.status().raft.membership.voters.len(), 3);
    let again = RequestError::Refused(Refusal::NotALearner { node: other });
    assert_eq!(promote().await, Err(again));
    assert_eq!(node.propose(command("c")).await, Ok(3));
    group.shutdown().await;
}

/// Recordings of real nodes: their cores do the same again, and are told of nothing that they did not ask for.
#[tokio::test]
async fn what_nodes_record_can_be_lived_again() {
    let group = Group::start(3, |config| {
        let file = config.scratch_dir.with_extension("rec");
        config.recording = Some(RecordingConfig { file, bytes_max: 64 << 20 });
    })
    .await;
    let leader = group.leader_of(1..=3).await;
    let node = &group.nodes[&leader];
    for number in 0..20 {
        assert!(node.propose(command(&format!("c{number}"))).await.is_ok());
    }
    assert_eq!(node.read(()).await.expect("the leader reads").len(), 20);
    for node in group.nodes.values() {
        applied(node, 20).await;
    }
    for node in group.nodes.values() {
        node.shutdown().await.expect("stops in good order");
        node.stopped().await;
    }
    for id in 1..=3 {
        let file = group.config(NodeId(id)).recording.expect("it is recorded").file;
        let bytes = std::fs::read(file).expect("a recording");
        let (mut led, mut appends) = (false, 0);
        for step in Replay::new(&bytes).expect("it begins as recordings do") {
            let step = step.expect("it is whole");
            let is_honest = !matches!(step.outcome, Err(HandleError::Caller(_)));
            assert!(is_honest, "node {id}: {:?}", step.outcome);
            for action in step.actions {
                let Action::Send { message, .. } = action else { continue };
                led |= matches!(message.body, Body::Heartbeat { .. });
                appends += u64::from(matches!(message.body, Body::Append { .. }));
            }
        }
        assert!(NodeId(id) != leader || (led && appends > 0), "what the leader sent is there");
    }
}
