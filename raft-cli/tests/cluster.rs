//! Three real processes: what is acknowledged stays, whatever is killed.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use raft_core::recording::Replay;
use raft_core::{Action, Event, RoleKind};
use support::{Cluster, assert_fails, assert_succeeds, run, wait_for};

/// How often the leader is killed.
const KILLS: usize = 10;
/// How many writers write at the same time, each one write after the other.
const WRITERS: usize = 3;

type Acknowledged = Arc<Mutex<BTreeMap<String, String>>>;

/// Writes unique keys with `raft put`, and notes every one that was acknowledged, until told to stop.
fn write(config: &str, writer: usize, acknowledged: &Acknowledged, stop: &AtomicBool) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (key, value) = (format!("writer{writer}/{number:06}"), format!("value {number}"));
        let put = support::raft()
            .args(["put", &key, &value, "--config", config])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("runs");
        if put.success() {
            acknowledged.lock().expect("not poisoned").insert(key, value);
        }
    }
}

#[test]
fn every_acknowledged_write_survives_ten_kills_of_the_leader() {
    let mut cluster = Cluster::start(3);
    let lines: Vec<String> =
        (0..2000).map(|number| format!("load/{number:05}\tline {number}\n")).collect();
    let data = lines.concat();
    let file = cluster.path("data.tsv");
    fs::write(&file, &data).expect("writable");
    assert_succeeds(&cluster.client(&["load", &file]));

    let acknowledged = Acknowledged::default();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let config = cluster.path("client.toml");
            let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
            std::thread::spawn(move || write(&config, writer, &acknowledged, &stop))
        })
        .collect();
    let count = || acknowledged.lock().expect("not poisoned").len();
    for _ in 0..KILLS {
        let before = count();
        wait_for("acknowledged writes", || (count() > before + 5).then_some(()));
        let leader = cluster.leader();
        cluster.kill(leader);
        // Writes go on without it, which takes a new leader; only then it returns.
        let before = count();
        wait_for("writes after a kill", || (count() > before + 2 * WRITERS).then_some(()));
        cluster.start_node(leader);
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().expect("a writer");
    }

    let digest = cluster.agreement();
    let dump = cluster.records();
    let found: BTreeMap<&str, &str> =
        dump.lines().map(|line| line.split_once('\t').expect("a tab")).collect();
    let acknowledged = acknowledged.lock().expect("not poisoned");
    for (key, value) in &*acknowledged {
        assert_eq!(found.get(key.as_str()), Some(&value.as_str()), "{key} was acknowledged");
    }
    for line in data.lines() {
        let (key, value) = line.split_once('\t').expect("a tab");
        assert_eq!(found.get(key), Some(&value), "{key} was loaded");
    }
    // The dump is sorted, and the states were equal all along.
    assert!(dump.lines().map(|line| line.split('\t').next()).is_sorted());
    assert_eq!(cluster.agreement(), digest);
    for node in 1..=3 {
        assert_eq!(cluster.stop(node), Some(0), "{}", cluster.log(node));
    }
}

#[test]
fn client_commands_against_three_processes() {
    let cluster = Cluster::start(3);
    let client = |args: &[&str]| cluster.client(args);
    assert_fails(&client(&["get", "k"]), 3, &["k"]);
    assert_succeeds(&client(&["put", "k", "one"]));
    assert_eq!(assert_succeeds(&client(&["get", "k"])), "one");
    assert_eq!(assert_succeeds(&client(&["get", "k", "--text"])), "one\n");
    assert_fails(&client(&["cas", "k", "two", "--expect", "zero"]), 3, &["k"]);
    assert_fails(&client(&["cas", "k", "two", "--absent"]), 3, &["k"]);
    assert_succeeds(&client(&["cas", "k", "two", "--expect", "one"]));
    assert_succeeds(&client(&["cas", "new", "tab\tand \\", "--absent"]));
    assert_eq!(cluster.records(), "k\ttwo\nnew\ttab\\tand \\\\\n");
    assert_eq!(assert_succeeds(&client(&["range", "--prefix", "n", "--keys-only"])), "new\n");
    assert_eq!(assert_succeeds(&client(&["range", "a", "n"])), "k\ttwo\n");
    let json = assert_succeeds(&client(&["range", "--limit", "1", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["key"], &json["value"]), (&"k".into(), &"two".into()));
    assert_succeeds(&client(&["delete", "k"]));
    assert_fails(&client(&["delete", "k"]), 3, &["k"]);

    let status = cluster.status();
    let nodes = status["nodes"].as_array().expect("an array");
    assert_eq!(nodes.len(), 3);
    for (child, node) in cluster.nodes.iter().zip(nodes) {
        assert_eq!(node["pid"].as_u64(), child.as_ref().map(|child| u64::from(child.id())));
        assert_eq!(node["health"], "ok");
    }
    let table = assert_succeeds(&client(&["status"]));
    assert!(table.contains("DIGEST") && table.contains("leader"), "{table}");
    let why = assert_succeeds(&client(&["status", "--why"]));
    assert_eq!(why.matches(": follows node ").count(), 2, "{why}");
    assert_eq!(why.matches(": leads since index ").count(), 1, "{why}");
}

#[test]
fn a_node_without_a_leader_says_why() {
    let mut cluster = Cluster::start(3);
    cluster.kill(2);
    cluster.kill(3);
    let said = wait_for("node 1 to give its leader up", || {
        let status = cluster.client(&["status"]);
        let said = String::from_utf8(status.stdout).expect("UTF-8");
        said.contains("; no answer: 2, 3").then_some(said)
    });
    assert!(said.contains("node 1: asks whether it could be elected; votes: 1;"), "{said}");
    let status = cluster.status();
    assert!(status["nodes"][0]["why"].is_string() && status["nodes"][1]["why"].is_null());
}

#[test]
fn what_is_dumped_loads_and_dumps_the_same() {
    let cluster = Cluster::start(1);
    let first = cluster.path("first.tsv");
    // Any bytes; a key that comes twice, whose last value counts; and Windows' line ends.
    fs::write(&first, "a\\x00\\xff\t\\tx\\n\\\\\r\nb\told\nb\tnew\tcolumn\nempty\t\nü\t世界\n")
        .expect("writable");
    assert_succeeds(&cluster.client(&["load", &first]));
    let dump = assert_succeeds(&cluster.client(&["dump"]));
    assert_eq!(cluster.records(), "a\\x00\\xff\t\\tx\\n\\\\\nb\tnew\\tcolumn\nempty\t\nü\t世界\n");

    let other = Cluster::start(1);
    let second = cluster.path("second.tsv");
    fs::write(&second, &dump).expect("writable");
    assert_succeeds(&other.client(&["load", &second]));
    assert_eq!(assert_succeeds(&other.client(&["dump"])), dump);
    // As JSON Lines, too.
    let third = cluster.path("third.jsonl");
    let json = assert_succeeds(&other.client(&["range", "--json"]));
    fs::write(&third, json).expect("writable");
    let last = Cluster::start(1);
    assert_succeeds(&last.client(&["load", &third]));
    assert_eq!(assert_succeeds(&last.client(&["dump"])), dump);
    assert!(!fs::exists(cluster.path("second.tsv.raft-progress")).expect("readable"));
}

#[test]
fn the_benchmark_reports_json() {
    let cluster = Cluster::start(1);
    for kind in ["put", "get"] {
        let args = [
            "bench",
            kind,
            "--inflight",
            "4",
            "--value-size",
            "16",
            "--seconds",
            "1",
            "--keys",
            "50",
            "--json",
        ];
        let json = assert_succeeds(&cluster.client(&args));
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert!(json["ops_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{json}");
        for field in ["p50_us", "p99_us", "p999_us", "max_us"] {
            assert!(json[field].as_u64().is_some_and(|micros| micros > 0), "{json}");
        }
        assert_eq!(json["errors"], 0);
    }
}

#[test]
fn the_demo_holds() {
    let output = run(&["demo", "--once"]);
    let told = assert_succeeds(&output);
    for step in ["34884 records", "writes were unavailable for", "same state", "in good order"] {
        assert!(told.contains(step), "{step:?} is missing in: {told}");
    }
}

/// A node that was killed leaves a recording as far as it got, and the start after it keeps that one.
#[test]
fn a_node_records_what_its_core_is_told() {
    let mut cluster = Cluster::init(1);
    let config = fs::read_to_string(cluster.path("node1.toml")).expect("made by init");
    let config = config.replacen("[process]", "[process]\nrecord = \"node1.rec\"", 1);
    fs::write(cluster.path("node1.toml"), config).expect("writable");
    cluster.start_node(1);
    cluster.leader();
    assert_succeeds(&cluster.client(&["put", "a-key", "a-value-of-its-own"]));
    cluster.kill(1);
    cluster.start_node(1);
    cluster.leader();
    assert_eq!(cluster.stop(1), Some(0));
    for name in ["node1.rec.1", "node1.rec"] {
        let bytes = fs::read(cluster.path(name)).expect("a recording");
        let has_put = bytes.windows(18).any(|part| part == b"a-value-of-its-own");
        assert_eq!(has_put, name == "node1.rec.1", "{name}");
        let mut led = false;
        for step in Replay::new(&bytes).expect("it begins as recordings do") {
            let Ok(step) = step else { break };
            assert!(step.outcome.is_ok(), "{name}: {:?}", step.outcome);
            led |= step.actions.iter().any(|action| {
                matches!(action, Action::Event(Event::RoleChanged { role: RoleKind::Leader, .. }))
            });
        }
        assert!(led, "{name}");
    }
    let mode = fs::metadata(cluster.path("node1.rec")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it holds what the log holds");
}
