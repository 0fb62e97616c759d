//! `cargo xtask chaos`: builds the binary as it ships and `raft-chaos`, and runs the one under the other's faults. All
//! arguments but `--raft` go to `raft-chaos`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

/// What to pass on.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask chaos                                    three minutes of all faults
  cargo xtask chaos --minutes 60 --nodes 5
  cargo xtask chaos --nemesis kill,isolate --seed 7
  cargo xtask chaos -- --help                          all arguments")]
pub(crate) struct ChaosArgs {
    /// The arguments of raft-chaos.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

impl ChaosArgs {
    /// Some minutes of all faults, from a seed of its own each time.
    pub(crate) fn for_ci(minutes: u32) -> ChaosArgs {
        ChaosArgs { arguments: vec!["--minutes".to_owned(), minutes.to_string()] }
    }
}

/// Builds both programs and runs the faults.
pub(crate) fn run(root: &Path, args: &ChaosArgs) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = ["build", "--release", "--locked", "-p", "raft-cli", "-p", "raft-chaos"];
    succeed(Command::new(cargo).args(build).current_dir(root))?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |target| root.join(target));
    let release = target.join("release");
    let mut chaos = Command::new(release.join("raft-chaos"));
    chaos.arg("--raft").arg(release.join("raft")).args(&args.arguments).current_dir(root);
    succeed(&mut chaos)
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("{program} failed ({status})");
    }
    Ok(())
}
