//! Who may depend on whom: the table of ARCHITECTURE.md as data, checked against `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What one crate of the workspace may depend on (in builds; tests may use more).
struct Layer {
    name: &'static str,
    /// Crates of this workspace.
    ours: &'static [&'static str],
    /// Those that must sit behind a feature.
    optional: &'static [&'static str],
    /// Those of `ours` that are taken without any of their features.
    bare: &'static [&'static str],
    /// Crates of others: exactly these, if given.
    others: Option<&'static [&'static str]>,
    /// Crates of others that it must not have.
    never: &'static [&'static str],
}

const LAYERS: &[Layer] = &[
    Layer {
        name: "raft-core",
        ours: &[],
        optional: &[],
        bare: &[],
        others: Some(&["bytes", "thiserror"]),
        never: &[],
    },
    Layer {
        name: "raft-sim",
        // Of the key-value machine nothing but its pure state, of the driver nothing but the rules of its order. Some seeds run with the real log store.
        ours: &["raft-core", "raft-kv", "raft-node", "raft-storage-redb"],
        optional: &["raft-storage-redb"],
        bare: &["raft-kv", "raft-node"],
        // Traces are JSON lines, plan files are TOML; damaged chunks of snapshots may have a checksum that fits; the books of a run are hash tables that are equal in
        // every run.
        others: Some(&[
            "bytes",
            "rustc-hash",
            "serde",
            "serde_json",
            "smallvec",
            "thiserror",
            "toml",
            "xxhash-rust",
        ]),
        never: &[],
    },
    Layer {
        name: "raft-node",
        ours: &["raft-core"],
        // What only the driver needs: its rules and its traits do without.
        optional: &["getrandom", "tokio", "tracing"],
        bare: &[],
        others: None,
        never: &["quinn", "rustls", "rkyv", "redb", "clap", "serde"],
    },
    Layer {
        name: "raft-net-quic",
        ours: &["raft-core", "raft-node"],
        optional: &[],
        bare: &[],
        others: None,
        never: &["redb", "clap", "serde"],
    },
    Layer {
        name: "raft-storage-redb",
        ours: &["raft-core", "raft-node"],
        optional: &[],
        bare: &["raft-node"],
        others: None,
        never: &["quinn", "rustls", "rkyv", "clap", "serde", "tokio"],
    },
    Layer {
        name: "raft-kv",
        ours: &["raft-core", "raft-node", "raft-net-quic"],
        optional: &["raft-node", "raft-net-quic"],
        bare: &[],
        others: None,
        never: &["quinn", "rustls", "rkyv", "clap"],
    },
    Layer {
        name: "raft-cli",
        ours: &["raft-core", "raft-node", "raft-net-quic", "raft-storage-redb", "raft-kv"],
        optional: &[],
        bare: &[],
        others: None,
        never: &["quinn", "rustls", "rkyv", "redb"],
    },
    Layer {
        name: "raft-chaos",
        // The client as users have it, and the simulator's judge of histories. The nodes are processes.
        ours: &["raft-core", "raft-kv", "raft-net-quic", "raft-sim"],
        optional: &[],
        bare: &[],
        others: None,
        never: &["quinn", "rustls", "rkyv", "redb"],
    },
    Layer {
        name: "xtask",
        ours: &["raft-core", "raft-sim"],
        optional: &[],
        bare: &[],
        others: None,
        never: &["tokio", "redb", "quinn"],
    },
    Layer {
        name: "benches",
        ours: &["raft-core"],
        optional: &[],
        bare: &[],
        others: Some(&["bytes"]),
        never: &[],
    },
];

/// Everything that `raft-core` may pull in, however indirectly: its two dependencies, and what the derive macro of one is made of.
const CORE_TREE: &[&str] =
    &["bytes", "thiserror", "thiserror-impl", "proc-macro2", "quote", "syn", "unicode-ident"];

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

/// Checks `cargo metadata` against the table. `msrv` is ours.
pub(crate) fn check(metadata: &Value, msrv: &str) -> Vec<String> {
    let members: BTreeSet<&str> =
        list(metadata, "workspace_members").filter_map(Value::as_str).collect();
    let mut problems = Vec::new();
    for package in list(metadata, "packages") {
        if members.contains(text(package, "id")) {
            problems.extend(check_member(package));
        }
        let wants = text(package, "rust_version");
        if version(wants) > version(msrv) {
            problems.push(format!(
                "{} {} needs Rust {wants}; ours is {msrv}: hold it back, or raise ours and say so in CHANGELOG.md",
                text(package, "name"),
                text(package, "version")
            ));
        }
    }
    problems.extend(check_core_tree(metadata));
    problems
}

/// A Rust version as numbers that compare.
fn version(text: &str) -> (u64, u64, u64) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

fn check_member(package: &Value) -> Vec<String> {
    let name = text(package, "name");
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
        return vec![format!(
            "{name} is no layer: add it to xtask/src/tidy/layers.rs and to ARCHITECTURE.md"
        )];
    };
    let mut problems = Vec::new();
    for dependency in list(package, "dependencies").filter(|d| d["kind"].is_null()) {
        let wanted = text(dependency, "name");
        let is_ours = !dependency["path"].is_null();
        let is_allowed = if is_ours {
            layer.ours.contains(&wanted)
        } else {
            layer.others.is_none_or(|others| others.contains(&wanted))
                && !layer.never.contains(&wanted)
        };
        if !is_allowed {
            problems.push(format!(
                "{name} depends on {wanted}, which its layer may not: see xtask/src/tidy/layers.rs"
            ));
        }
        let is_optional = dependency["optional"].as_bool().unwrap_or(false);
        if layer.optional.contains(&wanted) && !is_optional {
            problems
                .push(format!("{name} depends on {wanted} without a feature that turns it off"));
        }
        let has_features = list(dependency, "features").next().is_some()
            || dependency["uses_default_features"].as_bool() == Some(true);
        if layer.bare.contains(&wanted) && has_features {
            problems.push(format!("{name} depends on {wanted} with features: it may have none"));
        }
    }
    problems
}

/// Follows the resolved graph from `raft-core`.
fn check_core_tree(metadata: &Value) -> Vec<String> {
    let names: BTreeMap<&str, &str> = list(metadata, "packages")
        .map(|package| (text(package, "id"), text(package, "name")))
        .collect();
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"], "nodes").map(|node| (text(node, "id"), node)).collect();
    let Some(core) = names.iter().find(|(_, name)| **name == "raft-core").map(|(id, _)| *id) else {
        return vec!["cargo metadata does not know raft-core".to_owned()];
    };
    let (mut seen, mut waiting) = (BTreeSet::from([core]), vec![core]);
    while let Some(id) = waiting.pop() {
        let Some(node) = nodes.get(id) else { continue };
        for dependency in list(node, "deps") {
            let is_normal = list(dependency, "dep_kinds").any(|kind| kind["kind"].is_null());
            if is_normal && seen.insert(text(dependency, "pkg")) {
                waiting.push(text(dependency, "pkg"));
            }
        }
    }
    seen.remove(core);
    seen.into_iter()
        .filter_map(|id| names.get(id))
        .filter(|name| !CORE_TREE.contains(name))
        .map(|name| {
            format!(
                "raft-core pulls in {name}, directly or not: it may have bytes and thiserror only"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metadata(name: &str, dependency: &Value, rust_version: &str) -> Value {
        json!({
            "workspace_members": ["a"],
            "packages": [
                { "id": "a", "name": name, "version": "0.1.0", "rust_version": "1.90", "dependencies": [dependency] },
                { "id": "b", "name": dependency["name"], "version": "1.0.0", "rust_version": rust_version, "dependencies": [] },
            ],
            "resolve": { "nodes": [
                { "id": "a", "deps": [{ "pkg": "b", "dep_kinds": [{ "kind": null }] }] },
                { "id": "b", "deps": [] },
            ]},
        })
    }

    fn found(name: &str, dependency: &Value) -> usize {
        let problems = check(&metadata(name, dependency, "1.60"), "1.90");
        problems.iter().filter(|problem| !problem.contains("does not know raft-core")).count()
    }

    fn other(name: &str) -> Value {
        json!({ "name": name, "kind": null, "path": null, "optional": false })
    }

    fn ours(name: &str, optional: bool) -> Value {
        json!({ "name": name, "kind": null, "path": "/somewhere", "optional": optional })
    }

    #[test]
    fn a_dependency_across_layers_is_found() {
        assert_eq!(found("raft-core", &other("bytes")), 0);
        assert_eq!(found("raft-core", &other("tokio")), 2, "by name, and in the tree");
        assert_eq!(found("raft-node", &other("quinn")), 1);
        assert_eq!(found("raft-sim", &other("tokio")), 1);
        assert_eq!(found("raft-node", &ours("raft-kv", false)), 1);
        assert_eq!(found("raft-storage-redb", &ours("raft-net-quic", false)), 1);
        assert_eq!(found("raft-cli", &ours("raft-sim", false)), 1);
        assert_eq!(found("raft-kv", &ours("raft-net-quic", true)), 0);
        assert_eq!(found("raft-kv", &ours("raft-net-quic", false)), 1, "not behind a feature");
        assert_eq!(found("raft-new", &other("bytes")), 1, "no layer");
        assert_eq!(found("raft-node", &other("tokio")), 1, "not behind a feature");
        let mut bare = ours("raft-node", false);
        assert_eq!(found("raft-sim", &bare), 0);
        bare["features"] = json!(["driver"]);
        assert_eq!(found("raft-sim", &bare), 1, "with a feature");
        bare["features"] = json!([]);
        bare["uses_default_features"] = json!(true);
        assert_eq!(found("raft-sim", &bare), 1, "with those that are on by default");
    }

    #[test]
    fn a_dependency_that_needs_a_newer_rust_is_found() {
        let problems = check(&metadata("raft-core", &other("bytes"), "1.91"), "1.90");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(version("1.9.1") < version("1.10"));
    }
}
