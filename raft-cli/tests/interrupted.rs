//! What is left when a command is stopped in the middle: nothing that should not be there, and nothing lost.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::{Cluster, DEADLINE, assert_succeeds, wait_for};

const SIGINT: &str = "-INT";

fn send(signal: &str, pid: u32) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status().expect("runs");
    assert!(status.success(), "the process {pid} is there");
}

const RECORDS: usize = 60_000;

/// A load that was killed with SIGKILL in its middle, so that it could not write anything at its end: its file and what that holds.
fn kill_a_load(cluster: &Cluster) -> (String, String) {
    let lines: Vec<String> = (0..RECORDS).map(|at| format!("key/{at:06}\tvalue {at}\n")).collect();
    let (file, data) = (cluster.path("data.tsv"), lines.concat());
    fs::write(&file, &data).expect("writable");
    let progress = progress_of(&file);
    let mut loader = support::raft()
        .env("RAFT_CONFIG", cluster.path("client.toml"))
        .args(["load", &file])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    let end = std::time::Instant::now() + DEADLINE;
    while !Path::new(&progress).exists() {
        assert!(std::time::Instant::now() < end, "waited too long for the progress file");
        std::thread::sleep(Duration::from_millis(1));
    }
    loader.kill().expect("killable");
    assert!(!loader.wait().expect("ended").success());
    assert!(Path::new(&progress).exists(), "it was killed in the middle");
    (file, data)
}

fn progress_of(file: &str) -> String {
    format!("{file}.raft-progress")
}

#[test]
fn a_load_that_was_killed_goes_on_where_it_stopped() {
    let cluster = Cluster::start(1);
    let (file, data) = kill_a_load(&cluster);
    let output = cluster.client(&["load", &file]);
    let stored = assert_succeeds(&output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let after = said.split("going on after line ").nth(1).expect("it says where it goes on");
    let after: usize = after.trim().parse().expect("a number");
    assert!((1..RECORDS).contains(&after), "{after}");
    assert!(stored.contains(&format!("loaded {} records", RECORDS - after)), "{stored}");
    assert!(!Path::new(&progress_of(&file)).exists(), "it is of no use any more");
    // The keys are sorted already: everything is there, once.
    assert!(cluster.records() == data, "the dump differs");
}

/// The cluster's id is the same, its content is gone: nothing may be taken for stored.
#[test]
fn a_load_does_not_go_on_in_a_cluster_that_lost_what_was_loaded() {
    let cluster = Cluster::start(1);
    let (file, data) = kill_a_load(&cluster);
    assert_succeeds(&cluster.client(&["delete", "key/000000"]));
    let progress = fs::read_to_string(progress_of(&file)).expect("readable");
    let progress: serde_json::Value = serde_json::from_str(&progress).expect("JSON");
    if let Some(last) = progress["last"]["key_hex"].as_str() {
        cluster.client(&["delete", "--key-hex", last]);
    }
    let output = cluster.client(&["load", &file]);
    let stored = assert_succeeds(&output);
    let holds = assert_succeeds(&cluster.client(&["range"]));
    assert!(holds == data, "it lacks records: {stored}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("starting over"), "{said}");
    assert!(stored.contains(&format!("loaded {RECORDS} records")), "{stored}");
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let mut demo = support::raft()
        .arg("demo")
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut lines = BufReader::new(demo.stdout.take().expect("piped")).lines();
    let started = lines.find_map(|line| {
        let line = line.expect("readable");
        line.split_once("pids ").map(|(_, pids)| pids.to_owned())
    });
    let started = started.expect("three processes were started");
    send(SIGINT, demo.id());
    let mut said = String::new();
    demo.stderr.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
    assert_eq!(demo.wait().expect("ended").code(), Some(130), "{said}");
    assert!(said.contains("interrupted") && !said.contains("failed"), "{said}");
    let left = fs::read_dir(temporary.path()).expect("readable").count();
    assert_eq!(left, 0, "the CA's key is removed with everything else");
    for pid in started.split(", ") {
        wait_for("the end of a node", || {
            let still_there = Command::new("kill").args(["-0", pid]).stderr(Stdio::null()).status();
            (!still_there.expect("runs").success()).then_some(())
        });
    }
}
