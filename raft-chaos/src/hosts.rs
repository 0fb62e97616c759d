//! Where the nodes run: each in a network namespace of its own, joined by a bridge, so that `nftables` can cut and thin
//! single directions; or all on loopback, where the system allows no namespaces. Not about processes or disks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// The side of a link that clients are on.
pub(crate) const CLIENTS: u64 = 0;
/// The port that every node listens on in its own namespace.
const NAMESPACE_PORT: u16 = 7400;

/// What happens to packets from one host to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkFault {
    /// None arrives.
    Cut,
    /// This many of a hundred are lost.
    Loses(u8),
}

/// Faults by direction: (from, to). [`CLIENTS`] is the host of the clients.
pub(crate) type LinkFaults = BTreeMap<(u64, u64), LinkFault>;

/// The hosts of a cluster. Removes what it made when it is dropped.
#[derive(Debug)]
pub(crate) struct Hosts {
    nodes: u64,
    /// The prefix of the names of namespaces and links; `None` on loopback.
    prefix: Option<String>,
    /// The third octet of the bridge's network.
    subnet: u8,
}

impl Hosts {
    /// Namespaces if the system allows them, loopback otherwise; the second part says why not.
    pub(crate) fn new(nodes: u64, force_loopback: bool) -> (Hosts, Option<String>) {
        let loopback = Hosts { nodes, prefix: None, subnet: 0 };
        if force_loopback {
            return (loopback, Some("--loopback was given".to_owned()));
        }
        let id = std::process::id();
        let subnet = u8::try_from(id % 250).unwrap_or(0) + 1;
        let hosts = Hosts { nodes, prefix: Some(format!("rc{id}")), subnet };
        match hosts.make() {
            Ok(()) => (hosts, None),
            Err(error) => {
                drop(hosts);
                (loopback, Some(format!("{error:#}")))
            }
        }
    }

    /// Whether links can be cut and thinned.
    pub(crate) fn has_links(&self) -> bool {
        self.prefix.is_some()
    }

    /// The address of every node, as all others reach it.
    pub(crate) fn addresses(&self) -> anyhow::Result<Vec<(String, u16)>> {
        if self.prefix.is_some() {
            let address = |node| (self.ip(node).to_string(), NAMESPACE_PORT);
            return Ok((1..=self.nodes).map(address).collect());
        }
        let sockets = (0..self.nodes)
            .map(|_| std::net::UdpSocket::bind(("127.0.0.1", 0)))
            .collect::<Result<Vec<_>, _>>()
            .context("cannot find free UDP ports on 127.0.0.1")?;
        sockets
            .iter()
            .map(|socket| Ok(("127.0.0.1".to_owned(), socket.local_addr()?.port())))
            .collect()
    }

    /// A command that runs `program` on the host of `node`.
    pub(crate) fn command(&self, node: u64, program: &std::path::Path) -> tokio::process::Command {
        let Some(prefix) = &self.prefix else { return tokio::process::Command::new(program) };
        // `ip netns exec` replaces itself, so that the process id is the program's.
        let mut command = tokio::process::Command::new("ip");
        command.args(["netns", "exec", &format!("{prefix}n{node}")]).arg(program);
        command
    }

    /// Makes these the faults of the network, in place of all earlier ones.
    pub(crate) fn set_links(&self, faults: &LinkFaults) -> anyhow::Result<()> {
        let Some(prefix) = &self.prefix else {
            if faults.is_empty() {
                return Ok(());
            }
            bail!("on loopback no link can be cut");
        };
        for node in 1..=self.nodes {
            let mut rules = String::from(
                "table inet chaos { chain in { type filter hook input priority 0; policy accept; }; \
                 chain out { type filter hook output priority 0; policy accept; }; }\n\
                 flush chain inet chaos in\nflush chain inet chaos out\n",
            );
            for (&(from, to), fault) in faults {
                let (chain, side, other) = match (from, to) {
                    (from, to) if to == node => ("in", "saddr", from),
                    // The clients have no namespace of their own: what is sent to them is cut at the sender.
                    (from, CLIENTS) if from == node => ("out", "daddr", CLIENTS),
                    _ => continue,
                };
                let verdict = match fault {
                    LinkFault::Cut => "drop".to_owned(),
                    LinkFault::Loses(percent) => {
                        format!("numgen random mod 100 < {percent} drop")
                    }
                };
                let ip = self.ip(other);
                let _ = writeln!(rules, "add rule inet chaos {chain} ip {side} {ip} {verdict}");
            }
            feed("ip", &["netns", "exec", &format!("{prefix}n{node}"), "nft", "-f", "-"], &rules)?;
        }
        Ok(())
    }

    fn ip(&self, host: u64) -> Ipv4Addr {
        let last = if host == CLIENTS { 254 } else { u8::try_from(host).unwrap_or(253) };
        Ipv4Addr::new(10, 83, self.subnet, last)
    }

    fn make(&self) -> anyhow::Result<()> {
        let prefix = self.prefix.as_deref().unwrap_or_default();
        let bridge = format!("{prefix}b");
        run("nft", &["--version"]).context("nft is missing (package nftables)")?;
        run("ip", &["link", "add", &bridge, "type", "bridge"])?;
        run("ip", &["addr", "add", &format!("{}/24", self.ip(CLIENTS)), "dev", &bridge])?;
        run("ip", &["link", "set", &bridge, "up"])?;
        for node in 1..=self.nodes {
            let (name, outside) = (format!("{prefix}n{node}"), format!("{prefix}v{node}"));
            let inside = ["peer", "name", "eth0", "netns", name.as_str()];
            run("ip", &["netns", "add", &name])?;
            run("ip", &[["link", "add", &outside, "type", "veth"].as_slice(), &inside].concat())?;
            run("ip", &["link", "set", &outside, "master", &bridge, "up"])?;
            let ip = format!("{}/24", self.ip(node));
            run("ip", &["-n", &name, "addr", "add", &ip, "dev", "eth0"])?;
            run("ip", &["-n", &name, "link", "set", "eth0", "up"])?;
            run("ip", &["-n", &name, "link", "set", "lo", "up"])?;
        }
        self.set_links(&LinkFaults::new())
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let Some(prefix) = &self.prefix else { return };
        // Whatever was made goes; of what was not, `ip` says so, and nobody needs to know.
        for node in 1..=self.nodes {
            let _ = run("ip", &["netns", "del", &format!("{prefix}n{node}")]);
            let _ = run("ip", &["link", "del", &format!("{prefix}v{node}")]);
        }
        let _ = run("ip", &["link", "del", &format!("{prefix}b")]);
    }
}

/// Runs a command to its end.
pub(crate) fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    feed(program, arguments, "")
}

fn feed(program: &str, arguments: &[&str], input: &str) -> anyhow::Result<()> {
    let told = || format!("{program} {}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(told)?;
    }
    let output = child.wait_with_output().with_context(told)?;
    if !output.status.success() {
        bail!("{} failed: {}", told(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
