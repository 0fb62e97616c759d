//! What must hold of the whole cluster, judged from what nodes *do* (writes, messages, applied entries), never from what a core says
//! about itself. The properties are those of paper figure 3, and "durable before said" of figure 2.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use raft_core::{
    AppendOutcome, Body, CommitGroups, Entry, HardState, Index, LogPosition, Membership, Message,
    NodeId, Payload, Persist, SnapshotMeta, SnapshotOutcome, Term,
};

use smallvec::SmallVec;

use crate::Image;
use crate::configurations::{Configurations, may_commit};
use crate::machine::payload_hash;

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The property's name.
    pub rule: &'static str,
    /// What happened.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}

/// A promise that leaves before what it rests on is durable, in any of the ways in which one can.
const DURABLE_BEFORE_SAID: &str = "durable before said";

pub(crate) fn broken<T>(rule: &'static str, detail: String) -> Result<T, Violation> {
    Err(Violation { rule, detail })
}

/// What is known of an entry that exists or existed anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    /// `None` as long as only witnesses' copies were seen, which lack it.
    payload: Option<u64>,
    prev_term: Term,
}

#[derive(Clone, Copy, Debug)]
struct Committed {
    /// The entry's term.
    term: Term,
    /// The term of the node that took it for committed first. Leaders of earlier terms that wake up late need not have it.
    during: Term,
}

/// The truth about one cluster, gathered from the outside.
#[derive(Clone, Debug)]
pub struct Checker {
    configurations: Configurations,
    /// The terms of which an entry is committed.
    committed_terms: BTreeSet<Term>,
    /// What each node said last: its term, and whom it voted for in that.
    said: BTreeMap<NodeId, (Term, Option<NodeId>)>,
    leaders: BTreeMap<Term, NodeId>,
    /// All entries that were seen, by their index, few of which have more than one term.
    known: Vec<SmallVec<[(Term, Known); 1]>>,
    /// The committed entries, from index 1 on.
    committed: Vec<Committed>,
    /// Digests of the state after each index, from 0 on.
    digests: Vec<Option<u64>>,
}

impl Checker {
    /// A new group with this configuration.
    pub fn new(membership: Membership) -> Checker {
        Checker {
            configurations: Configurations::new(membership),
            committed_terms: BTreeSet::new(),
            said: BTreeMap::new(),
            leaders: BTreeMap::new(),
            known: Vec::new(),
            committed: Vec::new(),
            digests: Vec::new(),
        }
    }

    /// The highest index known to be committed.
    pub fn committed(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// The latest committed configuration, and its place.
    pub fn latest_membership(&self) -> (Index, &Membership) {
        self.configurations.latest()
    }

    /// What configurations did that were committed since the last time, as it is counted.
    pub fn take_effects(&mut self) -> Vec<&'static str> {
        self.configurations.take_effects()
    }

    /// Whether the entry at this position is committed or may yet be.
    pub fn may_be_committed(&self, position: LogPosition) -> bool {
        self.committed_term(position.index).is_none_or(|term| term == position.term)
    }

    fn committed_term(&self, index: Index) -> Option<Term> {
        if index == Index(0) {
            return Some(Term(0));
        }
        self.committed.get(index.0 as usize - 1).map(|committed| committed.term)
    }

    /// Election safety and leader completeness: `node` acts as the leader of `term`, and this is its log.
    ///
    /// # Errors
    /// The violation.
    pub fn on_leader(&mut self, node: NodeId, term: Term, log: &Image) -> Result<bool, Violation> {
        match self.leaders.get(&term) {
            Some(&other) if other == node => return Ok(false),
            Some(other) => {
                return broken(
                    "election safety",
                    format!("nodes {other} and {node} both lead term {term}"),
                );
            }
            None => {}
        }
        self.leaders.insert(term, node);
        let committed_before = self.committed.iter().rposition(|entry| entry.during < term);
        let committed = Index(committed_before.map_or(0, |at| at as u64 + 1));
        let held = log.base.index.max(committed.min(log.last().index));
        if committed > log.last().index
            || (held > log.base.index && log.term_at(held) != self.committed_term(held))
        {
            return broken(
                "leader completeness",
                format!(
                    "node {node} leads term {term} with a log that ends at {}, without the committed entry {committed}",
                    log.last()
                ),
            );
        }
        Ok(true)
    }

    /// A leader's vote for itself is on its disk: after a restart it votes for nobody else in the term that it led (paper figure 2).
    ///
    /// # Errors
    /// The violation.
    pub fn on_elected(&self, node: NodeId, term: Term, disk: &Image) -> Result<(), Violation> {
        let HardState { term: kept, vote, .. } = disk.hard_state;
        if kept != term || vote != Some(node) {
            return broken(
                "leaders have voted for themselves",
                format!("node {node} leads term {term} with {vote:?} in term {kept} on its disk"),
            );
        }
        Ok(())
    }

    /// Log matching: an entry, seen anywhere, with the term of the one before it.
    ///
    /// # Errors
    /// The violation.
    pub fn on_entry(&mut self, node: NodeId, entry: &Entry, prev: Term) -> Result<(), Violation> {
        let is_withheld = entry.payload == Payload::Withheld;
        let payload = (!is_withheld).then(|| payload_hash(&entry.payload));
        let now = Known { payload, prev_term: prev };
        let place = usize::try_from(entry.index.0).unwrap_or(usize::MAX);
        if place >= self.known.len() {
            self.known.resize_with(place + 1, SmallVec::new);
        }
        let seen = &mut self.known[place];
        let number = seen.iter().position(|(term, _)| *term == entry.term).unwrap_or_else(|| {
            seen.push((entry.term, now));
            seen.len() - 1
        });
        let before = &mut seen[number].1;
        before.payload = before.payload.or(payload);
        if before.prev_term != prev || (payload.is_some() && before.payload != payload) {
            return broken(
                "log matching",
                format!(
                    "node {node} has entry {} after term {prev}; before, it was seen after term {} or with another payload",
                    entry.position(),
                    before.prev_term
                ),
            );
        }
        Ok(())
    }

    /// A write that a node hands to its disk, over the log as it was.
    ///
    /// # Errors
    /// The violation.
    pub fn on_write(
        &mut self,
        node: NodeId,
        write: &Persist,
        log: &Image,
    ) -> Result<Vec<&'static str>, Violation> {
        if let Some(new) = write.hard_state {
            let old = log.hard_state;
            let vote_moved = new.term == old.term && old.vote.is_some() && new.vote != old.vote;
            if new.term < old.term || vote_moved || new.commit < old.commit {
                return broken(
                    "hard state only moves forward",
                    format!("node {node} replaces {old:?} by {new:?}"),
                );
            }
        }
        if let Some(snapshot) = &write.reset {
            self.on_snapshot_position(node, snapshot)?;
        }
        if let Some(from) = write.truncate_from {
            let kept = self.committed_term(from);
            if kept.is_some() && write.reset.is_none() && log.term_at(from) == kept {
                return broken(
                    "committed entries stay",
                    format!("node {node} truncates the committed entry {from}"),
                );
            }
        }
        let mut prev = match (&write.reset, write.entries.first()) {
            (_, None) => Term(0),
            (Some(snapshot), Some(_)) => snapshot.position.term,
            (None, Some(first)) => match log.term_at(first.index.prev()) {
                Some(term) => term,
                None => {
                    return broken(
                        "writes fit the log",
                        format!("node {node} appends at {} beyond {}", first.index, log.last()),
                    );
                }
            },
        };
        let mut steps = Vec::new();
        let mut configuration = None;
        let keeps_commands = !self.configuration_before(write, log).1.is_witness(node);
        for entry in write.entries.iter() {
            self.on_entry(node, entry, prev)?;
            prev = entry.term;
            if let Payload::Membership(membership) = &entry.payload {
                let has_committed = self.committed_terms.contains(&entry.term);
                let (at, before) = configuration.unwrap_or_else(|| {
                    let (at, before) = self.configuration_before(write, log);
                    (at, before.clone())
                });
                let position = entry.position();
                steps.extend(self.configurations.on_entry(
                    node,
                    position,
                    membership,
                    (at, &before),
                    has_committed,
                )?);
                configuration = Some((entry.index, (**membership).clone()));
            } else if !keeps_commands && matches!(entry.payload, Payload::Command(_)) {
                return broken(
                    "witnesses get no commands",
                    format!("node {node}, a witness, writes that of {}", entry.index),
                );
            }
        }
        Ok(steps)
    }

    /// The configuration, and its place, that a write's entries follow. Who joined knows none before the first that it receives.
    fn configuration_before<'a>(
        &'a self,
        write: &'a Persist,
        log: &'a Image,
    ) -> (Index, &'a Membership) {
        if let Some(snapshot) = &write.reset {
            return (Index(0), &snapshot.membership);
        }
        let first = write.entries.first().map_or(Index(u64::MAX), |entry| entry.index);
        let last = log.memberships().take_while(|(at, _)| at.index < first).last();
        match last {
            Some((at, membership)) => (at.index, membership),
            None if log.base.index == Index(0) => (Index(0), self.configurations.founding()),
            None => (Index(0), &log.base_membership),
        }
    }

    /// A snapshot is always of committed entries.
    ///
    /// # Errors
    /// The violation.
    pub fn on_snapshot_position(
        &self,
        node: NodeId,
        snapshot: &SnapshotMeta,
    ) -> Result<(), Violation> {
        if self.committed_term(snapshot.position.index) != Some(snapshot.position.term) {
            return broken(
                "snapshots are committed",
                format!("node {node} resets to {}, which is not committed", snapshot.position),
            );
        }
        let expected = self.configurations.committed_at(snapshot.position.index);
        if *snapshot.membership != *expected {
            return broken(
                "snapshots carry the configuration",
                format!(
                    "node {node} has {:?} at {}, where {expected:?} is committed",
                    snapshot.membership, snapshot.position
                ),
            );
        }
        Ok(())
    }

    /// A node takes everything through `index` for committed. `log` is its own log, `disks` what a power loss now would leave on every
    /// voter, `proposed` the configuration in a write that is just being handed out. Says whether anything is committed that was not before.
    ///
    /// # Errors
    /// The violation.
    pub fn on_commit<'a>(
        &mut self,
        node: NodeId,
        index: Index,
        (log, proposed): (&Image, Option<&Membership>),
        groups: Option<&CommitGroups>,
        disks: &(impl Iterator<Item = (NodeId, &'a Image)> + Clone),
    ) -> Result<bool, Violation> {
        if index <= self.committed() {
            let agrees = index < log.base.index || log.term_at(index) == self.committed_term(index);
            if agrees {
                return Ok(false);
            }
            return broken(
                "state machine safety",
                format!(
                    "node {node} takes entry {index} of term {:?} for committed, which was committed in term {:?}",
                    log.term_at(index),
                    self.committed_term(index)
                ),
            );
        }
        let mut at = self.committed().next();
        while at <= index {
            let Some(term) = log.term_at(at) else {
                return broken(
                    "commit is in the log",
                    format!("node {node} takes {at} for committed, its log ends at {}", log.last()),
                );
            };
            let holds = |voter: NodeId| {
                disks.clone().any(|(id, disk)| id == voter && disk.term_at(at) == Some(term))
            };
            let in_force = std::iter::once(log.membership()).chain(proposed);
            if !in_force.into_iter().any(|membership| may_commit(membership, groups, holds)) {
                return broken(
                    "commit is durable",
                    format!(
                        "node {node} takes {} for committed, which is not on the disks of a quorum",
                        LogPosition { index: at, term }
                    ),
                );
            }
            self.committed.push(Committed { term, during: log.hard_state.term });
            self.committed_terms.insert(term);
            self.configurations.on_committed(LogPosition { index: at, term });
            at = at.next();
        }
        Ok(true)
    }

    /// A member that does not lead answers a read at this index, which its leader gave it.
    ///
    /// # Errors
    /// If nothing is committed there.
    pub fn on_read_index(&self, node: NodeId, index: Index) -> Result<(), Violation> {
        if index > self.committed() {
            return broken(
                "reads wait for committed entries",
                format!(
                    "node {node} is told to read at {index}; committed is {}",
                    self.committed()
                ),
            );
        }
        Ok(())
    }

    /// A node starts from this hard state: never behind what it said before it went down.
    ///
    /// # Errors
    /// The violation.
    pub fn on_start(&self, node: NodeId, hard_state: &HardState) -> Result<(), Violation> {
        let (term, vote) = self.said.get(&node).copied().unwrap_or_default();
        let is_behind = hard_state.term < term
            || (hard_state.term == term && vote.is_some() && hard_state.vote != vote);
        if is_behind {
            return broken(
                "what was said is remembered",
                format!(
                    "node {node} starts with {hard_state:?}, after it spoke in term {term} and voted for {vote:?}"
                ),
            );
        }
        Ok(())
    }

    /// A node's disk was wiped: it owes nothing any more.
    pub fn on_wipe(&mut self, node: NodeId) {
        self.said.remove(&node);
    }

    /// A node's machine has applied an entry, and its state has this digest.
    ///
    /// # Errors
    /// The violation.
    pub fn on_applied(
        &mut self,
        node: NodeId,
        position: LogPosition,
        digest: u64,
    ) -> Result<(), Violation> {
        if self.committed_term(position.index) != Some(position.term) {
            return broken(
                "only committed entries are applied",
                format!("node {node} applied {position}"),
            );
        }
        // Committed places are as many as were seen.
        let place = position.index.0 as usize;
        if place >= self.digests.len() {
            self.digests.resize(place + 1, None);
        }
        let first = *self.digests[place].get_or_insert(digest);
        if first != digest {
            return broken(
                "state machine safety",
                format!("node {node} has another state than others after {position}"),
            );
        }
        Ok(())
    }

    /// "Durable before said": a message leaves while this is what a power loss would leave on the sender's disk.
    ///
    /// # Errors
    /// The violation.
    pub fn on_send(
        &mut self,
        from: NodeId,
        to: NodeId,
        message: &Message,
        disk: &Image,
    ) -> Result<(), Violation> {
        let binds =
            !matches!(message.body, Body::PreVote { .. } | Body::PreVoteResponse { granted: true });
        if binds && disk.hard_state.term < message.term {
            return broken(
                DURABLE_BEFORE_SAID,
                format!(
                    "node {from} speaks in term {} with term {} on its disk: {:?}",
                    message.term, disk.hard_state.term, message.body
                ),
            );
        }
        let same_term = disk.hard_state.term == message.term;
        let vote_for = match message.body {
            Body::Vote { .. } => Some(from),
            Body::VoteResponse { granted: true } => Some(to),
            _ => None,
        };
        if vote_for.is_some() && same_term && disk.hard_state.vote != vote_for {
            return broken(
                DURABLE_BEFORE_SAID,
                format!(
                    "node {from} gives its vote of term {} with {:?} on its disk",
                    message.term, disk.hard_state.vote
                ),
            );
        }
        if binds {
            let said = self.said.entry(from).or_default();
            if message.term > said.0 {
                *said = (message.term, None);
            }
            said.1 = said.1.or(vote_for.filter(|_| message.term == said.0));
        }
        let (Body::AppendResponse(
            AppendOutcome::Accepted { matched } | AppendOutcome::Witnessed { matched },
        )
        | Body::SnapshotResponse { outcome: SnapshotOutcome::Matched(matched), .. }) = message.body
        else {
            return Ok(());
        };
        // A node that has moved on to a later term may have truncated since; the receiver does not count the answer any more.
        if same_term && matched > disk.last().index {
            return broken(
                DURABLE_BEFORE_SAID,
                format!(
                    "node {from} acknowledges {matched} with a log that ends at {} on its disk",
                    disk.last()
                ),
            );
        }
        Ok(())
    }

    /// An acknowledgement, seen beside the log of the leader that it goes to.
    ///
    /// # Errors
    /// The violation.
    pub fn on_acknowledge(
        &self,
        from: NodeId,
        term: Term,
        matched: Index,
        disk: &Image,
        leader: (NodeId, &Image),
    ) -> Result<(), Violation> {
        let both_in_term = disk.hard_state.term == term && leader.1.hard_state.term == term;
        if self.leaders.get(&term) != Some(&leader.0) || !both_in_term {
            return Ok(());
        }
        let (here, there) = (disk.term_at(matched), leader.1.term_at(matched));
        if here.is_some() && there.is_some() && here != there {
            return broken(
                "acknowledged entries match",
                format!(
                    "node {from} acknowledges {matched} of term {here:?}; the leader {} has term {there:?}",
                    leader.0
                ),
            );
        }
        Ok(())
    }
}
