//! `raft` beside etcd, both durable, three nodes each on this machine, in one run: the two are measured in turns, and medians
//! and ratios are printed. Run it as `cargo xtask compare`.
//!
//! Equal on both sides: the number of nodes, the size and number of keys and values, the requests in flight, the time measured,
//! one client process, fsync on. Unequal, in etcd's favour: its peers and clients speak plain TCP, ours TLS.
//! Not equal either: etcd's client spreads its requests over as many connections as `--connections` says (it is faster so), ours uses one.

mod etcd;
mod load;
mod ours;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use load::{Kind, Load, Outcome};

/// Measures raft beside etcd (needs `etcd` on the PATH: Debian's package etcd-server).
#[derive(Debug, Parser)]
struct Arguments {
    /// The release build of the binary `raft`.
    #[arg(long, default_value = "target/release/raft")]
    raft: PathBuf,
    /// Requests in flight, one measurement each.
    #[arg(long, value_delimiter = ',', default_value = "1,100,1000")]
    inflight: Vec<usize>,
    /// Bytes in a value.
    #[arg(long, default_value_t = 256)]
    value_size: usize,
    /// How many keys are written, in a random order.
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Seconds a measurement.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Turns: each measures both sides once.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The most connections that etcd's client uses.
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// What is measured.
    #[arg(long, value_enum, default_value_t = Kind::Put)]
    kind: Kind,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir()?;
    println!("starting three nodes of each in {}", folder.path().display());
    let ours = ours::Cluster::start(&arguments.raft, &folder.path().join("raft")).await?;
    let etcd = etcd::Cluster::start(&folder.path().join("etcd")).await?;
    println!(
        "{:?}, values of {} bytes over {} keys, {} s a measurement, {} rounds in turns",
        arguments.kind, arguments.value_size, arguments.keys, arguments.seconds, arguments.rounds
    );
    println!(
        "{:>9} {:>6} {:>12} {:>10} {:>10} {:>10} {:>7} {:>16}",
        "in flight", "side", "ops/s", "p50 us", "p99 us", "max us", "errors", "node RSS MiB"
    );
    for &inflight in &arguments.inflight {
        let load = Load {
            kind: arguments.kind,
            inflight,
            value_size: arguments.value_size,
            keys: arguments.keys,
            duration: Duration::from_secs(arguments.seconds),
        };
        let (mut us, mut them) = (Vec::new(), Vec::new());
        for _ in 0..arguments.rounds {
            us.push(ours.measure(&load).await?);
            print_row(inflight, "raft", us.last(), &ours.memory_mib());
            them.push(etcd.measure(&load, arguments.connections).await?);
            print_row(inflight, "etcd", them.last(), &etcd.memory_mib());
        }
        let rate = |rows: &[Outcome]| median(rows.iter().map(|row| row.ops_per_second));
        let p50 = |rows: &[Outcome]| median(rows.iter().map(|row| row.p50_us));
        println!(
            "{inflight:>9} medians: raft {:.0}/s, etcd {:.0}/s, throughput ratio {:.2}; p50 {:.0} us against {:.0} us, ratio {:.2}",
            rate(&us),
            rate(&them),
            rate(&us) / rate(&them),
            p50(&us),
            p50(&them),
            p50(&us) / p50(&them)
        );
    }
    ours.stop().await;
    etcd.stop().await;
    Ok(())
}

fn print_row(inflight: usize, side: &str, outcome: Option<&Outcome>, memory: &[u64]) {
    let Some(row) = outcome else { return };
    let memory = memory.iter().map(u64::to_string).collect::<Vec<_>>().join("/");
    println!(
        "{inflight:>9} {side:>6} {:>12.0} {:>10.0} {:>10.0} {:>10.0} {:>7} {memory:>16}",
        row.ops_per_second, row.p50_us, row.p99_us, row.max_us, row.errors
    );
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
