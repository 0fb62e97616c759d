//! Looking for the leader: all nodes are asked in parallel, again and again, each at its own pace, until the search is dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use raft_core::{NodeId, Term};
use raft_net_quic::ClientEndpoint;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::error::Trouble;
use super::link::Event;
use super::status::Asking;
use crate::protocol::NodeReport;

/// The waits of a calm search, which only looks whether something better than a working connection has come up.
const CALM: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(1));
/// How long a node has for one answer.
const PATIENCE: Duration = Duration::from_millis(500);
/// The first and the longest wait before a node that answers is asked again: what a client adds to the length of an election.
const PACE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(40));
/// The first and the longest wait before a node that does not answer is called again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// What a node said to search number `search`.
#[derive(Debug)]
pub(super) struct Reported {
    pub(super) search: u64,
    pub(super) node: NodeId,
    pub(super) result: Result<Box<NodeReport>, Trouble>,
}

/// A search. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) number: u64,
    pub(super) is_calm: bool,
    pub(super) since: Instant,
    /// The highest term in which a node said that it leads.
    pub(super) heard: Option<Term>,
    _tasks: JoinSet<()>,
}

impl Search {
    pub(super) fn start(
        endpoint: &Arc<ClientEndpoint>,
        number: u64,
        is_calm: bool,
        nodes: BTreeMap<NodeId, String>,
        events: &mpsc::Sender<Event>,
    ) -> Search {
        let mut tasks = JoinSet::new();
        for (node, address) in nodes {
            let seed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ node.0 ^ random_seed();
            let prober = Prober {
                endpoint: Arc::clone(endpoint),
                search: number,
                pace: if is_calm { CALM } else { PACE },
                back_off: if is_calm { CALM } else { BACK_OFF },
                node,
                address,
                events: events.clone(),
                jitter: Jitter(seed),
            };
            tasks.spawn(prober.run());
        }
        Search { number, is_calm, since: Instant::now(), heard: None, _tasks: tasks }
    }
}

struct Prober {
    endpoint: Arc<ClientEndpoint>,
    search: u64,
    pace: (Duration, Duration),
    back_off: (Duration, Duration),
    node: NodeId,
    address: String,
    events: mpsc::Sender<Event>,
    jitter: Jitter,
}

impl Prober {
    async fn run(mut self) {
        let mut wait = self.back_off.0;
        loop {
            let connecting = self.endpoint.connect(self.node, &self.address);
            let trouble = match tokio::time::timeout(2 * PATIENCE, connecting).await {
                Ok(Ok(stream)) => {
                    wait = self.back_off.0;
                    self.ask(Asking::new(stream)).await
                }
                Ok(Err(error)) => error.into(),
                Err(_) => "it can not be reached".into(),
            };
            self.report(Err(trouble)).await;
            tokio::time::sleep(self.jitter.spread(wait)).await;
            wait = (wait * 2).min(self.back_off.1);
        }
    }

    /// Asks until there is no answer, and says why.
    async fn ask(&mut self, mut asking: Asking) -> Trouble {
        let mut wait = self.pace.0;
        loop {
            match tokio::time::timeout(PATIENCE, asking.ask()).await {
                Ok(Ok(report)) => self.report(Ok(Box::new(report))).await,
                Ok(Err(error)) => return Trouble::from(&error),
                Err(_) => {
                    // Perhaps only the connection is dead.
                    self.endpoint.forget(self.node, &self.address);
                    return "it does not answer".into();
                }
            }
            tokio::time::sleep(self.jitter.spread(wait)).await;
            wait = (wait * 2).min(self.pace.1);
        }
    }

    async fn report(&self, result: Result<Box<NodeReport>, Trouble>) {
        let reported = Reported { search: self.search, node: self.node, result };
        let _ = self.events.send(Event::Reported(reported)).await;
    }
}

/// Spreads waits, so that many clients do not ask in step.
#[derive(Debug)]
pub(super) struct Jitter(pub(super) u64);

impl Jitter {
    /// Between half of `wait` and all of it.
    pub(super) fn spread(&mut self, wait: Duration) -> Duration {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        let share = (mixed ^ mixed >> 31) as u32 & 0xFFFF;
        wait / 2 + wait / 2 * share / 0xFFFF
    }
}

/// Differs from client to client; without randomness jitter is worse, and nothing else.
pub(super) fn random_seed() -> u64 {
    getrandom::u64().unwrap_or(0)
}
