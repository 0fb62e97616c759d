//! One run: of a seed or a plan file, with its timeline or made smaller; or a recording of a node, lived again.

use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context, bail};
use raft_core::recording::MAGIC;
use raft_sim::shrink::{Effort, shrink};
use raft_sim::timeline::{Moment, Window};
use raft_sim::{Case, diagram, recorded};

use super::{SimArgs, report};

/// A recording is read at once.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// How many moments of a recording are kept for its diagram, which shows the last of them.
const WINDOW: usize = 200_000;
/// After so many runs the shrinker rests.
const SHRINK_RUNS_MAX: u64 = 20_000;

/// Runs a case, and says what came of it. `command` runs it again.
pub(super) fn run(args: &SimArgs, case: &Case, command: &str) -> anyhow::Result<()> {
    if args.shrink {
        return make_smaller(args, case);
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    // Whoever closes the pipe has read enough.
    let outcome = if args.verbose {
        case.run(Some(&mut |moment| drop(writeln!(out, "{moment}"))))
    } else {
        case.run(None)
    };
    for (what, count) in outcome.coverage.iter() {
        let _ = writeln!(out, "{count:>12} {what}");
    }
    let (seed, us, hash) = (case.seed, outcome.simulated_us, outcome.hash);
    let _ = writeln!(out, "seed {seed}: {us} us simulated, hash {hash:016x}");
    let _ = out.flush();
    drop(out);
    match outcome.failure {
        Some(failure) => {
            report::show(args, case, &failure, command);
            bail!("seed {seed} failed: {}", failure.violation.rule)
        }
        None => Ok(()),
    }
}

/// Looks for a smaller run that fails by the same rule.
fn make_smaller(args: &SimArgs, case: &Case) -> anyhow::Result<()> {
    let effort =
        Effort { tries: args.tries, runs_max: SHRINK_RUNS_MAX, jobs: args.jobs() as usize };
    let fails = |case: &Case| case.run(None).failure;
    let found = shrink(case, effort, &fails, &mut |found| {
        let what = found.steps.last().map_or("", String::as_str);
        println!("{:>6} runs: {what}", found.runs);
    });
    let Some(found) = found else { bail!("seed {} does not fail", case.seed) };
    println!(
        "sim: {} simplifications in {} runs: {} nodes, fails at {} us by: {}",
        found.steps.len(),
        found.runs,
        found.case.plan.voters + found.case.plan.spares,
        found.failure.at_us,
        found.failure.violation
    );
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot create {}", args.out.display()))?;
    let file = args.out.join(format!("small-{}.toml", case.seed));
    std::fs::write(&file, report::plan_text(&found.case, &found.failure))
        .with_context(|| format!("cannot write {}", file.display()))?;
    println!("  plan:      {}", file.display());
    println!("  reproduce: cargo xtask sim --replay {} --verbose", file.display());
    Ok(())
}

/// Runs a plan file, or lives a recording again: whichever the file is.
pub(super) fn replay(args: &SimArgs, file: &Path) -> anyhow::Result<()> {
    let reading = || format!("cannot read {}", file.display());
    let length = std::fs::metadata(file).with_context(reading)?.len();
    if length > FILE_BYTES_MAX {
        bail!(
            "{} has {length} bytes, more than the {FILE_BYTES_MAX} that can be replayed",
            file.display()
        );
    }
    let bytes = std::fs::read(file).with_context(reading)?;
    if bytes.starts_with(&MAGIC) {
        if args.shrink {
            bail!("a recording can not be shrunk: what it holds happened");
        }
        return live_again(args, file, &bytes);
    }
    let text =
        String::from_utf8(bytes).with_context(|| format!("{} is no text", file.display()))?;
    let case = Case::from_text(&text).with_context(reading)?;
    run(args, &case, &format!("cargo xtask sim --replay {}", file.display()))
}

fn live_again(args: &SimArgs, file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut window = Window::new(WINDOW);
    let mut tell = |moment: Moment| {
        let _ = writeln!(out, "{moment}");
        window.push(moment);
    };
    let replayed = recorded::replay(bytes, &mut tell)?;
    let _ = out.flush();
    drop(out);
    let moments: Vec<&Moment> = window.iter().collect();
    let name = file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot create {}", args.out.display()))?;
    let drawn = args.out.join(format!("{name}.svg"));
    std::fs::write(&drawn, diagram::draw(&name, &moments, args.rows))
        .with_context(|| format!("cannot write {}", drawn.display()))?;
    println!("  diagram:   {}", drawn.display());
    println!(
        "replayed {} inputs ({} refused) and {} actions{}",
        replayed.inputs,
        replayed.refused,
        replayed.actions,
        if replayed.is_cut_off { "; the file ends in the middle of a record" } else { "" }
    );
    if replayed.contradictions.is_empty() {
        return Ok(());
    }
    bail!(
        "the core did not do what it did then; was the recording written by this version?\n  {}",
        replayed.contradictions.join("\n  ")
    )
}
