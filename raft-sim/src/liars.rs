//! When a run is over, members lie to who leads, as no disk of this world does: a store was put back from a copy of itself, or lost what it acknowledged. No protocol
//! keeps a group safe from that in every case (nobody may remember what was said), so it has no place in a run whose safety is judged; but a leader that remembers
//! must draw its conclusions. Here too: a leader that stood still, and a group that begins to tell its members' stores apart.

use raft_core::{
    Action, AppendOutcome, Body, Config, Event, Index, Input, Instant, LogPosition, Membership,
    Message, NodeId, Payload, Raft, RoleKind, StoreStamp, Term,
};

use crate::checker::broken;
use crate::node::index_of;
use crate::starting::found_by;
use crate::world::World;
use crate::{Image, Machine, Violation};

/// How often who lost its log denies what it is asked for, or the leader does something by itself.
const TURNS: usize = 20;
/// No leader does more at once.
const ACTIONS_MAX: usize = 1_000;

/// A leader, and a member that lies to it.
pub(crate) struct Lie<'a> {
    raft: &'a mut Raft,
    now: Instant,
    term: Term,
    pub(crate) peer: NodeId,
    /// What the member acknowledged.
    pub(crate) matched: Index,
    /// What the leader reads from its disk.
    log: Image,
}

impl Lie<'_> {
    /// The leader hears this from the member, and says what it does about it. What it refuses it does nothing about.
    fn hears(&mut self, store: Option<StoreStamp>, body: Body) -> Vec<Action> {
        let message = Message { term: self.term, body };
        self.does(Input::Message { from: self.peer, store, message })
    }

    fn does(&mut self, input: Input) -> Vec<Action> {
        let (mut done, mut seen) = (Vec::new(), 0);
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let _ = self.raft.handle(self.now, input);
            done.extend(std::iter::from_fn(|| self.raft.poll_action()));
            let fetch = done.iter().skip(seen).find_map(|action| self.reads(action));
            seen = done.len();
            next = fetch.map(|(first, last, budget)| {
                let peer = self.peer;
                let found = self.log.read(first, last, budget);
                found
                    .map_or(Input::FetchFailed { peer }, |entries| Input::Fetched { peer, entries })
            });
            next = next.filter(|_| done.len() < ACTIONS_MAX);
        }
        done
    }

    /// What the leader does by itself next, at its time.
    fn waits(&mut self) -> Vec<Action> {
        self.now = self.now.max(self.raft.poll_timeout().unwrap_or(self.now));
        self.does(Input::Timeout)
    }

    /// It hears that the member is alive, on this store.
    fn hears_of(&mut self, store: StoreStamp) -> Vec<Action> {
        self.hears(Some(store), Body::HeartbeatResponse { read_context: 0 })
    }

    /// The member's store starts a second time in one life.
    fn repeats_a_life(&mut self, store: StoreStamp) -> Vec<Action> {
        self.hears_of(store);
        self.hears_of(StoreStamp { nonce: store.nonce ^ (1 << 60), ..store })
    }

    /// The member starts once more, and denies all that it is asked about: its log is empty. Without `store` it does not even start.
    fn loses_its_log(&mut self, store: Option<StoreStamp>) -> Vec<Action> {
        // What is being read for it will not come any more.
        self.does(Input::FetchFailed { peer: self.peer });
        let mut done = match store {
            Some(store) => {
                self.hears_of(store);
                self.hears_of(StoreStamp { life: store.life + 1, ..store })
            }
            None => self.does(Input::Unreachable(self.peer)),
        };
        let store = store.map(|store| StoreStamp { life: store.life + 1, ..store });
        let mut asked = done.iter().rev().find_map(|action| self.asks(action));
        for _ in 0..TURNS {
            let more = if let Some(prev) = asked {
                let outcome = AppendOutcome::Rejected { prev, hint: LogPosition::ORIGIN };
                self.hears(store, Body::AppendResponse(outcome))
            } else {
                self.hears(store, Body::HeartbeatResponse { read_context: 0 });
                self.waits()
            };
            asked = more.iter().rev().find_map(|action| self.asks(action));
            done.extend(more);
        }
        done
    }

    /// What is to be read for the member.
    fn reads(&self, action: &Action) -> Option<(Index, Index, usize)> {
        match *action {
            Action::Fetch { peer, first, last, budget_bytes } if peer == self.peer => {
                Some((first, last, budget_bytes))
            }
            _ => None,
        }
    }

    /// What comes after which the member is sent.
    fn asks(&self, action: &Action) -> Option<Index> {
        let Action::Send { to, message } = action else { return None };
        let Body::Append { prev, .. } = &message.body else { return None };
        (*to == self.peer).then_some(prev.index)
    }
}

/// Whether the leader told of the store that it does not count.
fn is_rejected(actions: &[Action], peer: NodeId) -> bool {
    let is_it = |action: &Action| matches!(action, Action::Event(Event::StoreRejected { node, .. }) if *node == peer);
    actions.iter().any(is_it)
}

/// Of two starts in one life, the second knew nothing of the first.
pub(crate) fn judge_repeated_life(actions: &[Action], peer: NodeId) -> Result<(), Violation> {
    if is_rejected(actions, peer) {
        return Ok(());
    }
    let what = format!("node {peer} started twice in one life, and the leader does {actions:?}");
    broken("a store that repeats a life does not count", what)
}

/// What was acknowledged in an earlier life must still be there.
pub(crate) fn judge_loss(actions: &[Action], peer: NodeId) -> Result<(), Violation> {
    if is_rejected(actions, peer) {
        return Ok(());
    }
    let what = format!("node {peer} lost its log, and the leader does {actions:?}");
    broken("a store that lost what it acknowledged does not count", what)
}

/// Where stores are not told apart, who lost its log is sent all of it again, or a snapshot (scenario 35).
pub(crate) fn judge_refill(
    actions: &[Action],
    peer: NodeId,
    matched: Index,
) -> Result<(), Violation> {
    let begins_before = |action: &Action| match action {
        Action::Send { to, message } if *to == peer => match &message.body {
            Body::Append { prev, .. } => prev.index < matched,
            Body::SnapshotOffer { .. } => true,
            _ => false,
        },
        Action::Fetch { peer: to, first, .. } => *to == peer && *first <= matched,
        _ => false,
    };
    if actions.iter().any(begins_before) {
        return Ok(());
    }
    let what = format!("node {peer} had {matched} and lost it, and the leader does {actions:?}");
    broken("who lost its log is sent it again", what)
}

/// A member campaigns until it leads, and does what comes of that at once. Everybody votes for it; those with a store speak for it. Whether it leads, and the stores
/// that it writes down.
fn elect(
    mut raft: Raft,
    mut now: Instant,
    others: &[NodeId],
    store_of: impl Fn(NodeId) -> Option<StoreStamp>,
) -> (bool, Vec<Membership>) {
    let mut recorded = Vec::new();
    for _ in 0..TURNS {
        let mut inputs = Vec::new();
        while let Some(action) = raft.poll_action() {
            match action {
                Action::Persist(write) => {
                    recorded.extend(write.entries.iter().filter_map(
                        |entry| match &entry.payload {
                            Payload::Membership(next) => Some((**next).clone()),
                            _ => None,
                        },
                    ));
                    inputs.push(Input::Persisted(write.ticket));
                }
                Action::Send { to, message } if others.contains(&to) => {
                    let body = match message.body {
                        Body::PreVote { .. } => Body::PreVoteResponse { granted: true },
                        Body::Vote { .. } => Body::VoteResponse { granted: true },
                        Body::Heartbeat { read_context, .. } => {
                            Body::HeartbeatResponse { read_context }
                        }
                        _ => continue,
                    };
                    let message = Message { term: message.term, body };
                    inputs.push(Input::Message { from: to, store: store_of(to), message });
                }
                _ => {}
            }
        }
        if inputs.is_empty() {
            now = now.max(raft.poll_timeout().unwrap_or(now));
            inputs.push(Input::Timeout);
        }
        for input in inputs {
            let _ = raft.handle(now, input);
        }
    }
    (raft.role_kind() == RoleKind::Leader, recorded)
}

/// Promises that were given before a pause are not counted on after it.
pub(crate) fn judge_lease_after_a_pause(
    node: NodeId,
    until: Option<Instant>,
    now: Instant,
) -> Result<(), Violation> {
    if until.is_none_or(|until| until <= now) {
        return Ok(());
    }
    let what = format!("node {node} believes in one until {until:?}, and it is {now}");
    broken("who stood still has no lease", what)
}

/// Whoever is not on record does not count any more once others are: so none are recorded before all have spoken (rule 1 of stores).
pub(crate) fn judge_first_records(
    node: NodeId,
    silent: NodeId,
    recorded: &[Membership],
) -> Result<(), Violation> {
    let is_too_early =
        |next: &&Membership| !next.stores.is_empty() && !next.stores.contains_key(&silent);
    let Some(next) = recorded.iter().find(is_too_early) else { return Ok(()) };
    let what = format!("node {node} writes {next:?}; node {silent} has not spoken for a store yet");
    broken("the first stores are recorded together", what)
}

impl<M: Machine> World<'_, M> {
    /// The last thing in a run: whoever leads is told a lie by a voter that it serves. Nothing that comes after would be judged by the truth.
    pub(crate) fn let_a_member_lie(&mut self) -> Result<(), Violation> {
        let (has_stores, number) = (self.plan.has_stores, self.seed);
        if self.plan.config.lease.is_some() && number.is_multiple_of(3) {
            return self.stand_still_for_a_while();
        }
        if !has_stores && number.is_multiple_of(2) {
            return self.begin_to_tell_stores_apart();
        }
        let Some((mut lie, store)) = self.draw_lie() else { return Ok(()) };
        let (peer, matched) = (lie.peer, lie.matched);
        if !has_stores {
            let done = lie.loses_its_log(None);
            self.mix_whole(&done);
            self.coverage.hit("members without a store that lost their logs");
            return judge_refill(&done, peer, matched);
        }
        if number.is_multiple_of(2) {
            let done = lie.repeats_a_life(store);
            self.mix_whole(&done);
            self.coverage.hit("stores that repeated a life");
            return judge_repeated_life(&done, peer);
        }
        let done = lie.loses_its_log(Some(store));
        self.mix_whole(&done);
        self.coverage.hit("stores that lost what they had acknowledged");
        judge_loss(&done, peer)
    }

    /// A leader's process stands still for three heartbeats: what was promised to it before counts no more (scenario 24).
    fn stand_still_for_a_while(&mut self) -> Result<(), Violation> {
        let (now, wait) = (self.now_us(), self.plan.config.heartbeat_interval * 3);
        for it in &mut self.nodes {
            let local = it.clock.local(now);
            let leads = it.claims_to_lead() && it.is_running();
            let Some(raft) = it.raft.as_mut().filter(|_| leads) else { continue };
            let has_lease = |raft: &Raft, at| raft.lease_until().is_some_and(|until| at < until);
            let others = raft.membership().voters.iter().any(|voter| *voter != it.id);
            if others && has_lease(raft, local + wait) {
                let _ = raft.handle(local + wait, Input::Timeout);
                self.coverage.hit("leaders with a lease that stood still");
                judge_lease_after_a_pause(it.id, raft.lease_until(), local + wait)?;
            }
        }
        Ok(())
    }

    /// A member of a group that told no stores apart starts with one, campaigns and leads. All others vote for it, and one has no store yet.
    fn begin_to_tell_stores_apart(&mut self) -> Result<(), Violation> {
        let now = self.now_us();
        let has_something = |node: &usize| {
            let it = &self.nodes[*node];
            it.claims_to_lead() && self.is_spared(*node) && it.disk.last().index > Index(0)
        };
        let Some(node) = (0..self.nodes.len()).find(has_something) else { return Ok(()) };
        let it = &self.nodes[node];
        let (id, membership) = (it.id, it.disk.membership().clone());
        let config = Config {
            id,
            priority: self.plan.priorities[node],
            store: Some(it.store),
            ..self.plan.config.clone()
        };
        let others: Vec<NodeId> =
            membership.voters.iter().copied().filter(|voter| *voter != id).collect();
        let is_plain =
            !membership.is_joint() && membership.is_voter(id) && !membership.is_witness(id);
        let Some(silent) = others.last().copied().filter(|_| is_plain) else { return Ok(()) };
        let start = it.clock.local(now);
        let Ok(raft) = Raft::new(config, self.seed, start, found_by(it)) else { return Ok(()) };
        let store_of = |voter: NodeId| (voter != silent).then(|| self.nodes[index_of(voter)].store);
        let (leads, recorded) = elect(raft, start, &others, store_of);
        if leads {
            self.coverage.hit("groups that began to tell stores apart");
        }
        judge_first_records(id, silent, &recorded)
    }

    /// A leader that has nothing else on its mind, and a full voter that it streams to.
    fn draw_lie(&mut self) -> Option<(Lie<'_>, StoreStamp)> {
        let now = self.now_us();
        let leads = |node: &usize| {
            let it = &self.nodes[*node];
            it.claims_to_lead() && it.is_running() && !it.poll_scheduled && self.is_spared(*node)
        };
        let node = (0..self.nodes.len()).find(leads)?;
        let local = self.nodes[node].clock.local(now);
        let status = self.nodes[node].raft.as_ref()?.status();
        let is_served = |peer: &&raft_core::PeerStatus| {
            let (id, membership) = (peer.id, &status.membership);
            peer.counts
                && membership.is_voter(id)
                && !membership.is_witness(id)
                && peer.replication == raft_core::ReplicationKind::Replicate
                && peer.matched > status.base
                && self.is_spared(index_of(id))
                && (!self.plan.has_stores || self.is_counted(membership, id))
        };
        let peer = *status.peers.iter().find(is_served)?;
        let store = self.nodes[index_of(peer.id)].store;
        let log = self.nodes[node].log.clone();
        let raft = self.nodes[node].raft.as_mut()?;
        let (term, matched) = (status.term, peer.matched);
        Some((Lie { raft, now: local, term, peer: peer.id, matched, log }, store))
    }
}
