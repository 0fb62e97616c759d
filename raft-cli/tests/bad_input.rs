//! Everything that an operator can get wrong: each is a clear error with the remedy, its own exit code, and nothing lost.

mod support;

use std::fs;
use std::net::UdpSocket;

use support::{Cluster, assert_fails, assert_succeeds, run};

/// `raft serve` as it ends by itself.
fn serve(cluster: &Cluster, node: usize, more: &[&str]) -> std::process::Output {
    cluster.serve(node).args(more).stdin(std::process::Stdio::null()).output().expect("runs")
}

fn edit(cluster: &Cluster, file: &str, from: &str, to: &str) {
    let path = cluster.path(file);
    let text = fs::read_to_string(&path).expect("readable");
    assert!(text.contains(from), "{from:?} is not in {text}");
    fs::write(path, text.replacen(from, to, 1)).expect("writable");
}

#[test]
fn a_missing_configuration() {
    assert_fails(
        &run(&["serve", "--config", "/nowhere/node1.toml"]),
        5,
        &["/nowhere/node1.toml", "raft init"],
    );
    assert_fails(
        &run(&["get", "k", "--config", "/nowhere/client.toml"]),
        5,
        &["/nowhere/client.toml", "RAFT_CONFIG"],
    );
}

#[test]
fn a_malformed_configuration() {
    let cluster = Cluster::init(1);
    edit(&cluster, "node1.toml", "listen", "lissten");
    assert_fails(&serve(&cluster, 1, &[]), 5, &["node1.toml", "lissten", "expected"]);
    fs::write(cluster.path("client.toml"), "cluster = [").expect("writable");
    assert_fails(&cluster.client(&["get", "k"]), 5, &["client.toml", "line 1"]);
    let cluster = Cluster::init(1);
    edit(&cluster, "client.toml", "cluster = \"", "cluster = \"xyz");
    assert_fails(
        &cluster.client(&["get", "k"]),
        5,
        &["client.toml", "xyz", "32 hexadecimal digits"],
    );
    assert_fails(
        &serve(&cluster, 1, &["--listen", "somewhere"]),
        5,
        &["somewhere", "IP address and a port"],
    );
}

#[test]
fn the_configuration_of_the_other_kind() {
    let cluster = Cluster::init(1);
    let client = cluster.path("client.toml");
    let says = [&client, "configuration of a client", "node1.toml", "RAFT_NODE_CONFIG"];
    assert_fails(&run(&["serve", "--config", &client]), 5, &says);
    let node = cluster.path("node1.toml");
    let says = [&node, "configuration of a node", "client.toml", "RAFT_CONFIG"];
    assert_fails(&run(&["get", "k", "--config", &node]), 5, &says);
}

#[test]
fn a_key_file_that_can_not_be_read() {
    let cluster = Cluster::init(1);
    let key = cluster.path("client.key");
    fs::remove_file(&key).expect("removable");
    // Not even root can read a folder.
    fs::create_dir(&key).expect("made");
    assert_fails(&cluster.client(&["get", "k"]), 5, &[&key, "the right to read it"]);
}

#[test]
fn output_that_can_not_be_written() {
    let cluster = Cluster::start(1);
    assert_succeeds(&cluster.client(&["put", "k", "v"]));
    for command in ["dump", "range", "status"] {
        let full = fs::File::options().write(true).open("/dev/full").expect("there");
        let output = support::raft()
            .env("RAFT_CONFIG", cluster.path("client.toml"))
            .arg(command)
            .stdout(full)
            .output()
            .expect("runs");
        assert_fails(&output, 1, &["can not write to stdout: No space left"]);
    }
}

#[test]
fn an_unknown_node_id() {
    let cluster = Cluster::init(3);
    edit(&cluster, "node1.toml", "node = 1", "node = 4");
    assert_fails(&serve(&cluster, 1, &[]), 5, &["node 4 is not among the members 1, 2, 3"]);
}

#[test]
fn a_wrong_certificate() {
    // Another node's.
    let cluster = Cluster::init(3);
    edit(&cluster, "node1.toml", "node1.pem", "node2.pem");
    edit(&cluster, "node1.toml", "node1.key", "node2.key");
    assert_fails(&serve(&cluster, 1, &[]), 5, &["certificate", "node 2", "issued for it"]);
    // A key that does not belong to it.
    let cluster = Cluster::init(3);
    edit(&cluster, "node1.toml", "node1.key", "node2.key");
    assert_fails(&serve(&cluster, 1, &[]), 5, &["node2.key", "does not belong to the certificate"]);
    // None at all.
    fs::remove_file(cluster.path("client.pem")).expect("removable");
    assert_fails(&cluster.client(&["get", "k"]), 5, &["client.pem"]);
}

#[test]
fn a_certificate_of_another_cluster() {
    let (cluster, other) = (Cluster::start(1), Cluster::init(1));
    for file in ["ca.pem", "client.pem", "client.key"] {
        fs::copy(other.path(file), cluster.path(file)).expect("copied");
    }
    assert_fails(&cluster.client(&["put", "k", "v"]), 5, &["certificate", "cluster"]);
}

/// Nothing is wrong with either set of files but that they are of two clusters: only the handshake shows it, and it does at once.
#[test]
fn a_client_of_another_cluster() {
    let (cluster, other) = (Cluster::start(1), Cluster::init(1));
    let address = |cluster: &Cluster| {
        let config = fs::read_to_string(cluster.path("client.toml")).expect("readable");
        config.lines().find(|line| line.starts_with("1 = ")).expect("node 1").to_owned()
    };
    edit(&other, "client.toml", &address(&other), &address(&cluster));
    // Far less than this passes.
    let patient = ["--timeout-ms", "600000"];
    for command in [&["put", "k", "v"][..], &["get", "k"], &["dump"], &["status"]] {
        let output = other.client(&[command, &patient[..]].concat());
        assert_fails(&output, 5, &["accept each other"]);
    }
    let put = other.client(&["put", "k", "v"]);
    assert_fails(&put, 5, &["not of this cluster", "check that the address, and the CA file"]);
    assert_eq!(cluster.records(), "");
}

#[test]
fn a_node_with_the_credentials_of_another_cluster() {
    let (cluster, other) = (Cluster::init(1), Cluster::init(1));
    for file in ["node1.pem", "node1.key"] {
        fs::copy(other.path(file), cluster.path(file)).expect("copied");
    }
    assert_fails(&serve(&cluster, 1, &[]), 5, &["node1.pem", "not signed by the CA", "ca.pem"]);
    fs::copy(other.path("ca.pem"), cluster.path("ca.pem")).expect("copied");
    assert_fails(&serve(&cluster, 1, &[]), 5, &["cluster", "issued for it"]);
    assert!(!fs::exists(cluster.path("data1/log.redb")).expect("readable"), "no log was made");
}

#[test]
fn a_port_in_use() {
    let cluster = Cluster::init(1);
    let taken = UdpSocket::bind(("127.0.0.1", 0)).expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let output = serve(&cluster, 1, &["--listen", &address]);
    assert_fails(&output, 8, &[&address, "in use"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches("in use").count(), 1, "{said}");
}

#[test]
fn an_unwritable_data_folder() {
    let cluster = Cluster::init(1);
    // Below a file nobody can write, not even root.
    let below_a_file = cluster.path("ca.pem/data");
    assert_fails(&serve(&cluster, 1, &["--data", &below_a_file]), 6, &[&below_a_file, "--data"]);
}

#[test]
fn a_data_folder_of_another_cluster() {
    let (mut cluster, other) = (Cluster::start(1), Cluster::init(1));
    assert_succeeds(&cluster.client(&["put", "k", "v"]));
    assert_eq!(cluster.stop(1), Some(0));
    let data = cluster.path("data1");
    assert_fails(
        &serve(&other, 1, &["--data", &data]),
        6,
        &[&data, "belongs to cluster", "empty folder"],
    );
    // Nothing is lost.
    cluster.start_node(1);
    cluster.leader();
    assert_eq!(assert_succeeds(&cluster.client(&["get", "k"])), "v");
}

#[test]
fn a_data_folder_of_another_format_version() {
    let mut cluster = Cluster::start(1);
    assert_eq!(cluster.stop(1), Some(0));
    fs::write(cluster.path("data1/meta"), "format = 99\n").expect("writable");
    let says = ["format version 99", "reads version 1"];
    assert_fails(&serve(&cluster, 1, &[]), 6, &says);
}

#[test]
fn a_data_folder_in_use_by_another_process() {
    let cluster = Cluster::start(1);
    let says = [&cluster.path("data1"), "in use by another process"];
    assert_fails(&serve(&cluster, 1, &["--listen", "127.0.0.1:0"]), 6, &says);
    // The one that uses it is none the worse.
    assert_succeeds(&cluster.client(&["put", "k", "v"]));
}

#[test]
fn a_malformed_line_is_named_and_nothing_is_loaded() {
    let cluster = Cluster::start(1);
    let file = cluster.path("data.tsv");
    fs::write(&file, "a\t1\nb\t2\nno tab here\nc\t3\n").expect("writable");
    assert_fails(
        &cluster.client(&["load", &file]),
        7,
        &[&file, "line 3", "tab", "nothing was loaded"],
    );
    assert_eq!(cluster.records(), "");
}

#[test]
fn keys_and_values_over_the_limit() {
    let cluster = Cluster::start(1);
    let long_key = "k".repeat(raft_kv::limits::KEY_BYTES_MAX + 1);
    assert_fails(
        &cluster.client(&["put", &long_key, "v"]),
        7,
        &["the key has 4097 bytes", "allowed"],
    );
    let file = cluster.path("value");
    fs::write(&file, vec![b'v'; raft_kv::limits::VALUE_BYTES_MAX + 1]).expect("writable");
    let put = support::raft()
        .env("RAFT_CONFIG", cluster.path("client.toml"))
        .args(["put", "k", "-"])
        .stdin(fs::File::open(&file).expect("readable"))
        .output()
        .expect("runs");
    assert_fails(&put, 7, &["value", "limit"]);
    assert_fails(&cluster.client(&["put", "", "v"]), 7, &["key is empty"]);
    assert_eq!(cluster.records(), "");
}

#[test]
fn nobody_answers() {
    let cluster = Cluster::init(3);
    assert_fails(
        &cluster.client(&["get", "k", "--timeout-ms", "300"]),
        4,
        &["no answer within", "raft status"],
    );
    assert_fails(&cluster.client(&["status", "--timeout-ms", "300"]), 4, &["no node answers"]);
}
