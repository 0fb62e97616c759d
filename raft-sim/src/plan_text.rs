//! How the parts of a plan that are not the simulator's own are written in a plan file: the core's settings, and weights by the names of faults.

use core::time::Duration;
use std::collections::BTreeMap;

use raft_core::{CommitGroups, Config, LeaseConfig, NodeId, StoreStamp};
use serde::{Deserialize, Serialize};

/// The core's settings; those of single nodes (id, priority, store, being a witness) stand elsewhere in a plan. Times in microseconds.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Config", deny_unknown_fields)]
pub(crate) struct ConfigText {
    #[serde(skip, default = "nobody")]
    id: NodeId,
    #[serde(rename = "election_timeout_us", with = "micros")]
    election_timeout: Duration,
    #[serde(rename = "heartbeat_interval_us", with = "micros")]
    heartbeat_interval: Duration,
    append_bytes_max: usize,
    in_flight_messages_max: usize,
    in_flight_bytes_max: usize,
    #[serde(default = "largest_command")]
    command_bytes_max: usize,
    uncommitted_bytes_max: usize,
    tail_bytes_max: usize,
    apply_entries_max: u64,
    #[serde(default = "unbounded")]
    apply_bytes_max: u64,
    retained_entries: u64,
    #[serde(default = "unbounded")]
    retained_bytes: u64,
    compaction_lag_max: u64,
    #[serde(default = "unbounded")]
    compaction_lag_bytes_max: u64,
    waiting_reads_max: usize,
    #[serde(skip, default = "highest")]
    priority: u8,
    transfer_lag_max: u64,
    forward_proposals: bool,
    #[serde(
        rename = "lease_drift_ppm",
        with = "lease",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    lease: Option<LeaseConfig>,
    #[serde(with = "groups", default, skip_serializing_if = "Option::is_none")]
    commit_groups: Option<CommitGroups>,
    #[serde(skip)]
    is_witness: bool,
    #[serde(skip)]
    store: Option<StoreStamp>,
}

/// Every run gives each node its own.
fn nobody() -> NodeId {
    NodeId(0)
}

/// What plan files that do not say so mean: those of before logs were bounded in bytes.
fn unbounded() -> u64 {
    u64::MAX
}

fn highest() -> u8 {
    Config::PRIORITY_MAX
}

/// Plan files of before commands had a limit of their own mean the usual one.
fn largest_command() -> usize {
    Config::new(nobody()).command_bytes_max
}

/// What plan files that do not say so mean: those of before plans had keys and sessions.
pub(crate) fn keys() -> u64 {
    3
}

/// The same of sessions at a time.
pub(crate) fn sessions() -> u64 {
    4
}

/// The same of a snapshot's chunks.
pub(crate) fn chunks() -> u64 {
    4
}

/// The same of writes at a time.
pub(crate) fn pipeline_max() -> u64 {
    4
}

/// The same of sessions that are kept.
pub(crate) fn sessions_max() -> u64 {
    crate::ClientPlan::SESSIONS_KEPT
}

mod micros {
    use core::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        (time.as_micros() as u64).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_micros)
    }
}

mod lease {
    use raft_core::LeaseConfig;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the same")]
    pub(super) fn serialize<S: Serializer>(
        lease: &Option<LeaseConfig>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        lease.map(|lease| lease.clock_drift_max_ppm).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<LeaseConfig>, D::Error> {
        let ppm = Option::<u32>::deserialize(from)?;
        Ok(ppm.map(|clock_drift_max_ppm| LeaseConfig { clock_drift_max_ppm }))
    }
}

/// Zones as pairs of a node and its zone.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupsText {
    zones_min: usize,
    zones: Vec<(u64, u64)>,
}

mod groups {
    use raft_core::{CommitGroups, NodeId};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::GroupsText;

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
    pub(super) fn serialize<S: Serializer>(
        groups: &Option<CommitGroups>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let text = groups.as_ref().map(|groups| GroupsText {
            zones_min: groups.zones_min,
            zones: groups.zones.iter().map(|(node, zone)| (node.0, *zone)).collect(),
        });
        text.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<CommitGroups>, D::Error> {
        let text = Option::<GroupsText>::deserialize(from)?;
        Ok(text.map(|text| CommitGroups {
            zones_min: text.zones_min,
            zones: text.zones.into_iter().map(|(node, zone)| (NodeId(node), zone)).collect(),
        }))
    }
}

pub(crate) mod weights {
    use serde::{Deserializer, Serializer};

    use super::{BTreeMap, Deserialize, Serialize};
    use crate::Fault;

    pub(crate) fn serialize<S: Serializer>(weights: &[u64], to: S) -> Result<S::Ok, S::Error> {
        let all = Fault::ALL.iter().zip(weights).filter(|(_, weight)| **weight > 0);
        let named: BTreeMap<Fault, u64> =
            all.map(|((fault, _), weight)| (*fault, *weight)).collect();
        named.serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u64>, D::Error> {
        let named = BTreeMap::<Fault, u64>::deserialize(from)?;
        Ok(Fault::ALL.iter().map(|(fault, _)| named.get(fault).copied().unwrap_or(0)).collect())
    }
}
