//! From a client's configuration to a [`Client`], and from its errors to exit codes. The only place that knows both.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use raft_core::NodeId;
use raft_kv::client::{self, Client, ClientError};
use raft_net_quic::ClusterId;
use raft_net_quic::pki::{Identity, IdentityPaths};

use crate::cli::ClientArgs;
use crate::config::{ClientConfig, Tls};
use crate::exit::{Code, Failure, OrFail as _, Outcome};

/// The cluster id as the configuration writes it.
pub(crate) fn cluster_id(text: &str) -> Outcome<ClusterId> {
    text.parse().or_fail(Code::Config, || "`cluster` can not be read".to_owned())
}

/// Loads the three PEM files.
pub(crate) fn identity(tls: &Tls) -> Outcome<Identity> {
    let paths =
        IdentityPaths { cert: tls.certificate.clone(), key: tls.key.clone(), ca: tls.ca.clone() };
    check_private(&tls.key)?;
    Identity::load(&paths).or_fail(Code::Config, || "the credentials can not be used".to_owned())
}

/// Refuses a key that other users can read or change, as ssh does: whoever has it is this node or client. A group may read a key that
/// belongs to root, as keys are handed to services.
fn check_private(key: &Path) -> Outcome {
    let Some(found) = fs::metadata(key).ok().filter(fs::Metadata::is_file) else {
        // Whoever reads it says what is wrong.
        return Ok(());
    };
    let mode = found.mode() & 0o777;
    let for_others = if found.uid() == 0 { 0o037 } else { 0o077 };
    if mode & for_others == 0 {
        return Ok(());
    }
    let key = key.display();
    Err(Failure::new(
        Code::Config,
        format!(
            "other users have rights on the key {key} (its mode is {mode:04o}): take them away with `chmod 600 {key}`, and if others may have read it, replace it"
        ),
    ))
}

/// Opens the client that the command asks for.
pub(crate) fn open(args: &ClientArgs) -> Outcome<Client> {
    let config = ClientConfig::load(&args.config)?;
    client(&config, args.timeout_ms.map(Duration::from_millis))
}

/// Opens a client; `timeout` overrides the file's.
pub(crate) fn client(config: &ClientConfig, timeout: Option<Duration>) -> Outcome<Client> {
    let cluster = cluster_id(&config.cluster)?;
    let nodes = config.node_addresses().into_iter().map(|(node, address)| (NodeId(node), address));
    let mut settings = client::ClientConfig::new(identity(&config.tls)?, cluster, nodes.collect());
    settings.request_timeout = timeout.unwrap_or(config.timeout());
    Client::new(settings).map_err(|error| failure(error, "the client can not start"))
}

/// Gives a client's error its exit code; `doing` says what it was about.
#[expect(clippy::needless_pass_by_value, reason = "callers have no more use for it")]
pub(crate) fn failure(error: ClientError, doing: &str) -> Failure {
    let code = match &error {
        ClientError::NoNodes
        | ClientError::UnknownNode { .. }
        | ClientError::Credentials { .. } => Code::Config,
        ClientError::Limit(_) => Code::Input,
        ClientError::Network(error) if error.is_credentials() => Code::Config,
        ClientError::Network(_) | ClientError::Timeout { .. } | ClientError::OutcomeUnknown => {
            Code::Unavailable
        }
        _ => Code::Failed,
    };
    let mut doing = doing.to_owned();
    if code == Code::Unavailable {
        doing.push_str(" (is a majority of the nodes running? `raft status` shows it)");
    }
    // Its words may be another process's, which must not make lines of their own.
    let told = crate::text::shown(&error.to_string());
    Failure { code, error: anyhow::Error::msg(told).context(doing) }
}
