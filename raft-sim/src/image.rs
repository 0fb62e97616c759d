//! What a disk holds: the log as a power loss would leave it, or as it will be once all writes are done.

use raft_core::{
    Entries, Entry, HardState, Index, LogPosition, Membership, Payload, Persist, RestoredLog, Term,
};

/// A log with its hard state.
#[derive(Clone, Debug)]
pub struct Image {
    /// Term, vote and commit index.
    pub hard_state: HardState,
    /// The position that the log starts after.
    pub base: LogPosition,
    /// The configuration as of the base.
    pub base_membership: Membership,
    /// The entries after the base.
    pub entries: Vec<Entry>,
    /// Where configurations are among them, in order.
    configurations: Vec<Index>,
}

impl Image {
    /// The disk of a member of a group that is being founded.
    pub fn founding(membership: Membership) -> Image {
        Image {
            hard_state: HardState::default(),
            base: LogPosition::ORIGIN,
            base_membership: membership,
            entries: Vec::new(),
            configurations: Vec::new(),
        }
    }

    /// The configuration that the log ends with.
    pub fn membership(&self) -> &Membership {
        self.membership_as_of(Index(u64::MAX))
    }

    /// The configuration in effect at `index`.
    pub fn membership_as_of(&self, index: Index) -> &Membership {
        let at = self.configurations.iter().rev().find(|at| **at <= index);
        match at.and_then(|at| self.get(*at)).map(|entry| &entry.payload) {
            Some(Payload::Membership(membership)) => membership,
            _ => &self.base_membership,
        }
    }

    /// Whether a configuration in the log, or as of its base, lists a node as a witness.
    pub(crate) fn ever_lists_witness(&self, node: raft_core::NodeId) -> bool {
        self.base_membership.is_witness(node)
            || self.memberships().any(|(_, known)| known.is_witness(node))
    }

    /// The configurations in entries after the base, with their places.
    pub fn memberships(&self) -> impl Iterator<Item = (LogPosition, &Membership)> {
        self.configurations.iter().filter_map(|at| {
            let entry = self.get(*at)?;
            match &entry.payload {
                Payload::Membership(membership) => Some((entry.position(), &**membership)),
                _ => None,
            }
        })
    }

    /// The last position.
    pub fn last(&self) -> LogPosition {
        self.entries.last().map_or(self.base, Entry::position)
    }

    /// The entry at `index`, if it is after the base and not after the end.
    pub fn get(&self, index: Index) -> Option<&Entry> {
        let offset = index.0.checked_sub(self.base.index.0 + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// The term at `index`: of the base or of an entry.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.get(index).map(|entry| entry.term)
    }

    /// Carries out a write: reset, then truncate, then append, with the hard state.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub fn write(&mut self, write: &Persist) -> Result<(), String> {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(snapshot) = &write.reset {
            self.base = snapshot.position;
            self.base_membership = (*snapshot.membership).clone();
            self.entries.clear();
            self.configurations.clear();
        }
        if let Some(from) = write.truncate_from {
            if from <= self.base.index {
                return Err(format!("truncates from {from}, not after the base {}", self.base));
            }
            let keep = usize::try_from(from.0 - self.base.index.0 - 1).unwrap_or(usize::MAX);
            self.entries.truncate(keep);
            self.configurations.retain(|at| *at < from);
        }
        if let Some(first) = write.entries.first()
            && first.index != self.last().index.next()
        {
            return Err(format!(
                "appends from {} to a log that ends at {}",
                first.index,
                self.last()
            ));
        }
        for entry in write.entries.iter() {
            if let Payload::Membership(_) = entry.payload {
                self.configurations.push(entry.index);
            }
            self.entries.push(entry.clone());
        }
        Ok(())
    }

    /// Forgets everything through `position`. Without effect if that is forgotten already.
    ///
    /// # Errors
    /// If the position is not in the log.
    pub fn compact(&mut self, through: LogPosition) -> Result<(), String> {
        if through.index <= self.base.index {
            return Ok(());
        }
        if self.term_at(through.index) != Some(through.term) {
            return Err(format!("compacts through {through}, which is not in the log"));
        }
        let count = usize::try_from(through.index.0 - self.base.index.0).unwrap_or(usize::MAX);
        for entry in self.entries.drain(..count) {
            if let Payload::Membership(membership) = entry.payload {
                self.base_membership = (*membership).clone();
            }
        }
        self.base = through;
        self.configurations.retain(|at| *at > through.index);
        Ok(())
    }

    /// Reads from `first` to `last`, at least one entry, until `budget_bytes` are read; `None` if `first` is not there.
    pub fn read(&self, first: Index, last: Index, budget_bytes: usize) -> Option<Entries> {
        let mut bytes = 0;
        let mut found = Vec::new();
        let mut index = first;
        while index <= last && (found.is_empty() || bytes < budget_bytes) {
            let Some(entry) = self.get(index) else { break };
            bytes += entry.size_bytes();
            found.push(entry.clone());
            index = index.next();
        }
        if found.is_empty() { None } else { Entries::try_from_vec(found).ok() }
    }

    /// What a member finds when it starts from this disk.
    pub fn restored(&self) -> RestoredLog {
        RestoredLog::describe(
            self.hard_state,
            self.base,
            self.base_membership.clone(),
            &self.entries,
        )
    }
}

/// The whole of a disk, in one word for the timeline.
pub(crate) fn describe(disk: &Image) -> String {
    let state = disk.hard_state;
    let vote = state.vote.map_or_else(String::new, |vote| format!(" vote {vote}"));
    format!("t{}{vote} commit {}, log {}..{}", state.term, state.commit, disk.base, disk.last())
}
