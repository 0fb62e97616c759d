//! Hostile peers and thoughtless callers: any message with any value in any field, from any store, and any request with any value in it, to one core. The
//! stories of whole clusters are in `cluster_storms`.
#![allow(missing_docs)]

mod common;

use bytes::Bytes;
use common::one::{lead, message, voters};
use common::{cases, commands, one};
use proptest::prelude::*;
use raft_core::{
    Action, AppendOutcome, Body, CallerFault, ChangeStep, CommitGroups, Config, Entries, Entry,
    ForwardId, ForwardOutcome, HandleError, Index, Input, Instant, LeaseConfig, LogPosition,
    Membership, MembershipChange, NodeId, Payload, ProposalId, Raft, ReadAt, ReadId, Refusal,
    RequestId, Restored, SnapshotMeta, SnapshotOutcome, StorageHealth, StoreId, StoreStamp, Term,
    Ticket,
};

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

/// Node 1 of three, with everything that can be switched on if so wished; it may lead.
fn victim(leads: bool, has_log: bool, has_features: bool) -> Raft {
    let mut config = Config::new(NodeId(1));
    let mut restored = Restored::founding(voters(3));
    if has_log {
        restored.log = one::disk(&[1, 1, 2], 2, None, 0);
    }
    if has_features {
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
    if leads {
        lead(&mut raft);
    }
    raft
}

proptest! {
    #![proptest_config(cases(400))]

    /// Any field may hold any value: nothing panics, no invariant (checked after every input) breaks, and what is wrong is refused by name.
    #[test]
    fn hostile_inputs_never_panic(
        leads in any::<bool>(),
        has_log in any::<bool>(),
        has_features in any::<bool>(),
        storm in prop::collection::vec((any_input(), 0u64..900_000), 1..60),
    ) {
        let mut raft = victim(leads, has_log, has_features);
        let mut now = 10_000_000;
        for (input, pause) in storm {
            now += pause;
            let answer = raft.handle(Instant(now), input.clone());
            match (&input, answer) {
                (_, Ok(()))
                | (Input::Message { .. }, Err(HandleError::Peer { .. }))
                | (
                    Input::Persisted(_)
                    | Input::Applied(_)
                    | Input::SnapshotTaken(_)
                    | Input::SnapshotReceived(_)
                    | Input::SnapshotInstalled(_),
                    Err(HandleError::Caller(
                        CallerFault::UnknownTicket(_)
                        | CallerFault::AppliedOutOfRange { .. }
                        | CallerFault::ImpossibleSnapshot { .. }
                        | CallerFault::WrongMembership { .. }
                        | CallerFault::UnexpectedSnapshot { .. },
                    )),
                ) => {}
                (input, Err(error)) => prop_assert!(false, "{input:?} was refused with: {error}"),
            }
            let proposal = Input::Propose { id: ProposalId(1), commands: commands(&["x"]) };
            prop_assert_eq!(raft.handle(Instant(now), proposal), Ok(()));
            obey(&mut raft, Instant(now));
        }
    }
}
