//! The accepting side: takes connections, finds out who it is, and receives what they send. Every refusal has a code and words,
//! which go to the log here and to the dialing side's error there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, Incoming, RecvStream, SendStream};
use raft_core::{NodeId, StoreStamp};
use raft_node::{Delivery, Inbox};
use rustls::pki_types::CertificateDer;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};

use crate::accounts::{Closer, NoPlace, Place};
use crate::door::Ticket;
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
    let mut reports = tokio::time::interval(REPORTS);
    reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            incoming = shared.dialer.quinn.accept() => match incoming {
                Some(incoming) => open(&shared, incoming),
                None => break,
            },
            _ = reports.tick() => {
                if let Some(more) = shared.refusals.rest() {
                    warn!(more, "connections were refused or broken off, as the ones told of before");
                }
            }
        }
    }
    // Nobody may be listening.
    let _ = shared.closed.send_replace(true);
}

/// How often it is told how many lines were not written.
const REPORTS: Duration = Duration::from_secs(10);

/// Lets a handshake begin, or asks the other side to prove its address first, which costs nothing here.
fn open(shared: &Arc<Shared>, incoming: Incoming) {
    let from = incoming.remote_address();
    let is_peer = shared.peers().is_some_and(|peers| peers.is_address_of_peer(from));
    if shared.door.is_busy(is_peer) && !incoming.remote_address_validated() {
        // Fails only if it may not retry, which holds for validated addresses alone.
        let _ = incoming.retry();
        return;
    }
    let shared = Arc::clone(shared);
    let ticket = shared.door.enter(from, is_peer);
    tokio::spawn(async move {
        let Err(error) = serve(&shared, incoming, ticket).await else { return };
        match error {
            NetError::Closed => {}
            error if error.is_transient() && !matches!(error, NetError::Crowded { .. }) => {
                debug!(%from, %error, "a connection ended");
            }
            error => match shared.refusals.pass() {
                Some(0) => warn!(%from, %error, "a connection was refused or broken off"),
                Some(more) => {
                    warn!(%from, %error, more, "a connection was refused or broken off, and others before it");
                }
                None => debug!(%from, %error, "a connection was refused or broken off"),
            },
        }
    });
}

/// From the first packet to the hello.
async fn shake_hands(incoming: Incoming) -> Result<(Connection, Hello, SendStream), NetError> {
    let by = incoming.remote_address().to_string();
    let connection = incoming.await.map_err(|error| lost(&by, &error))?;
    match await_hello(&connection, &by).await {
        Ok((hello, reply)) => Ok((connection, hello, reply)),
        Err(error) => Err(refuse(&connection, CloseCode::Protocol, error)),
    }
}

/// One connection from its handshake to its end.
async fn serve(shared: &Arc<Shared>, incoming: Incoming, ticket: Ticket) -> Result<(), NetError> {
    let limit = shared.limits().handshake_timeout;
    let from = incoming.remote_address();
    let by = from.to_string();
    let shaken = tokio::time::timeout(limit, shake_hands(incoming));
    let (connection, hello, reply) = tokio::select! {
        shaken = shaken => {
            shaken.map_err(|_| NetError::TimedOut { what: "the handshake", limit })??
        }
        () = ticket.evicted() => {
            let reason = format!("{by}: its handshake was the oldest of too many");
            return Err(NetError::ConnectionLost { reason });
        }
    };
    let (peer, certificate, version) = match check(shared, &connection, &hello) {
        Ok(checked) => checked,
        Err((code, error)) => return Err(refuse(&connection, code, error)),
    };
    drop(ticket);
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
    let guest = Guest { peer, certificate, from };
    match (hello.role, &guest.peer) {
        (Role::Service, _) => {
            let place = shared
                .accounts
                .enter(&guest.certificate, &connection)
                .map_err(|none| refuse(&connection, CloseCode::Busy, crowded(&guest.peer, none)))?;
            welcome(reply, &answer, &by).await?;
            debug!(peer = %guest.peer, %from, "connected");
            let error = services(shared, &connection, &guest.peer, || Ok(place)).await;
            Err(refuse(&connection, CloseCode::Busy, error))
        }
        (Role::Peer, PeerIdentity::Node(node)) => {
            let node = *node;
            Err(serve_peer(shared, &connection, node, (&hello, reply, &answer), &guest).await)
        }
        (Role::Peer, PeerIdentity::Client { .. }) => {
            let reason = "a client's certificate does not make a peer; use a node's".into();
            let error = NetError::NotAllowed { peer: guest.peer, reason };
            Err(refuse(&connection, CloseCode::NotAllowed, error))
        }
    }
}

/// Who has connected.
struct Guest {
    peer: PeerIdentity,
    certificate: Vec<u8>,
    from: SocketAddr,
}

/// A peer's connection, from its hello on.
async fn serve_peer(
    shared: &Arc<Shared>,
    connection: &Connection,
    node: NodeId,
    (hello, reply, answer): (&Hello, SendStream, &Welcome),
    Guest { peer, certificate, from }: &Guest,
) -> NetError {
    let (link, inbox) = match admit(shared, node) {
        Ok(admitted) => admitted,
        Err((code, error)) => return refuse(connection, code, error),
    };
    if let Err(later) = link.on_call(connection, hello.incarnation, hello.store) {
        let reason = format!(
            "a later start of it ({later}) has connected: stop one of the two processes, which run on copies of one data folder"
        );
        let error = NetError::NotAllowed { peer: peer.clone(), reason };
        return refuse(connection, CloseCode::NotAllowed, error);
    }
    tuning::promote_to_peer(connection);
    if let Err(error) = welcome(reply, answer, &from.to_string()).await {
        link.on_call_ended(connection);
        return error;
    }
    // The link to it, in the other direction, tells of peers that come and go.
    debug!(%peer, %from, "peer connected");
    // It takes a client's place only if it asks as a client does.
    let place = || {
        let closer = Closer::Connection(connection.clone());
        shared.accounts.place(certificate, closer).map_err(|none| crowded(peer, none))
    };
    let frame_bytes_max = answer.frame_bytes_max as usize;
    let error = tokio::select! {
        error = receive(connection, (node, hello.store), &inbox, frame_bytes_max) => error,
        error = services(shared, connection, peer, place) => error,
    };
    link.on_call_ended(connection);
    refuse(connection, CloseCode::Protocol, error)
}

fn crowded(peer: &PeerIdentity, none: NoPlace) -> NetError {
    NetError::Crowded { peer: peer.clone(), reason: none.to_string() }
}

/// Closes with the error's words, so that the other side learns them.
fn refuse(connection: &Connection, code: CloseCode, error: NetError) -> NetError {
    connection.close(code.code(), error.to_string().as_bytes());
    error
}

type Refusal = (CloseCode, NetError);

/// Who it is, by which certificate, and which version to speak.
fn check(
    shared: &Shared,
    connection: &Connection,
    hello: &Hello,
) -> Result<(PeerIdentity, Vec<u8>, u8), Refusal> {
    let dialer = &shared.dialer;
    let address = connection.remote_address();
    let identity_fault = |fault| (CloseCode::Identity, NetError::Identity { address, fault });
    let certificates = connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let certificate =
        certificates.as_ref().and_then(|chain| chain.first()).ok_or(IdentityFault::Nobody);
    let certificate = certificate.map_err(identity_fault)?;
    let peer = identity_of(certificate, dialer.cluster).map_err(identity_fault)?;
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
        _ => Ok((peer, certificate.to_vec(), version)),
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
            // Every start and stop of a group has its share of these: nothing to be told about.
            let (by, code) = (format!("node {me}"), CloseCode::NotReady);
            let reason = "it takes no peers now, because it is starting or stopping".into();
            Err((code, NetError::Refused { by, code, reason }))
        }
    }
}

/// Hands on the streams that the other side opens for services, until the connection ends. The connection takes its place at the first.
async fn services(
    shared: &Shared,
    connection: &Connection,
    peer: &PeerIdentity,
    place: impl FnOnce() -> Result<Place, NetError>,
) -> NetError {
    let by = peer.to_string();
    let first = match connection.accept_bi().await {
        Ok(stream) => stream,
        Err(error) => return lost(&by, &error),
    };
    let place = match place() {
        Ok(place) => place,
        Err(error) => return error,
    };
    let mut next = Some(first);
    loop {
        let stream = match next.take() {
            Some(stream) => stream,
            None => match connection.accept_bi().await {
                Ok(stream) => stream,
                Err(error) => return lost(&by, &error),
            },
        };
        // Further ones of this connection wait in the transport meanwhile, where they take next to nothing.
        let stream_place = tokio::select! {
            place = place.stream() => place,
            error = connection.closed() => return lost(&by, &error),
        };
        let owned = (place.owner.clone(), stream_place);
        let stream = ServiceStream::accepted(peer.clone(), stream, owned, shared.limits());
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
