//! Our side: three `raft serve` processes, loaded by `raft bench` as a user would.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::process::{Child, Command};

use crate::load::{Kind, Load, Outcome, resident_mib};

pub(crate) struct Cluster {
    binary: PathBuf,
    client: PathBuf,
    nodes: Vec<Child>,
}

impl Cluster {
    pub(crate) async fn start(binary: &Path, folder: &Path) -> anyhow::Result<Cluster> {
        let base_port = free_base_port()?;
        let init = Command::new(binary)
            .args(["init", "--nodes", "3", "--base-port", &base_port.to_string(), "--dir"])
            .arg(folder)
            .output()
            .await
            .with_context(|| {
                format!(
                    "{} can not be run: build it first (cargo build --release)",
                    binary.display()
                )
            })?;
        if !init.status.success() {
            bail!("raft init failed: {}", String::from_utf8_lossy(&init.stderr));
        }
        let mut nodes = Vec::new();
        for node in 1..=3 {
            let config = folder.join(format!("node{node}.toml"));
            let mut command = Command::new(binary);
            command.arg("serve").arg("--config").arg(config);
            nodes.push(
                command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn()?,
            );
        }
        let cluster = Cluster { binary: binary.into(), client: folder.join("client.toml"), nodes };
        cluster.wait_until_ready().await?;
        Ok(cluster)
    }

    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let put = self.command().args(["put", "compare/ready", "yes"]).output().await?;
            if put.status.success() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "the raft cluster did not become ready: {}",
                    String::from_utf8_lossy(&put.stderr)
                );
            }
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.env("RAFT_CONFIG", &self.client).kill_on_drop(true);
        command
    }

    pub(crate) async fn measure(&self, load: &Load) -> anyhow::Result<Outcome> {
        let kind = match load.kind {
            Kind::Put => "put",
            Kind::Get => "get",
        };
        let output = self
            .command()
            .args(["bench", kind, "--json", "--keep"])
            .args(["--inflight", &load.inflight.to_string()])
            .args(["--value-size", &load.value_size.to_string()])
            .args(["--keys", &load.keys.to_string()])
            .args(["--seconds", &load.duration.as_secs().to_string()])
            .output()
            .await?;
        if !output.status.success() {
            bail!("raft bench failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    pub(crate) fn memory_mib(&self) -> Vec<u64> {
        self.nodes.iter().filter_map(Child::id).map(resident_mib).collect()
    }

    pub(crate) async fn stop(mut self) {
        for node in &mut self.nodes {
            let _ = node.kill().await;
        }
    }
}

/// A port with three free ones after it, as far as a look can tell.
fn free_base_port() -> anyhow::Result<u16> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    Ok(socket.local_addr()?.port().clamp(1024, 65_000))
}
