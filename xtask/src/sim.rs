//! `cargo xtask sim`: runs seeds through the simulator and reports what failed and what was exercised.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use raft_sim::{Coverage, Failure, run_seed, run_seed_with_timeline};

/// What to simulate.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SimArgs {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000, conflicts_with = "seed")]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    start: u64,
    /// Run exactly this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Print every input and action of that seed.
    #[arg(long, requires = "seed")]
    verbose: bool,
    /// How many threads; each runs seeds of its own.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: u64,
    /// Start no further seed after this many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Stop after this many failures.
    #[arg(long, default_value_t = 10)]
    failures: usize,
}

impl SimArgs {
    /// What CI runs: a bounded number of seeds, within a bounded time.
    pub(crate) fn for_ci(seeds: u64, seconds: u64) -> SimArgs {
        SimArgs {
            seeds,
            start: 0,
            seed: None,
            verbose: false,
            jobs: 2,
            seconds: Some(seconds),
            failures: 10,
        }
    }
}

/// What a number of seeds came to.
#[derive(Default)]
struct Tally {
    done: u64,
    simulated_us: u64,
    coverage: Coverage,
    failures: Vec<Failure>,
}

pub(crate) fn run(args: &SimArgs) -> anyhow::Result<()> {
    if let Some(seed) = args.seed {
        return replay(seed, args.verbose);
    }
    let begun = Instant::now();
    let deadline = args.seconds.map(|seconds| begun + Duration::from_secs(seconds));
    let end = args.start.checked_add(args.seeds).context("--start plus --seeds is too large")?;
    let next = AtomicU64::new(args.start);
    let tally = Mutex::new(Tally::default());
    let bar = progress_bar(args.seeds);
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                while deadline.is_none_or(|deadline| Instant::now() < deadline) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let outcome = run_seed(seed);
                    bar.inc(1);
                    let Ok(mut tally) = tally.lock() else { break };
                    tally.done += 1;
                    tally.simulated_us += outcome.simulated_us;
                    tally.coverage.merge(&outcome.coverage);
                    if let Some(failure) = outcome.failure {
                        bar.suspend(|| println!("FAILED {failure}"));
                        tally.failures.push(failure);
                    }
                    if tally.failures.len() >= args.failures {
                        break;
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let Ok(tally) = tally.into_inner() else { bail!("a simulation thread panicked") };
    report(&tally, begun.elapsed());
    if !tally.failures.is_empty() {
        let mut seeds: Vec<u64> = tally.failures.iter().map(|failure| failure.seed).collect();
        seeds.sort_unstable();
        bail!("{} of {} seeds failed: {seeds:?}", seeds.len(), tally.done);
    }
    Ok(())
}

fn replay(seed: u64, verbose: bool) -> anyhow::Result<()> {
    let outcome = if verbose {
        run_seed_with_timeline(seed, &mut |line| println!("{line}"))
    } else {
        run_seed(seed)
    };
    for (what, count) in outcome.coverage.iter() {
        println!("{count:>12} {what}");
    }
    println!("seed {seed}: {} us simulated, hash {:016x}", outcome.simulated_us, outcome.hash);
    match outcome.failure {
        Some(failure) => bail!("{failure}"),
        None => Ok(()),
    }
}

fn progress_bar(seeds: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(seeds);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {pos}/{len} seeds  {per_sec}  {eta} left")
    {
        bar.set_style(style);
    }
    bar
}

fn report(tally: &Tally, took: Duration) {
    for (what, count) in tally.coverage.iter() {
        println!("{count:>12} {what}");
    }
    let seconds = took.as_secs_f64();
    let simulated = tally.simulated_us as f64 / 1e6;
    println!(
        "sim: {} seeds in {seconds:.1} s ({:.0} seeds/s), {simulated:.0} s simulated ({:.0} times real time), {} failed",
        tally.done,
        tally.done as f64 / seconds,
        simulated / seconds,
        tally.failures.len()
    );
}
