//! What must hold of the whole cluster, judged from what nodes *do* (writes, messages, applied entries), never from what a core says
//! about itself. The properties are those of paper figure 3, and "durable before said" of figure 2.

use std::collections::BTreeMap;
use std::fmt;

use raft_core::{
    AppendOutcome, Body, Entry, Index, LogPosition, Membership, Message, NodeId, Persist,
    SnapshotMeta, SnapshotOutcome, Term,
};

use crate::Image;
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

pub(crate) fn broken<T>(rule: &'static str, detail: String) -> Result<T, Violation> {
    Err(Violation { rule, detail })
}

/// What is known of an entry that exists or existed anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    payload: u64,
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
    membership: Membership,
    leaders: BTreeMap<Term, NodeId>,
    known: BTreeMap<(Index, Term), Known>,
    /// The committed entries, from index 1 on.
    committed: Vec<Committed>,
    /// Digests of the state after each index.
    digests: BTreeMap<Index, u64>,
}

impl Checker {
    /// A new group with this configuration.
    pub fn new(membership: Membership) -> Checker {
        Checker {
            membership,
            leaders: BTreeMap::new(),
            known: BTreeMap::new(),
            committed: Vec::new(),
            digests: BTreeMap::new(),
        }
    }

    /// The highest index known to be committed.
    pub fn committed(&self) -> Index {
        Index(self.committed.len() as u64)
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

    /// Log matching: an entry, seen anywhere, with the term of the one before it.
    ///
    /// # Errors
    /// The violation.
    pub fn on_entry(&mut self, node: NodeId, entry: &Entry, prev: Term) -> Result<(), Violation> {
        let now = Known { payload: payload_hash(&entry.payload), prev_term: prev };
        let before = *self.known.entry((entry.index, entry.term)).or_insert(now);
        if before != now {
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
    ) -> Result<(), Violation> {
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
        for entry in write.entries.iter() {
            self.on_entry(node, entry, prev)?;
            prev = entry.term;
        }
        Ok(())
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
        if snapshot.membership != self.membership {
            return broken(
                "snapshots carry the configuration",
                format!("node {node} has {:?} at {}", snapshot.membership, snapshot.position),
            );
        }
        Ok(())
    }

    /// A node takes everything through `index` for committed. `log` is its own log, `disks` what a power loss now would leave on every
    /// voter.
    ///
    /// # Errors
    /// The violation.
    pub fn on_commit<'a>(
        &mut self,
        node: NodeId,
        index: Index,
        log: &Image,
        disks: &(impl Iterator<Item = (NodeId, &'a Image)> + Clone),
    ) -> Result<(), Violation> {
        if index <= self.committed() {
            let agrees = index < log.base.index || log.term_at(index) == self.committed_term(index);
            if agrees {
                return Ok(());
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
            if !self.membership.has_quorum(holds) {
                return broken(
                    "commit is durable",
                    format!(
                        "node {node} takes {} for committed, which is not on the disks of a quorum",
                        LogPosition { index: at, term }
                    ),
                );
            }
            self.committed.push(Committed { term, during: log.hard_state.term });
            at = at.next();
        }
        Ok(())
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
        let first = *self.digests.entry(position.index).or_insert(digest);
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
        let rule = "durable before said";
        let binds =
            !matches!(message.body, Body::PreVote { .. } | Body::PreVoteResponse { granted: true });
        if binds && disk.hard_state.term < message.term {
            return broken(
                rule,
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
                rule,
                format!(
                    "node {from} gives its vote of term {} with {:?} on its disk",
                    message.term, disk.hard_state.vote
                ),
            );
        }
        let (Body::AppendResponse(AppendOutcome::Accepted { matched })
        | Body::SnapshotResponse { outcome: SnapshotOutcome::Matched(matched), .. }) = message.body
        else {
            return Ok(());
        };
        // A node that has moved on to a later term may have truncated since; the receiver does not count the answer any more.
        if same_term && matched > disk.last().index {
            return broken(
                rule,
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

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::{HardState, Payload};

    fn image(terms: &[u64], term: u64) -> Image {
        let mut image = Image::founding(Membership::of_voters((1..=3).map(NodeId)));
        image.hard_state = HardState { term: Term(term), vote: None, commit: Index(0) };
        for (i, &t) in terms.iter().enumerate() {
            image.entries.push(Entry {
                term: Term(t),
                index: Index(i as u64 + 1),
                payload: Payload::Empty,
            });
        }
        image
    }

    fn checker() -> Checker {
        Checker::new(Membership::of_voters((1..=3).map(NodeId)))
    }

    fn rule<T: fmt::Debug>(result: Result<T, Violation>) -> &'static str {
        result.expect_err("a violation").rule
    }

    #[test]
    fn two_leaders_in_one_term_are_found() {
        let mut checker = checker();
        let log = image(&[], 1);
        assert_eq!(checker.on_leader(NodeId(1), Term(1), &log), Ok(true));
        assert_eq!(checker.on_leader(NodeId(1), Term(1), &log), Ok(false));
        assert_eq!(rule(checker.on_leader(NodeId(2), Term(1), &log)), "election safety");
    }

    #[test]
    fn a_commit_needs_a_quorum_of_disks() {
        let mut checker = checker();
        let (full, empty) = (image(&[1], 1), image(&[], 1));
        let one = [(NodeId(1), &full), (NodeId(2), &empty), (NodeId(3), &empty)];
        let result = checker.on_commit(NodeId(1), Index(1), &full, &one.iter().copied());
        assert_eq!(rule(result), "commit is durable");
        let two = [(NodeId(1), &full), (NodeId(2), &full), (NodeId(3), &empty)];
        assert_eq!(checker.on_commit(NodeId(1), Index(1), &full, &two.iter().copied()), Ok(()));
        // Another node that takes another entry for committed there.
        let other = image(&[2], 2);
        let result = checker.on_commit(NodeId(3), Index(1), &other, &two.iter().copied());
        assert_eq!(rule(result), "state machine safety");
        // A leader without it.
        assert_eq!(rule(checker.on_leader(NodeId(3), Term(3), &empty)), "leader completeness");
        // One of an earlier term that wakes up late is no violation: nobody follows it.
        assert_eq!(checker.on_leader(NodeId(3), Term(1), &empty), Ok(true));
        assert_eq!(rule(checker.on_leader(NodeId(3), Term(4), &other)), "leader completeness");
        // And a disk that forgets it.
        let write = Persist {
            ticket: raft_core::Ticket(1),
            hard_state: None,
            reset: None,
            truncate_from: Some(Index(1)),
            entries: raft_core::Entries::new(),
        };
        assert_eq!(rule(checker.on_write(NodeId(1), &write, &full)), "committed entries stay");
    }

    #[test]
    fn an_entry_with_two_payloads_or_two_predecessors_is_found() {
        let mut checker = checker();
        let entry = Entry { term: Term(2), index: Index(2), payload: Payload::Empty };
        assert_eq!(checker.on_entry(NodeId(1), &entry, Term(1)), Ok(()));
        assert_eq!(rule(checker.on_entry(NodeId(2), &entry, Term(2))), "log matching");
        let command = Payload::Command(bytes::Bytes::from_static(b"x"));
        let other = Entry { payload: command, ..entry };
        assert_eq!(rule(checker.on_entry(NodeId(2), &other, Term(1))), "log matching");
    }

    #[test]
    fn a_vote_or_an_acknowledgement_ahead_of_its_disk_is_found() {
        let mut checker = checker();
        let vote = Message { term: Term(2), body: Body::VoteResponse { granted: true } };
        let rule_name = "durable before said";
        let send = |checker: &mut Checker, message: &Message, disk: &Image| {
            checker.on_send(NodeId(1), NodeId(2), message, disk)
        };
        assert_eq!(rule(send(&mut checker, &vote, &image(&[], 1))), rule_name);
        assert_eq!(rule(send(&mut checker, &vote, &image(&[], 2))), rule_name);
        let mut voted = image(&[], 2);
        voted.hard_state.vote = Some(NodeId(2));
        assert_eq!(send(&mut checker, &vote, &voted), Ok(()));
        let accepted = AppendOutcome::Accepted { matched: Index(1) };
        let ack = Message { term: Term(2), body: Body::AppendResponse(accepted) };
        assert_eq!(rule(send(&mut checker, &ack, &image(&[], 2))), rule_name);
        assert_eq!(send(&mut checker, &ack, &image(&[1], 2)), Ok(()));
    }

    #[test]
    fn a_hard_state_that_falls_or_a_vote_that_moves_is_found() {
        let mut checker = checker();
        let mut log = image(&[], 3);
        log.hard_state.vote = Some(NodeId(1));
        let write = |term: u64, vote: u64| Persist {
            ticket: raft_core::Ticket(1),
            hard_state: Some(HardState {
                term: Term(term),
                vote: Some(NodeId(vote)),
                commit: Index(0),
            }),
            reset: None,
            truncate_from: None,
            entries: raft_core::Entries::new(),
        };
        assert!(checker.on_write(NodeId(1), &write(2, 1), &log).is_err());
        assert!(checker.on_write(NodeId(1), &write(3, 2), &log).is_err());
        assert!(checker.on_write(NodeId(1), &write(4, 2), &log).is_ok());
    }

    #[test]
    fn states_that_differ_at_one_index_are_found() {
        let mut checker = checker();
        let log = image(&[1], 1);
        let disks = [(NodeId(1), &log), (NodeId(2), &log)];
        checker.on_commit(NodeId(1), Index(1), &log, &disks.iter().copied()).unwrap();
        let at = LogPosition { index: Index(1), term: Term(1) };
        assert_eq!(checker.on_applied(NodeId(1), at, 7), Ok(()));
        assert_eq!(rule(checker.on_applied(NodeId(2), at, 8)), "state machine safety");
        let later = LogPosition { index: Index(2), term: Term(1) };
        assert_eq!(
            rule(checker.on_applied(NodeId(2), later, 8)),
            "only committed entries are applied"
        );
    }
}
