//! The attacks. Each is a client with a certificate, or nobody at all, who takes as much as it is given.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use raft_core::NodeId;
use raft_kv::client::{Client, ClientConfig};
use raft_kv::protocol::{FrameBuilder, RequestBody};
use raft_kv::{Command, SessionId, Write};
use raft_net_quic::pki::Identity;
use raft_net_quic::testing::quinn::{Connection, RecvStream, SendStream};
use raft_net_quic::testing::{Openings, connection};
use raft_net_quic::{ClientEndpoint, ClusterId};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Whom to attack, and as whom.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) identity: Identity,
    pub(crate) cluster: ClusterId,
    pub(crate) nodes: BTreeMap<NodeId, String>,
}

/// How many connections are dialed at a time.
const DIALERS: usize = 16;

/// The kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attack {
    IdleConnections,
    OneByteStreams,
    UnfinishedFrames,
    UnreadStatus,
    UnreadRanges,
    LargeValues,
    ShortClients,
    HalfOpen,
    Garbage,
}

impl Attack {
    pub(crate) const ALL: [(&'static str, Attack); 9] = [
        ("idle-connections", Attack::IdleConnections),
        ("one-byte-streams", Attack::OneByteStreams),
        ("unfinished-frames", Attack::UnfinishedFrames),
        ("unread-status", Attack::UnreadStatus),
        ("unread-ranges", Attack::UnreadRanges),
        ("large-values", Attack::LargeValues),
        ("short-clients", Attack::ShortClients),
        ("half-open", Attack::HalfOpen),
        ("garbage", Attack::Garbage),
    ];

    pub(crate) fn parse(name: &str) -> anyhow::Result<Attack> {
        let found = Attack::ALL.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, attack)| *attack)
            .ok_or_else(|| anyhow::anyhow!("{name} is no attack; there are {}", Attack::names()))
    }

    pub(crate) fn names() -> String {
        Attack::ALL.map(|(name, _)| name).join(", ")
    }
}

/// Attacks every node of the target for so long, and says how far it came.
pub(crate) async fn run(
    attack: Attack,
    target: &Target,
    lasting: Duration,
) -> anyhow::Result<String> {
    let until = Instant::now() + lasting;
    let mut attackers = JoinSet::new();
    for (node, address) in &target.nodes {
        let at = At { target: target.clone(), node: *node, address: address.clone(), until };
        attackers.spawn(async move {
            let node = at.node;
            (node, at.attack(attack).await)
        });
    }
    let mut told = Vec::new();
    while let Some(result) = attackers.join_next().await {
        let (node, result) = result?;
        told.push(format!("node {node}: {}", result.unwrap_or_else(|error| error.to_string())));
    }
    told.sort();
    Ok(told.join("\n"))
}

/// One node under attack.
pub(crate) struct At {
    pub(crate) target: Target,
    pub(crate) node: NodeId,
    pub(crate) address: String,
    /// When the attack ends by itself.
    pub(crate) until: Instant,
}

impl At {
    async fn attack(self, attack: Attack) -> anyhow::Result<String> {
        match attack {
            Attack::IdleConnections => self.idle_connections(1_021).await,
            Attack::OneByteStreams => self.one_byte_streams(24, 255).await,
            Attack::UnfinishedFrames => self.unfinished_frames(240, 8 << 20).await,
            Attack::UnreadStatus => self.unread(&status_requests(12_000), 64, 4).await,
            Attack::UnreadRanges => self.unread(&range_requests(4_000), 64, 1).await,
            Attack::LargeValues => self.large_values(64, 1 << 20).await,
            Attack::ShortClients => self.short_clients(200).await,
            Attack::HalfOpen => self.half_open(600).await,
            Attack::Garbage => self.garbage(300_000).await,
        }
    }

    fn endpoint(&self) -> anyhow::Result<Arc<ClientEndpoint>> {
        let Target { identity, cluster, .. } = self.target.clone();
        Ok(Arc::new(ClientEndpoint::new(identity, cluster)?))
    }

    async fn connect(&self, endpoint: &ClientEndpoint) -> anyhow::Result<Connection> {
        let connecting = connection(endpoint, self.node, &self.address);
        Ok(tokio::time::timeout_at(self.until, connecting).await??)
    }

    async fn wait(&self) {
        tokio::time::sleep_until(self.until).await;
    }

    /// Connections that do nothing; those that are closed are made anew.
    pub(crate) async fn idle_connections(&self, count: usize) -> anyhow::Result<String> {
        let endpoint = self.endpoint()?;
        let mut dialers = JoinSet::new();
        let (made, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let counts = Arc::new((made, refused));
        for _ in 0..DIALERS {
            let (counts, until) = (Arc::clone(&counts), self.until);
            let (endpoint, node, address) =
                (Arc::clone(&endpoint), self.node, self.address.clone());
            dialers.spawn(async move {
                let mut open: Vec<Connection> = Vec::new();
                while Instant::now() < until {
                    open.retain(|connection| connection.close_reason().is_none());
                    if open.len() >= count.div_ceil(DIALERS) {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                    let dialing = connection(&endpoint, node, &address);
                    match tokio::time::timeout_at(until, dialing).await {
                        Ok(Ok(connection)) => open.push(connection),
                        _ => drop(counts.1.fetch_add(1, Ordering::Relaxed)),
                    }
                    counts.0.fetch_add(1, Ordering::Relaxed);
                }
                open.retain(|connection| connection.close_reason().is_none());
                open.len()
            });
        }
        let open: usize = dialers.join_all().await.into_iter().sum();
        let (made, refused) = (&counts.0, &counts.1);
        Ok(format!("{made:?} tried, {refused:?} refused, {open} open at the end"))
    }

    /// Streams that never become a frame.
    pub(crate) async fn one_byte_streams(
        &self,
        connections: usize,
        each: usize,
    ) -> anyhow::Result<String> {
        let endpoint = self.endpoint()?;
        let mut held = Vec::new();
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let Ok(connection) = self.connect(&endpoint).await else { continue };
            held.push(connection.clone());
            let until = self.until;
            tasks.spawn(async move {
                let (mut opened, mut streams) = (0, Vec::new());
                while let Ok(Some(stream)) = open(&connection, until, &[7]).await {
                    opened += 1;
                    streams.push(stream);
                    if streams.len() > each {
                        streams.remove(0);
                    }
                }
                opened
            });
        }
        self.wait().await;
        let opened: usize = tasks.join_all().await.into_iter().sum();
        Ok(format!("{opened} streams over {} connections", held.len()))
    }

    /// Frames that claim `bytes`, and end one byte before.
    pub(crate) async fn unfinished_frames(
        &self,
        streams: usize,
        bytes: u32,
    ) -> anyhow::Result<String> {
        let endpoint = self.endpoint()?;
        let connection = self.connect(&endpoint).await?;
        let mut tasks = JoinSet::new();
        for _ in 0..streams {
            let (connection, until) = (connection.clone(), self.until);
            tasks.spawn(async move {
                let mut sent = 0_usize;
                let first = bytes.to_le_bytes();
                let Ok(Some((mut send, _recv))) = open(&connection, until, &first).await else {
                    return sent;
                };
                let chunk = vec![0; 64 << 10];
                while sent + chunk.len() < bytes as usize {
                    match tokio::time::timeout_at(until, send.write_all(&chunk)).await {
                        Ok(Ok(())) => sent += chunk.len(),
                        _ => return sent,
                    }
                }
                tokio::time::sleep_until(until).await;
                sent
            });
        }
        let sent: usize = tasks.join_all().await.into_iter().sum();
        Ok(format!("{} MiB of unfinished frames taken", sent >> 20))
    }

    /// Requests whose answers are never read.
    pub(crate) async fn unread(
        &self,
        frame: &Bytes,
        streams: usize,
        each: usize,
    ) -> anyhow::Result<String> {
        let endpoint = self.endpoint()?;
        let connection = self.connect(&endpoint).await?;
        let mut tasks = JoinSet::new();
        for _ in 0..streams {
            let (connection, until, frame) = (connection.clone(), self.until, frame.clone());
            tasks.spawn(async move {
                let mut sent = 0;
                let first = (frame.len() as u32).to_le_bytes();
                let Ok(Some((mut send, _recv))) = open(&connection, until, &first).await else {
                    return sent;
                };
                for round in 0..each {
                    if round > 0 && send.write_all(&first).await.is_err() {
                        return sent;
                    }
                    match tokio::time::timeout_at(until, send.write_all(&frame)).await {
                        Ok(Ok(())) => sent += frame.len(),
                        _ => return sent,
                    }
                }
                tokio::time::sleep_until(until).await;
                sent
            });
        }
        let sent: usize = tasks.join_all().await.into_iter().sum();
        Ok(format!("{} KiB of requests taken, answers unread", sent >> 10))
    }

    /// Streams that put large values, one after the other.
    pub(crate) async fn large_values(
        &self,
        streams: usize,
        bytes: usize,
    ) -> anyhow::Result<String> {
        let endpoint = self.endpoint()?;
        let connection = self.connect(&endpoint).await?;
        let mut tasks = JoinSet::new();
        for stream in 0..streams {
            let (connection, until) = (connection.clone(), self.until);
            tasks.spawn(async move {
                let mut put = 0_usize;
                let Ok(Some((send, recv))) = open(&connection, until, &[]).await else {
                    return put;
                };
                let mut writer = Writer { send, recv, session: SessionId(rand(stream)) };
                let _ =
                    tokio::time::timeout_at(until, writer.put_all(stream, bytes, &mut put)).await;
                put
            });
        }
        let put: usize = tasks.join_all().await.into_iter().sum();
        Ok(format!("{put} requests of {bytes} bytes answered"))
    }

    /// Clients that connect, put one value, and go: all at once, again and again.
    pub(crate) async fn short_clients(&self, count: usize) -> anyhow::Result<String> {
        let (mut put, mut failed) = (0, 0);
        while Instant::now() < self.until {
            let mut tasks = JoinSet::new();
            for client in 0..count {
                let Target { identity, cluster, nodes } = self.target.clone();
                tasks.spawn(async move {
                    let client_of = Client::new(ClientConfig {
                        request_timeout: Duration::from_secs(5),
                        ..ClientConfig::new(identity, cluster, nodes)
                    })?;
                    let result = client_of.put(format!("short-{client}"), "x").await;
                    client_of.close().await;
                    result
                });
            }
            for result in tasks.join_all().await {
                if result.is_ok() { put += 1 } else { failed += 1 }
            }
        }
        Ok(format!("{put} put, {failed} failed"))
    }

    /// Handshakes that begin and never go on, so many a second.
    pub(crate) async fn half_open(&self, a_second: u32) -> anyhow::Result<String> {
        let openings =
            Openings::new(ClientEndpoint::new(self.target.identity.clone(), self.target.cluster)?)?;
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let mut clock = tokio::time::interval(Duration::from_secs(1) / a_second);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let mut sent = 0;
        while Instant::now() < self.until {
            clock.tick().await;
            let datagram = openings.next(self.node).await?;
            // A full socket drops it.
            let _ = socket.send_to(&datagram, &self.address).await;
            sent += 1;
        }
        Ok(format!("{sent} handshakes begun"))
    }

    /// Datagrams of nothing, as fast as they go.
    pub(crate) async fn garbage(&self, count: usize) -> anyhow::Result<String> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let to = tokio::net::lookup_host(&self.address).await?.next();
        let to = to.ok_or_else(|| anyhow::anyhow!("no address"))?;
        let mut state = rand(self.node.0 as usize) as u64;
        let mut datagram = [0_u8; 1200];
        let mut sent = 0;
        for _ in 0..count {
            for word in datagram.chunks_exact_mut(8) {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                word.copy_from_slice(&state.to_le_bytes());
            }
            // Long headers of the right version, short headers, and neither.
            match sent % 3 {
                0 => datagram[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]),
                1 => datagram[0] = 0x40 | (datagram[0] & 0x3f),
                _ => {}
            }
            let length = 40 + (state >> 33) as usize % 1_160;
            let _ = socket.send_to(&datagram[..length], to).await;
            sent += 1;
            if sent % 64 == 0 {
                tokio::task::yield_now().await;
                if Instant::now() >= self.until {
                    break;
                }
            }
        }
        Ok(format!("{sent} datagrams of garbage sent"))
    }
}

/// Opens a stream with its first bytes; `None` when the time is up.
async fn open(
    connection: &Connection,
    until: Instant,
    first: &[u8],
) -> anyhow::Result<Option<(SendStream, RecvStream)>> {
    let Ok(stream) = tokio::time::timeout_at(until, connection.open_bi()).await else {
        return Ok(None);
    };
    let (mut send, recv) = stream?;
    send.write_all(first).await?;
    Ok(Some((send, recv)))
}

pub(crate) fn status_requests(count: u64) -> Bytes {
    frame_of(count, &RequestBody::Status)
}

pub(crate) fn range_requests(count: u64) -> Bytes {
    let (start, end, limit, keys_only) = (Bytes::new(), None, 4096, false);
    frame_of(count, &RequestBody::Range { start, end, limit, keys_only })
}

fn frame_of(count: u64, body: &RequestBody) -> Bytes {
    let mut frame = FrameBuilder::new();
    (0..count).for_each(|id| frame.push_request(id, body));
    frame.take()
}

/// Something that differs from call to call, and needs not be random.
fn rand(of: usize) -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_nanos()) << 20 | of as u128
}

struct Writer {
    send: SendStream,
    recv: RecvStream,
    session: SessionId,
}

impl Writer {
    async fn put_all(
        &mut self,
        stream: usize,
        bytes: usize,
        put: &mut usize,
    ) -> anyhow::Result<()> {
        let session = self.session;
        self.ask(&Command::OpenSession { session }.encode()).await?;
        let (key, value) = (format!("large-{stream}"), vec![7; bytes]);
        for sequence in 0.. {
            let write = Write::Put { key: key.as_bytes(), value: &value };
            let command =
                Command::Write { session, sequence, acked_below: sequence, write }.encode();
            self.ask(&command).await?;
            *put += 1;
        }
        Ok(())
    }

    async fn ask(&mut self, command: &Bytes) -> anyhow::Result<()> {
        let mut frame = FrameBuilder::new();
        frame.push_request(1, &RequestBody::Command(command.clone()));
        let frame = frame.take();
        self.send.write_all(&(frame.len() as u32).to_le_bytes()).await?;
        self.send.write_all(&frame).await?;
        let mut prefix = [0; 4];
        self.recv.read_exact(&mut prefix).await?;
        let mut answer = vec![0; u32::from_le_bytes(prefix) as usize];
        self.recv.read_exact(&mut answer).await?;
        Ok(())
    }
}
