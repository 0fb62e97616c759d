//! The accepting side: takes connections, finds out who it is, and receives what they send. Every refusal has a code and words,
//! which go to the log here and to the dialing side's error there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quinn::{Connection, Incoming, RecvStream};
use raft_core::{NodeId, StoreStamp};
use raft_node::{Delivery, Inbox};
use rustls::pki_types::CertificateDer;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::endpoint::Shared;
use crate::error::{CloseCode, NetError, lost};
use crate::hello::{Hello, Role, Welcome, await_hello, welcome};
use crate::identity::{IdentityFault, PeerIdentity, identity_of};
use crate::link::{CLASSES, Link};
use crate::service::{FrameReader, ServiceStream, read_failed};
use crate::transport::Admission;
use crate::tuning;
use crate::wire::{WireError, WireLimits, decode};

/// Accepts until the endpoint is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    while let Some(incoming) = shared.dialer.quinn.accept().await {
        let open = shared.connections.load(Ordering::Relaxed);
        let max = shared.limits().connections_max;
        if open >= max {
            warn!(from = %incoming.remote_address(), open, max, "refused a connection: too many are open");
            incoming.refuse();
            continue;
        }
        // Half of the room is only for those that have shown that their address is theirs: a forged one can not fill the rest.
        if open >= max / 2 && incoming.may_retry() {
            // Fails only if it may not retry.
            let _ = incoming.retry();
            continue;
        }
        let shared = Arc::clone(&shared);
        let place = Place::taken(&shared);
        tokio::spawn(async move {
            let from = incoming.remote_address();
            if let Err(error) = serve(&shared, incoming).await {
                match error {
                    NetError::Closed => {}
                    error if error.is_transient() => debug!(%from, %error, "a connection ended"),
                    error => warn!(%from, %error, "a connection was refused or broken off"),
                }
            }
            drop(place);
        });
    }
    // Nobody may be listening.
    let _ = shared.closed.send_replace(true);
}

/// A place among the connections that may be open; free again when dropped, whatever happened.
struct Place(Arc<Shared>);

impl Place {
    fn taken(shared: &Arc<Shared>) -> Place {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        Place(Arc::clone(shared))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection from its handshake to its end.
async fn serve(shared: &Arc<Shared>, incoming: Incoming) -> Result<(), NetError> {
    let limit = shared.limits().handshake_timeout;
    let from = incoming.remote_address();
    let by = from.to_string();
    let timed_out = || NetError::TimedOut { what: "the handshake", limit };
    let deadline = tokio::time::Instant::now() + limit;
    let connection = tokio::time::timeout_at(deadline, async { incoming.await })
        .await
        .map_err(|_| timed_out())?
        .map_err(|error| lost(&by, &error))?;
    let (hello, reply) =
        match tokio::time::timeout_at(deadline, await_hello(&connection, &by)).await {
            Ok(Ok(hello)) => hello,
            Ok(Err(error)) => return Err(refuse(&connection, CloseCode::Protocol, error)),
            Err(_) => return Err(refuse(&connection, CloseCode::Protocol, timed_out())),
        };
    let (peer, version) = match check(shared, &connection, &hello) {
        Ok(checked) => checked,
        Err((code, error)) => return Err(refuse(&connection, code, error)),
    };
    let limits = shared.limits();
    let frame_bytes_max = match hello.role {
        Role::Peer => limits.peer_frame_bytes_max,
        Role::Service => limits.service_frame_bytes_max,
    };
    let answer = Welcome {
        version,
        incarnation: shared.dialer.incarnation,
        frame_bytes_max: u32::try_from(frame_bytes_max).unwrap_or(u32::MAX),
    };
    match (hello.role, &peer) {
        (Role::Service, _) => {
            welcome(reply, &answer, &by).await?;
            debug!(%peer, %from, "connected");
            Err(services(shared, &connection, &peer).await)
        }
        (Role::Peer, PeerIdentity::Node(node)) => {
            let (link, inbox) = match admit(shared, *node) {
                Ok(admitted) => admitted,
                Err((code, error)) => return Err(refuse(&connection, code, error)),
            };
            if let Err(later) = link.on_call(&connection, hello.incarnation, hello.store) {
                let reason = format!(
                    "a later start of it ({later}) has connected: stop one of the two processes, which run on copies of one data folder"
                );
                let error = NetError::NotAllowed { peer, reason };
                return Err(refuse(&connection, CloseCode::NotAllowed, error));
            }
            tuning::promote_to_peer(&connection);
            if let Err(error) = welcome(reply, &answer, &by).await {
                link.on_call_ended(&connection);
                return Err(error);
            }
            info!(%peer, %from, "peer connected");
            let sender = (*node, hello.store);
            let error = tokio::select! {
                error = receive(&connection, sender, &inbox, frame_bytes_max) => error,
                error = services(shared, &connection, &peer) => error,
            };
            link.on_call_ended(&connection);
            Err(refuse(&connection, CloseCode::Protocol, error))
        }
        (Role::Peer, PeerIdentity::Client { .. }) => {
            let reason = "a client's certificate does not make a peer; use a node's".into();
            let error = NetError::NotAllowed { peer, reason };
            Err(refuse(&connection, CloseCode::NotAllowed, error))
        }
    }
}

/// Closes with the error's words, so that the other side learns them.
fn refuse(connection: &Connection, code: CloseCode, error: NetError) -> NetError {
    connection.close(code.code(), error.to_string().as_bytes());
    error
}

type Refusal = (CloseCode, NetError);

/// Who it is, by its certificate, and which version to speak.
fn check(
    shared: &Shared,
    connection: &Connection,
    hello: &Hello,
) -> Result<(PeerIdentity, u8), Refusal> {
    let dialer = &shared.dialer;
    let address = connection.remote_address();
    let identity_fault = |fault| (CloseCode::Identity, NetError::Identity { address, fault });
    let certificates = connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let certificate =
        certificates.as_ref().and_then(|chain| chain.first()).ok_or(IdentityFault::Nobody);
    let peer = certificate
        .and_then(|certificate| identity_of(certificate, dialer.cluster))
        .map_err(identity_fault)?;
    let version = hello.common_version().map_err(|error| (CloseCode::Protocol, error.into()))?;
    if hello.cluster != dialer.cluster {
        return Err(identity_fault(IdentityFault::OtherCluster {
            found: hello.cluster,
            expected: dialer.cluster,
        }));
    }
    let not_allowed = |code, reason| (code, NetError::NotAllowed { peer: peer.clone(), reason });
    if hello.target != dialer.me {
        let reason = format!(
            "it wants node {}, and this is node {}: check the address",
            hello.target, dialer.me
        );
        return Err(not_allowed(CloseCode::WrongNode, reason));
    }
    match &peer {
        PeerIdentity::Node(node) if *node != hello.claimed => {
            let reason = format!("it says that it is node {}", hello.claimed);
            Err(not_allowed(CloseCode::Identity, reason))
        }
        _ => Ok((peer, version)),
    }
}

/// Whether the node is a peer of this one, and may deliver now.
fn admit(shared: &Shared, node: NodeId) -> Result<(Arc<Link>, Inbox), Refusal> {
    let peer = PeerIdentity::Node(node);
    let me = shared.dialer.me;
    match shared.peers().map(|peers| peers.admit(node)) {
        Some(Admission::Admitted(link, inbox)) => Ok((link, inbox)),
        Some(Admission::Unknown) => {
            let reason = format!("it is not a peer of node {me}: add it there before it connects");
            Err((CloseCode::NotAllowed, NetError::NotAllowed { peer, reason }))
        }
        Some(Admission::NotReady) | None => {
            // Every start of a group has its share of these: nothing to be told about.
            let (by, code) = (format!("node {me}"), CloseCode::NotReady);
            let reason = "it is still starting".into();
            Err((code, NetError::Refused { by, code, reason }))
        }
    }
}

/// Hands on the streams that the other side opens for services, until the connection ends.
async fn services(shared: &Shared, connection: &Connection, peer: &PeerIdentity) -> NetError {
    let by = peer.to_string();
    loop {
        let (send, recv) = match connection.accept_bi().await {
            Ok(stream) => stream,
            Err(error) => return lost(&by, &error),
        };
        let max = shared.limits().service_frame_bytes_max;
        let stream = ServiceStream::new(peer.clone(), send, recv, max);
        if shared.services.send(stream).await.is_err() {
            return NetError::Closed;
        }
    }
}

/// Which node sends on a connection, and the store that it runs on.
type Sender = (NodeId, Option<StoreStamp>);

/// Receives a peer's messages until the connection ends or it sends something that is none.
async fn receive(
    connection: &Connection,
    sender: Sender,
    inbox: &Inbox,
    frame_bytes_max: usize,
) -> NetError {
    let by = format!("node {}", sender.0);
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_uni() => match stream {
                Ok(stream) => {
                    let inbox = inbox.clone();
                    streams.spawn(async move {
                        receive_stream(stream, sender, &inbox, frame_bytes_max).await
                    });
                }
                Err(error) => return lost(&by, &error),
            },
            Some(ended) = streams.join_next() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(_) => {
                    return NetError::ConnectionLost { reason: format!("{by}: a reader ended") };
                }
            },
        }
    }
}

/// Receives one class of a peer's messages. A full inbox makes it wait, and with it, by flow control, the peer's writer.
async fn receive_stream(
    mut stream: RecvStream,
    (from, store): Sender,
    inbox: &Inbox,
    frame_bytes_max: usize,
) -> Result<(), NetError> {
    let by = format!("node {from}");
    let mut tag = [0];
    stream.read_exact(&mut tag).await.map_err(|error| match error {
        quinn::ReadExactError::ReadError(error) => read_failed(&by, error),
        quinn::ReadExactError::FinishedEarly(_) => {
            NetError::StreamCut { reason: format!("{by} ended it before it began") }
        }
    })?;
    let Some((class, ..)) = CLASSES.iter().find(|(_, known, _)| *known == tag[0]) else {
        return Err(WireError::UnknownClass { class: tag[0] }.into());
    };
    let limits = WireLimits { frame_bytes_max };
    let mut reader = FrameReader::new(stream, frame_bytes_max, by);
    while let Some(frame) = reader.next().await? {
        let message = decode(frame, limits)?;
        if message.class() != *class {
            let (found, class) = (message.class(), *class);
            return Err(WireError::WrongClass { found, class }.into());
        }
        if !inbox.deliver(Delivery::Message { from, store, message }).await {
            return Err(NetError::Closed);
        }
    }
    Ok(())
}
