//! Recordings: what is written comes back, a replay gives the same actions, and damaged files harm nobody.
#![allow(missing_docs)]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::maker::{INPUTS, Maker};
use common::{Cluster, Recorded};
use proptest::prelude::*;
use raft_core::recording::{
    Record, Recorder, Recording, RecordingError, Replay, ReplayError, Start, VERSION, replay,
};
use raft_core::{
    Action, Body, ChangeStep, Config, Entries, Entry, Index, Input, Instant, LeaseConfig,
    LogPosition, Membership, Message, NodeId, Payload, ReadAt, ReadId, RequestId, Resolution,
    Restored, SnapshotMeta, Term,
};

fn empty_recording() -> Recorder {
    let restored = Restored::founding(Membership::of_voters([NodeId(1)]));
    Recorder::new(&Config::new(NodeId(1)), 0, Instant(0), &restored)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_recorded_comes_back(seed: u64) {
        let mut make = Maker::new(seed);
        let (config, restored) = (make.config(), make.restored());
        let (core_seed, start) = (make.number(), Instant(make.number()));
        let mut recorder = Recorder::new(&config, core_seed, start, &restored);
        let mut expected = Vec::new();
        let mut file = Vec::new();
        for input in make.inputs() {
            // Even a clock that runs backwards is recorded as it was.
            let now = Instant(make.number());
            recorder.record(now, &input);
            expected.push(Record::Input { now, input });
            match make.below(4) {
                0 => {
                    recorder.drained();
                    expected.push(Record::Drained);
                }
                1 => {
                    let polls = 1 + make.below(200);
                    (0..polls).for_each(|_| recorder.polled());
                    expected.push(Record::Polled(polls));
                }
                2 => file.extend(recorder.take()),
                _ => {}
            }
        }
        let pending = recorder.pending_bytes();
        let piece = recorder.take();
        // Polls that are still being counted are not among them.
        prop_assert!(pending <= piece.len() && recorder.pending_bytes() == 0);
        file.extend(piece);
        let recording = Recording::read(&file).expect("it begins well");
        let written = Start { config, seed: core_seed, now: start, restored };
        prop_assert_eq!(recording.start(), &written);
        let records: Result<Vec<Record>, RecordingError> = recording.collect();
        prop_assert_eq!(records.expect("it is whole"), expected);
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_read_but_never_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert_eq!(Recording::read(&bytes).err(), Some(RecordingError::NotARecording));
        let mut file = empty_recording().take();
        let header = file.len();
        file.extend(&bytes);
        let mut recording = Recording::read(&file).expect("it begins well");
        let mut written = empty_recording();
        while let Some(record) = recording.next() {
            match record {
                Ok(Record::Input { now, input }) => written.record(now, &input),
                Ok(Record::Drained) => written.drained(),
                // A poll that counts nothing, or very much, is read and can not be made by polling.
                Ok(Record::Polled(_)) | Err(_) => return Ok(()),
            }
            // Nothing can be written in two ways.
            prop_assert_eq!(&written.clone().take()[header..], &file[header..recording.offset()]);
        }
    }

    #[test]
    fn bytes_behind_a_valid_beginning_are_refused_or_read_but_never_harm(
        kind in 0u8..INPUTS, bytes in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut file = empty_recording().take();
        file.extend([0, 0, kind]);
        file.extend(&bytes);
        let _ = Recording::read(&file).expect("it begins well").count();
        let _ = replay(&file);
    }
}

/// The layout that `docs/recording-format.md` describes. If this fails, the format has changed: that takes a new version.
#[test]
fn the_bytes_are_those_of_the_documented_format() {
    let restored = Restored::founding(Membership::of_voters([NodeId(1), NodeId(300)]));
    let mut recorder = Recorder::new(&Config::new(NodeId(1)), 7, Instant(1000), &restored);
    let mut expected = b"raft-rec\x05".to_vec();
    expected.extend([1, 0]); // node 1, no seconds
    expected.extend([0x80, 0xca, 0xb5, 0xee, 0x01]); // 500,000,000 ns
    expected.extend([0, 0x80, 0xe1, 0xeb, 0x17]); // 50,000,000 ns
    expected.extend([0x80, 0x80, 0x20, 0x80, 0x02, 0x80, 0x80, 0x80, 0x04, 0x80, 0x80, 0x80, 0x04]);
    expected.extend([0x80, 0x80, 0x80, 0x10, 0x80, 0x80, 0x80, 0x08, 0x80, 0x80, 0x01]);
    expected.extend([0x80, 0x80, 0x80, 0x20, 0xa0, 0x8d, 6, 0x80, 0x80, 0x80, 0x20]);
    expected.extend([0xc0, 0x84, 0x3d, 0x80, 0x80, 0x80, 0x80, 2]);
    expected.extend([0xa0, 0x8d, 6, 10, 0x90, 0x4e]);
    expected.extend([0, 0, 0, 0, 0]); // no forwarding, leases, commit groups, witness, store
    expected.extend([7, 0xe8, 0x07]); // seed, start
    expected.extend([0, 0, 0, 0, 0]); // hard state; base
    expected.extend([2, 1, 0xac, 0x02, 0, 0, 0, 0]); // membership
    expected.extend([0, 0, 0, 0]); // no runs, last index 0, no memberships, no snapshot
    assert_eq!(recorder.take(), expected);

    recorder.record(Instant(1005), &Input::Applied(Index(3)));
    recorder.polled();
    recorder.polled();
    let entry =
        Entry { term: Term(2), index: Index(4), payload: Payload::Command(Bytes::from("ab")) };
    let body = Body::Append {
        prev: LogPosition { index: Index(3), term: Term(1) },
        entries: Entries::try_from_vec(vec![entry]).unwrap(),
        commit: Index(3),
    };
    let message = Message { term: Term(2), body };
    recorder.record(Instant(1004), &Input::Message { from: NodeId(300), store: None, message });
    recorder.drained();
    let records = [0, 10, 11, 3, 1, 2];
    let append = [0, 1, 1, 0xac, 0x02, 0, 2, 4, 3, 1, 1, 4, 2, 1, 2, b'a', b'b', 3, 2];
    assert_eq!(recorder.take(), [&records[..], &append[..]].concat());
}

#[test]
fn another_version_is_refused_and_both_are_named() {
    let mut file = empty_recording().take();
    file[8] = 9;
    let error = RecordingError::UnknownVersion { found: 9, known: VERSION };
    assert_eq!(Recording::read(&file).err(), Some(error));
    let text = error.to_string();
    assert!(text.contains("version 9") && text.contains("version 5"), "{text}");
    assert_eq!(replay(b"raft"), Err(ReplayError::Recording(RecordingError::NotARecording)));
}

#[test]
fn a_core_that_could_not_be_built_can_not_be_replayed() {
    let config = Config { tail_bytes_max: 0, ..Config::new(NodeId(1)) };
    let restored = Restored::founding(Membership::of_voters([NodeId(1)]));
    let file = Recorder::new(&config, 0, Instant(0), &restored).take();
    assert!(matches!(replay(&file), Err(ReplayError::Restore(_))));
}

/// Elections, replication, reads, a follower that needs a snapshot, a learner that is promoted, a transfer, a restart; small windows, so that
/// entries are fetched from disks, too.
fn a_busy_life(size: u64) -> (Cluster, Vec<Recorded>) {
    let mut cluster = Cluster::configured(size, |config| {
        config.retained_entries = 2;
        config.compaction_lag_max = 0;
        config.tail_bytes_max = 300;
        config.forward_proposals = true;
        config.lease = Some(LeaseConfig { clock_drift_max_ppm: 1000 });
    });
    cluster.run(Duration::from_secs(2));
    let leader = cluster.leader().expect("a leader");
    let lagging = cluster.ids().into_iter().find(|id| *id != leader).expect("a follower");
    for has_to_catch_up_from_the_log in [true, false] {
        cluster.isolate(lagging);
        for _ in 0..10 {
            cluster.propose(leader, &["a", "b"]);
            cluster.read(leader);
            cluster.settle();
        }
        if has_to_catch_up_from_the_log {
            cluster.heal();
            cluster.run(Duration::from_secs(1));
        }
    }
    let status = cluster.host(leader).raft.status();
    let term = cluster.host(leader).applied.last().expect("an entry").term;
    let position = LogPosition { index: status.applied, term };
    let meta = SnapshotMeta { position, membership: status.membership.into() };
    cluster.host(leader).disk.snapshot = Some(meta.clone());
    cluster.handle(leader, Input::SnapshotTaken(meta));
    cluster.heal();
    cluster.run(Duration::from_secs(2));

    cluster.start(9, common::Disk::default());
    for (id, step) in [(1, ChangeStep::AddLearner(NodeId(9))), (2, ChangeStep::Promote(NodeId(9)))]
    {
        let change = Input::ChangeMembership { id: RequestId(id), change: step.into() };
        cluster.handle(leader, change);
        cluster.run(Duration::from_secs(1));
    }
    let transfer = Input::TransferLeadership { id: RequestId(3), to: Some(NodeId(9)) };
    cluster.handle(leader, transfer);
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.leader(), Some(9));
    cluster.propose(leader, &["passed on"]);
    cluster.handle(leader, Input::Read { id: ReadId(77), at: ReadAt::AnyMember });
    cluster.run(Duration::from_millis(100));

    let before = cluster.hosts.remove(&leader).expect("a host");
    cluster.start(leader, before.disk.clone());
    cluster.run(Duration::from_secs(1));
    (cluster, vec![before.raft])
}

#[test]
fn a_replay_gives_every_action_again() {
    for size in [3, 5] {
        let (cluster, mut lives) = a_busy_life(size);
        lives.extend(cluster.hosts.into_values().map(|host| host.raft));
        let happened =
            |wanted: fn(&Action) -> bool| lives.iter().any(|life| life.actions.iter().any(wanted));
        assert!(happened(|action| matches!(action, Action::Fetch { .. })));
        assert!(happened(|action| matches!(action, Action::InstallSnapshot(_))));
        assert!(happened(|action| matches!(
            action,
            Action::Resolve(Resolution::ReadReady { id: ReadId(77), .. })
        )));
        for id in [1, 2, 3].map(RequestId) {
            let done = Action::Resolve(Resolution::RequestDone { id });
            assert!(lives.iter().any(|life| life.actions.contains(&done)), "{id:?}");
        }
        for mut life in lives {
            let again = replay(&life.recording()).expect("it is whole");
            assert_eq!(again.len(), life.actions.len());
            for (again, first) in again.iter().zip(&life.actions) {
                assert_eq!(again, first);
            }
        }
    }
}

/// Where the records of a recording end.
fn boundaries(file: &[u8]) -> Vec<usize> {
    let mut recording = Recording::read(file).expect("it begins well");
    let mut ends = vec![recording.offset()];
    while let Some(record) = recording.next() {
        record.expect("it is whole");
        ends.push(recording.offset());
    }
    ends
}

#[test]
fn a_recording_that_ends_after_any_record_replays_up_to_there() {
    let (_, lives) = a_busy_life(3);
    for mut life in lives {
        let file = life.recording();
        let ends = boundaries(&file);
        let mut replay = Replay::new(&file).expect("it begins well");
        let mut so_far = Vec::new();
        for (place, end) in ends.iter().enumerate() {
            if place % 97 == 0 {
                let part = raft_core::recording::replay(&file[..*end]).expect("it is whole");
                assert_eq!(part, so_far);
            }
            if let Some(step) = replay.next() {
                so_far.extend(step.expect("it is whole").actions);
            }
        }
        assert_eq!(so_far, life.actions);
        let status = replay.raft().status();
        assert_eq!(status, life.status());
    }
}

#[test]
fn a_recording_that_ends_within_a_record_says_so() {
    let (_, mut lives) = a_busy_life(3);
    let file = lives.remove(0).recording();
    let ends = boundaries(&file);
    for cut in (0..file.len()).step_by(61) {
        let error = Recording::read(&file[..cut]).map(Iterator::last);
        if cut < 8 {
            assert_eq!(error.err(), Some(RecordingError::NotARecording));
        } else if cut < ends[0] {
            assert!(matches!(error, Err(RecordingError::Truncated { .. })), "{error:?}");
        } else if !ends.contains(&cut) {
            let last = error.expect("it begins well");
            assert!(matches!(last, Some(Err(RecordingError::Truncated { .. }))), "{last:?}");
        }
    }
}

#[test]
fn flipped_bits_give_errors_or_other_lives_but_no_harm() {
    let (_, mut lives) = a_busy_life(3);
    let whole = lives.remove(0).recording();
    let file = &whole[..*boundaries(&whole).get(400).expect("a long life")];
    let header = boundaries(file)[0];
    let in_header = 0..header * 8;
    let behind = (header * 8..file.len() * 8).step_by(13);
    for bit in in_header.chain(behind) {
        let mut damaged = file.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let _ = replay(&damaged);
    }
}
