//! The lines of what a node decides and sends by itself, in the order in which the schema's node would have done it.

use raft_core::{Body, Index, Message, NodeId, Term};

use super::event::{ConfChange, Name, Prop, RoleName};
use super::node::{Shot, names, project};
use super::options::TraceError;
use super::world::World;

impl World {
    /// The schema's nodes get their own votes and acknowledgements as messages, once they are durable.
    pub(super) fn hear_itself(&mut self, id: NodeId) -> Result<(), TraceError> {
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

    /// What came out of one poll, in the order in which the schema's node would have done it: heartbeats that know of the old commit
    /// index, the new one, the configuration that it commits, what else is sent, and the end of a leadership.
    pub(super) fn note_decisions(
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

    pub(super) fn acknowledge_itself(&mut self, post: &Shot) -> Result<(), TraceError> {
        let msg = project(post.id, post.id, &own_ack(post.term, post.last));
        self.push(post.line(Name::SendAppendEntriesResponse, msg, None));
        let node = self.node(post.id)?;
        node.own_acks.push((post.term, post.last));
        node.is_dirty = true;
        Ok(())
    }
}

fn own_ack(term: Term, matched: Index) -> Message {
    let outcome = raft_core::AppendOutcome::Accepted { matched };
    Message { term, body: Body::AppendResponse(outcome) }
}
