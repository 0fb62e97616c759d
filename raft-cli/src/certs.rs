//! `raft certs issue`: another certificate of a cluster, made where its authority's key lies. Not how certificates are made (that
//! is `raft_net_quic::pki`'s), nor who uses them.

use raft_core::NodeId;
use raft_net_quic::pki::{ClusterCa, IdentityPaths};

use crate::cli::IssueArgs;
use crate::exit::{Code, Failure, OrFail as _, Outcome};
use crate::output::say;

/// Runs the command.
pub(crate) fn issue(args: &IssueArgs) -> Outcome {
    let ca = ClusterCa::load(&args.dir)
        .or_fail(Code::Config, || "the cluster's authority cannot be used".to_owned())?;
    let (stem, issued) = match (&args.node, &args.client) {
        (Some(node), _) => (format!("node{node}"), ca.issue_node(NodeId(*node), &args.host)),
        (None, Some(name)) => (name.clone(), ca.issue_client(name)),
        (None, None) => return Err(Failure::new(Code::Config, "give --node or --client")),
    };
    let is_plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_');
    if stem.is_empty() || stem == "ca" || !stem.chars().all(is_plain) {
        let message = format!(
            "{stem:?} cannot name a certificate: use letters, digits, - and _, and not \"ca\""
        );
        return Err(Failure::new(Code::Config, message));
    }
    let paths = IdentityPaths::in_folder(&args.dir, &stem);
    if !args.renew && (paths.cert.exists() || paths.key.exists()) {
        let message = format!(
            "{} or its key is there already; nothing was changed. Say --renew to replace both",
            paths.cert.display()
        );
        return Err(Failure::new(Code::Config, message));
    }
    let failed = || format!("the certificate of {stem} cannot be issued");
    issued.or_fail(Code::Config, failed)?.save(&paths).or_fail(Code::Config, failed)?;
    say(format_args!("issued {} and {}", paths.cert.display(), paths.key.display()))
}
