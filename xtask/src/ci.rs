//! `cargo xtask ci`: what must pass before anything is merged, in the order in which it fails fastest for its cost.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::{chaos, mutants, sim, tidy};

/// How many seeds CI simulates, at most, and for how long.
const SEEDS: u64 = 6_000;
const SIM_SECONDS: u64 = 300;
/// How many minutes real processes run under faults.
const CHAOS_MINUTES: u32 = 3;

/// Runs every step; stops at the first that fails.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let mut steps = Steps { root, done: Vec::new() };
    steps.cargo(&["fmt", "--all", "--check"], &[])?;
    steps.own("tidy", || tidy::run(root))?;
    steps.cargo(&["test", "--workspace", "--locked"], &[])?;
    steps.cargo(
        &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
        &[],
    )?;
    // In a build of the workspace, features of one crate are on for all.
    steps.cargo(&["check", "--package", "raft-node", "--no-default-features", "--locked"], &[])?;
    steps.cargo(
        &["doc", "--workspace", "--no-deps", "--locked"],
        &[("RUSTDOCFLAGS", "-D warnings".into())],
    )?;
    steps.own("sim", || sim::run(&sim::SimArgs::for_ci(SEEDS, SIM_SECONDS)))?;
    steps.own("mutants", || mutants::run(root, &mutants::MutantsArgs::for_ci()))?;
    if has_loom_models(root)? {
        // Other flags, another target folder: the first is not thrown away.
        steps.cargo(
            &["test", "--release", "--package", "raft-node", "--lib", "--locked", "loom"],
            &[
                ("RUSTFLAGS", "--cfg loom".into()),
                ("CARGO_TARGET_DIR", root.join("target/loom").into_os_string()),
                ("CARGO_PROFILE_RELEASE_LTO", "off".into()),
            ],
        )?;
    }
    // The database of advisories comes over the network, so those are checked by hand (CONTRIBUTING.md).
    if has_cargo_deny() {
        steps.cargo(&["deny", "--locked", "check", "licenses", "sources", "bans"], &[])?;
    } else {
        println!("\n=== cargo deny is not installed: licences, sources and bans are not checked");
    }
    steps.cargo(&["run", "--release", "--locked", "--", "demo", "--once"], &[])?;
    steps.own("chaos", || chaos::run(root, &chaos::ChaosArgs::for_ci(CHAOS_MINUTES)))?;
    steps.report();
    Ok(())
}

fn has_loom_models(root: &Path) -> anyhow::Result<bool> {
    for entry in std::fs::read_dir(root.join("raft-node/src")).context("raft-node/src")? {
        let path = entry?.path();
        if path.is_file() && std::fs::read_to_string(&path)?.contains("loom::model") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_cargo_deny() -> bool {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let asked = Command::new(cargo).args(["deny", "--version"]).output();
    asked.is_ok_and(|output| output.status.success())
}

struct Steps<'a> {
    root: &'a Path,
    done: Vec<(String, Duration)>,
}

impl Steps<'_> {
    fn cargo(&mut self, arguments: &[&str], variables: &[(&str, OsString)]) -> anyhow::Result<()> {
        let name = format!("cargo {}", arguments.join(" "));
        println!("\n=== {name}");
        let begun = Instant::now();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(arguments)
            .envs(variables.iter().map(|(key, value)| (key, value)))
            .current_dir(self.root)
            .status()
            .with_context(|| format!("cannot run {name}"))?;
        if !status.success() {
            bail!("ci: failed: {name} ({status})");
        }
        self.done.push((name, begun.elapsed()));
        Ok(())
    }

    fn own(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        println!("\n=== cargo xtask {name}");
        let begun = Instant::now();
        step().with_context(|| format!("ci: failed: cargo xtask {name}"))?;
        self.done.push((format!("cargo xtask {name}"), begun.elapsed()));
        Ok(())
    }

    fn report(&self) {
        println!("\n=== all passed");
        for (name, took) in &self.done {
            println!("{:>7.1} s  {name}", took.as_secs_f64());
        }
    }
}
