//! `cargo xtask recall`: how soon the simulator finds the seeded bugs of `raft-core`, of the rules that all drivers share, of its own disks and machines, and of
//! the key-value machine. It judges the simulator: its faults and its checkers. (`cargo xtask mutants` judges the tests of `raft-core`.)

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::mutants::{Mutant, parse};

/// Which seeded bugs to look for, and how long.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask recall                         every seeded bug; fails if one is not found
  cargo xtask recall --seeds 20000           with more patience
  cargo xtask recall VoteTwiceInATerm        this one")]
pub(crate) struct RecallArgs {
    /// Only these.
    #[arg(value_name = "MUTANT")]
    only: Vec<String>,
    /// How many seeds to try for each.
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// How many to look for at once.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: u64,
    /// How many seconds one seed may take before the bug counts as found by its hanging.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// A seeded bug, and where it is.
#[derive(Clone, Debug)]
struct Bug {
    mutant: Mutant,
    /// What names it to the program that runs seeds.
    variable: &'static str,
}

/// The lists, and what chooses one of each.
const LISTS: [(&str, &str); 4] = [
    ("raft-core/src/mutants.rs", "RAFT_MUTANT"),
    ("raft-node/src/order/mutants.rs", "RAFT_NODE_MUTANT"),
    ("raft-sim/src/mutants.rs", "RAFT_SIM_MUTANT"),
    ("raft-kv/src/mutants.rs", "RAFT_KV_MUTANT"),
];

/// What came of looking for one.
#[derive(Clone, Debug)]
struct Finding {
    /// Seeds that were run until then.
    seeds: u64,
    simulated_us: u64,
    /// What noticed it; `None` if nothing did.
    rule: Option<String>,
}

pub(crate) fn run(root: &Path, args: &RecallArgs) -> anyhow::Result<()> {
    let bugs = choose(root, args)?;
    let program = build(root)?;
    let begun = Instant::now();
    let mut search = Search { program, args, without: BTreeMap::new() };
    search.note_what_fails_without()?;
    if !search.without.is_empty() {
        println!("without any bug {} of {} seeds fail:", search.without.len(), args.seeds);
        for (seed, rule) in &search.without {
            println!("  seed {seed}: {rule}");
        }
    }
    let findings = search.run(&bugs)?;
    report(&bugs, &findings, args, begun.elapsed())
}

fn choose(root: &Path, args: &RecallArgs) -> anyhow::Result<Vec<Bug>> {
    let mut all = Vec::new();
    for (path, variable) in LISTS {
        let text = std::fs::read_to_string(root.join(path)).with_context(|| path.to_owned())?;
        let mutants = parse(&text).with_context(|| path.to_owned())?;
        all.extend(mutants.into_iter().map(|mutant| Bug { mutant, variable }));
    }
    let is_known = |name: &str| all.iter().any(|bug| bug.mutant.name == name);
    if let Some(unknown) = args.only.iter().find(|name| !is_known(name)) {
        let lists = LISTS.map(|(path, _)| path).join(", ");
        bail!("no seeded bug is called {unknown}: see {lists}");
    }
    all.retain(|bug| args.only.is_empty() || args.only.contains(&bug.mutant.name));
    Ok(all)
}

/// Compiles the simulator once, with all seeded bugs in and none active, into the folder of `cargo xtask mutants`.
fn build(root: &Path) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = root.join("target/mutants");
    let status = Command::new(cargo)
        .args(["build", "--release", "--package", "raft-sim", "--example", "recall", "--locked"])
        .env("RUSTFLAGS", "--cfg raft_mutants")
        .env("CARGO_TARGET_DIR", &target)
        .current_dir(root)
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("raft-sim does not compile with --cfg raft_mutants");
    }
    Ok(target.join("release/examples/recall"))
}

struct Search<'a> {
    program: PathBuf,
    args: &'a RecallArgs,
    /// What fails while no bug is active: the rule that each such seed breaks. These prove nothing; and a rule that is broken without the bug proves
    /// something only if it is broken far more often with it.
    without: BTreeMap<u64, String>,
}

impl Search<'_> {
    fn run(&self, bugs: &[Bug]) -> anyhow::Result<Vec<Finding>> {
        let queue: Mutex<VecDeque<usize>> = Mutex::new((0..bugs.len()).collect());
        let findings: Mutex<BTreeMap<usize, Finding>> = Mutex::default();
        let work = || -> anyhow::Result<()> {
            loop {
                let next = queue.lock().ok().and_then(|mut queue| queue.pop_front());
                let Some(at) = next else { return Ok(()) };
                let finding = self.look_for(&bugs[at])?;
                eprintln!("{}", row(&bugs[at], &finding));
                if let Ok(mut findings) = findings.lock() {
                    findings.insert(at, finding);
                }
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.args.jobs).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread that looked for seeded bugs panicked"),
            })
        })?;
        match findings.into_inner() {
            Ok(findings) => Ok(findings.into_values().collect()),
            Err(_) => bail!("a thread that looked for seeded bugs panicked"),
        }
    }

    fn note_what_fails_without(&mut self) -> anyhow::Result<()> {
        let mut next = 0;
        while next < self.args.seeds {
            let run = self.run_seeds(None, next, self.args.seeds - next)?;
            next += run.seeds;
            if let Some(rule) = run.failed {
                self.without.insert(next - 1, rule);
            }
        }
        Ok(())
    }

    /// Runs seeds with the bug active, until one fails that holds without it, by a rule that proves something.
    fn look_for(&self, bug: &Bug) -> anyhow::Result<Finding> {
        let mut finding = Finding { seeds: 0, simulated_us: 0, rule: None };
        let chosen = Some((bug.variable, bug.mutant.name.as_str()));
        let mut broken: BTreeMap<String, usize> = BTreeMap::new();
        while finding.seeds < self.args.seeds {
            let first = finding.seeds;
            let run = self.run_seeds(chosen, first, self.args.seeds - first)?;
            finding.seeds += run.seeds;
            finding.simulated_us += run.simulated_us;
            let Some(rule) = run.failed else { break };
            if self.without.contains_key(&(finding.seeds - 1)) {
                continue;
            }
            let times = broken.entry(rule.clone()).or_default();
            *times += 1;
            if self.proves(&rule, finding.seeds, *times) {
                finding.rule = Some(rule);
                break;
            }
        }
        Ok(finding)
    }

    /// Whether a rule that was broken so many times within so many seeds points to the bug.
    fn proves(&self, rule: &str, seeds: u64, times: usize) -> bool {
        if !self.without.values().any(|other| other == rule) {
            return true;
        }
        let before = self.without.iter().filter(|(seed, other)| **seed < seeds && *other == rule);
        // Sound seeds fail too once a bug has moved what happens in them; as often as others do, by chance.
        times > 1 + 3 * before.count()
    }

    fn run_seeds(
        &self,
        chosen: Option<(&str, &str)>,
        first: u64,
        count: u64,
    ) -> anyhow::Result<Run> {
        let mut command = Command::new(&self.program);
        for (_, variable) in LISTS {
            command.env_remove(variable);
        }
        let mut child = command
            .args([first.to_string(), count.to_string()])
            .envs(chosen)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        let mut run = watch(&mut child, Duration::from_secs(self.args.timeout));
        let _ = child.kill();
        child.wait().context("cannot wait for the simulator")?;
        if run.failed.is_none() && run.seeds < count {
            // It ended within a seed: an abort, or a stack that overflowed.
            run.seeds += 1;
            run.failed = Some("it died".to_owned());
        }
        Ok(run)
    }
}

/// What one process made of a row of seeds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Run {
    seeds: u64,
    simulated_us: u64,
    failed: Option<String>,
}

impl Run {
    /// Takes a line: `held SEED MICROSECONDS` or `failed SEED MICROSECONDS RULE`.
    fn note(&mut self, line: &str) {
        let mut words = line.splitn(4, ' ');
        let (Some(verdict), Some(_)) = (words.next(), words.next()) else { return };
        self.seeds += 1;
        self.simulated_us += words.next().and_then(|time| time.parse().ok()).unwrap_or(0);
        if verdict == "failed" {
            self.failed = Some(words.next().unwrap_or_default().to_owned());
        }
    }
}

/// Reads what the simulator says until a seed fails, it ends, or a seed takes too long.
fn watch(child: &mut Child, patience: Duration) -> Run {
    let mut run = Run::default();
    let Some(output) = child.stdout.take() else { return run };
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    while run.failed.is_none() {
        match receiver.recv_timeout(patience) {
            Ok(line) => run.note(&line),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                run.seeds += 1;
                run.failed = Some("it hangs".to_owned());
            }
        }
    }
    drop(receiver);
    let _ = child.kill();
    let _ = reader.join();
    run
}

fn report(
    bugs: &[Bug],
    findings: &[Finding],
    args: &RecallArgs,
    took: Duration,
) -> anyhow::Result<()> {
    let mut missed = Vec::new();
    println!("{:<36} {:>6}  {:>9}  found by", "seeded bug", "seeds", "simulated");
    for (bug, finding) in bugs.iter().zip(findings) {
        let name = bug.mutant.name.as_str();
        if finding.rule.is_none() {
            missed.push(name);
        }
        println!("{}", row(bug, finding));
    }
    let found = findings.iter().filter(|finding| finding.rule.is_some()).count();
    println!("recall: {found} found of {}, in {:.0} s", bugs.len(), took.as_secs_f64());
    if !missed.is_empty() {
        bail!(
            "within {} seeds nothing notices {}: give the simulator the fault or the checker that does",
            args.seeds,
            missed.join(", ")
        );
    }
    Ok(())
}

fn row(bug: &Bug, finding: &Finding) -> String {
    let rule = finding.rule.as_deref().unwrap_or("NOT FOUND");
    let time = simulated(finding.simulated_us);
    format!("{:<36} {:>6}  {time:>9}  {rule}", bug.mutant.name, finding.seeds)
}

/// A time in the unit that fits it.
fn simulated(us: u64) -> String {
    let seconds = us / 1_000_000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_simulator_are_read() {
        let mut run = Run::default();
        run.note("held 4 1500");
        run.note("");
        run.note("failed 5 500 log matching");
        let failed = Some("log matching".to_owned());
        assert_eq!(run, Run { seeds: 2, simulated_us: 2000, failed });
    }

    #[test]
    fn times_are_shown_in_a_unit_that_fits() {
        assert_eq!(simulated(5_900_000), "5 s");
        assert_eq!(simulated(600_000_000), "10 min");
        assert_eq!(simulated(7_200_000_000), "2 h");
    }
}
