//! The keys with which a node tells others that a connection is dead: QUIC's stateless reset (RFC 9000, §10.3). They survive a restart,
//! so that a process that was killed and started again ends the connections of its predecessor at the first packet that arrives
//! on one of them, and nobody has to wait for a time-out.

use std::sync::Arc;
use std::time::Duration;

use quinn::EndpointConfig;
use quinn_proto::HashedConnectionIdGenerator;
use raft_core::NodeId;
use ring::{hkdf, hmac};

use crate::error::NetError;
use crate::identity::ClusterId;
use crate::pki::Identity;

/// How far apart resets are at least. Connection ids are recognized by a hash, so that nonsense is not answered; what remains is
/// the number of old connections that a restarted node can end in a second.
const RESETS_APART: Duration = Duration::from_millis(1);

/// A node's keys: the same at each start with the same certificate's key, and different for any two nodes.
#[derive(Clone)]
pub(crate) struct ResetKeys {
    tokens: hmac::Key,
    connection_ids: u64,
}

impl ResetKeys {
    /// Derives them from the private key. Nobody can infer anything about that key from them, nor forge a reset without it.
    ///
    /// # Errors
    /// [`NetError::Tls`] if the key cannot be read.
    pub(crate) fn derive(
        identity: &Identity,
        me: NodeId,
        cluster: ClusterId,
    ) -> Result<ResetKeys, NetError> {
        let failed = |reason: String| NetError::Tls { reason };
        let secret = identity.key().map_err(failed)?;
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"raft-net-quic stateless reset");
        let secret = salt.extract(secret.secret_der());
        let node = me.0.to_le_bytes();
        let unusable = |_| failed("no key for resets can be derived".into());
        let info = [&b"tokens"[..], &node, &cluster.0];
        let tokens = secret.expand(&info, hmac::HMAC_SHA256).map_err(unusable)?.into();
        let info = [&b"connection ids"[..], &node, &cluster.0];
        let mut id_key = [0; 8];
        let expanded = secret.expand(&info, EightBytes).map_err(unusable)?;
        expanded.fill(&mut id_key).map_err(unusable)?;
        Ok(ResetKeys { tokens, connection_ids: u64::from_le_bytes(id_key) })
    }

    /// Makes an endpoint use them.
    pub(crate) fn apply_to(self, config: &mut EndpointConfig) {
        let ResetKeys { tokens, connection_ids } = self;
        config.reset_key(Arc::new(tokens)).min_reset_interval(RESETS_APART);
        config
            .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(connection_ids)));
    }
}

/// The length of the key for connection ids, as `hkdf` wants it.
struct EightBytes;

impl hkdf::KeyType for EightBytes {
    fn len(&self) -> usize {
        8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::ClusterCa;

    fn fingerprint(identity: &Identity, node: u64, cluster: ClusterId) -> (Vec<u8>, u64) {
        let keys = ResetKeys::derive(identity, NodeId(node), cluster).unwrap();
        (hmac::sign(&keys.tokens, b"a connection").as_ref().to_vec(), keys.connection_ids)
    }

    #[test]
    fn keys_survive_a_restart_and_belong_to_one_node() {
        let cluster = ClusterId([5; 16]);
        let ca = ClusterCa::generate(cluster).unwrap();
        let identity = ca.issue_node(NodeId(1), &[]).unwrap();
        let keys = fingerprint(&identity, 1, cluster);
        assert_eq!(keys, fingerprint(&identity, 1, cluster));
        let others = [
            fingerprint(&identity, 2, cluster),
            fingerprint(&identity, 1, ClusterId([6; 16])),
            fingerprint(&ca.issue_node(NodeId(1), &[]).unwrap(), 1, cluster),
        ];
        for other in others {
            assert_ne!(keys.0, other.0);
            assert_ne!(keys.1, other.1);
        }
    }
}
