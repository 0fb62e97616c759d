//! The processes of a cluster and their folders: starting, killing, stopping, pausing; what they logged, how they ended, how
//! much they hold. Whether that is as it should be is for `judge` to say.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use raft_core::NodeId;
use raft_kv::client::{Client, ClientConfig};
use raft_net_quic::ClusterId;
use raft_net_quic::pki::{Identity, IdentityPaths};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use crate::hosts::{self, Hosts};

/// How long a process may take to stop in good order.
const STOPS_WITHIN: Duration = Duration::from_secs(20);
/// How large the file system of one node is.
const DISK_BYTES: u64 = 2 << 30;

/// How one node is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StartOptions {
    /// Variables of its environment.
    pub(crate) env: Vec<(String, String)>,
    /// Arguments that stand before the program: a tracer that runs it.
    pub(crate) under: Vec<String>,
    /// Another configuration file than its own.
    pub(crate) config: Option<PathBuf>,
}

/// An end of a process.
#[derive(Clone, Debug)]
pub(crate) struct Exit {
    pub(crate) node: u64,
    pub(crate) status: ExitStatus,
    /// The last lines of its log, if nobody had asked for it to end.
    pub(crate) log_tail: String,
    /// Whether this program ended it.
    pub(crate) was_asked: bool,
}

/// One node's process and folder.
#[derive(Debug)]
struct Member {
    child: Option<Child>,
    log: PathBuf,
    /// How much of the log was read.
    log_read: u64,
    /// Where its own file system is mounted, if it has one.
    disk: PathBuf,
    has_disk: bool,
    rss_max_kib: u64,
}

/// A cluster of real processes.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) hosts: Hosts,
    home: PathBuf,
    program: PathBuf,
    members: BTreeMap<u64, Member>,
    exits: Vec<Exit>,
}

impl Cluster {
    /// Makes the files of a cluster of `nodes` in `home`, with the program's own `init`; nothing runs yet.
    pub(crate) fn make(
        home: &Path,
        program: &Path,
        hosts: Hosts,
        nodes: u64,
    ) -> anyhow::Result<Cluster> {
        let addresses = hosts.addresses()?;
        let mut init = std::process::Command::new(program);
        init.args(["init", "--nodes", &nodes.to_string(), "--dir"]).arg(home.join("c"));
        for (host, _) in &addresses {
            init.args(["--host", host]);
        }
        let output = init.output().with_context(|| format!("cannot run {}", program.display()))?;
        if !output.status.success() {
            bail!("raft init failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let mut cluster = Cluster {
            hosts,
            home: home.join("c"),
            program: program.to_owned(),
            members: BTreeMap::new(),
            exits: Vec::new(),
        };
        for node in 1..=nodes {
            let member = cluster.make_member(node)?;
            cluster.members.insert(node, member);
        }
        cluster.set_addresses(&addresses)?;
        Ok(cluster)
    }

    /// Gives a node a file system of its own, if the system allows it, so that it can be full.
    fn make_member(&self, node: u64) -> anyhow::Result<Member> {
        let disk = self.home.join(format!("disk{node}"));
        fs::create_dir_all(&disk)?;
        let size = format!("size={DISK_BYTES}");
        let target = disk.to_string_lossy().into_owned();
        let has_disk = hosts::run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &target]).is_ok();
        // The folder that `init` made says that this node founds the cluster.
        let made = self.home.join(format!("data{node}"));
        if made.exists() {
            copy_folder(&made, &disk.join("data"))?;
        }
        let log = self.home.join(format!("node{node}.log"));
        Ok(Member { child: None, log, log_read: 0, disk, has_disk, rss_max_kib: 0 })
    }

    /// Writes the addresses and data folders into all configuration files.
    fn set_addresses(&self, addresses: &[(String, u16)]) -> anyhow::Result<()> {
        let mut at = toml::Table::new();
        for (node, (host, port)) in (1..).zip(addresses) {
            at.insert(node.to_string(), toml::Value::String(format!("{host}:{port}")));
        }
        for &node in self.members.keys() {
            self.edit_config(node, |config| {
                let listen = at.get(&node.to_string()).cloned();
                config.insert("members".into(), toml::Value::Table(at.clone()));
                if let Some(listen) = listen {
                    config.insert("listen".into(), listen);
                }
                config.insert("data".into(), format!("disk{node}/data").into());
            })?;
        }
        let path = self.home.join("client.toml");
        let mut config: toml::Table = fs::read_to_string(&path)?.parse()?;
        config.insert("nodes".into(), toml::Value::Table(at));
        fs::write(&path, config.to_string())?;
        Ok(())
    }

    /// Changes a node's configuration file; it holds from the next start on.
    pub(crate) fn edit_config(
        &self,
        node: u64,
        edit: impl FnOnce(&mut toml::Table),
    ) -> anyhow::Result<()> {
        let path = self.config(node);
        let mut config: toml::Table = fs::read_to_string(&path)?.parse()?;
        edit(&mut config);
        fs::write(&path, config.to_string()).with_context(|| path.display().to_string())
    }

    pub(crate) fn config(&self, node: u64) -> PathBuf {
        self.home.join(format!("node{node}.toml"))
    }

    /// A node's data folder.
    pub(crate) fn data(&self, node: u64) -> PathBuf {
        self.home.join(format!("disk{node}/data"))
    }

    /// The file that a full disk is made with.
    pub(crate) fn ballast(&self, node: u64) -> PathBuf {
        self.home.join(format!("disk{node}/ballast"))
    }

    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.members.keys().copied().collect()
    }

    /// Whether every node has a file system of its own.
    pub(crate) fn has_disks(&self) -> bool {
        self.members.values().all(|member| member.has_disk)
    }

    /// A client that knows all nodes, by the files that `init` made.
    pub(crate) fn client(&self, timeout: Duration) -> anyhow::Result<Client> {
        let config = self.client_table()?;
        let nodes = config.get("nodes").and_then(toml::Value::as_table).context("`nodes`")?;
        let nodes = nodes
            .iter()
            .map(|(node, at)| {
                let at = at.as_str().context("an address")?;
                Ok((NodeId(node.parse()?), at.to_owned()))
            })
            .collect::<anyhow::Result<_>>()?;
        let mut config = ClientConfig::new(self.identity()?, self.cluster_id()?, nodes);
        config.request_timeout = timeout;
        Ok(Client::new(config)?)
    }

    fn client_table(&self) -> anyhow::Result<toml::Table> {
        let path = self.home.join("client.toml");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.parse()?)
    }

    /// The cluster's id.
    pub(crate) fn cluster_id(&self) -> anyhow::Result<ClusterId> {
        let config = self.client_table()?;
        let cluster = config.get("cluster").and_then(toml::Value::as_str).unwrap_or_default();
        cluster.parse().context("`cluster` of client.toml")
    }

    /// The client's certificate.
    pub(crate) fn identity(&self) -> anyhow::Result<Identity> {
        let path = |name| self.home.join(name);
        let (cert, key, ca) = (path("client.pem"), path("client.key"), path("ca.pem"));
        Ok(Identity::load(&IdentityPaths { cert, key, ca })?)
    }

    /// Starts a node that does not run. Whether it comes up shows in `status`, or in an exit.
    pub(crate) fn start(&mut self, node: u64, options: &StartOptions) -> anyhow::Result<()> {
        if self.is_running(node) {
            return Ok(());
        }
        let member = self.members.get(&node).context("no such node")?;
        let log = OpenOptions::new().create(true).append(true).open(&member.log)?;
        let mut command = match options.under.split_first() {
            None => self.hosts.command(node, &self.program),
            Some((tracer, arguments)) => {
                let mut command = self.hosts.command(node, Path::new(tracer));
                command.args(arguments).arg(&self.program);
                command
            }
        };
        let config = options.config.clone().unwrap_or_else(|| self.config(node));
        command
            .args(["serve", "--config"])
            .arg(config)
            .envs(options.env.iter().cloned())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start node {node}"))?;
        if let Some(member) = self.members.get_mut(&node) {
            member.child = Some(child);
        }
        Ok(())
    }

    /// Starts all that do not run.
    pub(crate) fn start_all(&mut self) -> anyhow::Result<()> {
        for node in self.ids() {
            self.start(node, &StartOptions::default())?;
        }
        Ok(())
    }

    pub(crate) fn is_running(&mut self, node: u64) -> bool {
        self.reap();
        self.members.get(&node).is_some_and(|member| member.child.is_some())
    }

    /// The process's id, while it runs.
    pub(crate) fn pid(&self, node: u64) -> Option<u32> {
        self.members.get(&node)?.child.as_ref()?.id()
    }

    /// Notes what has ended by itself, and how much memory the others have held.
    pub(crate) fn reap(&mut self) {
        for (&node, member) in &mut self.members {
            let Some(child) = &mut member.child else { continue };
            if let Some(kib) = child.id().and_then(resident_kib) {
                member.rss_max_kib = member.rss_max_kib.max(kib);
            }
            let Ok(Some(status)) = child.try_wait() else { continue };
            member.child = None;
            let log_tail = tail(&member.log);
            self.exits.push(Exit { node, status, log_tail, was_asked: false });
        }
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self, node: u64) -> anyhow::Result<()> {
        self.reap();
        let Some(member) = self.members.get_mut(&node) else { return Ok(()) };
        let Some(mut child) = member.child.take() else { return Ok(()) };
        child.start_kill()?;
        let status = child.wait().await?;
        self.exits.push(Exit { node, status, log_tail: String::new(), was_asked: true });
        Ok(())
    }

    /// SIGTERM, and the time until it has ended.
    pub(crate) async fn stop(&mut self, node: u64) -> anyhow::Result<Duration> {
        self.reap();
        let begun = Instant::now();
        self.signal(node, Signal::TERM)?;
        let Some(member) = self.members.get_mut(&node) else { return Ok(Duration::ZERO) };
        let Some(mut child) = member.child.take() else { return Ok(Duration::ZERO) };
        let Ok(status) = tokio::time::timeout(STOPS_WITHIN, child.wait()).await else {
            child.start_kill()?;
            let status = child.wait().await?;
            let log_tail =
                format!("it did not stop within {STOPS_WITHIN:?}\n{}", tail(&member.log));
            self.exits.push(Exit { node, status, log_tail, was_asked: false });
            return Ok(begun.elapsed());
        };
        let status = status?;
        let was_asked = status.success();
        let log_tail = tail(&member.log);
        self.exits.push(Exit { node, status, log_tail, was_asked });
        Ok(begun.elapsed())
    }

    /// SIGSTOP or SIGCONT.
    pub(crate) fn pause(&self, node: u64, is_paused: bool) -> anyhow::Result<()> {
        self.signal(node, if is_paused { Signal::STOP } else { Signal::CONT })
    }

    fn signal(&self, node: u64, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid(node).and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        match pid {
            Some(pid) => kill_process(pid, signal).with_context(|| format!("signal node {node}")),
            None => Ok(()),
        }
    }

    /// The ends of processes since the last call.
    pub(crate) fn take_exits(&mut self) -> Vec<Exit> {
        self.reap();
        std::mem::take(&mut self.exits)
    }

    /// The lines that were logged since the last call, with who logged them.
    pub(crate) fn take_log_lines(&mut self) -> Vec<(u64, String)> {
        let mut lines = Vec::new();
        for (&node, member) in &mut self.members {
            let Ok(mut file) = File::open(&member.log) else { continue };
            let mut text = Vec::new();
            if file.seek(SeekFrom::Start(member.log_read)).is_err()
                || file.read_to_end(&mut text).is_err()
            {
                continue;
            }
            // A line that is being written is read the next time.
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            member.log_read += whole as u64;
            let text = String::from_utf8_lossy(&text[..whole]);
            lines.extend(text.lines().map(|line| (node, line.to_owned())));
        }
        lines
    }

    /// The most memory that each node's processes have held, in KiB.
    pub(crate) fn memory_kib(&mut self) -> BTreeMap<u64, u64> {
        self.reap();
        self.members.iter().map(|(node, member)| (*node, member.rss_max_kib)).collect()
    }

    /// What each node's data folder takes on disk, in KiB.
    pub(crate) fn disk_kib(&self) -> BTreeMap<u64, u64> {
        self.ids().into_iter().map(|node| (node, folder_kib(&self.data(node)))).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in self.members.values_mut() {
            if let Some(child) = &mut member.child {
                let _ = child.start_kill();
                // The file system stays busy until the process is gone.
                while matches!(child.try_wait(), Ok(None)) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            if member.has_disk {
                let _ = hosts::run("umount", &["-l", &member.disk.to_string_lossy()]);
            }
        }
    }
}

/// Copies a folder with all that is in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
    hosts::run("cp", &["-a", "--", &from, &to])
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(16 << 10)..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(6)..].join("\n")
}

/// The most memory that a process has held.
fn resident_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn folder_kib(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_kib(&entry.path()),
            Ok(meta) => meta.blocks() / 2,
            Err(_) => 0,
        })
        .sum()
}
