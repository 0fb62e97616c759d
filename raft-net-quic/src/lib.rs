//! `raft_node`'s [`Transport`](raft_node::Transport) over QUIC with mutual TLS, and a request/response layer ("services") on
//! the same endpoint.
//!
//! One [`Endpoint`] owns one UDP socket. Nodes dial each other through it ([`Endpoint::transport`]), and clients open streams of
//! frames on it ([`Endpoint::accept_service`] here, [`ClientEndpoint::connect`] there). Who somebody is stands in the
//! certificate ([`pki`]); nothing that is merely claimed is believed. The bytes on the wire are described in
//! `docs/wire-format.md` in the project's repository.
//!
//! This crate knows nothing of the protocol's rules, of the log store, or of what services say to each other.

mod accept;
#[cfg(test)]
mod accept_tests;
mod accounts;
mod backoff;
mod budget;
mod client;
mod config;
mod door;
mod endpoint;
mod error;
mod framing;
mod hello;
mod identity;
mod link;
pub mod pki;
mod queue;
mod reset;
#[cfg(test)]
mod security_tests;
mod service;
#[cfg(unix)]
mod socket;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;
mod transport;
mod tuning;
mod untrusted;
pub mod wire;

pub use accounts::{Load, Owner};
pub use budget::{Budget, BudgetLimits, Held};
pub use client::ClientEndpoint;
pub use config::{EndpointConfig, Limits, PeerAddress, QueueLimits};
pub use endpoint::Endpoint;
pub use error::{CloseCode, NetError};
pub use identity::{BadClusterId, ClusterId, IdentityFault, PeerIdentity};
pub use service::{FrameReader, FrameWriter, HeldFrame, ServiceStream};
pub use transport::{Peers, QuicTransport};
pub use untrusted::{Throttle, Untrusted};
