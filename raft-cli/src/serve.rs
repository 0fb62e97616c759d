//! `raft serve`: puts one node together from the crates, and runs it until it is told to stop. All of this is wiring.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use raft_core::{Membership, NodeId};
use raft_kv::service::{self, ServiceOptions};
use raft_kv::{KvMachine, StateFileOptions};
use raft_net_quic::pki::Identity;
use raft_net_quic::{ClusterId, Endpoint, EndpointConfig, NetError, PeerAddress};
use raft_node::{Health, Node, NodeHandle, StartError};
use raft_storage_redb::{Options, RedbLogStore};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::{FoundArgs, ServeArgs};
use crate::config::NodeConfig;
use crate::connect;
use crate::data_folder::DataFolder;
use crate::exit::{Code, Failure, OrFail, Outcome};
use crate::output::say;
use crate::text;

/// Lets the node found its group at its next start.
pub(crate) fn found(args: &FoundArgs) -> Outcome {
    let mut config = NodeConfig::load(&args.config)?;
    if let Some(data) = &args.data {
        config.data.clone_from(data);
    }
    let cluster = connect::cluster_id(&config.cluster)?.to_string();
    DataFolder::let_found(&config.data, &cluster, config.node)?;
    say(format_args!(
        "node {} founds the group of nodes {} at its next start: the others must be told the same, and none of them may have run",
        config.node,
        config.members.keys().cloned().collect::<Vec<_>>().join(", ")
    ))?;
    Ok(())
}

/// Reads the file, and lets flags and environment override it.
pub(crate) fn configure(args: &ServeArgs) -> Outcome<NodeConfig> {
    let mut config = NodeConfig::load(&args.config)?;
    if let Some(listen) = &args.listen {
        config.listen.clone_from(listen);
    }
    if let Some(data) = &args.data {
        config.data.clone_from(data);
    }
    if let Some(workers) = args.workers {
        config.process.workers = usize::from(workers);
    }
    if let Some(record) = &args.record {
        config.process.record = Some(record.clone());
    }
    if let Some(mib) = args.record_mib {
        config.process.record_mib = mib;
    }
    Ok(config)
}

/// Runs the node.
pub(crate) async fn run(config: NodeConfig, args: &ServeArgs) -> Outcome {
    // First of all, so that no signal can come too early.
    let stop = Stop::new(args.until_stdin_closes)?;
    let me = NodeId(config.node);
    let cluster = connect::cluster_id(&config.cluster)?;
    let identity = connect::identity(&config.tls)?;
    let mut folder = DataFolder::open(&config.data, &cluster.to_string(), config.node)?;
    let endpoint = bind(&config, me, cluster, identity)?;
    let address = endpoint.local_addr();
    if folder.is_new() && !folder.founds() {
        tracing::warn!(
            "the data folder {} is new: node {me} founds nothing and votes for nobody until the group has filled it. If this cluster \
             has never run, stop the node and run `raft found --config {}`, once for every node",
            config.data.display(),
            args.config.display()
        );
    }
    let store = open_log(me, cluster, &mut folder, args.moved)?;
    let node = start(&config, me, cluster, &folder, &endpoint, store).await?;
    folder.note_founded()?;

    // That nobody wants to know is no reason to stop.
    let _ = say(format_args!("ready node={me} address={address} pid={}", std::process::id()));
    tracing::info!(%me, %address, data = %config.data.display(), "ready");
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let members = config.member_addresses().into_iter();
    let mut options = ServiceOptions::new(members.map(|(id, at)| (NodeId(id), at)).collect());
    options.notice = other_members(&config, &node.status().raft.membership);
    if let Some(notice) = &options.notice {
        tracing::warn!("{notice}");
    }
    let serving = service::serve(endpoint.clone(), node.clone(), options, async {
        // A dropped sender means the same.
        let _ = stopped.await;
    });
    let served = tokio::spawn(serving);
    tokio::select! {
        why = stop.wait(|| read_credentials(&config, &endpoint)) => tracing::info!("stopping: {why}"),
        () = node.stopped() => {}
    }
    let health = node.status().health;
    let shutdown = node.shutdown().await;
    // Nobody is left who would listen if the service is gone already.
    let _ = stopping.send(());
    let _ = tokio::time::timeout(Duration::from_secs(2), served).await;
    endpoint.close().await;
    drop(folder);
    match (health, shutdown) {
        (Health::Failed { why }, _) => {
            Err(Failure::new(Code::Failed, format!("node {me} has failed and stopped: {why}")))
        }
        (_, Err(error)) => Err(error.into()),
        (_, Ok(())) => Ok(()),
    }
}

/// What to tell if the group's members are not those of the configuration: they are what founded it, and no change of the file
/// changes the group.
fn other_members(config: &NodeConfig, group: &Membership) -> Option<String> {
    let configured: BTreeSet<u64> = config.member_addresses().into_keys().collect();
    let group: BTreeSet<u64> = group.members().map(|node| node.0).collect();
    // One that waits to be let in knows of no group yet.
    if group.is_empty() || group == configured {
        return None;
    }
    let listed =
        |ids: &BTreeSet<u64>| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    Some(format!(
        "the group's members are {}, but [members] of the configuration lists {}: a change of the file does not change a group that \
         was founded, so put the file right",
        listed(&group),
        listed(&configured)
    ))
}

/// Reads the certificate and the key anew; the connections that are open stay.
fn read_credentials(config: &NodeConfig, endpoint: &Endpoint) {
    let read = connect::identity(&config.tls)
        .and_then(|identity| Ok(endpoint.replace_identity(&identity)?));
    match read {
        Ok(()) => tracing::info!(
            "SIGHUP: new connections use the certificate and key as they are in the files now"
        ),
        Err(failure) => {
            let why = text::shown(&failure.to_string());
            tracing::warn!("SIGHUP: the certificate and key stay as they were: {why}");
        }
    }
}

fn bind(
    config: &NodeConfig,
    me: NodeId,
    cluster: ClusterId,
    identity: Identity,
) -> Outcome<Endpoint> {
    let listen: SocketAddr = config.listen.parse().or_fail(Code::Config, || {
        format!(
            "`listen` is {:?}; it must be an IP address and a port, like 127.0.0.1:7401",
            config.listen
        )
    })?;
    Endpoint::bind(EndpointConfig::new(listen, identity, me, cluster)).map_err(|error| {
        let code = match error {
            NetError::Bind { .. } => Code::Address,
            _ => Code::Config,
        };
        Failure { code, error: error.into() }
    })
}

fn unusable() -> String {
    "the data folder can not be used".to_owned()
}

fn open_log(
    me: NodeId,
    cluster: ClusterId,
    folder: &mut DataFolder,
    is_moved: bool,
) -> Outcome<RedbLogStore> {
    let options = Options { adopts_copy: is_moved, ..Options::new(folder.log(), cluster.0, me) };
    let store = RedbLogStore::open(options).or_fail(Code::DataFolder, unusable)?;
    folder.note_log()?;
    Ok(store)
}

async fn start(
    config: &NodeConfig,
    me: NodeId,
    cluster: ClusterId,
    folder: &DataFolder,
    endpoint: &Endpoint,
    store: RedbLogStore,
) -> Outcome<NodeHandle<KvMachine>> {
    let machine = KvMachine::open(&StateFileOptions::new(folder.state(), cluster.0, me))
        .or_fail(Code::DataFolder, unusable)?;
    let members = config.member_addresses();
    let peers: BTreeMap<NodeId, PeerAddress> = members
        .iter()
        .filter(|(node, _)| **node != me.0)
        .map(|(node, address)| (NodeId(*node), PeerAddress(address.clone())))
        .collect();
    let transport = endpoint.transport(peers);
    let mut settings = settings(config, me, folder.incoming().as_path());
    if folder.founds() {
        settings.founding = Some(Membership::of_voters(members.keys().copied().map(NodeId)));
    }
    Node::start(settings, store, transport, machine).await.map_err(|error| {
        let code = match error {
            StartError::Config(_) => Code::Config,
            StartError::Transport(_) => Code::Address,
            _ => Code::DataFolder,
        };
        Failure {
            code,
            error: anyhow::Error::new(error).context(format!("node {me} can not start")),
        }
    })
}

fn settings(config: &NodeConfig, me: NodeId, incoming: &Path) -> raft_node::NodeConfig {
    let mut settings = raft_node::NodeConfig::new(me);
    settings.raft.election_timeout = Duration::from_millis(config.raft.election_timeout_ms);
    settings.raft.heartbeat_interval = Duration::from_millis(config.raft.heartbeat_interval_ms);
    // For clients that do not reach the leader; only what asks for it is passed on.
    settings.raft.forward_proposals = true;
    settings.checkpoint_log_bytes = config.raft.checkpoint_log_bytes;
    incoming.clone_into(&mut settings.scratch_dir);
    settings.recording = config.process.record.as_ref().map(|file| raft_node::RecordingConfig {
        file: file.clone(),
        bytes_max: u64::from(config.process.record_mib) << 20,
    });
    settings
}

/// Everything that ends a node in good order.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    until_stdin_closes: bool,
}

impl Stop {
    fn new(until_stdin_closes: bool) -> Outcome<Stop> {
        Ok(Stop {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            until_stdin_closes,
        })
    }

    /// Resolves with the reason. SIGHUP is none: what a supervisor sends to have files read again, or a terminal that closes, must
    /// not end a node.
    async fn wait(mut self, on_hangup: impl Fn()) -> &'static str {
        let stdin_closed = stdin_closed();
        tokio::pin!(stdin_closed);
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return "interrupted",
                _ = self.terminate.recv() => return "terminated",
                () = &mut stdin_closed, if self.until_stdin_closes => return "stdin has closed",
                _ = self.hangup.recv() => on_hangup(),
            }
        }
    }
}

async fn stdin_closed() {
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 64];
    while matches!(stdin.read(&mut ignored).await, Ok(count) if count > 0) {}
}
