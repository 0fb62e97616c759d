//! The event loop, and the driver: what a real driver does with threads, this does with one queue of events in virtual time.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use raft_core::{
    Action, Body, Config, HandleError, Input, Membership, NodeId, PeerFault, Raft, StorageHealth,
    StoreId, StoreStamp,
};

use crate::budgets::Nearness;
use crate::checker::broken;
use crate::clients::Clients;
use crate::event::{Agenda, Envelope, Event};
use crate::machine::{Progress, mix};
use crate::mutants::mutated;
use crate::network::Network;
use crate::node::{Clock, Driver, Node};
use crate::operator::Operator;
use crate::oracle::Oracle;
use crate::provoke::judge_damaged_start;
use crate::starting::{found_by, judge_real_restore, judge_restored, starts};
use crate::timeline::{Kind, Mark, Moment, Passage};
use crate::{Checker, Coverage, Image, Ledger, Machine, Plan, Rng, Violation};

/// Whoever looks on is told of every moment of a run.
pub type Observer<'a> = &'a mut dyn FnMut(Moment);

/// One cluster in its world. See [`run_seed`](crate::run_seed).
#[expect(clippy::struct_excessive_bools, reason = "four facts that do not depend on each other")]
pub struct World<'a, M> {
    pub(crate) seed: u64,
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    now: u64,
    events: Agenda,
    pub(crate) nodes: Vec<Node<M>>,
    pub(crate) network: Network,
    /// Disks that were wiped: what was on them counted when it was promised.
    pub(crate) graves: Vec<(NodeId, StoreId, Image)>,
    /// Faults are over, within the core: the liveness phase.
    pub(crate) calm: bool,
    /// The nodes that work and hear each other in the liveness phase.
    pub(crate) core: BTreeSet<usize>,
    /// When a leader outside the core was last heard in it.
    pub(crate) outside_leader_heard_at: u64,
    /// The core hears nobody outside any more.
    pub(crate) is_severed: bool,
    /// No core is able to go on, and why not.
    pub(crate) unable: Option<crate::liveness::Unable>,
    pub(crate) checker: Checker,
    pub(crate) ledger: Ledger,
    pub(crate) clients: Clients,
    pub(crate) oracle: Oracle<M>,
    pub(crate) operator: Operator,
    pub(crate) coverage: Coverage,
    pub(crate) nearness: Nearness,
    /// Clocks run further apart than leases allow for: they overlap with newer leaders. That is put aside, so that a run goes on to the harm that it does,
    /// if it does any: a stale read.
    pub(crate) is_beyond_drift: bool,
    pub(crate) next_id: u64,
    pub(crate) reads_answered: u64,
    /// What a core took for committed while it is being polled, to be judged once that is over.
    pub(crate) claims: Vec<raft_core::Index>,
    /// How many campaigns in a row began as early as they may.
    pub(crate) prompt_campaigns: u32,
    hash: u64,
    /// The hash is over the whole of every input and action, not only over what they are about.
    hashes_all: bool,
    /// How many messages were sent.
    pub(crate) messages: u64,
    observer: Option<Observer<'a>>,
}

/// More events than this at one moment mean that time stands still.
const EVENTS_AT_ONCE_MAX: u64 = 200_000;
/// More events than this that lie ahead mean that messages beget messages without end: a busy world has some thousands.
const EVENTS_AHEAD_MAX: usize = 300_000;
/// More actions than this in one poll mean that polling does not end.
pub(crate) const ACTIONS_AT_ONCE_MAX: u64 = 100_000;

impl<'a, M: Machine> World<'a, M> {
    /// Draws a plan from `seed` and founds a cluster.
    pub fn new(seed: u64, observer: Option<Observer<'a>>) -> World<'a, M> {
        let mut rng = Rng::new(seed);
        let plan = Plan::draw(&mut rng);
        World::with_plan(seed, plan, rng, observer)
    }

    /// Founds a cluster after a plan of the caller's.
    pub fn with_plan(
        seed: u64,
        plan: Plan,
        mut rng: Rng,
        observer: Option<Observer<'a>>,
    ) -> World<'a, M> {
        let mut membership = Membership::of_voters((1..=plan.voters).map(NodeId));
        if plan.has_witness {
            membership.witnesses.insert(NodeId(plan.voters));
        }
        let count = plan.voters + plan.spares;
        let sessions_max = plan.client.sessions_max;
        let nodes = (1..=count).map(|id| {
            // Who stands by knows of no group.
            let known = if id <= plan.voters { membership.clone() } else { Membership::default() };
            let is_witness = plan.is_witness(NodeId(id));
            Node { is_witness, ..Node::new(NodeId(id), StoreId(rng.draw()), &known, sessions_max) }
        });
        World {
            seed,
            now: 0,
            events: Agenda::default(),
            nodes: nodes.collect(),
            network: Network::new(count as usize),
            graves: Vec::new(),
            calm: false,
            core: BTreeSet::new(),
            outside_leader_heard_at: 0,
            is_severed: false,
            unable: None,
            operator: Operator::new((1..=count).map(NodeId).filter(|id| plan.is_witness(*id))),
            checker: Checker::new(membership),
            ledger: Ledger::default(),
            clients: Clients::new(&plan.client),
            oracle: Oracle::new(sessions_max),
            coverage: Coverage::default(),
            nearness: Nearness::default(),
            is_beyond_drift: plan.is_beyond_drift(),
            next_id: 1,
            reads_answered: 0,
            claims: Vec::new(),
            prompt_campaigns: 0,
            hash: 0,
            hashes_all: false,
            messages: 0,
            observer,
            rng,
            plan,
        }
    }

    /// The virtual time.
    pub fn now_us(&self) -> u64 {
        self.now
    }

    /// A hash over every action so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// From now on the hash is over the whole of every input and action. That takes much longer.
    pub(crate) fn hash_all(&mut self) {
        self.hashes_all = true;
    }

    /// What has happened so far.
    pub fn coverage(&self) -> Coverage {
        let mut coverage = self.coverage.clone();
        self.nearness.count(&mut coverage);
        coverage
    }

    /// Runs the phase of faults, then the phase without.
    ///
    /// # Errors
    /// The first property that does not hold.
    pub fn run(&mut self) -> Result<(), Violation> {
        self.begin()?;
        let end = self.plan.chaos_us;
        self.run_until(end, |_| false)?;
        self.calm_down()?;
        self.converge()?;
        self.judge_history()?;
        self.let_a_member_lie()
    }

    /// Starts all nodes, and whatever asks and breaks.
    pub(crate) fn begin(&mut self) -> Result<(), Violation> {
        let (seed, nodes) = (self.seed, self.nodes.len());
        let voters = self.plan.voters;
        self.say(|| format!("seed {seed}: {nodes} nodes, {voters} of them voters"));
        for node in 0..self.nodes.len() {
            let membership = self.nodes[node].disk.membership().clone();
            if self.plan.disk.has_real_stores {
                self.found_real_store(node, &membership)?;
            }
            self.start(node)?;
        }
        self.at(self.plan.client.every_us, Event::Client);
        if self.plan.fault_every_us > 0 {
            let first = self.rng.around(self.plan.fault_every_us);
            self.at(first, Event::Fault);
        }
        if self.plan.operate_every_us > 0 {
            let first = self.rng.around(self.plan.operate_every_us);
            self.at(first, Event::Operate);
        }
        Ok(())
    }

    pub(crate) fn run_until(
        &mut self,
        deadline: u64,
        done: impl Fn(&World<'a, M>) -> bool,
    ) -> Result<bool, Violation> {
        let mut at_once = 0;
        loop {
            if done(self) {
                return Ok(true);
            }
            if self.events.next_at().is_none_or(|at| at > deadline) {
                self.now = deadline;
                return Ok(false);
            }
            let Some((at, event)) = self.events.pop() else { return Ok(false) };
            at_once = if at > self.now { 0 } else { at_once + 1 };
            if at_once > EVENTS_AT_ONCE_MAX {
                return broken("time goes on", format!("endless events, such as {event:?}"));
            }
            if self.events.len() > EVENTS_AHEAD_MAX {
                return broken(
                    "messages do not multiply",
                    format!("{} events lie ahead, such as {event:?}", self.events.len()),
                );
            }
            self.now = at;
            self.coverage.hit("events");
            self.happen(event)?;
        }
    }

    /// Schedules an event `delay` from now.
    pub(crate) fn at(&mut self, delay: u64, event: Event) {
        self.events.push(self.now + delay, event);
    }

    /// Tells whoever looks on.
    pub(crate) fn observe(&mut self, moment: impl FnOnce(u64) -> Moment) {
        if let Some(observer) = &mut self.observer {
            observer(moment(self.now));
        }
    }

    /// Something worth a line of the timeline.
    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        self.mark(Mark::Note, None, line);
    }

    /// Something that happens to a node, or to all.
    pub(crate) fn mark(&mut self, mark: Mark, node: Option<usize>, line: impl FnOnce() -> String) {
        let node = node.map(|node| self.nodes[node].id);
        self.observe(|at_us| Moment { at_us, kind: Kind::Mark { mark, node }, text: line() });
    }

    pub(crate) fn mix(&mut self, value: u64) {
        self.hash = mix(self.hash, value);
    }

    /// Mixes all of it, where everything is hashed.
    pub(crate) fn mix_whole(&mut self, what: &impl fmt::Debug) {
        if self.hashes_all {
            let mut hasher = DefaultHasher::new();
            format!("{what:?}").hash(&mut hasher);
            self.mix(hasher.finish());
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        // The kernel goes on while a process is stopped: its disk works, its timers and sockets wait.
        if let Some(node) = event.waits_for()
            && self.nodes[node].paused_until > 0
        {
            self.nodes[node].stash.push(event);
            return Ok(());
        }
        match event {
            Event::Deliver { to, envelope } => self.on_deliver(to, envelope),
            Event::Wake { node, life } => self.on_wake(node, life),
            Event::Poll { node, life } if self.alive(node, life) => self.drain(node),
            Event::Flush { node, life } if self.alive(node, life) => self.on_flush(node),
            Event::Tell { node, life, input } if self.alive(node, life) => {
                let is_over = matches!(input, Input::StorageHealth(StorageHealth::Healthy));
                if is_over && self.nodes[node].stalled_until > self.now {
                    // It has stalled again, or does for ever.
                    return Ok(());
                }
                if is_over {
                    self.coverage.hit("disk stalls that ended");
                }
                self.tell(node, input)
            }
            Event::Work { node, life } if self.alive(node, life) => self.on_work(node),
            Event::Checkpointed { node, life } if self.alive(node, life) => {
                self.on_checkpointed(node)
            }
            Event::Fetch { node, life, fetch } if self.alive(node, life) => {
                self.on_fetch(node, fetch)
            }
            Event::StreamTurn { node, life, peer } if self.alive(node, life) => {
                self.on_stream_turn(node, peer);
                Ok(())
            }
            Event::Frame { to, way, frame, is_sound } => self.on_frame(to, way, (&frame, is_sound)),
            Event::StreamEnded { node, life, term, to, position } if self.alive(node, life) => {
                // Its driver forgets its streams when it leads no more.
                let leads =
                    self.nodes[node].watch.leading.as_ref().is_some_and(|it| it.term == term);
                let input = Input::SnapshotStreamEnded { to, position };
                // It may be a report of an earlier stream of the same: the core can not tell.
                let watch = &mut self.nodes[node].watch;
                watch.streams.remove(&(to, position.index));
                watch.unsettled.insert(to);
                if leads { self.tell(node, input) } else { Ok(()) }
            }
            Event::Restart { node } if self.nodes[node].raft.is_none() => self.start(node),
            Event::CrashAgain { node, life, times } if self.alive(node, life) => {
                self.crash_in_loop(node, times)
            }
            Event::CrashInRecovery { node, life } if self.alive(node, life) => {
                self.crash_in_recovery(node)
            }
            Event::Resume { node } => self.resume(node),
            Event::Flap { from, to, times } => {
                self.flap(from, to, times);
                Ok(())
            }
            Event::Heal if !self.calm => {
                self.heal();
                Ok(())
            }
            Event::Fault if !self.calm => self.on_fault(),
            Event::Client => self.on_client(),
            Event::Operate if !self.calm => self.on_operate(),
            Event::OperateInHaste if !self.calm => self.operate(),
            // Meant for a life that has ended, or for a phase that has.
            _ => Ok(()),
        }
    }

    pub(crate) fn alive(&self, node: usize, life: u64) -> bool {
        let is_same = self.nodes[node].life == life || mutated!(AnswersOfAnEarlierLife);
        self.nodes[node].raft.is_some() && is_same
    }

    /// Starts a node from its disk.
    pub(crate) fn start(&mut self, node: usize) -> Result<(), Violation> {
        // Who is down when faults become permanent stays down, or goes on to come and go.
        if self.calm && !self.core.contains(&node) && !self.nodes[node].is_looping {
            return Ok(());
        }
        // Far from both ends of time, so that a clock may be set back against the others'.
        let (seed, offset) = (self.rng.draw(), (1 << 50) + self.rng.below(1 << 40));
        let drift = self.plan.drift;
        let rate = 1000 - drift / 2 + self.rng.below(drift + 1);
        let now = self.now;
        let is_witness = self.nodes[node].is_witness;
        let sessions_max = self.plan.client.sessions_max;
        let it = &mut self.nodes[node];
        it.life += 1;
        it.store.life += 1;
        // No store of this world is put back from a copy, so any number that differs from start to start will do.
        it.store.nonce = it.store.life;
        it.clock = Clock { rate, offset };
        it.paused_until = 0;
        it.frozen_at = None;
        it.stalled_until = 0;
        it.log = it.disk.clone();
        it.claimed = raft_core::Index(0);
        let may_have_promised =
            self.plan.config.lease.is_some() && it.disk.hard_state.term > raft_core::Term(0);
        it.watch.restart(it.clock.local(now), may_have_promised);
        it.watch.restored_commit =
            it.checkpoint.as_ref().map_or(it.disk.base.index, |held| held.meta.position.index);
        it.watch.told_commit = it.disk.hard_state.commit;
        let founding = it.disk.membership_as_of(raft_core::Index(0)).clone();
        let machine = match &it.checkpoint {
            Some(held) => Progress::restore(&held.meta, &held.data, sessions_max),
            None => Ok(Progress::founding(founding, sessions_max)),
        };
        let before = match machine {
            Ok(machine) => std::mem::replace(&mut it.machine, machine),
            Err(error) => {
                return broken("checkpoints can be read", format!("node {}: {error}", it.id));
            }
        };
        if mutated!(AppliedTwiceAfterARestart) {
            it.machine.state = before.state;
        }
        it.driver = Driver::new(
            it.checkpoint.as_ref().map(|held| held.meta.clone()),
            it.disk.base_membership.clone(),
            (self.plan.config.election_timeout, self.plan.checkpoint_every),
        );
        let restored = found_by(it);
        let config = Config {
            id: it.id,
            priority: self.plan.priorities[node],
            is_witness,
            store: self.plan.has_stores.then_some(it.store),
            ..self.plan.config.clone()
        };
        self.checker.on_start(it.id, &it.disk.hard_state)?;
        if let Some(real) = &mut it.real {
            judge_real_restore(it.id, &real.restore(), &restored.log)?;
        }
        let line = starts(Some(it.life), &restored);
        let local = it.clock.local(now);
        match Raft::new(config.clone(), seed, local, restored.clone()) {
            Ok(raft) => {
                let base = raft.status().base;
                judge_restored(it, base)?;
                it.role = raft.role_kind();
                it.raft = Some(raft);
            }
            Err(error) => {
                return broken("a node can restart", format!("node {} {line}: {error}", it.id));
            }
        }
        let refused = judge_damaged_start(&config, local, &restored, &mut Rng::new(seed))?;
        if let Some(counted) = refused {
            self.coverage.hit(counted);
        }
        if self.nodes[node].life > 1 {
            self.coverage.hit("restarts");
        }
        if is_witness {
            self.coverage.hit("witness starts");
        }
        self.mark(Mark::Start, Some(node), || line);
        let it = &self.nodes[node];
        if let (Some(raft), id) = (&it.raft, it.id) {
            let (role, term) = (raft.status().role, it.disk.hard_state.term);
            self.observe(|at| Moment::of_start(at, id, role, term));
        }
        if !self.is_spared(node) && self.rng.chance(300) {
            self.replay_to(node);
        }
        self.drain(node)
    }

    fn on_deliver(&mut self, to: usize, envelope: Envelope) -> Result<(), Violation> {
        let Envelope { number, from, store, message } = envelope;
        let way = Passage { number, from, to: self.nodes[to].id };
        if self.nodes[to].raft.is_none() {
            let why = Some("nobody is there");
            self.observe(|at| Moment::of_message(at, Kind::Lost(way), &message, why));
            return Ok(());
        }
        if self.is_unheard(from, to, &message) {
            return Ok(());
        }
        self.coverage.hit("messages delivered");
        self.observe(|at| Moment::of_message(at, Kind::Arrived(way), &message, None));
        self.tell(to, Input::Message { from, store, message })?;
        self.provoke_sometimes(to)
    }

    fn on_wake(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        if !self.alive(node, life) || self.nodes[node].wake_at.is_none_or(|at| at > self.now) {
            return Ok(());
        }
        self.nodes[node].wake_at = None;
        self.tell(node, Input::Timeout)
    }

    /// Hands one input to a core, and polls it now or soon.
    pub(crate) fn tell(&mut self, node: usize, input: Input) -> Result<(), Violation> {
        let id = self.nodes[node].id;
        if !matches!(input, Input::Message { .. }) {
            self.observe(|at| Moment::of_input(at, id, &input));
        }
        let stamp = match &input {
            Input::Message { from, store, message } => {
                (*store).map(|stamp| (*from, message.term, stamp))
            }
            _ => None,
        };
        let now = self.nodes[node].clock.local(self.now);
        if self.nodes[node].raft.is_none() {
            return Ok(());
        }
        self.mix_whole(&input);
        // What it believes of its lease is looked at now and then, and whenever it should have lost that.
        let was_away =
            now.since(self.nodes[node].watch.told) > self.plan.config.heartbeat_interval * 2;
        self.watch_input(node, &input, now);
        // It may lead and not have said so yet: it is told of more before it is polled.
        let leads = self.nodes[node].raft.as_ref().is_some_and(|raft| raft.leader() == Some(id));
        self.nodes[node].watch.holdings.note_input(&input, leads);
        let (mut heard, mut is_compared) = heard_in(&input);
        let is_checked = self.messages.is_multiple_of(4)
            || was_away
            || matches!(input, Input::ClockSuspect | Input::StorageHealth(_));
        let Some(raft) = &mut self.nodes[node].raft else { return Ok(()) };
        match raft.handle(now, input) {
            Ok(()) => self.judge_stamp(node, stamp)?,
            Err(HandleError::Peer { fault: PeerFault::RolledBackStore { .. }, .. })
                if stamp.is_some_and(|(from, _, stamp)| self.is_echo(from, stamp)) =>
            {
                (heard, is_compared) = (None, false);
                if let (Some((from, ..)), Some(leading)) =
                    (stamp, &mut self.nodes[node].watch.leading)
                {
                    // It is no sign of life.
                    leading.answered_at.remove(&from);
                }
                self.coverage.hit("echoes of earlier lives refused");
            }
            Err(error @ HandleError::Peer { .. }) => {
                return broken("honest peers", format!("node {id} says: {error}"));
            }
            Err(error @ HandleError::Caller(_)) => {
                return broken("an honest driver", format!("node {id} says: {error}"));
            }
        }
        self.watch_handled(node, heard, (now, is_checked))?;
        let watch = &mut self.nodes[node].watch;
        watch.has_compared |= is_compared && watch.heard.is_some_and(|(_, at)| at == now);
        if self.nodes[node].poll_scheduled {
            self.nodes[node].watch.has_echo = false;
            return Ok(());
        }
        if self.rng.chance(self.plan.coalesce) {
            self.nodes[node].watch.has_echo = false;
            self.nodes[node].poll_scheduled = true;
            let delay = self.takes(node, self.plan.network.delay_us / 2);
            let life = self.nodes[node].life;
            self.at(delay, Event::Poll { node, life });
            return Ok(());
        }
        self.drain(node)
    }

    /// Whether a message is of an earlier start of its sender.
    fn is_echo(&self, from: NodeId, stamp: StoreStamp) -> bool {
        self.nodes.iter().any(|node| node.id == from && node.store != stamp)
    }

    /// Polls a core until it has nothing more to say, and does what it says.
    pub(crate) fn drain(&mut self, node: usize) -> Result<(), Violation> {
        self.nodes[node].poll_scheduled = false;
        let mut count = 0;
        while let Some(action) = self.nodes[node].raft.as_mut().and_then(Raft::poll_action) {
            count += 1;
            judge_polling(count, &action)?;
            // The network tells of messages, and of what becomes of them.
            if !matches!(action, Action::Send { .. }) {
                let id = self.nodes[node].id;
                self.observe(|at| Moment::of_action(at, id, &action));
            }
            self.perform(node, action)?;
            if self.dies_now(node) {
                return self.die_between_actions(node);
            }
        }
        if let Some(highest) = self.claims.drain(..).max() {
            self.on_commit_claim(node, highest)?;
        }
        self.watch_drained(node)?;
        self.judge_budgets(node)?;
        let it = &self.nodes[node];
        let Some(at) = it.raft.as_ref().and_then(Raft::poll_timeout) else {
            return self.hand_over(node);
        };
        let wake_at = it.clock.global(at).max(self.now + 1);
        if it.wake_at.is_none_or(|scheduled| scheduled > wake_at || scheduled <= self.now) {
            let life = it.life;
            self.nodes[node].wake_at = Some(wake_at);
            let is_late = self.rng.chance(100);
            let late = if is_late { self.takes(node, self.plan.network.delay_us / 2) } else { 0 };
            self.at(wake_at - self.now + late, Event::Wake { node, life });
        }
        self.hand_over(node)
    }

    /// Whether a process dies after the action that it has just carried out.
    fn dies_now(&mut self, node: usize) -> bool {
        let Some(left) = &mut self.nodes[node].dies_after else { return false };
        *left = left.saturating_sub(1);
        *left == 0
    }

    /// What a core was polled for and is not carried out yet is lost with it.
    fn die_between_actions(&mut self, node: usize) -> Result<(), Violation> {
        let next = self.nodes[node].raft.as_mut().and_then(Raft::poll_action);
        if next.is_some() {
            self.coverage.hit("crashes between two actions");
        }
        // Of reads that were ready: nobody is told any more.
        self.claims.clear();
        self.crash_for_a_while(node)
    }

    /// Whether faults are over for this node: it is one of the core, in the liveness phase.
    pub(crate) fn is_spared(&self, node: usize) -> bool {
        self.calm && self.core.contains(&node)
    }

    /// How long something takes at a node: `usual` while faults go on, and then so little of an election timeout that what has piled up is
    /// worked off before the liveness phase ends, one message and one entry at a time if the configuration says so.
    pub(crate) fn takes(&mut self, node: usize, usual: u64) -> u64 {
        let quick = self.plan.election_us() / 2000;
        let mean = if self.is_spared(node) { usual.min(quick) } else { usual };
        self.rng.around(mean)
    }
}

/// Who speaks as a leader in an input, and in which term; and whether logs are compared by it.
fn heard_in(input: &Input) -> (Option<(NodeId, raft_core::Term)>, bool) {
    let Input::Message { from, message, .. } = input else { return (None, false) };
    let speaks = Some((*from, message.term));
    match message.body {
        Body::Append { .. } | Body::SnapshotOffer { .. } => (speaks, true),
        Body::Heartbeat { .. } | Body::TimeoutNow => (speaks, false),
        _ => (None, false),
    }
}

/// A core that is polled has nothing more to say at some time.
pub(crate) fn judge_polling(count: u64, action: &Action) -> Result<(), Violation> {
    if count > ACTIONS_AT_ONCE_MAX {
        return broken("polling ends", format!("endless actions, such as {action:?}"));
    }
    Ok(())
}

/// In every fifth seed machines are quick: their nodes do small work at once.
pub(crate) fn has_quick_machines(seed: u64) -> bool {
    seed % 5 == 2
}
