//! `raft bench`: a closed-loop load generator over the public client. It measures what a caller sees, and decides nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use raft_kv::client::{Client, ClientError};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::cli::{BenchArgs, BenchKind};
use crate::connect;
use crate::exit::OrFail as _;
use crate::exit::{Code, Outcome};
use crate::output::{say, say_json};
use crate::progress;

/// Not counted, before the measurement: connections open, caches fill.
const WARM_UP: Duration = Duration::from_secs(1);
/// Latencies above this count as this.
const LATENCY_MAX: Duration = Duration::from_secs(600);
/// How long a worker waits after an error, so that a cluster that is down is not stormed.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);
/// How many puts store the keys for `get`, at the same time.
const PREFILL_IN_FLIGHT: u64 = 256;

/// What is measured. The JSON of `--json` is exactly this.
#[derive(Debug, Serialize)]
struct Report {
    kind: &'static str,
    inflight: u32,
    value_size: u32,
    keys: u64,
    seconds: u64,
    operations: u64,
    ops_per_second: f64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
    errors: u64,
}

/// Runs the command.
pub(crate) async fn run(args: BenchArgs) -> Outcome {
    let client = connect::open(&args.client)?;
    // A cluster that is not there at all should be an error, not a measurement of nothing.
    let probe = client.get(key(0)).await;
    probe.map_err(|error| connect::failure(error, "the cluster can not be measured"))?;
    let load = Arc::new(Load {
        client: client.clone(),
        kind: args.kind,
        keys: args.keys,
        value: value(args.value_size),
        results: Mutex::new(Results::new()?),
    });
    if args.kind == BenchKind::Get {
        prefill(&load).await?;
    }
    let measured = measure(&load, args.inflight, Duration::from_secs(args.seconds)).await;
    client.close().await;
    measured?;
    let results = load.results.lock().unwrap_or_else(PoisonError::into_inner);
    print(&results.report(&args), args.json)
}

/// What every worker shares.
struct Load {
    client: Client,
    kind: BenchKind,
    keys: u64,
    value: Bytes,
    results: Mutex<Results>,
}

struct Results {
    latencies_us: Histogram<u64>,
    completed: u64,
    errors: u64,
}

impl Load {
    async fn operate(&self, key: Bytes) -> Result<(), ClientError> {
        match self.kind {
            BenchKind::Put => self.client.put(key, self.value.clone()).await.map(drop),
            BenchKind::Get => self.client.get(key).await.map(drop),
        }
    }

    /// One worker: one request at a time, from now until `end`; counts from `start`.
    async fn work(&self, seed: u64, start: Instant, end: Instant) {
        let mut random = seed;
        let mut began = Instant::now();
        while began < end {
            let key = key(next_random(&mut random) % self.keys);
            let result = self.operate(key).await;
            let finished = Instant::now();
            if began >= start {
                self.record(result.is_ok(), finished - began, finished <= end);
            }
            if result.is_err() {
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
            began = Instant::now();
        }
    }

    /// A request that was slow enough to end after the measurement does not count as throughput, but its latency does.
    fn record(&self, ok: bool, latency: Duration, in_time: bool) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        if !ok {
            results.errors += 1;
            return;
        }
        results.completed += u64::from(in_time);
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        results.latencies_us.saturating_record(micros);
    }
}

impl Results {
    fn new() -> Outcome<Results> {
        let latencies_us = Histogram::new_with_bounds(1, LATENCY_MAX.as_micros() as u64, 3)
            .or_fail(Code::Failed, || "can not make the histogram".to_owned())?;
        Ok(Results { latencies_us, completed: 0, errors: 0 })
    }

    fn report(&self, args: &BenchArgs) -> Report {
        let quantile = |q| self.latencies_us.value_at_quantile(q);
        Report {
            kind: match args.kind {
                BenchKind::Put => "put",
                BenchKind::Get => "get",
            },
            inflight: args.inflight,
            value_size: args.value_size,
            keys: args.keys,
            seconds: args.seconds,
            operations: self.completed,
            ops_per_second: self.completed as f64 / args.seconds as f64,
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: self.latencies_us.max(),
            errors: self.errors,
        }
    }
}

async fn measure(load: &Arc<Load>, inflight: u32, length: Duration) -> Outcome {
    let start = Instant::now() + WARM_UP;
    let end = start + length;
    let mut workers = JoinSet::new();
    for seed in 0..u64::from(inflight) {
        let load = Arc::clone(load);
        workers.spawn(async move { load.work(seed, start, end).await });
    }
    let spinner = progress::spinner("measuring");
    while let Some(worker) = workers.join_next().await {
        worker.or_fail(Code::Failed, || "a worker failed".to_owned())?;
    }
    spinner.finish_and_clear();
    Ok(())
}

/// Stores a value under every key.
async fn prefill(load: &Arc<Load>) -> Outcome {
    let bar = progress::record_bar("storing the keys", load.keys);
    let mut workers = JoinSet::new();
    for first in 0..PREFILL_IN_FLIGHT.min(load.keys) {
        let (load, bar) = (Arc::clone(load), bar.clone());
        workers.spawn(async move {
            let mut number = first;
            while number < load.keys {
                load.client.put(key(number), load.value.clone()).await?;
                number += PREFILL_IN_FLIGHT;
                bar.inc(1);
            }
            Ok(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker
            .or_fail(Code::Failed, || "a worker failed".to_owned())?
            .map_err(|error| connect::failure(error, "the keys could not be stored"))?;
    }
    bar.finish_and_clear();
    Ok(())
}

fn print(report: &Report, json: bool) -> Outcome {
    if json {
        return say_json(report);
    }
    say(format_args!(
        "{} {}s in {} s, {} in flight, {}-byte values, {} keys",
        report.operations,
        report.kind,
        report.seconds,
        report.inflight,
        report.value_size,
        report.keys
    ))?;
    say(format_args!("throughput  {:.0} a second", report.ops_per_second))?;
    say(format_args!(
        "latency     p50 {} us, p99 {} us, p99.9 {} us, max {} us",
        report.p50_us, report.p99_us, report.p999_us, report.max_us
    ))?;
    say(format_args!("errors      {}", report.errors))?;
    Ok(())
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("bench/{number:08}"))
}

/// Bytes without a pattern, the same in every run.
fn value(size: u32) -> Bytes {
    let mut random = 1;
    (0..size).map(|_| next_random(&mut random) as u8).collect()
}

/// `SplitMix64` (Steele, Lea and Flood, 2014): a load needs evenness, not secrecy.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_size_asked_for_and_no_pattern() {
        assert_eq!(value(0).len(), 0);
        let value = value(4096);
        assert_eq!(value.len(), 4096);
        let different: std::collections::BTreeSet<u8> = value.iter().copied().collect();
        assert_eq!(different.len(), 256);
    }

    #[test]
    fn keys_are_drawn_evenly() {
        let (mut random, mut counts) = (7, [0_u32; 10]);
        for _ in 0..10_000 {
            counts[(next_random(&mut random) % 10) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }
}
