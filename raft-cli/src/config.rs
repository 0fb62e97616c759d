//! The two configuration files: a node's and a client's. Reading, checking, writing; paths in them are relative to the file.
//! Flags override environment variables (clap does that), and both override the file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use raft_net_quic::ClusterId;
use serde::{Deserialize, Serialize};

use crate::exit::{Code, Failure, OrFail, Outcome};

/// What `raft serve` reads: one node of one cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeConfig {
    /// The cluster's identity; the certificates carry it too.
    pub(crate) cluster: String,
    /// Which member this is; one of `members`.
    pub(crate) node: u64,
    /// IP address and UDP port to listen on.
    pub(crate) listen: String,
    /// The data folder.
    pub(crate) data: PathBuf,
    /// The credentials.
    pub(crate) tls: Tls,
    /// The founding members: node id → host:port at which the others and clients reach it.
    pub(crate) members: BTreeMap<String, String>,
    /// Settings of the protocol.
    #[serde(default)]
    pub(crate) raft: RaftSettings,
    /// Settings of the process.
    #[serde(default)]
    pub(crate) process: ProcessSettings,
}

/// What every client command reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientConfig {
    /// The cluster's identity.
    pub(crate) cluster: String,
    /// How long a command tries before it gives up.
    #[serde(default = "default_timeout_ms")]
    pub(crate) timeout_ms: u64,
    /// The credentials.
    pub(crate) tls: Tls,
    /// Node id → host:port.
    pub(crate) nodes: BTreeMap<String, String>,
}

/// Three PEM files.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// The cluster's certificate authority.
    pub(crate) ca: PathBuf,
    /// One's own certificate.
    pub(crate) certificate: PathBuf,
    /// Its private key.
    pub(crate) key: PathBuf,
}

/// The `[raft]` table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RaftSettings {
    /// A follower that hears nothing for this long, up to twice this long, calls an election.
    pub(crate) election_timeout_ms: u64,
    /// How often a leader is heard; at most a third of the election timeout.
    pub(crate) heartbeat_interval_ms: u64,
    /// Checkpoint the state and compact the log after this many bytes of entries.
    pub(crate) checkpoint_log_bytes: u64,
}

/// The `[process]` table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ProcessSettings {
    /// Threads of the network and the protocol. Storage and apply have one more each.
    pub(crate) workers: usize,
    /// Where to record what the protocol is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) record: Option<PathBuf>,
    /// The recording ends before it is larger than this.
    #[serde(skip_serializing_if = "is_default_record_mib")]
    pub(crate) record_mib: u32,
}

/// How large a recording may become if nothing else is asked for.
const RECORD_MIB: u32 = 1024;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_default_record_mib(mib: &u32) -> bool {
    *mib == RECORD_MIB
}

impl Default for RaftSettings {
    fn default() -> RaftSettings {
        RaftSettings {
            election_timeout_ms: 500,
            heartbeat_interval_ms: 50,
            checkpoint_log_bytes: 256 << 20,
        }
    }
}

/// Half of the cores, from 1 to 4: storage, applying and the other processes want the rest, and a request that stays on one thread is
/// answered sooner.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, 4))
}

impl Default for ProcessSettings {
    fn default() -> ProcessSettings {
        ProcessSettings { workers: default_workers(), record: None, record_mib: RECORD_MIB }
    }
}

/// How long a client command tries if nothing else is asked for.
pub(crate) fn default_timeout_ms() -> u64 {
    5_000
}

impl NodeConfig {
    /// Reads and checks a node's file.
    pub(crate) fn load(path: &Path) -> Outcome<NodeConfig> {
        let mut config: NodeConfig = read(path)?;
        check_cluster(path, &config.cluster)?;
        let members = parse_nodes(path, "members", &config.members)?;
        if !members.contains_key(&config.node) {
            return Err(bad(
                path,
                "node",
                &format!(
                    "node {} is not among the members {}; set it to one of them, or add it to [members]",
                    config.node,
                    listing(&members)
                ),
            ));
        }
        if config.raft.heartbeat_interval_ms == 0 {
            return Err(bad(path, "raft.heartbeat_interval_ms", "is zero; it must be positive"));
        }
        if config.raft.heartbeat_interval_ms.saturating_mul(3) > config.raft.election_timeout_ms {
            return Err(bad(
                path,
                "raft.election_timeout_ms",
                "is less than three heartbeat intervals: followers would call elections between heartbeats; raise it",
            ));
        }
        if config.raft.checkpoint_log_bytes == 0 {
            return Err(bad(path, "raft.checkpoint_log_bytes", "is zero; it must be positive"));
        }
        if !(1..=256).contains(&config.process.workers) {
            return Err(bad(path, "process.workers", "must be from 1 to 256"));
        }
        if config.process.record_mib == 0 {
            return Err(bad(path, "process.record_mib", "is zero; it must be positive"));
        }
        config.process.record = config.process.record.map(|record| beside(path, &record));
        config.data = beside(path, &config.data);
        config.tls = config.tls.beside(path);
        Ok(config)
    }

    /// The members by id. Checked by [`NodeConfig::load`].
    pub(crate) fn member_addresses(&self) -> BTreeMap<u64, String> {
        numbered(&self.members)
    }
}

impl ClientConfig {
    /// Reads and checks a client's file.
    pub(crate) fn load(path: &Path) -> Outcome<ClientConfig> {
        let mut config: ClientConfig = read(path)?;
        check_cluster(path, &config.cluster)?;
        parse_nodes(path, "nodes", &config.nodes)?;
        if config.timeout_ms == 0 {
            return Err(bad(path, "timeout_ms", "is zero; it must be positive"));
        }
        config.tls = config.tls.beside(path);
        Ok(config)
    }

    /// The nodes by id. Checked by [`ClientConfig::load`].
    pub(crate) fn node_addresses(&self) -> BTreeMap<u64, String> {
        numbered(&self.nodes)
    }

    /// How long a command tries.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

impl Tls {
    fn beside(&self, file: &Path) -> Tls {
        Tls {
            ca: beside(file, &self.ca),
            certificate: beside(file, &self.certificate),
            key: beside(file, &self.key),
        }
    }
}

/// `path` as seen from the folder in which `file` lies.
fn beside(file: &Path, path: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

/// One of the two files.
trait ConfigFile: for<'de> Deserialize<'de> {
    /// What to do when it is not there.
    const REMEDY: &str;
    /// The table that only the other kind of file has, and whose that is.
    const OTHER: (&str, &str);
}

impl ConfigFile for NodeConfig {
    const REMEDY: &str = "give --config DIR/node1.toml or set RAFT_NODE_CONFIG; `raft init --dir DIR --nodes 3` makes one for each node";
    const OTHER: (&str, &str) = ("nodes", "client");
}

impl ConfigFile for ClientConfig {
    const REMEDY: &str = "give --config DIR/client.toml or set RAFT_CONFIG; `raft init` makes one, and `raft demo` shows where its own is";
    const OTHER: (&str, &str) = ("members", "node");
}

/// Whose file this is, if it is the other one.
fn other_kind<T: ConfigFile>(text: &str) -> Option<&'static str> {
    let table: toml::Table = toml::from_str(text).ok()?;
    let (key, other) = T::OTHER;
    table.get(key).is_some_and(toml::Value::is_table).then_some(other)
}

fn read<T: ConfigFile>(path: &Path) -> Outcome<T> {
    let text = fs::read_to_string(path).or_fail(Code::Config, || {
        format!("can not read the configuration {} ({})", path.display(), T::REMEDY)
    })?;
    toml::from_str(&text).map_err(|error| {
        if let Some(other) = other_kind::<T>(&text) {
            let message = format!("{} is the configuration of a {other}", path.display());
            return Failure::new(Code::Config, format!("{message}; {}", T::REMEDY));
        }
        // toml's message names the line, the column and the key.
        let message = error.to_string();
        Failure::new(
            Code::Config,
            format!("the configuration {} is malformed: {}", path.display(), message.trim_end()),
        )
    })
}

fn bad(path: &Path, key: &str, what: &str) -> Failure {
    Failure::new(Code::Config, format!("the configuration {}: `{key}`: {what}", path.display()))
}

fn check_cluster(path: &Path, cluster: &str) -> Outcome {
    let parsed = cluster.parse::<ClusterId>();
    parsed.map(drop).map_err(|error| bad(path, "cluster", &error.to_string()))
}

fn numbered(nodes: &BTreeMap<String, String>) -> BTreeMap<u64, String> {
    nodes.iter().filter_map(|(id, address)| Some((id.parse().ok()?, address.clone()))).collect()
}

fn parse_nodes(
    path: &Path,
    table: &str,
    nodes: &BTreeMap<String, String>,
) -> Outcome<BTreeMap<u64, String>> {
    if nodes.is_empty() {
        return Err(bad(path, table, "is empty; list every node as `1 = \"host:port\"`"));
    }
    let mut parsed = BTreeMap::new();
    for (id, address) in nodes {
        let key = format!("{table}.{id}");
        let number = id.parse::<u64>().ok().filter(|&number| number > 0);
        let Some(number) = number else {
            return Err(bad(path, &key, "a node id must be a whole number from 1 up"));
        };
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.and_then(|(_, port)| port.parse::<u16>().ok()).is_none_or(|port| port == 0) {
            return Err(bad(path, &key, &format!("{address:?} is not of the form \"host:port\"")));
        }
        if parsed.insert(number, address.clone()).is_some() {
            return Err(bad(path, &key, "the node is listed twice"));
        }
    }
    Ok(parsed)
}

fn listing(members: &BTreeMap<u64, String>) -> String {
    let ids: Vec<String> = members.keys().map(u64::to_string).collect();
    ids.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = r#"
cluster = "000102030405060708090a0b0c0d0e0f"
node = 2
listen = "127.0.0.1:7402"
data = "node2"
[tls]
ca = "ca.pem"
certificate = "/abs/node2.pem"
key = "node2.key"
[members]
1 = "127.0.0.1:7401"
2 = "127.0.0.1:7402"
"#;

    fn load(text: &str) -> Result<NodeConfig, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        fs::write(&path, text).unwrap();
        NodeConfig::load(&path).map_err(|failure| {
            assert_eq!(failure.code, Code::Config);
            failure.to_string()
        })
    }

    #[test]
    fn paths_are_relative_to_the_file_and_defaults_apply() {
        let config = load(NODE).unwrap();
        assert!(config.data.is_absolute() && config.data.ends_with("node2"));
        assert_eq!(config.tls.certificate, Path::new("/abs/node2.pem"));
        assert_eq!(config.raft.election_timeout_ms, 500);
        assert_eq!(config.process.workers, default_workers());
        assert_eq!(config.member_addresses()[&1], "127.0.0.1:7401");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("node = 2", "node = 7", "node 7 is not among the members 1, 2"),
            ("node = 2", "nodes = 2", "unknown field `nodes`"),
            ("node = 2", "node = \"two\"", "invalid type"),
            ("listen = ", "# listen = ", "missing field `listen`"),
            ("2 = \"127.0.0.1:7402\"", "2 = \"127.0.0.1\"", "`members.2`"),
            ("2 = \"127.0.0.1:7402\"", "x = \"127.0.0.1:7402\"", "`members.x`"),
            (
                "[members]",
                "[raft]\nelection_timeout_ms = 10\n[members]",
                "raft.election_timeout_ms",
            ),
            ("[members]", "[process]\nworkers = 0\n[members]", "process.workers"),
            ("0001", "0g01", "is not a cluster id"),
            ("[tls]", "[tls", "malformed"),
        ];
        for (from, to, expected) in cases {
            let error = load(&NODE.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(expected) && error.contains("node.toml"), "{error}");
        }
    }
}
