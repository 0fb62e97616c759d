//! `cargo xtask bless`: runs the golden scripts and writes what they print now into them. It judges nothing: whoever blesses reads the diff.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, bail};

/// Which scripts to bless.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BlessArgs {
    /// Only scripts whose `folder::name` contains this.
    filter: Option<String>,
}

/// Where the scripts are, and the file that is compiled into one test per script.
const SCRIPTS: &str = "raft-core/tests/golden/scripts";
const TESTS: &str = "raft-core/tests/golden.rs";

pub(crate) fn run(root: &Path, args: &BlessArgs) -> anyhow::Result<()> {
    let before = read_all(root)?;
    // The tests are made at compile time, and Cargo does not see that a script was added.
    let tests = root.join(TESTS);
    fs::File::options()
        .append(true)
        .open(&tests)
        .and_then(|file| file.set_modified(SystemTime::now()))
        .with_context(|| format!("cannot touch {}", tests.display()))?;
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root).env("UPDATE_GOLDENFILES", "1");
    cargo.args(["test", "--quiet", "--package", "raft-core", "--test", "golden"]);
    if let Some(filter) = &args.filter {
        cargo.args(["--", filter]);
    }
    let status = cargo.status().context("cannot run cargo")?;
    let after = read_all(root)?;
    let changed: Vec<&PathBuf> = after
        .iter()
        .filter(|(path, text)| before.get(*path) != Some(text))
        .map(|(path, _)| path)
        .collect();
    for path in &changed {
        println!("blessed {}", path.display());
    }
    if !status.success() {
        bail!("bless: a script can not be run; what it prints was not written");
    }
    println!("bless: {} scripts, {} changed: read the diff", after.len(), changed.len());
    Ok(())
}

/// Every script's text, by its path in the workspace.
fn read_all(root: &Path) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let mut scripts = BTreeMap::new();
    let mut folders = vec![root.join(SCRIPTS)];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                scripts.insert(path.strip_prefix(root).unwrap_or(&path).to_owned(), text);
            }
        }
    }
    Ok(scripts)
}
