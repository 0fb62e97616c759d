//! A real log store beneath a simulated node: `raft-storage-redb` on its virtual disk, and what it must hold whatever the disk does.
//! One seed in eight runs so. Without the feature `redb`, `real_absent` stands in its place.

use std::path::PathBuf;
use std::time::Duration;

use raft_core::{
    Entries, Index, Instant, LogPosition, Membership, NodeId, Persist, RestoredLog, StoreStamp,
};
use raft_node::order::{StoreJob, WriteOrder};
use raft_node::{LogReader, LogStore, ReadError};
use raft_storage_redb::testing::{self, DiskFault, DiskFile, Rot, VirtualDisk};
use raft_storage_redb::{OpenError, Options, RedbLogStore};

use crate::{Coverage, Image, Rng};

/// A log store, the disk below it, and the truth about both.
#[derive(Debug)]
pub(crate) struct Real {
    options: Options,
    disk: VirtualDisk,
    store: Option<RedbLogStore>,
    rng: Rng,
    /// What was acknowledged, but for the latest compactions, which reach the disk with a later write.
    settled: Image,
    compactions: Vec<LogPosition>,
    /// The store's id, and its last life.
    stamp: StoreStamp,
    /// Writes that failed: they may be there or not.
    in_doubt: Vec<Persist>,
    /// Syncs lied, and none that did not came after.
    has_lied: bool,
    /// Something durable went bad, and may be found so at any later time.
    is_rotten: bool,
    /// In the journal too: the last write may look like one that was under way.
    journal_is_hit: bool,
}

/// What a store came back with.
#[derive(Debug)]
pub(crate) enum Found {
    /// One of the states that it may be in.
    Whole(Box<Image>),
    /// It says what is wrong and refuses.
    Refused(String),
    /// An earlier state, and nothing shows it.
    RolledBack(String),
    /// None of these.
    Wrong(String),
}

impl Real {
    /// An empty log on a new disk; `membership` is the founding configuration, or an empty one.
    pub(crate) fn new(id: NodeId, seed: u64, membership: &Membership) -> Result<Real, String> {
        let mut rng = Rng::new(seed);
        let mut store_id = [0; 16];
        store_id[..8].copy_from_slice(&rng.draw().to_le_bytes());
        let options = Options {
            cache_bytes: rng.pick(&[16 << 10, 64 << 10, 1 << 20]),
            journal_bytes: rng.pick(&[64 << 10, 256 << 10, 512 << 10]),
            ..Options::new(PathBuf::from(format!("node-{id}")), [7; 16], id)
        };
        let disk = VirtualDisk::new(rng.draw());
        testing::create(&disk, &options, store_id).map_err(|error| error.to_string())?;
        let mut store = testing::open(&disk, &options).map_err(|error| error.to_string())?;
        let stamp = store.begin_life().map_err(|error| error.message)?;
        if !membership.is_empty() {
            store.found(membership).map_err(|error| error.message)?;
        }
        Ok(Real {
            options,
            disk,
            store: Some(store),
            rng,
            settled: Image::founding(membership.clone()),
            compactions: Vec::new(),
            stamp,
            in_doubt: Vec::new(),
            has_lied: false,
            is_rotten: false,
            journal_is_hit: false,
        })
    }

    /// One group commit.
    pub(crate) fn commit(&mut self, writes: &[Persist]) -> Result<(), String> {
        let Some(store) = &mut self.store else { return Err("the store is closed".to_owned()) };
        if let Err(error) = store.write(writes) {
            self.in_doubt = writes.to_vec();
            return Err(error.to_string());
        }
        // Of other writes nothing may be left once they are merged, or too little to tell.
        let takes_compactions =
            writes.iter().any(|write| write.hard_state.is_some() || write.reset.is_some())
                || writes.last().is_some_and(|write| !write.entries.is_empty());
        apply(&mut self.settled, writes)?;
        if takes_compactions && let Some(through) = self.compactions.last().copied() {
            self.settled.compact(through)?;
            self.compactions.clear();
        }
        Ok(())
    }

    /// Forgets everything through a position, some time.
    pub(crate) fn compact(&mut self, through: LogPosition) -> Result<(), String> {
        let Some(store) = &mut self.store else { return Err("the store is closed".to_owned()) };
        store.compact(through).map_err(|error| error.to_string())?;
        if self.compactions.last().is_none_or(|before| before.index < through.index) {
            self.compactions.push(through);
        }
        Ok(())
    }

    /// Reads as a fetch does. `None` if the first entry is not there.
    pub(crate) fn read(
        &self,
        first: Index,
        last: Index,
        budget_bytes: usize,
    ) -> Result<Option<Entries>, String> {
        let Some(store) = &self.store else { return Err("the store is closed".to_owned()) };
        match store.reader().read(first, last, budget_bytes) {
            Ok(entries) => Ok(Some(entries)),
            Err(ReadError::NotThere { .. }) => Ok(None),
            Err(ReadError::Storage(error)) => Err(error.to_string()),
        }
    }

    /// What the open store says that it holds.
    pub(crate) fn restore(&mut self) -> Result<RestoredLog, String> {
        match &mut self.store {
            Some(store) => store.restore().map_err(|error| error.to_string()),
            None => Err("the store is closed".to_owned()),
        }
    }

    /// Something will go wrong soon while the store works.
    pub(crate) fn arm_error(&mut self, is_full: bool) {
        let fault = if is_full {
            DiskFault::Full
        } else {
            self.rng.pick(&[DiskFault::WriteError, DiskFault::SyncError, DiskFault::ReadError])
        };
        let after = self.rng.below(6);
        self.disk.arm(fault, after);
    }

    /// Syncs lie from now on, or no more.
    pub(crate) fn lie(&mut self, lies: bool) {
        self.has_lied |= lies;
        self.disk.lie(lies);
    }

    /// Whether a loss of power may take away what was acknowledged.
    pub(crate) fn has_lied(&self) -> bool {
        self.has_lied
    }

    /// Whether the disk broke a promise, so that the store may refuse to open.
    pub(crate) fn may_be_lost(&self) -> bool {
        self.has_lied || self.is_rotten
    }

    /// Whether something durable has gone bad.
    pub(crate) fn is_rotten(&self) -> bool {
        self.is_rotten
    }

    /// Nothing goes wrong any more.
    pub(crate) fn heal(&mut self) {
        self.disk.heal();
    }

    /// Something durable goes bad, in up to three places. Says what.
    pub(crate) fn rot(&mut self) -> Option<String> {
        let mut said = Vec::new();
        for _ in 0..self.rng.between(1, 3) {
            let kind = self.rng.pick(&Rot::ALL);
            // Not every page can be spoilt in every way.
            let Some(pages) = (0..6).find_map(|_| self.disk.rot(kind)) else { continue };
            self.is_rotten = true;
            self.journal_is_hit |= pages.iter().any(|(file, _)| *file == DiskFile::Journal);
            said.push(format!("{kind:?} in {pages:?}"));
        }
        (!said.is_empty()).then(|| said.join(", "))
    }

    /// Everything in the log is what it should be, or cannot be read.
    pub(crate) fn read_all(&self, log: &Image) -> Result<Result<(), String>, String> {
        let (mut next, last) = (log.base.index.next(), log.last().index);
        while next <= last {
            let entries = match self.read(next, last, 4000) {
                Ok(Some(entries)) => entries,
                Ok(None) => return Ok(Err(format!("entry {next} is not there"))),
                Err(error) => return Ok(Err(error)),
            };
            for entry in entries.iter() {
                if entry.index != next || log.get(next) != Some(entry) {
                    return Err(format!("entry {next} is read as {entry:?}"));
                }
                next = next.next();
            }
        }
        Ok(Ok(()))
    }

    /// The process ends, or the power goes, perhaps while some of `waiting` is being written.
    pub(crate) fn go_down(&mut self, waiting: &[StoreJob], keeps_cache: bool) {
        if self.in_doubt.is_empty() && !waiting.is_empty() && self.rng.chance(700) {
            let count = self.rng.between(1, waiting.len() as u64) as usize;
            // Without power, nothing that is only cached stays.
            if !keeps_cache && self.rng.chance(800) {
                let after = self.rng.below(8);
                self.disk.arm(DiskFault::PowerLoss, after);
            }
            self.work_off(&waiting[..count]);
        }
        if keeps_cache {
            self.lie(false);
            self.disk.kill_process();
        } else {
            self.disk.lose_power();
        }
        self.store = None;
    }

    /// One commit of what waits, and a compaction. Done or not, nobody is told.
    fn work_off(&mut self, waiting: &[StoreJob]) {
        let mut order = WriteOrder::new(Duration::ZERO);
        for job in waiting {
            order.take(job.clone(), Instant(0));
        }
        if order.commit(|group| self.commit(group)).is_err() {
            return;
        }
        if let Some(through) = order.compaction(Instant(0), false) {
            let _ = self.compact(through);
        }
    }

    /// The store comes back, perhaps after failing once or twice on the way.
    pub(crate) fn come_back(&mut self, coverage: &mut Coverage) -> Found {
        // What was only said to be durable is made durable by opening, if nothing comes between.
        let failures = if self.has_lied { 0 } else { self.rng.below(3) };
        for _ in 0..failures {
            let fault = self.rng.pick(&[
                DiskFault::PowerLoss,
                DiskFault::PowerLoss,
                DiskFault::SyncError,
                DiskFault::WriteError,
                DiskFault::ReadError,
            ]);
            let after = self.rng.below(12);
            self.disk.arm(fault, after);
            let opened = testing::open(&self.disk, &self.options);
            coverage.hit(if opened.is_ok() {
                "real stores: openings that a fault came too late for"
            } else {
                "real stores: openings that failed"
            });
            if fault == DiskFault::PowerLoss || self.rng.chance(500) {
                self.disk.lose_power();
            } else {
                self.disk.kill_process();
            }
        }
        match testing::open(&self.disk, &self.options) {
            Ok(store) => self.judge(store, coverage),
            Err(error) => {
                let name = error_name(&error);
                coverage.hit(name);
                Found::Refused(error.to_string())
            }
        }
    }

    fn judge(&mut self, mut store: RedbLogStore, coverage: &mut Coverage) -> Found {
        let started = store.restore().and_then(|restored| Ok((restored, store.begin_life()?)));
        let (restored, stamp) = match started {
            Ok(started) => started,
            Err(error) => return Found::Refused(error.to_string()),
        };
        self.store = Some(store);
        let before = std::mem::replace(&mut self.stamp, stamp);
        let goes_back = stamp.id != before.id || stamp.life <= before.life;
        if goes_back && !self.has_lied && !self.journal_is_hit {
            return Found::Wrong(format!("it begins {stamp} after {before}"));
        }
        let mut with_doubt = self.settled.clone();
        if let Err(error) = apply(&mut with_doubt, &self.in_doubt) {
            return Found::Wrong(error);
        }
        let mut found = None;
        for (image, what) in [
            (&self.settled, "crashes of real stores that lost what was under way"),
            (&with_doubt, "crashes of real stores that kept what was under way"),
        ] {
            let mut image = image.clone();
            if image.restored() == restored {
                found = Some((image.clone(), what));
            }
            for through in &self.compactions {
                if image.compact(*through).is_ok() && image.restored() == restored {
                    found = Some((image.clone(), what));
                }
            }
        }
        let Some((image, what)) = found else {
            let told = format!("it holds {restored:?}, not {:?}", self.settled.restored());
            let may = self.has_lied || self.journal_is_hit;
            return if may { Found::RolledBack(told) } else { Found::Wrong(told) };
        };
        if !self.in_doubt.is_empty() {
            coverage.hit(what);
        }
        match self.read_all(&image) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Found::Refused(error),
            Err(wrong) => return Found::Wrong(wrong),
        }
        self.settled = image;
        self.compactions.clear();
        self.in_doubt.clear();
        // Opening syncs both files, and the disk does not lie any more.
        self.has_lied = false;
        // Rot may lie where opening does not look: a later write may find it. It goes with the disk.
        self.journal_is_hit = false;
        Found::Whole(Box::new(self.settled.clone()))
    }

    /// Counts what happened to the disk since the last time.
    pub(crate) fn count(&mut self, coverage: &mut Coverage) {
        for (what, count) in self.disk.take_fired().iter() {
            coverage.add(name(what), count);
        }
    }
}

fn apply(image: &mut Image, writes: &[Persist]) -> Result<(), String> {
    writes.iter().try_for_each(|write| image.write(write))
}

/// What the world calls what a disk counts.
fn name(what: &str) -> &'static str {
    match what {
        "write errors" => "real disks: write errors",
        "sync errors" => "real disks: sync errors",
        "read errors" => "real disks: read errors",
        "full disks" => "real disks: full",
        "syncs that lied" => "real disks: syncs that lied",
        "torn sectors" => "real disks: torn sectors",
        "power losses in the middle of a call" => "real disks: power losses in a call",
        "power losses that kept a part" => "real disks: power losses that kept a part",
        "bit flips" => "real disks: bit flips",
        "stale pages" => "real disks: stale pages",
        "misdirected writes" => "real disks: misdirected writes",
        "garbage in pages" => "real disks: garbage in pages",
        "zeroed pages" => "real disks: zeroed pages",
        _ => "real disks: other faults",
    }
}

fn error_name(error: &OpenError) -> &'static str {
    match error {
        OpenError::Damaged { .. } => "real stores refused: damaged",
        OpenError::JournalMismatch { .. } => "real stores refused: journal mismatch",
        OpenError::NotALog { .. } => "real stores refused: not a log",
        OpenError::Io { .. } => "real stores refused: I/O error",
        _ => "real stores refused: otherwise",
    }
}
