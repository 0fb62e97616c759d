//! What can be set.

use alloc::collections::BTreeMap;
use core::time::Duration;

use crate::{NodeId, StoreStamp};

/// Settings of one core. Durations are virtual: measured in the [`Instant`](crate::Instant)s that the caller passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who this member is.
    pub id: NodeId,
    /// A follower that hears nothing for this long (up to twice this long: deadlines are drawn from the seed) asks for an
    /// election; a leader that hears from no quorum for this long steps down (paper §5.2, dissertation §6.2).
    pub election_timeout: Duration,
    /// How often a leader lets followers hear from it. At most a third of the election timeout.
    pub heartbeat_interval: Duration,
    /// The most bytes of entries in one append message; at least one entry always goes.
    pub append_bytes_max: usize,
    /// The most append messages under way to one peer.
    pub in_flight_messages_max: usize,
    /// The most bytes of entries under way to one peer.
    pub in_flight_bytes_max: usize,
    /// The most bytes of one command. Where proposals are passed on to the leader, a whole batch may have no more, since it
    /// travels as one message. What carries and keeps entries must be able to carry one of this size.
    pub command_bytes_max: usize,
    /// Proposals are refused while this many bytes are appended and not yet committed.
    pub uncommitted_bytes_max: usize,
    /// How many bytes of recent entries stay in memory for peers that lag a little.
    pub tail_bytes_max: usize,
    /// The most entries handed out to be applied and not yet reported as applied.
    pub apply_entries_max: u64,
    /// The most bytes of entries handed out to be applied and not yet reported as applied; at least one entry always goes.
    pub apply_bytes_max: u64,
    /// After a snapshot, this many entries before it are kept for followers that lag; one that lags more gets the snapshot.
    pub retained_entries: u64,
    /// The same in bytes of entries ([`Entry::size_bytes`](crate::Entry::size_bytes)); whichever keeps less counts. (Of
    /// entries from before the last start sizes are not known: they are taken to be like those since, on average.)
    pub retained_bytes: u64,
    /// A leader lets its log grow by up to this many entries beyond `retained_entries` for a follower that still
    /// replicates but lags, or that is being given a snapshot and needs what comes after it; one that lags more, or
    /// was not heard for an election timeout, gets the snapshot, or the next one.
    pub compaction_lag_max: u64,
    /// The same in bytes of entries; whichever keeps less counts.
    pub compaction_lag_bytes_max: u64,
    /// The most reads that wait at one member for proof of leadership.
    pub waiting_reads_max: usize,
    /// From 0 to [`Config::PRIORITY_MAX`]. A member waits one election timeout more than others for each step below the
    /// highest, before it campaigns: so it leads only if nobody of higher priority does, and never waits for ever.
    pub priority: u8,
    /// The furthest behind, in entries, that a member may be to which leadership is handed.
    pub transfer_lag_max: u64,
    /// Whether proposals at a member that does not lead are passed on to the leader. Otherwise they are refused, with its name.
    pub forward_proposals: bool,
    /// Lets a leader answer reads from a lease (dissertation §6.4.1). `None`: every read asks a quorum. Equal at all members.
    pub lease: Option<LeaseConfig>,
    /// Commits an entry only when enough zones have it. Equal at all members.
    pub commit_groups: Option<CommitGroups>,
    /// Whether this member is a witness: it votes, and keeps no commands and no state machine. That belongs to its
    /// store for as long as the store exists. What the group lists it as must agree; while it does not, this member
    /// refuses the entries that it is sent, by name ([`PeerFault::WithheldCommand`](crate::PeerFault::WithheldCommand),
    /// [`PeerFault::CommandForWitness`](crate::PeerFault::CommandForWitness)).
    pub is_witness: bool,
    /// The store that this member runs on; `None` if stores are not told apart. Either all members have one, or none.
    pub store: Option<StoreStamp>,
}

/// What leases rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseConfig {
    /// By how many millionths of a second a second may the clocks of two members drift apart. A lease is that much
    /// shorter than an election timeout. If clocks drift more, reads may be stale.
    pub clock_drift_max_ppm: u32,
}

/// Zones that share fate, and in how many of them an entry must be before it is committed, beside the quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitGroups {
    /// The zone of each voter. Who is not listed counts for the quorum alone.
    pub zones: BTreeMap<NodeId, u64>,
    /// In how many zones an entry must be; if the voters lie in fewer, in all of these. While a configuration is joint,
    /// only the voters of its incoming half speak for their zones.
    pub zones_min: usize,
}

impl Config {
    /// The highest, and usual, priority.
    pub const PRIORITY_MAX: u8 = 10;

    /// The defaults, for a group on one local network.
    pub fn new(id: NodeId) -> Config {
        Config {
            id,
            election_timeout: Duration::from_millis(500),
            heartbeat_interval: Duration::from_millis(50),
            append_bytes_max: 512 << 10,
            in_flight_messages_max: 256,
            in_flight_bytes_max: 8 << 20,
            command_bytes_max: 8 << 20,
            uncommitted_bytes_max: 32 << 20,
            tail_bytes_max: 16 << 20,
            apply_entries_max: 16 << 10,
            apply_bytes_max: 64 << 20,
            retained_entries: 100_000,
            retained_bytes: 64 << 20,
            compaction_lag_max: 1_000_000,
            compaction_lag_bytes_max: 512 << 20,
            waiting_reads_max: 100_000,
            priority: Config::PRIORITY_MAX,
            transfer_lag_max: 10_000,
            forward_proposals: false,
            lease: None,
            commit_groups: None,
            is_witness: false,
            store: None,
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that can not work, by name.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let positive: [(&'static str, bool); 11] = [
            ("election_timeout", !self.election_timeout.is_zero()),
            ("heartbeat_interval", !self.heartbeat_interval.is_zero()),
            ("append_bytes_max", self.append_bytes_max > 0),
            ("in_flight_messages_max", self.in_flight_messages_max > 0),
            ("in_flight_bytes_max", self.in_flight_bytes_max > 0),
            ("command_bytes_max", self.command_bytes_max > 0),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max > 0),
            ("tail_bytes_max", self.tail_bytes_max > 0),
            ("apply_entries_max", self.apply_entries_max > 0),
            ("apply_bytes_max", self.apply_bytes_max > 0),
            ("waiting_reads_max", self.waiting_reads_max > 0),
        ];
        for (setting, is_positive) in positive {
            if !is_positive {
                return Err(ConfigError::Zero { setting });
            }
        }
        if self.heartbeat_interval * 3 > self.election_timeout {
            return Err(ConfigError::HeartbeatTooSlow {
                heartbeat_interval: self.heartbeat_interval,
                election_timeout: self.election_timeout,
            });
        }
        if self.priority > Config::PRIORITY_MAX {
            return Err(ConfigError::PriorityTooHigh { priority: self.priority });
        }
        if self.lease.is_some_and(|lease| lease.clock_drift_max_ppm >= 1_000_000) {
            return Err(ConfigError::DriftTooLarge);
        }
        if self.commit_groups.as_ref().is_some_and(|groups| groups.zones_min == 0) {
            return Err(ConfigError::Zero { setting: "commit_groups.zones_min" });
        }
        Ok(())
    }
}

/// A setting that can not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A setting that must be positive is zero.
    #[error("{setting} is zero; it must be positive")]
    Zero {
        /// Its name in [`Config`].
        setting: &'static str,
    },
    /// The priority lies beyond the highest.
    #[error("priority {priority} is beyond {}, the highest", Config::PRIORITY_MAX)]
    PriorityTooHigh {
        /// As configured.
        priority: u8,
    },
    /// With clocks that bad no lease is possible.
    #[error(
        "lease.clock_drift_max_ppm is a million or more: no lease could be trusted; switch leases off instead"
    )]
    DriftTooLarge,
    /// Followers would time out between heartbeats.
    #[error(
        "heartbeat_interval {heartbeat_interval:?} is more than a third of election_timeout {election_timeout:?}: \
         followers would call elections between heartbeats; lower the first or raise the second"
    )]
    HeartbeatTooSlow {
        /// As configured.
        heartbeat_interval: Duration,
        /// As configured.
        election_timeout: Duration,
    },
}
