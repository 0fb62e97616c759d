//! Proposals at a member that does not lead, passed on to the leader if the configuration says so.
//!
//! A batch is taken at most once: its [`ForwardId`] is unique, and a leader remembers the highest of each start of each
//! member. So a network that repeats or delays messages can not make it append a batch twice. What is not answered in
//! time is abandoned: its outcome is unknown.

use alloc::collections::btree_map::Entry;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use bytes::Bytes;

use crate::role::Role;
use crate::{
    Action, Body, Config, ForwardId, ForwardOutcome, Index, Instant, NodeId, ProposalId, Raft,
    Refusal, Resolution,
};

/// Batches that a follower passed on, until they are committed or given up.
#[derive(Debug, Default)]
pub(crate) struct Forwards {
    queue: VecDeque<Forwarded>,
    bytes: usize,
}

#[derive(Debug)]
struct Forwarded {
    sequence: u64,
    id: ProposalId,
    bytes: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No answer yet.
    Asked { deadline: Instant },
    /// It is in the leader's log, and ends here.
    Appended { last: Index },
}

impl Forwards {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes to which the leader has said nothing yet.
    pub(crate) fn unanswered_bytes(&self) -> usize {
        let is_asked = |forwarded: &&Forwarded| matches!(forwarded.state, State::Asked { .. });
        self.queue.iter().filter(is_asked).map(|forwarded| forwarded.bytes).sum()
    }

    /// When the first of them is given up.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let deadlines = self.queue.iter().filter_map(|forwarded| match forwarded.state {
            State::Asked { deadline } => Some(deadline),
            State::Appended { .. } => None,
        });
        deadlines.min()
    }

    fn remove(&mut self, position: usize) -> Option<ProposalId> {
        let forwarded = self.queue.remove(position)?;
        self.bytes -= forwarded.bytes;
        Some(forwarded.id)
    }

    /// Forgets what is committed: its proposer learns that from the state machine.
    pub(crate) fn release_through(&mut self, commit: Index) {
        let bytes = &mut self.bytes;
        self.queue.retain(|forwarded| {
            let is_committed =
                matches!(forwarded.state, State::Appended { last } if last <= commit);
            *bytes -= if is_committed { forwarded.bytes } else { 0 };
            !is_committed
        });
    }

    pub(crate) fn into_ids(self) -> impl Iterator<Item = ProposalId> {
        self.queue.into_iter().map(|forwarded| forwarded.id)
    }
}

/// The batches that a leader has taken from one member in this term: the highest sequence of each of that member's starts.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    sequences: BTreeMap<u64, u64>,
}

impl Seen {
    /// More starts of one member within one term than this are not believed, so that what is remembered stays small.
    const STARTS_MAX: usize = 64;

    /// Whether the batch is new. If so, it is old from now on.
    fn take(&mut self, id: ForwardId) -> bool {
        let starts = self.sequences.len();
        match self.sequences.entry(id.nonce) {
            Entry::Occupied(mut highest)
                if id.sequence > *highest.get() || mutated!(ForwardTakenTwice) =>
            {
                highest.insert(id.sequence);
                true
            }
            Entry::Vacant(place) if starts < Self::STARTS_MAX => {
                place.insert(id.sequence);
                true
            }
            _ => false,
        }
    }
}

impl Raft {
    /// Passes a batch on to the leader.
    pub(crate) fn forward(&mut self, id: ProposalId, commands: Vec<Bytes>) -> Result<(), Refusal> {
        let max_bytes = self.config.uncommitted_bytes_max;
        let deadline = self.now + self.config.election_timeout;
        let Role::Follower(follower) = &mut self.role else {
            return Err(Refusal::NotLeader { leader: None });
        };
        let Some(leader) = follower.leader else {
            return Err(Refusal::NotLeader { leader: None });
        };
        let bytes = batch_bytes(&commands, &self.config)?;
        let of_a_message =
            self.config.command_bytes_max.saturating_add(crate::Entry::OVERHEAD_BYTES);
        if bytes > of_a_message {
            return Err(Refusal::BatchTooLarge { bytes, max_bytes: of_a_message });
        }
        let forwards = &mut follower.forwards;
        if forwards.bytes + bytes > max_bytes && !mutated!(ForwardQuotaNotChecked) {
            return Err(Refusal::QuotaExceeded { uncommitted_bytes: forwards.bytes, max_bytes });
        }
        self.forward_sequence += 1;
        let sequence = self.forward_sequence;
        forwards.bytes += bytes;
        forwards.queue.push_back(Forwarded {
            sequence,
            id,
            bytes,
            state: State::Asked { deadline },
        });
        let id = ForwardId { nonce: self.nonce.value(), sequence };
        // Not before this node's own term is durable, like everything that is said in it.
        self.send(leader, Body::Forward { id, commands });
        Ok(())
    }

    /// Leader: another member's batch.
    pub(crate) fn on_forward(&mut self, from: NodeId, id: ForwardId, commands: Vec<Bytes>) {
        let Role::Leader(leader) = &mut self.role else { return };
        if !leader.peers.contains(from) || !leader.forwarded.entry(from).or_default().take(id) {
            return;
        }
        let outcome = match self.append_batch(None, commands) {
            Ok((first, count)) => ForwardOutcome::Appended { first, count },
            Err(reason) => ForwardOutcome::Refused(reason),
        };
        self.send(from, Body::ForwardResponse { id, outcome });
    }

    /// Follower: the leader's answer, in the term in which it was asked (a new term abandons all).
    pub(crate) fn on_forward_response(
        &mut self,
        from: NodeId,
        id: ForwardId,
        outcome: ForwardOutcome,
    ) {
        let (term, commit) = (self.term, self.commit);
        let Role::Follower(follower) = &mut self.role else { return };
        let is_ours = id.nonce == self.nonce.value() || mutated!(AnswerToAnEarlierLifeBelieved);
        if follower.leader != Some(from) || !is_ours {
            return;
        }
        let forwards = &mut follower.forwards;
        let asked =
            |f: &Forwarded| f.sequence == id.sequence && matches!(f.state, State::Asked { .. });
        let Some(position) = forwards.queue.iter().position(asked) else { return };
        let Some(proposal) = forwards.queue.get(position).map(|f| f.id) else { return };
        let resolution = match outcome {
            ForwardOutcome::Appended { first, count } => {
                let last = first.plus(count.saturating_sub(1));
                if let Some(forwarded) = forwards.queue.get_mut(position) {
                    forwarded.state = State::Appended { last };
                }
                forwards.release_through(commit);
                Resolution::Appended { id: proposal, first, count, term }
            }
            ForwardOutcome::Refused(reason) => {
                forwards.remove(position);
                Resolution::Refused { id: proposal, reason }
            }
        };
        self.actions.push_back(Action::Resolve(resolution));
    }

    /// Gives up what the leader has not answered in time.
    pub(crate) fn give_up_forwards(&mut self) {
        let now = self.now;
        let Role::Follower(follower) = &mut self.role else { return };
        let is_late = |f: &Forwarded| matches!(f.state, State::Asked { deadline } if now >= deadline && !mutated!(ForwardsNeverGivenUp));
        while let Some(position) = follower.forwards.queue.iter().position(is_late) {
            if let Some(id) = follower.forwards.remove(position) {
                self.actions.push_back(Action::Resolve(Resolution::Abandoned { id }));
            }
        }
    }
}

/// What a batch counts for.
///
/// # Errors
/// If it is empty, or it or one of its commands is so large that it could never be accepted: such a command would stop
/// the group, for it can be carried to nobody.
pub(crate) fn batch_bytes(commands: &[Bytes], config: &Config) -> Result<usize, Refusal> {
    if commands.is_empty() {
        return Err(Refusal::EmptyBatch);
    }
    let largest = commands.iter().map(Bytes::len).max().unwrap_or(0);
    if largest > config.command_bytes_max {
        return Err(Refusal::BatchTooLarge { bytes: largest, max_bytes: config.command_bytes_max });
    }
    let max_bytes = config.uncommitted_bytes_max;
    let bytes =
        commands.iter().map(|command| command.len() + crate::Entry::OVERHEAD_BYTES).sum::<usize>();
    if bytes > max_bytes {
        return Err(Refusal::BatchTooLarge { bytes, max_bytes });
    }
    Ok(bytes)
}
