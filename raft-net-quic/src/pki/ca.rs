//! The certificate authority of one cluster: makes, saves and loads it, and issues certificates.

use std::path::Path;

use raft_core::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{Identity, PkiError, read, write_public, write_secret};
use crate::identity::{
    ClusterId, NAME_CHARS_MAX, ca_dns_name, client_dns_name, cluster_of_ca, node_dns_name,
};

/// The years between which certificates are valid, when nothing else is asked for. They are wide, because an expired certificate
/// takes a cluster down; who wants a key to end earlier makes a new CA.
const VALID_YEARS: (i32, i32) = (2020, 2120);

/// A cluster's certificate authority, with its private key.
pub struct ClusterCa {
    cluster: ClusterId,
    cert_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for ClusterCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterCa").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl ClusterCa {
    /// The file of the CA's certificate in its folder.
    pub const CERT_FILE: &'static str = "ca.pem";
    /// The file of the CA's private key in its folder.
    pub const KEY_FILE: &'static str = "ca.key";

    /// Makes a CA for a cluster.
    ///
    /// # Errors
    /// [`PkiError::Generate`] if the system's randomness fails.
    pub fn generate(cluster: ClusterId) -> Result<ClusterCa, PkiError> {
        let failed = |error: rcgen::Error| generate_failed("the CA", &error);
        let key = KeyPair::generate().map_err(failed)?;
        let mut params =
            params(vec![ca_dns_name(cluster)], &format!("raft CA {cluster}"), VALID_YEARS)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert_pem = params.self_signed(&key).map_err(failed)?.pem();
        let key_pem = key.serialize_pem();
        Ok(ClusterCa { cluster, cert_pem, key_pem, issuer: Issuer::new(params, key) })
    }

    /// Writes the certificate and the key (mode 0600) into `folder`, which must exist.
    ///
    /// # Errors
    /// [`PkiError::Write`] names the file.
    pub fn save(&self, folder: &Path) -> Result<(), PkiError> {
        write_secret(&folder.join(Self::KEY_FILE), &self.key_pem)?;
        write_public(&folder.join(Self::CERT_FILE), &self.cert_pem)
    }

    /// Loads what [`ClusterCa::save`] wrote.
    ///
    /// # Errors
    /// [`PkiError`] names the file and the remedy.
    pub fn load(folder: &Path) -> Result<ClusterCa, PkiError> {
        const REMEDY: &str =
            "the CA is made together with the cluster, and lies where that was done";
        let (cert_path, key_path) = (folder.join(Self::CERT_FILE), folder.join(Self::KEY_FILE));
        let cert_pem = read(&cert_path, REMEDY)?;
        let key_pem = read(&key_path, REMEDY)?;
        let malformed = |expected, reason: String| {
            move |path: &Path| PkiError::Malformed { path: path.into(), expected, reason }
        };
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes())
            .map_err(|error| malformed("a PEM certificate", error.to_string())(&cert_path))?;
        let cluster = cluster_of_ca(&der)
            .map_err(|reason| malformed("a cluster's CA certificate", reason)(&cert_path))?;
        let key = KeyPair::from_pem(&key_pem)
            .map_err(|error| malformed("a PEM private key", error.to_string())(&key_path))?;
        if !super::identity::key_fits(&der, &key_pem) {
            return Err(PkiError::KeyMismatch { cert: cert_path, key: key_path });
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|error| malformed("a CA certificate", error.to_string())(&cert_path))?;
        Ok(ClusterCa { cluster, cert_pem, key_pem, issuer })
    }

    /// Which cluster it is the CA of.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The CA's certificate, as every node and client needs it.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Issues a node's certificate. `hosts` (names or IP addresses, may be empty) are added for other tools' sake; this crate
    /// recognizes a node by its id alone.
    ///
    /// # Errors
    /// [`PkiError::BadHost`] if a host can not stand in a certificate.
    pub fn issue_node(&self, node: NodeId, hosts: &[String]) -> Result<Identity, PkiError> {
        self.issue_node_valid(node, hosts, VALID_YEARS)
    }

    /// Issues a client's certificate. `name` tells clients apart in logs; it gives no rights.
    ///
    /// # Errors
    /// [`PkiError::Generate`] if the system's randomness fails.
    pub fn issue_client(&self, name: &str) -> Result<Identity, PkiError> {
        let name: String = name.chars().take(NAME_CHARS_MAX).collect();
        let mut params = params(vec![client_dns_name(self.cluster)], &name, VALID_YEARS)?;
        // No server purpose: a client's certificate must not pass for a node's, whatever its names.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    pub(super) fn issue_node_valid(
        &self,
        node: NodeId,
        hosts: &[String],
        years: (i32, i32),
    ) -> Result<Identity, PkiError> {
        let mut names = vec![node_dns_name(node, self.cluster)];
        for host in hosts {
            // What the identity is read from is not the operator's to choose.
            if host.to_ascii_lowercase().ends_with(".raft") {
                return Err(PkiError::BadHost {
                    host: host.clone(),
                    reason: "names under .raft are reserved for identities".into(),
                });
            }
            names.push(host.clone());
        }
        let mut params = params(names, &format!("raft node {node}"), years)?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    /// A chain and its key that no honest authority would issue: other years, or another usage.
    #[cfg(test)]
    pub(crate) fn issue_odd(
        &self,
        node: NodeId,
        years: (i32, i32),
        usage: Usage,
    ) -> (CertificateDer<'static>, rustls::pki_types::PrivateKeyDer<'static>) {
        let names = vec![node_dns_name(node, self.cluster)];
        let mut params = params(names, "odd", years).unwrap();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match usage {
            Usage::Both => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Usage::ServerOnly => vec![ExtendedKeyUsagePurpose::ServerAuth],
        };
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        (cert.der().clone(), key.into())
    }

    fn issue(&self, mut params: CertificateParams) -> Result<Identity, PkiError> {
        let failed = |error: rcgen::Error| generate_failed("a certificate", &error);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Identity::issued(cert.pem(), key.serialize_pem(), self.cert_pem.clone())
    }
}

/// What an odd certificate is for.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Usage {
    Both,
    ServerOnly,
}

fn params(
    names: Vec<String>,
    common_name: &str,
    years: (i32, i32),
) -> Result<CertificateParams, PkiError> {
    let shown = names.last().cloned().unwrap_or_default();
    let mut params = CertificateParams::new(names)
        .map_err(|error| PkiError::BadHost { host: shown, reason: error.to_string() })?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    Ok(params)
}

fn generate_failed(what: &'static str, error: &rcgen::Error) -> PkiError {
    PkiError::Generate { what, reason: error.to_string() }
}

impl ClusterId {
    /// Draws a new id from the system's randomness.
    ///
    /// # Errors
    /// [`PkiError::Generate`] if that fails.
    pub fn random() -> Result<ClusterId, PkiError> {
        let mut id = [0; 16];
        rustls::crypto::ring::default_provider().secure_random.fill(&mut id).map_err(|_| {
            PkiError::Generate {
                what: "a cluster id",
                reason: "the system's randomness failed".into(),
            }
        })?;
        Ok(ClusterId(id))
    }
}
