//! Figure 13, "`InstallSnapshot` RPC", receiver implementation, and §7. Rules 2 to 4 (create the file at the first chunk, write chunks at their
//! offsets, wait for the last) are the driver's: the core decides who needs which snapshot, the driver carries the data. So the request
//! here is an *offer*, and what rule 5 to 8 say happens when the driver reports that all chunks are there.

use std::time::Duration;

use crate::common::append;
use crate::common::one::*;
use raft_core::{
    Action, AppendOutcome, Body, CallerFault, Config, HandleError, Index, Input, Instant,
    Membership, NodeId, Raft, Resolution, Restored, RoleKind, SnapshotMeta, SnapshotOutcome, Term,
};

fn offer(index: u64, term: u64) -> Body {
    Body::SnapshotOffer { snapshot: snapshot(index, term) }
}

fn response(position: (u64, u64), outcome: SnapshotOutcome) -> Body {
    Body::SnapshotResponse { position: at(position.0, position.1), outcome }
}

fn tell(raft: &mut Raft, input: Input) {
    raft.handle(Instant(0), input).unwrap();
}

fn is_install(action: &Action) -> bool {
    matches!(action, Action::InstallSnapshot(_))
}

/// A follower of node 2 in term 2 whose log has these terms, and which is installing a snapshot.
fn installing(terms: &[u64], index: u64, term: u64) -> Raft {
    let mut raft = with_log(terms, 2);
    exchange(&mut raft, 2, 2, offer(index, term));
    tell(&mut raft, Input::SnapshotReceived(snapshot(index, term)));
    assert!(actions(&mut raft).iter().any(is_install));
    raft
}

/// Rule 1: "Reply immediately if term < currentTerm"
#[test]
fn rule_1_a_leader_of_an_earlier_term_is_told_the_term() {
    let mut raft = with_log(&[1], 5);
    receive(&mut raft, 2, 4, offer(9, 3));
    let drained = actions(&mut raft);
    assert!(matches!(&drained[..], [Action::Send { message, .. }] if message.term == Term(5)));
}

/// Rules 2 to 4: the driver is asked to collect the data, and the leader to send it.
#[test]
fn rules_2_to_4_the_driver_collects_what_the_leader_streams() {
    let mut raft = with_log(&[1], 2);
    receive(&mut raft, 2, 2, offer(9, 2));
    let drained = actions(&mut raft);
    let expected =
        Action::ReceiveSnapshot { from: NodeId(2), term: Term(2), snapshot: snapshot(9, 2) };
    assert!(drained.contains(&expected), "{drained:?}");
    let wanted = response((9, 2), SnapshotOutcome::Wanted);
    assert_eq!(to(2, &messages(&drained)), [wanted]);
    assert_eq!(raft.status().last, Index(1), "nothing is touched before all is there");
}

/// Rule 5: "Save snapshot file, discard any existing or partial snapshot with a smaller index"
#[test]
fn rule_5_a_newer_offer_replaces_a_partial_snapshot() {
    let mut raft = with_log(&[1], 2);
    exchange(&mut raft, 2, 2, offer(5, 1));
    exchange(&mut raft, 2, 2, offer(9, 2));
    tell(&mut raft, Input::SnapshotReceived(snapshot(5, 1)));
    let drained = actions(&mut raft);
    assert!(!drained.iter().any(is_install), "{drained:?}");
    let failed = response((5, 1), SnapshotOutcome::Failed);
    assert_eq!(to(2, &messages(&drained)), [failed]);
    tell(&mut raft, Input::SnapshotReceived(snapshot(9, 2)));
    assert!(actions(&mut raft).iter().any(is_install));
    // A second copy of the same is no news; another one was replaced.
    tell(&mut raft, Input::SnapshotReceived(snapshot(9, 2)));
    assert_eq!(actions(&mut raft), []);
    tell(&mut raft, Input::SnapshotReceived(snapshot(7, 2)));
    let failed = response((7, 2), SnapshotOutcome::Failed);
    assert_eq!(to(2, &messages(&actions(&mut raft))), [failed]);
    let surprise = raft.handle(Instant(0), Input::SnapshotInstalled(snapshot(7, 2)));
    assert!(matches!(surprise, Err(HandleError::Caller(CallerFault::UnexpectedSnapshot { .. }))));
    // And an offer meanwhile waits for the installation's end.
    assert_eq!(exchange(&mut raft, 2, 2, offer(11, 2)), []);
}

/// Rule 5, the other way round: what appends have overtaken is not installed.
#[test]
fn rule_5_an_overtaken_snapshot_does_not_throw_the_machine_back() {
    let mut raft = with_log(&[], 2);
    exchange(&mut raft, 2, 2, offer(2, 1));
    exchange(&mut raft, 2, 2, append((0, 0), &[(1, 1), (2, 1), (3, 2)], 3));
    assert_eq!(raft.status().applied, Index(3));
    tell(&mut raft, Input::SnapshotReceived(snapshot(2, 1)));
    let drained = actions(&mut raft);
    assert!(!drained.iter().any(is_install), "{drained:?}");
    let matched = response((2, 1), SnapshotOutcome::Matched(Index(3)));
    assert_eq!(to(2, &messages(&drained)), [matched]);
    // Nor is it even wanted, once that is known.
    let out = to(2, &exchange(&mut raft, 2, 2, offer(2, 1)));
    assert_eq!(out, [response((2, 1), SnapshotOutcome::Matched(Index(3)))]);
}

/// Rule 6: "If existing log entry has same index and term as snapshot's last included entry, retain log entries following it and reply"
#[test]
fn rule_6_a_log_that_goes_on_after_the_snapshot_stays() {
    let mut raft = with_log(&[], 2);
    exchange(&mut raft, 2, 2, offer(2, 1));
    tell(&mut raft, Input::SnapshotReceived(snapshot(2, 1)));
    actions(&mut raft);
    // Appends go on while it is installed; nothing is applied meanwhile.
    receive(&mut raft, 2, 2, append((0, 0), &[(1, 1), (2, 1), (3, 2)], 3));
    let drained = actions(&mut raft);
    for action in &drained {
        assert!(!matches!(action, Action::Apply(_)), "applied to a machine that is being replaced");
        if let Action::Persist(persist) = action {
            tell(&mut raft, Input::Persisted(persist.ticket));
        }
    }
    assert!(!actions(&mut raft).iter().any(|action| matches!(action, Action::Apply(_))));
    tell(&mut raft, Input::SnapshotInstalled(snapshot(2, 1)));
    let out = sent(&mut raft);
    assert!(to(2, &out).contains(&response((2, 1), SnapshotOutcome::Matched(Index(2)))), "{out:?}");
    let status = raft.status();
    assert_eq!((status.last, status.commit, status.applied), (Index(3), Index(3), Index(3)));
}

/// Rule 7: "Discard the entire log"
#[test]
fn rule_7_any_other_log_goes_whole() {
    // Scenario 34: one that has another entry at the snapshot's index, too.
    for terms in [&[1, 1][..], &[1, 1, 1, 1, 1, 1, 1]] {
        let mut raft = installing(terms, 5, 2);
        tell(&mut raft, Input::SnapshotInstalled(snapshot(5, 2)));
        let drained = actions(&mut raft);
        let write = drained.iter().find_map(|action| match action {
            Action::Persist(persist) => Some(persist.clone()),
            _ => None,
        });
        let write = write.expect("the log's replacement is written");
        assert_eq!(write.reset, Some(snapshot(5, 2)));
        assert_eq!(messages(&drained), [], "it says so before it is durable");
        tell(&mut raft, Input::Persisted(write.ticket));
        let matched = response((5, 2), SnapshotOutcome::Matched(Index(5)));
        assert!(to(2, &sent(&mut raft)).contains(&matched));
        let status = raft.status();
        assert_eq!((status.base, status.last, status.commit), (Index(5), Index(5), Index(5)));
        let out = exchange(&mut raft, 2, 2, append((5, 2), &[(6, 2)], 6));
        let accepted = Body::AppendResponse(AppendOutcome::Accepted { matched: Index(6) });
        assert_eq!(to(2, &out), [accepted], "the log goes on from there");
    }
}

/// Rule 7, across a crash between the machine's replacement and the log's.
#[test]
fn rule_7_is_finished_after_a_crash() {
    let log = disk(&[1, 1, 1, 1, 1, 1], 1, Some(3), 0);
    let restored = Restored { log, snapshot: Some(snapshot(5, 2)) };
    let mut raft = Raft::new(Config::new(NodeId(1)), 7, Instant(0), restored).unwrap();
    let status = raft.status();
    assert_eq!((status.base, status.last, status.applied), (Index(5), Index(5), Index(5)));
    assert_eq!((status.term, status.vote), (Term(2), None));
    let drained = actions(&mut raft);
    let [Action::Persist(write)] = &drained[..] else { panic!("{drained:?}") };
    assert_eq!(write.reset, Some(snapshot(5, 2)));
    assert_eq!(write.hard_state.unwrap().term, Term(2));
}

/// Rule 8: "Reset state machine using snapshot contents (and load snapshot's cluster configuration)"
#[test]
fn rule_8_the_snapshots_configuration_is_in_force() {
    let mut raft = with_log(&[1, 1], 2);
    let membership = Membership::of_voters([1, 2, 3, 4, 5].map(NodeId));
    let meta = SnapshotMeta { position: at(5, 2), membership: membership.clone().into() };
    exchange(&mut raft, 2, 2, Body::SnapshotOffer { snapshot: meta.clone() });
    tell(&mut raft, Input::SnapshotReceived(meta.clone()));
    tell(&mut raft, Input::SnapshotInstalled(meta));
    assert_eq!(raft.membership(), &membership);
    assert_eq!(raft.status().applied, Index(5));
}

/// A machine that is being replaced is nobody's candidate.
#[test]
fn a_node_that_installs_a_snapshot_does_not_campaign() {
    let mut raft = installing(&[1], 5, 2);
    assert_eq!(raft.poll_timeout(), None, "there is nothing to wait for");
    for seconds in 10..13 {
        raft.handle(Instant(0) + Duration::from_secs(seconds), Input::Timeout).unwrap();
        assert_eq!(role(&raft), RoleKind::Follower);
    }
    tell(&mut raft, Input::SnapshotInstallFailed(snapshot(5, 2)));
    time_out(&mut raft);
    assert_eq!(role(&raft), RoleKind::PreCandidate, "but it does when that has failed");
}

/// A snapshot that failed is reported, and offered again later.
#[test]
fn a_failed_installation_is_reported() {
    let mut raft = installing(&[1], 5, 2);
    tell(&mut raft, Input::SnapshotInstallFailed(snapshot(5, 2)));
    let failed = response((5, 2), SnapshotOutcome::Failed);
    assert_eq!(to(2, &sent(&mut raft)), [failed]);
    assert_eq!(raft.status().last, Index(1));
}

/// A leader of three in term 2 whose log is compacted through 5.
fn compacted_leader() -> Raft {
    let mut log = disk(&[], 1, None, 5);
    (log.base, log.last) = (at(5, 1), Index(5));
    let restored = Restored { log, snapshot: Some(snapshot(5, 1)) };
    let mut raft = Raft::new(Config::new(NodeId(1)), 7, Instant(0), restored).unwrap();
    lead(&mut raft);
    raft
}

/// §7: "the leader must occasionally send snapshots to followers that lag behind … when the leader has already discarded the next log entry that it
/// needs to send"
#[test]
fn a_follower_that_needs_what_is_compacted_is_offered_the_snapshot() {
    // Scenario 14: an append that follows a missing entry would have to name its term.
    let mut raft = compacted_leader();
    let hint = at(2, 1);
    let outcome = AppendOutcome::Rejected { prev: Index(5), hint };
    receive(&mut raft, 2, 2, Body::AppendResponse(outcome));
    let Some(first) = raft.poll_action() else { panic!("it does nothing") };
    let offer = Action::Send { to: NodeId(2), message: message(2, offer(5, 1)) };
    assert_eq!(first, offer);
    // It is wanted: streamed once, however often that is said (scenario 45).
    let wanted = || response((5, 1), SnapshotOutcome::Wanted);
    let streams = |raft: &mut Raft| {
        let drained = actions(raft);
        drained.iter().filter(|action| matches!(action, Action::StreamSnapshot { .. })).count()
    };
    receive(&mut raft, 2, 2, wanted());
    assert_eq!(streams(&mut raft), 1);
    receive(&mut raft, 2, 2, wanted());
    assert_eq!(streams(&mut raft), 0);
    // The stream broke: it is offered again after a while, and streamed again.
    let position = at(5, 1);
    tell(&mut raft, Input::SnapshotStreamEnded { to: NodeId(2), position });
    receive(&mut raft, 2, 2, response((5, 1), SnapshotOutcome::Failed));
    receive(&mut raft, 2, 2, wanted());
    assert_eq!(streams(&mut raft), 1);
    receive(&mut raft, 2, 2, response((5, 1), SnapshotOutcome::Matched(Index(5))));
    let out = sent(&mut raft);
    assert!(
        matches!(&to(2, &out)[..], [Body::Append { prev, .. }] if *prev == at(5, 1)),
        "{out:?}"
    );
}

/// An offer without an answer is repeated at heartbeats, with the newest snapshot.
#[test]
fn an_offer_is_repeated_until_it_is_answered() {
    let mut raft = compacted_leader();
    let outcome = AppendOutcome::Rejected { prev: Index(5), hint: at(0, 0) };
    exchange(&mut raft, 2, 2, Body::AppendResponse(outcome));
    let mut offers = 0;
    for _ in 0..40 {
        time_out(&mut raft);
        let out = sent(&mut raft);
        offers +=
            to(2, &out).iter().filter(|body| matches!(body, Body::SnapshotOffer { .. })).count();
        let term = raft.status().term.0;
        exchange(&mut raft, 3, term, Body::HeartbeatResponse { read_context: 0 });
    }
    assert!((2..=8).contains(&offers), "{offers} offers in 40 heartbeats");
}

/// §7: a snapshot is of what is applied, and of this log; the log is compacted up to there, less what is retained for followers that lag.
#[test]
fn compaction_keeps_a_reserve_and_believes_only_what_is_applied() {
    let mut config = Config::new(NodeId(1));
    config.retained_entries = 2;
    let restored = Restored { log: disk(&[1, 1, 1, 1, 1], 1, None, 4), snapshot: None };
    let mut raft = Raft::new(config, 7, Instant(0), restored).unwrap();
    sent(&mut raft);
    assert_eq!(raft.status().applied, Index(4));
    for impossible in [snapshot(5, 1), snapshot(3, 2), snapshot(9, 1)] {
        let position = impossible.position;
        let error = raft.handle(Instant(0), Input::SnapshotTaken(impossible)).unwrap_err();
        let fault = CallerFault::ImpossibleSnapshot { position };
        assert_eq!(error, HandleError::Caller(fault));
    }
    tell(&mut raft, Input::SnapshotTaken(snapshot(4, 1)));
    assert_eq!(actions(&mut raft), [Action::Compact { through: at(2, 1) }]);
    assert_eq!(raft.status().base, Index(2));
    // A report that was overtaken says nothing new.
    tell(&mut raft, Input::SnapshotTaken(snapshot(3, 1)));
    assert_eq!(actions(&mut raft), []);
}

/// While a snapshot is installed, a read or a proposal is refused as anywhere but at the leader.
#[test]
fn a_node_that_installs_a_snapshot_refers_to_its_leader() {
    let mut raft = installing(&[1], 5, 2);
    tell(&mut raft, Input::Read { id: raft_core::ReadId(1), at: raft_core::ReadAt::Leader });
    let reason = raft_core::Refusal::NotLeader { leader: Some(NodeId(2)) };
    let refused = Resolution::ReadRefused { id: raft_core::ReadId(1), reason };
    assert_eq!(actions(&mut raft), [Action::Resolve(refused)]);
    assert!(reason.to_string().contains("node 2"));
}
