//! A cluster's own certificate authority and the certificates that it issues, as PEM files. Nothing of the outside world's PKI is
//! involved: a cluster trusts its own CA and nobody else.
//!
//! Whoever holds the CA's key can admit nodes and clients. It is needed to issue certificates only, never by a running node.

mod ca;
mod identity;

use std::path::{Path, PathBuf};

pub use ca::ClusterCa;
#[cfg(test)]
pub(crate) use ca::Usage;
pub(crate) use identity::provider;
pub use identity::{Identity, IdentityPaths};

/// What went wrong with keys and certificates: which file, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A file could not be read.
    #[error("can not read {path}: {source}; {remedy}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A file could not be written.
    #[error("can not write {path}: {source}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error(
        "{path} does not hold {expected}: {reason}; issue it again, or restore it from a backup"
    )]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The key belongs to another certificate.
    #[error(
        "the key in {key} does not belong to the certificate in {cert}: use the two files that were issued together"
    )]
    KeyMismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The certificate is not this CA's.
    #[error(
        "the certificate in {cert} was not signed by the CA in {ca}: use the CA file of the cluster that issued it, or issue a new one"
    )]
    NotSignedByCa {
        /// The certificate's file.
        cert: PathBuf,
        /// The CA's file.
        ca: PathBuf,
    },
    /// The certificate is not valid at this time.
    #[error(
        "the certificate in {cert} is not valid now ({reason}): check this machine's clock, or issue a new one"
    )]
    NotValidNow {
        /// The certificate's file.
        cert: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The certificate can not be used for other reasons.
    #[error("the certificate in {cert} can not be used: {reason}; issue a new one")]
    Unusable {
        /// The certificate's file.
        cert: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A host name that can not stand in a certificate.
    #[error("{host:?} can not stand in a certificate: {reason}")]
    BadHost {
        /// The name.
        host: String,
        /// Why.
        reason: String,
    },
    /// Making a key or a certificate failed.
    #[error("can not make {what}: {reason}")]
    Generate {
        /// What was to be made.
        what: &'static str,
        /// Why it failed.
        reason: String,
    },
}

fn read(path: &Path, remedy: &'static str) -> Result<String, PkiError> {
    std::fs::read_to_string(path).map_err(|source| PkiError::Read {
        path: path.into(),
        source,
        remedy,
    })
}

/// Writes a file for everybody to read; one that exists is replaced.
fn write_public(path: &Path, text: &str) -> Result<(), PkiError> {
    write_with_mode(path, text, 0o644)
}

/// Writes a file for its owner only.
fn write_secret(path: &Path, text: &str) -> Result<(), PkiError> {
    write_with_mode(path, text, 0o600)
}

fn write_with_mode(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    use std::io::Write;
    let failed = |source| PkiError::Write { path: path.into(), source };
    // The mode must hold from the first byte on, so an old file with other rights is not reused.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}
