//! What a node finds when it starts, in words and judged.

use raft_core::{NodeId, Restored, RestoredLog};

use crate::checker::broken;
use crate::mutants::mutated;
use crate::node::Node;
use crate::{Violation, words};

/// What a node finds when it starts.
pub(crate) fn found_by<M>(it: &Node<M>) -> Restored {
    let mut log = it.disk.restored();
    if mutated!(VoteNotRestored) {
        log.hard_state.vote = None;
    }
    if mutated!(EverythingRestoredAsCommitted) {
        log.hard_state.commit = it.disk.last().index;
    }
    Restored { log, snapshot: it.checkpoint.as_ref().map(|checkpoint| checkpoint.meta.clone()) }
}

/// An installed snapshot replaces a log that has something else in its place, also if the node crashed in between.
pub(crate) fn judge_restored<M>(it: &Node<M>, base: raft_core::Index) -> Result<(), Violation> {
    let installed = it.checkpoint.as_ref().map(|held| held.meta.position);
    let replaced = installed
        .filter(|at| at.index > it.disk.base.index && it.disk.term_at(at.index) != Some(at.term));
    match replaced.filter(|at| at.index != base && !it.is_witness) {
        Some(at) => broken(
            "an installed snapshot replaces the log",
            format!("node {} starts with {at} installed and its log from {base}", it.id),
        ),
        None => Ok(()),
    }
}

/// What a real store restores is what it was last seen to hold.
pub(crate) fn judge_real_restore(
    node: NodeId,
    found: &Result<RestoredLog, String>,
    held: &RestoredLog,
) -> Result<(), Violation> {
    if found.as_ref() == Ok(held) {
        return Ok(());
    }
    broken(
        "a real store restores what it holds",
        format!("node {node} finds {found:?}, not {held:?}"),
    )
}

/// What a node starts from, in words.
pub(crate) fn starts(life: Option<u64>, restored: &Restored) -> String {
    let log = &restored.log;
    let life = life.map_or_else(String::new, |life| format!(", life {life}"));
    let vote = log.hard_state.vote.map_or_else(String::new, |vote| format!(" vote {vote}"));
    let snapshot = restored.snapshot.as_ref();
    let snapshot =
        snapshot.map_or_else(String::new, |meta| format!(", checkpoint at {}", meta.position));
    let known = log.memberships.last().map_or(&log.base_membership, |(_, known)| known);
    format!(
        "starts{life}: t{}{vote} commit {}, log {}..{}{snapshot}, {}",
        log.hard_state.term,
        log.hard_state.commit,
        log.base,
        log.last,
        words::membership(known)
    )
}
