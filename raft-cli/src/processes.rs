//! Nodes as child processes: start, kill, stop; and never outlive this process. What they do is `serve`'s affair.

use std::fs::{self, OpenOptions};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::exit::{Code, Failure, OrFail, Outcome};

/// How long a node may take until it says that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take to stop in good order.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// One node's process, running or not. Killed when dropped.
pub(crate) struct NodeProcess {
    pub(crate) node: u64,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl NodeProcess {
    /// A node of the cluster that `raft init` made in `dir`; not yet running.
    pub(crate) fn new(dir: &Path, node: u64) -> NodeProcess {
        NodeProcess {
            node,
            config: dir.join(format!("node{node}.toml")),
            log: dir.join(format!("node{node}.log")),
            child: None,
        }
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(&mut self) -> Outcome {
        let node = self.node;
        let program = std::env::current_exe()
            .or_fail(Code::Failed, || "can not find this program's own file".to_owned())?;
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.or_fail(Code::Failed, || format!("can not write {}", self.log.display()))?;
        let mut child = Command::new(program)
            // Whatever happens to this process, the pipe closes, and the node stops.
            .args(["serve", "--until-stdin-closes", "--config"])
            .arg(&self.config)
            .env_remove("RAFT_NODE_CONFIG")
            .env_remove("RAFT_LISTEN")
            .env_remove("RAFT_DATA")
            .env_remove("RAFT_WORKERS")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C in the terminal is for this process alone; it stops the nodes.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .or_fail(Code::Failed, || format!("can not start the process of node {node}"))?;
        let stdout = child.stdout.take();
        self.child = Some(child);
        let Some(stdout) = stdout else {
            return Err(Failure::new(Code::Failed, format!("node {node} has no stdout")));
        };
        let mut line = String::new();
        let mut stdout = BufReader::new(stdout);
        let read = timeout(READY_WITHIN, stdout.read_line(&mut line)).await;
        if matches!(read, Ok(Ok(_))) && line.starts_with("ready ") {
            return Ok(());
        }
        let log = self.log_tail();
        Err(Failure::new(
            Code::Failed,
            format!("node {node} did not become ready; its log ends:\n{log}"),
        ))
    }

    /// The process's id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// SIGKILL: no chance to write anything.
    pub(crate) async fn kill(&mut self) -> Outcome {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let node = self.node;
        child.kill().await.or_fail(Code::Failed, || format!("can not kill node {node}"))
    }

    /// Closes its stdin, and waits until it has stopped in good order.
    pub(crate) async fn stop(&mut self) -> Outcome {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        drop(child.stdin.take());
        let node = self.node;
        match timeout(STOPPED_WITHIN, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => {
                let log = self.log_tail();
                let message = format!("node {node} ended with {status}; its log ends:\n{log}");
                Err(Failure::new(Code::Failed, message))
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                // It is killed when `child` is dropped.
                let message = format!("node {node} did not stop within {STOPPED_WITHIN:?}");
                Err(Failure::new(Code::Failed, message))
            }
        }
    }

    fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

/// UDP ports of the loopback interface that nobody uses at the moment.
pub(crate) fn free_ports(count: usize) -> Outcome<Vec<u16>> {
    let find = || -> std::io::Result<Vec<u16>> {
        let sockets =
            (0..count).map(|_| UdpSocket::bind(("127.0.0.1", 0))).collect::<Result<Vec<_>, _>>()?;
        sockets.iter().map(|socket| Ok(socket.local_addr()?.port())).collect()
    };
    find().or_fail(Code::Address, || "can not find free UDP ports on 127.0.0.1".to_owned())
}
