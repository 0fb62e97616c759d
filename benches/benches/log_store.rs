//! Durable commits of 1 to 2,048 entries of 256 bytes: the log store beside a preallocated plain file, in one run.
//! `cargo bench -p benches --bench log_store`; `RAFT_BENCH_DIR` names the folder on the disk to measure (default: the temporary one).

use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use raft_core::{Entries, Entry, Index, LogPosition, NodeId, Payload, Persist, Term, Ticket};
use raft_node::LogStore;
use raft_storage_redb::{Options, RedbLogStore};

const PLAIN_BYTES: u64 = 64 << 20;
/// As a service does: the log is compacted now and then, so its space is used again.
const COMPACT_EVERY_BYTES: u64 = 64 << 20;

fn persist(first: u64, count: u64, payload: &Bytes) -> Persist {
    let entries = (first..first + count)
        .map(|index| Entry {
            term: Term(1),
            index: Index(index),
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

fn plain(folder: &Path) -> std::fs::File {
    let path = folder.join("plain");
    let mut file =
        OpenOptions::new().create(true).write(true).truncate(true).open(path).expect("made");
    let zeros = vec![0u8; 1 << 20];
    for _ in 0..PLAIN_BYTES >> 20 {
        file.write_all(&zeros).expect("filled");
    }
    file.sync_all().expect("synced");
    file
}

fn commits(criterion: &mut Criterion) {
    let folder = match std::env::var_os("RAFT_BENCH_DIR") {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    }
    .expect("a folder");
    let payload = Bytes::from(vec![7u8; 256]);
    let mut group = criterion.benchmark_group("log_store/commit");
    group.sample_size(20);
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));
    for count in [1u64, 64, 512, 2048] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::new("plain_file", count), |bencher| {
            let (file, row) = (plain(folder.path()), vec![7u8; 276 * count as usize]);
            let mut offset = 0;
            bencher.iter(|| {
                if offset + row.len() as u64 > PLAIN_BYTES {
                    offset = 0;
                }
                file.write_all_at(black_box(&row), offset).expect("written");
                file.sync_data().expect("synced");
                offset += row.len() as u64;
            });
        });
        group.bench_function(BenchmarkId::new("redb", count), |bencher| {
            let path = folder.path().join(format!("log-{count}"));
            let _ = std::fs::remove_file(&path);
            let mut store =
                RedbLogStore::open(Options::new(path, [1; 16], NodeId(1))).expect("opened");
            let (mut next, mut since) = (1, 0);
            bencher.iter(|| {
                store.write(&[persist(next, count, &payload)]).expect("written");
                next += count;
                since += count * 256;
                if since > COMPACT_EVERY_BYTES {
                    since = 0;
                    let through = LogPosition { index: Index(next - 1), term: Term(1) };
                    store.compact(through).expect("compacted");
                }
            });
        });
    }
    group.finish();
}

// What `criterion_main!` does, without its undocumented public function.
fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    commits(&mut criterion);
    criterion.final_summary();
}
