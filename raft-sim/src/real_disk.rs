//! Nodes with a real log store: what befalls their disks, and that the store keeps its word, or says that it cannot.
//!
//! A store is judged when its node goes down: it is opened at once (perhaps after failing on the way), and must hold what it acknowledged;
//! of what was under way, all or nothing. Only a disk that lied, or rotted, may lose more: then the store must say so. What no store can
//! see (a lying disk that lost the last writes, whole) is taken for seen: the disk is replaced, since its node may not vote again.

use raft_core::{Entries, Index, Membership, NodeId};
use raft_node::order::StoreJob;

use crate::chaos::NO_EFFECT;
use crate::checker::broken;
use crate::event::{Event, FetchRequest};
use crate::plan::Fault;
use crate::real::{Found, Real};
use crate::world::World;
use crate::{Machine, Violation};

const RULE: &str = "a real store keeps its word";

impl<M: Machine> World<'_, M> {
    /// Gives a node a new, empty store on a new disk, if this is a seed with real ones.
    pub(crate) fn found_real_store(
        &mut self,
        node: usize,
        membership: &Membership,
    ) -> Result<(), Violation> {
        if !self.plan.disk.has_real_stores || !cfg!(feature = "redb") {
            return Ok(());
        }
        let (id, seed) = (self.nodes[node].id, self.rng.draw());
        if let Some(before) = &mut self.nodes[node].real {
            before.count(&mut self.coverage);
        }
        match Real::new(id, seed, membership) {
            Ok(real) => {
                self.nodes[node].real = Some(real);
                self.coverage.hit("real stores made");
                Ok(())
            }
            Err(error) => broken(RULE, format!("node {id} can not make its store: {error}")),
        }
    }

    /// Reads entries for a fetch, from `first` on; the inner error is the disk's.
    pub(crate) fn read(
        &mut self,
        node: usize,
        first: Index,
        fetch: &FetchRequest,
    ) -> Result<Result<Option<Entries>, String>, Violation> {
        let it = &self.nodes[node];
        let expected = it.disk.read(first, fetch.last, fetch.budget_bytes);
        let Some(real) = &it.real else { return Ok(Ok(expected)) };
        let found = match real.read(first, fetch.last, fetch.budget_bytes) {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        self.coverage.hit("fetches from real stores");
        let same = match (&found, &expected) {
            (None, None) => true,
            // They stop at the budget differently.
            (Some(found), Some(_)) => {
                found.iter().all(|entry| it.disk.get(entry.index) == Some(entry))
            }
            _ => false,
        };
        if !same {
            return broken(RULE, format!("node {} reads {found:?}, not {expected:?}", it.id));
        }
        Ok(Ok(found))
    }

    /// A store failed: the node stops at once, for good, and starts again from its disk.
    pub(crate) fn fail_stop(&mut self, node: usize, error: &str) -> Result<(), Violation> {
        self.coverage.hit("real stores that failed");
        let line = format!("node {} stops: {error}", self.nodes[node].id);
        self.say(|| line);
        self.crash_for_a_while(node)
    }

    /// What a fault does to a node with a real store.
    pub(crate) fn break_real_disk(&mut self, fault: Fault, node: usize) -> Result<(), Violation> {
        let may_lose = self.may_be_wiped(node);
        let is_up = self.nodes[node].raft.is_some();
        match fault {
            Fault::Wipe if self.rng.chance(200) && may_lose => self.wipe(node),
            Fault::Wipe if may_lose => self.rot(node),
            Fault::FsyncLie if may_lose && is_up => {
                if let Some(real) = &mut self.nodes[node].real {
                    real.lie(true);
                }
                let life = self.nodes[node].life;
                let lasts = self.rng.around(self.plan.fault_us);
                self.at(lasts, Event::CrashAgain { node, life, times: 0 });
                Ok(())
            }
            Fault::WriteError if may_lose && self.rng.chance(400) => self.rot(node),
            Fault::WriteError | Fault::DiskFull => {
                if let Some(real) = &mut self.nodes[node].real {
                    real.arm_error(fault == Fault::DiskFull);
                }
                Ok(())
            }
            _ => {
                self.coverage.hit(NO_EFFECT);
                Ok(())
            }
        }
    }

    /// Something durable goes bad, while the node runs or while it is down; at its next start at the latest that comes out.
    fn rot(&mut self, node: usize) -> Result<(), Violation> {
        let is_up = self.nodes[node].raft.is_some();
        let at_rest = !is_up || self.rng.chance(500);
        if is_up && at_rest {
            self.crash(node)?;
        }
        let it = &mut self.nodes[node];
        let Some(real) = &mut it.real else { return Ok(()) };
        let what = real.rot();
        if at_rest {
            real.go_down(&[], false);
            if self.come_back(node)? {
                self.replace_disk(node)?;
            }
        } else {
            match real.read_all(&it.disk) {
                Ok(Ok(())) => {}
                Ok(Err(_)) => self.coverage.hit("real stores: reads that found damage"),
                Err(wrong) => return broken(RULE, format!("node {}: {wrong}: {what:?}", it.id)),
            }
            self.crash(node)?;
        }
        self.say(|| format!("node {} rots: {what:?}", node + 1));
        let down = self.rng.around(self.plan.fault_us);
        self.at(down, Event::Restart { node });
        Ok(())
    }

    /// The real store of a node that goes down does too, and is opened again. Says whether its disk must be replaced.
    pub(crate) fn crash_real_store(&mut self, node: usize) -> Result<bool, Violation> {
        let may_lose = !self.calm && self.may_be_wiped(node);
        let it = &mut self.nodes[node];
        let Some(real) = &mut it.real else { return Ok(false) };
        let waiting: Vec<StoreJob> = it.driver.queue.drain(..).collect();
        let keeps_cache = if real.has_lied() { !may_lose } else { self.rng.chance(250) };
        real.go_down(&waiting, keeps_cache);
        self.coverage.hit(if keeps_cache { "processes killed" } else { "power losses" });
        self.come_back(node)
    }

    fn come_back(&mut self, node: usize) -> Result<bool, Violation> {
        let it = &mut self.nodes[node];
        let id = it.id;
        let Some(real) = &mut it.real else { return Ok(false) };
        let may_be_lost = real.may_be_lost();
        let found = real.come_back(&mut self.coverage);
        real.count(&mut self.coverage);
        let Some((what, line)) = judge_found(id, &found, may_be_lost)? else {
            if may_be_lost {
                self.coverage.hit("real stores that lost nothing by a lie or by rot");
            }
            if let Found::Whole(image) = found {
                it.disk = *image;
            }
            return Ok(false);
        };
        self.coverage.hit(what);
        self.say(|| format!("node {id} lost its disk: {line}"));
        Ok(true)
    }

    /// Faults are over within the core: none of its disks fails any more.
    pub(crate) fn heal_real_disks(&mut self) {
        for node in &self.core {
            if let Some(real) = &mut self.nodes[*node].real {
                real.heal();
                real.count(&mut self.coverage);
            }
        }
    }
}

/// What a store came back with, if its disk may have lost something or may not. `None`: it is whole; otherwise what is counted, and in words.
pub(crate) fn judge_found(
    node: NodeId,
    found: &Found,
    may_be_lost: bool,
) -> Result<Option<(&'static str, String)>, Violation> {
    match found {
        Found::Whole(_) => Ok(None),
        Found::Refused(error) if may_be_lost => {
            Ok(Some(("real stores that found what they lost", error.clone())))
        }
        Found::RolledBack(told) => {
            Ok(Some(("real stores rolled back without a trace", told.clone())))
        }
        Found::Refused(error) => {
            broken(RULE, format!("node {node} can not open its store: {error}"))
        }
        Found::Wrong(wrong) => broken(RULE, format!("node {node}: {wrong}")),
    }
}
