//! How fast durable commits are, beside the bare file system: `cargo run --release -p raft-storage-redb --example commit_speed
//! -- [FOLDER]`. Also what a burst with a purge does to the writes after it, and how long a large log takes to open.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::{Entries, Entry, Index, LogPosition, NodeId, Payload, Persist, Term, Ticket};
use raft_node::LogStore;
use raft_storage_redb::{Options, RedbLogStore};

fn persist(first: u64, count: u64, payload: &Bytes) -> Persist {
    let entries = (first..first + count)
        .map(|i| Entry {
            term: Term(1),
            index: Index(i),
            payload: Payload::Command(payload.clone()),
        })
        .collect();
    Persist {
        ticket: Ticket(first),
        hard_state: None,
        reset: None,
        truncate_from: None,
        entries: Entries::try_from_vec(entries).expect("a run"),
    }
}

fn report(what: &str, per_commit: u64, mut times: Vec<Duration>) {
    let total: Duration = times.iter().sum();
    times.sort();
    let rate = (per_commit * times.len() as u64) as f64 / total.as_secs_f64();
    println!(
        "{what:32} {per_commit:5}/commit {rate:9.0} entries/s  p50 {:6} us  p99 {:6} us  max {:7} us",
        times[times.len() / 2].as_micros(),
        times[times.len() * 99 / 100].as_micros(),
        times[times.len() - 1].as_micros(),
    );
}

fn time_writes(
    store: &mut RedbLogStore,
    next: &mut u64,
    count: u64,
    seconds: f64,
    bytes: u64,
) -> Vec<Duration> {
    let payload = Bytes::from(vec![7u8; 256]);
    let start = Instant::now();
    let mut times = Vec::new();
    while start.elapsed().as_secs_f64() < seconds && (times.len() as u64) * count * 256 < bytes {
        let write = [persist(*next, count, &payload)];
        let began = Instant::now();
        store.write(&write).expect("written");
        times.push(began.elapsed());
        *next += count;
    }
    times
}

fn plain(folder: &Path, count: u64, seconds: f64) -> Vec<Duration> {
    let path = folder.join("plain");
    let mut file =
        OpenOptions::new().create(true).write(true).truncate(true).open(&path).expect("made");
    for _ in 0..64 {
        file.write_all(&vec![0u8; 1 << 20]).expect("filled");
    }
    file.sync_all().expect("synced");
    let row = vec![7u8; (256 + 20) * count as usize];
    let (mut offset, mut times, start) = (0, Vec::new(), Instant::now());
    while start.elapsed().as_secs_f64() < seconds {
        let began = Instant::now();
        if offset + row.len() > 64 << 20 {
            offset = 0;
        }
        file.write_all_at(&row, offset as u64).expect("written");
        file.sync_data().expect("synced");
        offset += row.len();
        times.push(began.elapsed());
    }
    std::fs::remove_file(path).expect("removed");
    times
}

fn main() {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let seconds = std::env::args().nth(2).map_or(2.0, |s| s.parse().expect("seconds"));
    let what = std::env::args().nth(3).unwrap_or_else(|| "all".into());
    if what == "all" || what == "rates" {
        for count in [1, 64, 512, 2048] {
            report("plain preallocated file", count, plain(folder.path(), count, seconds));
            let options =
                Options::new(folder.path().join(format!("log-{count}")), [1; 16], NodeId(1));
            let mut store = RedbLogStore::open(options).expect("opened");
            let mut next = 1;
            report(
                "redb, new log",
                count,
                time_writes(&mut store, &mut next, count, seconds, 1 << 30),
            );
            store
                .compact(LogPosition { index: Index(next - 1), term: Term(1) })
                .expect("compacted");
            time_writes(&mut store, &mut next, count, seconds, 1 << 30);
            report(
                "redb, after a compaction",
                count,
                time_writes(&mut store, &mut next, count, seconds, 1 << 30),
            );
            let path = store.path().to_path_buf();
            drop(store);
            std::fs::remove_file(path).expect("removed");
        }
    }
    if what == "all" || what == "burst" {
        burst(folder.path());
    }
}

/// A gigabyte at once; opened after a clean close and after a crash; purged; then steady writes.
fn burst(folder: &Path) {
    let options = Options::new(folder.join("burst"), [1; 16], NodeId(1));
    let mut store = RedbLogStore::open(options.clone()).expect("opened");
    let mut next = 1;
    report("steady before the burst", 64, time_writes(&mut store, &mut next, 64, 1.0, 1 << 30));
    report("burst of 1 GiB", 512, time_writes(&mut store, &mut next, 512, 600.0, 1 << 30));
    // A copy of the file of a store that was not closed is what a crash leaves behind.
    std::fs::copy(store.path(), folder.join("crashed")).expect("copied");
    std::fs::copy(folder.join("burst.journal"), folder.join("crashed.journal")).expect("copied");
    drop(store);
    let began = Instant::now();
    let mut store = RedbLogStore::open(options.clone()).expect("opened");
    store.restore().expect("restored");
    println!("open after a clean close: {:?}", began.elapsed());
    let began = Instant::now();
    let mut crashed = Options::new(folder.join("crashed"), [1; 16], NodeId(1));
    crashed.cache_bytes = options.cache_bytes;
    drop(
        RedbLogStore::open(crashed.clone())
            .map(|mut s| s.restore().expect("restored"))
            .expect("opened"),
    );
    println!("open after a crash: {:?}", began.elapsed());
    std::fs::remove_file(crashed.path).expect("removed");
    store.compact(LogPosition { index: Index(next - 1), term: Term(1) }).expect("compacted");
    for second in 1..=6 {
        let times = time_writes(&mut store, &mut next, 64, 1.0, 1 << 30);
        report(&format!("second {second} after the purge"), 64, times);
    }
    let size = std::fs::metadata(store.path()).expect("there").len() >> 20;
    println!("file: {size} MiB");
}
