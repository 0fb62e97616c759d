//! What becomes of a message that reaches a node of a traced run: whether it is let through, and which line it makes.
//!
//! A message is held back only where the schema could not tell what our protocol would make of it; every such place is named in the book.

use raft_core::{
    AppendOutcome, Body, Index, Input, LogPosition, Membership, Message, NodeId, RoleKind, Term,
};

use super::event::{Name, RoleName};
use super::node::{Node, Shot, project};
use super::options::TraceError;
use super::world::World;

/// Whether a message is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Pass,
    /// It is lost.
    Lose,
    /// It comes later.
    Delay,
}

impl World {
    /// A message reaches a node.
    pub(super) fn deliver(
        &mut self,
        (from, to): (NodeId, NodeId),
        number: u64,
        message: Message,
    ) -> Result<(), TraceError> {
        if self.is_cut(from, to) || self.shot(to).is_none() {
            self.tally.lost += 1;
            return Ok(());
        }
        self.fire_timer_if_due(to)?;
        let Some(pre) = self.shot(to) else { return Ok(()) };
        match self.gate(from, &pre, &message) {
            Gate::Lose => {
                self.tally.held_back += 1;
                return Ok(());
            }
            Gate::Delay => {
                self.tally.held_back += 1;
                self.send_later((from, to), number, message);
                return Ok(());
            }
            Gate::Pass => {}
        }
        self.note_order((from, to), number);
        let given = Self::cut_at_commit(&pre, &message);
        let accepted = self.accepts(&pre, &message);
        self.feed(to, Input::Message { from, store: None, message: given })?;
        self.note_receipt(from, &pre, &message, accepted)?;
        self.note_roles(&pre, true)?;
        self.settle(to)
    }

    fn gate(&mut self, from: NodeId, pre: &Shot, message: &Message) -> Gate {
        let is_voter = pre.voters.contains(&pre.id);
        match &message.body {
            // It raises the term by a message that the schema does not know.
            Body::PreVoteResponse { granted: false } | Body::TimeoutNow
                if message.term > pre.term =>
            {
                Gate::Lose
            }
            // Who is not yet a voter as far as the schema goes must not campaign.
            Body::PreVoteResponse { granted: true } | Body::TimeoutNow if !is_voter => Gate::Lose,
            Body::VoteResponse { granted: true }
                if pre.role == RoleName::Candidate && message.term == pre.term =>
            {
                self.gate_vote(from, pre)
            }
            Body::AppendResponse(AppendOutcome::Accepted { matched })
                if pre.role == RoleName::Leader && message.term == pre.term =>
            {
                // While the end of an append is being written, our follower acknowledges already what it had before. The schema's does not.
                let is_known = self.has_acknowledged(from, pre.id, *matched);
                if !is_known && !self.has_reply((from, pre.id), message.term, *matched) {
                    return Gate::Lose;
                }
                self.gate_acknowledgement(from, pre, *matched)
            }
            // A refusal that was overtaken by an acknowledgement of the same: our leader looks again from there, the schema's never does.
            Body::AppendResponse(AppendOutcome::Rejected { prev, .. })
                if self.has_acknowledged(from, pre.id, *prev) =>
            {
                Gate::Lose
            }
            _ => Gate::Pass,
        }
    }

    fn has_acknowledged(&self, from: NodeId, leader: NodeId, index: Index) -> bool {
        let status = self.nodes.get(&leader).and_then(Node::status);
        let peer = status.and_then(|status| status.peers.into_iter().find(|peer| peer.id == from));
        peer.is_some_and(|peer| index <= peer.matched)
    }

    /// The schema elects by the latest committed configuration, we by the latest in the log: a vote that would do for ours alone is lost.
    fn gate_vote(&mut self, from: NodeId, pre: &Shot) -> Gate {
        let Some(node) = self.nodes.get(&pre.id) else { return Gate::Lose };
        let Some(status) = node.status() else { return Gate::Lose };
        let agrees = |other: NodeId| other == from || node.granted.contains(&other);
        let theirs = Membership::of_voters(pre.voters.iter().copied());
        if status.membership.has_quorum(agrees) && !theirs.has_quorum(agrees) {
            return Gate::Lose;
        }
        Gate::Pass
    }

    /// The schema commits by the latest committed configuration, we by the latest in the log: an acknowledgement that would let ours commit
    /// elsewhere than theirs comes later.
    fn gate_acknowledgement(&mut self, from: NodeId, pre: &Shot, matched: Index) -> Gate {
        let Some(node) = self.nodes.get(&pre.id) else { return Gate::Lose };
        let Some(status) = node.status() else { return Gate::Lose };
        if status.membership.voters == pre.voters {
            return Gate::Pass;
        }
        let reached = |other: NodeId| {
            let known = status.peers.iter().find(|peer| peer.id == other);
            let known = known.map_or(Index(0), |peer| peer.matched);
            match other {
                _ if other == pre.id => status.durable,
                _ if other == from => known.max(matched),
                _ => known,
            }
        };
        let quorum = |membership: &Membership| {
            let ends: Vec<Index> = membership.members().map(reached).collect();
            let is_reached = |index: &Index| membership.has_quorum(|node| reached(node) >= *index);
            ends.into_iter().filter(is_reached).max().unwrap_or_default()
        };
        let ours = quorum(&status.membership);
        let rises = ours > status.commit && node.log.term_at(ours) == Some(status.term);
        if rises && ours != quorum(&Membership::of_voters(pre.voters.iter().copied())) {
            return Gate::Delay;
        }
        Gate::Pass
    }

    /// An append that begins below the follower's commit: the schema's follower takes nothing of it, ours would take its end. The core is
    /// given only what is committed there already.
    fn cut_at_commit(pre: &Shot, message: &Message) -> Message {
        let mut given = message.clone();
        if let Body::Append { prev, entries, .. } = &mut given.body
            && message.term >= pre.term
            && prev.index < pre.commit
        {
            entries.truncate_from(pre.commit.next());
        }
        given
    }

    /// Whether an append follows what the node has.
    fn accepts(&self, pre: &Shot, message: &Message) -> bool {
        let Body::Append { prev, .. } = &message.body else { return false };
        let Some(node) = self.nodes.get(&pre.id) else { return false };
        message.term >= pre.term && (prev.index < pre.commit || node.contains(*prev))
    }

    /// Writes the line of a receipt, unless the message was ignored.
    fn note_receipt(
        &mut self,
        from: NodeId,
        pre: &Shot,
        message: &Message,
        accepted: bool,
    ) -> Result<(), TraceError> {
        let (term, is_newer) = (message.term, message.term > pre.term);
        let leads = pre.role == RoleName::Leader;
        let name = match &message.body {
            Body::Vote { last, .. } => {
                if !self.heeds_vote(from, pre, term, *last)? {
                    return Ok(());
                }
                Name::ReceiveRequestVoteRequest
            }
            Body::Append { prev, entries, .. } => {
                if accepted {
                    let end = Index(prev.index.0 + entries.len() as u64);
                    let matched = if prev.index < pre.commit { pre.commit } else { end };
                    self.node(pre.id)?.replies.push((from, term, matched));
                }
                Name::ReceiveAppendEntriesRequest
            }
            Body::Heartbeat { .. } => Name::ReceiveAppendEntriesRequest,
            Body::VoteResponse { granted } => {
                if term < pre.term || !is_newer && pre.role != RoleName::Candidate {
                    return Ok(());
                }
                if *granted {
                    self.node(pre.id)?.granted.insert(from);
                }
                Name::ReceiveRequestVoteResponse
            }
            Body::AppendResponse(outcome) => {
                if term < pre.term || !is_newer && !leads {
                    return Ok(());
                }
                if let AppendOutcome::Accepted { matched } = outcome
                    && !self.take_reply((from, pre.id), term, *matched)
                {
                    // Said before, and heard.
                    return Ok(());
                }
                Name::ReceiveAppendEntriesResponse
            }
            Body::HeartbeatResponse { .. } => {
                if term < pre.term || !is_newer && !leads {
                    return Ok(());
                }
                Name::ReceiveAppendEntriesResponse
            }
            _ => return Ok(()),
        };
        let is_request =
            matches!(name, Name::ReceiveRequestVoteRequest | Name::ReceiveAppendEntriesRequest);
        self.node(pre.id)?.is_dirty |= is_request;
        let msg = project(from, pre.id, message);
        self.push(pre.line(name, msg, None));
        Ok(())
    }

    /// Whether the receipt of a vote request shows. One that our protocol does not heed although the schema's would, to protect a leader
    /// that it hears of, is taken for lost, and so is its refusal.
    fn heeds_vote(
        &mut self,
        from: NodeId,
        pre: &Shot,
        term: Term,
        last: LogPosition,
    ) -> Result<bool, TraceError> {
        let Some(post) = self.shot(pre.id) else { return Ok(false) };
        if term > pre.term && post.term == pre.term {
            return Ok(false);
        }
        let node = self.node(pre.id)?;
        let is_free = term > pre.term || pre.vote.is_none_or(|vote| vote == from);
        let theirs = term >= pre.term && is_free && last.is_up_to_date_with(node.log.last());
        let ours = post.term == term && post.vote == Some(from);
        if !theirs || ours {
            return Ok(true);
        }
        if post.term > pre.term {
            return Err(TraceError::Inexpressible { node: pre.id, what: "a vote refused" });
        }
        node.suppressed.insert((from, term));
        Ok(false)
    }

    /// Writes what changed in a node's role: as far as no message's line says it.
    pub(super) fn note_roles(&mut self, pre: &Shot, by_message: bool) -> Result<(), TraceError> {
        let Some(post) = self.shot(pre.id) else { return Ok(()) };
        match (pre.role, post.role) {
            (_, RoleName::Candidate) if post.term > pre.term => self.note_campaign(&post),
            (RoleName::Candidate, RoleName::Leader) => {
                self.push(Shot { last: pre.last, ..post.clone() }.line(
                    Name::BecomeLeader,
                    None,
                    None,
                ));
                self.tally.elections += 1;
                self.note_entries(&Shot { last: pre.last, ..post.clone() }, &post)
            }
            (RoleName::Candidate | RoleName::Leader, RoleName::Follower) if !by_message => {
                self.push(post.line(Name::BecomeFollower, None, None));
                Ok(())
            }
            _ if by_message || post.term == pre.term => Ok(()),
            _ => Err(TraceError::Inexpressible { node: pre.id, what: "a term of its own" }),
        }
    }

    fn note_campaign(&mut self, post: &Shot) -> Result<(), TraceError> {
        let id = post.id;
        if !post.voters.contains(&id) {
            return Err(TraceError::Inexpressible { node: id, what: "a campaign of a non-voter" });
        }
        let node = self.node(id)?;
        node.granted.clear();
        node.votes_for_itself = true;
        node.is_dirty = true;
        let last = node.log.last();
        let ours = node.status().map(|status| status.membership).unwrap_or_default();
        self.push(post.line(Name::BecomeCandidate, None, None));
        for to in post.voters.iter().copied().filter(|to| ours.is_voter(*to)) {
            let (name, body) = if to == id {
                (Name::SendRequestVoteResponse, Body::VoteResponse { granted: true })
            } else {
                (Name::SendRequestVoteRequest, Body::Vote { last, transfer: false })
            };
            let msg = project(id, to, &Message { term: post.term, body });
            self.push(post.line(name, msg, None));
        }
        Ok(())
    }

    /// Whoever leads, of the highest term.
    pub(super) fn leader(&self) -> Option<NodeId> {
        let leading = self.nodes.values().filter_map(|node| {
            let status = node.status()?;
            (status.role == RoleKind::Leader).then_some((status.term, node.id))
        });
        leading.max().map(|(_, id)| id)
    }
}
