//! `cargo xtask mutants`: takes the guards of `raft-core` out, one at a time, and demands that a test of `raft-core` notices each time.
//! The list of mutants, and what each takes out, is `raft-core/src/mutants.rs`. It judges the tests, not the code.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Which mutants to try, and how long.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask mutants                        every mutant; fails if a test misses one
  cargo xtask mutants --list                 what there is
  cargo xtask mutants VoteTwiceInATerm       this one
  RAFT_MUTANT=VoteTwiceInATerm RUSTFLAGS='--cfg raft_mutants' CARGO_TARGET_DIR=target/mutants cargo test -p raft-core
                                             this one, with everything that the tests say")]
pub(crate) struct MutantsArgs {
    /// Only these.
    #[arg(value_name = "MUTANT")]
    only: Vec<String>,
    /// Print the list, and stop.
    #[arg(long)]
    list: bool,
    /// How many mutants to try at once.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: u64,
    /// How many seconds one test program may take before the mutant counts as caught by its hanging.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

impl MutantsArgs {
    /// What CI runs: all.
    pub(crate) fn for_ci() -> MutantsArgs {
        MutantsArgs { only: Vec::new(), list: false, jobs: 2, timeout: 20 }
    }
}

/// One seeded bug: its name, and the line that says which guard it takes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mutant {
    pub(crate) name: String,
    pub(crate) about: String,
}

/// A compiled test program of `raft-core`.
struct TestProgram {
    name: String,
    path: PathBuf,
}

/// What a test program made of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed(String),
    /// It did not end in time; the test that was running, if it is known.
    Hung(String),
    /// It ended without naming a test that failed: an abort, or a stack overflow.
    Died,
}

pub(crate) fn run(root: &Path, args: &MutantsArgs) -> anyhow::Result<()> {
    let path = root.join("raft-core/src/mutants.rs");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let all = parse(&text).with_context(|| path.display().to_string())?;
    if args.list {
        for mutant in &all {
            println!("{:<34} {}", mutant.name, mutant.about);
        }
        return Ok(());
    }
    if let Some(unknown) = args.only.iter().find(|name| all.iter().all(|m| m.name != **name)) {
        bail!("no mutant is called {unknown}: see cargo xtask mutants --list");
    }
    let chosen: Vec<Mutant> = all
        .into_iter()
        .filter(|mutant| args.only.is_empty() || args.only.contains(&mutant.name))
        .collect();
    let programs = build(root)?;
    check_unmutated(root, &programs)?;
    let begun = Instant::now();
    let verdicts = try_all(root, args, &chosen, &programs)?;
    report(&chosen, &verdicts, begun.elapsed())
}

/// Reads the list out of its file: doc lines, then a name and a comma, within `mutants! { … }`.
pub(crate) fn parse(text: &str) -> anyhow::Result<Vec<Mutant>> {
    let lines = text.lines().skip_while(|line| *line != "mutants! {").skip(1);
    let mut mutants: Vec<Mutant> = Vec::new();
    let mut about = String::new();
    for line in lines.take_while(|line| *line != "}").map(str::trim) {
        if let Some(doc) = line.strip_prefix("///") {
            about = format!("{about} {}", doc.trim());
        } else if let Some(name) = line.strip_suffix(',') {
            let about = std::mem::take(&mut about).trim().to_owned();
            mutants.push(Mutant { name: name.to_owned(), about });
        } else if !line.is_empty() && !line.starts_with("//") {
            bail!("not a line of the list: {line}");
        }
    }
    if mutants.is_empty() {
        bail!("no list between `mutants! {{` and `}}`");
    }
    Ok(mutants)
}

/// Compiles the tests of `raft-core` once, with all mutants in and none active; into a target folder of their own, so that nothing else is
/// compiled anew.
fn build(root: &Path) -> anyhow::Result<Vec<TestProgram>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["test", "--package", "raft-core", "--lib", "--tests", "--no-run", "--locked"])
        .arg("--message-format=json-render-diagnostics")
        .env("RUSTFLAGS", "--cfg raft_mutants")
        .env("CARGO_TARGET_DIR", root.join("target/mutants"))
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the tests of raft-core do not compile with --cfg raft_mutants");
    }
    let mut programs = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        if let (Some(path), Some(name)) =
            (message["executable"].as_str(), message["target"]["name"].as_str())
        {
            programs.push(TestProgram { name: name.to_owned(), path: path.into() });
        }
    }
    if programs.is_empty() {
        bail!("cargo named no test program of raft-core");
    }
    // The slow ones last: most mutants never get there.
    programs.sort_by_key(|program| (program.name.contains("storm"), program.name.clone()));
    Ok(programs)
}

fn check_unmutated(root: &Path, programs: &[TestProgram]) -> anyhow::Result<()> {
    for program in programs {
        let verdict = try_one(root, program, "", Duration::from_secs(300))?;
        if verdict != Verdict::Passed {
            bail!("{}: {verdict:?} with no mutant active: repair that first", program.name);
        }
    }
    Ok(())
}

/// Tries every mutant on every program until one notices. Answers in the order of the mutants.
fn try_all(
    root: &Path,
    args: &MutantsArgs,
    mutants: &[Mutant],
    programs: &[TestProgram],
) -> anyhow::Result<Vec<Vec<(String, Verdict)>>> {
    let timeout = Duration::from_secs(args.timeout);
    let queue: Mutex<VecDeque<usize>> = Mutex::new((0..mutants.len()).collect());
    let found = Mutex::new(vec![Vec::new(); mutants.len()]);
    let work = || -> anyhow::Result<()> {
        loop {
            let next = queue.lock().ok().and_then(|mut queue| queue.pop_front());
            let Some(at) = next else { return Ok(()) };
            for program in programs {
                let verdict = try_one(root, program, &mutants[at].name, timeout)?;
                if verdict != Verdict::Passed {
                    if let Ok(mut found) = found.lock() {
                        found[at].push((program.name.clone(), verdict));
                    }
                    break;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread that tried mutants panicked"),
        })
    })?;
    match found.into_inner() {
        Ok(found) => Ok(found),
        Err(_) => bail!("a thread that tried mutants panicked"),
    }
}

/// Runs one test program under one mutant, until a test fails.
fn try_one(
    root: &Path,
    program: &TestProgram,
    mutant: &str,
    timeout: Duration,
) -> anyhow::Result<Verdict> {
    let mut child = Command::new(&program.path)
        .args(["--test-threads", "1"])
        .current_dir(root.join("raft-core"))
        .env("RAFT_MUTANT", mutant)
        .env("RUST_BACKTRACE", "0")
        // The same cases each time; what fails on purpose is neither shrunk nor remembered.
        .env("PROPTEST_RNG_SEED", "20141")
        .env("PROPTEST_MAX_SHRINK_ITERS", "0")
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {}", program.path.display()))?;
    let verdict = watch(&mut child, Instant::now() + timeout);
    let _ = child.kill();
    let status = child.wait().context("cannot wait for a test program")?;
    Ok(match verdict {
        Verdict::Passed if !status.success() => Verdict::Died,
        verdict => verdict,
    })
}

/// Reads what a test program says until it names a failure, ends, or takes too long.
fn watch(child: &mut Child, deadline: Instant) -> Verdict {
    let Some(output) = child.stdout.take() else { return Verdict::Died };
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let verdict = loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if let Some(test) = failed_test(&line) {
                    break Verdict::Failed(test.to_owned());
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                // All is read: it has ended, or is about to.
                let _ = child.wait();
                break Verdict::Passed;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                // The line that the hanging test began is only readable now.
                let begun = receiver.iter().last().unwrap_or_default();
                break Verdict::Hung(running_test(&begun).to_owned());
            }
        }
    };
    drop(receiver);
    let _ = child.kill();
    let _ = reader.join();
    verdict
}

/// The test that a line of libtest's output reports as failed.
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED").map(without_note)
}

fn running_test(line: &str) -> &str {
    line.strip_prefix("test ").and_then(|rest| rest.split(" ...").next()).map_or("?", without_note)
}

/// A test that should panic is followed by a note that says so.
fn without_note(name: &str) -> &str {
    name.strip_suffix(" - should panic").unwrap_or(name)
}

fn report(
    mutants: &[Mutant],
    verdicts: &[Vec<(String, Verdict)>],
    took: Duration,
) -> anyhow::Result<()> {
    let mut missed = Vec::new();
    for (mutant, verdicts) in mutants.iter().zip(verdicts) {
        let caught = match verdicts.first() {
            Some((program, Verdict::Failed(test))) => format!("{program}: {test}"),
            Some((program, Verdict::Hung(test))) => format!("{program}: {test} (it hangs)"),
            Some((program, Verdict::Died)) => format!("{program} (it died)"),
            Some((_, Verdict::Passed)) | None => {
                missed.push(mutant.name.as_str());
                "MISSED".to_owned()
            }
        };
        println!("{:<34} {caught}", mutant.name);
    }
    println!(
        "mutants: {} caught of {}, in {:.0} s",
        mutants.len() - missed.len(),
        mutants.len(),
        took.as_secs_f64()
    );
    if !missed.is_empty() {
        bail!("no test notices {}: write the one that does", missed.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_from_the_macro() {
        let text = "//! x\nmutants! {\n    // A group.\n\n    /// One.\n    /// And more.\n    First,\n    /// Two.\n    Second,\n}\n";
        let mutant =
            |name: &str, about: &str| Mutant { name: name.to_owned(), about: about.to_owned() };
        assert_eq!(
            parse(text).unwrap(),
            [mutant("First", "One. And more."), mutant("Second", "Two.")]
        );
        assert!(parse("mutants! {\n  fn surprise() {}\n}\n").is_err());
        assert!(parse("nothing").is_err());
    }

    #[test]
    fn failures_are_read_from_libtest() {
        assert_eq!(failed_test("test a::b ... FAILED"), Some("a::b"));
        assert_eq!(failed_test("test a::b - should panic ... FAILED"), Some("a::b"));
        assert_eq!(failed_test("test a::b ... ok"), None);
        assert_eq!(failed_test("test result: FAILED. 3 passed; 1 failed"), None);
        assert_eq!(running_test("test a::b ... "), "a::b");
        assert_eq!(running_test(""), "?");
    }
}
