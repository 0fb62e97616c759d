//! Hostile peers and thoughtless callers: any message with any value in any field, from any store, and any request with any value in it, to one core, whatever
//! kind of member it is. The stories of whole clusters are in `cluster_storms`.
#![allow(missing_docs)]

mod common;

use std::cell::RefCell;
use std::collections::HashMap;

use bytes::Bytes;
use common::one::{message, receive, role, sent, time_out};
use common::{cases, commands, one};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use raft_core::{
    Action, AppendOutcome, Body, CallerFault, ChangeStep, CommitGroups, Config, Entries, Entry,
    ForwardId, ForwardOutcome, HandleError, Index, Input, Instant, LeaseConfig, LogPosition,
    Membership, MembershipChange, NodeId, Payload, ProposalId, Raft, ReadAt, ReadId, Refusal,
    RequestId, Restored, RestoredLog, RoleKind, SnapshotMeta, SnapshotOutcome, StorageHealth,
    StoreId, StoreStamp, Term, Ticket,
};

/// What node 1, the victim, is in the configuration that it starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Voter,
    Learner,
    Witness,
    Outsider,
    /// While the configuration is joint: a voter of both halves, of the incoming one, or of the outgoing one alone.
    InBothHalves,
    Incoming,
    Outgoing,
    /// The same, as a witness of both halves, and of the outgoing one alone.
    WitnessInBothHalves,
    WitnessOutgoing,
    /// Outgoing, and a learner once the joint configuration is left.
    Demoted,
    /// It leads nobody but itself.
    OnlyVoter,
}

const KINDS: [Kind; 11] = [
    Kind::Voter,
    Kind::Learner,
    Kind::Witness,
    Kind::Outsider,
    Kind::InBothHalves,
    Kind::Incoming,
    Kind::Outgoing,
    Kind::WitnessInBothHalves,
    Kind::WitnessOutgoing,
    Kind::Demoted,
    Kind::OnlyVoter,
];

impl Kind {
    fn membership(self) -> Membership {
        let (voters, outgoing, learners): (&[u64], &[u64], &[u64]) = match self {
            Kind::Voter | Kind::Witness => (&[1, 2, 3], &[], &[]),
            Kind::Learner => (&[2, 3], &[], &[1]),
            Kind::Outsider => (&[2, 3], &[], &[]),
            Kind::InBothHalves | Kind::WitnessInBothHalves => (&[1, 2, 4], &[1, 2, 3], &[]),
            Kind::Incoming => (&[1, 2, 3], &[2, 3, 4], &[]),
            Kind::Outgoing | Kind::WitnessOutgoing => (&[2, 3, 4], &[1, 2, 3], &[]),
            Kind::Demoted => (&[2, 3, 4], &[1, 2, 3], &[1]),
            Kind::OnlyVoter => (&[1], &[], &[2]),
        };
        let set = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect();
        let witnesses: &[u64] = if self.is_witness() { &[1] } else { &[] };
        Membership {
            voters: set(voters),
            outgoing: set(outgoing),
            learners: set(learners),
            witnesses: set(witnesses),
            ..Membership::default()
        }
    }

    fn is_witness(self) -> bool {
        matches!(self, Kind::Witness | Kind::WitnessInBothHalves | Kind::WitnessOutgoing)
    }

    fn can_lead(self) -> bool {
        self.membership().is_voter(NodeId(1)) && !self.is_witness()
    }

    /// What it is while it does not lead.
    fn resting_role(self) -> RoleKind {
        match self {
            Kind::Learner => RoleKind::Learner,
            Kind::Outsider => RoleKind::Outsider,
            _ if self.is_witness() => RoleKind::Witness,
            _ => RoleKind::Follower,
        }
    }
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
    (some(), some(), some(), some(), prop::option::of(prop::sample::select(&KINDS[..]))).prop_map(
        |(incoming, outgoing, learners, witnesses, sound)| {
            if let Some(kind) = sound {
                return kind.membership();
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
        .prop_map(|(position, membership)| SnapshotMeta { position, membership: membership.into() })
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
            Action::StreamSnapshot { to, snapshot, .. } => {
                Input::SnapshotStreamEnded { to, position: snapshot.position }
            }
            Action::Fetch { peer, .. } => Input::FetchFailed { peer },
            _ => continue,
        };
        raft.handle(now, answer).unwrap();
    }
}

fn change() -> impl Strategy<Value = MembershipChange> {
    let node = prop_oneof![6 => 1u64..7, 1 => number()].prop_map(NodeId);
    let step = (0u8..6, node).prop_map(|(kind, node)| match kind {
        0 => ChangeStep::AddLearner(node),
        1 => ChangeStep::Promote(node),
        2 => ChangeStep::AddVoter(node),
        3 => ChangeStep::AddWitness(node),
        4 => ChangeStep::Demote(node),
        _ => ChangeStep::Remove(node),
    });
    prop::collection::vec(step, 0..4).prop_map(|steps| MembershipChange { steps })
}

fn entries() -> impl Strategy<Value = Entries> {
    (number(), number(), 0u64..3).prop_map(|(first, term, count)| {
        let index = |offset| Some(Index(first.checked_add(offset)?));
        let entry = |index| Entry { term: Term(term), index, payload: Payload::Empty };
        let entries = (0..count).filter_map(index).map(entry).collect();
        Entries::try_from_vec(entries).unwrap_or_default()
    })
}

/// Whatever is no message: requests, and reports of the driver, most of them of what never was.
fn request() -> impl Strategy<Value = Input> {
    let node = || number().prop_map(NodeId);
    let read_at = any::<bool>().prop_map(|is| if is { ReadAt::AnyMember } else { ReadAt::Leader });
    let health = prop_oneof![Just(StorageHealth::Healthy), Just(StorageHealth::Stalled)].boxed();
    prop_oneof![
        4 => (number(), 0usize..3).prop_map(|(id, count)| Input::Propose {
            id: ProposalId(id),
            commands: vec![Bytes::from_static(b"z"); count],
        }),
        4 => (number(), read_at).prop_map(|(id, at)| Input::Read { id: ReadId(id), at }),
        6 => (number(), change())
            .prop_map(|(id, change)| Input::ChangeMembership { id: RequestId(id), change }),
        4 => (number(), prop::option::of(node()))
            .prop_map(|(id, to)| Input::TransferLeadership { id: RequestId(id), to }),
        2 => health.prop_map(Input::StorageHealth),
        2 => Just(Input::ClockSuspect),
        1 => number().prop_map(|ticket| Input::Persisted(Ticket(ticket))),
        1 => (node(), entries()).prop_map(|(peer, entries)| Input::Fetched { peer, entries }),
        1 => node().prop_map(|peer| Input::FetchFailed { peer }),
        1 => number().prop_map(|index| Input::Applied(Index(index))),
        1 => snapshot().prop_map(Input::SnapshotTaken),
        1 => snapshot().prop_map(Input::SnapshotReceived),
        1 => snapshot().prop_map(Input::SnapshotInstalled),
        1 => snapshot().prop_map(Input::SnapshotFailed),
        1 => snapshot().prop_map(Input::SnapshotInstallFailed),
        1 => (node(), position())
            .prop_map(|(to, position)| Input::SnapshotStreamEnded { to, position }),
        1 => node().prop_map(Input::Unreachable),
    ]
}

/// A message in which anything may be anything, or a request.
fn any_input() -> impl Strategy<Value = Input> {
    let stamp = prop_oneof![
        2 => Just(None),
        3 => (0u64..3, number()).prop_map(Some),
        1 => (number(), number()).prop_map(Some),
    ];
    let said = (1u64..6, stamp, prop_oneof![3 => 0u64..6, 1 => number()], body()).prop_map(
        |(from, stamp, term, body)| {
            let store = stamp.map(|(id, life)| StoreStamp { id: StoreId(id), life, nonce: life });
            Input::Message { from: NodeId(from), store, message: message(term, body) }
        },
    );
    prop_oneof![3 => said, 1 => request()]
}

/// The term of a message: one that raises the victim's term out of reach makes all later ones those of an earlier term, which nobody listens to.
#[derive(Clone, Copy, Debug)]
enum MessageTerm {
    Current,
    Next,
    /// The one that it was made with.
    AsDrawn,
}

fn message_term() -> impl Strategy<Value = MessageTerm> {
    prop_oneof![
        10 => Just(MessageTerm::Current),
        1 => Just(MessageTerm::Next),
        2 => Just(MessageTerm::AsDrawn),
    ]
}

/// Microseconds. Mostly short: a leader steps down if it hears from no quorum within an election timeout, and is to be hit while it leads.
fn pause() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 0u64..20_000, 1 => 0u64..900_000]
}

/// A storm's victim, and what befalls it.
#[derive(Clone, Debug)]
struct Storm {
    kind: Kind,
    leads: bool,
    has_log: bool,
    has_features: bool,
    inputs: Vec<(Input, MessageTerm, u64)>,
}

fn storm() -> impl Strategy<Value = Storm> {
    let inputs = prop::collection::vec((any_input(), message_term(), pause()), 1..60);
    let kind = prop::sample::select(&KINDS[..]);
    (kind, any::<bool>(), any::<bool>(), any::<bool>(), inputs).prop_map(
        |(kind, leads, has_log, has_features, inputs)| {
            let leads = leads && kind.can_lead();
            Storm { kind, leads, has_log, has_features, inputs }
        },
    )
}

/// The victim, with everything that can be switched on if so wished; it may lead. If it has a log, a joint configuration stands in there, and is not committed.
/// Returns what time it is, too.
fn victim(storm: &Storm) -> (Raft, u64) {
    let (kind, membership) = (storm.kind, storm.kind.membership());
    let mut config = Config::new(NodeId(1));
    config.is_witness = kind.is_witness();
    let mut restored = Restored::founding(membership.clone());
    if storm.has_log {
        let log = one::disk(&[1, 1, 2], 2, None, 0);
        restored.log = RestoredLog { base_membership: membership.clone(), ..log };
        if membership.is_joint() {
            let voters = membership.outgoing.clone();
            let mut before = Membership { voters, ..Membership::default() };
            before.witnesses = membership.witnesses.intersection(&before.voters).copied().collect();
            restored.log.base_membership = before;
            restored.log.memberships = vec![(Index(2), membership)];
        }
    }
    if storm.has_features {
        config.forward_proposals = true;
        config.lease = Some(LeaseConfig { clock_drift_max_ppm: 1_000 });
        config.store = Some(StoreStamp { id: StoreId(1), life: 1, nonce: 0 });
        config.priority = 9;
        config.waiting_reads_max = 3;
        config.retained_entries = 1;
        let zones = [(1, 1), (2, 1), (3, 2)].map(|(node, zone)| (NodeId(node), zone));
        config.commit_groups = Some(CommitGroups { zones: zones.into(), zones_min: 2 });
    }
    let mut raft = Raft::new(config, 7, Instant(0), restored).unwrap();
    let now = if storm.leads { be_elected_by_all(&mut raft) } else { 0 };
    (raft, now)
}

fn be_elected_by_all(raft: &mut Raft) -> u64 {
    let deadline = raft.poll_timeout().expect("it can campaign");
    time_out(raft);
    let term = raft.status().term.0 + u64::from(role(raft) == RoleKind::PreCandidate);
    for node in 2..=4 {
        receive(raft, node, term, Body::PreVoteResponse { granted: true });
    }
    sent(raft);
    for node in 2..=4 {
        receive(raft, node, term, Body::VoteResponse { granted: true });
    }
    assert_eq!(role(raft), RoleKind::Leader);
    deadline.0
}

/// Whether the core may say so of such an input: everything that is wrong is refused by its name.
fn is_allowed(input: &Input, answer: &Result<(), HandleError>) -> bool {
    matches!(
        (input, answer),
        (_, Ok(()))
            | (Input::Message { .. }, Err(HandleError::Peer { .. }))
            | (
                Input::Persisted(_)
                    | Input::Applied(_)
                    | Input::SnapshotTaken(_)
                    | Input::SnapshotInstalled(_)
                    | Input::SnapshotInstallFailed(_),
                Err(HandleError::Caller(
                    CallerFault::UnknownTicket(_)
                        | CallerFault::AppliedOutOfRange { .. }
                        | CallerFault::ImpossibleSnapshot { .. }
                        | CallerFault::WrongMembership { .. }
                        | CallerFault::UnexpectedSnapshot { .. },
                )),
            )
    )
}

/// Who was hit: what it was when the storm began, what it was then, and whether the configuration was joint.
type Target = (Kind, RoleKind, bool);

/// Messages that were not of an earlier term.
#[derive(Clone, Copy, Debug, Default)]
struct Hits {
    accepted: u64,
    refused: u64,
}

fn endure(storm: Storm, hits: &RefCell<HashMap<Target, Hits>>) -> Result<(), TestCaseError> {
    let (mut raft, mut now) = victim(&storm);
    for (mut input, drawn, pause) in storm.inputs {
        now += pause;
        let target = (storm.kind, role(&raft), raft.membership().is_joint());
        let term = raft.status().term;
        if let Input::Message { message, .. } = &mut input {
            message.term = match drawn {
                MessageTerm::Current => term,
                MessageTerm::Next => Term(term.0.saturating_add(1)),
                MessageTerm::AsDrawn => message.term,
            };
        }
        let answer = raft.handle(Instant(now), input.clone());
        prop_assert!(is_allowed(&input, &answer), "{input:?} was refused with: {answer:?}");
        if let Input::Message { message, .. } = &input
            && message.term >= term
        {
            let mut hits = hits.borrow_mut();
            let hits = hits.entry(target).or_default();
            hits.accepted += u64::from(answer.is_ok());
            hits.refused += u64::from(answer.is_err());
        }
        let proposal = Input::Propose { id: ProposalId(1), commands: commands(&["x"]) };
        prop_assert_eq!(raft.handle(Instant(now), proposal), Ok(()));
        obey(&mut raft, Instant(now));
    }
    Ok(())
}

/// Any field may hold any value: nothing panics, no invariant (checked after every input) breaks, and what is wrong is refused by name. No kind of
/// member is spared.
#[test]
fn hostile_inputs_never_panic() {
    let hits = RefCell::new(HashMap::new());
    let result = TestRunner::new(cases(400)).run(&storm(), |storm| endure(storm, &hits));
    assert!(result.is_ok(), "{}", result.unwrap_err());
    let hits = hits.into_inner();
    for kind in KINDS {
        let is_joint = kind.membership().is_joint();
        let mut targets = vec![(kind, kind.resting_role(), is_joint)];
        if kind.can_lead() {
            targets.push((kind, RoleKind::Leader, is_joint));
        }
        for target in targets {
            let Hits { accepted, refused } = hits.get(&target).copied().unwrap_or_default();
            assert!(accepted >= 10 && refused >= 1, "{target:?} was hardly hit: {hits:#?}");
        }
    }
}
