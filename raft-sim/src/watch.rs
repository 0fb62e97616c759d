//! What the world itself saw of one member: whom it heard and when, what it was asked, what it was answered. `conduct` judges by these books what
//! the member does. Nothing here comes from what a core says of itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::budgets::Holdings;
use crate::serving::Serving;
use raft_core::{
    Body, Index, Instant, LogPosition, Membership, Message, NodeId, ProposalId, ReadId, RequestId,
    StoreId, StoreStamp, Term,
};
use raft_node::order::StreamId;

/// More heartbeats than this are not remembered: nobody answers older ones.
const BEATS_MAX: usize = 4096;

/// A question that must be answered in time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Question {
    Batch(ProposalId),
    Transfer(RequestId),
}

/// The vote that a member was asked for last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) from: NodeId,
    pub(crate) term: Term,
    pub(crate) last: LogPosition,
    pub(crate) transfer: bool,
    /// Where its own log ended then.
    pub(crate) own: LogPosition,
}

/// Somebody who was removed, and must be told so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving {
    pub(crate) node: NodeId,
    pub(crate) at: Index,
    pub(crate) began: Instant,
    /// Since when that is committed, and how often it was spoken to since.
    pub(crate) since: Option<Instant>,
    pub(crate) spoken: u32,
}

/// What was seen of a leader in one term.
#[derive(Debug)]
pub(crate) struct Leading {
    pub(crate) term: Term,
    pub(crate) since: Instant,
    /// When each heartbeat left first, by its context.
    beats: VecDeque<(u64, Instant)>,
    /// When the latest heartbeat left that each peer has answered.
    answered: BTreeMap<NodeId, Instant>,
    /// No answer to a heartbeat that left before speaks for a lease.
    pub(crate) floor: Instant,
    /// Somebody was told to campaign.
    pub(crate) is_forsworn: bool,
    pub(crate) contact: BTreeMap<NodeId, Instant>,
    /// What each peer acknowledged, and on which start of which store.
    pub(crate) acked: BTreeMap<NodeId, (Option<StoreStamp>, Index)>,
    /// The same, of what it may not have looked at yet.
    fresh: Vec<(NodeId, Option<StoreStamp>, Index)>,
    /// Batches of its own clients that are not committed yet.
    pub(crate) batches: VecDeque<(Index, usize)>,
    pub(crate) transfer: Option<RequestId>,
    /// That was polled, and was neither refused nor settled: leadership is being handed over.
    pub(crate) hands_over: bool,
    pub(crate) leaving: Vec<Leaving>,
    /// When the group was changed last.
    pub(crate) changed: Option<Instant>,
    /// How each peer is served.
    pub(crate) serving: BTreeMap<NodeId, Serving>,
    /// Since when each peer is owed an append or an offer.
    pub(crate) owed: BTreeMap<NodeId, Instant>,
    /// Who was offered a snapshot, and has since said that it has so much: enough for the log to go on.
    pub(crate) enough: BTreeMap<NodeId, Index>,
    /// To whom the connection broke while something was not answered, and nothing was since.
    pub(crate) broken: BTreeSet<NodeId>,
    /// When each peer was attended to last: sent an append, offered or streamed a snapshot, or read for.
    pub(crate) attended: BTreeMap<NodeId, Instant>,
    /// For whom something is being read.
    pub(crate) fetching: BTreeSet<NodeId>,
    /// Heartbeats have left since it was polled last.
    pub(crate) has_beaten: bool,
    /// What each peer was offered, if nothing else was sent to it since.
    pub(crate) offered: BTreeMap<NodeId, LogPosition>,
    /// Who was sent entries, and no snapshot since.
    pub(crate) replicates: BTreeSet<NodeId>,
    /// The most that each peer ever acknowledged, from whichever store.
    pub(crate) most: BTreeMap<NodeId, Index>,
    /// When each peer answered a heartbeat or an append last.
    pub(crate) answered_at: BTreeMap<NodeId, Instant>,
    /// What it was asked before it led it may have asked another leader.
    pub(crate) first_read: ReadId,
}

impl Leading {
    /// What has an earlier number it was asked before it led.
    pub(crate) fn asked_from(self, first_read: ReadId) -> Leading {
        Leading { first_read, ..self }
    }

    pub(crate) fn new(term: Term, since: Instant) -> Leading {
        Leading {
            term,
            since,
            first_read: ReadId(0),
            beats: VecDeque::new(),
            answered: BTreeMap::new(),
            floor: Instant(0),
            is_forsworn: false,
            contact: BTreeMap::new(),
            acked: BTreeMap::new(),
            fresh: Vec::new(),
            batches: VecDeque::new(),
            transfer: None,
            hands_over: false,
            leaving: Vec::new(),
            changed: None,
            serving: BTreeMap::new(),
            owed: BTreeMap::new(),
            enough: BTreeMap::new(),
            broken: BTreeSet::new(),
            attended: BTreeMap::new(),
            fetching: BTreeSet::new(),
            has_beaten: false,
            offered: BTreeMap::new(),
            replicates: BTreeSet::new(),
            most: BTreeMap::new(),
            answered_at: BTreeMap::new(),
        }
    }

    /// A peer gets something, or something is read for it.
    pub(crate) fn attend(&mut self, to: NodeId, now: Instant) {
        self.owed.remove(&to);
        self.attended.insert(to, now);
    }

    /// A peer's answer about a snapshot calls for something: the newer one, or what comes after what it has. `base` is where the leader's log begins, `held` what its
    /// machine has.
    pub(crate) fn note_snapshot_answer(
        &mut self,
        from: NodeId,
        (position, outcome): (LogPosition, raft_core::SnapshotOutcome),
        (base, held): (Index, Index),
        now: Instant,
    ) {
        let Some(offered) = self.offered.get(&from) else { return };
        let is_owed = match outcome {
            raft_core::SnapshotOutcome::Wanted => *offered == position && held > position.index,
            raft_core::SnapshotOutcome::Matched(matched) => matched >= base,
            raft_core::SnapshotOutcome::Failed => false,
        };
        if let raft_core::SnapshotOutcome::Matched(matched) = outcome {
            self.enough.insert(from, matched);
        }
        if is_owed && !self.fetching.contains(&from) {
            self.owed.entry(from).or_insert(now);
        }
    }

    pub(crate) fn note_beat(&mut self, context: u64, now: Instant) {
        if self.beats.back().is_some_and(|(last, _)| *last >= context) {
            return;
        }
        if self.beats.len() >= BEATS_MAX {
            self.beats.pop_front();
        }
        self.beats.push_back((context, now));
    }

    fn note_answer(&mut self, from: NodeId, context: u64) {
        let Ok(place) = self.beats.binary_search_by_key(&context, |(context, _)| *context) else {
            return;
        };
        let sent = self.beats[place].1;
        let answered = self.answered.entry(from).or_insert(sent);
        *answered = sent.max(*answered);
    }

    /// Whether a quorum answered heartbeats that left then or later.
    pub(crate) fn is_confirmed(&self, id: NodeId, membership: &Membership, from: Instant) -> bool {
        let has = |node| node == id || self.answered.get(&node).is_some_and(|at| *at >= from);
        membership.has_quorum(has)
    }

    /// Whether a quorum owes this leader its promise for `window` since heartbeats that left not longer ago.
    pub(crate) fn is_promised(
        &self,
        id: NodeId,
        membership: &Membership,
        (window, now): (u64, Instant),
    ) -> bool {
        let oldest = Instant((now.0 + 1).saturating_sub(window));
        !self.is_forsworn && self.is_confirmed(id, membership, oldest.max(self.floor))
    }

    /// Who is added starts as a stranger. Who was removed, and has acknowledged that, needs no farewell any more.
    pub(crate) fn forget_acknowledgements(&mut self) {
        self.note_poll();
        let acked = std::mem::take(&mut self.acked);
        self.leaving.retain(|gone| acked.get(&gone.node).is_none_or(|(_, acked)| *acked < gone.at));
    }

    /// The core was polled: it has looked at everything.
    pub(crate) fn note_poll(&mut self) {
        for (from, stamp, matched) in self.fresh.drain(..) {
            let known = self.acked.entry(from).or_insert((stamp, matched));
            let before = if known.0 == stamp { known.1 } else { Index(0) };
            *known = (stamp, matched.max(before));
        }
    }

    fn note_message(
        &mut self,
        from: NodeId,
        stamp: Option<StoreStamp>,
        message: &Message,
        now: Instant,
    ) {
        self.contact.insert(from, now);
        // Also by an old message: with the store it comes back to, the peer begins anew.
        self.fresh.retain(|(node, known, _)| *node != from || *known == stamp);
        if self.acked.get(&from).is_some_and(|(known, _)| *known != stamp) {
            self.acked.remove(&from);
        }
        if message.term != self.term {
            return;
        }
        if matches!(
            message.body,
            Body::HeartbeatResponse { .. }
                | Body::AppendResponse(_)
                | Body::SnapshotResponse { .. }
        ) {
            self.answered_at.insert(from, now);
        }
        match &message.body {
            Body::HeartbeatResponse { read_context } => self.note_answer(from, *read_context),
            Body::AppendResponse(
                raft_core::AppendOutcome::Accepted { matched }
                | raft_core::AppendOutcome::Witnessed { matched },
            ) => {
                self.fresh.push((from, stamp, *matched));
                let most = self.most.entry(from).or_default();
                *most = (*matched).max(*most);
            }
            // It denies what it said. It may be an old answer, but copies of it are believed where stores are not told apart.
            Body::AppendResponse(raft_core::AppendOutcome::Rejected { .. }) => {
                self.enough.remove(&from);
            }
            Body::SnapshotResponse { outcome, .. } => {
                if let raft_core::SnapshotOutcome::Matched(matched) = outcome {
                    let most = self.most.entry(from).or_default();
                    *most = (*matched).max(*most);
                }
                self.serving.entry(from).or_default().begin_anew();
            }
            _ => {}
        }
        if let Body::AppendResponse(outcome) = &message.body {
            self.owed.remove(&from);
            self.broken.remove(&from);
            self.serving.entry(from).or_default().on_answer(*outcome, now);
        }
    }
}

/// What was seen of one life of a member, and what its disk owes from earlier ones.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "observations that have nothing to do with each other"
)]
pub(crate) struct Watch {
    pub(crate) started: Instant,
    /// Whether it may have promised its vote to somebody before it started.
    pub(crate) may_have_promised: bool,
    /// When its core was last told anything.
    pub(crate) told: Instant,
    /// The leader that it heard last in this life, and when.
    pub(crate) heard: Option<(NodeId, Instant)>,
    /// The same, as of when it was polled last.
    pub(crate) heard_before: Option<(NodeId, Instant)>,
    /// What it may take for committed without having heard anybody.
    pub(crate) restored_commit: Index,
    /// What leaders told it to be committed, as far as they compared its log with theirs, or what it committed as a leader.
    pub(crate) told_commit: Index,
    pub(crate) asked: Option<Asked>,
    /// Whose pre-vote it may not refuse until it is polled.
    pub(crate) owes_pre_vote: Option<NodeId>,
    /// Whose vote it may not refuse, in which term, until it is polled.
    pub(crate) owes_vote: Option<(NodeId, Term)>,
    /// It was told that its own store does not count.
    pub(crate) knows_rejection: bool,
    /// The configuration that it goes by may be another one since it was polled last.
    pub(crate) has_moved: bool,
    pub(crate) is_stalled: bool,
    /// Whether it was polled since its disk stalls.
    pub(crate) knows_stall: bool,
    /// Whether a leader's log was compared with its own.
    pub(crate) has_compared: bool,
    pub(crate) leading: Option<Leading>,
    /// Whether it had a lease at any moment since it was polled last.
    pub(crate) had_lease: bool,
    pub(crate) questions: VecDeque<(Instant, Question)>,
    pub(crate) questions_to_read: VecDeque<(Instant, ReadId)>,
    pub(crate) reads: BTreeMap<ReadId, Instant>,
    /// How many bytes each batch that was proposed counts for.
    pub(crate) batches: BTreeMap<ProposalId, usize>,
    /// Batches that it passed on, and that nobody answered.
    pub(crate) forwarded: BTreeMap<ProposalId, usize>,
    pub(crate) forwarded_bytes: usize,
    pub(crate) nonce: Option<u64>,
    /// An answer to an earlier life that it was just given.
    pub(crate) has_echo: bool,
    /// What it asked leaders in all its lives, and in which.
    pub(crate) contexts: BTreeMap<u64, u64>,
    pub(crate) stamps: BTreeMap<NodeId, StoreStamp>,
    pub(crate) streams: BTreeSet<(NodeId, Index)>,
    /// The stream of a snapshot that its core asked for last.
    pub(crate) expected: Option<StreamId>,
    /// Who spoke from another store since it was polled last: what it decided before may leave after that.
    pub(crate) unsettled: BTreeSet<NodeId>,
    /// In which term each member spoke last from a store.
    spoke_from: BTreeMap<(NodeId, StoreId), Term>,
    /// The store that each member spoke from last.
    stores: BTreeMap<NodeId, Option<StoreStamp>>,
    pub(crate) holdings: Holdings,
}

impl Watch {
    /// A new life.
    pub(crate) fn restart(&mut self, now: Instant, may_have_promised: bool) {
        let contexts = std::mem::take(&mut self.contexts);
        *self = Watch {
            started: now,
            told: now,
            may_have_promised,
            contexts,
            has_moved: true,
            ..Watch::default()
        };
    }

    /// A message, before the core sees it.
    pub(crate) fn note_message(
        &mut self,
        from: NodeId,
        stamp: Option<StoreStamp>,
        message: &Message,
        now: Instant,
        own: LogPosition,
    ) {
        if let Some(leading) = &mut self.leading {
            leading.note_message(from, stamp, message, now);
        }
        if self.stores.insert(from, stamp) != Some(stamp) {
            // On another store, or on an earlier one by an old message: whatever it is sent begins anew.
            self.streams.retain(|(to, _)| *to != from);
            self.unsettled.insert(from);
            self.serve_anew(from);
        }
        let told_commit = match &message.body {
            Body::Append { prev, entries, commit } => {
                (*commit).min(entries.last().map_or(prev.index, |entry| entry.index))
            }
            Body::Heartbeat { commit, .. } => *commit,
            Body::SnapshotOffer { snapshot } => snapshot.position.index,
            _ => Index(0),
        };
        self.told_commit = self.told_commit.max(told_commit);
        match message.body {
            Body::Vote { last, transfer } => {
                self.asked = Some(Asked { from, term: message.term, last, transfer, own });
            }
            Body::SnapshotResponse {
                outcome: raft_core::SnapshotOutcome::Matched(_) | raft_core::SnapshotOutcome::Failed,
                ..
            } => {
                // What it answers to may be an earlier offer, or a stream that goes on; then it is offered, and streamed, anew.
                self.streams.retain(|(to, _)| *to != from);
                self.unsettled.insert(from);
            }
            Body::ForwardResponse { id, .. } if self.nonce != Some(id.nonce) => {
                self.has_echo = true;
            }
            _ => {}
        }
    }

    /// The disk has answered.
    pub(crate) fn note_fetched(&mut self, peer: NodeId) {
        let told = self.told;
        if let Some(leading) = &mut self.leading
            && leading.fetching.remove(&peer)
        {
            leading.attended.insert(peer, told);
            // Only now can what it is owed leave.
            leading.owed.entry(peer).and_modify(|since| *since = told);
        }
    }

    /// A leader reads for a peer, or streams to it.
    pub(crate) fn attend(&mut self, to: NodeId) {
        let told = self.told;
        if let Some(leading) = &mut self.leading {
            leading.attend(to, told);
        }
    }

    /// A message, before a core sees it that is in `own` term, or perhaps in a later one.
    pub(crate) fn note_stamp(
        &mut self,
        (from, stamp): (NodeId, StoreStamp),
        message: &Message,
        own: Option<Term>,
    ) {
        let is_pre_vote =
            matches!(message.body, Body::PreVote { .. } | Body::PreVoteResponse { granted: true });
        // Of a campaign that is only thought of, the term has not come.
        let term = match own {
            Some(own) if is_pre_vote => message.term.min(own),
            _ => message.term,
        };
        let latest = self.spoke_from.entry((from, stamp.id)).or_insert(term);
        *latest = term.max(*latest);
    }

    /// Whether a member spoke from a store in this term or a later one.
    pub(crate) fn has_spoken_from(&self, node: NodeId, store: StoreId, term: Term) -> bool {
        self.spoke_from.get(&(node, store)).is_some_and(|latest| *latest >= term)
    }

    /// What was sent to a peer may be lost, or of no use.
    pub(crate) fn serve_anew(&mut self, peer: NodeId) {
        if let Some(leading) = &mut self.leading {
            leading.serving.entry(peer).or_default().begin_anew();
        }
    }

    /// The core gives a batch up, or has its answer.
    pub(crate) fn settle(&mut self, batch: ProposalId) -> usize {
        let passed_on = self.forwarded.remove(&batch).unwrap_or(0);
        self.forwarded_bytes -= passed_on;
        self.batches.remove(&batch).unwrap_or(0)
    }
}
