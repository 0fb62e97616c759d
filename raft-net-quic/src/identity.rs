//! Who somebody is: the names in a certificate, and how they are read. Not about keys, chains or files (see `pki`), nor about
//! whether the chain holds (TLS checks that before anything here is asked).

use std::fmt;
use std::str::FromStr;

use raft_core::NodeId;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Names a cluster for ever: 128 random bits, drawn once when its CA is made. It stands in every certificate, so that members of
/// two clusters that share a network, or even a CA, never mistake each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

/// A text that is not a [`ClusterId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a cluster id: 32 hexadecimal digits are expected (hyphens between them are allowed)"
)]
pub struct BadClusterId {
    /// The text.
    pub text: String,
}

impl FromStr for ClusterId {
    type Err = BadClusterId;

    fn from_str(text: &str) -> Result<ClusterId, BadClusterId> {
        let bad = || BadClusterId { text: text.chars().take(64).collect() };
        let digits: Vec<u8> = text
            .bytes()
            .filter(|byte| *byte != b'-')
            .map(|byte| char::from(byte).to_digit(16).map(|digit| digit as u8).ok_or_else(bad))
            .collect::<Result<_, _>>()?;
        if digits.len() != 32 {
            return Err(bad());
        }
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(ClusterId(id))
    }
}

/// The DNS name that a node's certificate carries.
pub(crate) fn node_dns_name(node: NodeId, cluster: ClusterId) -> String {
    format!("node-{node}.{cluster}.raft")
}

/// The DNS name that a client's certificate carries.
pub(crate) fn client_dns_name(cluster: ClusterId) -> String {
    format!("client.{cluster}.raft")
}

/// The DNS name that a cluster's CA certificate carries.
pub(crate) fn ca_dns_name(cluster: ClusterId) -> String {
    format!("ca.{cluster}.raft")
}

/// Whom a certificate names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerIdentity {
    /// A node of the cluster.
    Node(NodeId),
    /// A client of the cluster.
    Client {
        /// What the operator called it when the certificate was issued; for logs, not for decisions.
        name: String,
    },
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerIdentity::Node(node) => write!(f, "node {node}"),
            PeerIdentity::Client { name } => write!(f, "client {name:?}"),
        }
    }
}

/// Why a certificate, though its chain holds, names nobody of this cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityFault {
    /// The bytes are not a certificate.
    #[error("the certificate can not be read: {reason}")]
    Malformed {
        /// What the parser says.
        reason: String,
    },
    /// None of its names is one of ours.
    #[error(
        "the certificate names neither a node nor a client of a cluster (names like node-1.<cluster>.raft or client.<cluster>.raft \
         are expected): issue it with this cluster's CA"
    )]
    Nobody,
    /// It belongs to another cluster.
    #[error("the certificate belongs to cluster {found}, not to {expected}")]
    OtherCluster {
        /// The cluster in the certificate.
        found: ClusterId,
        /// The cluster asked for.
        expected: ClusterId,
    },
    /// It names several: which one is meant can not be told.
    #[error("the certificate names both {first} and {second}: issue one certificate for each")]
    Ambiguous {
        /// One of them.
        first: PeerIdentity,
        /// Another.
        second: PeerIdentity,
    },
}

/// Reads whom a certificate names, of which cluster. The chain must have been verified before the answer is believed.
pub(crate) fn identity_of(
    certificate: &CertificateDer<'_>,
    cluster: ClusterId,
) -> Result<PeerIdentity, IdentityFault> {
    let malformed = |reason: String| IdentityFault::Malformed { reason };
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| malformed(error.to_string()))?;
    let name =
        parsed.subject().iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or_default();
    let mut found: Option<PeerIdentity> = None;
    let mut other = None;
    for dns_name in dns_names(&parsed).map_err(malformed)? {
        let Some((who, of)) = parse_name(dns_name, name) else { continue };
        if of != cluster {
            other = Some(of);
            continue;
        }
        match found {
            Some(first) if first != who => {
                return Err(IdentityFault::Ambiguous { first, second: who });
            }
            _ => found = Some(who),
        }
    }
    match (found, other) {
        (Some(who), _) => Ok(who),
        (None, Some(found)) => Err(IdentityFault::OtherCluster { found, expected: cluster }),
        (None, None) => Err(IdentityFault::Nobody),
    }
}

/// The cluster that a CA's certificate was made for.
pub(crate) fn cluster_of_ca(certificate: &CertificateDer<'_>) -> Result<ClusterId, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    dns_names(&parsed)?
        .find_map(|name| {
            let cluster = name.strip_prefix("ca.")?.strip_suffix(".raft")?;
            parse_cluster_label(cluster)
        })
        .ok_or_else(|| "it names no cluster (a name like ca.<cluster>.raft is expected)".into())
}

fn dns_names<'a>(
    certificate: &'a X509Certificate<'_>,
) -> Result<impl Iterator<Item = &'a str>, String> {
    let names = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
    Ok(names.into_iter().flat_map(|names| &names.value.general_names).filter_map(
        |name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        },
    ))
}

/// Exactly the forms that `pki` issues: no upper case, no leading zeros, so that one identity has one spelling.
fn parse_name(dns_name: &str, common_name: &str) -> Option<(PeerIdentity, ClusterId)> {
    let (who, cluster) = dns_name.strip_suffix(".raft")?.split_once('.')?;
    let cluster = parse_cluster_label(cluster)?;
    if who == "client" {
        let name = common_name.chars().take(NAME_CHARS_MAX).collect();
        return Some((PeerIdentity::Client { name }, cluster));
    }
    let digits = who.strip_prefix("node-")?;
    let id: u64 = digits.parse().ok()?;
    (id.to_string() == digits).then_some((PeerIdentity::Node(NodeId(id)), cluster))
}

fn parse_cluster_label(label: &str) -> Option<ClusterId> {
    let cluster: ClusterId = label.parse().ok()?;
    (cluster.to_string() == label).then_some(cluster)
}

/// A client's name is cut here when it is read; certificates may hold anything.
pub(crate) const NAME_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId([0xab; 16]);

    #[test]
    fn a_cluster_id_reads_back_what_it_prints() {
        assert_eq!(CLUSTER.to_string().parse(), Ok(CLUSTER));
        assert_eq!("abababab-abab-abab-abab-abababababab".parse(), Ok(CLUSTER));
        for bad in ["", "ab", "zz", &"ab".repeat(17), "é"] {
            assert!(bad.parse::<ClusterId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_identity_has_exactly_one_spelling() {
        let of = |name: &str| parse_name(name, "x");
        assert_eq!(
            of(&node_dns_name(NodeId(7), CLUSTER)),
            Some((PeerIdentity::Node(NodeId(7)), CLUSTER))
        );
        assert_eq!(
            of(&client_dns_name(CLUSTER)),
            Some((PeerIdentity::Client { name: "x".into() }, CLUSTER))
        );
        for bad in [
            format!("node-07.{CLUSTER}.raft"),
            format!("node-+7.{CLUSTER}.raft"),
            format!("node-.{CLUSTER}.raft"),
            format!("node-99999999999999999999.{CLUSTER}.raft"),
            format!("node-7.{CLUSTER}.raft.example"),
            format!("x.node-7.{CLUSTER}.raft"),
            format!("node-7.{}.raft", CLUSTER.to_string().to_uppercase()),
            ca_dns_name(CLUSTER),
        ] {
            assert_eq!(of(&bad), None, "{bad}");
        }
    }
}
