//! A node on a damaged data folder: it says what is damaged and exits with 6 before it says that it is ready, or the damage hit
//! nothing that is in use. Once the file is as it was, nothing is lost.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use support::{Cluster, assert_fails, assert_succeeds};

const PAGE: usize = 4096;
/// Written first, far from the end of the log; every letter of it is random.
const EARLY: &str = "eib4Ohth5oongooy";
/// Written last.
const LATE: &str = "aeNg2ohfei7Ahcoo";

/// What belongs to the log: the two are only ever put back together.
const JOURNAL: &str = "data1/log.redb.journal";

/// A stopped cluster of one, with a log of several chunks.
fn stopped() -> Cluster {
    let mut cluster = Cluster::start(1);
    let value = format!("{EARLY}{}", "x".repeat(300_000));
    let file = cluster.path("data.tsv");
    let rows: Vec<String> = (0..5).map(|at| format!("large{at}\t{value}{at}\n")).collect();
    fs::write(&file, rows.concat()).expect("writable");
    assert_succeeds(&cluster.client(&["load", &file]));
    assert_succeeds(&cluster.client(&["put", "k", LATE]));
    assert_eq!(cluster.stop(1), Some(0));
    fs::copy(cluster.path(JOURNAL), cluster.path("journal.saved")).expect("copied");
    cluster
}

/// Runs the node on this content of a file; whether it became ready, and served to its end then.
#[track_caller]
fn serves(cluster: &Cluster, path: &str, content: &[u8], what: &str) -> bool {
    fs::write(path, content).expect("writable");
    if path.ends_with("log.redb") {
        fs::copy(cluster.path("journal.saved"), cluster.path(JOURNAL)).expect("copied");
    }
    let mut serve = cluster.serve(1);
    let mut node = serve.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let (stdin, stdout) = (node.stdin.take(), node.stdout.take().expect("piped"));
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).expect("readable");
    if line.starts_with("ready ") {
        // It has its log applied then, with everything in it.
        cluster.leader();
        let get = cluster.client(&["get", "k"]);
        assert_eq!(assert_succeeds(&get), LATE, "{what}");
    }
    drop(stdin);
    let mut said = String::new();
    node.stderr.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
    let code = node.wait().expect("ended").code();
    assert!(!said.contains("panicked"), "{what}: {said}");
    let is_ready = !line.is_empty();
    assert_eq!(code, Some(if is_ready { 0 } else { 6 }), "{what}: {line} {said}");
    assert!(is_ready || said.contains(path), "{what}: {said}");
    is_ready
}

/// Flips one bit of each place where `text` stands.
fn flipped(whole: &[u8], text: &str) -> Vec<u8> {
    let mut flipped = whole.to_vec();
    let at = whole.windows(text.len()).enumerate().filter(|(_, window)| *window == text.as_bytes());
    let at: Vec<usize> = at.map(|(at, _)| at).collect();
    assert!(!at.is_empty(), "{text} is in the file");
    for at in at {
        flipped[at + 5] ^= 4;
    }
    flipped
}

#[test]
fn a_log_that_is_torn_or_something_else() {
    let cluster = stopped();
    let path = cluster.path("data1/log.redb");
    let whole = fs::read(&path).expect("readable");
    for keep in [whole.len() / 3, whole.len() - PAGE, 100, 0] {
        assert!(!serves(&cluster, &path, &whole[..keep], &format!("the first {keep} bytes")));
    }
    assert!(!serves(&cluster, &path, b"something else", "something else"));
    // Without its log the node does not start: it would have forgotten what it acknowledged.
    fs::remove_file(&path).expect("removed");
    let serve = cluster.serve(1).stdin(Stdio::null()).output().expect("runs");
    assert_fails(&serve, 6, &["lost its log"]);
    assert!(serves(&cluster, &path, &whole, "the whole file"));
}

#[test]
fn a_log_with_a_flipped_bit() {
    let cluster = stopped();
    let path = cluster.path("data1/log.redb");
    let whole = fs::read(&path).expect("readable");
    assert!(!serves(&cluster, &path, &flipped(&whole, EARLY), "an early entry"));
    assert!(!serves(&cluster, &path, &flipped(&whole, LATE), "the last entry"));
    assert!(serves(&cluster, &path, &whole, "the whole file"));
}

#[test]
fn a_log_with_an_overwritten_page() {
    let cluster = stopped();
    let path = cluster.path("data1/log.redb");
    let whole = fs::read(&path).expect("readable");
    for page in 0..8 {
        let mut content = whole.clone();
        content[page * PAGE..][..PAGE].fill(0xa5);
        serves(&cluster, &path, &content, &format!("page {page}"));
    }
    assert!(serves(&cluster, &path, &whole, "the whole file"));
}

#[test]
fn a_state_that_is_torn_or_has_a_flipped_bit() {
    let mut cluster = stopped();
    let settings = cluster.path("node1.toml");
    let text = fs::read_to_string(&settings).expect("readable");
    // Without the line, if it is there, and first in its table.
    let others = text.lines().filter(|line| !line.starts_with("checkpoint_log_bytes"));
    let text = others.collect::<Vec<_>>().join("\n");
    assert!(text.contains("[raft]\n"), "{text}");
    let text = text.replace("[raft]\n", "[raft]\ncheckpoint_log_bytes = 1\n");
    fs::write(&settings, text).expect("writable");
    cluster.start_node(1);
    cluster.leader();
    // Each write calls for a checkpoint, if none is being made.
    let path = cluster.path("data1/state.redb");
    let is_written = || {
        assert_succeeds(&cluster.client(&["put", "k", LATE]));
        let state = fs::read(&path).expect("readable");
        state.windows(LATE.len()).any(|window| window == LATE.as_bytes())
    };
    assert!((0..100).any(|_| is_written()), "no checkpoint is made");
    assert_eq!(cluster.stop(1), Some(0));
    let whole = fs::read(&path).expect("readable");
    for keep in [whole.len() / 3, whole.len() - PAGE, 100, 0] {
        assert!(!serves(&cluster, &path, &whole[..keep], &format!("the first {keep} bytes")));
    }
    assert!(!serves(&cluster, &path, &flipped(&whole, EARLY), "a large value"));
    assert!(!serves(&cluster, &path, &flipped(&whole, LATE), "a small value"));
    for page in 0..8 {
        let mut content = whole.clone();
        content[page * PAGE..][..PAGE].fill(0xa5);
        serves(&cluster, &path, &content, &format!("page {page}"));
    }
    assert!(serves(&cluster, &path, &whole, "the whole file"));
}
