//! What a member does at the moment. Each role carries what belongs to it and nothing else.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use crate::forward::{Forwards, Seen};
use crate::lease::Lease;
use crate::outbox::shrink;
use crate::peers::Peers;
use crate::transfer::Transfer;
use crate::{Index, Instant, NodeId, ProposalId, ReadId, RequestId, Ticket, UncountedReason};

// A tag of its own: it is asked for a dozen times per input, and telling it from a field's unused values shows.
#[derive(Debug)]
#[repr(u8)]
pub(crate) enum Role {
    Follower(Follower),
    PreCandidate(PreCandidate),
    Candidate(Candidate),
    Leader(Leader),
}

/// Follows a leader, or waits for one (also as a learner).
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) leader: Option<NodeId>,
    pub(crate) election_deadline: Instant,
    pub(crate) acks: Acks,
    /// Proposals passed on to the leader.
    pub(crate) forwards: Forwards,
    /// Reads for which the leader was asked for an index.
    pub(crate) questions: Questions,
}

impl Follower {
    /// It has heard and asked nothing yet.
    pub(crate) fn new(leader: Option<NodeId>, election_deadline: Instant) -> Follower {
        let (acks, forwards) = (Acks::default(), Forwards::default());
        Follower { leader, election_deadline, acks, forwards, questions: Questions::default() }
    }

    /// Whether it waits for answers of its leader, which it gives up in time.
    pub(crate) fn has_asked(&self) -> bool {
        !self.forwards.is_empty() || !self.questions.asked.is_empty()
    }
}

/// What a follower owes its leader: acknowledgements are made when polled, from what is durable then, so that many
/// appends and one fsync give one answer.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    /// The log equals the leader's up to here.
    pub(crate) verified: Index,
    /// The last index acknowledged.
    pub(crate) acked: Index,
    /// Whether an answer is owed even if nothing new is durable: to a probe, or to something sent twice.
    pub(crate) is_due: bool,
}

/// Asks whether a campaign would succeed, without disturbing anyone (dissertation §9.6).
#[derive(Debug)]
pub(crate) struct PreCandidate {
    pub(crate) votes: Votes,
    pub(crate) election_deadline: Instant,
}

/// Campaigns (paper §5.2).
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) votes: Votes,
    /// The write that makes its own vote durable: the vote counts from then on.
    pub(crate) own_vote: Ticket,
    pub(crate) election_deadline: Instant,
}

/// How the voters answered a candidate, or who would be one. Only what is granted decides; the rest says what the group
/// lacks to elect it.
#[derive(Debug, Default)]
pub(crate) struct Votes(BTreeMap<NodeId, Answer>);

/// One voter's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Granted,
    Uncounted(UncountedReason),
    Refused,
}

impl Votes {
    /// Notes the last answer of `node`. What was granted stays so: a refusal that comes after it is an older one.
    pub(crate) fn note(&mut self, node: NodeId, answer: Answer) {
        if !self.has_granted(node) || mutated!(LateRefusalTakesAVoteBack) {
            self.0.insert(node, answer);
        }
    }

    pub(crate) fn of(&self, node: NodeId) -> Option<Answer> {
        self.0.get(&node).copied()
    }

    pub(crate) fn has_granted(&self, node: NodeId) -> bool {
        self.of(node) == Some(Answer::Granted)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, Answer)> {
        self.0.iter().map(|(node, answer)| (*node, *answer))
    }
}

/// Leads.
#[derive(Debug)]
pub(crate) struct Leader {
    /// Boxed: a map has room for eleven, and groups have three or five.
    pub(crate) peers: Peers,
    /// Its first entry: nothing is committed by counting, and no read is served, before it (paper §5.4.2, §8).
    pub(crate) term_start: Index,
    pub(crate) heartbeat_deadline: Instant,
    /// By when a quorum must have been heard from again (dissertation §6.2).
    pub(crate) quorum_deadline: Instant,
    pub(crate) proposals: Proposals,
    pub(crate) reads: Reads,
    pub(crate) lease: Lease,
    /// Who waits for the membership change that is under way.
    pub(crate) change: Option<RequestId>,
    pub(crate) transfer: Option<Transfer>,
    /// Who was asked to take over in this term, and did not.
    pub(crate) passed_over: BTreeSet<NodeId>,
    /// The forwarded batches that were taken in this term, per member that forwards.
    pub(crate) forwarded: BTreeMap<NodeId, Seen>,
}

/// Batches that are appended and not yet committed, in the order of their indexes. Their bytes are what the quota counts; they
/// leave with the batch or with the role, so the count can not leak.
#[derive(Debug, Default)]
pub(crate) struct Proposals {
    queue: VecDeque<Pending>,
    bytes: usize,
}

#[derive(Debug)]
struct Pending {
    /// `None` if another member forwarded it and knows its name.
    id: Option<ProposalId>,
    last: Index,
    bytes: usize,
}

impl Proposals {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back what a burst made of its room.
    pub(crate) fn shrink(&mut self) {
        shrink(&mut self.queue, 4);
    }

    pub(crate) fn push(&mut self, id: Option<ProposalId>, last: Index, bytes: usize) {
        self.bytes += bytes;
        self.queue.push_back(Pending { id, last, bytes });
    }

    pub(crate) fn release_through(&mut self, commit: Index) {
        while self.queue.front().is_some_and(|pending| pending.last <= commit) {
            if let Some(pending) = self.queue.pop_front() {
                self.bytes -= pending.bytes;
            }
        }
    }

    pub(crate) fn into_ids(self) -> impl Iterator<Item = ProposalId> {
        self.queue.into_iter().filter_map(|pending| pending.id)
    }
}

/// Who waits for proof of leadership.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reader {
    /// A read at this member.
    Here(ReadId),
    /// A read at another member, which asked with this context.
    Peer { node: NodeId, context: u64 },
}

/// Reads that wait for proof that this leader still leads (dissertation §6.4).
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// The last context sent. Contexts are never used twice in a term (scenario 21).
    pub(crate) last_context: u64,
    /// Reads that no heartbeat asks for yet.
    pub(crate) waiting: Vec<Reader>,
    /// Reads whose heartbeats are under way, in the order of their contexts.
    pub(crate) rounds: VecDeque<ReadRound>,
}

/// A batch of reads that one round of heartbeats confirms.
#[derive(Debug)]
pub(crate) struct ReadRound {
    pub(crate) context: u64,
    /// The commit index when the round began.
    pub(crate) index: Index,
    pub(crate) readers: Vec<Reader>,
}

impl Reads {
    /// How many rounds may be under way at once: more reads meanwhile wait and share the next one.
    pub(crate) const ROUNDS_MAX: usize = 4;

    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.rounds.iter().map(|round| round.readers.len()).sum::<usize>()
    }

    pub(crate) fn into_readers(self) -> impl Iterator<Item = Reader> {
        self.rounds.into_iter().flat_map(|round| round.readers).chain(self.waiting)
    }
}

/// Reads at a member that does not lead, for which it asks the leader.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    /// Reads that no question asks for yet.
    pub(crate) waiting: Vec<ReadId>,
    /// Questions that are not answered, oldest first.
    pub(crate) asked: VecDeque<Question>,
}

/// One question, for all reads that had come by then.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) context: u64,
    pub(crate) reads: Vec<ReadId>,
    /// When to give up.
    pub(crate) deadline: Instant,
}

impl Questions {
    /// How many may be under way at once.
    pub(crate) const ASKED_MAX: usize = 4;

    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.asked.iter().map(|question| question.reads.len()).sum::<usize>()
    }

    pub(crate) fn into_ids(self) -> impl Iterator<Item = ReadId> {
        self.asked.into_iter().flat_map(|question| question.reads).chain(self.waiting)
    }
}
