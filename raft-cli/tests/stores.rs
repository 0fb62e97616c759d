//! Nodes whose data folder was emptied, or put back from a copy: what was acknowledged stays, nobody founds anything, and the group
//! takes them back by itself.

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{Cluster, assert_fails, assert_succeeds, run, wait_for};

fn copy(from: &str, to: &str) {
    fs::create_dir(to).expect("made");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        if entry.file_type().expect("known").is_file() {
            fs::copy(entry.path(), Path::new(to).join(entry.file_name())).expect("copied");
        }
    }
}

fn node(status: &Value, node: usize) -> &Value {
    &status["nodes"][node - 1]
}

fn health(status: &Value, of: usize) -> &str {
    node(status, of)["health"].as_str().expect("text")
}

/// Waits until a node says that what these others say does not count, and checks that nobody was elected.
fn says_that_they_do_not_count(cluster: &Cluster, of: usize, strange: &[usize]) -> Value {
    wait_for("the reason why nobody is elected", || {
        let status = cluster.status();
        for row in status["nodes"].as_array()? {
            assert_ne!(row["role"], "leader", "{status}");
        }
        let why = node(&status, of)["why"].as_str()?;
        let is_named = |other: &usize| {
            why.contains(&format!(
                "node {other} (it runs on a store that it was not admitted with)"
            ))
        };
        let is_told = |other: &usize| health(&status, *other).starts_with("does not count: ");
        strange.iter().all(|other| is_named(other) && is_told(other)).then_some(status)
    })
}

/// A group of which node 3 is down when a write is acknowledged, and all are stopped then. `before` sees node 2's folder before that.
fn stopped(before: impl FnOnce(&mut Cluster)) -> Cluster {
    let mut cluster = Cluster::start(3);
    assert_succeeds(&cluster.client(&["put", "early", "1"]));
    // Who has it is recorded: to others nothing is sent.
    cluster.agreement();
    before(&mut cluster);
    assert_eq!(cluster.stop(3), Some(0));
    cluster.leader();
    assert_succeeds(&cluster.client(&["put", "k", "acknowledged"]));
    assert_eq!(cluster.stop(2), Some(0));
    assert_eq!(cluster.stop(1), Some(0));
    cluster
}

/// Node 2 is on another folder. It and node 3 elect nobody; with node 1 nothing is lost, and node 2 votes again.
fn is_taken_back(mut cluster: Cluster) {
    cluster.start_node(2);
    cluster.start_node(3);
    says_that_they_do_not_count(&cluster, 3, &[2]);
    let log = cluster.log(2);
    assert!(log.contains("WARN") && log.contains("this node does not count"), "{log}");
    cluster.start_node(1);
    cluster.leader();
    assert_eq!(assert_succeeds(&cluster.client(&["get", "k"])), "acknowledged");
    cluster.agreement();
    wait_for("node 2 as a voter", || {
        let status = cluster.status();
        let role = node(&status, 2)["role"].as_str()?;
        for of in 1..=3 {
            assert!(!health(&status, of).contains("suspect"), "{status}");
        }
        ["follower", "leader"].contains(&role).then_some(())
    });
    assert_eq!(cluster.stop(3), Some(0));
    cluster.leader();
    assert_succeeds(&cluster.client(&["put", "late", "1"]));
}

#[test]
fn an_emptied_folder_elects_nobody_and_its_node_is_taken_back() {
    let cluster = stopped(|_| ());
    fs::remove_dir_all(cluster.path("data2")).expect("removed");
    is_taken_back(cluster);
}

#[test]
fn an_older_copy_of_a_folder_elects_nobody_and_its_node_is_taken_back() {
    let cluster = stopped(|cluster| {
        assert_eq!(cluster.stop(2), Some(0));
        copy(&cluster.path("data2"), &cluster.path("saved"));
        cluster.start_node(2);
        cluster.agreement();
    });
    fs::remove_dir_all(cluster.path("data2")).expect("removed");
    copy(&cluster.path("saved"), &cluster.path("data2"));
    is_taken_back(cluster);
}

#[test]
fn of_two_emptied_folders_nobody_founds_anything_and_the_third_says_what_is_needed() {
    let mut cluster = stopped(|_| ());
    for node in [2, 3] {
        fs::rename(cluster.path(&format!("data{node}")), cluster.path(&format!("saved{node}")))
            .expect("moved");
    }
    for node in 1..=3 {
        cluster.start_node(node);
    }
    let status = says_that_they_do_not_count(&cluster, 1, &[2, 3]);
    assert_eq!(health(&status, 1), "ok");
    let why = node(&status, 1)["why"].as_str().expect("said");
    assert!(why.contains("put back the data folders"), "{why}");
    // As it says: with one of them everything is there again, and the other is filled.
    assert_eq!(cluster.stop(2), Some(0));
    fs::remove_dir_all(cluster.path("data2")).expect("removed");
    fs::rename(cluster.path("saved2"), cluster.path("data2")).expect("put back");
    cluster.start_node(2);
    cluster.leader();
    assert_eq!(assert_succeeds(&cluster.client(&["get", "k"])), "acknowledged");
    cluster.agreement();
}

#[test]
fn new_folders_found_nothing_unless_they_are_told_to() {
    let mut cluster = Cluster::init(3);
    for node in 1..=3 {
        fs::remove_dir_all(cluster.path(&format!("data{node}"))).expect("removed");
        cluster.start_node(node);
    }
    let status = cluster.status();
    for of in 1..=3 {
        assert!(health(&status, of).starts_with("does not count: its log is blank"), "{status}");
        assert!(cluster.log(of).contains("raft found --config"), "{}", cluster.log(of));
    }
    for node in 1..=3 {
        assert_eq!(cluster.stop(node), Some(0));
        fs::remove_dir_all(cluster.path(&format!("data{node}"))).expect("removed");
        let found = run(&["found", "--config", &cluster.path(&format!("node{node}.toml"))]);
        assert!(assert_succeeds(&found).contains("founds the group of nodes 1, 2, 3"));
    }
    for node in 1..=3 {
        cluster.start_node(node);
    }
    cluster.leader();
    assert_succeeds(&cluster.client(&["put", "k", "v"]));
    assert_eq!(cluster.stop(1), Some(0));
    let again = run(&["found", "--config", &cluster.path("node1.toml")]);
    assert_fails(&again, 6, &["belongs to a group already"]);
}

#[test]
fn folders_that_were_all_moved_go_on_if_somebody_says_so() {
    let mut cluster = stopped(|_| ());
    for node in 1..=3 {
        let (data, old) = (format!("data{node}"), format!("old{node}"));
        fs::rename(cluster.path(&data), cluster.path(&old)).expect("renamed");
        copy(&cluster.path(&old), &cluster.path(&data));
        fs::remove_dir_all(cluster.path(&old)).expect("removed");
        cluster.start_node_with(node, &["--moved"]);
    }
    cluster.leader();
    assert_eq!(assert_succeeds(&cluster.client(&["get", "k"])), "acknowledged");
    cluster.agreement();
}
