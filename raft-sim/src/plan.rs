//! What a seed draws before a run starts: the cluster's shape, and which faults are on and how strong (swarm testing: not every
//! fault in every run, since faults mask each other).

use core::time::Duration;

use raft_core::{Config, NodeId};

use crate::Rng;

/// The shape of one run. Times in virtual microseconds, probabilities per mille.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many voters.
    pub voters: u64,
    /// The configuration of every node, but for its id.
    pub config: Config,
    /// How long faults go on.
    pub chaos_us: u64,
    /// The usual delay of a message.
    pub delay_us: u64,
    /// Messages that are lost.
    pub drop: u64,
    /// Messages that arrive twice.
    pub duplicate: u64,
    /// Messages that arrive much later (and so out of order).
    pub straggle: u64,
    /// How much later, at most.
    pub straggle_us: u64,
    /// The usual time until a write is durable.
    pub disk_us: u64,
    /// Writes that take much longer.
    pub disk_stall: u64,
    /// How far the notices of finished writes may be out of order.
    pub notice_us: u64,
    /// The usual time to apply a batch.
    pub apply_us: u64,
    /// A checkpoint is taken after this many applied entries; 0 for never.
    pub checkpoint_every: u64,
    /// The usual time between two faults; 0 for none.
    pub fault_every_us: u64,
    /// Weight of crashes of one node among faults.
    pub crash: u64,
    /// Weight of crashes of all nodes at once.
    pub blackout: u64,
    /// Weight of pauses.
    pub pause: u64,
    /// Weight of symmetric partitions.
    pub partition: u64,
    /// Weight of one-way partitions.
    pub one_way: u64,
    /// Weight of partitions that cut off exactly the leader.
    pub isolate_leader: u64,
    /// Weight of reports of lost connections.
    pub unreachable: u64,
    /// How long faults usually last.
    pub fault_us: u64,
    /// Snapshot streams that break.
    pub stream_loss: u64,
    /// Fetches that fail.
    pub fetch_loss: u64,
    /// The usual time between client requests.
    pub request_every_us: u64,
    /// Requests that are reads.
    pub reads: u64,
    /// The most commands in a batch.
    pub batch_max: u64,
    /// The most bytes in a command.
    pub command_bytes_max: u64,
    /// How often a driver collects more inputs before it polls.
    pub coalesce: u64,
    /// How far clocks may run apart.
    pub drift: u64,
}

impl Plan {
    /// Draws a plan.
    pub fn draw(rng: &mut Rng) -> Plan {
        let election_us = rng.pick(&[50_000, 150_000, 500_000, 1_000_000]);
        let on = |rng: &mut Rng, strength: u64| {
            if rng.chance(500) { rng.between(1, strength) } else { 0 }
        };
        let config = draw_config(rng, election_us);
        Plan {
            voters: rng.pick(&[3, 3, 3, 3, 3, 5, 5, 5, 5, 1, 2, 4]),
            config,
            chaos_us: election_us * rng.between(20, 80),
            delay_us: election_us / rng.pick(&[1000, 300, 100, 30, 15]),
            drop: on(rng, 300),
            duplicate: on(rng, 300),
            straggle: on(rng, 150),
            straggle_us: election_us * rng.between(1, 12),
            disk_us: election_us / rng.pick(&[1000, 300, 100, 30, 10]),
            disk_stall: on(rng, 50),
            notice_us: on(rng, election_us / 10),
            apply_us: election_us / rng.pick(&[2000, 300, 50, 15]),
            checkpoint_every: rng.pick(&[0, 3, 10, 30, 100]),
            fault_every_us: if rng.chance(900) { election_us * rng.between(1, 10) } else { 0 },
            crash: on(rng, 10),
            blackout: on(rng, 3),
            pause: on(rng, 10),
            partition: on(rng, 10),
            one_way: on(rng, 10),
            isolate_leader: on(rng, 10),
            unreachable: on(rng, 10),
            fault_us: election_us * rng.between(1, 8),
            stream_loss: on(rng, 500),
            fetch_loss: on(rng, 300),
            request_every_us: election_us / rng.pick(&[100, 30, 10, 3]),
            reads: rng.pick(&[0, 100, 300, 700]),
            batch_max: rng.pick(&[1, 1, 4, 20]),
            command_bytes_max: rng.pick(&[8, 64, 400]),
            coalesce: rng.pick(&[0, 200, 700]),
            drift: rng.pick(&[0, 0, 20, 100]),
        }
    }
}

fn draw_config(rng: &mut Rng, election_us: u64) -> Config {
    Config {
        election_timeout: Duration::from_micros(election_us),
        heartbeat_interval: Duration::from_micros(election_us / rng.between(3, 10)),
        append_bytes_max: rng.pick(&[1, 200, 2_000, 512 << 10]),
        in_flight_messages_max: rng.pick(&[1, 2, 8, 256]),
        in_flight_bytes_max: rng.pick(&[300, 3_000, 8 << 20]),
        uncommitted_bytes_max: rng.pick(&[10_000, 100_000, 32 << 20]),
        tail_bytes_max: rng.pick(&[1, 500, 5_000, 16 << 20]),
        apply_entries_max: rng.pick(&[1, 3, 64, 16 << 10]),
        retained_entries: rng.pick(&[0, 3, 50, 100_000]),
        compaction_lag_max: rng.pick(&[0, 0, 20, 1_000_000]),
        ..Config::new(NodeId(0))
    }
}
