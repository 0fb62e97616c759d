//! `raft bench`: a closed-loop load generator over the public client. It measures what a caller sees, and decides nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use raft_kv::client::{Client, ClientError};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::cli::{BenchArgs, BenchKind};
use crate::connect;
use crate::exit::{Code, Failure, OrFail as _, Outcome};
use crate::output::{say, say_json};
use crate::{progress, text};

/// Not counted, before the measurement: connections open, caches fill.
const WARM_UP: Duration = Duration::from_secs(1);
/// Latencies above this count as this.
const LATENCY_MAX: Duration = Duration::from_secs(600);
/// How long a worker waits after an error, so that a cluster that is down is not stormed.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);
/// How many puts store the keys for `get`, or deletes remove them, at the same time.
const KEYS_IN_FLIGHT: u64 = 256;
/// How many different errors are told apart; the rest is only counted.
const ERRORS_LISTED: usize = 3;

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
    /// The first different errors, each with how often it came.
    error_counts: BTreeMap<String, u64>,
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
        value: value(args.value_size),
        keys: Keys::new(args.keys),
        results: Mutex::new(Results::new()?),
    });
    let measured = tokio::select! {
        measured = measure(&load, &args) => measured,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Code::Interrupted, "interrupted")),
    };
    let removed = if args.keep { Ok(()) } else { remove_keys(&load).await };
    client.close().await;
    measured?;
    let report = load.lock_results().report(&args);
    print(&report, args.json)?;
    report.outcome()?;
    removed
}

/// What every worker shares.
struct Load {
    client: Client,
    kind: BenchKind,
    value: Bytes,
    keys: Keys,
    results: Mutex<Results>,
}

struct Results {
    latencies_us: Histogram<u64>,
    completed: u64,
    errors: u64,
    error_counts: BTreeMap<String, u64>,
}

/// Which keys there are, and which of them a put was sent for, so that they can be removed: one bit each.
struct Keys {
    count: u64,
    put: Vec<AtomicU64>,
}

impl Keys {
    fn new(count: u64) -> Keys {
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(usize::MAX);
        Keys { count, put: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    fn place(&self, number: u64) -> Option<(&AtomicU64, u64)> {
        let word = self.put.get(usize::try_from(number / 64).ok()?)?;
        Some((word, 1 << (number % 64)))
    }

    fn note_put(&self, number: u64) {
        if let Some((word, bit)) = self.place(number) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    fn was_put(&self, number: u64) -> bool {
        self.place(number).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }
}

impl Load {
    async fn operate(&self, number: u64) -> Result<(), ClientError> {
        match self.kind {
            BenchKind::Put => self.put(number).await,
            BenchKind::Get => self.client.get(key(number)).await.map(drop),
        }
    }

    async fn put(&self, number: u64) -> Result<(), ClientError> {
        // Before it is sent: one that fails may be carried out all the same.
        self.keys.note_put(number);
        self.client.put(key(number), self.value.clone()).await.map(drop)
    }

    fn lock_results(&self) -> MutexGuard<'_, Results> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One worker: one request at a time, from now until `end`; counts from `start`.
    async fn work(&self, seed: u64, start: Instant, end: Instant) {
        let mut random = seed;
        let mut began = Instant::now();
        while began < end {
            let number = next_random(&mut random) % self.keys.count;
            let result = self.operate(number).await;
            let finished = Instant::now();
            if began >= start {
                self.record(result.as_ref().err(), finished - began, finished <= end);
            }
            if result.is_err() {
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
            began = Instant::now();
        }
    }

    /// A request that was slow enough to end after the measurement does not count as throughput, but its latency does.
    fn record(&self, error: Option<&ClientError>, latency: Duration, in_time: bool) {
        let mut results = self.lock_results();
        if let Some(error) = error {
            results.note_error(text::shown(&error.to_string()));
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
        Ok(Results { latencies_us, completed: 0, errors: 0, error_counts: BTreeMap::new() })
    }

    fn note_error(&mut self, error: String) {
        self.errors += 1;
        if self.error_counts.len() < ERRORS_LISTED || self.error_counts.contains_key(&error) {
            *self.error_counts.entry(error).or_default() += 1;
        }
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
            error_counts: self.error_counts.clone(),
        }
    }
}

impl Report {
    /// An error unless every operation was done, and there was one.
    fn outcome(&self) -> Outcome {
        if self.errors == 0 && self.operations > 0 {
            return Ok(());
        }
        let total = self.operations + self.errors;
        let mut told = format!("{} of {total} operations failed", self.errors);
        for (error, count) in &self.error_counts {
            let _ = write!(told, "\n  {count} times: {error}");
        }
        let unlisted = self.errors - self.error_counts.values().sum::<u64>();
        if unlisted > 0 {
            let _ = write!(told, "\n  {unlisted} times: other errors");
        }
        if total == 0 {
            "no operation ended in the time of the measurement".clone_into(&mut told);
        }
        Err(Failure::new(Code::Unavailable, told))
    }
}

async fn measure(load: &Arc<Load>, args: &BenchArgs) -> Outcome {
    if args.kind == BenchKind::Get {
        for_all_keys(
            load,
            "storing the keys",
            |_| true,
            |load, number| async move { load.put(number).await },
        )
        .await?;
    }
    let start = Instant::now() + WARM_UP;
    let end = start + Duration::from_secs(args.seconds);
    let mut workers = JoinSet::new();
    for seed in 0..u64::from(args.inflight) {
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

/// Removes what was put here.
async fn remove_keys(load: &Arc<Load>) -> Outcome {
    let remove =
        |load: Arc<Load>, number| async move { load.client.delete(key(number)).await.map(drop) };
    let removed =
        for_all_keys(load, "removing the keys", |number| load.keys.was_put(number), remove);
    removed.await.map_err(|failure| Failure {
        error: failure
            .error
            .context("the keys that begin with bench/ are still there, or some of them"),
        ..failure
    })
}

/// Does something for every key that is wanted, many at a time. Ends at the first error.
async fn for_all_keys<F>(
    load: &Arc<Load>,
    doing: &'static str,
    wanted: impl Fn(u64) -> bool,
    work: impl Fn(Arc<Load>, u64) -> F,
) -> Outcome
where
    F: Future<Output = Result<(), ClientError>> + Send + 'static,
{
    let bar = progress::record_bar(doing, load.keys.count);
    let mut working = JoinSet::new();
    for number in (0..load.keys.count).filter(|&number| wanted(number)) {
        while working.len() as u64 >= KEYS_IN_FLIGHT {
            finish_one(&mut working, doing).await?;
        }
        working.spawn(work(Arc::clone(load), number));
        bar.set_position(number);
    }
    while !working.is_empty() {
        finish_one(&mut working, doing).await?;
    }
    bar.finish_and_clear();
    Ok(())
}

async fn finish_one(
    working: &mut JoinSet<Result<(), ClientError>>,
    doing: &'static str,
) -> Outcome {
    let Some(ended) = working.join_next().await else { return Ok(()) };
    ended
        .or_fail(Code::Failed, || "a worker failed".to_owned())?
        .map_err(|error| connect::failure(error, doing))
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
    use clap::{Args as _, Command, FromArgMatches as _};

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
    fn a_bench_that_did_not_do_its_work_says_why() {
        let command = BenchArgs::augment_args(Command::new("bench"));
        let matches = command.try_get_matches_from(["bench", "put"]).unwrap();
        let args = BenchArgs::from_arg_matches(&matches).unwrap();
        let mut results = Results::new().unwrap();
        let none = results.report(&args).outcome().unwrap_err();
        assert_eq!(none.code, Code::Unavailable);
        assert!(none.to_string().contains("no operation ended"), "{none}");
        results.completed = 5;
        assert!(results.report(&args).outcome().is_ok());
        for error in ["first", "first", "b", "c", "d", "e", "first"] {
            results.note_error(error.to_owned());
        }
        let some = results.report(&args).outcome().unwrap_err().to_string();
        assert!(some.starts_with("7 of 12 operations failed"), "{some}");
        assert!(some.contains("3 times: first") && some.contains("2 times: other"), "{some}");
    }

    #[test]
    fn a_key_that_was_put_is_known() {
        let keys = Keys::new(130);
        for number in [0, 64, 129, 130, 1 << 40] {
            keys.note_put(number);
        }
        let put: Vec<u64> = (0..200).filter(|&number| keys.was_put(number)).collect();
        // The last word has bits for keys that are never drawn.
        assert_eq!(put, [0, 64, 129, 130]);
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
