//! Why a member leads or not, why an index is committed or not, and what stands behind a refusal: each reason is reached by what a cluster
//! does, and reads as a sentence.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use common::one::{
    actions, disk, exchange, follower_of_three, lead, message, receive, sent, stand, time_out,
    voters, with_log,
};
use raft_core::{
    Action, AppendOutcome, Body, CampaignObstacle, CommitGroups, CommitReason, Config, Entry,
    Event, HardState, Index, Input, Instant, Lacks, LeadershipReason, LeaseConfig, LogPosition,
    MissingReason, NodeId, Payload, ProposalId, Raft, Refusal, RefusalReason, Restored,
    RestoredLog, RoleKind, StorageHealth, StoreId, StoreStamp, Tally, Term, UnappliedReason,
    Uncounted, UncountedReason, VotePromise,
};

fn node(config: Config, membership: raft_core::Membership) -> Raft {
    Raft::new(config, 7, Instant(0), Restored::founding(membership)).unwrap()
}

fn propose(raft: &mut Raft) -> Index {
    let now = raft.status().peers.first().map_or(Instant(0), |peer| peer.last_contact);
    let commands = vec![Bytes::from_static(b"command")];
    raft.handle(now, Input::Propose { id: ProposalId(1), commands }).unwrap();
    raft.status().last
}

fn accepted(index: u64) -> Body {
    Body::AppendResponse(AppendOutcome::Accepted { matched: Index(index) })
}

fn tally(raft: &Raft) -> Tally {
    match raft.explain_leadership() {
        LeadershipReason::AsksForPreVotes { tally, .. }
        | LeadershipReason::Campaigns { tally, .. } => tally,
        other => panic!("{other:?}"),
    }
}

fn waits(until: Instant, promise: Option<VotePromise>) -> LeadershipReason {
    LeadershipReason::Waits { until, priority_delay: Duration::ZERO, promise }
}

fn nodes(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

#[test]
fn a_member_without_a_leader_waits_then_asks_then_campaigns_then_leads() {
    let mut raft = follower_of_three();
    let until = raft.poll_timeout().unwrap();
    assert_eq!(raft.explain_leadership(), waits(until, None));
    let words = raft.explain_leadership().to_string();
    assert_eq!(words, format!("knows of no leader, and campaigns at {until}"));

    time_out(&mut raft);
    let asked = tally(&raft);
    assert_eq!((asked.granted, asked.silent), (nodes(&[1]), nodes(&[2, 3])));
    assert!(asked.refused.is_empty() && asked.uncounted.is_empty());
    let words = raft.explain_leadership().to_string();
    assert!(words.contains("could be elected; votes: 1; no answer: 2, 3; tries anew"), "{words}");

    let mut raft = follower_of_three();
    stand(&mut raft);
    let campaign = tally(&raft);
    assert_eq!((campaign.granted, campaign.silent), (nodes(&[]), nodes(&[2, 3])));
    let own = Uncounted { node: NodeId(1), because: UncountedReason::NotDurable };
    assert_eq!(campaign.uncounted, [own]);
    let words = raft.explain_leadership().to_string();
    assert!(words.starts_with("campaigns; votes: none; do not count: node 1 (its own"), "{words}");
    drop(sent(&mut raft));
    assert_eq!(tally(&raft).granted, nodes(&[1]));

    let mut raft = follower_of_three();
    lead(&mut raft);
    let reason = raft.explain_leadership();
    let LeadershipReason::Leads { since, heard, missing, transfer_to, stalled: None } = &reason
    else {
        panic!("{reason:?}")
    };
    assert_eq!((*since, heard.len(), missing.len(), *transfer_to), (Index(1), 3, 0, None));
    assert!(reason.to_string().contains("leads since index 1"), "{reason}");
}

#[test]
fn who_refuses_is_told_from_who_is_silent() {
    let mut raft = with_log(&[1], 2);
    time_out(&mut raft);
    // A refusal carries the term of who refuses, which may lie behind.
    receive(&mut raft, 3, 1, Body::PreVoteResponse { granted: false });
    let asked = tally(&raft);
    assert_eq!(
        (asked.granted, asked.refused, asked.silent),
        (nodes(&[1]), nodes(&[3]), nodes(&[2]))
    );
    let words = raft.explain_leadership().to_string();
    assert!(words.contains("votes: 1; refused: 3 (they have entries that it lacks, or"), "{words}");

    let mut raft = with_log(&[1], 2);
    stand(&mut raft);
    drop(sent(&mut raft));
    receive(&mut raft, 2, 3, Body::VoteResponse { granted: false });
    let campaign = tally(&raft);
    assert_eq!(campaign.granted, nodes(&[1]));
    assert_eq!((campaign.refused, campaign.silent), (nodes(&[2]), nodes(&[3])));
    let words = raft.explain_leadership().to_string();
    assert!(words.starts_with("campaigns; votes: 1; refused: 2 (they have"), "{words}");
    // What was refused in an earlier term says nothing of this one.
    receive(&mut raft, 3, 2, Body::VoteResponse { granted: false });
    assert_eq!(tally(&raft).silent, nodes(&[3]));
}

#[test]
fn a_vote_that_does_not_count_is_named() {
    let mut membership = voters(5);
    membership.stores = (1..=4).map(|id| (NodeId(id), StoreId(100 * id))).collect();
    let stamp = |id| Some(StoreStamp { id: StoreId(id), life: 1, nonce: 1 });
    let mut raft = node(Config { store: stamp(100), ..Config::new(NodeId(1)) }, membership);
    let tell = |raft: &mut Raft, from, store, term, body| {
        let input = Input::Message { from: NodeId(from), store, message: message(term, body) };
        raft.handle(raft.poll_timeout().unwrap().min(Instant(0)), input).unwrap();
    };
    time_out(&mut raft);
    for (from, store) in [(4, 401), (5, 500)] {
        tell(&mut raft, from, stamp(store), 1, Body::PreVoteResponse { granted: true });
    }
    let strange = Uncounted { node: NodeId(4), because: UncountedReason::StoreDoesNotCount };
    let unrecorded = Uncounted { node: NodeId(5), because: UncountedReason::StoreNotRecorded };
    let asked = tally(&raft);
    assert_eq!((asked.granted, asked.uncounted), (nodes(&[1]), vec![strange, unrecorded]));
    let words = raft.explain_leadership().to_string();
    assert!(words.contains("node 4 (it runs on a store that it was not admitted with)"), "{words}");
    assert!(words.contains("node 5 (its store is not recorded yet); start the members"), "{words}");
    assert!(words.contains("of those that do not count; no answer: 2, 3"), "{words}");

    for from in [2, 3] {
        tell(&mut raft, from, stamp(100 * from), 1, Body::PreVoteResponse { granted: true });
    }
    tell(&mut raft, 4, stamp(401), 1, Body::VoteResponse { granted: true });
    let own = Uncounted { node: NodeId(1), because: UncountedReason::NotDurable };
    assert_eq!(tally(&raft).uncounted, [own, strange]);
}

#[test]
fn a_late_refusal_takes_no_vote_back() {
    let mut raft = node(Config::new(NodeId(1)), voters(5));
    time_out(&mut raft);
    for from in [2, 3] {
        receive(&mut raft, from, 1, Body::PreVoteResponse { granted: true });
    }
    for granted in [true, false] {
        receive(&mut raft, 2, 1, Body::VoteResponse { granted });
    }
    assert_eq!((tally(&raft).granted, tally(&raft).refused), (nodes(&[2]), nodes(&[])));
}

#[test]
fn nothing_is_kept_of_what_strangers_answer() {
    let mut membership = voters(3);
    membership.learners.insert(NodeId(4));
    let mut raft = node(Config::new(NodeId(1)), membership);
    stand(&mut raft);
    drop(sent(&mut raft));
    let before = tally(&raft);
    for granted in [true, false] {
        for from in [4, 77, u64::MAX] {
            receive(&mut raft, from, 1, Body::VoteResponse { granted });
        }
    }
    assert_eq!(tally(&raft), before);
}

#[test]
fn a_voter_that_restarted_withholds_its_vote_for_a_while() {
    let lease = Some(LeaseConfig { clock_drift_max_ppm: 1_000 });
    let config = Config { lease, ..Config::new(NodeId(1)) };
    let window = config.election_timeout;
    let restored = Restored { log: disk(&[1], 1, None, 0), snapshot: None };
    let mut raft = Raft::new(config, 7, Instant(0), restored).unwrap();
    let promise = Some(VotePromise::BeforeRestart { until: Instant(0) + window });
    let until = raft.poll_timeout().unwrap();
    assert_eq!(raft.explain_leadership(), waits(until, promise));
    let words = raft.explain_leadership().to_string();
    assert!(words.contains("; withholds its vote until 0.500000 s: it may have"), "{words}");

    raft.handle(Instant(0) + window, Input::Timeout).unwrap();
    assert_eq!(raft.explain_leadership(), waits(until, None));
}

#[test]
fn a_member_that_may_not_campaign_still_says_to_whom_it_owes_its_vote() {
    let mut membership = voters(3);
    membership.witnesses.insert(NodeId(1));
    let config = Config { is_witness: true, ..Config::new(NodeId(1)) };
    let window = config.election_timeout;
    let mut raft = node(config, membership);
    receive(&mut raft, 2, 1, Body::Heartbeat { commit: Index(0), read_context: 0 });
    let promise = Some(VotePromise::ToLeader { leader: NodeId(2), until: Instant(0) + window });
    // A leader of the next term was elected, and is not heard yet.
    receive(&mut raft, 3, 2, Body::VoteResponse { granted: false });
    let because = CampaignObstacle::Witness;
    assert_eq!(raft.explain_leadership(), LeadershipReason::MayNotCampaign { because, promise });
    let words = raft.explain_leadership().to_string();
    assert!(
        words.ends_with(
            "votes for nobody but node 2, which it heard as the leader, until 0.500000 s"
        ),
        "{words}"
    );
}

#[test]
fn a_leader_names_the_voters_that_it_does_not_hear() {
    let mut raft = follower_of_three();
    lead(&mut raft);
    let (term, window) = (raft.status().term.0, raft.config().election_timeout);
    let mut now = raft.status().peers[0].last_contact;
    for _ in 0..8 {
        now = now + window / 4;
        let message = message(term, Body::HeartbeatResponse { read_context: 0 });
        raft.handle(now, Input::Message { from: NodeId(2), store: None, message }).unwrap();
        drop(sent(&mut raft));
    }
    let reason = raft.explain_leadership();
    let LeadershipReason::Leads { heard, missing, .. } = &reason else { panic!("{reason:?}") };
    assert_eq!(*heard, [NodeId(1), NodeId(2)]);
    assert_eq!(missing[0].because, MissingReason::Silent { silent_for: window * 2 });
    assert!(reason.to_string().contains("missing: node 3"), "{reason}");
}

#[test]
fn a_follower_says_whom_it_follows() {
    let mut raft = follower_of_three();
    receive(&mut raft, 2, 1, Body::Heartbeat { commit: Index(0), read_context: 0 });
    let reason = raft.explain_leadership();
    let (until, obstacle) = (raft.poll_timeout().unwrap(), None);
    let leader = NodeId(2);
    let heard = Instant(0) + raft.config().election_timeout;
    let promise = Some(VotePromise::ToLeader { leader, until: heard });
    assert_eq!(reason, LeadershipReason::Follows { leader, until, obstacle, promise });
    assert!(reason.to_string().starts_with("follows node 2"), "{reason}");
}

#[test]
fn who_may_not_campaign_says_why() {
    let obstacle = |raft: &Raft| match raft.explain_leadership() {
        LeadershipReason::MayNotCampaign { because, promise: None } => because,
        other => panic!("{other:?}"),
    };
    let outsider = node(Config::new(NodeId(9)), voters(3));
    let found = obstacle(&outsider);
    assert_eq!(found, CampaignObstacle::NotAVoter { role: RoleKind::Outsider });
    assert!(found.to_string().ends_with("(it is an outsider)"), "{found}");
    assert!(found.to_string().contains("does not list it as a voter"));

    let mut membership = voters(3);
    membership.witnesses.insert(NodeId(1));
    let config = Config { is_witness: true, ..Config::new(NodeId(1)) };
    let found = obstacle(&node(config, membership));
    assert_eq!(found, CampaignObstacle::Witness);
    assert!(found.to_string().contains("witness"));

    let mut membership = voters(3);
    membership.stores.insert(NodeId(1), StoreId(5));
    let store = Some(StoreStamp { id: StoreId(6), life: 1, nonce: 1 });
    let found = obstacle(&node(Config { store, ..Config::new(NodeId(1)) }, membership));
    let (own, admitted) = (StoreId(6), Some(StoreId(5)));
    assert_eq!(found, CampaignObstacle::StoreNotAdmitted { own, admitted });
    assert!(found.to_string().contains("filled and promoted"));
    let unrecorded = CampaignObstacle::StoreNotAdmitted { own, admitted: None };
    assert!(unrecorded.to_string().contains("wiped"));

    let mut stalled = follower_of_three();
    stalled.handle(Instant(0), Input::StorageHealth(StorageHealth::Stalled)).unwrap();
    assert_eq!(obstacle(&stalled), CampaignObstacle::StorageStalled);

    let last = with_log(&[1], Term::MAX.0);
    assert_eq!(obstacle(&last), CampaignObstacle::NoTermLeft);
    for obstacle in [CampaignObstacle::InstallingSnapshot, CampaignObstacle::NoTermLeft] {
        assert!(!obstacle.to_string().is_empty());
    }
}

#[test]
fn an_index_waits_for_voters_and_each_says_why() {
    let mut raft = follower_of_three();
    lead(&mut raft);
    let term = raft.status().term.0;
    exchange(&mut raft, 2, term, accepted(1));
    assert!(matches!(raft.explain_commit(Index(1)), CommitReason::Committed { .. }));
    assert!(raft.explain_commit(Index(1)).to_string().starts_with("committed"));

    // What a transfer to it waits for is no entry.
    let transfer = raft.explain_refusal(&Refusal::TransferTimedOut { to: NodeId(2) });
    let RefusalReason::Member(target) = transfer else { panic!("{transfer:?}") };
    assert_eq!(target.because, MissingReason::UpToDate);

    let index = propose(&mut raft);
    // Sent, and not written here yet.
    drop(actions(&mut raft));
    let reason = raft.explain_commit(index);
    let CommitReason::WaitsForVoters { have, missing, lacks: None } = &reason else {
        panic!("{reason:?}")
    };
    assert!(have.is_empty());
    let because: BTreeMap<u64, MissingReason> =
        missing.iter().map(|it| (it.node.0, it.because)).collect();
    assert_eq!(because[&1], MissingReason::OwnDisk);
    assert_eq!(because[&2], MissingReason::Streaming);
    assert_eq!(because[&3], MissingReason::Probing);
    let words = reason.to_string();
    assert!(words.contains("own disk") && words.contains("node 3 (has 0:"), "{words}");

    let beyond = raft.explain_commit(index.next());
    assert_eq!(beyond, CommitReason::NotInTheLog { last: index });
    assert!(beyond.to_string().contains("ends at"));
}

#[test]
fn a_follower_points_to_the_leader() {
    let mut raft = follower_of_three();
    let reason = raft.explain_commit(Index(3));
    assert_eq!(reason, CommitReason::NotLeader { leader: None, commit: Index(0) });
    assert!(reason.to_string().contains("no leader is known"));
    receive(&mut raft, 2, 1, Body::Heartbeat { commit: Index(0), read_context: 0 });
    assert!(raft.explain_commit(Index(3)).to_string().contains("ask the leader, node 2"));
}

#[test]
fn an_entry_of_an_earlier_term_waits_for_one_of_the_leaders_own() {
    // Figure 8 of the paper: a quorum has it, and that is not enough.
    let restored = Restored { log: disk(&[1, 1], 1, None, 0), snapshot: None };
    let mut raft = Raft::new(Config::new(NodeId(1)), 7, Instant(0), restored).unwrap();
    lead(&mut raft);
    let term = raft.status().term.0;
    receive(&mut raft, 2, term, accepted(2));
    drop(actions(&mut raft));
    let reason = raft.explain_commit(Index(2));
    assert_eq!(reason, CommitReason::EarlierTerm { term: Term(1), waits_for: Index(3) });
    assert!(reason.to_string().contains("along with index 3"), "{reason}");
}

#[test]
fn an_index_waits_for_zones() {
    let zones = BTreeMap::from([(NodeId(1), 1), (NodeId(2), 1), (NodeId(3), 2)]);
    let commit_groups = Some(CommitGroups { zones, zones_min: 2 });
    let mut raft = node(Config { commit_groups, ..Config::new(NodeId(1)) }, voters(3));
    lead(&mut raft);
    let term = raft.status().term.0;
    exchange(&mut raft, 2, term, accepted(1));
    let reason = raft.explain_commit(Index(1));
    let CommitReason::WaitsForZones { have, zones_min, missing } = &reason else {
        panic!("{reason:?}")
    };
    assert_eq!((have.as_slice(), *zones_min, missing[0].node), (&[1][..], 2, NodeId(3)));
    assert!(reason.to_string().contains("in 2 zones, and is in: 1"), "{reason}");
    exchange(&mut raft, 3, term, accepted(1));
    assert!(matches!(raft.explain_commit(Index(1)), CommitReason::Committed { .. }));
}

#[test]
fn what_keeps_a_voter_from_counting_reads_as_a_sentence() {
    let reasons = [
        (MissingReason::OwnDisk, "own disk"),
        (MissingReason::StoreDoesNotCount, "not admitted with"),
        (MissingReason::Probing, "where their logs agree"),
        (MissingReason::NeedsSnapshot, "snapshot"),
        (MissingReason::Fetching, "read from the leader's disk"),
        (MissingReason::AwaitsFullVoters, "enough full voters"),
        (MissingReason::Streaming, "on their way"),
        (MissingReason::UpToDate, "the whole log"),
    ];
    for (reason, words) in reasons {
        assert!(reason.to_string().contains(words), "{reason}");
    }
    let leadership = [(
        LeadershipReason::MayNotCampaign { because: CampaignObstacle::Witness, promise: None },
        "it is a witness",
    )];
    for (reason, words) in leadership {
        assert!(reason.to_string().contains(words), "{reason}");
    }
    let (leader, until) = (NodeId(2), Instant(1));
    let obstacle = Some(CampaignObstacle::Witness);
    let witness = LeadershipReason::Follows { leader, until, obstacle, promise: None };
    assert!(
        witness
            .to_string()
            .ends_with("; may not campaign itself: it is a witness, which has no commands")
    );
}

#[test]
fn a_member_of_low_priority_says_how_much_of_its_wait_is_due_to_that() {
    let config = Config { priority: 7, ..Config::new(NodeId(1)) };
    let expected = config.election_timeout * 3;
    let raft = node(config, voters(3));
    let reason = raft.explain_leadership();
    let LeadershipReason::Waits { until, priority_delay, .. } = &reason else {
        panic!("{reason:?}")
    };
    assert_eq!((*until, *priority_delay), (raft.poll_timeout().unwrap(), expected));
    assert!(reason.to_string().contains("(1.5s of that wait is due to its low priority)"));
}

#[test]
fn a_learner_says_whether_it_was_demoted_for_its_store() {
    let store = Some(StoreStamp { id: StoreId(301), life: 1, nonce: 1 });
    let obstacle = |recorded_before: u64, recorded_now: u64| {
        let mut before = voters(3);
        before.stores.insert(NodeId(3), StoreId(recorded_before));
        let mut now = voters(2);
        now.learners.insert(NodeId(3));
        now.stores.insert(NodeId(3), StoreId(recorded_now));
        let entries: Vec<Entry> = [before, now]
            .into_iter()
            .zip(1..)
            .map(|(membership, index)| Entry {
                term: Term(1),
                index: Index(index),
                payload: Payload::Membership(membership.into()),
            })
            .collect();
        let hard_state = HardState { term: Term(1), ..HardState::default() };
        let log = RestoredLog::describe(hard_state, LogPosition::ORIGIN, voters(3), &entries);
        let config = Config { store, ..Config::new(NodeId(3)) };
        let restored = Restored { log, snapshot: None };
        let mut raft = Raft::new(config, 7, Instant(0), restored).unwrap();
        let told = Action::Event(Event::StoreRejected { node: NodeId(3), store: StoreId(301) });
        let is_told = actions(&mut raft).contains(&told);
        match raft.explain_leadership() {
            LeadershipReason::MayNotCampaign { because, .. } => (because, is_told),
            other => panic!("{other:?}"),
        }
    };
    let (own, admitted) = (StoreId(301), StoreId(300));
    let (demoted, is_told) = obstacle(300, 301);
    assert_eq!(demoted, CampaignObstacle::DemotedForItsStore { own, admitted });
    assert!(is_told && demoted.to_string().contains("it is to be promoted once it has caught up"));
    // By an operator, or for a loss that the configuration can not tell.
    let (learner, is_told) = obstacle(301, 301);
    assert_eq!(learner, CampaignObstacle::NotAVoter { role: RoleKind::Learner });
    assert!(!is_told && learner.to_string().ends_with("can be promoted once it has caught up"));
    // The record lags behind the store: the leader brings it up to date.
    let (learner, is_told) = obstacle(300, 300);
    assert_eq!(learner, CampaignObstacle::NotAVoter { role: RoleKind::Learner });
    assert!(is_told);
}

#[test]
fn a_joint_configuration_says_which_half_lacks_whom() {
    let mut membership = voters(3);
    membership.outgoing = [1, 4, 5].map(NodeId).into();
    let mut raft = node(Config::new(NodeId(1)), membership);
    time_out(&mut raft);
    receive(&mut raft, 2, 1, Body::PreVoteResponse { granted: true });
    let outgoing = Lacks { incoming: vec![], outgoing: nodes(&[4, 5]) };
    assert_eq!(tally(&raft).lacks, Some(outgoing.clone()));
    let words = raft.explain_leadership().to_string();
    let both = "the incoming half has its majority, the outgoing half lacks 4, 5";
    assert!(words.contains(both), "{words}");

    receive(&mut raft, 4, 1, Body::PreVoteResponse { granted: true });
    drop(sent(&mut raft));
    for from in [2, 4] {
        receive(&mut raft, from, 1, Body::VoteResponse { granted: true });
    }
    drop(sent(&mut raft));
    exchange(&mut raft, 2, 1, accepted(1));
    let reason = raft.explain_commit(Index(1));
    let CommitReason::WaitsForVoters { lacks, .. } = &reason else { panic!("{reason:?}") };
    assert_eq!(*lacks, Some(outgoing));
    assert!(reason.to_string().ends_with(both), "{reason}");
}

#[test]
fn what_is_committed_and_not_applied_says_why() {
    let mut raft = follower_of_three();
    lead(&mut raft);
    let term = raft.status().term.0;
    exchange(&mut raft, 2, term, accepted(1));
    let index = propose(&mut raft);
    let write = actions(&mut raft).into_iter().find_map(|action| match action {
        Action::Persist(write) => Some(write.ticket),
        _ => None,
    });
    let unapplied = |raft: &Raft| match raft.explain_commit(index) {
        CommitReason::Committed { unapplied } => unapplied,
        other => panic!("{other:?}"),
    };
    for from in [2, 3] {
        receive(&mut raft, from, term, accepted(index.0));
    }
    // Nobody polled since.
    assert_eq!(raft.explain_commit(index), CommitReason::QuorumHasIt);
    assert!(raft.explain_commit(index).to_string().contains("is being committed"));
    drop(actions(&mut raft));
    assert_eq!(unapplied(&raft), Some(UnappliedReason::OwnDisk { durable: Index(1) }));
    let words = raft.explain_commit(index).to_string();
    assert!(words.ends_with("not applied here yet: this node's own disk has the log up to 1"));

    raft.handle(Instant(0), Input::Persisted(write.expect("it writes"))).unwrap();
    drop(actions(&mut raft));
    assert_eq!(unapplied(&raft), Some(UnappliedReason::MachineBehind { applied: Index(1) }));
    assert!(raft.explain_commit(index).to_string().ends_with("has applied the log up to 1"));
    raft.handle(Instant(0), Input::Applied(index)).unwrap();
    assert_eq!(unapplied(&raft), None);
}

#[test]
fn a_stamp_names_the_store_and_its_life() {
    let stamp = StoreStamp { id: StoreId(0xab), life: 3, nonce: 9 };
    assert_eq!(stamp.to_string(), "00000000000000ab (life 3)");
}
