//! The world of a traced run: a clock, a network that loses, delays and parts, disks that a crash catches in the middle of a write, and a
//! client. Everything follows from one seed.
//!
//! Each node takes one input at a time, writes to its disk what comes of it, and only then speaks: that is how the schema's `Ready` works.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use raft_core::{
    Action, Body, ChangeStep, Config, HandleError, Index, Input, Instant, Membership, Message,
    NodeId, ProposalId, Raft, RequestId, RestoreError, Restored, Term,
};

use super::event::{Change, ChangeAction, ConfChange, Line, Name, Prop, RoleName};
use super::node::{Node, Shot, names, project};
use crate::{Image, Rng};

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// How many founding members.
    pub nodes: u64,
    /// How many lines.
    pub events: usize,
    /// Whether members come and go, one at a time.
    pub membership: bool,
}

impl Options {
    /// Three members and a thousand lines, without changes of the membership.
    pub fn new(seed: u64) -> Options {
        Options { seed, nodes: 3, events: 1000, membership: false }
    }
}

/// What a run showed and did.
#[derive(Clone, Debug)]
pub struct Run {
    /// The trace.
    pub lines: Vec<Line>,
    /// What happened in it.
    pub tally: Tally,
}

impl Run {
    /// The trace in its written form: one JSON object a line.
    pub fn to_json(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            // Strings, numbers and booleans only: there is nothing that could not be written.
            text.push_str(&serde_json::to_string(line).unwrap_or_default());
            text.push('\n');
        }
        text
    }
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named after what it counts")]
pub struct Tally {
    pub elections: u64,
    pub crashes: u64,
    /// Of the crashes: in the middle of a write, which was lost.
    pub lost_writes: u64,
    pub restarts: u64,
    pub partitions: u64,
    pub lost: u64,
    pub reordered: u64,
    pub commits: u64,
    pub changes: u64,
    /// Messages that were lost or delayed because the schema could not have told what they would do.
    pub held_back: u64,
}

/// Why a run can not be told.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The options make no run.
    #[error(
        "a traced run has 1 to 9 members and 1 to 1000000 events; asked for {nodes} and {events}"
    )]
    Options {
        /// As asked for.
        nodes: u64,
        /// As asked for.
        events: usize,
    },
    /// A core refused to start.
    #[error("node {node} does not start: {source}")]
    Restore {
        /// Which.
        node: NodeId,
        /// Why.
        source: RestoreError,
    },
    /// A core refused an input.
    #[error("node {node} refuses an input: {source}")]
    Core {
        /// Which.
        node: NodeId,
        /// Why.
        source: HandleError,
    },
    /// A disk and its core disagree.
    #[error("the disk of node {node} does not fit: {what}")]
    Disk {
        /// Which.
        node: NodeId,
        /// How.
        what: String,
    },
    /// Something happened for which the schema has no words, and that should not happen here.
    #[error("node {node}: the schema can not tell {what}")]
    Inexpressible {
        /// Where.
        node: NodeId,
        /// What.
        what: &'static str,
    },
    /// Nothing happens any more.
    #[error("the run stands still after {lines} events")]
    Stuck {
        /// How far it came.
        lines: usize,
    },
}

enum Happening {
    Deliver { from: NodeId, to: NodeId, number: u64, message: Message },
    Restart(NodeId),
    Heal,
    Propose,
    Change,
}

#[derive(Clone, Copy)]
enum Trouble {
    CrashLeader,
    CrashOther,
    PartLeader,
    PartOther,
}

pub(super) struct World {
    options: Options,
    rng: Rng,
    now: u64,
    sequence: u64,
    agenda: BTreeMap<(u64, u64), Happening>,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    lines: Vec<Line>,
    pub(super) tally: Tally,
    /// Nodes that nobody reaches.
    parted: BTreeSet<NodeId>,
    /// What was sent on each link, and the latest of it that arrived.
    links: BTreeMap<(NodeId, NodeId), (u64, u64)>,
    /// Acknowledgements that the schema's nodes have sent: from whom to whom, in which term, up to where.
    replies: BTreeMap<(NodeId, NodeId, Term, Index), u32>,
    troubles: VecDeque<Trouble>,
    trouble_at: usize,
    /// Who is to crash as soon as it has something to write.
    doomed: Option<NodeId>,
    next_id: u64,
    requests: u64,
}

/// Runs one seed until the trace has as many lines as asked for.
///
/// # Errors
/// [`TraceError`]: only wrong options, or a bug in the core or here, make one.
pub fn run(options: &Options) -> Result<Run, TraceError> {
    let Options { nodes, events, .. } = *options;
    if !(1..=9).contains(&nodes) || !(1..=1_000_000).contains(&events) {
        return Err(TraceError::Options { nodes, events });
    }
    let mut world = World::new(*options);
    world.found()?;
    let steps_max = events.saturating_mul(100) + 100_000;
    for _ in 0..steps_max {
        if world.lines.len() >= events {
            world.lines.truncate(events);
            return Ok(Run { lines: world.lines, tally: world.tally });
        }
        world.step()?;
    }
    Err(TraceError::Stuck { lines: world.lines.len() })
}

impl World {
    fn new(options: Options) -> World {
        let mut rng = Rng::new(options.seed);
        let trouble_at = options.events.min(1000) / 8 + rng.below(40) as usize;
        World {
            options,
            rng,
            now: 0,
            sequence: 0,
            agenda: BTreeMap::new(),
            nodes: BTreeMap::new(),
            lines: Vec::new(),
            tally: Tally::default(),
            parted: BTreeSet::new(),
            links: BTreeMap::new(),
            replies: BTreeMap::new(),
            troubles: VecDeque::from([Trouble::CrashLeader, Trouble::PartLeader]),
            trouble_at,
            doomed: None,
            next_id: options.nodes + 1,
            requests: 0,
        }
    }

    fn found(&mut self) -> Result<(), TraceError> {
        let membership = Membership::of_voters((1..=self.options.nodes).map(NodeId));
        for id in membership.voters.clone() {
            self.nodes.insert(id, Node::new(id, Node::founding_disk(&membership)));
            self.start(id)?;
        }
        for id in membership.voters.clone() {
            self.settle(id)?;
        }
        self.at(10_000, Happening::Propose);
        if self.options.membership {
            self.at(300_000, Happening::Change);
        }
        Ok(())
    }

    fn at(&mut self, delay: u64, happening: Happening) {
        self.sequence += 1;
        self.agenda.insert((self.now + delay, self.sequence), happening);
    }

    pub(super) fn push(&mut self, line: Line) {
        self.lines.push(line);
    }

    pub(super) fn node(&mut self, id: NodeId) -> Result<&mut Node, TraceError> {
        let unknown = TraceError::Inexpressible { node: id, what: "a node that nobody started" };
        self.nodes.get_mut(&id).ok_or(unknown)
    }

    pub(super) fn shot(&self, id: NodeId) -> Option<Shot> {
        self.nodes.get(&id)?.shot()
    }

    pub(super) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.parted.contains(&from) || self.parted.contains(&to)
    }

    /// One thing happens: the next on the agenda, or a node's timer.
    fn step(&mut self) -> Result<(), TraceError> {
        self.make_trouble()?;
        let timers = self
            .nodes
            .values()
            .filter_map(|node| Some((node.raft.as_ref()?.poll_timeout()?.0, node.id)));
        let timer = timers.min();
        let planned = self.agenda.first_key_value().map(|(key, _)| *key);
        match (timer, planned) {
            (Some((at, id)), planned) if planned.is_none_or(|(then, _)| at <= then) => {
                self.now = self.now.max(at);
                self.fire_timer_if_due(id)
            }
            (_, Some(key)) => {
                self.now = self.now.max(key.0);
                match self.agenda.remove(&key) {
                    Some(happening) => self.happen(happening),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn happen(&mut self, happening: Happening) -> Result<(), TraceError> {
        match happening {
            Happening::Deliver { from, to, number, message } => {
                self.deliver((from, to), number, message)
            }
            Happening::Restart(id) => {
                self.start(id)?;
                self.tally.restarts += 1;
                self.settle(id)
            }
            Happening::Heal => {
                self.parted.clear();
                Ok(())
            }
            Happening::Propose => {
                let pause = self.rng.between(15_000, 90_000);
                self.at(pause, Happening::Propose);
                self.propose()
            }
            Happening::Change => {
                let pause = self.rng.between(100_000, 400_000);
                self.at(pause, Happening::Change);
                self.change()
            }
        }
    }

    /// Builds a node's core from its disk, and writes what that holds.
    fn start(&mut self, id: NodeId) -> Result<(), TraceError> {
        let (seed, now) = (self.rng.draw(), Instant(self.now));
        let node = self.node(id)?;
        node.lose_memory();
        node.lives += 1;
        let config = Config {
            election_timeout: Duration::from_millis(300),
            heartbeat_interval: Duration::from_millis(100),
            append_bytes_max: 400,
            ..Config::new(id)
        };
        let restored = Restored { log: node.disk.restored(), snapshot: None };
        let raft = Raft::new(config, seed, now, restored)
            .map_err(|source| TraceError::Restore { node: id, source })?;
        node.raft = Some(raft);
        node.durable = node.shot();
        if let Some(shot) = node.shot() {
            self.push(shot.line(Name::InitState, None, None));
        }
        Ok(())
    }

    pub(super) fn fire_timer_if_due(&mut self, id: NodeId) -> Result<(), TraceError> {
        let now = Instant(self.now);
        let due = self.nodes.get(&id).and_then(|node| node.raft.as_ref()?.poll_timeout());
        if due.is_none_or(|due| due > now) {
            return Ok(());
        }
        self.tell(id, Input::Timeout)?;
        self.settle(id)
    }

    pub(super) fn feed(&mut self, id: NodeId, input: Input) -> Result<(), TraceError> {
        let now = Instant(self.now);
        let Some(raft) = self.node(id)?.raft.as_mut() else { return Ok(()) };
        raft.handle(now, input).map_err(|source| TraceError::Core { node: id, source })
    }

    /// Feeds an input that no message's line tells of.
    fn tell(&mut self, id: NodeId, input: Input) -> Result<(), TraceError> {
        let Some(pre) = self.shot(id) else { return Ok(()) };
        self.feed(id, input)?;
        self.note_roles(&pre, false)
    }

    /// Does everything that a node wants done, until it wants no more: what it decides, then its disk, then the network.
    pub(super) fn settle(&mut self, id: NodeId) -> Result<(), TraceError> {
        loop {
            self.drain(id)?;
            // A lost write that overwrites entries can not be told: the schema's node has forgotten them by then.
            let persists = &self.node(id)?.persists;
            let overwrites = persists.iter().any(|persist| persist.truncate_from.is_some());
            if self.doomed == Some(id) && !self.node(id)?.persists.is_empty() && !overwrites {
                self.tally.lost_writes += 1;
                self.crash(id)?;
                return Ok(());
            }
            let Some(shot) = self.shot(id) else { return Ok(()) };
            let node = self.node(id)?;
            let changed = node.durable.as_ref().is_none_or(|durable| {
                (durable.term, durable.vote, durable.commit, durable.last, &durable.voters)
                    != (shot.term, shot.vote, shot.commit, shot.last, &shot.voters)
            });
            let is_ready = node.is_dirty || changed || !node.persists.is_empty();
            let persists = node.write_all().map_err(|what| TraceError::Disk { node: id, what })?;
            if is_ready {
                node.is_dirty = false;
                node.durable = Some(shot.clone());
                let replies = std::mem::take(&mut node.replies);
                self.push(shot.line(Name::Ready, None, None));
                for (to, term, matched) in replies {
                    *self.replies.entry((id, to, term, matched)).or_default() += 1;
                }
            }
            for (to, message) in std::mem::take(&mut self.node(id)?.outgoing) {
                self.transmit(id, to, message);
            }
            self.hear_itself(id)?;
            if persists.is_empty() {
                return Ok(());
            }
            for persist in persists {
                self.tell(id, Input::Persisted(persist.ticket))?;
            }
        }
    }

    /// The schema's nodes get their own votes and acknowledgements as messages, once they are durable.
    fn hear_itself(&mut self, id: NodeId) -> Result<(), TraceError> {
        let Some(shot) = self.shot(id) else { return Ok(()) };
        let node = self.node(id)?;
        let votes = std::mem::take(&mut node.votes_for_itself);
        let acks = std::mem::take(&mut node.own_acks);
        if votes && shot.role == RoleName::Candidate {
            node.granted.insert(id);
            let message = Message { term: shot.term, body: Body::VoteResponse { granted: true } };
            let msg = project(id, id, &message);
            self.push(shot.line(Name::ReceiveRequestVoteResponse, msg, None));
        }
        for (term, matched) in acks {
            if shot.role == RoleName::Leader && shot.term == term {
                let msg = project(id, id, &own_ack(term, matched));
                self.push(shot.line(Name::ReceiveAppendEntriesResponse, msg, None));
            }
        }
        Ok(())
    }

    /// Polls a node until it has nothing more to say; notes what it decided by that.
    fn drain(&mut self, id: NodeId) -> Result<(), TraceError> {
        loop {
            let Some(pre) = self.shot(id) else { return Ok(()) };
            let node = self.node(id)?;
            let mut answers = Vec::new();
            let mut sends = Vec::new();
            while let Some(action) = node.raft.as_mut().and_then(Raft::poll_action) {
                match action {
                    Action::Persist(persist) => {
                        let written = node.log.write(&persist);
                        written.map_err(|what| TraceError::Disk { node: id, what })?;
                        node.persists.push(persist);
                    }
                    Action::Send { to, message } => sends.push((to, message)),
                    Action::Fetch { peer, first, last, budget_bytes } => {
                        answers.push(match node.disk.read(first, last, budget_bytes) {
                            Some(entries) => Input::Fetched { peer, entries },
                            None => Input::FetchFailed { peer },
                        });
                    }
                    Action::Apply(apply) => answers.push(Input::Applied(apply.last)),
                    Action::Resolve(_) | Action::Event(_) => {}
                    _ => {
                        return Err(TraceError::Inexpressible { node: id, what: "a snapshot" });
                    }
                }
            }
            self.note_decisions(&pre, sends)?;
            if answers.is_empty() {
                return Ok(());
            }
            for input in answers {
                self.tell(id, input)?;
            }
        }
    }

    /// What came out of one poll, in the order in which the schema's node would have done it: heartbeats that know of the old commit
    /// index, the new one, the configuration that it commits, what else is sent, and the end of a leadership.
    fn note_decisions(
        &mut self,
        pre: &Shot,
        sends: Vec<(NodeId, Message)>,
    ) -> Result<(), TraceError> {
        let id = pre.id;
        let Some(post) = self.shot(id) else { return Ok(()) };
        let is_early = |message: &Message| matches!(&message.body, Body::Heartbeat { commit, .. } if *commit <= pre.commit);
        let (early, late): (Vec<_>, Vec<_>) =
            sends.into_iter().partition(|(_, message)| is_early(message));
        self.note_sends(pre, early)?;
        let mut led = Shot { commit: post.commit, ..pre.clone() };
        if pre.role == RoleName::Leader && post.commit > pre.commit {
            self.push(led.line(Name::Commit, None, None));
            self.tally.commits += 1;
        }
        self.apply_conf(&led)?;
        led.voters.clone_from(&self.node(id)?.conf.voters);
        self.note_sends(&led, late)?;
        if pre.role == RoleName::Leader && post.role == RoleName::Follower {
            let shot = Shot { role: RoleName::Follower, ..led };
            self.push(shot.line(Name::BecomeFollower, None, None));
        }
        Ok(())
    }

    fn note_sends(&mut self, shot: &Shot, sends: Vec<(NodeId, Message)>) -> Result<(), TraceError> {
        for (to, message) in sends {
            let conf = &self.node(shot.id)?.conf;
            let is_known = match &message.body {
                // To members of the committed configuration only: the schema knows no others yet, or any more.
                Body::Append { .. } | Body::Heartbeat { .. } => {
                    shot.role == RoleName::Leader && conf.contains(to)
                }
                Body::Vote { .. } => conf.voters.contains(&to),
                Body::VoteResponse { granted: false } => {
                    !self.node(shot.id)?.suppressed.remove(&(to, message.term))
                }
                _ => true,
            };
            if !is_known {
                self.tally.held_back += 1;
                continue;
            }
            if matches!(message.body, Body::Append { .. } | Body::Heartbeat { .. }) {
                let msg = project(shot.id, to, &message);
                self.push(shot.line(Name::SendAppendEntriesRequest, msg, None));
                self.node(shot.id)?.is_dirty = true;
            }
            self.node(shot.id)?.outgoing.push((to, message));
        }
        Ok(())
    }

    /// Notes that a committed configuration is in effect, as the schema has it: when it is known to be committed.
    fn apply_conf(&mut self, shot: &Shot) -> Result<(), TraceError> {
        let node = self.node(shot.id)?;
        let (conf, at) = node.committed_conf(shot.commit);
        if at <= node.conf_at {
            return Ok(());
        }
        if shot.role == RoleName::Leader && node.change_at >= at {
            node.change_at = Index(0);
        }
        let newconf = Some(names(&conf.voters));
        (node.conf, node.conf_at) = (conf, at);
        let cc = ConfChange { newconf, ..ConfChange::default() };
        self.push(shot.line(Name::ApplyConfChange, None, Some(Prop { cc })));
        Ok(())
    }

    /// Notes entries that a leader appended, and that it acknowledges them to itself.
    pub(super) fn note_entries(&mut self, pre: &Shot, post: &Shot) -> Result<(), TraceError> {
        for last in pre.last.0..post.last.0 {
            let shot = Shot { last: Index(last), ..post.clone() };
            self.push(shot.line(Name::Replicate, None, None));
        }
        self.acknowledge_itself(post)
    }

    fn acknowledge_itself(&mut self, post: &Shot) -> Result<(), TraceError> {
        let msg = project(post.id, post.id, &own_ack(post.term, post.last));
        self.push(post.line(Name::SendAppendEntriesResponse, msg, None));
        let node = self.node(post.id)?;
        node.own_acks.push((post.term, post.last));
        node.is_dirty = true;
        Ok(())
    }

    pub(super) fn has_reply(&self, (from, to): (NodeId, NodeId), term: Term, at: Index) -> bool {
        self.replies.contains_key(&(from, to, term, at))
    }

    /// Whether the schema's leader still has this acknowledgement to hear; takes it if so.
    pub(super) fn take_reply(
        &mut self,
        (from, to): (NodeId, NodeId),
        term: Term,
        matched: Index,
    ) -> bool {
        let key = (from, to, term, matched);
        let Some(count) = self.replies.get_mut(&key) else { return false };
        *count -= 1;
        if *count == 0 {
            self.replies.remove(&key);
        }
        true
    }

    fn transmit(&mut self, from: NodeId, to: NodeId, message: Message) {
        let link = self.links.entry((from, to)).or_default();
        link.0 += 1;
        let number = link.0;
        if self.is_cut(from, to) || self.rng.chance(40) {
            self.tally.lost += 1;
            return;
        }
        let straggles = self.rng.chance(60);
        let delay = self.rng.between(500, 15_000)
            + if straggles { self.rng.between(10_000, 150_000) } else { 0 };
        self.at(delay, Happening::Deliver { from, to, number, message });
    }

    pub(super) fn send_later(
        &mut self,
        (from, to): (NodeId, NodeId),
        number: u64,
        message: Message,
    ) {
        self.at(20_000, Happening::Deliver { from, to, number, message });
    }

    pub(super) fn note_order(&mut self, link: (NodeId, NodeId), number: u64) {
        let (_, latest) = self.links.entry(link).or_default();
        if number < *latest {
            self.tally.reordered += 1;
        }
        *latest = number.max(*latest);
    }

    fn crash(&mut self, id: NodeId) -> Result<(), TraceError> {
        self.doomed = None;
        self.tally.crashes += 1;
        self.node(id)?.lose_memory();
        let pause = self.rng.between(100_000, 900_000);
        self.at(pause, Happening::Restart(id));
        Ok(())
    }

    /// Whether everybody is up and can be reached.
    fn is_calm(&self) -> bool {
        self.parted.is_empty()
            && self.doomed.is_none()
            && self.nodes.values().all(|node| node.raft.is_some())
    }

    /// Whether a voter leaves a group of which there is an even number: then, and only then, fewer decide by our configuration than by the
    /// committed one, and the schema could not tell of an election meanwhile.
    fn is_delicate(&self) -> bool {
        let leader = self.leader().and_then(|id| self.nodes.get(&id)?.status());
        leader.is_some_and(|status| {
            status.membership_at > status.commit
                && self.nodes.get(&status.id).is_some_and(|node| {
                    let before = node.conf.voters.len();
                    before.is_multiple_of(2) && status.membership.voters.len() < before
                })
        })
    }

    fn make_trouble(&mut self) -> Result<(), TraceError> {
        if self.lines.len() < self.trouble_at || !self.is_calm() || self.is_delicate() {
            return Ok(());
        }
        let Some(leader) = self.leader() else { return Ok(()) };
        let trouble = self.troubles.pop_front().unwrap_or_else(|| {
            let all = [
                Trouble::CrashLeader,
                Trouble::CrashOther,
                Trouble::PartLeader,
                Trouble::PartOther,
            ];
            self.rng.pick(&all)
        });
        self.trouble_at = self.lines.len() + self.rng.between(120, 220) as usize;
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|id| *id != leader).collect();
        let hits_leader =
            matches!(trouble, Trouble::CrashLeader | Trouble::PartLeader) || others.is_empty();
        let victim = if hits_leader { leader } else { self.rng.pick(&others) };
        match trouble {
            Trouble::CrashLeader | Trouble::CrashOther => {
                if self.rng.chance(500) {
                    self.doomed = Some(victim);
                    return Ok(());
                }
                self.crash(victim)
            }
            Trouble::PartLeader | Trouble::PartOther => {
                self.tally.partitions += 1;
                self.parted.insert(victim);
                let pause = self.rng.between(300_000, 1_200_000);
                self.at(pause, Happening::Heal);
                Ok(())
            }
        }
    }

    fn propose(&mut self) -> Result<(), TraceError> {
        let Some(id) = self.leader() else { return Ok(()) };
        let Some(status) = self.node(id)?.status() else { return Ok(()) };
        if status.membership_at > status.commit {
            return Ok(());
        }
        self.fire_timer_if_due(id)?;
        let Some(pre) = self.shot(id) else { return Ok(()) };
        let count = self.rng.between(1, 3);
        let commands =
            (0..count).map(|_| Bytes::from(vec![0; self.rng.below(200) as usize])).collect();
        self.requests += 1;
        self.feed(id, Input::Propose { id: ProposalId(self.requests), commands })?;
        if let Some(post) = self.shot(id).filter(|post| post.last > pre.last) {
            self.note_entries(&pre, &post)?;
        }
        self.settle(id)
    }

    /// Asks the leader for a change of the membership, if it is the time for one.
    fn change(&mut self) -> Result<(), TraceError> {
        let Some(id) = self.leader() else { return Ok(()) };
        self.fire_timer_if_due(id)?;
        let (Some(pre), Some(status)) = (self.shot(id), self.node(id)?.status()) else {
            return Ok(());
        };
        let node = self.node(id)?;
        let is_settled = status.commit == status.last
            && status.membership_at == node.conf_at
            && node.change_at == Index(0);
        if pre.role != RoleName::Leader || !is_settled {
            return Ok(());
        }
        let Some((step, action)) = self.draw_change(&status.membership) else { return Ok(()) };
        if matches!(step, ChangeStep::AddLearner(_) | ChangeStep::AddVoter(_)) {
            let joining = step.node();
            self.next_id += 1;
            let blank = Image::founding(Membership::default());
            self.nodes.insert(joining, Node::new(joining, blank));
            self.start(joining)?;
            self.settle(joining)?;
        }
        self.requests += 1;
        let request = RequestId(self.requests);
        self.feed(id, Input::ChangeMembership { id: request, change: step.into() })?;
        if let Some(post) = self.shot(id).filter(|post| post.last > pre.last) {
            self.tally.changes += 1;
            let changes = Some(vec![Change { nid: step.node().to_string(), action }]);
            let cc = ConfChange { changes, ..ConfChange::default() };
            self.push(pre.line(Name::ChangeConf, None, Some(Prop { cc })));
            self.node(id)?.change_at = post.last;
            self.acknowledge_itself(&post)?;
        }
        self.settle(id)
    }

    fn draw_change(&mut self, membership: &Membership) -> Option<(ChangeStep, ChangeAction)> {
        let voters: Vec<NodeId> = membership.voters.iter().copied().collect();
        let learners: Vec<NodeId> = membership.learners.iter().copied().collect();
        if !learners.is_empty() && self.rng.chance(600) {
            let learner = self.rng.pick(&learners);
            return Some((ChangeStep::Promote(learner), ChangeAction::AddNewServer));
        }
        let size = voters.len() + learners.len();
        if size < self.options.nodes as usize + 2 && self.rng.chance(600) {
            let joining = NodeId(self.next_id);
            return Some(if self.rng.chance(700) {
                (ChangeStep::AddLearner(joining), ChangeAction::AddLearner)
            } else {
                (ChangeStep::AddVoter(joining), ChangeAction::AddNewServer)
            });
        }
        let everybody: Vec<NodeId> = voters.iter().chain(&learners).copied().collect();
        let leaving = self.rng.pick(&everybody);
        let is_voter = membership.voters.contains(&leaving);
        let is_even = voters.len().is_multiple_of(2);
        if is_voter && (voters.len() < 3 || is_even && !self.is_calm()) {
            return None;
        }
        Some((ChangeStep::Remove(leaving), ChangeAction::RemoveServer))
    }
}

fn own_ack(term: Term, matched: Index) -> Message {
    let outcome = raft_core::AppendOutcome::Accepted { matched };
    Message { term, body: Body::AppendResponse(outcome) }
}
