//! Runs every script under `golden/scripts` as a test of its own: `cargo test -p raft-core --test golden [PART OF A NAME]`.
//! `cargo xtask bless` writes what the scripts print now into them; the book's chapter on golden scripts says how to read and write them.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "golden/rows.rs"]
mod rows;
#[path = "golden/runner/mod.rs"]
mod runner;

test_each_file::test_each_path! { in "raft-core/tests/golden/scripts" as scripts => crate::run }

fn run(script: &Path) {
    if let Err(error) = goldenscript::run(&mut runner::Runner::default(), script) {
        panic!("{}: {error}", script.display());
    }
}

/// The tests are made when this file is compiled, and Cargo does not see that a script was added.
#[test]
fn every_script_is_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/scripts");
    let mut scripts = BTreeSet::new();
    collect(&root, &root, &mut scripts);
    let myself = std::env::current_exe().expect("a test knows its program");
    let list = Command::new(myself).arg("--list").output().expect("a test lists its tests");
    let list = String::from_utf8_lossy(&list.stdout);
    let tests: BTreeSet<String> = list
        .lines()
        .filter_map(|line| line.strip_prefix("scripts::")?.strip_suffix(": test"))
        .map(|name| name.replace("::", "/").replace("r#", ""))
        .collect();
    let missed: Vec<&String> = scripts.symmetric_difference(&tests).collect();
    assert!(
        missed.is_empty(),
        "scripts came or went since raft-core/tests/golden.rs was compiled; touch it: {missed:?}"
    );
}

fn collect(root: &Path, folder: &Path, scripts: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("the scripts' folder") {
        let path: PathBuf = entry.expect("a script").path();
        if path.is_dir() {
            collect(root, &path, scripts);
        } else {
            let name = path.strip_prefix(root).expect("a script lies below its root");
            scripts.insert(name.to_string_lossy().replace('\\', "/"));
        }
    }
}
