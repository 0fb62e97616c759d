//! What one bad client can do to a cluster, one attack at a time. For measuring what the others still get meanwhile:
//!
//! ```console
//! $ cargo run --release -p raft-kv --example flood -- --config client.toml --attack idle-connections --seconds 10
//! ```
//!
//! Only for clusters of one's own. `raft-kv/tests/flood.rs` runs the same attacks, in the small, against limits in the small.

mod attacks;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use attacks::{Attack, Target};
use raft_core::NodeId;
use raft_net_quic::pki::{Identity, IdentityPaths};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (mut config, mut attack, mut seconds, mut node) = (None, None, 10, None);
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--config" => config = Some(value),
            "--attack" => attack = Some(Attack::parse(&value)?),
            "--seconds" => seconds = value.parse().context("--seconds")?,
            "--node" => node = Some(NodeId(value.parse().context("--node")?)),
            _ => anyhow::bail!(
                "usage: flood --config client.toml --attack NAME [--node N] [--seconds S]; attacks: {}",
                Attack::names()
            ),
        }
    }
    let config = config.context("--config is missing")?;
    let attack = attack.with_context(|| format!("--attack is missing: {}", Attack::names()))?;
    let mut target = target(Path::new(&config))?;
    if let Some(node) = node {
        target.nodes.retain(|id, _| *id == node);
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let told = runtime.block_on(attacks::run(attack, &target, Duration::from_secs(seconds)))?;
    println!("{told}");
    runtime.shutdown_background();
    Ok(())
}

/// Reads what `raft init` writes for clients.
fn target(path: &Path) -> anyhow::Result<Target> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let file: toml::Table = text.parse()?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let tls = file.get("tls").and_then(toml::Value::as_table).context("[tls] is missing")?;
    let pem = |name: &str| -> anyhow::Result<_> {
        let value = tls.get(name).and_then(toml::Value::as_str);
        Ok(folder.join(value.with_context(|| format!("tls.{name} is missing"))?))
    };
    let paths = IdentityPaths { cert: pem("certificate")?, key: pem("key")?, ca: pem("ca")? };
    let cluster =
        file.get("cluster").and_then(toml::Value::as_str).context("cluster is missing")?;
    let nodes = file.get("nodes").and_then(toml::Value::as_table).context("[nodes] is missing")?;
    let mut all = BTreeMap::new();
    for (node, address) in nodes {
        let address = address.as_str().context("an address is no text")?;
        all.insert(NodeId(node.parse()?), address.to_owned());
    }
    Ok(Target { identity: Identity::load(&paths)?, cluster: cluster.parse()?, nodes: all })
}
