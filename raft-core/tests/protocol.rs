//! The protocol's rules one by one, each citing what it proves. Random worlds are `raft-sim`'s.
#![allow(missing_docs)]

mod common;

use std::time::Duration;

use common::one::{actions, follower_of_three, message, sent};
use common::{Cluster, append, commands};
use raft_core::{
    Action, AppendOutcome, Body, HardState, Index, Input, Instant, LogPosition, Membership,
    Message, NodeId, Raft, ReadId, Refusal, ReplicationKind, Resolution, RoleKind, SnapshotMeta,
    Term,
};

#[test]
fn three_nodes_elect_one_leader_and_agree_on_a_log() {
    // paper §5.2, §5.3
    let mut cluster = Cluster::new(3);
    cluster.run(Duration::from_secs(2));
    let leader = cluster.leader().unwrap();
    cluster.propose(leader, &["a", "b"]);
    cluster.propose(leader, &["c"]);
    cluster.run(Duration::from_millis(100));
    for id in cluster.ids() {
        assert_eq!(cluster.applied(id), ["a", "b", "c"]);
        assert_eq!(cluster.host(id).raft.status().leader, Some(NodeId(leader)));
    }
}

#[test]
fn fifty_inputs_before_a_poll_make_one_write_and_one_append_per_peer() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, &["warm"]);
    cluster.settle();
    let now = cluster.now;
    let raft = &mut cluster.host(1).raft;
    for id in 100..150 {
        let input =
            Input::Propose { id: raft_core::ProposalId(id), commands: commands(&["x", "y"]) };
        raft.handle(now, input).unwrap();
    }
    let drained = actions(raft);
    let persists: Vec<_> = drained
        .iter()
        .filter(|a| matches!(a, Action::Persist(p) if p.entries.len() == 100))
        .collect();
    let appends: Vec<_> = drained.iter().filter(|a| matches!(a, Action::Send { .. })).collect();
    assert_eq!((persists.len(), appends.len()), (1, 2), "{drained:?}");
}

#[test]
fn a_single_voter_commits_nothing_before_its_own_disk_has_it() {
    // scenario 41 (etcd 14370)
    let mut cluster = Cluster::new(1);
    cluster.elect(1);
    cluster.host(1).holds_writes = true;
    let before = cluster.commit(1);
    cluster.propose(1, &["a"]);
    assert_eq!(cluster.commit(1), before);
    assert_eq!(cluster.applied(1), Vec::<String>::new());
    cluster.write_all(1);
    assert_eq!(cluster.applied(1), ["a"]);
}

#[test]
fn a_vote_leaves_only_when_it_is_durable() {
    // paper figure 2, "persistent state"; scenario 2: term and vote in one write
    let mut raft = follower_of_three();
    let vote = message(5, Body::Vote { last: LogPosition::ORIGIN, transfer: false });
    raft.handle(Instant(0), Input::Message { from: NodeId(2), store: None, message: vote })
        .unwrap();
    let first = actions(&mut raft);
    let [Action::Persist(persist)] = &first[..] else { panic!("{first:?}") };
    let expected = HardState { term: Term(5), vote: Some(NodeId(2)), commit: Index(0) };
    assert_eq!(persist.hard_state, Some(expected));
    raft.handle(Instant(0), Input::Persisted(persist.ticket)).unwrap();
    let then = actions(&mut raft);
    let granted = message(5, Body::VoteResponse { granted: true });
    assert_eq!(then, [Action::Send { to: NodeId(2), message: granted }]);
}

#[test]
fn a_candidate_that_steps_down_in_its_own_term_keeps_its_vote() {
    // scenario 1 (CCF 8094): otherwise it could vote twice in one term
    let mut cluster = Cluster::new(3);
    cluster.isolate(1);
    cluster.heal();
    let deadline = cluster.host(1).raft.poll_timeout().unwrap();
    cluster.now = deadline;
    cluster.handle(1, Input::Timeout);
    cluster.handle(
        1,
        Input::Message {
            store: None,
            from: NodeId(2),
            message: message(1, Body::PreVoteResponse { granted: true }),
        },
    );
    assert_eq!(cluster.host(1).raft.status().role, RoleKind::Candidate);
    cluster.handle(
        1,
        Input::Message {
            from: NodeId(2),
            store: None,
            message: message(1, append((0, 0), &[(1, 1)], 0)),
        },
    );
    let status = cluster.host(1).raft.status();
    assert_eq!((status.role, status.vote), (RoleKind::Follower, Some(NodeId(1))));
    cluster.network.clear();
    let last = LogPosition { index: Index(9), term: Term(0) };
    cluster.handle(
        1,
        Input::Message {
            from: NodeId(3),
            store: None,
            message: message(1, Body::Vote { last, transfer: false }),
        },
    );
    let answers: Vec<_> = cluster.network.iter().filter(|(_, to, _)| *to == NodeId(3)).collect();
    assert!(
        matches!(
            &answers[..],
            [(_, _, Message { body: Body::VoteResponse { granted: false }, .. })]
        ),
        "{answers:?}"
    );
}

#[test]
fn a_delayed_append_that_matches_truncates_nothing() {
    // scenario 13 (openraft 9540c904)
    let mut raft = follower_of_three();
    let feed = |raft: &mut Raft, body| {
        raft.handle(
            Instant(0),
            Input::Message { from: NodeId(2), store: None, message: message(1, body) },
        )
        .unwrap();
        sent(raft)
    };
    feed(&mut raft, append((0, 0), &[(1, 1), (2, 1), (3, 1)], 0));
    let answers = feed(&mut raft, append((0, 0), &[(1, 1)], 0));
    assert_eq!(raft.status().last, Index(3));
    let accepted = Body::AppendResponse(AppendOutcome::Accepted { matched: Index(3) });
    assert_eq!(answers.last(), Some(&(NodeId(2), message(1, accepted))));
}

#[test]
fn a_divergent_follower_is_found_in_one_round_trip_per_term_and_overwritten() {
    // paper §5.3, accelerated back-off
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.isolate(1);
    for text in ["lost1", "lost2", "lost3"] {
        cluster.propose(1, &[text]);
    }
    cluster.run(Duration::from_secs(3));
    let new_leader = cluster.leader().unwrap();
    assert_ne!(new_leader, 1);
    assert_ne!(
        cluster.host(1).raft.status().role,
        RoleKind::Leader,
        "check-quorum (dissertation §6.2)"
    );
    assert!(cluster.host(1).resolutions.iter().any(|r| matches!(r, Resolution::Abandoned { .. })));
    cluster.propose(new_leader, &["kept"]);
    cluster.settle();
    cluster.heal();
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.applied(1), ["kept"]);
}

#[test]
fn an_entry_of_an_earlier_term_is_committed_only_along_with_one_of_the_leaders_own() {
    // paper §5.4.2, figure 8; scenario 10 (logcabin 44)
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let base = cluster.commit(1);
    cluster.cut = vec![(1, 3), (1, 2), (2, 1), (3, 1)];
    cluster.propose(1, &["old"]);
    cluster.settle();
    let disk = cluster.host(1).disk.clone();
    cluster.heal();
    cluster.now = cluster.now + Duration::from_secs(1);
    cluster.start(1, disk);
    let old = cluster.host(1).raft.status().last;
    // Node 1 leads again; let only the old entry reach node 2.
    cluster.elect_silently(1);
    let own = cluster.host(1).raft.status().last;
    assert_eq!(own, old.next());
    let term = cluster.term(1);
    let only_old = Body::AppendResponse(AppendOutcome::Accepted { matched: old });
    cluster.handle(
        1,
        Input::Message { from: NodeId(2), store: None, message: Message { term, body: only_old } },
    );
    assert_eq!(cluster.commit(1), base, "committed by counting");
    let both = Body::AppendResponse(AppendOutcome::Accepted { matched: own });
    cluster.handle(
        1,
        Input::Message { from: NodeId(2), store: None, message: Message { term, body: both } },
    );
    assert_eq!(cluster.commit(1), own);
}

#[test]
fn a_node_that_returns_from_isolation_disturbs_nobody() {
    // dissertation §9.6: its term did not rise meanwhile
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let term = cluster.term(1);
    cluster.isolate(3);
    cluster.run(Duration::from_secs(10));
    cluster.heal();
    cluster.run(Duration::from_secs(2));
    assert_eq!((cluster.leader(), cluster.term(1), cluster.term(3)), (Some(1), term, term));
}

#[test]
fn a_high_term_with_a_short_log_does_not_lock_out_a_low_term_with_a_long_log() {
    // scenarios 4 (etcd 8501) and 5 (openraft 1796)
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, &["a"]);
    cluster.settle();
    cluster.host(3).is_up = false;
    cluster.propose(1, &["b"]);
    cluster.settle();
    let mut short = cluster.host(3).disk.clone();
    short.hard_state = HardState { term: Term(40), vote: None, ..short.hard_state };
    cluster.host(1).is_up = false;
    cluster.start(3, short);
    cluster.run(Duration::from_secs(5));
    assert_eq!(
        cluster.leader(),
        Some(2),
        "only node 2 has everything, and node 3's term must not stop it"
    );
    assert!(cluster.term(2) > Term(40));
}

#[test]
fn the_recognized_leader_gets_a_pre_vote_at_once_after_a_fast_restart() {
    // scenario 6 (hashicorp/raft 606)
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, &["a"]);
    cluster.settle();
    cluster.host(3).is_up = false;
    cluster.restart(1);
    let last = cluster.host(1).raft.status().last;
    let pre_vote = Message {
        term: cluster.term(1).next().unwrap(),
        body: Body::PreVote { last: LogPosition { index: last, term: cluster.term(1) } },
    };
    cluster.network.clear();
    cluster.handle(2, Input::Message { from: NodeId(1), store: None, message: pre_vote });
    let answer = cluster.network.pop_back().unwrap();
    assert!(matches!(answer.2.body, Body::PreVoteResponse { granted: true }), "{answer:?}");
}

#[test]
fn granting_a_pre_vote_does_not_put_off_an_election() {
    // scenario 7 (hashicorp/raft 609)
    let mut raft = follower_of_three();
    let deadline = raft.poll_timeout();
    let pre_vote = message(1, Body::PreVote { last: LogPosition::ORIGIN });
    raft.handle(Instant(1000), Input::Message { from: NodeId(2), store: None, message: pre_vote })
        .unwrap();
    assert!(matches!(
        sent(&mut raft)[..],
        [(_, Message { body: Body::PreVoteResponse { granted: true }, .. })]
    ));
    assert_eq!(raft.poll_timeout(), deadline);
}

#[test]
fn a_read_waits_for_an_entry_of_the_leaders_own_term_and_for_a_quorum() {
    // dissertation §6.4; scenario 20 (etcd 7331)
    let mut cluster = Cluster::new(3);
    cluster.elect_silently(1);
    let read = cluster.read(1);
    let is_answered = |cluster: &mut Cluster, read: ReadId| {
        cluster
            .host(1)
            .resolutions
            .iter()
            .any(|r| matches!(r, Resolution::ReadReady { id, .. } if *id == read))
    };
    assert!(!is_answered(&mut cluster, read));
    cluster.run(Duration::from_millis(200));
    assert!(is_answered(&mut cluster, read));

    cluster.isolate(1);
    let cut_off = cluster.read(1);
    cluster.settle();
    assert!(!is_answered(&mut cluster, cut_off), "nobody confirmed");
    cluster.run(Duration::from_secs(2));
    let refused =
        Resolution::ReadRefused { id: cut_off, reason: Refusal::NotLeader { leader: None } };
    assert!(cluster.host(1).resolutions.contains(&refused));
}

#[test]
fn an_old_heartbeat_answer_confirms_no_newer_read() {
    // scenario 21 (etcd 20418)
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let first = cluster.read(1);
    let stale: Vec<_> = cluster.network.iter().filter(|(from, ..)| from.0 == 1).cloned().collect();
    cluster.settle();
    let second = cluster.read(1);
    cluster.network.clear();
    let term = cluster.term(1);
    for (_, to, beat) in stale {
        if let Body::Heartbeat { read_context, .. } = beat.body {
            let body = Body::HeartbeatResponse { read_context };
            cluster.handle(
                1,
                Input::Message { from: to, store: None, message: Message { term, body } },
            );
        }
    }
    let answered: Vec<_> = cluster
        .host(1)
        .resolutions
        .iter()
        .filter_map(|r| match r {
            Resolution::ReadReady { id, .. } => Some(*id),
            _ => None,
        })
        .collect();
    assert!(answered.contains(&first) && !answered.contains(&second), "{answered:?}");
}

#[test]
fn a_follower_beyond_the_compacted_log_gets_the_snapshot() {
    // paper §7
    let mut cluster = Cluster::configured(3, |config| {
        config.retained_entries = 0;
        config.compaction_lag_max = 0;
    });
    cluster.elect(1);
    cluster.host(3).is_up = false;
    cluster.propose(1, &["a", "b", "c"]);
    cluster.settle();
    let status = cluster.host(1).raft.status();
    let position = LogPosition { index: status.applied, term: status.term };
    let meta = SnapshotMeta { position, membership: status.membership.into() };
    cluster.host(1).disk.snapshot = Some(meta.clone());
    cluster.handle(1, Input::SnapshotTaken(meta));
    assert_eq!(cluster.host(1).raft.status().base, position.index);
    cluster.host(3).is_up = true;
    cluster.restart(3);
    cluster.propose(1, &["d"]);
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.applied(3), ["d"]);
    let status = cluster.host(3).raft.status();
    assert_eq!((status.base, status.commit), (position.index, cluster.commit(1)));
    let peers = cluster.host(1).raft.status().peers;
    assert!(peers.iter().all(|peer| peer.replication == ReplicationKind::Replicate), "{peers:?}");
    cluster.restart(3);
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.commit(3), cluster.commit(1));
}

#[test]
fn a_lagging_follower_is_served_from_disk_once_the_tail_has_moved_on() {
    let mut cluster = Cluster::configured(3, |config| {
        config.tail_bytes_max = 200;
        config.append_bytes_max = 300;
    });
    cluster.elect(1);
    cluster.host(3).is_up = false;
    let texts: Vec<String> = (0..50).map(|i| format!("value {i}")).collect();
    for text in &texts {
        cluster.propose(1, &[text]);
        cluster.settle();
    }
    cluster.restart(3);
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.applied(3), texts);
}

#[test]
fn a_snapshot_that_the_log_holds_is_acknowledged_once_it_is_durable_and_not_before() {
    // Found by simulation (seed 794): an answer that names less than the base made the leader offer again at once, for ever.
    let mut raft = follower_of_three();
    let feed = |raft: &mut Raft, body| {
        raft.handle(
            Instant(0),
            Input::Message { from: NodeId(2), store: None, message: message(1, body) },
        )
        .unwrap();
    };
    feed(&mut raft, append((0, 0), &[], 0));
    sent(&mut raft);
    feed(&mut raft, append((0, 0), &[(1, 1), (2, 1)], 0));
    let drained = actions(&mut raft);
    let [Action::Persist(persist)] = &drained[..] else { panic!("{drained:?}") };
    let position = LogPosition { index: Index(2), term: Term(1) };
    let snapshot =
        SnapshotMeta { position, membership: Membership::of_voters([1, 2, 3].map(NodeId)).into() };
    feed(&mut raft, Body::SnapshotOffer { snapshot });
    assert!(!actions(&mut raft).iter().any(|action| matches!(action, Action::Send { .. })));
    raft.handle(Instant(0), Input::Persisted(persist.ticket)).unwrap();
    let accepted = Body::AppendResponse(AppendOutcome::Accepted { matched: Index(2) });
    assert!(sent(&mut raft).contains(&(NodeId(2), message(1, accepted))));
}

#[test]
fn entries_that_were_compacted_while_they_were_fetched_are_not_missed() {
    // Found by simulation (seed 28): the driver was blamed for a fetch that compaction had overtaken.
    let mut cluster = Cluster::configured(3, |config| {
        config.retained_entries = 0;
        config.compaction_lag_max = 0;
        config.tail_bytes_max = 1;
    });
    cluster.elect(1);
    cluster.isolate(3);
    for text in ["a", "b", "c"] {
        cluster.propose(1, &[text]);
        cluster.settle();
    }
    let status = cluster.host(1).raft.status();
    let peer = status.peers.iter().find(|peer| peer.id == NodeId(3)).unwrap();
    let first = peer.matched.next();
    let fetched = cluster.host(1).disk.read(first, first);
    let now = cluster.now;
    let raft = &mut cluster.host(1).raft;
    raft.handle(now, Input::Unreachable(NodeId(3))).unwrap();
    let later = now + Duration::from_millis(60);
    raft.handle(later, Input::Timeout).unwrap();
    let wants = actions(raft)
        .into_iter()
        .any(|action| matches!(action, Action::Fetch { peer: NodeId(3), .. }));
    assert!(wants, "the tail is too small to serve it");
    let position = LogPosition { index: status.applied, term: status.term };
    let meta = SnapshotMeta { position, membership: status.membership.into() };
    raft.handle(later, Input::SnapshotTaken(meta)).unwrap();
    raft.handle(later, Input::Fetched { peer: NodeId(3), entries: fetched }).unwrap();
    let offers = actions(raft).into_iter().any(|action| {
        matches!(
            action,
            Action::Send {
                to: NodeId(3),
                message: Message { body: Body::SnapshotOffer { .. }, .. }
            }
        )
    });
    assert!(offers, "only the snapshot helps now");
}

#[test]
fn proposals_are_refused_by_name() {
    let mut cluster = Cluster::configured(3, |config| config.uncommitted_bytes_max = 1000);
    cluster.elect(1);
    cluster.isolate(1);
    let refusal = |cluster: &mut Cluster, node: u64| match cluster.host(node).resolutions.last() {
        Some(Resolution::Refused { reason, .. }) => Some(*reason),
        _ => None,
    };
    cluster.propose(2, &["a"]);
    assert_eq!(refusal(&mut cluster, 2), Some(Refusal::NotLeader { leader: Some(NodeId(1)) }));
    cluster.propose(1, &[]);
    assert_eq!(refusal(&mut cluster, 1), Some(Refusal::EmptyBatch));
    cluster.propose(1, &[&"x".repeat(2000)]);
    assert!(matches!(refusal(&mut cluster, 1), Some(Refusal::BatchTooLarge { .. })));
    cluster.propose(1, &[&"x".repeat(800)]);
    cluster.propose(1, &[&"x".repeat(800)]);
    assert!(matches!(
        refusal(&mut cluster, 1),
        Some(Refusal::QuotaExceeded { uncommitted_bytes: 864, .. })
    ));
    cluster.heal();
    cluster.run(Duration::from_millis(700));
    cluster.propose(1, &[&"x".repeat(800)]);
    assert!(
        matches!(cluster.host(1).resolutions.last(), Some(Resolution::Appended { .. })),
        "the quota leaked"
    );
}
