//! The documentation hangs together: the book lists every page and only pages that exist, and links lead somewhere. Addresses outside
//! the repository are not looked at.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::read;

/// Where the book's pages lie, as `docs/book.toml` says too.
const PAGES: &str = "docs/src";

/// Checks the book in `docs`, and the links of all Markdown in `docs` and the root folder.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    let pages_folder = root.join(PAGES);
    let config = read(&root.join("docs/book.toml"))?;
    for setting in ["src = \"src\"", "create-missing = false"] {
        if !config.lines().any(|line| line.trim() == setting) {
            problems.push(format!("docs/book.toml: `{setting}` is missing"));
        }
    }
    let summary = read(&pages_folder.join("SUMMARY.md"))?;
    let listed: BTreeSet<PathBuf> = links(&summary).map(PathBuf::from).collect();
    let mut files = Vec::new();
    collect(&root.join("docs"), true, &mut files)?;
    for page in files.iter().filter_map(|file| file.strip_prefix(&pages_folder).ok()) {
        if page != Path::new("SUMMARY.md") && !listed.contains(page) {
            problems.push(format!("{PAGES}/SUMMARY.md: the page {} is not listed", page.display()));
        }
    }
    collect(root, false, &mut files)?;
    let mut included = BTreeSet::new();
    for file in &files {
        let text = read(file)?;
        let folder = file.parent().unwrap_or(root);
        let name = file.strip_prefix(root).unwrap_or(file).display();
        for target in includes(&text) {
            let path = normal(&folder.join(target));
            if !path.is_file() {
                problems.push(format!("{name}: there is no {target} to include"));
            }
            included.insert(path);
        }
        for target in links(&text) {
            if !folder.join(target).exists() {
                problems.push(format!("{name}: the link to {target} leads nowhere"));
            }
        }
    }
    let mut decisions = Vec::new();
    collect(&root.join("docs/decisions"), false, &mut decisions)?;
    for decision in decisions.iter().filter(|path| !included.contains(&normal(path))) {
        let name = decision.strip_prefix(root).unwrap_or(decision).display();
        problems.push(format!("{name}: no page of the book includes it"));
    }
    Ok(problems)
}

fn collect(folder: &Path, deep: bool, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if deep && path.is_dir() {
            collect(&path, deep, files)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

/// The path without `..`; the files of a repository are no symbolic links.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

/// The targets of links to files, without what stands after a `#`. Code is not looked at.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    let prose = text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    });
    // Every second part of a line stands between backticks.
    let prose = prose.flat_map(|line| line.split('`').step_by(2));
    prose.flat_map(|part| {
        part.split("](").skip(1).filter_map(|rest| {
            let target = rest.split_once(')')?.0;
            let target = target.split('#').next().unwrap_or(target);
            let is_file = !target.is_empty() && !target.contains(':');
            is_file.then_some(target)
        })
    })
}

fn includes(text: &str) -> impl Iterator<Item = &str> {
    text.split("{{#include ").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_includes_are_found() {
        let text = "[a](a.md) `[b](b.md)` [`c`](c.md#part), [d](https://d) [e](#e)\n```\n[f](f.md)\n```\n[g](../g)";
        assert_eq!(links(text).collect::<Vec<_>>(), ["a.md", "c.md", "../g"]);
        assert_eq!(includes("{{#include ../a.md}}").collect::<Vec<_>>(), ["../a.md"]);
    }

    #[test]
    fn a_book_that_does_not_hang_together_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("docs/book.toml", "src = \"src\"\ncreate-missing = false\n");
        write("docs/src/SUMMARY.md", "- [a](a.md)\n");
        write("docs/src/a.md", "{{#include ../decisions/1.md}} [up](../../README.md)");
        write("docs/decisions/1.md", "");
        write("README.md", "[docs](docs/src/a.md#part)");
        assert_eq!(check(root).unwrap(), Vec::<String>::new());
        write("docs/src/b.md", "{{#include c.md}}");
        write("docs/decisions/2.md", "[gone](gone.md)");
        let problems = check(root).unwrap();
        assert_eq!(problems.len(), 4, "{problems:?}");
    }

    #[test]
    fn our_own_hangs_together() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        assert_eq!(check(&root).unwrap(), Vec::<String>::new());
    }
}
