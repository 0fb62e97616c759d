//! What always holds inside one core, checked after every input whenever debug assertions are on.
//!
//! 1. `base <= handed <= commit <= last`, and `applied <= handed` (paper figure 2).
//! 2. The log's terms rise, and none is beyond the current term (paper §5.1).
//! 3. A leader voted for itself in its term (paper §5.2).
//! 4. No peer has more than the leader, and none is sent what it has (paper §5.3).
//! 5. A member that is installing a snapshot neither campaigns nor leads (paper §7, figure 13: its log is about to be another).
//! 6. The state machine's snapshot lies between the log's base and what is applied (paper §7).
//! 7. The configuration in effect could be a group's (dissertation §4), unless this node has not heard of any yet.
//! 8. Candidates are full voters; so are leaders, but for one whose removal is not committed yet (dissertation §4.2.2).
//! 9. A leader serves every other member, and nobody else but peers that are leaving (paper §5.3; dissertation §4.2.3).
//! 10. Who hands leadership over takes no proposals and holds no lease (dissertation §3.10, §6.4.1).
//! 11. What waits to be committed is within the quota (our own; etcd's `MaxUncommittedEntriesSize` is its like).

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
            for (node, peer) in leader.peers.iter() {
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
        self.assert_membership_invariants();
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

    #[cfg_attr(not(debug_assertions), allow(dead_code))]
    fn assert_membership_invariants(&self) {
        let (id, membership) = (self.config.id, self.log.membership());
        // 7
        assert!(membership.is_empty() || membership.is_valid(), "impossible {membership:?}");
        // 8
        let is_full_voter = membership.is_voter(id) && !membership.is_witness(id);
        let is_leaving = self.log.membership_at() > self.commit;
        match &self.role {
            Role::PreCandidate(_) | Role::Candidate(_) => {
                assert!(is_full_voter, "node {id} campaigns in {membership:?}");
            }
            Role::Leader(leader) => {
                assert!(
                    is_full_voter
                        || is_leaving
                        || self.commit < leader.term_start
                        || membership.is_joint(),
                    "node {id} leads {membership:?}"
                );
                // 9
                for node in membership.members().filter(|node| *node != id) {
                    assert!(leader.peers.contains(node), "node {node} is not served");
                }
                for (node, peer) in leader.peers.iter() {
                    assert!(
                        membership.contains(node) != peer.leaving.is_some(),
                        "node {node} is served for no reason, or leaves as a member"
                    );
                }
                // 10
                let hands_over = leader.transfer.is_some();
                assert!(!hands_over || self.lease_until().is_none(), "a lease during a transfer");
                // 11
                assert!(
                    leader.proposals.bytes() <= self.config.uncommitted_bytes_max,
                    "the quota leaks"
                );
            }
            Role::Follower(_) => {}
        }
    }
}
