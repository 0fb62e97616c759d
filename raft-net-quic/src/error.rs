//! Everything that can go wrong on the network, by name.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use quinn::{ConnectionError, VarInt};
use raft_core::NodeId;

use crate::identity::{ClusterId, IdentityFault, PeerIdentity};
use crate::untrusted::Untrusted;
use crate::wire::WireError;

/// A failure of the network layer: what happened, to what, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The socket could not be opened.
    #[error(
        "can not listen on {address}: {source}; is the port taken, or the address not this machine's?"
    )]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The certificate and key can not be used for TLS.
    #[error("the TLS configuration can not be built: {reason}")]
    Tls {
        /// What rustls says.
        reason: String,
    },
    /// This endpoint's own certificate does not name the node that it is to be.
    #[error(
        "this endpoint is to be {wanted} of cluster {cluster}, but {found}: give it the certificate that was issued for it"
    )]
    NotMyCertificate {
        /// Who it is to be.
        wanted: String,
        /// Of which cluster.
        cluster: ClusterId,
        /// What the certificate says.
        found: String,
    },
    /// A host name could not be resolved.
    #[error("the address {address:?} can not be resolved: {reason}")]
    Resolve {
        /// The address, as configured.
        address: String,
        /// Why.
        reason: String,
    },
    /// Nobody answered, or no connection could be made at all. Worth another try, later or elsewhere.
    #[error("node {node} at {address} can not be reached: {reason}")]
    Unreachable {
        /// Whom we wanted.
        node: NodeId,
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// Somebody answered whose certificate is not to be trusted. Not worth another try.
    #[error(
        "who answers at {address} is not of this cluster: {reason}; check that the address, and the CA file on both sides, are this cluster's"
    )]
    WrongCertificate {
        /// Where.
        address: String,
        /// What is wrong with the certificate.
        reason: String,
    },
    /// A member of this cluster answered, but not the one that was wanted.
    #[error(
        "node {expected} was expected at {address}, but another answers there ({reason}): check the address"
    )]
    WrongNode {
        /// Whom we wanted.
        expected: NodeId,
        /// Where.
        address: String,
        /// What the certificate says instead.
        reason: String,
    },
    /// The other side refused us, and said why.
    #[error("{by} refused this connection ({code}): {reason}")]
    Refused {
        /// Who.
        by: String,
        /// The kind of refusal.
        code: CloseCode,
        /// Its own words.
        reason: String,
    },
    /// The other side's certificate names nobody who may do this.
    #[error("{address} was refused: {fault}")]
    Identity {
        /// Where it came from.
        address: SocketAddr,
        /// What is wrong.
        fault: IdentityFault,
    },
    /// The other side is known, but may not do this.
    #[error("{peer} was refused: {reason}")]
    NotAllowed {
        /// Who.
        peer: PeerIdentity,
        /// Why.
        reason: String,
    },
    /// The other side may be here, but there is no place for it now.
    #[error("there is no place for {peer}: {reason}")]
    Crowded {
        /// Who.
        peer: PeerIdentity,
        /// Why.
        reason: String,
    },
    /// Something took longer than allowed.
    #[error("{what} took longer than {limit:?}")]
    TimedOut {
        /// What.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The connection is gone.
    #[error("the connection was lost: {reason}")]
    ConnectionLost {
        /// Why.
        reason: String,
    },
    /// The stream ended in the middle of a frame, or was reset.
    #[error("the stream was cut off: {reason}")]
    StreamCut {
        /// How.
        reason: String,
    },
    /// A frame is larger than this side allows.
    #[error("a frame of {bytes} bytes, where at most {max} are allowed")]
    FrameTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Bytes that are not what they should be.
    #[error("malformed: {0}")]
    Malformed(#[from] WireError),
    /// The endpoint was closed on this side.
    #[error("the endpoint is closed")]
    Closed,
}

impl NetError {
    /// Whether the same attempt may succeed later without anybody changing a configuration.
    pub fn is_transient(&self) -> bool {
        match self {
            NetError::Resolve { .. }
            | NetError::Unreachable { .. }
            | NetError::Crowded { .. }
            | NetError::TimedOut { .. }
            | NetError::ConnectionLost { .. }
            | NetError::StreamCut { .. } => true,
            NetError::Refused { code, .. } => code.is_transient(),
            _ => false,
        }
    }

    /// Whether one side does not accept who the other is or says it wants: somebody has to correct a certificate, an address or
    /// another setting before this can work.
    pub fn is_credentials(&self) -> bool {
        match self {
            NetError::Tls { .. }
            | NetError::NotMyCertificate { .. }
            | NetError::WrongCertificate { .. }
            | NetError::WrongNode { .. }
            | NetError::Identity { .. }
            | NetError::NotAllowed { .. } => true,
            NetError::Refused { code, .. } => matches!(
                code,
                CloseCode::Identity
                    | CloseCode::NotAllowed
                    | CloseCode::WrongNode
                    | CloseCode::Certificate
            ),
            _ => false,
        }
    }
}

/// Why an endpoint closed a connection: the application close codes of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseCode {
    /// The endpoint is shutting down, or no longer needs the connection.
    Shutdown,
    /// The hello or a frame made no sense, or the versions do not overlap.
    Protocol,
    /// The certificate names nobody of this cluster, or not who was claimed.
    Identity,
    /// The certificate's owner may not do what it tried: a client as a peer, or an unknown node.
    NotAllowed,
    /// The hello was meant for another node.
    WrongNode,
    /// Too many connections; try again later.
    Busy,
    /// The node does not take peers yet; try again at once.
    NotReady,
    /// A newer connection of the same peer took this one's place.
    Superseded,
    /// TLS itself refused the certificate.
    Certificate,
    /// A code that this version does not know.
    Other(u64),
}

impl CloseCode {
    /// The number on the wire.
    pub(crate) fn code(self) -> VarInt {
        VarInt::from_u32(match self {
            CloseCode::Shutdown => 1,
            CloseCode::Protocol => 2,
            CloseCode::Identity => 3,
            CloseCode::NotAllowed => 4,
            CloseCode::WrongNode => 5,
            CloseCode::Busy => 6,
            CloseCode::NotReady => 7,
            CloseCode::Superseded => 8,
            CloseCode::Certificate => 9,
            CloseCode::Other(code) => u32::try_from(code).unwrap_or(u32::MAX),
        })
    }

    fn from_code(code: u64) -> CloseCode {
        match code {
            0 | 1 => CloseCode::Shutdown,
            2 => CloseCode::Protocol,
            3 => CloseCode::Identity,
            4 => CloseCode::NotAllowed,
            5 => CloseCode::WrongNode,
            6 => CloseCode::Busy,
            7 => CloseCode::NotReady,
            8 => CloseCode::Superseded,
            9 => CloseCode::Certificate,
            other => CloseCode::Other(other),
        }
    }

    /// Whether the refusal may pass by itself.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            CloseCode::Shutdown | CloseCode::Busy | CloseCode::NotReady | CloseCode::Superseded
        )
    }
}

impl std::fmt::Display for CloseCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CloseCode::Shutdown => "shutdown",
            CloseCode::Protocol => "protocol violation",
            CloseCode::Identity => "wrong identity",
            CloseCode::NotAllowed => "not allowed",
            CloseCode::WrongNode => "wrong node",
            CloseCode::Busy => "busy",
            CloseCode::NotReady => "not ready",
            CloseCode::Superseded => "superseded",
            CloseCode::Certificate => "wrong certificate",
            CloseCode::Other(code) => return write!(f, "code {code}"),
        })
    }
}

/// How a connection ended, in our words. `by` names the other side.
pub(crate) fn lost(by: &str, error: &ConnectionError) -> NetError {
    match error {
        ConnectionError::ApplicationClosed(close) => NetError::Refused {
            by: by.into(),
            code: CloseCode::from_code(close.error_code.into_inner()),
            reason: text(&close.reason),
        },
        // With TLS 1.3 the dialing side has finished before the other side looks at its certificate.
        ConnectionError::ConnectionClosed(close) if alert(close.error_code.into()).is_some() => {
            let told = alert(close.error_code.into()).map_or("", alert_meaning);
            NetError::Refused {
                by: by.into(),
                code: CloseCode::Certificate,
                reason: format!(
                    "it does not accept this certificate: {told} {}",
                    text(&close.reason)
                )
                .trim_end()
                .into(),
            }
        }
        ConnectionError::LocallyClosed => NetError::Closed,
        other => NetError::ConnectionLost { reason: format!("{by}: {}", in_words(other)) },
    }
}

/// What a failed attempt to connect means.
pub(crate) fn dial_failure(node: NodeId, address: &str, error: &ConnectionError) -> NetError {
    match error {
        // Our own TLS refused the server: its words are in the reason.
        ConnectionError::TransportError(fault) if alert(fault.code.into()).is_some() => {
            let reason = text(fault.reason.as_bytes());
            if alert(fault.code.into()) == Some(ALERT_BAD_CERTIFICATE) {
                NetError::WrongNode { expected: node, address: address.into(), reason }
            } else {
                NetError::WrongCertificate { address: address.into(), reason }
            }
        }
        ConnectionError::TimedOut | ConnectionError::Reset | ConnectionError::VersionMismatch => {
            NetError::Unreachable { node, address: address.into(), reason: in_words(error) }
        }
        ConnectionError::ConnectionClosed(close) if alert(close.error_code.into()).is_none() => {
            NetError::Unreachable { node, address: address.into(), reason: in_words(error) }
        }
        other => lost(&format!("node {node} at {address}"), other),
    }
}

/// An error's words may end in the other side's.
fn in_words(error: &ConnectionError) -> String {
    Untrusted(&error.to_string()).to_string()
}

const ALERT_BAD_CERTIFICATE: u8 = 42;

/// QUIC carries TLS alerts as codes 0x100 to 0x1ff (RFC 9001 §4.8).
fn alert(code: u64) -> Option<u8> {
    (0x100..0x200).contains(&code).then_some((code & 0xff) as u8)
}

fn alert_meaning(alert: u8) -> &'static str {
    match alert {
        ALERT_BAD_CERTIFICATE => "it is malformed or carries another name.",
        45 => "it has expired or is not valid yet.",
        48 | 51 => "it was not signed by the cluster's CA.",
        43 => "it was issued for another purpose.",
        116 => "none was presented.",
        120 => "no common application protocol.",
        _ => "",
    }
}

fn text(reason: &[u8]) -> String {
    Untrusted::bytes(reason)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quinn::{ApplicationClose, ConnectionClose, TransportErrorCode};

    use super::*;

    /// Anybody can end a handshake with an alert of their own words, without any certificate.
    #[test]
    fn an_alert_with_a_line_break_and_an_escape_sequence_forges_no_line() {
        let reason =
            Bytes::from_static(b"bye\n2026-12-01 ERROR \x1b[31mthe disk has failed\x1b[0m");
        let alert = ConnectionClose {
            error_code: TransportErrorCode::crypto(42),
            frame_type: None,
            reason: reason.clone(),
        };
        let plain = ConnectionClose { error_code: TransportErrorCode::NO_ERROR, ..alert.clone() };
        let close = ApplicationClose { error_code: VarInt::from_u32(3), reason };
        for error in [
            ConnectionError::ConnectionClosed(alert),
            ConnectionError::ConnectionClosed(plain),
            ConnectionError::ApplicationClosed(close),
        ] {
            for told in [
                lost("127.0.0.1:1", &error).to_string(),
                dial_failure(NodeId(1), "a:1", &error).to_string(),
            ] {
                assert!(told.contains("ERROR"), "{told:?}");
                assert!(!told.contains(|c: char| c.is_control()), "{told:?}");
            }
        }
    }
}
