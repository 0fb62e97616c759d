//! What a seed draws before a run starts: the cluster's shape, and which faults are on and how strong (swarm testing: not every
//! fault in every run, since faults mask each other).

use core::time::Duration;
use std::collections::BTreeMap;

use raft_core::{CommitGroups, Config, LeaseConfig, NodeId};

use serde::{Deserialize, Serialize};

use crate::{Rng, plan_text};

/// The shape of one run. Times in virtual microseconds, probabilities per mille.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// How many voters the group is founded with.
    pub voters: u64,
    /// Whether the last of them is a witness; see [`Plan::is_witness`].
    pub has_witness: bool,
    /// How many more nodes stand by to be added.
    pub spares: u64,
    /// The configuration of every node, but for its id, its priority and its store.
    #[serde(with = "plan_text::ConfigText")]
    pub config: Config,
    /// The priority of each node.
    pub priorities: Vec<u8>,
    /// Whether stores have identities, so that disks may be wiped.
    pub has_stores: bool,
    /// How long faults go on.
    pub chaos_us: u64,
    /// The usual time to apply a batch.
    pub apply_us: u64,
    /// How much longer than that it may take to install a snapshot, while faults go on.
    #[serde(default)]
    pub install_us: u64,
    /// A checkpoint is taken after this many applied entries; 0 for never.
    pub checkpoint_every: u64,
    /// The usual time between two faults; 0 for none.
    pub fault_every_us: u64,
    /// How long faults usually last.
    pub fault_us: u64,
    /// The relative weight of each kind of fault, in the order of [`Fault::ALL`].
    #[serde(with = "plan_text::weights")]
    pub weights: Vec<u64>,
    /// The usual time between two requests of the operator; 0 for none.
    pub operate_every_us: u64,
    /// Requests of the operator that are transfers of leadership.
    pub transfers: u64,
    /// How hasty the operator is: requests that follow upon another before that is settled, and changes that take back what they do.
    #[serde(default)]
    pub haste: u64,
    /// How often a driver collects more inputs before it polls.
    pub coalesce: u64,
    /// How far clocks may run apart, per mille.
    pub drift: u64,
    /// The network.
    pub network: NetworkPlan,
    /// The disks.
    pub disk: DiskPlan,
    /// The clients.
    pub client: ClientPlan,
}

/// What a network does to messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkPlan {
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
    /// Whether delays are drawn from an exponential distribution, instead of around the usual.
    pub is_exponential: bool,
    /// Snapshot streams that break: in a quarter of so many the source fails, for a tenth of so many chunks the receiver's
    /// disk, and a fifth of so many installations.
    pub stream_loss: u64,
    /// Into how many chunks snapshots are cut.
    #[serde(default = "plan_text::chunks")]
    pub chunks: u64,
    /// How many of them may be under way.
    #[serde(default = "plan_text::chunks")]
    pub chunks_in_flight: u64,
    /// Chunks that are damaged on their way.
    #[serde(default)]
    pub damage: u64,
    /// The usual time that a snapshot's stream takes, beyond that of some messages.
    #[serde(default)]
    pub stream_us: u64,
}

/// What disks do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskPlan {
    /// The usual time until a write is durable.
    pub write_us: u64,
    /// Writes that take much longer.
    pub stall: u64,
    /// How far the notices of finished writes may be out of order.
    pub notice_us: u64,
    /// Writes that are finished before those that were handed out before them, as on a disk that carries out several at a time.
    #[serde(default)]
    pub overtaking: u64,
    /// Fetches that fail.
    pub fetch_loss: u64,
    /// Starts that are cut off by another crash at once.
    pub crash_in_recovery: u64,
    /// Whether every node has a real log store, `raft-storage-redb`, on a virtual disk that fails. Without the feature `redb`, disks are
    /// modelled all the same.
    #[serde(default)]
    pub has_real_stores: bool,
}

/// What clients do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientPlan {
    /// The usual time between requests.
    pub every_us: u64,
    /// Requests that are reads.
    pub reads: u64,
    /// Requests that go to any node, not to the leader.
    pub anywhere: u64,
    /// The most commands in a batch.
    pub batch_max: u64,
    /// After this many requests clients only read: logs stay short enough to be caught up with.
    pub requests_max: u64,
    /// The most bytes in a command.
    pub command_bytes_max: u64,
    /// How many keys they use.
    #[serde(default = "plan_text::keys")]
    pub keys: u64,
    /// How many sessions they have at a time.
    #[serde(default = "plan_text::sessions")]
    pub sessions: u64,
    /// How many writes of one session may wait for their answers.
    #[serde(default = "plan_text::pipeline_max")]
    pub pipeline_max: u64,
    /// How long they wait for an answer before they send a write again.
    #[serde(default)]
    pub patience_us: u64,
    /// How many sessions the machines keep open. If that is less than `sessions`, some are forgotten all the time, and opened anew.
    #[serde(default = "plan_text::sessions_max")]
    pub sessions_max: u64,
}

impl ClientPlan {
    /// More keys than this are not used.
    pub const KEYS_MAX: u64 = 8;
    /// As many sessions as real nodes keep: none of a run is ever forgotten.
    pub const SESSIONS_KEPT: u64 = 10_000;

    /// Whether sessions are forgotten.
    pub fn forgets_sessions(&self) -> bool {
        self.sessions_max < Self::SESSIONS_KEPT
    }
}

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fault {
    /// A node loses power.
    Crash,
    /// All nodes do, at once.
    Blackout,
    /// A node crashes again and again, each time shortly after it started.
    CrashLoop,
    /// A process stops for a while; its clock goes on.
    Pause,
    /// A machine is suspended: its clock stops too.
    Freeze,
    /// A clock jumps forward by up to hours. Only where leases do not rest on clocks.
    ClockStep,
    /// Two sides can not reach each other.
    Partition,
    /// One side can not reach the other; the other way works.
    OneWay,
    /// The leader alone is cut off.
    IsolateLeader,
    /// Two sides that only one node reaches both of.
    Bridge,
    /// A link that goes up and down.
    Flap,
    /// A link that takes many times as long.
    SlowLink,
    /// A link that holds everything back, then delivers it at once.
    Clog,
    /// Messages of one type are lost.
    LoseType,
    /// Messages from long ago arrive again.
    Replay,
    /// A connection is reported as lost.
    Unreachable,
    /// A disk stalls, and the node is told.
    Stall,
    /// A write or an fsync fails: the node stops, and starts again from its disk.
    WriteError,
    /// A disk is full: the node stops until there is room.
    DiskFull,
    /// A disk is wiped, and its node comes back under the same id.
    Wipe,
    /// An fsync lied: after a power loss the store finds that it lost what it had promised, and is wiped.
    FsyncLie,
}

impl Fault {
    /// All kinds, with the highest weight of each.
    pub const ALL: [(Fault, u64); 21] = [
        (Fault::Crash, 10),
        (Fault::Blackout, 3),
        (Fault::CrashLoop, 3),
        (Fault::Pause, 10),
        (Fault::Freeze, 5),
        (Fault::ClockStep, 5),
        (Fault::Partition, 10),
        (Fault::OneWay, 10),
        (Fault::IsolateLeader, 10),
        (Fault::Bridge, 10),
        (Fault::Flap, 5),
        (Fault::SlowLink, 5),
        (Fault::Clog, 5),
        (Fault::LoseType, 10),
        (Fault::Replay, 10),
        (Fault::Unreachable, 10),
        (Fault::Stall, 10),
        (Fault::WriteError, 5),
        (Fault::DiskFull, 3),
        (Fault::Wipe, 5),
        (Fault::FsyncLie, 3),
    ];
}

/// In half of the plans, a strength from 1 to `strongest`; otherwise 0.
fn on(rng: &mut Rng, strongest: u64) -> u64 {
    if rng.chance(500) { rng.between(1, strongest) } else { 0 }
}

impl Plan {
    /// Whether a node is set up as a witness: the last voter if there is to be one, and the last of two or more that stand by.
    pub fn is_witness(&self, id: NodeId) -> bool {
        let nodes = self.voters + self.spares;
        (self.has_witness && id.0 == self.voters) || (self.spares >= 2 && id.0 == nodes)
    }

    /// Draws a plan.
    pub fn draw(rng: &mut Rng) -> Plan {
        let election_us = rng.pick(&[50_000, 150_000, 500_000, 1_000_000]);
        let seed = rng.state();
        let plan = with_chunks(Plan::draw_for(rng, election_us), seed);
        with_six(with_quiet_log(with_real_stores(with_snapshots(plan, seed), seed), seed), seed)
    }

    /// Draws a plan of dense traffic: at least 100 operations a second, and a fault every two seconds, for a minute. Settings under which that much
    /// could never be caught up with (one entry at a time, no checkpoints, snapshots all the time) are left to the others.
    pub fn draw_dense(rng: &mut Rng) -> Plan {
        let drawn = Plan::draw_for(rng, 500_000);
        let config = Config {
            append_bytes_max: drawn.config.append_bytes_max.max(2_000),
            in_flight_messages_max: drawn.config.in_flight_messages_max.max(8),
            in_flight_bytes_max: drawn.config.in_flight_bytes_max.max(8_000),
            apply_entries_max: drawn.config.apply_entries_max.max(64),
            ..drawn.config
        };
        let client = ClientPlan {
            every_us: 30_000,
            batch_max: 16,
            requests_max: 100_000,
            sessions: 10,
            pipeline_max: 5,
            patience_us: 250_000,
            sessions_max: ClientPlan::SESSIONS_KEPT,
            ..drawn.client
        };
        let network = NetworkPlan {
            delay_us: drawn.network.delay_us.min(5_000),
            drop: drawn.network.drop / 10,
            straggle: drawn.network.straggle / 10,
            ..drawn.network
        };
        let disk = DiskPlan { write_us: drawn.disk.write_us.min(5_000), ..drawn.disk };
        Plan {
            config,
            network,
            disk,
            chaos_us: 60_000_000,
            // One in five has no effect.
            fault_every_us: 1_350_000,
            fault_us: drawn.fault_us.min(1_000_000),
            checkpoint_every: drawn.checkpoint_every.max(100),
            client,
            ..drawn
        }
    }

    fn draw_for(rng: &mut Rng, election_us: u64) -> Plan {
        let seed = rng.state();
        let voters = rng.pick(&[3, 3, 3, 3, 3, 5, 5, 5, 5, 1, 2, 4, 7]);
        let is_operated = rng.chance(600);
        let spares = if is_operated { rng.between(0, 4) } else { 0 };
        let drift = rng.pick(&[0, 0, 20, 100]);
        let nodes = voters + spares;
        Plan {
            voters,
            has_witness: voters >= 3 && rng.chance(150),
            spares,
            config: draw_config(rng, election_us, nodes, drift),
            priorities: draw_priorities(rng, nodes),
            has_stores: rng.chance(500),
            chaos_us: election_us * rng.between(20, 80),
            apply_us: election_us / rng.pick(&[2000, 300, 50, 15]),
            install_us: election_us,
            checkpoint_every: rng.pick(&[0, 3, 10, 30, 100]),
            fault_every_us: if rng.chance(900) { election_us * rng.between(1, 10) } else { 0 },
            fault_us: election_us * rng.between(1, 10),
            weights: Fault::ALL.iter().map(|(_, strongest)| on(rng, *strongest)).collect(),
            operate_every_us: if is_operated { election_us * rng.between(1, 6) } else { 0 },
            transfers: rng.pick(&[0, 200, 500]),
            // Beside the sequence of draws, like real stores below.
            haste: if rng.clone().chance(500) { 250 } else { 0 },
            coalesce: rng.pick(&[0, 200, 700]),
            drift,
            network: NetworkPlan {
                delay_us: election_us / rng.pick(&[1000, 300, 100, 30, 15]),
                drop: on(rng, 300),
                duplicate: on(rng, 300),
                straggle: on(rng, 150),
                straggle_us: election_us * rng.between(1, 12),
                is_exponential: rng.chance(300),
                stream_loss: on(rng, 500),
                stream_us: 0,
                chunks: 4,
                chunks_in_flight: 4,
                damage: 0,
            },
            disk: DiskPlan {
                write_us: election_us / rng.pick(&[1000, 300, 100, 30, 10]),
                stall: on(rng, 50),
                notice_us: on(rng, election_us / 10),
                fetch_loss: on(rng, 300),
                crash_in_recovery: on(rng, 300),
                overtaking: if rng.clone().chance(250) { 300 } else { 0 },
                has_real_stores: false,
            },
            client: ClientPlan {
                every_us: election_us / rng.pick(&[100, 30, 10, 3]),
                reads: rng.pick(&[0, 100, 300, 700]),
                anywhere: rng.pick(&[100, 100, 500]),
                batch_max: rng.pick(&[1, 1, 4, 20]),
                requests_max: 2_000,
                command_bytes_max: rng.pick(&[8, 64, 400]),
                ..draw_sessions(seed)
            },
        }
    }

    /// Whether clocks may run further apart than leases allow for. Then a lease may outlive the promises that it rests on, and reads may be stale.
    pub fn is_beyond_drift(&self) -> bool {
        self.config
            .lease
            .is_some_and(|lease| drift_ppm(self.drift) > u64::from(lease.clock_drift_max_ppm))
    }

    /// One election timeout.
    pub fn election_us(&self) -> u64 {
        self.config.election_timeout.as_micros() as u64
    }
}

/// One seed of eight has real stores, on disks that fail: mostly told apart, so that they may be lost. From a stream of chance of its own, so that the others stay
/// as they are.
fn with_real_stores(mut plan: Plan, seed: u64) -> Plan {
    let mut rng = Rng::beside(seed, 0x0005_702e);
    if rng.below(8) > 0 {
        return plan;
    }
    plan.disk.has_real_stores = true;
    plan.has_stores |= rng.chance(500);
    for (weight, (fault, highest)) in plan.weights.iter_mut().zip(Fault::ALL) {
        if matches!(fault, Fault::WriteError | Fault::DiskFull | Fault::Wipe | Fault::FsyncLie) {
            *weight = highest;
        }
    }
    plan
}

/// In one seed of eight clients soon only read: a log that does not grow lets members seem to have everything that are long gone. From a stream of chance of its
/// own, so that the others stay as they are.
fn with_quiet_log(mut plan: Plan, seed: u64) -> Plan {
    let mut rng = Rng::beside(seed, 0x0001_d1e5);
    if rng.below(8) == 0 {
        plan.client.requests_max = rng.between(20, 200);
        plan.haste = 250;
        plan.coalesce = 0;
        plan.has_stores &= plan.disk.has_real_stores;
    }
    plan
}

/// Half of the groups that would have seven voters have six: with an even number, half is no majority. From a stream of chance of its own, so that the others stay
/// as they are.
fn with_six(mut plan: Plan, seed: u64) -> Plan {
    if plan.voters == 7 && Rng::beside(seed, 0x0000_0516).chance(500) {
        plan.voters = 6;
        // The seventh is one more to be added.
        plan.spares += 1;
    }
    plan
}

/// How snapshots are cut, and how their chunks fare. From a stream of chance of its own, so that the others stay as they are.
fn with_chunks(mut plan: Plan, seed: u64) -> Plan {
    let mut rng = Rng::beside(seed, 0x000c_6a2c);
    plan.network.chunks = rng.pick(&[1, 2, 4, 12]);
    plan.network.chunks_in_flight = rng.pick(&[1, 2, 16]);
    plan.network.damage = on(&mut rng, 100);
    plan
}

/// In one seed of four followers live on snapshots: logs are cut at once, and streams and installations take so long that much happens meanwhile. From a stream
/// of chance of its own, so that the others stay as they are.
fn with_snapshots(mut plan: Plan, seed: u64) -> Plan {
    let mut rng = Rng::beside(seed, 0x0005_4a95);
    if rng.chance(750) {
        return plan;
    }
    let election_us = plan.election_us();
    plan.checkpoint_every = rng.pick(&[2, 3, 10]);
    plan.config.retained_entries = rng.pick(&[0, 0, 3, 20]);
    plan.config.compaction_lag_max = 0;
    plan.network.stream_us = election_us / rng.pick(&[10, 3, 1]);
    plan.install_us = election_us * rng.between(1, 4);
    plan
}

/// Keys and sessions, from a stream of their own. In three seeds of four they are what they were before plans had them: one, three or all keys, and many
/// concurrent requests, or (every fourth seed) few. In half of the others sessions are forgotten.
fn draw_sessions(seed: u64) -> ClientPlan {
    let mut rng = Rng::beside(seed, 0x5e55_1045);
    let usual = ClientPlan {
        keys: [1, 3, 8][(seed % 3) as usize],
        sessions: if seed % 4 == 3 { 3 } else { 4 },
        pipeline_max: if seed % 4 == 3 { 1 } else { 4 },
        sessions_max: ClientPlan::SESSIONS_KEPT,
        ..ClientPlan::default()
    };
    if rng.chance(750) {
        return usual;
    }
    let sessions = rng.between(1, 12);
    ClientPlan {
        keys: rng.between(1, ClientPlan::KEYS_MAX),
        sessions,
        pipeline_max: rng.pick(&[1, 2, 4, 8]),
        sessions_max: if rng.chance(500) {
            rng.between(1, sessions)
        } else {
            ClientPlan::SESSIONS_KEPT
        },
        ..usual
    }
}

/// How much faster than the slowest clock the fastest may run, where rates lie within `drift` per mille of each other, around 1.
fn drift_ppm(drift: u64) -> u64 {
    drift * 1_000_000 / (1000 - drift / 2)
}

/// Mostly everybody is equal; otherwise some wait up to two election timeouts longer.
fn draw_priorities(rng: &mut Rng, nodes: u64) -> Vec<u8> {
    let is_equal = rng.chance(700);
    let low = |rng: &mut Rng| Config::PRIORITY_MAX - rng.below(3) as u8;
    (0..nodes).map(|_| if is_equal { Config::PRIORITY_MAX } else { low(rng) }).collect()
}

fn draw_config(rng: &mut Rng, election_us: u64, nodes: u64, drift: u64) -> Config {
    // Times are whole microseconds: some are lost by rounding.
    let lease = LeaseConfig { clock_drift_max_ppm: (drift_ppm(drift) + 200) as u32 };
    let zones: BTreeMap<NodeId, u64> =
        (1..=nodes).filter(|_| rng.chance(800)).map(|id| (NodeId(id), id % 3)).collect();
    let groups = CommitGroups { zones, zones_min: rng.between(1, 3) as usize };
    Config {
        election_timeout: Duration::from_micros(election_us),
        heartbeat_interval: Duration::from_micros(election_us / rng.between(3, 10)),
        append_bytes_max: rng.pick(&[1, 200, 2_000, 512 << 10]),
        in_flight_messages_max: rng.pick(&[1, 2, 8, 256]),
        in_flight_bytes_max: rng.pick(&[300, 3_000, 8 << 20]),
        uncommitted_bytes_max: rng.pick(&[2_000, 10_000, 100_000, 32 << 20]),
        tail_bytes_max: rng.pick(&[1, 500, 5_000, 16 << 20]),
        apply_entries_max: rng.pick(&[1, 3, 64, 16 << 10]),
        retained_entries: rng.pick(&[0, 3, 50, 100_000]),
        compaction_lag_max: rng.pick(&[0, 0, 20, 1_000_000]),
        waiting_reads_max: rng.pick(&[3, 100_000]),
        transfer_lag_max: rng.pick(&[0, 10, 10_000]),
        forward_proposals: rng.chance(400),
        lease: rng.chance(400).then_some(lease),
        commit_groups: rng.chance(150).then_some(groups),
        ..Config::new(NodeId(0))
    }
}
