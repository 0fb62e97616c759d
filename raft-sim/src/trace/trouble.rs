//! Crashes and partitions: one at a time, and only as the schema can tell them.

use raft_core::NodeId;

use super::options::TraceError;
use super::world::{Happening, World};

#[derive(Clone, Copy)]
pub(super) enum Trouble {
    CrashLeader,
    CrashOther,
    PartLeader,
    PartOther,
}

impl World {
    pub(super) fn crash(&mut self, id: NodeId) -> Result<(), TraceError> {
        self.doomed = None;
        self.tally.crashes += 1;
        self.node(id)?.lose_memory();
        let pause = self.rng.between(100_000, 900_000);
        self.at(pause, Happening::Restart(id));
        Ok(())
    }

    /// Whether everybody is up and can be reached.
    pub(super) fn is_calm(&self) -> bool {
        self.parted.is_empty()
            && self.doomed.is_none()
            && self.nodes.values().all(|node| node.raft.is_some())
    }

    /// Whether a voter leaves a group of which there is an even number: then, and only then, fewer decide by our configuration than by the
    /// committed one, and the schema could not tell of an election meanwhile.
    fn is_delicate(&self) -> bool {
        let leader = self.leader().and_then(|id| self.nodes.get(&id)?.status());
        leader.is_some_and(|status| {
            status.membership_at > status.commit
                && self.nodes.get(&status.id).is_some_and(|node| {
                    let before = node.conf.voters.len();
                    before.is_multiple_of(2) && status.membership.voters.len() < before
                })
        })
    }

    pub(super) fn make_trouble(&mut self) -> Result<(), TraceError> {
        if self.lines.len() < self.trouble_at || !self.is_calm() || self.is_delicate() {
            return Ok(());
        }
        let Some(leader) = self.leader() else { return Ok(()) };
        let trouble = self.troubles.pop_front().unwrap_or_else(|| {
            let all = [
                Trouble::CrashLeader,
                Trouble::CrashOther,
                Trouble::PartLeader,
                Trouble::PartOther,
            ];
            self.rng.pick(&all)
        });
        self.trouble_at = self.lines.len() + self.rng.between(120, 220) as usize;
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|id| *id != leader).collect();
        let hits_leader =
            matches!(trouble, Trouble::CrashLeader | Trouble::PartLeader) || others.is_empty();
        let victim = if hits_leader { leader } else { self.rng.pick(&others) };
        match trouble {
            Trouble::CrashLeader | Trouble::CrashOther => {
                if self.rng.chance(500) {
                    self.doomed = Some(victim);
                    return Ok(());
                }
                self.crash(victim)
            }
            Trouble::PartLeader | Trouble::PartOther => {
                self.tally.partitions += 1;
                self.parted.insert(victim);
                let pause = self.rng.between(300_000, 1_200_000);
                self.at(pause, Happening::Heal);
                Ok(())
            }
        }
    }
}
