//! The list of known failures of Raft implementations, as far as it concerns the protocol: each row has a script that tells its story, a seeded
//! bug that takes its guard out, and a line in the book. Scripts and bugs name their rows as "scenario N".

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The rows. Those that are missing concern stores and state machines (40, 42, 43, 44), or never were.
const ROWS: &[u32] = &[
    1, 2, 3, 4, 5, 6, 7, 10, 11, 13, 14, 15, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 30, 31,
    32, 34, 35, 38, 41, 45, 46,
];

type Names = BTreeSet<String>;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows that a text names: `scenario 3`, `Scenarios 4 and 5`, `scenario_3_an_entry`.
fn named_in(text: &str) -> BTreeSet<u32> {
    let text = text.to_lowercase();
    let is_separator = |c: char| !c.is_alphanumeric();
    let mut rows = BTreeSet::new();
    for (at, word) in text.match_indices("scenario") {
        let after = text[at + word.len()..].trim_start_matches('s');
        let words = after.split(is_separator).filter(|word| !word.is_empty() && *word != "and");
        rows.extend(words.map_while(|word| word.parse::<u32>().ok()));
    }
    rows
}

/// Per row the scripts that name it, in their names or in their prose.
fn scripts() -> BTreeMap<u32, Names> {
    let root = PathBuf::from("tests/golden/scripts");
    let mut files = BTreeSet::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(&root);
    super::collect(&folder, &folder, &mut files);
    let mut scripts: BTreeMap<u32, Names> = BTreeMap::new();
    for name in files {
        let text = read(&root.join(&name).to_string_lossy());
        let mut told = name.clone();
        for line in text.lines().filter(|line| line.starts_with('#')) {
            told.push_str(line);
        }
        for row in named_in(&told) {
            scripts.entry(row).or_default().insert(name.clone());
        }
    }
    scripts
}

/// Per row the seeded bugs that cite it.
fn bugs() -> BTreeMap<u32, Names> {
    let text = read("src/mutants.rs");
    let (_, list) = text.split_once("\nmutants! {\n").expect("the list of seeded bugs");
    let (list, _) = list.split_once("\n}\n").expect("its end");
    let mut bugs: BTreeMap<u32, Names> = BTreeMap::new();
    let mut about = String::new();
    for line in list.lines().map(str::trim) {
        if let Some(doc) = line.strip_prefix("///") {
            about.push_str(doc);
        } else if let Some(name) = line.strip_suffix(',') {
            for row in named_in(&std::mem::take(&mut about)) {
                bugs.entry(row).or_default().insert(name.to_owned());
            }
        }
    }
    bugs
}

#[test]
fn every_known_failure_has_a_script_and_a_seeded_bug() {
    let rows: BTreeSet<u32> = ROWS.iter().copied().collect();
    let told: BTreeSet<u32> = scripts().into_keys().collect();
    assert_eq!(told, rows, "left: the rows that a script names; right: the rows that there are");
    let seeded: BTreeSet<u32> = bugs().into_keys().collect();
    assert_eq!(seeded, rows, "left: the rows that a bug cites; right: the rows that there are");
}

/// The table at the end of the book's chapter on golden scripts: row, what goes wrong, where, scripts, seeded bugs.
#[test]
fn the_book_names_the_scripts_and_the_seeded_bugs_of_every_row() {
    let book = read("../docs/src/golden-scripts.md");
    let (scripts, bugs) = (scripts(), bugs());
    let mut listed = Vec::new();
    for line in book.lines().skip_while(|line| *line != "## The list of known failures") {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [row, _, _, told, seeded] = cells[..] else { continue };
        let Ok(row) = row.parse::<u32>() else { continue };
        let names = |cell: &str| -> Names {
            cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        };
        assert_eq!(Some(&names(told)), scripts.get(&row), "row {row}; right: what names it");
        assert_eq!(Some(&names(seeded)), bugs.get(&row), "row {row}; right: what cites it");
        listed.push(row);
    }
    assert_eq!(listed, ROWS);
}

#[test]
fn rows_are_read_from_any_wording() {
    assert_eq!(named_in("Paper figure 13; scenario 34."), BTreeSet::from([34]));
    assert_eq!(named_in("Scenarios 4 and 5. Figure 8, scenario 10"), BTreeSet::from([4, 5, 10]));
    assert_eq!(named_in("(scenarios 3, 17 and 18)"), BTreeSet::from([3, 17, 18]));
    assert_eq!(named_in("leases/scenario_23_no_other_leader"), BTreeSet::from([23]));
    assert_eq!(named_in("a scenario without a number, 7 times"), BTreeSet::new());
}

/// Each bug that cites a row is noticed by a script that names the row: the script shows the failure, and not just something near it.
#[cfg(raft_mutants)]
#[test]
fn each_seeded_bug_is_noticed_by_the_scripts_of_its_row() {
    use std::process::Command;

    if std::env::var_os("RAFT_MUTANT").is_some_and(|name| !name.is_empty()) {
        // This is the run of one bug; which tests notice it is asked by others.
        return;
    }
    let myself = std::env::current_exe().expect("a test knows its program");
    let (scripts, mut unnoticed) = (scripts(), Vec::new());
    for (row, bugs) in bugs() {
        for bug in bugs {
            let tests = scripts.get(&row).into_iter().flatten();
            let tests = tests.map(|script| format!("scripts::{}", script.replace('/', "::")));
            let mut run = Command::new(&myself);
            run.env("RAFT_MUTANT", &bug).arg("--exact").args(tests);
            let output = run.output().expect("a test runs its program");
            if !String::from_utf8_lossy(&output.stdout).contains("... FAILED") {
                unnoticed.push(format!("{bug} of scenario {row}"));
            }
        }
    }
    assert!(unnoticed.is_empty(), "no script of its row notices: {unnoticed:?}");
}
