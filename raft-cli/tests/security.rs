//! What must not stand in a log, and that the book's table of tests is true.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Cluster, assert_succeeds};

#[test]
fn no_secret_stands_in_the_log_at_debug() {
    let mut cluster = Cluster::init(1);
    cluster.start_node_by(1, &[], |program| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "RAFT_LOG=debug exec \"$@\"", "sh"]);
        shell.arg(program.get_program()).args(program.get_args());
        shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        shell
    });
    cluster.leader();
    assert_succeeds(&cluster.client(&["put", "key-of-secrets", "value-of-secrets"]));
    assert_succeeds(&cluster.client(&["get", "key-of-secrets"]));
    assert_succeeds(&cluster.client(&["range"]));
    let written = cluster.log(1);
    assert!(written.contains("DEBUG"), "it is at debug: {written}");
    for secret in ["key-of-secrets", "value-of-secrets", "PRIVATE KEY"] {
        assert!(!written.contains(secret), "{secret} in {written}");
    }
    for key in ["node1.key", "client.key"] {
        let key = fs::read_to_string(cluster.path(key)).expect("made by init");
        for line in key.lines().filter(|line| line.len() > 20 && !line.starts_with('-')) {
            assert!(!written.contains(line), "a line of a private key");
        }
    }
}

/// Each row of the table in `docs/src/security.md` names a file and a test in it.
#[test]
fn every_test_that_the_book_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let book = fs::read_to_string(root.join("docs/src/security.md")).expect("the page");
    let rows: Vec<&str> = book.lines().filter(|line| line.ends_with("` |")).collect();
    assert!(rows.len() > 20, "the table is gone");
    for row in rows {
        let named: Vec<&str> = row.split('`').collect();
        let [.., file, _, test, _] = named[..] else { panic!("no file and test in {row}") };
        let source =
            fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(source.contains(&format!("fn {test}(")), "{file} has no test {test}");
    }
}
