//! `cargo xtask coverage`: which lines of `raft-core/src` its own tests reach. It needs `cargo-tarpaulin` (`cargo install --locked cargo-tarpaulin`),
//! whose LLVM engine reads the profiles itself: no component of the toolchain beyond `rustc` is needed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

/// How much must be covered.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo install --locked cargo-tarpaulin    what it needs, once
  cargo xtask coverage                      measures, names what is not covered, fails under 97 %")]
pub(crate) struct CoverageArgs {
    /// Fail if fewer than this many percent of the lines are covered.
    #[arg(long, default_value_t = 97, value_parser = clap::value_parser!(u64).range(0..=100))]
    at_least: u64,
}

/// The lines of one file: how often each was reached.
type Hits = BTreeMap<u64, u64>;

pub(crate) fn run(root: &Path, args: &CoverageArgs) -> anyhow::Result<()> {
    let folder = root.join("target/coverage");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tarpaulin", "--engine", "llvm", "--packages", "raft-core", "--tests"])
        .args(["--include-files", "raft-core/src/*", "--skip-clean", "--locked", "--out", "Json"])
        .arg("--target-dir")
        .arg(&folder)
        .arg("--output-dir")
        .arg(&folder)
        .current_dir(root)
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        print!("{}", String::from_utf8_lossy(&output.stdout));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        bail!("cargo tarpaulin failed; if it is not there: cargo install --locked cargo-tarpaulin");
    }
    let path = folder.join("tarpaulin-report.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    report(&parse(root, &text)?, args.at_least)
}

/// Reads tarpaulin's report: per file of `raft-core/src` its lines.
fn parse(root: &Path, text: &str) -> anyhow::Result<BTreeMap<String, Hits>> {
    let report: serde_json::Value = serde_json::from_str(text).context("tarpaulin's report")?;
    let mut files = BTreeMap::new();
    for file in report["files"].as_array().context("tarpaulin's report has no files")? {
        let parts: Vec<&str> = file["path"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|part| part.as_str())
            .collect();
        let path: std::path::PathBuf = parts.iter().collect();
        let Ok(name) = path.strip_prefix(root.join("raft-core/src")) else { continue };
        let mut hits = Hits::new();
        for trace in file["traces"].as_array().into_iter().flatten() {
            if let (Some(line), Some(count)) =
                (trace["line"].as_u64(), trace["stats"]["Line"].as_u64())
            {
                hits.insert(line, count);
            }
        }
        files.insert(name.display().to_string(), hits);
    }
    Ok(files)
}

fn report(files: &BTreeMap<String, Hits>, at_least: u64) -> anyhow::Result<()> {
    let (mut covered, mut all) = (0, 0);
    for (name, hits) in files {
        let missed: Vec<u64> =
            hits.iter().filter(|(_, count)| **count == 0).map(|(line, _)| *line).collect();
        let reached = (hits.len() - missed.len()) as u64;
        covered += reached;
        all += hits.len() as u64;
        let note = if missed.is_empty() { String::new() } else { ranges(&missed) };
        println!("{reached:>5} of {:>5}  {name:<18} {note}", hits.len());
    }
    if all == 0 {
        bail!("coverage: tarpaulin reported no line of raft-core/src");
    }
    println!(
        "coverage: {covered} of {all} lines of raft-core/src, {:.2} %",
        covered as f64 * 100.0 / all as f64
    );
    if covered * 100 < all * at_least {
        bail!("less than {at_least} % of the lines are covered: the list above names the others");
    }
    Ok(())
}

/// `1-3 7`: lines, where neighbours are put together.
fn ranges(lines: &[u64]) -> String {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for &line in lines {
        match out.last_mut() {
            Some((_, last)) if *last + 1 == line => *last = line,
            _ => out.push((line, line)),
        }
    }
    let texts =
        out.iter().map(
            |(first, last)| {
                if first == last { first.to_string() } else { format!("{first}-{last}") }
            },
        );
    texts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_and_judged() {
        let text = r#"{"files": [
            {"path": ["/", "w", "raft-core", "src", "log", "mod.rs"],
             "traces": [{"line": 1, "stats": {"Line": 3}}, {"line": 2, "stats": {"Line": 0}}]},
            {"path": ["/", "w", "raft-sim", "src", "lib.rs"], "traces": [{"line": 1, "stats": {"Line": 0}}]}
        ]}"#;
        let files = parse(Path::new("/w"), text).unwrap();
        assert_eq!(
            files,
            BTreeMap::from([("log/mod.rs".to_owned(), Hits::from([(1, 3), (2, 0)]))])
        );
        assert!(report(&files, 50).is_ok());
        assert!(report(&files, 51).is_err());
        assert!(report(&BTreeMap::new(), 0).is_err());
        assert!(parse(Path::new("/w"), "{}").is_err());
    }

    #[test]
    fn neighbouring_lines_are_put_together() {
        assert_eq!(ranges(&[1, 2, 3, 7, 9, 10]), "1-3 7 9-10");
    }
}
