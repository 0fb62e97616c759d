//! One member of one group: its state, and the way in and out. The rules themselves are in
//! [`election`](crate::election), [`follower`](crate::follower), [`leader`](crate::leader), [`reads`](crate::reads) and
//! [`snapshots`](crate::snapshots).

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::log::Log;
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::role::{Acks, Follower, Leader, Role};
use crate::snapshots::Incoming;
use crate::{
    Action, Apply, Body, CallerFault, Config, Event, HandleError, HardState, Index, Input, Instant,
    Membership, Message, NodeId, PeerStatus, Refusal, Resolution, RestoreError, Restored, RoleKind,
    SnapshotMeta, Status, Term, Ticket,
};

/// One member of one group.
///
/// ```text
/// let mut raft = Raft::new(config, seed, now, restored)?;
/// loop {
///     raft.handle(now, input)?;                               // one fact from the world, or many
///     while let Some(action) = raft.poll_action() { … }       // then drain fully
///     let wake_at = raft.poll_timeout();                      // and be back by then with Input::Timeout
/// }
/// ```
///
/// Actions are made when they are polled, not when inputs are handled: a driver that handles fifty inputs and then polls gets one
/// [`Persist`](crate::Persist) and one append per peer.
#[derive(Debug)]
pub struct Raft {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    pub(crate) now: Instant,

    // Persistent state (paper figure 2).
    pub(crate) term: Term,
    pub(crate) vote: Option<NodeId>,
    pub(crate) log: Log,
    /// What the last `Persist` carried.
    saved: HardState,
    /// The last write that changed the term or the vote.
    hard_state_ticket: Option<Ticket>,

    // Volatile state (paper figure 2).
    pub(crate) commit: Index,
    /// Handed out to be applied; at most `commit`.
    pub(crate) handed: Index,
    pub(crate) applied: Index,
    pub(crate) role: Role,

    /// The state machine's latest durable snapshot.
    pub(crate) snapshot: Option<SnapshotMeta>,
    /// A snapshot on its way in.
    pub(crate) incoming: Option<Incoming>,

    pub(crate) outbox: Outbox,
    /// Actions that are ready to be polled.
    pub(crate) actions: VecDeque<Action>,
    /// Whether anything was handled since actions were made last.
    is_stale: bool,
    pub(crate) scratch: Vec<Index>,
}

impl Raft {
    /// Builds a member from what its disk holds. `now` starts its election timer; equal `seed`s and inputs give equal actions.
    ///
    /// # Errors
    /// [`RestoreError`] if the configuration can not work or the restored state contradicts itself.
    pub fn new(
        config: Config,
        seed: u64,
        now: Instant,
        restored: Restored,
    ) -> Result<Raft, RestoreError> {
        config.validate()?;
        let Restored { log: restored_log, snapshot } = restored;
        let mut hard_state = restored_log.hard_state;
        let saved = hard_state;
        let mut log = Log::restore(restored_log)?;
        let included = snapshot.as_ref().map_or(Index(0), |meta| meta.position.index);
        if included < log.base().index {
            return Err(RestoreError::MachineBehindLog {
                base: log.base().index,
                applied: included,
            });
        }
        if log.last_position().term > hard_state.term {
            return Err(RestoreError::TermBeyondHardState {
                log_term: log.last_position().term,
                term: hard_state.term,
            });
        }
        if hard_state.commit > log.last().max(included) {
            return Err(RestoreError::CommitBeyondLog {
                commit: hard_state.commit,
                last: log.last(),
            });
        }
        if let Some(meta) = snapshot.as_ref().filter(|meta| !log.contains(meta.position)) {
            // A crash between the machine's installing a snapshot and the log's being replaced by it: finish that now.
            log.reset(meta);
            if meta.position.term > hard_state.term {
                hard_state = HardState { term: meta.position.term, vote: None, ..hard_state };
            }
        }
        let commit = hard_state.commit.max(included);
        let mut rng = Rng::new(seed);
        let election_deadline = now + rng.jittered(config.election_timeout);
        Ok(Raft {
            config,
            rng,
            now,
            term: hard_state.term,
            vote: hard_state.vote,
            log,
            saved,
            hard_state_ticket: None,
            commit,
            handed: included,
            applied: included,
            role: Role::Follower(Follower {
                leader: None,
                leader_contact: None,
                election_deadline,
                acks: Acks::default(),
            }),
            snapshot,
            incoming: None,
            outbox: Outbox::default(),
            actions: VecDeque::new(),
            is_stale: true,
            scratch: Vec::new(),
        })
    }

    /// Takes one fact from the world. Drain [`Raft::poll_action`] afterwards, after one input or after many.
    ///
    /// # Errors
    /// [`HandleError`] if the input breaks the rules. Nothing is believed of such an input, and the core stays usable.
    pub fn handle(&mut self, now: Instant, input: Input) -> Result<(), HandleError> {
        self.now = self.now.max(now);
        self.is_stale = true;
        let result = match input {
            Input::Timeout => Ok(()),
            Input::Message { from, message } => {
                self.on_message(from, message).map_err(|fault| HandleError::Peer { from, fault })
            }
            Input::Propose { id, commands } => {
                self.on_propose(id, commands);
                Ok(())
            }
            Input::Read { id } => {
                self.on_read(id);
                Ok(())
            }
            Input::Persisted(ticket) => self.on_persisted(ticket).map_err(HandleError::Caller),
            Input::Fetched { peer, entries } => {
                self.on_fetched(peer, entries);
                Ok(())
            }
            Input::FetchFailed { peer } => {
                self.on_fetch_failed(peer);
                Ok(())
            }
            Input::Applied(index) => self.on_applied(index).map_err(HandleError::Caller),
            Input::SnapshotTaken(meta) => self.on_snapshot_taken(meta).map_err(HandleError::Caller),
            Input::SnapshotReceived(meta) => {
                self.on_snapshot_received(&meta).map_err(HandleError::Caller)
            }
            Input::SnapshotInstalled(meta) => {
                self.on_snapshot_installed(meta).map_err(HandleError::Caller)
            }
            Input::SnapshotFailed(meta) => {
                self.on_snapshot_failed(&meta);
                Ok(())
            }
            Input::SnapshotStreamEnded { to } => {
                self.on_snapshot_stream_ended(to);
                Ok(())
            }
            Input::Unreachable(peer) => {
                self.on_unreachable(peer);
                Ok(())
            }
        };
        self.on_time();
        #[cfg(debug_assertions)]
        self.assert_invariants();
        result
    }

    /// The next thing to do; `None` once all is drained.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.actions.is_empty() && self.is_stale {
            self.is_stale = false;
            self.make_actions();
        }
        self.actions.pop_front()
    }

    /// When to call [`Raft::handle`] with [`Input::Timeout`] at the latest; `None` if nothing waits for time.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.role {
            Role::Follower(follower) => self.is_voter().then_some(follower.election_deadline),
            Role::PreCandidate(candidate) => Some(candidate.election_deadline),
            Role::Candidate(candidate) => Some(candidate.election_deadline),
            Role::Leader(leader) => Some(leader.heartbeat_deadline.min(leader.quorum_deadline)),
        }
    }

    /// A view of this member.
    pub fn status(&self) -> Status {
        let peers = match &self.role {
            Role::Leader(leader) => leader
                .peers
                .iter()
                .map(|(&id, peer)| PeerStatus {
                    id,
                    matched: peer.matched,
                    replication: peer.kind(),
                })
                .collect(),
            _ => Vec::new(),
        };
        Status {
            id: self.config.id,
            role: self.role_kind(),
            term: self.term,
            vote: self.vote,
            leader: self.leader(),
            base: self.log.base().index,
            last: self.log.last(),
            durable: self.log.durable(),
            commit: self.commit,
            applied: self.applied,
            membership: self.log.membership().clone(),
            peers,
        }
    }

    /// The settings that it was built with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The configuration in effect: the latest in the log (dissertation §4.1).
    pub fn membership(&self) -> &Membership {
        self.log.membership()
    }

    /// The leader of the current term, if known.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::Leader(_) => Some(self.config.id),
            Role::PreCandidate(_) | Role::Candidate(_) => None,
        }
    }

    /// What it does at the moment.
    pub fn role_kind(&self) -> RoleKind {
        match &self.role {
            Role::Follower(_) if self.log.membership().learners.contains(&self.config.id) => {
                RoleKind::Learner
            }
            Role::Follower(_) => RoleKind::Follower,
            Role::PreCandidate(_) => RoleKind::PreCandidate,
            Role::Candidate(_) => RoleKind::Candidate,
            Role::Leader(_) => RoleKind::Leader,
        }
    }

    pub(crate) fn is_voter(&self) -> bool {
        self.log.membership().is_voter(self.config.id)
    }

    fn on_time(&mut self) {
        let now = self.now;
        match &self.role {
            Role::Follower(follower) if now >= follower.election_deadline => {
                self.on_election_timeout();
            }
            Role::PreCandidate(candidate) if now >= candidate.election_deadline => {
                self.on_election_timeout();
            }
            Role::Candidate(candidate) if now >= candidate.election_deadline => {
                self.on_election_timeout();
            }
            Role::Leader(leader) => {
                if now >= leader.quorum_deadline {
                    self.check_quorum();
                }
                self.on_heartbeat_time();
            }
            _ => {}
        }
    }

    fn on_persisted(&mut self, ticket: Ticket) -> Result<(), CallerFault> {
        if !self.log.complete_write(ticket) {
            return Err(CallerFault::UnknownTicket(ticket));
        }
        self.count_own_vote();
        Ok(())
    }

    fn on_applied(&mut self, index: Index) -> Result<(), CallerFault> {
        if index < self.applied || index > self.handed {
            return Err(CallerFault::AppliedOutOfRange {
                applied: index,
                low: self.applied,
                high: self.handed,
            });
        }
        self.applied = index;
        Ok(())
    }

    /// Makes everything that is due, in the order in which it must happen: first what must be durable, then what may be sent,
    /// then what may be applied.
    fn make_actions(&mut self) {
        self.advance_commit();
        self.start_read_rounds();
        self.make_persist();
        while let Some((to, message)) = self.outbox.pop(|ticket| self.log.is_write_durable(ticket))
        {
            self.actions.push_back(Action::Send { to, message });
        }
        self.make_acknowledgement();
        self.make_appends();
        self.make_apply();
        self.log.evict(self.config.tail_bytes_max);
    }

    fn make_persist(&mut self) {
        let current = HardState { term: self.term, vote: self.vote, commit: self.commit };
        let must_save = self.is_hard_state_unsaved();
        if !must_save && !self.log.has_unsaved() {
            return;
        }
        let hard_state = (current != self.saved).then_some(current);
        let persist = self.log.take_unsaved(hard_state);
        if must_save {
            self.hard_state_ticket = Some(persist.ticket);
        }
        self.saved = current;
        self.actions.push_back(Action::Persist(persist));
    }

    fn make_apply(&mut self) {
        if self.incoming.as_ref().is_some_and(Incoming::is_installing) {
            return;
        }
        let window_end = self.applied.plus(self.config.apply_entries_max);
        let last = self.commit.min(self.log.durable()).min(window_end);
        if last <= self.handed {
            return;
        }
        let first = self.handed.next();
        let entries = self.log.end_of(first, last);
        self.handed = last;
        self.actions.push_back(Action::Apply(Apply { first, last, entries }));
    }

    /// Whether term or vote differ from what was last handed out to be saved. (The commit index alone never causes a write.)
    fn is_hard_state_unsaved(&self) -> bool {
        (self.term, self.vote) != (self.saved.term, self.saved.vote)
    }

    /// The write that must be durable before anything may be said in the current term; `None` if it is already.
    pub(crate) fn term_dependency(&self) -> Option<Ticket> {
        if self.is_hard_state_unsaved() {
            return Some(self.log.next_ticket());
        }
        self.hard_state_ticket.filter(|&ticket| !self.log.is_write_durable(ticket))
    }

    /// Sends in the current term, once the term and the vote are durable.
    pub(crate) fn send(&mut self, to: NodeId, body: Body) {
        let until = self.term_dependency();
        self.outbox.push(until, to, Message { term: self.term, body });
    }

    /// The only way from role to role. Settles what the old role owed, and tells observers.
    pub(crate) fn transition(&mut self, role: Role) {
        let before = (self.role_kind(), self.leader());
        let old = core::mem::replace(&mut self.role, role);
        if let Role::Leader(leader) = old {
            self.abandon(leader);
        }
        let after = (self.role_kind(), self.leader());
        if before.0 != after.0 {
            self.actions
                .push_back(Action::Event(Event::RoleChanged { role: after.0, term: self.term }));
        }
        if before.1 != after.1 {
            self.actions.push_back(Action::Event(Event::LeaderChanged {
                leader: after.1,
                term: self.term,
            }));
        }
    }

    /// Answers everybody who waited for a leader that leads no more.
    fn abandon(&mut self, leader: Leader) {
        for id in leader.proposals.into_ids() {
            self.actions.push_back(Action::Resolve(Resolution::Abandoned { id }));
        }
        let reason = Refusal::NotLeader { leader: self.leader() };
        for id in leader.reads.into_ids() {
            self.actions.push_back(Action::Resolve(Resolution::ReadRefused { id, reason }));
        }
    }

    /// Follows `leader`, or nobody yet, in `term`. The vote is kept if the term stays (scenario 1).
    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        debug_assert!(term >= self.term, "terms never fall");
        if term > self.term {
            self.term = term;
            self.vote = None;
            self.outbox.clear();
        }
        let election_deadline = self.now + self.rng.jittered(self.config.election_timeout);
        self.transition(Role::Follower(Follower {
            leader,
            leader_contact: leader.map(|_| self.now),
            election_deadline,
            acks: Acks::default(),
        }));
    }
}
