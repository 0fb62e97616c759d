//! Round trips, and what hostile bytes may do.

use bytes::Bytes;
use proptest::prelude::*;
use raft_core::{
    AppendOutcome, Body, Entries, Entry, ForwardId, ForwardOutcome, Index, LogPosition, Membership,
    Message, NodeId, Payload, Refusal, SnapshotMeta, SnapshotOutcome, StoreId, Term,
};
use raft_node::{PeerMessage, SnapshotChunk, SnapshotFrame};

use super::*;
use crate::transport::FRAME_OVERHEAD_BYTES;

const LIMITS: WireLimits = WireLimits { frame_bytes_max: 1 << 20 };

fn encode(message: &PeerMessage) -> Bytes {
    bytes_of(Encoder::new(LIMITS).encode(message).unwrap())
}

/// Without the prefix.
fn bytes_of(frame: Frame) -> Bytes {
    let length = frame.len();
    let mut all = Bytes::from(frame.parts().flat_map(|part| part.to_vec()).collect::<Vec<_>>());
    assert_eq!(all.len(), length);
    let body = all.split_off(4);
    assert_eq!(u32::from_le_bytes(all[..].try_into().unwrap()) as usize, body.len());
    body
}

fn position() -> impl Strategy<Value = LogPosition> {
    (any::<u64>(), any::<u64>())
        .prop_map(|(index, term)| LogPosition { index: Index(index), term: Term(term) })
}

fn membership() -> impl Strategy<Value = Membership> {
    let set = || prop::collection::btree_set(any::<u64>().prop_map(NodeId), 0..5);
    let store = (any::<u64>().prop_map(NodeId), any::<u64>().prop_map(StoreId));
    let stores = prop::collection::btree_map(store.0, store.1, 0..5);
    (set(), set(), set(), set(), stores).prop_map(
        |(voters, outgoing, learners, witnesses, stores)| Membership {
            voters,
            outgoing,
            learners,
            witnesses,
            stores,
        },
    )
}

fn payload() -> impl Strategy<Value = Payload> {
    let bytes = |sizes| prop::collection::vec(any::<u8>(), sizes).prop_map(Bytes::from);
    prop_oneof![
        1 => Just(Payload::Empty),
        8 => bytes(0..300).prop_map(Payload::Command),
        1 => bytes(4_000..6_000).prop_map(Payload::Command),
        1 => membership().prop_map(|it| Payload::Membership(it.into())),
        1 => Just(Payload::Withheld),
    ]
}

fn entries() -> impl Strategy<Value = Entries> {
    (1_u64..1 << 60, 1_u64..1 << 60, prop::collection::vec((payload(), 0_u64..3), 0..20)).prop_map(
        |(first, mut term, items)| {
            let run = items
                .into_iter()
                .zip(first..)
                .map(|((payload, step), index)| {
                    term += step / 2;
                    Entry { term: Term(term), index: Index(index), payload }
                })
                .collect();
            Entries::try_from_vec(run).unwrap()
        },
    )
}

fn forward_id() -> impl Strategy<Value = ForwardId> {
    any::<(u64, u64)>().prop_map(|(nonce, sequence)| ForwardId { nonce, sequence })
}

fn forward_outcome() -> impl Strategy<Value = ForwardOutcome> {
    prop_oneof![
        any::<(u64, u64)>()
            .prop_map(|(first, count)| ForwardOutcome::Appended { first: Index(first), count }),
        any::<Option<u64>>().prop_map(|leader| ForwardOutcome::Refused(Refusal::NotLeader {
            leader: leader.map(NodeId)
        })),
        any::<(usize, usize)>().prop_map(|(uncommitted_bytes, max_bytes)| {
            ForwardOutcome::Refused(Refusal::QuotaExceeded { uncommitted_bytes, max_bytes })
        }),
        Just(ForwardOutcome::Refused(Refusal::EmptyBatch)),
        any::<(usize, usize)>().prop_map(|(bytes, max_bytes)| {
            ForwardOutcome::Refused(Refusal::BatchTooLarge { bytes, max_bytes })
        }),
        any::<u64>().prop_map(|to| {
            ForwardOutcome::Refused(Refusal::TransferInProgress { to: NodeId(to) })
        }),
    ]
}

fn body() -> impl Strategy<Value = Body> {
    let outcome = prop_oneof![
        Just(SnapshotOutcome::Wanted),
        any::<u64>().prop_map(|index| SnapshotOutcome::Matched(Index(index))),
        Just(SnapshotOutcome::Failed),
    ];
    prop_oneof![
        position().prop_map(|last| Body::PreVote { last }),
        any::<bool>().prop_map(|granted| Body::PreVoteResponse { granted }),
        (position(), any::<bool>()).prop_map(|(last, transfer)| Body::Vote { last, transfer }),
        Just(Body::TimeoutNow),
        any::<u64>().prop_map(|context| Body::ReadIndex { context }),
        any::<(u64, Option<u64>)>().prop_map(|(context, index)| Body::ReadIndexResponse {
            context,
            index: index.map(Index)
        }),
        (forward_id(), prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..9))
            .prop_map(|(id, commands)| Body::Forward {
                id,
                commands: commands.into_iter().map(Bytes::from).collect()
            }),
        (forward_id(), forward_outcome())
            .prop_map(|(id, outcome)| Body::ForwardResponse { id, outcome }),
        any::<bool>().prop_map(|granted| Body::VoteResponse { granted }),
        (position(), entries(), any::<u64>()).prop_map(|(prev, entries, commit)| Body::Append {
            prev,
            entries,
            commit: Index(commit)
        }),
        any::<u64>().prop_map(|matched| Body::AppendResponse(AppendOutcome::Accepted {
            matched: Index(matched)
        })),
        any::<u64>().prop_map(|matched| Body::AppendResponse(AppendOutcome::Witnessed {
            matched: Index(matched)
        })),
        (any::<u64>(), position()).prop_map(|(prev, hint)| Body::AppendResponse(
            AppendOutcome::Rejected { prev: Index(prev), hint }
        )),
        any::<(u64, u64)>().prop_map(|(commit, read_context)| Body::Heartbeat {
            commit: Index(commit),
            read_context
        }),
        any::<u64>().prop_map(|read_context| Body::HeartbeatResponse { read_context }),
        (position(), membership()).prop_map(|(position, membership)| Body::SnapshotOffer {
            snapshot: SnapshotMeta { position, membership: membership.into() }
        }),
        (position(), outcome)
            .prop_map(|(position, outcome)| Body::SnapshotResponse { position, outcome }),
    ]
}

fn message() -> impl Strategy<Value = PeerMessage> {
    let chunk = prop_oneof![
        (any::<u64>(), prop::collection::vec(any::<u8>(), 0..5_000), any::<u64>()).prop_map(
            |(offset, data, checksum)| SnapshotChunk::Data { offset, data: data.into(), checksum }
        ),
        any::<(u64, [u8; 32])>()
            .prop_map(|(size_bytes, digest)| SnapshotChunk::End { size_bytes, digest }),
        any::<u64>().prop_map(|offset| SnapshotChunk::Ack { offset }),
        Just(SnapshotChunk::Abort),
    ];
    prop_oneof![
        3 => (any::<u64>(), body())
            .prop_map(|(term, body)| PeerMessage::Raft(Message { term: Term(term), body })),
        1 => (any::<u64>(), position(), chunk).prop_map(|(term, position, chunk)| {
            PeerMessage::Snapshot(SnapshotFrame { term: Term(term), position, chunk })
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_message_comes_back_as_it_went(message in message()) {
        prop_assert_eq!(decode(encode(&message), LIMITS), Ok(message));
    }

    #[test]
    fn any_bytes_are_refused_or_a_message(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(bytes.into(), LIMITS);
    }

    /// Bytes close to a real message reach further into the decoder than random ones.
    #[test]
    fn a_damaged_message_is_refused_or_another_message(
        message in message(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = encode(&message).to_vec();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(message) = decode(bytes.into(), LIMITS) {
            // Whatever is believed can be said again.
            prop_assert_eq!(decode(encode(&message), LIMITS), Ok(message));
        }
    }
}

fn append(entries: &Entries, prev: u64) -> PeerMessage {
    let prev = LogPosition { index: Index(prev), term: Term(1) };
    let body = Body::Append { prev, entries: entries.clone(), commit: Index(prev.index.0) };
    PeerMessage::Raft(Message { term: Term(1), body })
}

fn run(payload: &'static [u8]) -> Entries {
    let entry = |index| Entry {
        term: Term(1),
        index: Index(index),
        payload: Payload::Command(Bytes::from_static(payload)),
    };
    Entries::try_from_vec((1..=3).map(entry).collect()).unwrap()
}

#[test]
fn shared_entries_are_encoded_once_and_others_at_the_same_positions_are_not_mistaken_for_them() {
    let mut encoder = Encoder::new(LIMITS);
    let (one, other) = (run(b"one"), run(b"two"));
    let mut tail = |entries: &Entries, prev| {
        let frame = encoder.encode(&append(entries, prev)).unwrap();
        let last = frame.clone().parts().last().unwrap();
        assert_eq!(decode(bytes_of(frame), LIMITS), Ok(append(entries, prev)));
        last
    };
    let first = tail(&one, 0);
    assert_eq!(first.as_ptr(), tail(&one, 7).as_ptr(), "the same memory for another peer");
    assert_ne!(first.as_ptr(), tail(&other, 0).as_ptr());
    let mut shorter = one.clone();
    shorter.truncate_from(Index(3));
    assert_ne!(first.as_ptr(), tail(&shorter, 0).as_ptr());
}

#[test]
fn what_no_receiver_takes_is_not_sent() {
    let data = Bytes::from(vec![0; SnapshotChunk::DATA_BYTES_MAX + 1]);
    let chunk = SnapshotChunk::Data { offset: 0, data, checksum: 0 };
    let position = LogPosition::ORIGIN;
    let frame = PeerMessage::Snapshot(SnapshotFrame { term: Term(1), position, chunk });
    let limits = WireLimits { frame_bytes_max: 256 };
    assert!(matches!(Encoder::new(LIMITS).encode(&frame), Err(WireError::TooMany { .. })));
    let big = Payload::Command(Bytes::from(vec![0; 300]));
    let entry = |index| Entry { term: Term(1), index: Index(index), payload: big.clone() };
    let one = Entries::try_from_vec(vec![entry(1)]).unwrap();
    assert!(matches!(
        Encoder::new(limits).encode(&append(&one, 0)),
        Err(WireError::TooMany { what: "bytes in a frame", .. })
    ));
    let empty = |index| Entry { term: Term(1), index: Index(index), payload: Payload::Empty };
    let many = Entries::try_from_vec((1..=5).map(empty).collect()).unwrap();
    assert!(matches!(
        Encoder::new(limits).encode(&append(&many, 0)),
        Err(WireError::TooMany { what: "entries in a frame", count: 5, max: 4 })
    ));
    // A receiver with a smaller limit refuses what a sender with a larger one may send.
    assert!(matches!(
        decode(encode(&append(&many, 0)), limits),
        Err(WireError::TooMany { what: "entries in a frame", .. })
    ));
}

/// What the transport says that it can carry, it can.
#[test]
fn the_largest_that_a_frame_is_said_to_carry_fits() {
    let bytes_max = LIMITS.frame_bytes_max - FRAME_OVERHEAD_BYTES;
    let command = |size: usize| Bytes::from(vec![7; size]);
    let entry = |index, size| {
        let payload = Payload::Command(command(size));
        Entry { term: Term(u64::MAX), index: Index(index), payload }
    };
    let alone = Entries::try_from_vec(vec![entry(1, bytes_max)]).unwrap();
    // As many small ones as an append of so many bytes has.
    let small = 1..=(bytes_max / Entry::OVERHEAD_BYTES) as u64;
    let many = Entries::try_from_vec(small.map(|index| entry(index, 0)).collect()).unwrap();
    assert!(many.size_bytes() <= bytes_max);
    for entries in [alone, many] {
        assert!(Encoder::new(LIMITS).encode(&append(&entries, 0)).is_ok());
    }
    let id = ForwardId { nonce: u64::MAX, sequence: u64::MAX };
    let tiny = vec![Bytes::new(); bytes_max / Entry::OVERHEAD_BYTES];
    for commands in [vec![command(bytes_max)], tiny] {
        let body = Body::Forward { id, commands };
        let message = PeerMessage::Raft(Message { term: Term(u64::MAX), body });
        assert!(Encoder::new(LIMITS).encode(&message).is_ok());
    }
}

/// The layout that `docs/wire-format.md` describes. If this fails, the format has changed: that takes a new version.
#[test]
fn the_bytes_are_those_of_the_documented_format() {
    let message = PeerMessage::Raft(Message {
        term: Term(0x0102),
        body: Body::Heartbeat { commit: Index(3), read_context: 4 },
    });
    let mut expected = vec![65, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 7];
    expected.extend([3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    expected.resize(4 + 65, 0);
    assert_eq!(encode(&message), expected);

    let entries = Entries::try_from_vec(vec![
        Entry { term: Term(1), index: Index(9), payload: Payload::Empty },
        Entry { term: Term(2), index: Index(10), payload: Payload::Command("ab".into()) },
    ]);
    let block = encode(&append(&entries.unwrap(), 8)).split_off(4 + 65);
    let table = [
        &[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0][..], // runs: term 1, one entry
        &[2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],     // term 2, one entry
        &[0, 1, 0, 0, 0, 1, 1, 0, 0, 0],           // kinds: one empty, one command
        &[0, 0, 0, 0, 2, 0, 0, 0],                 // lengths: 0 and 2
        &[9, 0, 0, 0, 0, 0, 0, 0],                 // the first index
        &[0xce, 0xff, 0xff, 0xff, 2, 0, 0, 0],     // runs: 50 bytes back, two
        &[0xde, 0xff, 0xff, 0xff, 2, 0, 0, 0],     // kinds: 34 bytes back, two
        &[0xe0, 0xff, 0xff, 0xff, 2, 0, 0, 0],     // lengths: 32 bytes back, two
    ]
    .concat();
    let length = [74, 0, 0, 0];
    assert_eq!(block, [&length[..], &table, b"ab"].concat());
}
