//! Many seeds, on many threads: how fast, what happened in them, and what failed.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{IsTerminal, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use raft_sim::{Case, Coverage, Failure, Outcome, corpus};

use super::{SimArgs, gates, report};

/// What a number of seeds came to.
#[derive(Default)]
struct Tally {
    done: u64,
    simulated_us: u64,
    coverage: Coverage,
    failures: Vec<Failure>,
    /// Those that are known to fail, and do.
    open: Vec<u64>,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome, is_open: bool) {
        self.done += 1;
        self.simulated_us += outcome.simulated_us;
        self.coverage.merge(&outcome.coverage);
        match &outcome.failure {
            Some(_) if is_open => self.open.push(outcome.seed),
            Some(failure) => self.failures.push(failure.clone()),
            None => {}
        }
    }

    fn speed(&self, took: Duration) -> Speed {
        Speed { done: self.done, simulated_us: self.simulated_us, took }
    }
}

/// How fast it went.
struct Speed {
    done: u64,
    simulated_us: u64,
    took: Duration,
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64().max(1e-9);
        let per_second = self.done as f64 / seconds;
        let times = self.simulated_us as f64 / 1e6 / seconds;
        write!(f, "{per_second:.0} seeds/s, {times:.0} times real time")
    }
}

/// How often a sweep says how far it is where nobody sees a bar.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// How many dense seeds are run to say how fast they are.
const DENSE_SEEDS: u64 = 20;

pub(super) fn run(args: &SimArgs) -> anyhow::Result<()> {
    let (start, seeds, time) = range(args)?;
    println!("sim: seeds from {start} on, {} threads", args.jobs());
    let begun = Instant::now();
    let open = open_cases(&args.open)?;
    let tally = sweep(args, start, seeds, time, &open)?;
    let took = begun.elapsed();
    print_tally(&tally, took, args.jobs(), args.dense);
    let mut failed = tally.failures;
    note_in_corpus(args, &failed)?;
    if !args.dense && failed.is_empty() {
        failed.extend(measure_dense(args, &open)?);
    }
    verdict(tally.done, &failed)?;
    check_number(tally.done, args.at_least)?;
    if args.dense {
        return Ok(());
    }
    gates::check_coverage(&tally.coverage, tally.done)?;
    let again = (start..start + args.twice.min(tally.done)).map(|seed| args.case(seed));
    let same = gates::check_determinism(again, Case::fingerprint)?;
    println!("sim: {same} seeds run twice do the same");
    Ok(())
}

/// What is known to fail.
fn open_cases(file: &Path) -> anyhow::Result<Vec<Case>> {
    let file = crate::root().join(file);
    if !file.exists() {
        return Ok(Vec::new());
    }
    let known = corpus::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(known.into_iter().map(|known| known.case).collect())
}

/// A sweep with a failure is a failure.
pub(super) fn verdict(done: u64, failed: &[Failure]) -> anyhow::Result<()> {
    if failed.is_empty() {
        return Ok(());
    }
    let mut seeds: Vec<u64> = failed.iter().map(|failure| failure.seed).collect();
    seeds.sort_unstable();
    bail!("{} of {done} seeds failed: {seeds:?}", seeds.len());
}

/// A sweep that ran out of time has shown less than it should.
pub(super) fn check_number(done: u64, at_least: u64) -> anyhow::Result<()> {
    if done < at_least {
        bail!("only {done} seeds were run, of at least {at_least}: give the sweep more time");
    }
    Ok(())
}

/// The first seed, how many, and how long.
fn range(args: &SimArgs) -> anyhow::Result<(u64, u64, Option<Duration>)> {
    let seconds = args.seconds.map(Duration::from_secs);
    let Some(minutes) = args.minutes else {
        let start = args.start.unwrap_or(0);
        start.checked_add(args.seeds).context("--start plus --seeds is too large")?;
        return Ok((start, args.seeds, seconds));
    };
    let fresh = args.start.unwrap_or_else(fresh_seed);
    let time = minutes.checked_mul(60).context("--minutes is too large")?;
    let time = Duration::from_secs(time);
    Ok((fresh, u64::MAX - fresh, Some(seconds.map_or(time, |seconds| seconds.min(time)))))
}

/// A seed that nobody ran before: from the system. Short enough to be written down.
fn fresh_seed() -> u64 {
    // The standard library's hash tables are keyed by the system's randomness.
    RandomState::new().hash_one(std::process::id()) >> 24
}

fn sweep(
    args: &SimArgs,
    start: u64,
    seeds: u64,
    time: Option<Duration>,
    open: &[Case],
) -> anyhow::Result<Tally> {
    let deadline = time.map(|time| Instant::now() + time);
    let next = AtomicU64::new(0);
    let tally = Mutex::new(Tally::default());
    let progress = Progress::new(seeds, time);
    std::thread::scope(|scope| {
        for _ in 0..args.jobs() {
            scope.spawn(|| {
                while deadline.is_none_or(|deadline| Instant::now() < deadline) {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= seeds {
                        break;
                    }
                    let case = args.case(start + place);
                    let outcome = case.run(None);
                    let is_open = outcome.failure.is_some() && open.contains(&case);
                    let Ok(mut tally) = tally.lock() else { break };
                    tally.add(&outcome, is_open);
                    progress.show(&tally);
                    if let Some(failure) = outcome.failure.as_ref().filter(|_| !is_open) {
                        let command = args.command(case.seed);
                        progress.suspend(|| report::show(args, &case, failure, &command));
                    }
                    if tally.failures.len() >= args.failures {
                        break;
                    }
                }
            });
        }
    });
    progress.finish();
    let Ok(tally) = tally.into_inner() else { bail!("a simulation thread panicked") };
    Ok(tally)
}

/// How far a sweep is: a bar on a terminal, a line now and then elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
    seeds: u64,
    time: Option<Duration>,
    said: Mutex<Instant>,
}

impl Progress {
    fn new(seeds: u64, time: Option<Duration>) -> Progress {
        let begun = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            // A soak has no number of seeds: its bar is the time.
            let length = match time {
                Some(time) if seeds > 1 << 40 => time.as_secs(),
                _ => seeds,
            };
            let bar = ProgressBar::new(length);
            let style = ProgressStyle::with_template("{bar:30} {percent}%  {msg}  {eta} left");
            style.map(|style| bar.set_style(style)).ok();
            bar
        });
        Progress { bar, begun, seeds, time, said: Mutex::new(begun) }
    }

    fn show(&self, tally: &Tally) {
        let took = self.begun.elapsed();
        let line = || {
            format!(
                "{} seeds, {}, {} faults, {} failed",
                tally.done,
                tally.speed(took),
                tally.coverage.count("faults"),
                tally.failures.len()
            )
        };
        if let Some(bar) = &self.bar {
            let is_soak = self.time.is_some() && self.seeds > 1 << 40;
            bar.set_position(if is_soak { took.as_secs() } else { tally.done });
            bar.set_message(line());
            return;
        }
        let Ok(mut said) = self.said.lock() else { return };
        if said.elapsed() >= LINE_EVERY {
            *said = Instant::now();
            eprintln!("sim: {:.0} s: {}", took.as_secs_f64(), line());
        }
    }

    fn suspend(&self, show: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(show),
            None => show(),
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn print_tally(tally: &Tally, took: Duration, jobs: u64, is_dense: bool) {
    for (what, count) in tally.coverage.iter() {
        match gates::floor(what, tally.done) {
            Some(floor) if !is_dense => println!("{count:>12} {what} (at least {floor})"),
            _ => println!("{count:>12} {what}"),
        }
    }
    println!(
        "sim: {} seeds in {:.1} s on {jobs} threads ({}), {:.0} s simulated, {} faults, {} failed",
        tally.done,
        took.as_secs_f64(),
        tally.speed(took),
        tally.simulated_us as f64 / 1e6,
        tally.coverage.count("faults"),
        tally.failures.len()
    );
    if !tally.open.is_empty() {
        println!("sim: {} seeds fail that are known to: {:?}", tally.open.len(), tally.open);
    }
}

/// How fast dense traffic is on one thread. Its failures count like all others.
fn measure_dense(args: &SimArgs, open: &[Case]) -> anyhow::Result<Vec<Failure>> {
    let dense = SimArgs { dense: true, jobs: Some(1), ..args.clone() };
    let begun = Instant::now();
    let tally = sweep(&dense, 0, DENSE_SEEDS, None, open)?;
    let took = begun.elapsed();
    let simulated = tally.simulated_us as f64 / 1e6;
    let without = tally.coverage.count("faults without effect");
    let effective = tally.coverage.count("faults").saturating_sub(without);
    println!(
        "sim: dense: {} seeds on one thread: {}; {:.0} requests a second, {:.0} of them answered, a fault every {:.1} s",
        tally.done,
        tally.speed(took),
        tally.coverage.count("requests of clients") as f64 / simulated.max(1e-9),
        tally.coverage.count("requests judged") as f64 / simulated.max(1e-9),
        simulated / effective.max(1) as f64
    );
    note_in_corpus(&dense, &tally.failures)?;
    Ok(tally.failures)
}

/// Failed seeds stay, each once: the corpus is run whole by a test.
pub(super) fn note_in_corpus(args: &SimArgs, failed: &[Failure]) -> anyhow::Result<()> {
    let path = &crate::root().join(&args.corpus);
    let known = std::fs::read_to_string(path).unwrap_or_default();
    let kind = if args.dense { "dense" } else { "seed" };
    let is_new = |failure: &&Failure| {
        let line = format!("{kind} {} ", failure.seed);
        !known.lines().any(|known| known.starts_with(&line))
    };
    let failed: Vec<&Failure> = failed.iter().filter(is_new).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    for failure in &failed {
        writeln!(file, "{kind} {} {}", failure.seed, failure.violation.rule)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("sim: {} failed seeds noted in {}", failed.len(), path.display());
    Ok(())
}
