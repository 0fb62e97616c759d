//! What clients asked for and what they were told, and whether the two fit: no command twice, none that was refused, no read that
//! misses an acknowledged write (dissertation §6.3 and §6.4).

use raft_core::{Index, NodeId, ProposalId, ReadId, RequestId, Term};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use crate::Violation;
use crate::checker::broken;

/// Where a batch stands at the node that took it.
#[derive(Clone, Copy, Debug)]
struct Appended {
    id: ProposalId,
    first: Index,
    last: Index,
    term: Term,
}

/// The clients' book.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    asked: FxHashMap<ProposalId, NodeId>,
    appended: FxHashMap<(NodeId, Index), Appended>,
    /// How often each command was sent and not refused.
    copies: FxHashMap<u64, usize>,
    refused: FxHashSet<u64>,
    /// Where each is applied: mostly at one place.
    applied_at: FxHashMap<u64, SmallVec<[Index; 1]>>,
    batches: FxHashMap<ProposalId, Vec<u64>>,
    reads: FxHashMap<ReadId, (NodeId, Index)>,
    requests: FxHashMap<RequestId, NodeId>,
    /// The highest index that some client knows to be committed.
    floor: Index,
    /// The latest batch that was acknowledged.
    acknowledged: Option<ProposalId>,
}

impl Ledger {
    /// The highest index that some client knows to be committed.
    pub fn floor(&self) -> Index {
        self.floor
    }

    /// The latest batch that was acknowledged.
    pub fn acknowledged(&self) -> Option<ProposalId> {
        self.acknowledged
    }

    /// Whether the node owes an answer to this batch.
    pub(crate) fn is_asked(&self, node: NodeId, id: ProposalId) -> bool {
        self.asked.get(&id) == Some(&node)
    }

    /// Whether the node owes an answer to this read.
    pub(crate) fn is_reading(&self, node: NodeId, id: ReadId) -> bool {
        self.reads.get(&id).is_some_and(|(asked, _)| *asked == node)
    }

    /// The latest read that the node owes an answer to.
    pub(crate) fn last_read_of(&self, node: NodeId) -> Option<ReadId> {
        let owed = self.reads.iter().filter(|(_, (asked, _))| *asked == node);
        owed.map(|(id, _)| *id).max()
    }

    /// Whether the node owes the operator an answer.
    pub(crate) fn is_requested(&self, node: NodeId, id: RequestId) -> bool {
        self.requests.get(&id) == Some(&node)
    }

    /// A client proposes a batch of commands, each with a number that is the same when it is sent again, to a node.
    pub fn propose(&mut self, node: NodeId, id: ProposalId, commands: Vec<u64>) {
        self.asked.insert(id, node);
        for command in &commands {
            *self.copies.entry(*command).or_default() += 1;
        }
        self.batches.insert(id, commands);
    }

    /// A client begins a read.
    pub fn read(&mut self, node: NodeId, id: ReadId) {
        self.reads.insert(id, (node, self.floor));
    }

    /// The operator asks a node for something.
    pub fn request(&mut self, node: NodeId, id: RequestId) {
        self.requests.insert(id, node);
    }

    /// The node answers the operator.
    ///
    /// # Errors
    /// If nobody asked.
    pub fn on_request_answered(&mut self, node: NodeId, id: RequestId) -> Result<(), Violation> {
        if self.requests.remove(&id) == Some(node) {
            return Ok(());
        }
        broken(
            "answers fit questions",
            format!("node {node} answers request {id:?} unasked or twice"),
        )
    }

    /// The node says that the batch is in its log.
    ///
    /// # Errors
    /// If nobody asked, or the answer does not fit the question.
    pub fn on_appended(
        &mut self,
        node: NodeId,
        id: ProposalId,
        first: Index,
        count: u64,
        term: Term,
    ) -> Result<(), Violation> {
        self.take_question(node, id)?;
        if self.batches.get(&id).map(|batch| batch.len() as u64) != Some(count) {
            return broken(
                "answers fit questions",
                format!("node {node} appended {count} of batch {id:?}"),
            );
        }
        let last = first.plus(count - 1);
        self.appended.insert((node, last), Appended { id, first, last, term });
        Ok(())
    }

    /// The node refuses the batch: it must never be applied.
    ///
    /// # Errors
    /// If nobody asked.
    pub fn on_refused(&mut self, node: NodeId, id: ProposalId) -> Result<(), Violation> {
        self.take_question(node, id)?;
        for command in self.batches.remove(&id).unwrap_or_default() {
            *self.copies.entry(command).or_default() -= 1;
            self.refused.insert(command);
            self.judge_copies(node, command)?;
        }
        Ok(())
    }

    /// A command stands in the log at most as often as it was sent, refused copies not counted.
    fn judge_copies(&self, node: NodeId, command: u64) -> Result<(), Violation> {
        let Some(applied) = self.applied_at.get(&command) else { return Ok(()) };
        let copies = self.copies.get(&command).copied().unwrap_or(0);
        if applied.len() <= copies {
            return Ok(());
        }
        let detail = format!(
            "command {command} is applied at {applied:?} (now by node {node}), and {copies} copies were sent"
        );
        if self.refused.contains(&command) {
            return broken("refused is never applied", detail);
        }
        broken("a copy of a command is applied once", detail)
    }

    /// The node gives up on a batch that it had appended.
    ///
    /// # Errors
    /// If it had not.
    pub fn on_abandoned(&mut self, node: NodeId, id: ProposalId) -> Result<(), Violation> {
        // A batch that was passed on may be given up before anybody said what became of it.
        if self.asked.remove(&id) == Some(node) {
            return Ok(());
        }
        let before = self.appended.len();
        self.appended.retain(|_, appended| appended.id != id);
        if self.appended.len() == before {
            return broken(
                "answers fit questions",
                format!("node {node} abandons batch {id:?}, which it has not or has acknowledged"),
            );
        }
        Ok(())
    }

    /// A machine has applied an entry; `command` is its number, if it is a command.
    ///
    /// # Errors
    /// The violation.
    pub fn on_applied(
        &mut self,
        node: NodeId,
        index: Index,
        term: Term,
        command: Option<u64>,
    ) -> Result<(), Violation> {
        if let Some(command) = command {
            let places = self.applied_at.entry(command).or_default();
            if !places.contains(&index) {
                places.push(index);
                self.judge_copies(node, command)?;
            }
        }
        let Some(appended) = self.appended.remove(&(node, index)) else { return Ok(()) };
        if appended.term != term {
            return broken(
                "appended is committed or abandoned",
                format!(
                    "node {node} applied {index} of term {term}, where it had appended batch {:?} in term {}",
                    appended.id, appended.term
                ),
            );
        }
        let batch = self.batches.get(&appended.id).into_iter().flatten();
        for (offset, command) in (0..).zip(batch) {
            let at = appended.first.plus(offset);
            // Commands before a snapshot that was installed here were seen when another node applied them.
            if !self.applied_at.get(command).is_some_and(|places| places.contains(&at)) {
                return broken(
                    "batches are whole and contiguous",
                    format!("command {command} of batch {:?} is not at {at}", appended.id),
                );
            }
        }
        self.floor = self.floor.max(appended.last);
        self.acknowledged = self.acknowledged.max(Some(appended.id));
        Ok(())
    }

    /// The node says that a read may be answered at `index`.
    ///
    /// # Errors
    /// If that is stale, or nobody asked.
    pub fn on_read_ready(
        &mut self,
        node: NodeId,
        id: ReadId,
        index: Index,
    ) -> Result<(), Violation> {
        let floor = self.take_read(node, id)?;
        if index < floor {
            return broken(
                "no stale read",
                format!(
                    "node {node} answers read {id:?} at {index}; {floor} was known before it began"
                ),
            );
        }
        self.floor = self.floor.max(index);
        Ok(())
    }

    /// The node refuses a read.
    ///
    /// # Errors
    /// If nobody asked.
    pub fn on_read_refused(&mut self, node: NodeId, id: ReadId) -> Result<(), Violation> {
        self.take_read(node, id).map(|_| ())
    }

    /// A node crashed: its clients never hear from it.
    pub fn on_crash(&mut self, node: NodeId) {
        self.asked.retain(|_, asked| *asked != node);
        self.reads.retain(|_, (asked, _)| *asked != node);
        self.requests.retain(|_, asked| *asked != node);
        self.appended.retain(|(asked, _), _| *asked != node);
    }

    fn take_question(&mut self, node: NodeId, id: ProposalId) -> Result<(), Violation> {
        if self.asked.remove(&id) == Some(node) {
            return Ok(());
        }
        broken(
            "answers fit questions",
            format!("node {node} answers batch {id:?} unasked or twice"),
        )
    }

    fn take_read(&mut self, node: NodeId, id: ReadId) -> Result<Index, Violation> {
        match self.reads.remove(&id) {
            Some((asked, floor)) if asked == node => Ok(floor),
            _ => broken(
                "answers fit questions",
                format!("node {node} answers read {id:?} unasked or twice"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);

    #[test]
    fn a_read_behind_an_acknowledged_write_is_found() {
        let mut ledger = Ledger::default();
        ledger.propose(NODE, ProposalId(1), vec![10]);
        ledger.on_appended(NODE, ProposalId(1), Index(4), 1, Term(2)).unwrap();
        ledger.read(NODE, ReadId(1));
        ledger.on_applied(NODE, Index(4), Term(2), Some(10)).unwrap();
        ledger.read(NODE, ReadId(2));
        // The first read began before the acknowledgement: it may miss the write.
        ledger.on_read_ready(NODE, ReadId(1), Index(3)).unwrap();
        let stale = ledger.on_read_ready(NODE, ReadId(2), Index(3)).unwrap_err();
        assert_eq!(stale.rule, "no stale read");
    }

    #[test]
    fn a_command_applied_twice_or_after_refusal_is_found() {
        let mut ledger = Ledger::default();
        ledger.propose(NODE, ProposalId(1), vec![10]);
        ledger.propose(NODE, ProposalId(2), vec![11]);
        ledger.on_refused(NODE, ProposalId(2)).unwrap();
        ledger.on_applied(NODE, Index(1), Term(1), Some(10)).unwrap();
        assert!(ledger.on_applied(NodeId(2), Index(1), Term(1), Some(10)).is_ok());
        assert!(ledger.on_applied(NodeId(2), Index(2), Term(1), Some(10)).is_err());
        assert!(ledger.on_applied(NODE, Index(2), Term(1), Some(11)).is_err());
    }

    #[test]
    fn a_batch_that_was_replaced_without_a_word_is_found() {
        let mut ledger = Ledger::default();
        ledger.propose(NODE, ProposalId(1), vec![10, 11]);
        ledger.on_appended(NODE, ProposalId(1), Index(1), 2, Term(1)).unwrap();
        let lost = ledger.on_applied(NODE, Index(2), Term(2), None).unwrap_err();
        assert_eq!(lost.rule, "appended is committed or abandoned");
    }
}
