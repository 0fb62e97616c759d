//! Both ends of a snapshot's chunks in virtual time, with a network between them that loses, repeats, reorders and corrupts.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::time::Duration;

use bytes::Bytes;
use raft_core::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    ChunkReceiver, ChunkSender, ChunkSettings, ReceiveFailure, Received, SendFailure, ToSend,
};
use crate::SnapshotChunk;

const SECOND: u64 = 1_000_000;

/// Ten chunks fit into the window.
fn settings() -> ChunkSettings {
    ChunkSettings {
        chunk_bytes_max: 100,
        window_bytes: 1_000,
        bytes_per_second: None,
        resend_after: Duration::from_secs(1),
        stall_timeout: Duration::from_secs(10),
    }
}

/// `SplitMix64` (Steele, Lea and Flood, 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

fn bytes(size: usize) -> Vec<u8> {
    let mut random = 11;
    std::iter::repeat_with(|| next(&mut random) as u8).take(size).collect()
}

fn data_at(offset: u64, data: &[u8]) -> SnapshotChunk {
    let data = Bytes::copy_from_slice(data);
    SnapshotChunk::Data { offset, checksum: xxh3_64(&data), data }
}

/// What a network does to a hundred chunks.
#[derive(Clone, Copy, Default)]
struct Faults {
    lost: u64,
    repeated: u64,
    late: u64,
    corrupted: u64,
    /// Nothing arrives any more after this time.
    cut_at: Option<Instant>,
}

const BAD: Faults = Faults { lost: 15, repeated: 10, late: 10, corrupted: 10, cut_at: None };

/// A sender, a receiver, and what is under way between them.
struct World {
    random: u64,
    now: Instant,
    faults: Faults,
    sender: ChunkSender<Cursor<Vec<u8>>>,
    window_bytes: u64,
    receiver: ChunkReceiver,
    /// What the receiver has appended.
    kept: Vec<u8>,
    whole: bool,
    /// By when it arrives, and a number of its own.
    under_way: BTreeMap<(Instant, u64), (bool, SnapshotChunk)>,
    serial: u64,
    /// How far the sender has sent, and heard that it arrived.
    sent: u64,
    heard: u64,
    data_bytes_sent: u64,
}

impl World {
    fn new(data: &[u8], settings: ChunkSettings, faults: Faults, seed: u64) -> World {
        let now = Instant(77);
        World {
            random: seed,
            now,
            faults,
            window_bytes: settings.window_bytes,
            sender: ChunkSender::new(Cursor::new(data.to_vec()), settings, now),
            receiver: ChunkReceiver::new(data.len() as u64),
            kept: Vec::new(),
            whole: false,
            under_way: BTreeMap::new(),
            serial: 0,
            sent: 0,
            heard: 0,
            data_bytes_sent: 0,
        }
    }

    /// Runs until the sender's end.
    fn run(&mut self) -> Result<(), SendFailure> {
        for _ in 0..1_000_000 {
            let until = match self.sender.poll(self.now) {
                ToSend::Chunk(chunk) => {
                    self.watch(&chunk);
                    self.send(false, chunk);
                    continue;
                }
                ToSend::WaitUntil(until) => until,
                ToSend::Complete => return Ok(()),
                ToSend::Failed(failure) => return Err(failure),
            };
            match self.under_way.first_key_value() {
                Some(((at, _), _)) if *at <= until => self.deliver(),
                _ => self.now = self.now.max(until),
            }
        }
        panic!("it never ends");
    }

    /// No more than the window is under way.
    fn watch(&mut self, chunk: &SnapshotChunk) {
        let SnapshotChunk::Data { offset, data, .. } = chunk else { return };
        self.data_bytes_sent += data.len() as u64;
        self.sent = self.sent.max(offset + data.len() as u64);
        assert!(self.sent <= self.heard + self.window_bytes, "{} of {}", self.sent, self.heard);
    }

    fn send(&mut self, is_answer: bool, chunk: SnapshotChunk) {
        let Faults { lost, repeated, late, corrupted, .. } = self.faults;
        let (mut chunk, mut fate) = (chunk, next(&mut self.random) % 100);
        let mut is_so = |percent| {
            let is_so = fate < percent;
            fate = fate.wrapping_sub(percent);
            is_so
        };
        let (mut copies, mut delay_us) = (1, 1_000);
        if is_so(lost) || self.faults.cut_at.is_some_and(|cut_at| self.now >= cut_at) {
            return;
        } else if is_so(repeated) {
            copies = 2;
        } else if is_so(late) {
            delay_us = 1_000 + next(&mut self.random) % SECOND;
        } else if is_so(corrupted)
            && let SnapshotChunk::Data { data, .. } = &mut chunk
        {
            let mut changed = data.to_vec();
            if let Some(byte) = changed.last_mut() {
                *byte ^= 1;
            }
            *data = changed.into();
        }
        for _ in 0..copies {
            self.serial += 1;
            let at = self.now + Duration::from_micros(delay_us);
            self.under_way.insert((at, self.serial), (is_answer, chunk.clone()));
        }
    }

    fn deliver(&mut self) {
        let Some(((at, _), (is_answer, chunk))) = self.under_way.pop_first() else { return };
        self.now = self.now.max(at);
        if is_answer {
            return match chunk {
                SnapshotChunk::Ack { offset } => {
                    if offset != SnapshotChunk::ACK_COMPLETE {
                        self.heard = self.heard.max(offset);
                    }
                    self.sender.on_ack(offset, self.now);
                }
                SnapshotChunk::Abort => self.sender.on_abort(),
                other => panic!("the receiver sent {other:?}"),
            };
        }
        let answer = match self.receiver.on_chunk(&chunk) {
            Received::Append(data) => {
                self.kept.extend(data);
                self.receiver.acknowledgement()
            }
            Received::Acknowledge => self.receiver.acknowledgement(),
            Received::Whole => {
                self.whole = true;
                SnapshotChunk::Ack { offset: SnapshotChunk::ACK_COMPLETE }
            }
            Received::Failed(_) => SnapshotChunk::Abort,
            Received::Nothing => panic!("the sender sent {chunk:?}"),
        };
        self.send(true, answer);
    }
}

/// All chunks that it has now, and until when it waits then.
fn drain<R: Read>(sender: &mut ChunkSender<R>, now: Instant) -> (Vec<SnapshotChunk>, Instant) {
    let mut chunks = Vec::new();
    loop {
        match sender.poll(now) {
            ToSend::Chunk(chunk) => chunks.push(chunk),
            ToSend::WaitUntil(until) if until > now => return (chunks, until),
            ToSend::WaitUntil(_) => {}
            end => panic!("{end:?}"),
        }
    }
}

fn offsets(chunks: &[SnapshotChunk]) -> Vec<u64> {
    let offset = |chunk: &SnapshotChunk| match chunk {
        SnapshotChunk::Data { offset, .. } => *offset,
        other => panic!("{other:?}"),
    };
    chunks.iter().map(offset).collect()
}

/// A stream of so many bytes whose question was answered with 0 at second 0.
fn begun(size: usize, settings: ChunkSettings) -> ChunkSender<Cursor<Vec<u8>>> {
    let mut sender = ChunkSender::new(Cursor::new(bytes(size)), settings, Instant(0));
    let (chunks, _) = drain(&mut sender, Instant(0));
    assert_eq!(chunks, [data_at(0, &[])], "it asks");
    sender.on_ack(0, Instant(0));
    sender
}

#[test]
fn the_right_bytes_arrive_whatever_the_network_does_and_no_window_is_exceeded() {
    for seed in 0..200 {
        let mut random = seed;
        let mut up_to = |most: u64| 1 + next(&mut random) % most;
        let data = bytes(up_to(6_000) as usize - 1);
        let settings = ChunkSettings {
            chunk_bytes_max: up_to(500) as usize,
            window_bytes: up_to(3_000).max(100),
            bytes_per_second: (up_to(4) == 1).then_some(10_000),
            // Long: luck can be bad for a while.
            stall_timeout: Duration::from_secs(200),
            ..settings()
        };
        let mut world = World::new(&data, settings, BAD, seed);
        let end = world.run();
        assert!(end.is_ok() && world.whole && world.kept == data, "seed {seed}: {end:?}");
    }
}

#[test]
fn nothing_is_sent_twice_over_a_good_network() {
    for size in [0, 1, 100, 5_001] {
        let data = bytes(size);
        let mut world = World::new(&data, settings(), Faults::default(), 1);
        assert!(world.run().is_ok() && world.kept == data);
        assert_eq!(world.data_bytes_sent, size as u64);
    }
}

#[test]
fn a_stream_goes_on_where_a_broken_one_stopped() {
    let data = bytes(20_000);
    let cut = Faults { cut_at: Some(Instant(10_000)), ..Faults::default() };
    let mut broken = World::new(&data, settings(), cut, 1);
    assert!(matches!(broken.run(), Err(SendFailure::Stalled(_))));
    let mut world = World::new(&data, settings(), BAD, 2);
    world.kept = broken.kept;
    let there = world.kept.len();
    assert!(there > 0 && there < data.len(), "{there}");
    // In parts, as a file is read.
    for part in world.kept.chunks(777) {
        world.receiver.resume(part).expect("it is not too large");
    }
    (world.sent, world.heard) = (there as u64, there as u64);
    world.faults = Faults::default();
    assert!(world.run().is_ok() && world.whole && world.kept == data);
    assert_eq!(world.data_bytes_sent as usize, data.len() - there);
}

#[test]
fn a_stream_without_progress_is_given_up_in_time() {
    let mut sender = ChunkSender::new(Cursor::new(bytes(500)), settings(), Instant(SECOND));
    for second in 1..=10 {
        let (chunks, until) = drain(&mut sender, Instant(second * SECOND));
        assert_eq!(chunks, [data_at(0, &[])]);
        assert_eq!(until, Instant((second + 1) * SECOND));
    }
    let end = sender.poll(Instant(11 * SECOND));
    assert!(matches!(end, ToSend::Failed(SendFailure::Stalled(_))), "{end:?}");
    sender.on_ack(0, Instant(12 * SECOND));
    let end = sender.poll(Instant(12 * SECOND));
    assert!(matches!(end, ToSend::Failed(SendFailure::Stalled(_))), "it stays so: {end:?}");
    // In the middle, counted from the last progress; what is repeated is none.
    let mut sender = begun(5_000, settings());
    drain(&mut sender, Instant(0));
    sender.on_ack(100, Instant(3 * SECOND));
    for second in 3..13 {
        sender.on_ack(100, Instant(second * SECOND));
        drain(&mut sender, Instant(second * SECOND));
    }
    drain(&mut sender, Instant(13 * SECOND - 1));
    let end = sender.poll(Instant(13 * SECOND));
    assert!(matches!(end, ToSend::Failed(SendFailure::Stalled(_))), "{end:?}");
}

#[test]
fn the_window_is_sent_again_from_what_is_missing() {
    let mut sender = begun(5_000, settings());
    let (chunks, until) = drain(&mut sender, Instant(0));
    assert_eq!(offsets(&chunks), [0, 100, 200, 300, 400, 500, 600, 700, 800, 900]);
    assert_eq!(until, Instant(SECOND));
    sender.on_ack(800, Instant(5));
    let (chunks, until) = drain(&mut sender, Instant(5));
    assert_eq!(offsets(&chunks), [1_000, 1_100, 1_200, 1_300, 1_400, 1_500, 1_600, 1_700]);
    let (chunks, _) = drain(&mut sender, until);
    assert_eq!(
        offsets(&chunks),
        [800, 900, 1_000, 1_100, 1_200, 1_300, 1_400, 1_500, 1_600, 1_700]
    );
    // A part of a chunk, by a receiver that was restarted: it goes on within.
    sender.on_ack(1_650, until);
    sender.on_ack(1_649, until);
    let (chunks, until) = drain(&mut sender, until);
    assert_eq!(
        offsets(&chunks),
        [1_800, 1_900, 2_000, 2_100, 2_200, 2_300, 2_400, 2_500],
        "no whole chunk has room at 2,600"
    );
    let (chunks, _) = drain(&mut sender, until);
    assert_eq!(chunks[0], data_at(1_650, &bytes(5_000)[1_650..1_700]));
    assert_eq!(offsets(&chunks[..4]), [1_650, 1_700, 1_800, 1_900]);
}

#[test]
fn what_can_not_be_true_is_not_believed() {
    for claimed in [501, SnapshotChunk::ACK_COMPLETE - 1] {
        let mut sender = ChunkSender::new(Cursor::new(bytes(500)), settings(), Instant(0));
        drain(&mut sender, Instant(0));
        sender.on_ack(claimed, Instant(0));
        let end = (0..9).map(|_| sender.poll(Instant(0))).last();
        assert!(
            matches!(
                end,
                Some(ToSend::Failed(SendFailure::ClaimedTooMuch { size_bytes: 500, .. }))
            ),
            "{end:?}"
        );
    }
    for acknowledged in [1_001, SnapshotChunk::ACK_COMPLETE - 1] {
        let mut sender = begun(5_000, settings());
        drain(&mut sender, Instant(0));
        sender.on_ack(acknowledged, Instant(0));
        let end = sender.poll(Instant(0));
        assert!(
            matches!(
                end,
                ToSend::Failed(SendFailure::AcknowledgedTooMuch { sent_bytes: 1_000, .. })
            ),
            "{end:?}"
        );
    }
    // What the rate limit holds back was read, and yet not sent.
    let mut sender = begun(5_000, ChunkSettings { bytes_per_second: Some(100), ..settings() });
    drain(&mut sender, Instant(0));
    sender.on_ack(200, Instant(0));
    assert!(matches!(sender.poll(Instant(0)), ToSend::Failed(_)));
    // An end that was not told yet.
    let mut sender = begun(5_000, settings());
    sender.on_ack(SnapshotChunk::ACK_COMPLETE, Instant(0));
    assert_eq!(drain(&mut sender, Instant(0)).0.len(), 10);
    sender.on_abort();
    assert!(matches!(sender.poll(Instant(0)), ToSend::Failed(SendFailure::ReceiverGaveUp)));
}

#[test]
fn a_rate_limit_spaces_the_chunks_and_is_no_stall() {
    let limited = ChunkSettings { bytes_per_second: Some(50), ..settings() };
    let slow = ChunkSettings { stall_timeout: Duration::from_millis(1_500), ..limited };
    let mut sender = begun(350, slow);
    let mut now = Instant(0);
    let mut sent = Vec::new();
    for acknowledged in [100, 200, 300, 350] {
        let (chunks, _) = drain(&mut sender, now);
        sent.extend(offsets(&chunks).into_iter().map(|offset| (now.0, offset)));
        sender.on_ack(acknowledged, now);
        now = drain_until(&mut sender, now);
    }
    let expected = [(0, 0), (2 * SECOND, 100), (4 * SECOND, 200), (6 * SECOND, 300)];
    assert_eq!(sent, expected);
}

/// When it wants to be polled next, with nothing to send till then but its end.
fn drain_until<R: Read>(sender: &mut ChunkSender<R>, now: Instant) -> Instant {
    let (chunks, until) = drain(sender, now);
    assert!(chunks.iter().all(|chunk| matches!(chunk, SnapshotChunk::End { .. })), "{chunks:?}");
    until
}

#[test]
fn a_source_that_fails_ends_the_stream() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("a bad sector"))
        }
    }
    let mut sender = ChunkSender::new(Broken, settings(), Instant(0));
    drain(&mut sender, Instant(0));
    sender.on_ack(0, Instant(0));
    for _ in 0..2 {
        let end = sender.poll(Instant(0));
        assert!(matches!(&end, ToSend::Failed(why) if why.to_string().contains("a bad sector")));
    }
}

#[test]
fn extreme_settings_and_times_do_no_harm() {
    let zero = ChunkSettings {
        chunk_bytes_max: 0,
        window_bytes: 0,
        bytes_per_second: Some(0),
        resend_after: Duration::ZERO,
        ..settings()
    };
    let mut sender = begun(3, ChunkSettings { bytes_per_second: None, ..zero.clone() });
    assert_eq!(drain(&mut sender, Instant(0)), (vec![data_at(0, &bytes(1))], Instant(1)));
    let mut sender = begun(3, zero);
    drain(&mut sender, Instant(0));
    let most = ChunkSettings {
        chunk_bytes_max: usize::MAX,
        window_bytes: u64::MAX,
        bytes_per_second: Some(u64::MAX),
        resend_after: Duration::MAX,
        stall_timeout: Duration::MAX,
    };
    let mut sender = begun(SnapshotChunk::DATA_BYTES_MAX + 1, most);
    let (first, _) = drain(&mut sender, Instant(u64::MAX - 2));
    assert_eq!(offsets(&first), [0]);
}

#[test]
fn only_sound_chunks_that_come_next_are_appended() {
    let mut receiver = ChunkReceiver::new(1_000);
    assert_eq!(receiver.on_chunk(&data_at(0, b"abc")), Received::Append(b"abc"));
    let damaged =
        SnapshotChunk::Data { offset: 3, data: Bytes::from_static(b"x"), checksum: xxh3_64(b"d") };
    let too_long = data_at(3, &vec![0; SnapshotChunk::DATA_BYTES_MAX + 1]);
    let others = [data_at(0, b"abc"), data_at(2, b"cd"), data_at(4, b"e"), data_at(3, b"")];
    for chunk in others.into_iter().chain([damaged, too_long, data_at(u64::MAX, b"z")]) {
        assert_eq!(receiver.on_chunk(&chunk), Received::Acknowledge);
        assert_eq!(receiver.acknowledgement(), SnapshotChunk::Ack { offset: 3 });
    }
    assert_eq!(receiver.on_chunk(&SnapshotChunk::Ack { offset: 9 }), Received::Nothing);
    assert_eq!(receiver.on_chunk(&data_at(3, b"d")), Received::Append(b"d"));
}

#[test]
fn a_whole_is_believed_by_its_size_and_digest() {
    let mut receiver = ChunkReceiver::new(1_000);
    receiver.resume(b"ab").expect("it is not too large");
    assert_eq!(receiver.on_chunk(&data_at(2, b"c")), Received::Append(b"c"));
    let mut end = |size_bytes, digest: &[u8]| {
        let digest = *blake3::hash(digest).as_bytes();
        match receiver.on_chunk(&SnapshotChunk::End { size_bytes, digest }) {
            Received::Failed(failure) => Err(failure),
            Received::Whole => Ok(true),
            other => Ok(other != Received::Acknowledge),
        }
    };
    assert_eq!(end(4, b"abcd"), Ok(false), "there is more to come");
    assert_eq!(end(3, b"abc"), Ok(true));
    assert_eq!(end(3, b"abd"), Err(ReceiveFailure::Corrupted));
    assert_eq!(end(2, b"abc"), Err(ReceiveFailure::Corrupted));
    let gave_up = receiver.on_chunk(&SnapshotChunk::Abort);
    assert_eq!(gave_up, Received::Failed(ReceiveFailure::GivenUp));
    assert!(ReceiveFailure::GivenUp.keeps_what_arrived());
    assert!(!ReceiveFailure::Corrupted.keeps_what_arrived());
}

#[test]
fn no_more_is_taken_than_is_allowed() {
    let too_large = ReceiveFailure::TooLarge { max: 4 };
    let mut receiver = ChunkReceiver::new(4);
    assert_eq!(receiver.resume(b"abcde"), Err(too_large));
    assert_eq!((receiver.offset(), receiver.resume(b"ab")), (0, Ok(())));
    assert_eq!(receiver.on_chunk(&data_at(2, b"cde")), Received::Failed(too_large));
    assert_eq!(receiver.offset(), 2, "nothing of it was taken");
    assert_eq!(receiver.on_chunk(&data_at(2, b"cd")), Received::Append(b"cd"));
    let mut world = World::new(&bytes(1_000), settings(), Faults::default(), 1);
    world.receiver = ChunkReceiver::new(999);
    assert!(matches!(world.run(), Err(SendFailure::ReceiverGaveUp)));
}
