//! What an operator is told: whether the cluster serves, what a node does with a signal, what a benchmark did, whether the
//! configuration is the group's.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{Cluster, assert_fails, assert_succeeds, run, wait_for};

#[test]
fn status_says_whether_the_cluster_serves_and_whether_states_agree() {
    let mut cluster = Cluster::start(3);
    assert_succeeds(&cluster.client(&["put", "k", "v"]));
    cluster.agreement();
    let table = assert_succeeds(&cluster.client(&["status"]));
    assert!(table.contains("verdict: ok: node "), "{table}");
    assert!(table.contains("states: all nodes hold the same at index "), "{table}");
    for line in table.lines() {
        assert!(line.trim_end().chars().count() <= 80, "{line}");
    }
    let json = cluster.status();
    assert_eq!((&json["verdict"], &json["states"]), (&"ok".into(), &"agree".into()));
    let leader = usize::try_from(json["leader"].as_u64().expect("a leader")).expect("small");
    let others: Vec<usize> = (1..=3).filter(|node| *node != leader).collect();

    cluster.kill(others[0]);
    let told = wait_for("the dead node to be missed", || {
        let told = assert_succeeds(&cluster.client(&["status"]));
        told.contains("degraded").then_some(told)
    });
    assert!(told.contains("2 of 3 voters follow it"), "{told}");
    cluster.kill(others[1]);
    wait_for("status to say that nothing is served", || {
        let status = cluster.client(&["status"]);
        if status.status.success() {
            return None;
        }
        assert_fails(&status, 4, &["unavailable"]);
        Some(())
    });
    assert_eq!(cluster.status()["verdict"], "unavailable");
}

#[test]
fn a_client_that_knows_one_node_sees_the_others() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let path = cluster.path("client.toml");
    let text = fs::read_to_string(&path).expect("readable");
    let (head, nodes) = text.split_once("[nodes]\n").expect("nodes");
    for known in 1..=3 {
        let line =
            nodes.lines().find(|line| line.starts_with(&format!("{known} = "))).expect("there");
        fs::write(&path, format!("{head}[nodes]\n{line}\n")).expect("writable");
        let status = cluster.status();
        let rows = status["nodes"].as_array().expect("an array");
        assert_eq!(rows.len(), 3, "asked {known}: {status}");
        assert_eq!(rows[leader - 1]["role"], "leader", "asked {known}: {status}");
        let silent = rows.iter().filter(|row| row["role"].is_null());
        for row in silent {
            assert!(
                row["health"].as_str().is_some_and(|why| why.starts_with("not asked")),
                "{row}"
            );
        }
        assert_succeeds(&cluster.client(&["status"]));
    }
}

#[test]
fn a_benchmark_that_failed_fails() {
    let mut cluster = Cluster::start(1);
    let mut bench = support::raft()
        .env("RAFT_CONFIG", cluster.path("client.toml"))
        .args([
            "bench",
            "put",
            "--inflight",
            "8",
            "--seconds",
            "1",
            "--json",
            "--timeout-ms",
            "500",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    wait_for("its first key", || {
        let keys = cluster.client(&["range", "--prefix", "bench/", "--limit", "1"]);
        (!keys.stdout.is_empty()).then_some(())
    });
    cluster.kill(1);
    let (mut json, mut said) = (String::new(), String::new());
    bench.stdout.take().expect("piped").read_to_string(&mut json).expect("UTF-8");
    bench.stderr.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
    assert_eq!(bench.wait().expect("ended").code(), Some(4), "{said}{json}");
    assert!(said.contains("operations failed") && said.contains(" times: "), "{said}");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let counts = json["error_counts"].as_object().expect("an object");
    let counted: u64 = counts.values().filter_map(Value::as_u64).sum();
    assert!(counted > 0 && json["errors"].as_u64() >= Some(counted), "{json}");
}

#[test]
fn a_benchmark_leaves_nothing_behind_unless_asked() {
    let cluster = Cluster::start(1);
    let bench = ["bench", "put", "--inflight", "4", "--seconds", "1", "--keys", "70"];
    let keys = || assert_succeeds(&cluster.client(&["range", "--keys-only"])).lines().count();
    assert_succeeds(&cluster.client(&["put", "bench/mine", "stays"]));
    for kind in ["put", "get"] {
        let args: Vec<&str> =
            bench.iter().map(|&arg| if arg == "put" { kind } else { arg }).collect();
        assert_succeeds(&cluster.client(&args));
        assert_eq!(keys(), 1, "{kind}");
    }
    assert_succeeds(&cluster.client(&[&bench[..], &["--keep"]].concat()));
    assert!(keys() > 1);
}

/// What a supervisor sends to have a configuration read again.
#[test]
fn a_hangup_does_not_end_a_node() {
    let cluster = Cluster::start(1);
    let hang_up = || {
        let pid = cluster.nodes[0].as_ref().expect("running").id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("runs").success());
    };
    hang_up();
    wait_for("the node to say so", || {
        cluster.log(1).contains("SIGHUP: new connections").then_some(())
    });
    assert_succeeds(&cluster.client(&["put", "k", "v"]));
    fs::write(cluster.path("node1.pem"), "no certificate").expect("writable");
    hang_up();
    wait_for("the node to refuse it", || {
        cluster.log(1).contains("stay as they were").then_some(())
    });
    assert_eq!(assert_succeeds(&cluster.client(&["get", "k"])), "v");
}

/// Nobody has to ask for it: elections, and peers that come and go.
#[test]
fn a_node_tells_of_elections_and_peers_by_default() {
    let cluster = Cluster::init(3);
    let mut nodes: Vec<_> = (1..=2)
        .map(|node| {
            let mut serve = cluster.serve(node);
            serve.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs")
        })
        .collect();
    for node in &mut nodes {
        let mut line = String::new();
        let stdout = node.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("readable");
        assert!(line.starts_with("ready "), "{line}");
    }
    cluster.leader();
    assert_succeeds(&cluster.client(&["put", "k", "v"]));
    let mut logs = Vec::new();
    for node in &mut nodes {
        drop(node.stdin.take());
        let mut log = String::new();
        node.stderr.take().expect("piped").read_to_string(&mut log).expect("UTF-8");
        assert_eq!(node.wait().expect("ended").code(), Some(0), "{log}");
        logs.push(log);
    }
    for log in &logs {
        assert!(log.contains("leader changed") && log.contains("connected to peer"), "{log}");
        // Node 3 is missed once at most, however often it is tried.
        let misses = log.lines().filter(|line| line.contains("peer=3"));
        assert!(misses.count() <= 1, "{log}");
        assert!(!log.contains("WARN") && !log.contains("not a peer"), "{log}");
    }
}

#[test]
fn hosts_with_commas_and_ports() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| support::text(&dir.path().join(name)).to_owned();
    assert_succeeds(&run(&[
        "init",
        "--dir",
        &path("c"),
        "--host",
        "a.example,b.example:9,c.example",
    ]));
    let client = fs::read_to_string(path("c/client.toml")).expect("made");
    for node in ["1 = \"a.example:7401\"", "2 = \"b.example:9\"", "3 = \"c.example:7403\""] {
        assert!(client.contains(node), "{client}");
    }
    let refused = run(&["init", "--dir", &path("d"), "--host", "a.example:7"]);
    assert_fails(
        &refused,
        5,
        &["nodes 1 and 2 would both be at a.example:7", "a host or a port of its own"],
    );
    assert!(!fs::exists(path("d")).expect("readable"), "nothing was made");
}

#[test]
fn members_that_the_group_does_not_have_are_told() {
    let mut cluster = Cluster::start(1);
    assert_eq!(cluster.stop(1), Some(0));
    let path = cluster.path("node1.toml");
    let text = fs::read_to_string(&path).expect("readable");
    fs::write(&path, text.replace("[members]\n", "[members]\n2 = \"127.0.0.1:1\"\n"))
        .expect("writable");
    cluster.start_node(1);
    cluster.leader();
    let notice = "the group's members are 1, but [members] of the configuration lists 1, 2";
    assert!(cluster.log(1).contains(notice), "{}", cluster.log(1));
    let status = assert_succeeds(&cluster.client(&["status"]));
    assert!(status.contains(notice), "{status}");
    assert!(
        cluster.status()["nodes"][0]["notice"].as_str().is_some_and(|told| told.contains(notice))
    );
}

/// What messages tell operators to do when a certificate is lost or wrong.
#[test]
fn certificates_can_be_issued_and_renewed() {
    let cluster = Cluster::start(1);
    let dir = support::text(cluster.dir.path()).to_owned();
    let issue = |args: &[&str]| run(&[&["certs", "issue", "--dir", &dir], args].concat());
    assert_succeeds(&issue(&["--client", "backup"]));
    let client = fs::read_to_string(cluster.path("client.toml")).expect("readable");
    let client = client.replace("client.pem", "backup.pem").replace("client.key", "backup.key");
    fs::write(cluster.path("client.toml"), client).expect("writable");
    assert_succeeds(&cluster.client(&["put", "k", "v"]));

    let before = fs::read(cluster.path("node1.pem")).expect("readable");
    assert_fails(&issue(&["--node", "1"]), 5, &["node1.pem", "there already", "--renew"]);
    assert_eq!(fs::read(cluster.path("node1.pem")).expect("readable"), before);
    assert_succeeds(&issue(&["--node", "1", "--renew"]));
    assert_ne!(fs::read(cluster.path("node1.pem")).expect("readable"), before);
    let pid = cluster.nodes[0].as_ref().expect("running").id().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("runs").success());
    wait_for("the node to use it", || cluster.log(1).contains("SIGHUP: new").then_some(()));
    assert_eq!(assert_succeeds(&cluster.client(&["get", "k"])), "v");
    assert_fails(&issue(&["--client", "../x"]), 5, &["cannot name a certificate"]);
}
