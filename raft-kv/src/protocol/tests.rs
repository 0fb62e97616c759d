use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use raft_core::{Index, NodeId, RoleKind, Term};

use super::*;
use crate::command::{Response, WriteOutcome};
use crate::limits::LimitExceeded;
use crate::query::{KeyRecord, Record, Stats};

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn text() -> impl Strategy<Value = String> {
    "[a-zä ]{0,30}"
}

fn request() -> impl Strategy<Value = RequestBody> {
    prop_oneof![
        bytes().prop_map(RequestBody::Command),
        bytes().prop_map(|key| RequestBody::Get { key }),
        (bytes(), proptest::option::of(bytes()), any::<u32>(), any::<bool>()).prop_map(
            |(start, end, limit, keys_only)| RequestBody::Range { start, end, limit, keys_only }
        ),
        Just(RequestBody::Stats),
        Just(RequestBody::Status),
        bytes().prop_map(|start| RequestBody::Dump { start }),
    ]
}

fn response() -> impl Strategy<Value = Response> {
    prop_oneof![
        Just(Response::SessionOpened),
        any::<u64>().prop_map(|revision| Response::Written(WriteOutcome::Put { revision })),
        any::<u64>().prop_map(|revision| Response::Written(WriteOutcome::Deleted { revision })),
        Just(Response::Written(WriteOutcome::NotFound)),
        any::<Option<u64>>().prop_map(|mod_revision| Response::Written(
            WriteOutcome::CompareFailed { mod_revision }
        )),
        Just(Response::SessionExpired),
        Just(Response::WindowExceeded),
        Just(Response::Refused(LimitExceeded::EmptyKey)),
        any::<usize>().prop_map(|bytes| Response::Refused(LimitExceeded::KeyTooLong { bytes })),
        any::<usize>().prop_map(|bytes| Response::Refused(LimitExceeded::ValueTooLong { bytes })),
        Just(Response::Malformed),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    (bytes(), any::<[u64; 3]>()).prop_map(|(value, [create_revision, mod_revision, version])| {
        Record { value: value[..].into(), create_revision, mod_revision, version }
    })
}

fn stats() -> impl Strategy<Value = Stats> {
    (any::<[u64; 4]>(), any::<u128>()).prop_map(|([applied, revision, keys, sessions], digest)| {
        Stats { applied, revision, keys, sessions, digest }
    })
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        proptest::option::of((any::<u64>().prop_map(NodeId), proptest::option::of(text())))
            .prop_map(|leader| Fault::NotLeader { leader }),
        Just(Fault::Busy),
        Just(Fault::OutcomeUnknown),
        text().prop_map(|why| Fault::Stopped { why }),
        text().prop_map(|why| Fault::Malformed { why }),
        text().prop_map(|why| Fault::Refused { why }),
        text().prop_map(|why| Fault::Failed { why }),
    ]
}

fn report() -> impl Strategy<Value = NodeReport> {
    const ROLES: [RoleKind; 5] = [
        RoleKind::Follower,
        RoleKind::Learner,
        RoleKind::PreCandidate,
        RoleKind::Candidate,
        RoleKind::Leader,
    ];
    let peers = proptest::collection::vec(any::<(u64, u64)>(), 0..4);
    let texts = (text(), proptest::array::uniform3(proptest::option::of(text())), text());
    let numbers = (any::<[u64; 6]>(), any::<Option<u64>>(), any::<u32>(), any::<u32>());
    (proptest::sample::select(&ROLES[..]), texts, numbers, proptest::option::of(stats()), peers)
        .prop_map(
            |(
                role,
                (address, [failure, suspicion, explanation], version),
                (n, leader, pid, uptime),
                stats,
                peers,
            )| {
                // It has one reason to be distrusted at most.
                let reason = |number| suspicion.clone().filter(|_| pid % 3 == number);
                let is_explained = explanation.as_ref().is_some_and(|words| !words.is_empty());
                let notice = suspicion.clone().filter(|_| pid % 2 == 0 && is_explained);
                let peer =
                    |(node, matched)| PeerReport { node: NodeId(node), matched: Index(matched) };
                NodeReport {
                    node: NodeId(n[0]),
                    role,
                    term: Term(n[1]),
                    leader: leader.map(NodeId),
                    commit: Index(n[2]),
                    applied: Index(n[3]),
                    last: Index(n[4]),
                    durable: Index(n[5]),
                    address,
                    failure,
                    uncounted: reason(0),
                    stall: reason(1),
                    suspicion: reason(2),
                    explanation,
                    notice,
                    stats,
                    pid,
                    uptime: Duration::from_millis(uptime.into()),
                    version,
                    peers: peers.into_iter().map(peer).collect(),
                }
            },
        )
}

fn reply() -> impl Strategy<Value = ReplyBody> {
    let records = proptest::collection::vec((bytes(), record()), 0..4);
    prop_oneof![
        response().prop_map(ReplyBody::Response),
        proptest::option::of(record()).prop_map(ReplyBody::Value),
        (records, any::<bool>()).prop_map(|(records, has_more)| {
            let record = |(key, record): (Bytes, Record)| KeyRecord { key: key[..].into(), record };
            ReplyBody::Page { records: records.into_iter().map(record).collect(), has_more }
        }),
        stats().prop_map(ReplyBody::Stats),
        report().prop_map(|report| ReplyBody::Status(Box::new(report))),
        fault().prop_map(ReplyBody::Failed),
    ]
}

proptest! {
    #[test]
    fn every_frame_of_requests_reads_back(
        bodies in proptest::collection::vec((request(), any::<bool>()), 0..6),
    ) {
        let at = |anywhere| if anywhere { ServeAt::AnyMember } else { ServeAt::Leader };
        let mut frame = FrameBuilder::new();
        for (id, (body, anywhere)) in (7..).zip(&bodies) {
            frame.push_request_at(id, at(*anywhere), body);
        }
        let frame = frame.take();
        let requests = decode_requests(&frame).expect("just written");
        let read = |(id, (body, anywhere))| Request { id, at: at(anywhere), body: Ok(body) };
        let expected: Vec<_> = (7..).zip(bodies).map(read).collect();
        prop_assert_eq!(requests, expected);
        for cut in 0..frame.len() {
            prop_assert!(decode_requests(&frame.slice(..cut)).is_err());
        }
    }

    #[test]
    fn every_frame_of_replies_reads_back(bodies in proptest::collection::vec(reply(), 0..6)) {
        let expected: Vec<_> = (7..).zip(bodies).map(|(id, body)| Reply { id, body }).collect();
        let mut frame = FrameBuilder::new();
        for reply in &expected {
            frame.push_reply(reply);
        }
        let frame = frame.take();
        prop_assert_eq!(decode_replies(&frame), Ok(expected));
        for cut in 0..frame.len() {
            prop_assert!(decode_replies(&frame[..cut]).is_err());
        }
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_requests(&Bytes::from(bytes.clone()));
        let _ = decode_replies(&bytes);
    }

    #[test]
    fn a_damaged_frame_never_panics(
        body in reply(), request in request(), at: proptest::sample::Index, byte: u8,
    ) {
        let mut frame = FrameBuilder::new();
        frame.push_reply(&Reply { id: 1, body });
        let mut damaged = frame.take().to_vec();
        let place = at.index(damaged.len());
        damaged[place] = byte;
        let _ = decode_replies(&damaged);
        frame.push_request(1, &request);
        let mut damaged = frame.take().to_vec();
        let place = at.index(damaged.len());
        damaged[place] = byte;
        let _ = decode_requests(&damaged.into());
    }
}

#[test]
fn a_count_is_not_believed_before_it_is_checked() {
    let mut frame = vec![VERSION];
    frame.put_u32(FRAME_ITEMS_MAX);
    assert!(decode_replies(&frame).is_err());
    assert!(decode_requests(&frame.into()).is_err());
}

#[test]
fn a_request_of_a_newer_version_is_refused_by_itself() {
    let mut frame = FrameBuilder::new();
    frame.push(1, 0x48, |out| out.put(b"whatever"));
    frame.push_request(2, &RequestBody::Status);
    let requests = decode_requests(&frame.take()).expect("the frame is sound");
    assert!(matches!(requests[0], Request { id: 1, body: Err(Malformed::UnknownTag { .. }), .. }));
    assert_eq!(requests[1], Request { id: 2, at: ServeAt::Leader, body: Ok(RequestBody::Status) });
}
