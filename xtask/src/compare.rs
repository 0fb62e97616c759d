//! `cargo xtask compare`: builds what is compared, in release mode, and runs the comparison with etcd. What is measured, and how, is in
//! `benches/examples/compare_etcd`.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

/// What to pass on.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask compare                                     durable writes, 1, 100 and 1,000 in flight
  cargo xtask compare -- --kind get --inflight 100 --seconds 20
  cargo xtask compare -- --help                           the comparison's own arguments

It builds the binary `raft` and the comparison in release mode. `etcd` must be on the PATH (Debian's package etcd-server).")]
pub(crate) struct CompareArgs {
    /// The comparison's arguments, after `--`.
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<OsString>,
}

/// Builds and runs; fails if either does.
pub(crate) fn run(root: &Path, args: &CompareArgs) -> anyhow::Result<()> {
    cargo(root, &["build", "--release", "-p", "raft-cli"], &[])?;
    cargo(
        root,
        &["run", "--release", "-p", "benches", "--example", "compare_etcd", "--"],
        &args.arguments,
    )
}

fn cargo(root: &Path, arguments: &[&str], more: &[OsString]) -> anyhow::Result<()> {
    let name = format!("cargo {}", arguments.join(" "));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(arguments)
        .args(more)
        .current_dir(root)
        .status()
        .with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        bail!("failed: {name} ({status})");
    }
    Ok(())
}
