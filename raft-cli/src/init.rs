//! `raft init`: the files of a new cluster. Makes certificates by way of `raft_net_quic::pki`; starts nothing.
//!
//! | file | what |
//! | --- | --- |
//! | `ca.pem`, `ca.key` | the certificate authority; the key is needed to issue certificates only, so keep it somewhere safe |
//! | `node1.toml`, `node1.pem`, `node1.key`, … | one node each |
//! | `data1/`, … | its data folder, which says that it founds the cluster |
//! | `client.toml`, `client.pem`, `client.key` | for every client |

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use raft_core::NodeId;
use raft_net_quic::ClusterId;
use raft_net_quic::pki::{ClusterCa, Identity, IdentityPaths};
use serde::Serialize;

use crate::cli::InitArgs;
use crate::config::{
    ClientConfig, NodeConfig, ProcessSettings, RaftSettings, Tls, default_timeout_ms,
};
use crate::data_folder::DataFolder;
use crate::exit::{Code, Failure, OrFail, Outcome};
use crate::output::say;

/// Where one node is reached.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    /// A name, or an IP address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    /// `host:port`, as others reach it.
    fn reach(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    /// Where the node itself listens: at its address, or at every one if only its name is known.
    fn listen(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(_) => self.reach(),
            Err(_) => format!("[::]:{}", self.port),
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &InitArgs) -> Outcome {
    let addresses = addresses(args)?;
    let cluster = create(&args.dir, &addresses, AuthorityKey::Saved)?;
    let dir = args.dir.display();
    say(format_args!("made cluster {cluster} of {} nodes in {dir}:", addresses.len()))?;
    for (node, address) in (1..).zip(&addresses) {
        say(format_args!("  node {node} at {}", address.reach()))?;
    }
    say("")?;
    say(
        "start every node (on its own machine, with its own files, its data folder and ca.pem; ca.key stays safe elsewhere):",
    )?;
    for node in 1..=addresses.len() {
        say(format_args!("  raft serve --config {dir}/node{node}.toml"))?;
    }
    say("")?;
    say("then:")?;
    say(format_args!("  export RAFT_CONFIG={dir}/client.toml"))?;
    say("  raft status")?;
    Ok(())
}

fn addresses(args: &InitArgs) -> Outcome<Vec<Address>> {
    let refused = |message: String| Failure::new(Code::Config, message);
    let hosts: Vec<(String, Option<u16>)> = args
        .host
        .iter()
        .map(|host| parse_host(host))
        .collect::<Result<_, _>>()
        .map_err(|fault| refused(format!("{fault}; nothing was made")))?;
    let nodes = match (args.nodes, hosts.len()) {
        (Some(nodes), _) => nodes,
        (None, 1) => 3,
        (None, hosts) => u16::try_from(hosts).unwrap_or(u16::MAX),
    };
    if nodes > 9 || hosts.len() != 1 && hosts.len() != usize::from(nodes) {
        return Err(refused(format!(
            "{} hosts were given for {nodes} nodes: give one for all, or one for each of at most 9",
            hosts.len()
        )));
    }
    let address = |node: u16| {
        let (host, port) = hosts.get(usize::from(node - 1)).unwrap_or(&hosts[0]).clone();
        Address { host, port: port.unwrap_or(args.base_port.saturating_add(node)) }
    };
    let addresses: Vec<Address> = (1..=nodes).map(address).collect();
    for (at, address) in addresses.iter().enumerate() {
        if let Some(other) =
            addresses[..at].iter().position(|other| other.reach() == address.reach())
        {
            return Err(refused(format!(
                "nodes {} and {} would both be at {}: give each a host or a port of its own (without a port, node i gets {} + i)",
                other + 1,
                at + 1,
                address.reach(),
                args.base_port
            )));
        }
    }
    Ok(addresses)
}

/// A host name or an IP address, and its port if there is one.
fn parse_host(text: &str) -> Result<(String, Option<u16>), String> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text.to_owned(), None));
    }
    let wrong = || {
        format!(
            "{text:?} is no host: give a name or an IP address, with or without a port (a.example, a.example:7401, 10.0.0.1, [::1]:7401)"
        )
    };
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => {
            let port = if port.is_empty() {
                None
            } else {
                Some(port.strip_prefix(':').ok_or_else(wrong)?)
            };
            return Ok((
                host.to_owned(),
                port.map(|port| parse_port(port).ok_or_else(wrong)).transpose()?,
            ));
        }
        Some(_) => return Err(wrong()),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(parse_port(port).ok_or_else(wrong)?)),
            None => (text, None),
        },
    };
    let is_name = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '.' | '_');
    if host.is_empty() || !host.chars().all(is_name) {
        return Err(wrong());
    }
    Ok((host.to_owned(), port))
}

fn parse_port(text: &str) -> Option<u16> {
    let port: u16 = text.parse().ok()?;
    // Neither zero, nor a plus sign or zeros in front.
    (port > 0 && port.to_string() == text).then_some(port)
}

/// What becomes of the key with which certificates are issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthorityKey {
    /// It is saved with the rest.
    Saved,
    /// It was only ever in memory: nobody needs another certificate, and whatever happens, nobody finds it.
    Forgotten,
}

/// Makes the files of a cluster whose node i + 1 is at `addresses[i]`. An existing cluster is not touched.
pub(crate) fn create(
    dir: &Path,
    addresses: &[Address],
    authority_key: AuthorityKey,
) -> Outcome<ClusterId> {
    refuse_existing(dir)?;
    fs::create_dir_all(dir)
        .or_fail(Code::Config, || format!("can not make the folder {}", dir.display()))?;
    let cluster =
        ClusterId::random().or_fail(Code::Failed, || "can not draw a cluster id".into())?;
    let pki = || "can not make the cluster's credentials".to_owned();
    let ca = ClusterCa::generate(cluster).or_fail(Code::Config, pki)?;
    if authority_key == AuthorityKey::Saved {
        ca.save(dir).or_fail(Code::Config, pki)?;
    }
    let members: BTreeMap<String, String> =
        (1..).zip(addresses).map(|(node, address)| (node.to_string(), address.reach())).collect();
    for (node, address) in (1_u64..).zip(addresses) {
        let stem = format!("node{node}");
        let hosts = std::slice::from_ref(&address.host);
        save(&ca.issue_node(NodeId(node), hosts).or_fail(Code::Config, pki)?, dir, &stem)?;
        let config = NodeConfig {
            cluster: cluster.to_string(),
            node,
            listen: address.listen(),
            data: PathBuf::from(format!("data{node}")),
            tls: tls(&stem),
            members: members.clone(),
            raft: RaftSettings::default(),
            process: ProcessSettings::default(),
        };
        DataFolder::let_found(&dir.join(&config.data), &config.cluster, node)?;
        write(&dir.join(format!("{stem}.toml")), NODE_HEADER, &config)?;
    }
    save(&ca.issue_client("client").or_fail(Code::Config, pki)?, dir, "client")?;
    let config = ClientConfig {
        cluster: cluster.to_string(),
        timeout_ms: default_timeout_ms(),
        tls: tls("client"),
        nodes: members,
    };
    write(&dir.join("client.toml"), CLIENT_HEADER, &config)?;
    Ok(cluster)
}

const NODE_HEADER: &str = "\
# One node of a cluster, for `raft serve --config` with this file. Made by `raft init`.
# Paths are relative to this file. `cluster` and `node` stand in the certificate too and can not be changed here alone.

";

const CLIENT_HEADER: &str = "\
# For the client commands: `--config` with this file, or RAFT_CONFIG. Made by `raft init`.
# Paths are relative to this file.

";

fn refuse_existing(dir: &Path) -> Outcome {
    for name in ["ca.pem", "ca.key", "node1.toml", "client.toml"] {
        if dir.join(name).exists() {
            return Err(Failure::new(
                Code::Config,
                format!(
                    "{} already holds a cluster (it has {name}); nothing was changed. Give another --dir",
                    dir.display()
                ),
            ));
        }
    }
    Ok(())
}

fn tls(stem: &str) -> Tls {
    let paths = IdentityPaths::in_folder(Path::new(""), stem);
    Tls { ca: paths.ca, certificate: paths.cert, key: paths.key }
}

fn save(identity: &Identity, dir: &Path, stem: &str) -> Outcome {
    identity
        .save(&IdentityPaths::in_folder(dir, stem))
        .or_fail(Code::Config, || format!("can not save the certificate of {stem}"))
}

fn write(path: &Path, header: &str, config: &impl Serialize) -> Outcome {
    let text = toml::to_string(config).or_fail(Code::Failed, || "can not write TOML".to_owned())?;
    fs::write(path, format!("{header}{text}"))
        .or_fail(Code::Config, || format!("can not write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(ports: &[u16]) -> Vec<Address> {
        let address = |&port| Address { host: "127.0.0.1".to_owned(), port };
        ports.iter().map(address).collect()
    }

    #[test]
    fn what_is_made_can_be_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = create(dir.path(), &loopback(&[7401, 7402]), AuthorityKey::Saved).unwrap();
        let node = NodeConfig::load(&dir.path().join("node2.toml")).unwrap();
        assert_eq!((node.node, node.listen.as_str()), (2, "127.0.0.1:7402"));
        assert_eq!(node.cluster, cluster.to_string());
        assert!(node.tls.key.exists() && node.tls.certificate.exists() && node.tls.ca.exists());
        let client = ClientConfig::load(&dir.path().join("client.toml")).unwrap();
        assert_eq!(client.node_addresses(), node.member_addresses());
        assert!(client.tls.key.exists());
    }

    #[test]
    fn an_existing_cluster_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path(), &loopback(&[7401]), AuthorityKey::Saved).unwrap();
        let before = fs::read(dir.path().join("ca.key")).unwrap();
        let failure = create(dir.path(), &loopback(&[7401]), AuthorityKey::Saved).unwrap_err();
        assert!(failure.to_string().contains("already holds a cluster"), "{failure}");
        assert_eq!(fs::read(dir.path().join("ca.key")).unwrap(), before);
    }

    #[test]
    fn addresses_of_every_kind() {
        let address = |host: &str| Address { host: host.to_owned(), port: 7 };
        assert_eq!(address("::1").reach(), "[::1]:7");
        assert_eq!(address("10.0.0.1").listen(), "10.0.0.1:7");
        assert_eq!(address("n1.lan").reach(), "n1.lan:7");
        assert_eq!(address("n1.lan").listen(), "[::]:7");
    }

    fn asked(hosts: &[&str], nodes: Option<u16>) -> Result<Vec<String>, String> {
        let args = InitArgs {
            dir: PathBuf::new(),
            nodes,
            base_port: 7400,
            host: hosts.iter().map(ToString::to_string).collect(),
        };
        let addresses = addresses(&args).map_err(|failure| failure.to_string())?;
        Ok(addresses.iter().map(Address::reach).collect())
    }

    #[test]
    fn hosts_with_and_without_ports() {
        assert_eq!(asked(&["a"], None).unwrap(), ["a:7401", "a:7402", "a:7403"]);
        assert_eq!(asked(&["a", "b:7"], None).unwrap(), ["a:7401", "b:7"]);
        assert_eq!(asked(&["::1", "[::1]:9"], None).unwrap(), ["[::1]:7401", "[::1]:9"]);
        assert_eq!(asked(&["10.0.0.1"], Some(1)).unwrap(), ["10.0.0.1:7401"]);
        let wrong = [
            "", "a b", "a,b", "http://a", "a:b", "a:0", "a:70000", "a:+7", "[a]:7", "[::1]7",
            "::1:x", "a:7:7",
        ];
        for host in wrong {
            let error = asked(&[host], Some(1)).unwrap_err();
            assert!(error.contains("is no host: give a name"), "{host:?}: {error}");
        }
        assert!(
            asked(&["a:7"], Some(3)).unwrap_err().contains("nodes 1 and 2 would both be at a:7")
        );
        assert!(asked(&["a", "b"], Some(3)).unwrap_err().contains("2 hosts were given for 3"));
        assert!(asked(&["a"; 10], None).unwrap_err().contains("at most 9"));
    }
}
