//! The other side: three etcd processes, loaded over gRPC by closed loops in this process.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use tokio::process::{Child, Command};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use crate::load::{Kind, Load, Outcome, resident_mib};

/// The parts of etcd's `PutRequest` and `RangeRequest` that are needed: both have the key in field 1.
#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Range {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

/// Any answer: its content is not looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {}

pub(crate) struct Cluster {
    nodes: Vec<Child>,
    endpoints: Vec<String>,
}

impl Cluster {
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Cluster> {
        let ports = free_ports(6)?;
        let (clients, peers) = ports.split_at(3);
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let members: Vec<String> =
            peers.iter().enumerate().map(|(n, port)| format!("n{n}={}", url(port))).collect();
        let mut nodes = Vec::new();
        for (n, (client, peer)) in clients.iter().zip(peers).enumerate() {
            let child = Command::new("etcd")
                .args(["--name", &format!("n{n}"), "--data-dir"])
                .arg(folder.join(format!("n{n}")))
                .args([
                    "--listen-client-urls",
                    &url(client),
                    "--advertise-client-urls",
                    &url(client),
                ])
                .args([
                    "--listen-peer-urls",
                    &url(peer),
                    "--initial-advertise-peer-urls",
                    &url(peer),
                ])
                .args(["--initial-cluster", &members.join(","), "--initial-cluster-state", "new"])
                .args(["--quota-backend-bytes", &(8u64 << 30).to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .context("etcd can not be run: install Debian's package etcd-server")?;
            nodes.push(child);
        }
        let cluster = Cluster { nodes, endpoints: clients.iter().map(url).collect() };
        cluster.wait_until_ready().await?;
        Ok(cluster)
    }

    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match request(
                self.connect(0).await,
                Kind::Put,
                b"compare/ready".to_vec(),
                b"yes".to_vec(),
            )
            .await
            {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    bail!("etcd did not become ready: {error}")
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn connect(&self, number: usize) -> Result<Channel, tonic::transport::Error> {
        let endpoint = self.endpoints[number % self.endpoints.len()].clone();
        tonic::transport::Endpoint::from_shared(endpoint)?.tcp_nodelay(true).connect().await
    }

    pub(crate) async fn measure(
        &self,
        load: &Load,
        connections_max: usize,
    ) -> anyhow::Result<Outcome> {
        let mut channels = Vec::new();
        for number in 0..load.inflight.min(connections_max) {
            channels.push(self.connect(number).await?);
        }
        if load.kind == Kind::Get {
            prefill(&channels, load).await?;
        }
        let errors = Arc::new(AtomicU64::new(0));
        let warm_until = Instant::now() + Duration::from_secs(1);
        let end = warm_until + load.duration;
        let mut loops = Vec::new();
        for worker in 0..load.inflight {
            let channel = channels[worker % channels.len()].clone();
            let (load, errors) = (*load, Arc::clone(&errors));
            loops.push(tokio::spawn(async move {
                closed_loop(channel, load, worker as u64, warm_until, end, &errors).await
            }));
        }
        let mut all = Histogram::<u64>::new(3)?;
        for each in loops {
            all.add(each.await??)?;
        }
        Ok(Outcome {
            ops_per_second: all.len() as f64 / load.duration.as_secs_f64(),
            p50_us: all.value_at_quantile(0.5) as f64,
            p99_us: all.value_at_quantile(0.99) as f64,
            max_us: all.max() as f64,
            errors: errors.load(Ordering::Relaxed),
        })
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

/// As long as those of `raft bench`.
fn key(number: u64) -> Vec<u8> {
    format!("bench/{number:08}").into_bytes()
}

/// Stores a value under every key, as `raft bench get` does before it measures.
async fn prefill(channels: &[Channel], load: &Load) -> anyhow::Result<()> {
    const AT_ONCE: u64 = 256;
    let mut writers = Vec::new();
    for first in 0..AT_ONCE.min(load.keys) {
        let channel = channels[first as usize % channels.len()].clone();
        let load = *load;
        writers.push(tokio::spawn(async move {
            for number in (first..load.keys).step_by(AT_ONCE as usize) {
                let value = vec![1; load.value_size];
                request(Ok(channel.clone()), Kind::Put, key(number), value).await?;
            }
            anyhow::Ok(())
        }));
    }
    for writer in writers {
        writer.await??;
    }
    Ok(())
}

async fn closed_loop(
    channel: Channel,
    load: Load,
    worker: u64,
    warm_until: Instant,
    end: Instant,
    errors: &AtomicU64,
) -> anyhow::Result<Histogram<u64>> {
    let mut latencies = Histogram::<u64>::new(3)?;
    let mut random = worker.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    loop {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let key = key(random % load.keys);
        let value = vec![random as u8; load.value_size];
        let begun = Instant::now();
        if begun >= end {
            return Ok(latencies);
        }
        let outcome = request(Ok(channel.clone()), load.kind, key, value).await;
        let done = Instant::now();
        if done >= end || begun < warm_until {
            continue;
        }
        match outcome {
            Ok(()) => latencies.record(u64::try_from((done - begun).as_micros())?)?,
            Err(_) => {
                errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

async fn request(
    channel: Result<Channel, tonic::transport::Error>,
    kind: Kind,
    key: Vec<u8>,
    value: Vec<u8>,
) -> anyhow::Result<()> {
    let mut client = Grpc::new(channel?);
    client.ready().await?;
    match kind {
        Kind::Put => {
            let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
            client
                .unary(
                    tonic::Request::new(Put { key, value }),
                    path,
                    ProstCodec::<Put, Answer>::default(),
                )
                .await?;
        }
        Kind::Get => {
            let path = PathAndQuery::from_static("/etcdserverpb.KV/Range");
            client
                .unary(
                    tonic::Request::new(Range { key }),
                    path,
                    ProstCodec::<Range, Answer>::default(),
                )
                .await?;
        }
    }
    Ok(())
}

fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(listeners.iter().map(|l| l.local_addr().map(|a| a.port())).collect::<Result<_, _>>()?)
}
