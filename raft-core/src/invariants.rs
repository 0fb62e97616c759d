//! What always holds inside one core, checked after every input whenever debug assertions are on.
//!
//! 1. `base <= handed <= commit <= last`, and `applied <= handed` (paper figure 2).
//! 2. The log's terms rise, and none is beyond the current term (paper §5.1).
//! 3. A leader voted for itself in its term (paper §5.2).
//! 4. No peer has more than the leader, and none is sent what it has (paper §5.3).
//! 5. A member that is installing a snapshot neither campaigns nor leads.
//! 6. The state machine's snapshot lies between the log's base and what is applied (paper §7).

use crate::progress::Progress;
use crate::role::Role;
use crate::snapshots::Incoming;
use crate::{Index, Raft, Term};

impl Raft {
    /// Checks the list above.
    ///
    /// # Panics
    /// If one does not hold: a defect of this crate, never of an input.
    #[cfg_attr(not(debug_assertions), allow(dead_code))]
    pub(crate) fn assert_invariants(&self) {
        let (base, last) = (self.log.base().index, self.log.last());
        // 1
        assert!(base <= self.handed, "handed {} below base {base}", self.handed);
        assert!(self.handed <= self.commit, "handed {} beyond commit {}", self.handed, self.commit);
        assert!(self.commit <= last, "commit {} beyond last {last}", self.commit);
        assert!(
            self.applied <= self.handed,
            "applied {} beyond handed {}",
            self.applied,
            self.handed
        );
        // 2
        let mut previous = (Term(0), Index(0));
        for run in self.log.runs() {
            assert!(
                run.term > previous.0 && run.first > previous.1,
                "term runs fall at {}",
                run.first
            );
            previous = (run.term, run.first);
        }
        assert!(
            self.log.last_position().term <= self.term,
            "the log is ahead of term {}",
            self.term
        );
        // 3, 4
        if let Role::Leader(leader) = &self.role {
            assert_eq!(self.vote, Some(self.config.id), "a leader voted for itself");
            for (node, peer) in &leader.peers {
                assert!(peer.matched <= last, "node {node} has {} of {last}", peer.matched);
                if let Progress::Probe { next, .. } | Progress::Replicate { next, .. } =
                    &peer.progress
                {
                    assert!(
                        *next > peer.matched && *next <= last.next(),
                        "node {node} is sent {next}"
                    );
                }
            }
        }
        // 5
        if self.incoming.as_ref().is_some_and(Incoming::is_installing) {
            assert!(
                matches!(self.role, Role::Follower(_)),
                "a member installs a snapshot and campaigns"
            );
        }
        // 6
        let snapshot = self.snapshot.as_ref().map_or(Index(0), |meta| meta.position.index);
        assert!(
            base <= snapshot && snapshot <= self.applied,
            "snapshot {snapshot} outside {base}..={}",
            self.applied
        );
    }
}
