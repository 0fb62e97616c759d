//! What stands behind a refusal: as long as it holds, and once what was in the way is gone.
#![allow(missing_docs)]

mod common;

use bytes::Bytes;
use common::one::{exchange, follower_of_three, lead, receive, sent, voters};
use raft_core::{
    AppendOutcome, Body, Config, ForwardOutcome, Index, Input, Instant, LeadershipReason,
    MissingReason, NoTarget, NodeId, ProposalId, Raft, Refusal, RefusalReason, Restored,
    StalledLeader, StorageHealth, TransferObstacle,
};

fn accepted(index: u64) -> Body {
    Body::AppendResponse(AppendOutcome::Accepted { matched: Index(index) })
}

#[test]
fn what_stands_behind_each_refusal() {
    let follower = follower_of_three();
    let reason = follower.explain_refusal(&Refusal::NotLeader { leader: None });
    assert!(matches!(reason, RefusalReason::Leadership(_)), "{reason:?}");
    assert!(reason.to_string().starts_with("this node knows of no leader"), "{reason}");

    let mut raft = follower_of_three();
    lead(&mut raft);
    let reason = raft.explain_refusal(&Refusal::NotSettled);
    assert!(matches!(reason, RefusalReason::Commit { index: Index(1), .. }), "{reason:?}");
    let quota = Refusal::QuotaExceeded { uncommitted_bytes: 1, max_bytes: 1 };
    assert!(raft.explain_refusal(&quota).to_string().starts_with("index 1: too few voters"));
    let pending = Refusal::ChangePending { at: Index(1) };
    assert!(matches!(raft.explain_refusal(&pending), RefusalReason::Commit { .. }));
    let behind = Refusal::NotCaughtUp { node: NodeId(3), behind: 1 };
    let RefusalReason::Member(missing) = raft.explain_refusal(&behind) else { panic!("no member") };
    assert_eq!((missing.node, missing.because), (NodeId(3), MissingReason::Probing));
    assert!(raft.explain_refusal(&behind).to_string().starts_with("node 3"));
    let transfer = Refusal::TransferTimedOut { to: NodeId(2) };
    assert!(matches!(raft.explain_refusal(&transfer), RefusalReason::Member(_)));
    let not_leading = follower.explain_refusal(&Refusal::NoTransferTarget);
    assert!(matches!(not_leading, RefusalReason::Leadership(_)));
    let request = raft.explain_refusal(&Refusal::EmptyBatch);
    assert_eq!(request, RefusalReason::Request);
    assert!(request.to_string().contains("has to change"));
}

#[test]
fn what_was_in_the_way_and_is_gone_is_said_to_be() {
    let mut raft = follower_of_three();
    lead(&mut raft);
    let term = raft.status().term.0;
    exchange(&mut raft, 2, term, accepted(1));
    for refusal in [
        Refusal::QuotaExceeded { uncommitted_bytes: 1, max_bytes: 1 },
        Refusal::NotSettled,
        Refusal::ChangePending { at: Index(1) },
        Refusal::TransferInProgress { to: NodeId(3) },
    ] {
        assert_eq!(raft.explain_refusal(&refusal), RefusalReason::Gone, "{refusal:?}");
    }
    assert!(RefusalReason::Gone.to_string().contains("ask again"));
}

#[test]
fn nobody_can_take_over_and_each_voter_says_why() {
    let mut membership = voters(5);
    membership.witnesses.insert(NodeId(4));
    let config = Config { transfer_lag_max: 0, ..Config::new(NodeId(1)) };
    let window = config.election_timeout;
    let restored = Restored::founding(membership);
    let mut raft = Raft::new(config, 7, Instant(0), restored).unwrap();
    let hears = |raft: &mut Raft, now, from, body| {
        let message = raft_core::Message { term: raft.status().term.max(raft_core::Term(1)), body };
        raft.handle(now, Input::Message { from: NodeId(from), store: None, message }).unwrap();
        drop(sent(raft));
    };
    let now = raft.poll_timeout().unwrap();
    raft.handle(now, Input::Timeout).unwrap();
    drop(sent(&mut raft));
    for body in [Body::PreVoteResponse { granted: true }, Body::VoteResponse { granted: true }] {
        for from in [2, 3] {
            hears(&mut raft, now, from, body.clone());
        }
    }
    let later = now + window / 2;
    hears(&mut raft, later, 2, accepted(1));
    hears(&mut raft, later, 3, Body::HeartbeatResponse { read_context: 0 });
    let commands = vec![Bytes::from_static(b"command")];
    raft.handle(later, Input::Propose { id: ProposalId(1), commands }).unwrap();
    drop(sent(&mut raft));
    // The last check of the quorum was before that.
    raft.handle(now + window, Input::StorageHealth(StorageHealth::Stalled)).unwrap();
    let others = vec![
        NoTarget { node: NodeId(2), because: TransferObstacle::TooFarBehind { behind: 1, max: 0 } },
        NoTarget { node: NodeId(3), because: TransferObstacle::Probing },
        NoTarget { node: NodeId(4), because: TransferObstacle::Witness },
        NoTarget { node: NodeId(5), because: TransferObstacle::Silent { silent_for: window } },
    ];
    let reason = raft.explain_refusal(&Refusal::NoTransferTarget);
    assert_eq!(reason, RefusalReason::NobodyCanTakeOver { others: others.clone() });
    let words = reason.to_string();
    assert!(words.contains("node 2 (it lacks 1 entries, and may lack 0), node 3 (the"), "{words}");
    let reason = raft.explain_leadership();
    let LeadershipReason::Leads { stalled, .. } = &reason else { panic!("{reason:?}") };
    assert_eq!(*stalled, Some(StalledLeader::Stays { others }));
    let words = reason.to_string();
    assert!(
        words.contains("its disk does not answer, and nobody can take over: node 2"),
        "{words}"
    );

    hears(&mut raft, now + window, 2, accepted(2));
    assert_eq!(raft.explain_refusal(&Refusal::NoTransferTarget), RefusalReason::Gone);
    let reason = raft.explain_leadership();
    let LeadershipReason::Leads { stalled, .. } = &reason else { panic!("{reason:?}") };
    assert_eq!(*stalled, Some(StalledLeader::MakesWay));
    assert!(reason.to_string().ends_with("it makes way for another"), "{reason}");
}

#[test]
fn a_member_that_forwards_says_for_whom_its_quota_waits() {
    let config = Config { forward_proposals: true, ..Config::new(NodeId(1)) };
    let until = Instant(0) + config.election_timeout;
    let restored = Restored::founding(voters(3));
    let mut raft = Raft::new(config, 7, Instant(0), restored).unwrap();
    let refusal = Refusal::QuotaExceeded { uncommitted_bytes: 1, max_bytes: 1 };
    assert!(matches!(raft.explain_refusal(&refusal), RefusalReason::Leadership(_)));
    receive(&mut raft, 2, 1, Body::Heartbeat { commit: Index(0), read_context: 0 });
    drop(sent(&mut raft));
    assert_eq!(raft.explain_refusal(&refusal), RefusalReason::Gone);

    let mut forwarded = Vec::new();
    for id in [1, 2] {
        let commands = vec![Bytes::from_static(b"command")];
        raft.handle(Instant(0), Input::Propose { id: ProposalId(id), commands }).unwrap();
        forwarded.extend(sent(&mut raft).into_iter().filter_map(
            |(_, message)| match message.body {
                Body::Forward { id, .. } => Some(id),
                _ => None,
            },
        ));
    }
    let bytes = "command".len() + raft_core::Entry::OVERHEAD_BYTES;
    let waits = |unanswered: usize, until, uncommitted: usize| RefusalReason::Forwarded {
        leader: NodeId(2),
        unanswered_bytes: unanswered * bytes,
        until,
        uncommitted_bytes: uncommitted * bytes,
    };
    assert_eq!(raft.explain_refusal(&refusal), waits(2, Some(until), 0));
    let words = raft.explain_refusal(&refusal).to_string();
    assert!(words.ends_with("leader, node 2; the first are given up at 0.500000 s"), "{words}");
    for (answered, id) in (1_u64..).zip(forwarded) {
        let outcome = ForwardOutcome::Appended { first: Index(answered), count: 1 };
        exchange(&mut raft, 2, 1, Body::ForwardResponse { id, outcome });
        let expected = if answered == 1 { waits(1, Some(until), 1) } else { waits(0, None, 2) };
        assert_eq!(raft.explain_refusal(&refusal), expected);
    }
    let words = raft.explain_refusal(&refusal).to_string();
    assert!(words.ends_with("leader, node 2, and wait to be committed"), "{words}");
}
