//! raft-core against raft-rs: three cores in one thread, propose a batch, pump until it is committed and applied.
//!
//! `cargo bench -p benches --bench core`. At the end: medians side by side, measured in turns; these tables alone with
//! `cargo bench -p benches --bench core -- tables`.
//!
//! Both sides: release mode; pre-vote and check-quorum on, the same limits of messages and windows; every entry kept in memory by each of the
//! three; messages handed over as structs; a batch proposed in one call; applied by counting bytes; followers learn of a commit with
//! the next append. raft-rs's log lines go nowhere. Payloads are made, and logs compacted, while the clock stands still.
//!
//! Neither side encodes, checksums, writes to a disk, takes snapshots or reads. raft-rs's store is its own `MemStorage`, behind a lock.
//! raft-core's copies each entry likewise; the last columns of the table keep the shared runs instead, which raft-rs has no counterpart
//! for. raft-core takes a message's entries only after checking them, measures round trips, and adapts its windows; raft-rs's windows are fixed.

mod compare;
mod scale;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod theirs;

use std::time::Duration;

use benches::trio::{Keep, Trio};
use criterion::{BenchmarkId, Criterion, Throughput};

use crate::compare::{BATCHES, PAYLOADS, Side, measure};

/// One criterion group of one side: every batch size and payload.
fn side<S: Side>(criterion: &mut Criterion, name: &str, make: impl Fn() -> S) {
    for payload in PAYLOADS {
        let mut group = criterion.benchmark_group(format!("core/{name}/{payload}_bytes"));
        group.sample_size(20);
        group.warm_up_time(Duration::from_millis(300));
        group.measurement_time(Duration::from_secs(1));
        for batch in BATCHES {
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_function(BenchmarkId::new("batch", batch), |bencher| {
                let mut trio = make();
                bencher.iter_custom(|iterations| measure(&mut trio, batch, payload, iterations));
            });
        }
        group.finish();
    }
}

/// glibc gives freed memory back to the system, and has it zeroed and mapped anew for the next chunk of either side: half of what was measured, and none of it
/// about consensus. Once a block of this size was freed it keeps up to twice as much.
fn keep_freed_memory() {
    drop(std::hint::black_box(vec![1u8; 31 << 20]));
}

/// Whether everything is to be measured: no filter and no dry run.
fn is_full_run() -> bool {
    let mut arguments = std::env::args().skip(1);
    arguments.all(|argument| argument == "--bench") && std::env::args().len() > 1
}

fn main() {
    keep_freed_memory();
    let mut criterion = Criterion::default().configure_from_args();
    if std::env::args().any(|argument| argument == "tables") {
        tables();
        return;
    }
    side(&mut criterion, "raft-core", || Trio::new(Keep::Copies));
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    side(&mut criterion, "raft-rs", theirs::Trio::new);
    if is_full_run() {
        tables();
    }
    criterion.final_summary();
}

fn tables() {
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    compare::print_ratios(&theirs::Trio::new);
    scale::print_growth();
    scale::print_idle_groups();
}
