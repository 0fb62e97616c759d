//! From an identity to quinn's TLS configurations: TLS 1.3 only, both sides authenticated, our own ALPN. Replaceable as a whole.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, ServerConfig, TransportConfig};
use rustls::server::WebPkiClientVerifier;

use crate::error::NetError;
use crate::pki::Identity;
use crate::pki::provider;

/// The application protocol. A change that old versions could not even say hello through gets a new name.
const ALPN: &[u8] = b"raft/1";

/// How many first packets may wait to be looked at; they are within a moment.
const INCOMING_MAX: usize = 1024;
/// What may arrive of a connection before it is accepted: a first flight or two.
const INCOMING_BYTES: u64 = 64 << 10;

/// The configuration of the dialing side.
pub(crate) fn client(
    identity: &Identity,
    transport: Arc<TransportConfig>,
) -> Result<ClientConfig, NetError> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| failed(&error))?
        .with_root_certificates(identity.roots())
        .with_client_auth_cert(identity.chain(), identity.key().map_err(|error| failed(&error))?)
        .map_err(|error| failed(&error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Every connection shows its certificate anew, so that a replaced one takes effect.
    config.resumption = rustls::client::Resumption::disabled();
    let config = QuicClientConfig::try_from(config).map_err(|error| failed(&error))?;
    let mut client = ClientConfig::new(Arc::new(config));
    client.transport_config(transport);
    Ok(client)
}

/// The configuration of the accepting side.
pub(crate) fn server(
    identity: &Identity,
    transport: Arc<TransportConfig>,
) -> Result<ServerConfig, NetError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(identity.roots(), provider())
        .build()
        .map_err(|error| failed(&error))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| failed(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain(), identity.key().map_err(|error| failed(&error))?)
        .map_err(|error| failed(&error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    let config = QuicServerConfig::try_from(config).map_err(|error| failed(&error))?;
    let mut server = ServerConfig::with_crypto(Arc::new(config));
    server
        .transport_config(transport)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES * 64);
    Ok(server)
}

fn failed(error: &dyn std::fmt::Display) -> NetError {
    NetError::Tls { reason: error.to_string() }
}
