//! What can be set.

use core::time::Duration;

use crate::NodeId;

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
    /// Proposals are refused while this many bytes are appended and not yet committed.
    pub uncommitted_bytes_max: usize,
    /// How many bytes of recent entries stay in memory for peers that lag a little.
    pub tail_bytes_max: usize,
    /// The most entries handed out to be applied and not yet reported as applied.
    pub apply_entries_max: u64,
    /// After a snapshot, this many entries before it are kept for followers that lag; one that lags more gets the snapshot.
    pub retained_entries: u64,
}

impl Config {
    /// The defaults, for a group on one local network.
    pub fn new(id: NodeId) -> Config {
        Config {
            id,
            election_timeout: Duration::from_millis(500),
            heartbeat_interval: Duration::from_millis(50),
            append_bytes_max: 512 << 10,
            in_flight_messages_max: 256,
            in_flight_bytes_max: 8 << 20,
            uncommitted_bytes_max: 32 << 20,
            tail_bytes_max: 16 << 20,
            apply_entries_max: 16 << 10,
            retained_entries: 100_000,
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that can not work, by name.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let positive: [(&'static str, bool); 8] = [
            ("election_timeout", !self.election_timeout.is_zero()),
            ("heartbeat_interval", !self.heartbeat_interval.is_zero()),
            ("append_bytes_max", self.append_bytes_max > 0),
            ("in_flight_messages_max", self.in_flight_messages_max > 0),
            ("in_flight_bytes_max", self.in_flight_bytes_max > 0),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max > 0),
            ("tail_bytes_max", self.tail_bytes_max > 0),
            ("apply_entries_max", self.apply_entries_max > 0),
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
