//! One member of one group: its state, and the way in and out. The rules themselves are in the files after it, one each (see the
//! reading order in the crate's documentation).

use alloc::collections::VecDeque;

use crate::lease::Promise;
use crate::log::Log;
use crate::nonce::Nonce;
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::role::{Follower, Leader, Reader, Role};
use crate::snapshots::{Incoming, can_be_offered};
use crate::stores::Stores;
use crate::transfer::Transfer;
use crate::{
    Action, Apply, Body, CallerFault, Config, Event, HandleError, HardState, Index, Input, Instant,
    Membership, Message, NodeId, Refusal, Resolution, RestoreError, Restored, RoleKind,
    SnapshotMeta, StorageHealth, Term, Ticket,
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
    /// The term in which it started, and when: see [`Raft::believable_term`].
    pub(crate) began: (Term, Instant),
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
    /// To whom it owes not to vote for anybody else, and until when.
    pub(crate) promise: Promise,
    pub(crate) health: StorageHealth,
    pub(crate) stores: Stores,
    /// Whether no leader has compared its log with this one since the start: a store that was put back from a copy may
    /// hold entries that were overwritten since, though it acknowledged their places.
    pub(crate) is_unverified: bool,
    /// The version of the configuration that everything here is in step with.
    pub(crate) membership_version: u64,
    /// The role that observers know of.
    told_role: RoleKind,
    /// A transfer of leadership that this node began, and whose outcome shows when the next leader is known.
    pub(crate) handed_over: Option<Transfer>,
    /// Tells what this start of the member asks and forwards from what earlier ones did.
    pub(crate) nonce: Nonce,
    pub(crate) forward_sequence: u64,
    pub(crate) questions_asked: u64,

    /// The state machine's latest durable snapshot.
    pub(crate) snapshot: Option<SnapshotMeta>,
    /// A snapshot on its way in.
    pub(crate) incoming: Option<Incoming>,

    pub(crate) outbox: Outbox,
    /// Actions that are ready to be polled.
    pub(crate) actions: VecDeque<Action>,
    /// Whether anything was handled since actions were made last that may lead to some.
    pub(crate) is_stale: bool,
    /// Whether anything came that may let the leader commit more.
    pub(crate) may_commit: bool,
}

impl Raft {
    /// Builds a member from what its disk holds. `now` starts its election timer; equal `seed`s and inputs give equal
    /// actions.
    ///
    /// `seed` must be drawn anew at each start, from the operating system or another source that no two starts share: a
    /// constant, the node's id or the time of day is not enough. Election timeouts are drawn from it (paper §5.2), and so
    /// is what tells this start's questions and forwarded proposals from those of earlier ones: if two starts of a member
    /// have one seed, an old answer may pass for a new one, and a read be stale or a proposal acknowledged that nobody
    /// appended. With a store ([`Config::store`]) the life of the store tells starts apart whatever the seed is.
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
        let Restored { log: restored_log, mut snapshot } = restored;
        let mut hard_state = restored_log.hard_state;
        let saved = hard_state;
        let mut log = Log::restore(restored_log)?;
        check_kind(&config, &log)?;
        if config.is_witness {
            // It has no state machine that could lie behind or ahead of the log.
            snapshot = Some(log.base_snapshot());
        }
        let included = snapshot.as_ref().map_or(Index(0), |meta| meta.position.index);
        check_bounds(&log, hard_state, snapshot.as_ref())?;
        check_hard_state(&log, hard_state, included)?;
        if let Some(meta) = &snapshot {
            hard_state = finish_installation(&mut log, hard_state, meta)?;
        }
        let snapshot = snapshot.filter(|meta| can_be_offered(meta, &log));
        let commit = hard_state.commit.max(included);
        let mut rng = Rng::new(seed);
        let election_deadline = now + crate::election::patience(&config, &mut rng);
        let mut raft = Raft {
            nonce: Nonce::new(config.store, rng.next()),
            promise: Promise::after_restart(&config, hard_state.term, now),
            health: StorageHealth::Healthy,
            stores: Stores::default(),
            is_unverified: config.store.is_some(),
            membership_version: log.membership_version(),
            told_role: RoleKind::Follower,
            handed_over: None,
            forward_sequence: 0,
            questions_asked: 0,
            config,
            rng,
            now,
            term: hard_state.term,
            began: (hard_state.term, now),
            vote: hard_state.vote.filter(|_| !mutated!(VoteLostOnRestart)),
            log,
            saved,
            hard_state_ticket: None,
            commit,
            handed: included,
            applied: included,
            role: Role::Follower(Follower::new(None, election_deadline)),
            snapshot,
            incoming: None,
            outbox: Outbox::default(),
            actions: VecDeque::new(),
            is_stale: true,
            may_commit: false,
        };
        raft.told_role = raft.role_kind();
        raft.follow_demotions();
        raft.report_own_store();
        Ok(raft)
    }

    /// Takes one fact from the world. Drain [`Raft::poll_action`] afterwards, after one input or after many.
    ///
    /// # Errors
    /// [`HandleError`] if the input breaks the rules. Nothing is believed of such an input, and the core stays usable.
    pub fn handle(&mut self, now: Instant, input: Input) -> Result<(), HandleError> {
        self.detect_pause(now);
        self.now = self.now.max(now);
        let result = self.take(input);
        self.on_membership_changed();
        self.on_time();
        self.settle_handover();
        #[cfg(debug_assertions)]
        self.assert_invariants();
        result
    }

    #[inline]
    fn take(&mut self, input: Input) -> Result<(), HandleError> {
        let before = (self.may_commit, self.is_stale);
        (self.may_commit, self.is_stale) = (true, true);
        match input {
            Input::Timeout => {}
            Input::Message { from, store, message } => {
                return self
                    .on_message(from, store, message)
                    .map_err(|fault| HandleError::Peer { from, fault });
            }
            Input::Propose { id, commands } => {
                // What was only proposed commits nothing.
                self.may_commit = before.0;
                self.on_propose(id, commands);
            }
            Input::Read { id, at } => self.on_read(id, at),
            Input::ChangeMembership { id, change } => self.on_change(id, &change),
            Input::TransferLeadership { id, to } => self.on_transfer(id, to),
            Input::StorageHealth(health) => self.on_storage_health(health),
            Input::ClockSuspect if mutated!(ClockSuspicionIgnored) => {}
            Input::ClockSuspect => self.on_clock_suspect(),
            Input::Persisted(ticket) => self.on_persisted(ticket)?,
            Input::Fetched { peer, entries } => self.on_fetched(peer, entries),
            Input::FetchFailed { peer } => self.on_fetch_failed(peer),
            Input::Applied(index) => {
                // It makes room for more to be applied, and for nothing else.
                self.may_commit = before.0;
                self.is_stale = before.1 || self.handed < self.commit;
                self.on_applied(index)?;
            }
            Input::SnapshotTaken(meta) => self.on_snapshot_taken(meta)?,
            Input::SnapshotReceived(meta) => self.on_snapshot_received(&meta),
            Input::SnapshotInstalled(meta) => self.on_snapshot_installed(meta)?,
            Input::SnapshotFailed(meta) => self.on_snapshot_failed(&meta),
            Input::SnapshotInstallFailed(meta) => self.on_snapshot_install_failed(&meta)?,
            Input::SnapshotStreamEnded { to, position } => {
                self.on_snapshot_stream_ended(to, position);
            }
            Input::Unreachable(peer) => self.on_unreachable(peer),
        }
        Ok(())
    }

    /// The next thing to do; `None` once all is drained.
    #[inline]
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.actions.is_empty() && self.is_stale {
            self.is_stale = false;
            self.make_actions();
        }
        self.actions.pop_front()
    }

    /// When to call [`Raft::handle`] with [`Input::Timeout`] at the latest; `None` if nothing waits for time.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let of_role = match &self.role {
            Role::Follower(follower) => {
                let election = self.can_campaign().then_some(follower.election_deadline);
                let question = follower.questions.asked.front().map(|question| question.deadline);
                [election, question, follower.forwards.deadline()].into_iter().flatten().min()
            }
            Role::PreCandidate(candidate) => Some(candidate.election_deadline),
            Role::Candidate(candidate) => Some(candidate.election_deadline),
            Role::Leader(leader) => Some(leader.heartbeat_deadline.min(leader.quorum_deadline)),
        };
        let handover = self.handed_over.map(|transfer| transfer.deadline);
        of_role.into_iter().chain(handover).min()
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
        let (id, membership) = (self.config.id, self.log.membership());
        let is_witness = self.config.is_witness || membership.is_witness(id);
        match &self.role {
            Role::Follower(_) if membership.is_voter(id) && is_witness => RoleKind::Witness,
            Role::Follower(_) if membership.is_voter(id) => RoleKind::Follower,
            Role::Follower(_) if membership.learners.contains(&id) => RoleKind::Learner,
            Role::Follower(_) => RoleKind::Outsider,
            Role::PreCandidate(_) => RoleKind::PreCandidate,
            Role::Candidate(_) => RoleKind::Candidate,
            Role::Leader(_) => RoleKind::Leader,
        }
    }

    fn on_time(&mut self) {
        let now = self.now;
        if let Role::Follower(follower) = &self.role
            && follower.has_asked()
        {
            self.give_up_forwards();
            self.give_up_questions();
        }
        let election_deadline = match &self.role {
            Role::Follower(follower) => follower.election_deadline,
            Role::PreCandidate(candidate) => candidate.election_deadline,
            Role::Candidate(candidate) => candidate.election_deadline,
            Role::Leader(leader) => {
                let is_heartbeat_due = now >= leader.heartbeat_deadline;
                if now >= leader.quorum_deadline {
                    self.is_stale = true;
                    self.check_quorum();
                }
                if is_heartbeat_due {
                    self.is_stale = true;
                    self.on_heartbeat_time();
                }
                return;
            }
        };
        if now >= election_deadline {
            self.is_stale = true;
            self.on_election_timeout();
        }
    }

    fn on_persisted(&mut self, ticket: Ticket) -> Result<(), CallerFault> {
        if !self.log.complete_write(ticket, self.now) {
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
    #[inline(never)]
    fn make_actions(&mut self) {
        if matches!(self.role, Role::Leader(_)) {
            self.advance_commit();
            self.advance_change();
            self.tell_target();
            self.start_read_rounds();
        } else {
            self.ask_for_index();
        }
        self.make_persist();
        while let Some((to, message)) = self.outbox.pop(|ticket| self.log.is_write_durable(ticket))
        {
            self.actions.push_back(Action::Send { to, message });
        }
        match self.role {
            Role::Leader(_) => self.make_appends(),
            Role::Follower(_) => self.make_acknowledgement(),
            Role::PreCandidate(_) | Role::Candidate(_) => {}
        }
        self.make_apply();
        self.log.evict(self.config.tail_bytes_max);
    }

    fn make_persist(&mut self) {
        let must_save = self.is_hard_state_unsaved();
        if !must_save && !self.log.has_unsaved() {
            return;
        }
        let current = HardState { term: self.term, vote: self.vote, commit: self.commit };
        let hard_state = (current != self.saved).then_some(current);
        let persist = self.log.take_unsaved(hard_state, self.now);
        if must_save {
            self.hard_state_ticket = Some(persist.ticket);
        }
        self.saved = current;
        self.actions.push_back(Action::Persist(persist));
    }

    fn make_apply(&mut self) {
        let is_installing = self.incoming.as_ref().is_some_and(Incoming::is_installing);
        if is_installing && !mutated!(AppliedWhileInstalling) {
            return;
        }
        if self.config.is_witness {
            self.pass_over_commands();
            return;
        }
        let window_end = self.applied.plus(self.config.apply_entries_max);
        let applicable =
            if mutated!(AppliedBeforeDurable) { self.log.last() } else { self.log.durable() };
        let last = self.commit.min(applicable).min(window_end);
        if last <= self.handed {
            return;
        }
        let first = self.handed.next();
        let in_budget = self.log.ceiling_within(self.applied, last, self.config.apply_bytes_max);
        // One entry always goes, however large.
        let last = in_budget.max(self.applied.next());
        if last < first {
            return;
        }
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
        let until = self.term_dependency().filter(|_| !mutated!(MessageBeforeItsTermIsDurable));
        self.outbox.push(until, to, Message { term: self.term, body });
    }

    /// Tells observers of another role: by a step of its own, or by a configuration that makes a voter of a learner, or a stranger of a member.
    pub(crate) fn tell_role(&mut self) {
        let role = self.role_kind();
        if self.told_role != role {
            self.told_role = role;
            self.actions.push_back(Action::Event(Event::RoleChanged { role, term: self.term }));
        }
    }

    /// The only way from role to role. Settles what the old role owed, and tells observers.
    pub(crate) fn transition(&mut self, role: Role) {
        let before = self.leader();
        match core::mem::replace(&mut self.role, role) {
            Role::Leader(leader) => self.settle_leader(leader),
            Role::Follower(follower) => self.settle_follower(follower),
            Role::PreCandidate(_) | Role::Candidate(_) => {}
        }
        self.tell_role();
        let leader = self.leader();
        if before != leader {
            self.actions.push_back(Action::Event(Event::LeaderChanged { leader, term: self.term }));
        }
    }

    /// Answers everybody who waited for a leader that leads no more.
    fn settle_leader(&mut self, leader: Leader) {
        for id in leader.proposals.into_ids() {
            if !mutated!(ProposersLeftWaiting) {
                self.actions.push_back(Action::Resolve(Resolution::Abandoned { id }));
            }
        }
        let reason = Refusal::NotLeader { leader: self.leader() };
        for reader in leader.reads.into_readers() {
            if let Reader::Here(id) = reader {
                self.actions.push_back(Action::Resolve(Resolution::ReadRefused { id, reason }));
            }
        }
        if let Some(id) = leader.change {
            self.actions.push_back(Action::Resolve(Resolution::RequestAbandoned { id }));
        }
        self.handed_over = leader.transfer;
    }

    /// Answers everybody who waited for a leader whom this node follows no more.
    fn settle_follower(&mut self, follower: Follower) {
        for id in follower.forwards.into_ids() {
            self.actions.push_back(Action::Resolve(Resolution::Abandoned { id }));
        }
        let reason = Refusal::NotLeader { leader: self.leader() };
        for id in follower.questions.into_ids() {
            self.actions.push_back(Action::Resolve(Resolution::ReadRefused { id, reason }));
        }
    }

    /// Follows `leader`, or nobody yet, in `term`. The vote is kept if the term stays (scenario 1).
    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        debug_assert!(term >= self.term, "terms never fall");
        if term > self.term || mutated!(VoteForgottenInTheSameTerm) {
            if self.is_newcomer() {
                self.began = (term, self.now);
            }
            self.term = term;
            self.vote = None;
            self.outbox.clear();
        }
        let election_deadline = self.next_election_deadline();
        self.transition(Role::Follower(Follower::new(leader, election_deadline)));
    }
}

/// Whether it is the kind of member that its settings say.
fn check_kind(config: &Config, log: &Log) -> Result<(), RestoreError> {
    let is_listed = log.membership().is_witness(config.id);
    let is_founded = log.last() == Index(0) && log.membership().contains(config.id);
    if is_founded && is_listed != config.is_witness {
        return Err(RestoreError::FoundedAsAnotherKind { is_listed });
    }
    let is_of_a_witness = log.last() > Index(0) && log.last_lists_witness(config.id);
    if is_of_a_witness && !config.is_witness && !mutated!(WitnessStoreBelieved) {
        return Err(RestoreError::WitnessStore);
    }
    Ok(())
}

/// A crash between the machine's installing a snapshot and the log's being replaced by it: finishes that now.
fn finish_installation(
    log: &mut Log,
    hard_state: HardState,
    meta: &SnapshotMeta,
) -> Result<HardState, RestoreError> {
    if log.contains(meta.position) || mutated!(RestoredSnapshotIgnored) {
        return Ok(hard_state);
    }
    log.reset(meta);
    let commit = hard_state.commit;
    if commit > log.last() {
        // What is committed cannot be replaced by another entry.
        return Err(RestoreError::CommitBeyondLog { commit, last: log.last() });
    }
    if meta.position.term > hard_state.term {
        return Ok(HardState { term: meta.position.term, vote: None, commit });
    }
    Ok(hard_state)
}

/// Whether terms and indexes lie where arithmetic works, and elections and appends may follow.
fn check_bounds(
    log: &Log,
    hard_state: HardState,
    snapshot: Option<&SnapshotMeta>,
) -> Result<(), RestoreError> {
    let machine = snapshot.map(|meta| meta.position).unwrap_or_default();
    let term = hard_state.term.max(log.last_position().term).max(machine.term);
    if term > Term::MAX {
        return Err(RestoreError::ImpossibleTerm { term });
    }
    let index = log.last().max(machine.index);
    if index > Index::MAX {
        return Err(RestoreError::ImpossibleIndex { index });
    }
    if let Some(SnapshotMeta { position, membership }) = snapshot
        && !membership.is_empty()
        && !membership.is_valid()
    {
        return Err(RestoreError::BrokenMembership { at: position.index });
    }
    Ok(())
}

/// Whether the log, the hard state and the machine's state (which goes up to `included`) can belong together.
fn check_hard_state(log: &Log, hard_state: HardState, included: Index) -> Result<(), RestoreError> {
    if included < log.base().index && !mutated!(RestoredGapUnchecked) {
        return Err(RestoreError::MachineBehindLog { base: log.base().index, applied: included });
    }
    if log.last_position().term > hard_state.term && !mutated!(RestoredTermUnchecked) {
        return Err(RestoreError::TermBeyondHardState {
            log_term: log.last_position().term,
            term: hard_state.term,
        });
    }
    if hard_state.commit > log.last().max(included) && !mutated!(RestoredCommitUnchecked) {
        return Err(RestoreError::CommitBeyondLog { commit: hard_state.commit, last: log.last() });
    }
    Ok(())
}
