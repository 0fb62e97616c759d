//! What figure 3 of the paper promises, checked from outside on what a cluster's nodes show: their disks, roles, commit indexes and what
//! they applied. It remembers what it saw and never asks a core whether that is right.

use std::collections::BTreeMap;

use raft_core::{Entry, Index, Payload, RoleKind, Term};

use super::Cluster;

#[derive(Default)]
pub struct Checker {
    leaders: BTreeMap<Term, u64>,
    /// Every entry that was ever on a disk, with the term of the one before it.
    entries: BTreeMap<(Index, Term), (Payload, Term)>,
    committed: BTreeMap<Index, Term>,
    applied: BTreeMap<Index, Entry>,
    /// The leaders' logs, as they were last seen.
    led: BTreeMap<(u64, Term), Vec<(Index, Term)>>,
}

impl Checker {
    /// # Panics
    /// If one of the properties does not hold.
    pub fn check(&mut self, cluster: &Cluster) {
        for (&id, host) in &cluster.hosts {
            let status = host.raft.status();
            if status.role == RoleKind::Leader && host.is_up {
                let first = *self.leaders.entry(status.term).or_insert(id);
                assert_eq!(first, id, "election safety: two leaders in term {}", status.term);
            }
            self.check_log_matching(cluster, id);
            // What is not durable by its own account may stand on the disk as an entry that it overwrites.
            self.note_committed(cluster, id, status.commit.min(status.durable));
            for entry in &host.applied {
                let first = self.applied.entry(entry.index).or_insert_with(|| entry.clone());
                assert_eq!(first, entry, "state machine safety at index {}", entry.index);
            }
        }
        for (&id, host) in &cluster.hosts {
            if host.raft.status().role == RoleKind::Leader && host.is_up {
                self.check_leader(cluster, id, host.raft.status().term);
            }
        }
    }

    /// "If two logs contain an entry with the same index and term, then the logs are identical in all entries up through the given index": by
    /// induction it is enough that the entry is the same, and the one before it has the same term.
    fn check_log_matching(&mut self, cluster: &Cluster, id: u64) {
        let disk = &cluster.hosts[&id].disk;
        let mut before = disk.base.term;
        for entry in &disk.entries {
            let seen = self
                .entries
                .entry((entry.index, entry.term))
                .or_insert_with(|| (entry.payload.clone(), before));
            // A witness has the entry without its command.
            if seen.0 == Payload::Withheld {
                seen.0.clone_from(&entry.payload);
            }
            let payload = if entry.payload == Payload::Withheld { &seen.0 } else { &entry.payload };
            assert_eq!(
                (&seen.0, seen.1),
                (payload, before),
                "log matching at {} of node {id}",
                entry.position()
            );
            before = entry.term;
        }
    }

    fn note_committed(&mut self, cluster: &Cluster, id: u64, commit: Index) {
        for entry in &cluster.hosts[&id].disk.entries {
            if entry.index <= commit {
                let first = *self.committed.entry(entry.index).or_insert(entry.term);
                assert_eq!(first, entry.term, "two entries are committed at {}", entry.index);
            }
        }
    }

    fn check_leader(&mut self, cluster: &Cluster, id: u64, term: Term) {
        let disk = &cluster.hosts[&id].disk;
        let log: BTreeMap<Index, Term> =
            disk.entries.iter().map(|entry| (entry.index, entry.term)).collect();
        for (index, &committed_in) in &self.committed {
            if committed_in < term && *index > disk.base.index {
                assert_eq!(
                    log.get(index),
                    Some(&committed_in),
                    "leader completeness: node {id} leads term {term} without {index}"
                );
            }
        }
        let seen = self.led.entry((id, term)).or_default();
        for (index, before) in seen.iter().filter(|(index, _)| *index > disk.base.index) {
            assert_eq!(
                log.get(index),
                Some(before),
                "leader append-only: node {id} in term {term}"
            );
        }
        *seen = log.into_iter().collect();
    }
}
