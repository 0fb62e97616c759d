//! Both ends of a snapshot stream, with a network between them that loses, repeats, reorders and corrupts frames.

use std::collections::VecDeque;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::{Index, Input, LogPosition, Membership, NodeId, SnapshotMeta, Term};
use tokio::sync::mpsc;
use xxhash_rust::xxh3::xxh3_64;

use crate::feedback::{Feedback, Reporter};
use crate::handover::Handover;
use crate::order::ChunkSettings;
use crate::snapshot_receive::{self, ReceiveWork, received_file};
use crate::snapshot_send::{self, Stream, StreamControl};
use crate::{SnapshotChunk, SnapshotFrame, SnapshotSource};

const LEADER: NodeId = NodeId(1);
const FOLLOWER: NodeId = NodeId(2);
const TERM: Term = Term(3);

fn meta() -> SnapshotMeta {
    let position = LogPosition { index: Index(7), term: Term(2) };
    SnapshotMeta { position, membership: Membership::of_voters([LEADER, FOLLOWER]).into() }
}

/// What the network makes of one frame on its way.
enum Fate {
    Delivered,
    Lost,
    Twice,
    /// After the next one.
    Late,
    Changed(SnapshotChunk),
}

/// How everything ended.
#[derive(Debug, Default)]
struct Ended {
    received: bool,
    failed: bool,
    is_over: bool,
    /// Frames that the sender sent.
    sent: usize,
    data_bytes_sent: usize,
}

struct Rig {
    scratch: tempfile::TempDir,
    data: Vec<u8>,
    settings: ChunkSettings,
    size_bytes_max: u64,
}

impl Rig {
    fn new(size: usize) -> Rig {
        let mut random = 11;
        let data = std::iter::repeat_with(|| next(&mut random) as u8).take(size).collect();
        let settings = ChunkSettings {
            chunk_bytes_max: SnapshotChunk::DATA_BYTES_MAX,
            bytes_per_second: None,
            window_bytes: 1 << 20,
            stall_timeout: Duration::from_secs(20),
            // Nothing is lost unless a test says so.
            resend_after: Duration::from_secs(20),
        };
        let scratch = tempfile::tempdir().expect("a folder");
        Rig { scratch, data, settings, size_bytes_max: 1 << 30 }
    }

    /// Streams once, over a network that does this to frames, until the sender's end.
    fn stream(&self, mut fate: impl FnMut(NodeId, &SnapshotFrame) -> Fate) -> Ended {
        let (reporter, mut out) = Reporter::channel(64);
        let (answers, mut back) = Reporter::channel(4096);
        let queue = Arc::new(Handover::new());
        let control = Arc::new(StreamControl::default());
        let work = ReceiveWork::Begin { from: LEADER, term: TERM, snapshot: meta() };
        assert!(queue.push(work, 0).is_ok());
        let receiving = {
            let (queue, max) = (Arc::clone(&queue), self.size_bytes_max);
            let scratch = self.scratch.path().to_path_buf();
            std::thread::spawn(move || snapshot_receive::run(&scratch, max, &queue, &answers))
        };
        let source =
            SnapshotSource { meta: meta(), data: Box::new(Cursor::new(self.data.clone())) };
        let stream = Stream { to: FOLLOWER, term: TERM, source, control: Arc::clone(&control) };
        let sending = snapshot_send::spawn(stream, self.settings.clone(), reporter);
        let sending = sending.expect("a thread");
        let (mut there, mut home) = (Way::default(), Way::default());
        let mut ended = Ended::default();
        while !ended.is_over {
            self.carry(&mut back, &mut ended, |frame| {
                home.pass(FOLLOWER, frame, &mut fate, |frame| match frame.chunk {
                    SnapshotChunk::Ack { offset } => control.on_ack(offset),
                    SnapshotChunk::Abort => control.on_abort(),
                    other => panic!("the receiver sent {other:?}"),
                });
            });
            self.carry(&mut out, &mut ended, |frame| {
                there.pass(LEADER, frame, &mut fate, |frame| {
                    let work = ReceiveWork::Frame { from: LEADER, frame };
                    assert!(queue.push(work, 0).is_ok(), "the receiver lives");
                });
            });
            std::thread::yield_now();
        }
        sending.join().expect("no panic");
        queue.close();
        receiving.join().expect("no panic");
        // What the receiver said last.
        self.carry(&mut back, &mut ended, drop);
        ended
    }

    fn carry(
        &self,
        from: &mut mpsc::Receiver<Feedback>,
        ended: &mut Ended,
        mut pass: impl FnMut(SnapshotFrame),
    ) {
        while let Ok(feedback) = from.try_recv() {
            match feedback {
                Feedback::Frame { to, frame } => {
                    if to == FOLLOWER {
                        ended.sent += 1;
                        assert!(ended.sent < 100_000, "it sends for ever");
                    }
                    if let SnapshotChunk::Data { data, .. } = &frame.chunk {
                        ended.data_bytes_sent += data.len();
                    }
                    pass(frame);
                }
                Feedback::Input(Input::SnapshotReceived(snapshot)) => {
                    assert_eq!(snapshot, meta());
                    assert!(self.received() == Some(self.data.clone()), "other bytes arrived");
                    ended.received = true;
                }
                Feedback::Input(Input::SnapshotFailed(_)) => ended.failed = true,
                Feedback::Input(Input::SnapshotStreamEnded { to: FOLLOWER, .. }) => {
                    ended.is_over = true;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn received(&self) -> Option<Vec<u8>> {
        std::fs::read(received_file(self.scratch.path(), meta().position)).ok()
    }
}

/// One direction of the network.
#[derive(Default)]
struct Way {
    late: VecDeque<SnapshotFrame>,
}

impl Way {
    fn pass(
        &mut self,
        from: NodeId,
        frame: SnapshotFrame,
        fate: &mut impl FnMut(NodeId, &SnapshotFrame) -> Fate,
        mut deliver: impl FnMut(SnapshotFrame),
    ) {
        match fate(from, &frame) {
            Fate::Delivered => deliver(frame),
            Fate::Lost => {}
            Fate::Twice => {
                deliver(frame.clone());
                deliver(frame);
            }
            Fate::Late => return self.late.push_back(frame),
            Fate::Changed(chunk) => deliver(SnapshotFrame { chunk, ..frame }),
        }
        self.late.drain(..).for_each(deliver);
    }
}

/// `SplitMix64` (Steele, Lea and Flood, 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

/// The same chunk with one byte changed, and its checksum as it was, or as it would be.
fn corrupted(chunk: &SnapshotChunk, fix_checksum: bool) -> Option<SnapshotChunk> {
    let SnapshotChunk::Data { offset, data, checksum } = chunk else { return None };
    let mut data = data.to_vec();
    *data.last_mut()? ^= 1;
    let checksum = if fix_checksum { xxh3_64(&data) } else { *checksum };
    Some(SnapshotChunk::Data { offset: *offset, data: Bytes::from(data), checksum })
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).expect("readable").next().is_none()
}

#[test]
fn a_stream_arrives_whole_and_once() {
    for size in [0, 1, SnapshotChunk::DATA_BYTES_MAX, 3_000_001] {
        let rig = Rig::new(size);
        let ended = rig.stream(|_, _| Fate::Delivered);
        assert!(ended.received && !ended.failed, "{ended:?}");
        assert_eq!(ended.data_bytes_sent, size, "nothing was sent twice");
    }
}

#[test]
fn a_stream_survives_frames_that_are_lost_repeated_reordered_and_corrupted() {
    for seed in 0..6 {
        let mut rig = Rig::new(3_000_001);
        rig.settings.resend_after = Duration::from_millis(2);
        let mut random = seed;
        let ended = rig.stream(|_, frame| match next(&mut random) % 10 {
            0 | 1 => Fate::Lost,
            2 => Fate::Twice,
            3 => Fate::Late,
            4 => corrupted(&frame.chunk, false).map_or(Fate::Delivered, Fate::Changed),
            _ => Fate::Delivered,
        });
        assert!(ended.received && !ended.failed, "seed {seed}: {ended:?}");
    }
}

/// Scenario 45 (renegade 634): a chunk that times out is not sent again for ever.
#[test]
fn a_stream_into_the_void_is_given_up() {
    let mut rig = Rig::new(3_000_001);
    rig.settings.stall_timeout = Duration::from_millis(100);
    rig.settings.resend_after = Duration::from_millis(10);
    let ended = rig.stream(|_, _| Fate::Lost);
    assert!(!ended.received && ended.is_over, "{ended:?}");
    assert!(ended.sent <= 20, "it asks now and then: {ended:?}");
    // In the middle, too: what was acknowledged is no reason to go on for ever.
    let mut frames = 0;
    let ended = rig.stream(|_, _| {
        frames += 1;
        if frames > 12 { Fate::Lost } else { Fate::Delivered }
    });
    assert!(!ended.received && ended.is_over, "{ended:?}");
    // The next stream goes on where the last one stopped.
    rig.settings.resend_after = Duration::from_secs(20);
    rig.settings.stall_timeout = Duration::from_secs(20);
    let ended = rig.stream(|_, _| Fate::Delivered);
    assert!(ended.received && ended.data_bytes_sent < rig.data.len(), "{ended:?}");
}

#[test]
fn a_whole_that_does_not_have_its_digest_is_thrown_away() {
    let rig = Rig::new(1_000_000);
    let mut is_first = true;
    let ended = rig.stream(|_, frame| match corrupted(&frame.chunk, true) {
        Some(changed) if std::mem::take(&mut is_first) => Fate::Changed(changed),
        _ => Fate::Delivered,
    });
    assert!(ended.failed && !ended.received && rig.received().is_none(), "{ended:?}");
    assert!(is_empty(rig.scratch.path()), "nothing of it is used again");
    let ended = rig.stream(|_, _| Fate::Delivered);
    assert!(ended.received && ended.data_bytes_sent == rig.data.len(), "{ended:?}");
}

#[test]
fn a_stream_over_the_limit_is_refused() {
    let mut rig = Rig::new(1_000_000);
    rig.size_bytes_max = 999_999;
    let ended = rig.stream(|_, _| Fate::Delivered);
    assert!(ended.failed && !ended.received && is_empty(rig.scratch.path()), "{ended:?}");
}
