//! `cargo xtask trace`: writes a simulated run in the event schema of etcd/raft's published trace-validation spec, or checks such a trace
//! against our own model of that spec's rules.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use raft_sim::trace::{Options, check, check_json, run as run_traced};

/// The largest trace that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// What to write, or to check.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TraceArgs {
    /// Decides everything in the run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many founding members.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// How many events.
    #[arg(long, default_value_t = 1000)]
    events: usize,
    /// Lets members come and go, one at a time.
    #[arg(long)]
    membership: bool,
    /// Where to write the trace.
    #[arg(long, required_unless_present = "check")]
    out: Option<PathBuf>,
    /// Check this trace instead.
    #[arg(long, conflicts_with_all = ["out", "seed", "nodes", "events", "membership"])]
    check: Option<PathBuf>,
}

pub(crate) fn run(args: &TraceArgs) -> anyhow::Result<()> {
    match (&args.check, &args.out) {
        (Some(file), _) => check_file(file),
        (None, Some(file)) => write_file(args, file),
        (None, None) => bail!("nothing to do: name a file with --out or --check"),
    }
}

fn write_file(args: &TraceArgs, file: &Path) -> anyhow::Result<()> {
    let TraceArgs { seed, nodes, events, membership, .. } = *args;
    let run = run_traced(&Options { seed, nodes, events, membership })?;
    check(&run.lines).context("the trace breaks the spec's rules: it was not written")?;
    fs::write(file, run.to_json()).with_context(|| format!("writing {}", file.display()))?;
    println!("{}: {} events, {:?}", file.display(), run.lines.len(), run.tally);
    Ok(())
}

fn check_file(file: &Path) -> anyhow::Result<()> {
    let mut text = String::new();
    let opened = File::open(file).with_context(|| format!("opening {}", file.display()))?;
    let read = opened
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("reading {}", file.display()))?;
    if read as u64 > FILE_BYTES_MAX {
        bail!("{} is larger than {FILE_BYTES_MAX} bytes: check it in parts", file.display());
    }
    let summary = check_json(&text).with_context(|| file.display().to_string())?;
    for (name, count) in &summary.events {
        println!("{count:>8} {name:?}");
    }
    println!(
        "{}: {} events of {} nodes keep the rules",
        file.display(),
        summary.lines,
        summary.nodes
    );
    Ok(())
}
