//! The faults: what each does to a cluster, what it needs of the system, and what it excuses. Injected one or two at a time,
//! and undone all at once by [`heal`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use raft_kv::client::Client;
use raft_net_quic::{ClientEndpoint, ServiceStream};
use raft_sim::Rng;
use tokio::process::Child;

use crate::cluster::{Cluster, StartOptions, copy_folder};
use crate::hosts::{CLIENTS, LinkFault, LinkFaults};

/// Preloaded into a process, it changes what the process believes the time to be.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// How many idle connections a flood opens to every node.
const FLOOD_CONNECTIONS: usize = 300;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Nemesis {
    /// `kill -9` of the leader or another node, and a restart.
    Kill,
    /// `kill -9` of all nodes at once, and a restart.
    KillAll,
    /// SIGSTOP of the leader or another node.
    Pause,
    /// One node is cut off from its peers, with or without the clients.
    Isolate,
    /// One node is heard and hears nothing, or the other way round.
    OneWay,
    /// Two halves that only share one node.
    Bridge,
    /// Every node hears only its predecessor.
    Ring,
    /// Links between nodes come and go.
    Flap,
    /// A fifth of all packets between nodes is lost.
    Loss,
    /// SIGTERM and a restart of one node after the other.
    Rolling,
    /// A node loses its data folder.
    Wipe,
    /// A node's data folder is put back from an older copy.
    OlderCopy,
    /// The file system of one node is full.
    DiskFull,
    /// Syncs of one node take 300 ms.
    SlowSync,
    /// Syncs of one node fail.
    FailingSync,
    /// The time of day of one node steps by a day and back.
    ClockStep,
    /// All clocks of one node run at half or twice the speed.
    ClockRate,
    /// A member that catches up from nothing is killed again and again.
    SnapshotInterrupted,
    /// Hundreds of idle connections to every node.
    Flood,
    /// A node is started with the certificate of another one.
    CertificatesSwapped,
}

/// What a fault needs of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    Links,
    Disks,
    Strace,
    Faketime,
}

impl Nemesis {
    fn needs(self) -> Needs {
        match self {
            Nemesis::Isolate
            | Nemesis::OneWay
            | Nemesis::Bridge
            | Nemesis::Ring
            | Nemesis::Flap
            | Nemesis::Loss => Needs::Links,
            Nemesis::DiskFull => Needs::Disks,
            Nemesis::SlowSync | Nemesis::FailingSync => Needs::Strace,
            Nemesis::ClockStep | Nemesis::ClockRate => Needs::Faketime,
            _ => Needs::Nothing,
        }
    }

    /// Why it cannot be had here; `None` if it can.
    pub(crate) fn missing(self, cluster: &Cluster) -> Option<&'static str> {
        match self.needs() {
            Needs::Links if !cluster.hosts.has_links() => Some("it needs network namespaces"),
            Needs::Disks if !cluster.has_disks() => Some("it needs to mount file systems"),
            Needs::Strace if std::process::Command::new("strace").arg("-V").output().is_err() => {
                Some("it needs strace")
            }
            Needs::Faketime if !Path::new(FAKETIME).exists() => Some("it needs libfaketime"),
            _ => None,
        }
    }

    /// Its name on the command line and in the report.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Parts of ERROR lines and of final messages that it explains.
    pub(crate) fn explains(self) -> &'static [&'static str] {
        match self {
            Nemesis::DiskFull => {
                &["No space left", "space", "full", "what the disk holds is uncertain"]
            }
            Nemesis::FailingSync => &["Input/output error", "log store", "I/O error", "os error 5"],
            Nemesis::Wipe | Nemesis::OlderCopy | Nemesis::SnapshotInterrupted => {
                &["another store", "older copy", "blank", "contradicts"]
            }
            Nemesis::CertificatesSwapped => &["certificate", "credentials"],
            _ => &[],
        }
    }

    /// Whether both may be in effect at once with a healthy majority left to speak of.
    pub(crate) fn goes_with(self, other: Nemesis) -> bool {
        let hits_store = |it| {
            matches!(
                it,
                Nemesis::Wipe
                    | Nemesis::OlderCopy
                    | Nemesis::SnapshotInterrupted
                    | Nemesis::DiskFull
                    | Nemesis::FailingSync
            )
        };
        // Two lost or failing stores of three are more than Raft can bear.
        !(hits_store(self) && hits_store(other))
    }

    /// Whether a process may end by itself with a message that [`Nemesis::explains`] fits.
    pub(crate) fn ends_processes(self) -> bool {
        matches!(self, Nemesis::DiskFull | Nemesis::FailingSync | Nemesis::CertificatesSwapped)
    }
}

/// What is in effect, to be undone.
#[derive(Default)]
pub(crate) struct InEffect {
    paused: Vec<u64>,
    ballast: Vec<PathBuf>,
    tracers: Vec<Child>,
    /// Nodes that run with options of a fault.
    odd: Vec<u64>,
    flood: Vec<(ClientEndpoint, Vec<ServiceStream>)>,
    /// The faults of links, of all that were injected.
    links: LinkFaults,
}

/// What a fault is injected into.
pub(crate) struct Injection<'a> {
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) client: &'a Client,
    pub(crate) rng: &'a mut Rng,
    pub(crate) effect: &'a mut InEffect,
}

impl Injection<'_> {
    /// Injects one fault, and says in words what was done.
    pub(crate) async fn inject(&mut self, nemesis: Nemesis) -> anyhow::Result<String> {
        match nemesis {
            Nemesis::Kill => {
                let node = self.victim().await;
                self.cluster.kill(node).await?;
                if self.rng.chance(500) {
                    self.cluster.start(node, &StartOptions::default())?;
                    return Ok(format!("node {node} is killed and restarted at once"));
                }
                Ok(format!("node {node} is killed"))
            }
            Nemesis::KillAll => {
                for node in self.cluster.ids() {
                    self.cluster.kill(node).await?;
                }
                self.cluster.start_all()?;
                Ok("all nodes are killed and restarted".to_owned())
            }
            Nemesis::Pause => {
                let node = self.victim().await;
                self.cluster.pause(node, true)?;
                self.effect.paused.push(node);
                Ok(format!("node {node} stands still"))
            }
            Nemesis::Isolate
            | Nemesis::OneWay
            | Nemesis::Bridge
            | Nemesis::Ring
            | Nemesis::Flap
            | Nemesis::Loss => self.cut(nemesis).await,
            Nemesis::Rolling => self.roll().await,
            Nemesis::Wipe => {
                let node = self.victim().await;
                self.cluster.kill(node).await?;
                fs::remove_dir_all(self.cluster.data(node)).context("wipe")?;
                self.cluster.start(node, &StartOptions::default())?;
                Ok(format!("node {node} has lost its data folder"))
            }
            Nemesis::OlderCopy => self.put_back_older_copy().await,
            Nemesis::SnapshotInterrupted => self.interrupt_catch_up().await,
            Nemesis::DiskFull => {
                let node = self.victim().await;
                let path = self.cluster.ballast(node);
                let size = fill(&path).await?;
                self.effect.ballast.push(path);
                Ok(format!("the disk of node {node} is full ({} MiB of ballast)", size >> 20))
            }
            Nemesis::SlowSync => self.trace("delay_exit=300000", "syncs take 300 ms more").await,
            Nemesis::FailingSync => self.trace("error=EIO", "syncs fail").await,
            Nemesis::ClockStep | Nemesis::ClockRate => self.skew(nemesis).await,
            Nemesis::Flood => self.flood().await,
            Nemesis::CertificatesSwapped => self.swap_certificate().await,
        }
    }

    /// The leader in half of all cases, another node otherwise.
    async fn victim(&mut self) -> u64 {
        let ids = self.cluster.ids();
        let any = self.rng.pick(&ids);
        if self.rng.chance(500) { leader(self.client).await.unwrap_or(any) } else { any }
    }

    async fn cut(&mut self, nemesis: Nemesis) -> anyhow::Result<String> {
        let ids = self.cluster.ids();
        let node = self.victim().await;
        let others = || ids.iter().copied().filter(move |other| *other != node);
        let mut links = LinkFaults::new();
        let told = match nemesis {
            Nemesis::Isolate => {
                for other in others() {
                    links.insert((node, other), LinkFault::Cut);
                    links.insert((other, node), LinkFault::Cut);
                }
                let from_clients_too = self.rng.chance(500);
                if from_clients_too {
                    links.insert((node, CLIENTS), LinkFault::Cut);
                    links.insert((CLIENTS, node), LinkFault::Cut);
                }
                let whom = if from_clients_too { "everybody" } else { "its peers" };
                format!("node {node} is cut off from {whom}")
            }
            Nemesis::OneWay => {
                let hears = self.rng.chance(500);
                for other in others() {
                    let link = if hears { (node, other) } else { (other, node) };
                    links.insert(link, LinkFault::Cut);
                }
                format!(
                    "node {node} {} its peers",
                    if hears { "only hears" } else { "is only heard by" }
                )
            }
            Nemesis::Bridge => {
                let sides: Vec<u64> = others().collect();
                let (left, right) = sides.split_at(sides.len() / 2);
                for (&left, &right) in left.iter().flat_map(|l| right.iter().map(move |r| (l, r))) {
                    links.insert((left, right), LinkFault::Cut);
                    links.insert((right, left), LinkFault::Cut);
                }
                format!("{left:?} and {right:?} only share node {node}")
            }
            Nemesis::Ring => {
                for (at, to) in ids.iter().enumerate() {
                    let before = ids[(at + ids.len() - 1) % ids.len()];
                    for from in ids.iter().filter(|from| *from != to && **from != before) {
                        links.insert((*from, *to), LinkFault::Cut);
                    }
                }
                "every node hears only its predecessor".to_owned()
            }
            Nemesis::Flap => return self.flap(&ids).await,
            _ => {
                for (&from, &to) in ids.iter().flat_map(|f| ids.iter().map(move |t| (f, t))) {
                    if from != to {
                        links.insert((from, to), LinkFault::Loses(20));
                    }
                }
                "a fifth of the packets between nodes is lost".to_owned()
            }
        };
        self.set_links(links)?;
        Ok(told)
    }

    /// Adds faults to those that others have made.
    fn set_links(&mut self, links: LinkFaults) -> anyhow::Result<()> {
        for (link, fault) in links {
            let present = self.effect.links.entry(link).or_insert(fault);
            if fault == LinkFault::Cut {
                *present = fault;
            }
        }
        self.cluster.hosts.set_links(&self.effect.links)
    }

    async fn flap(&mut self, ids: &[u64]) -> anyhow::Result<String> {
        for _ in 0..12 {
            let mut links = self.effect.links.clone();
            for (&from, &to) in ids.iter().flat_map(|f| ids.iter().map(move |t| (f, t))) {
                if from != to && self.rng.chance(400) {
                    links.insert((from, to), LinkFault::Cut);
                }
            }
            self.cluster.hosts.set_links(&links)?;
            tokio::time::sleep(Duration::from_millis(self.rng.between(100, 900))).await;
        }
        self.cluster.hosts.set_links(&self.effect.links)?;
        Ok("links between nodes came and went 12 times".to_owned())
    }

    async fn roll(&mut self) -> anyhow::Result<String> {
        let mut longest = Duration::ZERO;
        for node in self.cluster.ids() {
            longest = longest.max(self.cluster.stop(node).await?);
            self.cluster.start(node, &StartOptions::default())?;
            await_up(self.client, node).await?;
        }
        Ok(format!("each node was stopped and restarted; the longest stop took {longest:?}"))
    }

    async fn put_back_older_copy(&mut self) -> anyhow::Result<String> {
        let node = self.victim().await;
        let data = self.cluster.data(node);
        let copy = self.cluster.home().join(format!("copy{node}"));
        self.cluster.stop(node).await?;
        let _ = fs::remove_dir_all(&copy);
        copy_folder(&data, &copy)?;
        self.cluster.start(node, &StartOptions::default())?;
        await_up(self.client, node).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.cluster.kill(node).await?;
        fs::remove_dir_all(&data)?;
        copy_folder(&copy, &data)?;
        fs::remove_dir_all(&copy)?;
        self.cluster.start(node, &StartOptions::default())?;
        Ok(format!("the data folder of node {node} is two seconds older than it was"))
    }

    /// A wiped member is killed while it is filled.
    async fn interrupt_catch_up(&mut self) -> anyhow::Result<String> {
        let node = self.victim().await;
        self.cluster.kill(node).await?;
        fs::remove_dir_all(self.cluster.data(node)).context("wipe")?;
        for _ in 0..3 {
            self.cluster.start(node, &StartOptions::default())?;
            tokio::time::sleep(Duration::from_millis(self.rng.between(50, 700))).await;
            self.cluster.kill(node).await?;
        }
        self.cluster.start(node, &StartOptions::default())?;
        Ok(format!("node {node} lost its data and was killed three times while it caught up"))
    }

    /// Runs a tracer beside a node that changes what its syncs do.
    async fn trace(&mut self, inject: &str, told: &str) -> anyhow::Result<String> {
        let node = self.victim().await;
        let pid = self.cluster.pid(node).context("the node does not run")?;
        let inject = format!("inject=fdatasync,fsync:{inject}");
        let tracer = tokio::process::Command::new("strace")
            .args(["-f", "-q", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", &inject])
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot run strace")?;
        self.effect.tracers.push(tracer);
        Ok(format!("node {node}: {told}"))
    }

    async fn skew(&mut self, nemesis: Nemesis) -> anyhow::Result<String> {
        let node = self.victim().await;
        let mut env = vec![("LD_PRELOAD".to_owned(), FAKETIME.to_owned())];
        let told = if nemesis == Nemesis::ClockStep {
            let file = self.cluster.home().join(format!("clock{node}"));
            fs::write(&file, "+0s\n")?;
            let file = file.to_string_lossy().into_owned();
            env.push(("FAKETIME_TIMESTAMP_FILE".to_owned(), file));
            env.push(("FAKETIME_NO_CACHE".to_owned(), "1".to_owned()));
            env.push(("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()));
            "steps by a day"
        } else {
            let rate = self.rng.pick(&["+0 x0.5", "+0 x2"]);
            env.push(("FAKETIME".to_owned(), rate.to_owned()));
            "runs at another rate"
        };
        self.cluster.stop(node).await?;
        self.cluster.start(node, &StartOptions { env, ..StartOptions::default() })?;
        self.effect.odd.push(node);
        await_up(self.client, node).await?;
        if nemesis == Nemesis::ClockStep {
            let file = self.cluster.home().join(format!("clock{node}"));
            for step in ["+1d\n", "+0s\n", "+1d\n"] {
                fs::write(&file, step)?;
                tokio::time::sleep(Duration::from_millis(700)).await;
            }
        }
        Ok(format!("the clock of node {node} {told}"))
    }

    async fn flood(&mut self) -> anyhow::Result<String> {
        let identity = self.cluster.identity()?;
        let nodes = self.client.status_all().await;
        let cluster = self.cluster.cluster_id()?;
        let mut opened = 0;
        for _ in 0..FLOOD_CONNECTIONS {
            let endpoint = ClientEndpoint::new(identity.clone(), cluster)?;
            let mut streams = Vec::new();
            for (node, address, _) in &nodes {
                let connecting = endpoint.connect(*node, address);
                // A refusal is what a node may well answer.
                if let Ok(Ok(stream)) =
                    tokio::time::timeout(Duration::from_millis(300), connecting).await
                {
                    streams.push(stream);
                    opened += 1;
                }
            }
            self.effect.flood.push((endpoint, streams));
            if opened == 0 && self.effect.flood.len() > 10 {
                break;
            }
        }
        Ok(format!("{opened} idle connections of one certificate are open"))
    }

    async fn swap_certificate(&mut self) -> anyhow::Result<String> {
        let ids = self.cluster.ids();
        let node = self.victim().await;
        let other = ids.iter().copied().find(|other| *other != node).unwrap_or(node);
        let config = self.cluster.home().join(format!("swapped{node}.toml"));
        let mut table: toml::Table = fs::read_to_string(self.cluster.config(node))?.parse()?;
        let tls: toml::Table = fs::read_to_string(self.cluster.config(other))?.parse()?;
        if let Some(tls) = tls.get("tls") {
            table.insert("tls".to_owned(), tls.clone());
        }
        fs::write(&config, table.to_string())?;
        self.cluster.stop(node).await?;
        self.cluster
            .start(node, &StartOptions { config: Some(config), ..StartOptions::default() })?;
        self.effect.odd.push(node);
        Ok(format!("node {node} is started with the certificate of node {other}"))
    }
}

/// Writes what a fault wants to find, before the round's history begins: its revisions are in no history.
pub(crate) async fn prepare(nemeses: &[Nemesis], client: &Client) -> anyhow::Result<()> {
    if nemeses.contains(&Nemesis::SnapshotInterrupted) {
        let bulk = bytes::Bytes::from(vec![b'x'; 64 << 10]);
        for number in 0..200 {
            client.put(format!("bulk{number:03}"), bulk.clone()).await?;
        }
    }
    Ok(())
}

/// Undoes everything that is in effect, and starts every node that does not run.
pub(crate) async fn heal(cluster: &mut Cluster, effect: InEffect) -> anyhow::Result<()> {
    for node in effect.paused {
        cluster.pause(node, false)?;
    }
    for path in effect.ballast {
        let _ = fs::remove_file(path);
    }
    for mut tracer in effect.tracers {
        tracer.kill().await?;
    }
    drop(effect.flood);
    cluster.hosts.set_links(&LinkFaults::new())?;
    for node in effect.odd {
        if cluster.is_running(node) {
            cluster.stop(node).await?;
        }
    }
    cluster.start_all()
}

/// Who leads, if somebody says so.
pub(crate) async fn leader(client: &Client) -> Option<u64> {
    let reports = client.status_all().await;
    let leaders = reports.into_iter().filter_map(|(node, _, report)| Some((node, report.ok()?)));
    leaders
        .filter(|(_, report)| report.is_serving_leader())
        .max_by_key(|(_, report)| report.term)
        .map(|(node, _)| node.0)
}

/// Waits until a node answers.
pub(crate) async fn await_up(client: &Client, node: u64) -> anyhow::Result<()> {
    let up = async {
        while client.status(raft_core::NodeId(node)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, up)
        .await
        .with_context(|| format!("node {node} did not answer within {limit:?} of its start"))
}

/// Writes zeros until there is no room left; how many bytes.
async fn fill(path: &Path) -> anyhow::Result<u64> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        use std::io::Write as _;
        let mut file = fs::File::create(&path)?;
        let block = vec![0; 1 << 20];
        let mut written = 0;
        for part in [&block[..], &block[..4096]] {
            while file.write_all(part).is_ok() {
                written += part.len() as u64;
            }
        }
        anyhow::Ok(written)
    })
    .await?
}
