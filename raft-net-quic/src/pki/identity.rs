//! A certificate with its key and its CA, checked as a whole before anything is done with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::CertificateError;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;

use super::{PkiError, read, write_public, write_secret};
use crate::identity::{ClusterId, IdentityFault, PeerIdentity, identity_of};

/// Where an [`Identity`] lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityPaths {
    /// The certificate (and intermediates, if any), PEM.
    pub cert: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
    /// The cluster's CA certificate, PEM.
    pub ca: PathBuf,
}

impl IdentityPaths {
    /// The usual names: `<stem>.pem`, `<stem>.key` and `ca.pem` in `folder`.
    pub fn in_folder(folder: &Path, stem: &str) -> IdentityPaths {
        IdentityPaths {
            cert: folder.join(format!("{stem}.pem")),
            key: folder.join(format!("{stem}.key")),
            ca: folder.join(super::ClusterCa::CERT_FILE),
        }
    }
}

/// Who this process is: a certificate, its private key, and the CA that everybody else is checked against.
/// Exists only if the three belong together and are valid now.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

struct Inner {
    cert_pem: String,
    key_pem: String,
    ca_pem: String,
    chain: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    /// Loads and checks the three files.
    ///
    /// # Errors
    /// [`PkiError`] names the file and the remedy: missing, malformed, key and certificate of different origin, not signed by the
    /// CA, expired.
    pub fn load(paths: &IdentityPaths) -> Result<Identity, PkiError> {
        const REMEDY: &str = "if it is there, give this user the right to read it; if not, copy it from where the cluster was made, or issue another certificate with the cluster's CA";
        let cert_pem = read(&paths.cert, REMEDY)?;
        let key_pem = read(&paths.key, REMEDY)?;
        let ca_pem = read(&paths.ca, REMEDY)?;
        Self::check(cert_pem, key_pem, ca_pem, paths)
    }

    /// Writes the three files (the key with mode 0600). Their folders must exist.
    ///
    /// # Errors
    /// [`PkiError::Write`] names the file.
    pub fn save(&self, paths: &IdentityPaths) -> Result<(), PkiError> {
        write_secret(&paths.key, &self.inner.key_pem)?;
        write_public(&paths.cert, &self.inner.cert_pem)?;
        write_public(&paths.ca, &self.inner.ca_pem)
    }

    /// Whom the certificate names.
    ///
    /// # Errors
    /// [`IdentityFault`] if it names nobody of this cluster.
    pub fn names(&self, cluster: ClusterId) -> Result<PeerIdentity, IdentityFault> {
        match self.inner.chain.first() {
            Some(certificate) => identity_of(certificate, cluster),
            None => Err(IdentityFault::Nobody),
        }
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.inner.chain.clone()
    }

    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, String> {
        PrivateKeyDer::from_pem_slice(self.inner.key_pem.as_bytes())
            .map_err(|error| error.to_string())
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.inner.roots)
    }

    /// The same certificate, but another CA to check others against.
    #[cfg(test)]
    pub(crate) fn trusting(&self, ca_pem: &str) -> Identity {
        let Inner { cert_pem, key_pem, .. } = &*self.inner;
        Self::issued(cert_pem.clone(), key_pem.clone(), ca_pem.into()).unwrap()
    }

    /// What a CA of this process has just issued.
    pub(super) fn issued(
        cert_pem: String,
        key_pem: String,
        ca_pem: String,
    ) -> Result<Identity, PkiError> {
        let paths = IdentityPaths {
            cert: "<the new certificate>".into(),
            key: "<the new key>".into(),
            ca: "<the CA>".into(),
        };
        Self::parse(cert_pem, key_pem, ca_pem, &paths)
    }

    fn check(
        cert_pem: String,
        key_pem: String,
        ca_pem: String,
        paths: &IdentityPaths,
    ) -> Result<Identity, PkiError> {
        let identity = Self::parse(cert_pem, key_pem, ca_pem, paths)?;
        identity.check_chain(paths)?;
        Ok(identity)
    }

    fn parse(
        cert_pem: String,
        key_pem: String,
        ca_pem: String,
        paths: &IdentityPaths,
    ) -> Result<Identity, PkiError> {
        let chain = certificates(&cert_pem, &paths.cert)?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&ca_pem, &paths.ca)? {
            roots.add(certificate).map_err(|error| PkiError::Malformed {
                path: paths.ca.clone(),
                expected: "a CA certificate",
                reason: error.to_string(),
            })?;
        }
        PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| PkiError::Malformed {
            path: paths.key.clone(),
            expected: "a PEM private key",
            reason: error.to_string(),
        })?;
        if !chain.first().is_some_and(|certificate| key_fits(certificate, &key_pem)) {
            return Err(PkiError::KeyMismatch { cert: paths.cert.clone(), key: paths.key.clone() });
        }
        let roots = Arc::new(roots);
        Ok(Identity { inner: Arc::new(Inner { cert_pem, key_pem, ca_pem, chain, roots }) })
    }

    /// The same check that every peer will make, so that the operator learns of a mistake here, with the file's name.
    fn check_chain(&self, paths: &IdentityPaths) -> Result<(), PkiError> {
        let unusable = |reason: String| PkiError::Unusable { cert: paths.cert.clone(), reason };
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider())
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        let Some((certificate, intermediates)) = self.inner.chain.split_first() else {
            return Err(unusable("the file holds no certificate".into()));
        };
        match verifier.verify_client_cert(certificate, intermediates, UnixTime::now()) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InvalidCertificate(fault)) => Err(match fault {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    PkiError::NotSignedByCa { cert: paths.cert.clone(), ca: paths.ca.clone() }
                }
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => {
                    PkiError::NotValidNow { cert: paths.cert.clone(), reason: fault.to_string() }
                }
                other => unusable(other.to_string()),
            }),
            Err(error) => Err(unusable(error.to_string())),
        }
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Whether the private key is the one whose public half the certificate holds.
pub(super) fn key_fits(certificate: &CertificateDer<'static>, key_pem: &str) -> bool {
    let Ok(key) = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()) else { return false };
    CertifiedKey::from_der(vec![certificate.clone()], key, &provider()).is_ok()
}

fn certificates(pem: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let malformed = |reason: String| PkiError::Malformed {
        path: path.into(),
        expected: "a PEM certificate",
        reason,
    };
    let all = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| malformed(error.to_string()))?;
    if all.is_empty() {
        return Err(malformed("there is no CERTIFICATE block in it".into()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use raft_core::NodeId;

    use super::super::ClusterCa;
    use super::*;

    /// Valid files of node 1 in a folder of their own.
    fn files(ca: &ClusterCa) -> (tempfile::TempDir, IdentityPaths) {
        let folder = tempfile::tempdir().unwrap();
        let paths = IdentityPaths::in_folder(folder.path(), "node");
        ca.issue_node(NodeId(1), &["localhost".into(), "127.0.0.1".into()])
            .unwrap()
            .save(&paths)
            .unwrap();
        (folder, paths)
    }

    fn ca() -> ClusterCa {
        ClusterCa::generate(ClusterId::random().unwrap()).unwrap()
    }

    #[test]
    fn what_is_saved_loads_again_and_the_keys_are_secret() {
        let ca = ca();
        let (folder, paths) = files(&ca);
        let loaded = Identity::load(&paths).unwrap();
        assert_eq!(loaded.names(ca.cluster()), Ok(PeerIdentity::Node(NodeId(1))));
        ca.save(folder.path()).unwrap();
        let again = ClusterCa::load(folder.path()).unwrap();
        assert_eq!(again.cluster(), ca.cluster());
        again.issue_client("x").unwrap().save(&paths).unwrap();
        let client = Identity::load(&paths).unwrap();
        assert_eq!(client.names(ca.cluster()), Ok(PeerIdentity::Client { name: "x".into() }));
        #[cfg(unix)]
        for secret in [&paths.key, &folder.path().join(ClusterCa::KEY_FILE)] {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(secret).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", secret.display());
        }
    }

    #[test]
    fn each_defect_is_named_with_its_file() {
        let (ca, other) = (ca(), ca());
        let fault = |spoil: &dyn Fn(&IdentityPaths)| {
            let (_folder, paths) = files(&ca);
            spoil(&paths);
            Identity::load(&paths).unwrap_err()
        };
        let error = fault(&|paths| std::fs::remove_file(&paths.key).unwrap());
        assert!(matches!(&error, PkiError::Read { path, .. } if path.ends_with("node.key")));
        let error = fault(&|paths| std::fs::write(&paths.cert, "no PEM").unwrap());
        assert!(matches!(&error, PkiError::Malformed { path, .. } if path.ends_with("node.pem")));
        let error = fault(&|paths| std::fs::write(&paths.key, "no PEM").unwrap());
        assert!(matches!(&error, PkiError::Malformed { path, .. } if path.ends_with("node.key")));
        let error = fault(&|paths| std::fs::write(&paths.ca, "").unwrap());
        assert!(matches!(&error, PkiError::Malformed { path, .. } if path.ends_with("ca.pem")));
        let error = fault(&|paths| {
            let (_other, others) = files(&ca);
            std::fs::copy(&others.key, &paths.key).unwrap();
        });
        assert!(matches!(error, PkiError::KeyMismatch { .. }), "{error}");
        let error = fault(&|paths| std::fs::write(&paths.ca, other.cert_pem()).unwrap());
        assert!(matches!(error, PkiError::NotSignedByCa { .. }), "{error}");
        for years in [(2000, 2001), (2090, 2091)] {
            let error = fault(&|paths| {
                ca.issue_node_valid(NodeId(1), &[], years).unwrap().save(paths).unwrap();
            });
            assert!(matches!(error, PkiError::NotValidNow { .. }), "{error}");
        }
    }

    #[test]
    fn an_identity_can_not_be_smuggled_in_as_a_host() {
        let ca = ca();
        let name = crate::identity::node_dns_name(NodeId(2), ca.cluster());
        let error = ca.issue_node(NodeId(1), &[name]).unwrap_err();
        assert!(matches!(error, PkiError::BadHost { .. }), "{error}");
    }
}
