//! What the end-to-end tests share: running the real binary, and clusters of real processes in temporary folders.
// Each test binary uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Nothing here takes this long unless it hangs.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The binary under test, without anything from the environment that it would heed.
pub fn raft() -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_raft")));
    command.stdin(Stdio::null());
    command
}

fn clean(mut command: Command) -> Command {
    for name in [
        "RAFT_CONFIG",
        "RAFT_NODE_CONFIG",
        "RAFT_LISTEN",
        "RAFT_DATA",
        "RAFT_WORKERS",
        "RAFT_TIMEOUT_MS",
        "RAFT_LOG",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end.
pub fn run(args: &[&str]) -> Output {
    raft().args(args).output().expect("the binary runs")
}

/// Asserts that a command failed with this code, and said all of this on stderr.
#[track_caller]
pub fn assert_fails(output: &Output, code: i32, says: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "stderr: {stderr}");
    for text in says {
        assert!(stderr.contains(text), "{text:?} is missing in: {stderr}");
    }
}

/// Asserts success, and returns stdout.
#[track_caller]
pub fn assert_succeeds(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// Polls until there is something; panics with what was being waited for when the deadline has passed.
pub fn wait_for<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A cluster's files in a temporary folder, and its processes. They are killed when it is dropped.
pub struct Cluster {
    pub dir: TempDir,
    pub nodes: Vec<Option<Child>>,
}

impl Cluster {
    /// Makes the files of a cluster on ports that are free now.
    pub fn init(size: usize) -> Cluster {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let output = run(&["init", "--dir", text(dir.path()), "--nodes", &size.to_string()]);
        assert_succeeds(&output);
        let sockets: Vec<UdpSocket> =
            (0..size).map(|_| UdpSocket::bind(("127.0.0.1", 0)).expect("a port")).collect();
        let mut files: Vec<PathBuf> =
            (1..=size).map(|node| dir.path().join(format!("node{node}.toml"))).collect();
        files.push(dir.path().join("client.toml"));
        for file in files {
            let mut config = fs::read_to_string(&file).expect("made by init");
            for (node, socket) in (1..).zip(&sockets) {
                let port = socket.local_addr().expect("bound").port();
                config = config.replace(&format!(":{}\"", 7400 + node), &format!(":{port}\""));
            }
            fs::write(&file, config).expect("writable");
        }
        Cluster { dir, nodes: (0..size).map(|_| None).collect() }
    }

    /// A started cluster with a leader.
    pub fn start(size: usize) -> Cluster {
        let mut cluster = Cluster::init(size);
        for node in 1..=size {
            cluster.start_node(node);
        }
        cluster.leader();
        cluster
    }

    pub fn path(&self, name: &str) -> String {
        text(&self.dir.path().join(name)).to_owned()
    }

    pub fn serve(&self, node: usize) -> Command {
        let mut command = raft();
        command.args(["serve", "--until-stdin-closes", "--config"]);
        command.arg(self.path(&format!("node{node}.toml")));
        command.stdin(Stdio::piped());
        command
    }

    /// Starts a node, and waits until it says that it is ready.
    pub fn start_node(&mut self, node: usize) {
        self.start_node_with(node, &[]);
    }

    /// The same, with more arguments.
    pub fn start_node_with(&mut self, node: usize, args: &[&str]) {
        self.start_node_by(node, args, |program| {
            let mut same = Command::new(program.get_program());
            same.args(program.get_args()).stdin(Stdio::piped()).stdout(Stdio::piped());
            same
        });
    }

    /// The same, by another command that runs it.
    pub fn start_node_by(
        &mut self,
        node: usize,
        args: &[&str],
        run_by: impl FnOnce(&Command) -> Command,
    ) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("node{node}.log")))
            .expect("a log file");
        let mut serve = self.serve(node);
        serve.args(args);
        let mut child = clean(run_by(&serve))
            .env("RAFT_LOG", "info")
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let stdout = child.stdout.take().expect("piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("readable");
        self.nodes[node - 1] = Some(child);
        assert!(line.starts_with(&format!("ready node={node} ")), "{line:?}\n{}", self.log(node));
    }

    /// What a node has logged.
    pub fn log(&self, node: usize) -> String {
        fs::read_to_string(self.path(&format!("node{node}.log"))).unwrap_or_default()
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: usize) {
        let mut child = self.nodes[node - 1].take().expect("running");
        child.kill().expect("killable");
        child.wait().expect("ended");
    }

    /// Closes the node's stdin, waits, and returns its exit code.
    pub fn stop(&mut self, node: usize) -> Option<i32> {
        let mut child = self.nodes[node - 1].take().expect("running");
        drop(child.stdin.take());
        child.wait().expect("ended").code()
    }

    /// Runs a client command.
    pub fn client(&self, args: &[&str]) -> Output {
        raft().env("RAFT_CONFIG", self.path("client.toml")).args(args).output().expect("runs")
    }

    /// The records of `raft dump`, without the marks at its beginning and end, which must be there.
    #[track_caller]
    pub fn records(&self) -> String {
        let dump = assert_succeeds(&self.client(&["dump"]));
        let records = dump.strip_prefix("#raft-dump 1\n").expect("a mark at the beginning");
        let (records, end) = records.rsplit_once("#raft-dump end ").expect("a mark at the end");
        let count = format!("records={} blake3=", records.lines().count());
        assert!(end.starts_with(&count) && end.ends_with('\n'), "{end}");
        records.to_owned()
    }

    /// `raft status --json`.
    pub fn status(&self) -> Value {
        let output = self.client(&["status", "--json"]);
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Waits until a node leads and enough of the others follow it to serve.
    pub fn leader(&self) -> usize {
        wait_for("a leader", || {
            let status = self.status();
            let nodes = status["nodes"].as_array()?;
            let leads = |node: &&Value| node["role"] == "leader";
            let leader = nodes.iter().filter(leads).max_by_key(|node| node["term"].as_u64())?;
            usize::try_from(leader["node"].as_u64()?).ok()
        })
    }

    /// Waits until every node has applied the same, and returns the digest that all of them have.
    pub fn agreement(&self) -> String {
        wait_for("equal states", || {
            let status = self.status();
            let nodes = status["nodes"].as_array()?;
            let first = nodes.first()?;
            let same = |node: &Value| {
                node["health"] == "ok"
                    && node["lag"] == 0
                    && node["applied"] == first["applied"]
                    && node["state_digest"] == first["state_digest"]
            };
            let digest = first["state_digest"].as_str()?;
            nodes.iter().all(same).then(|| digest.to_owned())
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
