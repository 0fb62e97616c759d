//! `cargo xtask sim`: runs whole clusters under faults. This file is its command line; `sweep` runs many seeds, `gates` says what they must have shown, `one` runs one, and replays and shrinks
//! it, `report` shows a failure.

use std::path::PathBuf;

use raft_sim::Case;

mod gates;
mod one;
mod report;
mod sweep;

/// What to simulate.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SimArgs {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000, conflicts_with_all = ["seed", "replay"])]
    seeds: u64,
    /// The first seed.
    #[arg(long, conflicts_with_all = ["seed", "replay"])]
    start: Option<u64>,
    /// Run fresh seeds for so many minutes; where they begin comes from the system, and is printed.
    #[arg(long, conflicts_with_all = ["seed", "replay", "seeds"])]
    minutes: Option<u64>,
    /// Run exactly this seed.
    #[arg(long, conflicts_with = "replay")]
    seed: Option<u64>,
    /// Run a plan file that a failure or --shrink wrote, or live a recording of a node again.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Dense traffic: at least 100 operations a second, and a fault every two seconds, for a minute.
    #[arg(long, conflicts_with = "replay")]
    dense: bool,
    /// Print everything that happens, moment by moment (of --seed or --replay).
    #[arg(long)]
    verbose: bool,
    /// Look for a smaller run that fails by the same rule (than --seed or --replay), and write its plan to a file.
    #[arg(long, conflicts_with = "verbose")]
    shrink: bool,
    /// With how many seeds each smaller plan is tried.
    #[arg(long, default_value_t = 16, requires = "shrink")]
    tries: u64,
    /// How many threads; each runs seeds of its own. [default: as many as there are cores]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: Option<u64>,
    /// Fail if fewer seeds were run in that time.
    #[arg(long, default_value_t = 0, value_name = "SEEDS")]
    at_least: u64,
    /// Start no further seed after this many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Stop after this many failures.
    #[arg(long, default_value_t = 10)]
    failures: usize,
    /// How many of a sweep's seeds are run twice more, to see that they do the same.
    #[arg(long, default_value_t = 100)]
    twice: u64,
    /// How many of the last moments a failure's diagram shows.
    #[arg(long, default_value_t = 300)]
    rows: usize,
    /// Where diagrams, timelines and plans of failures are written.
    #[arg(long, default_value = "target/sim", value_name = "FOLDER")]
    out: PathBuf,
    /// Where seeds that failed are noted, to be run by a test from then on.
    #[arg(long, default_value = "raft-sim/tests/corpus.txt", value_name = "FILE")]
    corpus: PathBuf,
    /// Seeds that are known to fail: a sweep names them apart from new failures.
    #[arg(long, default_value = "raft-sim/tests/open.txt", value_name = "FILE")]
    open: PathBuf,
}

/// A machine that runs fewer than these in the time of CI has shown too little.
const CI_SEEDS_MIN: u64 = 5_000;

impl SimArgs {
    /// What CI runs: a bounded number of seeds, within a bounded time.
    pub(crate) fn for_ci(seeds: u64, seconds: u64) -> SimArgs {
        SimArgs { seeds, seconds: Some(seconds), at_least: CI_SEEDS_MIN, ..SimArgs::default() }
    }

    fn jobs(&self) -> u64 {
        let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        self.jobs.unwrap_or_else(cores)
    }

    /// What a seed stands for here.
    fn case(&self, seed: u64) -> Case {
        if self.dense { Case::dense(seed) } else { Case::of_seed(seed) }
    }

    /// The command that runs a seed again.
    fn command(&self, seed: u64) -> String {
        let dense = if self.dense { " --dense" } else { "" };
        format!("cargo xtask sim --seed {seed}{dense}")
    }
}

impl Default for SimArgs {
    fn default() -> SimArgs {
        SimArgs {
            seeds: 1000,
            start: None,
            minutes: None,
            seed: None,
            replay: None,
            dense: false,
            verbose: false,
            shrink: false,
            tries: 16,
            jobs: None,
            at_least: 0,
            seconds: None,
            failures: 10,
            twice: 100,
            rows: 300,
            out: "target/sim".into(),
            corpus: "raft-sim/tests/corpus.txt".into(),
            open: "raft-sim/tests/open.txt".into(),
        }
    }
}

pub(crate) fn run(args: &SimArgs) -> anyhow::Result<()> {
    if let Some(file) = &args.replay {
        return one::replay(args, file);
    }
    if let Some(seed) = args.seed {
        return one::run(args, &args.case(seed), &args.command(seed));
    }
    if args.verbose || args.shrink {
        anyhow::bail!("--verbose and --shrink need one run: --seed N or --replay FILE");
    }
    sweep::run(args)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
