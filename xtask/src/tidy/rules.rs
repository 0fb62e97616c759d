//! The rules over text. Each is a function from text to problems, so that its tests can show that it fails.

use super::source::{CodeLine, code, functions, without_tests, words};

/// How long files and functions may be, in lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lengths {
    file: usize,
    function: usize,
}

const LENGTHS_MAX: Lengths = Lengths { file: 600, function: 70 };
/// In the simulator, but for its traces.
const LENGTHS_MAX_IN_SIM: Lengths = Lengths { file: 650, function: 95 };

fn lengths_max(path: &str) -> Lengths {
    if path.starts_with("raft-sim/src/") && !path.starts_with("raft-sim/src/trace/") {
        LENGTHS_MAX_IN_SIM
    } else {
        LENGTHS_MAX
    }
}

/// What `raft-core` must not name outside its tests: clocks, runtimes, random generators, maps of random order, floating point, formats.
const NOT_IN_CORE: &[&str] = &[
    "std",
    "tokio",
    "rand",
    "getrandom",
    "async",
    "await",
    "HashMap",
    "HashSet",
    "hashbrown",
    "f32",
    "f64",
    "serde",
    "rkyv",
    "redb",
    "quinn",
    "tracing",
    "SystemTime",
    "println",
    "eprintln",
];

/// What the key-value machine must not name: members would diverge.
const NOT_IN_MACHINE: &[&str] = &[
    "SystemTime",
    "Instant",
    "UNIX_EPOCH",
    "rand",
    "getrandom",
    "thread_rng",
    "random",
    "f32",
    "f64",
    "tokio",
    "async",
];

/// Maps whose order differs from process to process.
const RANDOM_ORDER: &[&str] = &["HashMap", "HashSet", "RandomState"];

/// What the rules of a driver's order must not name: they wait for nothing, and the simulator goes by them.
const NOT_IN_ORDER: &[&str] = &[
    "SystemTime",
    "elapsed",
    "thread",
    "Mutex",
    "Condvar",
    "tokio",
    "async",
    "await",
    "fs",
    "File",
    "tracing",
    "HashMap",
    "HashSet",
];

/// What the binary must not name: whoever drives a core makes protocol decisions.
const NOT_IN_CLI: &[&str] = &["Raft", "poll_action", "poll_timeout"];

/// A rule about words: where it holds (in these files of a folder, or in all, with exceptions), which words, and why.
struct WordRule {
    prefix: &'static str,
    files: Option<&'static [&'static str]>,
    except: &'static [&'static str],
    words: &'static [&'static str],
    why: &'static str,
}

const WORD_RULES: &[WordRule] = &[
    WordRule {
        prefix: "raft-core/src/",
        files: None,
        // Under `--cfg raft_mutants`, and only there, it reads an environment variable.
        except: &["mutants.rs"],
        words: NOT_IN_CORE,
        why: "raft-core has no I/O, clock, randomness, async, floats or formats",
    },
    WordRule {
        prefix: "raft-kv/src/",
        files: Some(&[
            "command.rs",
            "limits.rs",
            "machine.rs",
            "query.rs",
            "session.rs",
            "state.rs",
        ]),
        except: &[],
        words: NOT_IN_MACHINE,
        why: "the key-value machine must be deterministic: time and chance enter through the log",
    },
    WordRule {
        prefix: "raft-kv/src/",
        // Not `state.rs`: it remembers what a checkpoint must write in a hash map, and sorts that before it is iterated.
        files: Some(&["command.rs", "limits.rs", "machine.rs", "query.rs", "session.rs"]),
        except: &[],
        words: RANDOM_ORDER,
        why: "iteration over a hash map differs between members: take a BTreeMap",
    },
    WordRule {
        prefix: "raft-node/src/order/",
        files: None,
        except: &[],
        words: NOT_IN_ORDER,
        why: "the rules of a driver's order have no I/O, clock, threads or runtime",
    },
    WordRule {
        prefix: "raft-cli/src/",
        files: None,
        except: &[],
        words: NOT_IN_CLI,
        why: "raft-cli takes no protocol decision: it goes through raft-node",
    },
];

/// Checks one file, named by its path in the workspace.
pub(crate) fn check_file(path: &str, text: &str) -> Vec<String> {
    let all = code(text);
    let outside_tests = without_tests(all.clone());
    let mut problems = forbidden_words(path, &outside_tests);
    problems.extend(unfinished(path, text, &all));
    problems
}

fn forbidden_words(path: &str, lines: &[CodeLine]) -> Vec<String> {
    let mut problems = Vec::new();
    for rule in WORD_RULES {
        let Some(rest) = path.strip_prefix(rule.prefix) else { continue };
        if rule.files.is_some_and(|files| !files.contains(&rest)) || rule.except.contains(&rest) {
            continue;
        }
        for line in lines {
            for word in words(&line.text).filter(|word| rule.words.contains(word)) {
                problems.push(format!("{path}:{}: names `{word}`; {}", line.number, rule.why));
            }
        }
    }
    problems
}

/// No macros and no marks that say "later".
fn unfinished(path: &str, text: &str, lines: &[CodeLine]) -> Vec<String> {
    let mut problems = Vec::new();
    for line in lines {
        for name in ["todo", "unimplemented", "dbg"] {
            let called = format!("{name}!");
            let is_call = line.text.match_indices(&called).any(|(at, _)| {
                !line.text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
            });
            if is_call {
                problems.push(format!("{path}:{}: {called} must not be committed", line.number));
            }
        }
    }
    // Tidy itself has to name the marks that it looks for.
    if !path.starts_with("xtask/src/tidy/") {
        for (index, line) in text.lines().enumerate() {
            if let Some(mark) = words(line).find(|word| ["TODO", "FIXME", "XXX"].contains(word)) {
                problems.push(format!(
                    "{path}:{}: {mark}: say what is missing in the crate's docs instead",
                    index + 1
                ));
            }
        }
    }
    problems
}

/// One exception to a length: `path length` for a file, `path function length` for a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    path: String,
    function: Option<String>,
    length: usize,
}

/// Reads the list of exceptions. Empty lines and lines that start with `#` say nothing.
pub(crate) fn parse_allowed(text: &str) -> Result<Vec<Allowed>, String> {
    let mut allowed = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let malformed = || format!("xtask/tidy-allow.txt:{}: malformed: {line}", index + 1);
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (path, function, length) = match fields[..] {
            [path, length] => (path, None, length),
            [path, function, length] => (path, Some(function.to_owned()), length),
            _ => return Err(malformed()),
        };
        let length = length.parse().map_err(|_| malformed())?;
        allowed.push(Allowed { path: path.to_owned(), function, length });
    }
    Ok(allowed)
}

/// The ratchet: nothing new is too long, and what is on the list only gets shorter.
pub(crate) fn check_lengths(files: &[(String, String)], allowed: &[Allowed]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut used = vec![false; allowed.len()];
    let mut judge = |path: &str, function: Option<&str>, line: usize, length: usize, max: usize| {
        let listed = allowed
            .iter()
            .position(|entry| entry.path == path && entry.function.as_deref() == function);
        if let Some(listed) = listed {
            used[listed] = true;
        }
        let limit = listed.map_or(max, |at| allowed[at].length);
        let what = function.map_or_else(|| "the file".to_owned(), |name| format!("`{name}`"));
        if length > limit {
            problems.push(format!(
                "{path}:{line}: {what} has {length} lines, of {limit} allowed: split it"
            ));
        } else if listed.is_some() && length < limit {
            problems.push(format!(
                "{path}:{line}: {what} has {length} lines now: lower its {limit} in xtask/tidy-allow.txt, or remove the entry"
            ));
        }
    };
    for (path, text) in files {
        let max = lengths_max(path);
        judge(path, None, 1, text.lines().count(), max.file);
        for function in functions(&code(text)) {
            judge(path, Some(&function.name), function.line, function.length, max.function);
        }
    }
    for (entry, used) in allowed.iter().zip(used) {
        if !used {
            problems
                .push(format!("xtask/tidy-allow.txt: nothing fits the entry for {}", entry.path));
        }
    }
    problems
}

/// A member inherits what the workspace decides once.
pub(crate) fn check_manifest(path: &str, text: &str) -> Vec<String> {
    let inherits = ["version", "edition", "rust-version", "license", "repository", "publish"];
    let mut problems: Vec<String> = inherits
        .iter()
        .filter(|key| !text.lines().any(|line| line.trim() == format!("{key}.workspace = true")))
        .map(|key| format!("{path}: does not inherit `{key}`: write `{key}.workspace = true`"))
        .collect();
    if !text.contains("[lints]\nworkspace = true") {
        problems.push(format!(
            "{path}: does not inherit the lints: write `[lints]` and `workspace = true`"
        ));
    }
    problems
}

/// The value of `key = "value"` in a TOML text.
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once('=')?;
        (found.trim() == key).then(|| value.trim().trim_matches('"'))
    })
}

/// The MSRV stands in two files, which must agree; returns it.
pub(crate) fn check_msrv(manifest: &str, clippy: &str) -> Result<String, String> {
    match (value_of(manifest, "rust-version"), value_of(clippy, "msrv")) {
        (Some(ours), Some(lint)) if ours == lint => Ok(ours.to_owned()),
        (ours, lint) => Err(format!(
            "Cargo.toml has rust-version {ours:?}, clippy.toml has msrv {lint:?}: they must be equal"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> usize {
        check_file(path, text).len()
    }

    #[test]
    fn the_core_may_not_name_a_clock_a_runtime_a_float_or_a_format() {
        for line in [
            "use std::time::Instant;",
            "use std::collections::BTreeMap;",
            "let x: f64 = 1.0;",
            "use alloc::HashMap;",
            "pub async fn handle() {}",
            "#[derive(serde::Serialize)] struct X;",
            "tokio::spawn(x);",
            "let r = rand::random();",
            "tracing::info!(\"x\");",
        ] {
            assert!(problems("raft-core/src/raft.rs", line) > 0, "{line}");
            assert_eq!(problems("raft-node/src/driver.rs", line), 0, "{line}");
        }
        let fine = "//! No std::time here.\nuse core::time::Duration;\n#[cfg(test)]\nmod tests { use std::vec; }";
        assert_eq!(problems("raft-core/src/raft.rs", fine), 0);
    }

    #[test]
    fn the_machine_may_not_look_at_a_clock_or_depend_on_a_random_order() {
        for line in
            ["let now = Instant::now();", "SystemTime::now()", "HashMap::new()", "rand::random()"]
        {
            assert!(problems("raft-kv/src/machine.rs", line) > 0, "{line}");
            assert_eq!(problems("raft-kv/src/client.rs", line), 0, "{line}");
        }
    }

    #[test]
    fn the_binary_may_not_drive_a_core() {
        assert!(problems("raft-cli/src/serve.rs", "use raft_core::{NodeId, Raft};") > 0);
        assert_eq!(problems("raft-cli/src/serve.rs", "use raft_core::{NodeId, Membership};"), 0);
    }

    #[test]
    fn unfinished_code_is_found() {
        assert!(problems("raft-kv/src/a.rs", "fn f() { todo!() }") > 0);
        assert!(problems("raft-kv/src/a.rs", "fn f() { dbg!(1); }") > 0);
        assert!(problems("raft-kv/src/a.rs", "// TODO: later") > 0);
        assert_eq!(problems("raft-kv/src/a.rs", "let s = \"todo!\"; not_todo!();"), 0);
    }

    #[test]
    fn lengths_only_fall() {
        let long: String = std::iter::once("fn f() {\n".to_owned())
            .chain((0..100).map(|_| "x();\n".to_owned()))
            .chain(std::iter::once("}\n".to_owned()))
            .collect();
        let files = [("a.rs".to_owned(), long)];
        let check = |list: &str| check_lengths(&files, &parse_allowed(list).unwrap());
        assert_eq!(check("").len(), 1);
        assert_eq!(check("# why\na.rs f 102\n"), Vec::<String>::new());
        assert_eq!(check("a.rs f 101").len(), 1, "it grew");
        assert_eq!(check("a.rs f 103").len(), 1, "the list must follow");
        assert_eq!(check("a.rs f 102\nb.rs 900").len(), 1, "nothing fits");
        assert!(parse_allowed("a.rs f many").is_err());
        let count =
            |path: &str, lines| check_lengths(&[(path.to_owned(), "x\n".repeat(lines))], &[]).len();
        assert_eq!((count("a.rs", 600), count("a.rs", 601)), (0, 1));
        assert_eq!((count("raft-sim/src/a.rs", 650), count("raft-sim/src/a.rs", 651)), (0, 1));
        assert_eq!(count("raft-sim/src/trace/a.rs", 601), 1);
    }

    #[test]
    fn a_member_that_goes_its_own_way_is_found() {
        let fine = "version.workspace = true\nedition.workspace = true\nrust-version.workspace = true\n\
                    license.workspace = true\nrepository.workspace = true\npublish.workspace = true\n\
                    [lints]\nworkspace = true\n";
        assert_eq!(check_manifest("Cargo.toml", fine), Vec::<String>::new());
        assert_eq!(check_manifest("Cargo.toml", &fine.replace("[lints]", "")).len(), 1);
        let own = fine.replace("edition.workspace = true", "edition = \"2021\"");
        assert_eq!(check_manifest("Cargo.toml", &own).len(), 1);
    }

    #[test]
    fn two_msrvs_must_be_equal() {
        let manifest = "rust-version = \"1.90\"\n";
        assert_eq!(check_msrv(manifest, "msrv = \"1.90\"\n").as_deref(), Ok("1.90"));
        assert!(check_msrv(manifest, "msrv = \"1.80\"\n").is_err());
        assert!(check_msrv(manifest, "").is_err());
    }
}
