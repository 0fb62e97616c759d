//! A log file and its journal on a virtual disk, opened without a log store around them.

use raft_core::NodeId;

use crate::journal::file::JournalFile;
use crate::journal::record::{Owner, format_journal};
use crate::journal::recover::{Refusal, examine};
use crate::journal::stamp::read_stamps;
use crate::journal::{Checkpoints, Journaled};
use crate::lives::FileMark;
use crate::testing::{DiskFault, DiskFile, VirtualDisk, VirtualFile};
use crate::{OpenError, Options, RedbLogStore};

/// A disk with both files, and how they are opened.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) disk: VirtualDisk,
    pub(super) owner: Owner,
    /// When the file is brought up to date.
    pub(super) checkpoints: Checkpoints,
}

impl Machine {
    /// With the file that is on the disk, and a new journal.
    pub(super) fn new(disk: VirtualDisk, journal_bytes: u64) -> Machine {
        let owner = Owner {
            cluster: [1; 16],
            node: NodeId(1),
            journal: [journal_bytes as u8 ^ 5; 16],
            bytes: journal_bytes,
        };
        format_journal(&disk.file(DiskFile::Journal), &owner).expect("formatted");
        Machine { disk, owner, checkpoints: Checkpoints::Inline }
    }

    /// With this file, all of it durable.
    pub(super) fn holding(bytes: &[u8], journal_bytes: u64) -> Machine {
        let disk = VirtualDisk::new(bytes.len() as u64).with_atomic_sectors();
        disk.set_bytes(DiskFile::Log, bytes);
        Machine::new(disk, journal_bytes)
    }

    /// Another machine, where the power was lost and came back.
    pub(super) fn after_power_loss(&self) -> Machine {
        let machine = self.copy();
        machine.disk.lose_power();
        machine
    }

    /// Another machine with all that is read of this one.
    pub(super) fn copy(&self) -> Machine {
        let disk = self.disk.fork();
        disk.kill_process();
        Machine { disk, ..self.clone() }
    }

    /// Another machine, with another journal or file.
    pub(super) fn with(&self, file: DiskFile, bytes: &[u8]) -> Machine {
        let machine = self.copy();
        machine.disk.set_bytes(file, bytes);
        machine
    }

    /// What reads of the file see.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.disk.bytes(DiskFile::Log)
    }

    /// After so many more writes and syncs the power goes.
    pub(super) fn set_fuse(&self, operations: u64) {
        self.disk.arm(DiskFault::PowerLoss, operations);
    }

    /// What `RedbLogStore::open` does with files, without redb.
    pub(super) fn open(&self) -> Result<Journaled<VirtualFile, VirtualFile>, Refusal> {
        let (file, journal) = (self.disk.file(DiskFile::Log), self.disk.file(DiskFile::Journal));
        let stamped = read_stamps(&file)?;
        let examined = examine(&journal, &self.owner, stamped)?;
        let claimed = examined.claimed();
        let recovered = examined.carry_out(&file, &journal, claimed)?;
        Ok(Journaled::new(file, journal, recovered, self.checkpoints)?)
    }

    /// What it does with files.
    pub(super) fn open_log(&self, options: &Options) -> Result<RedbLogStore, OpenError> {
        let (file, backend) = (self.disk.file(DiskFile::Log), self.disk.file(DiskFile::Journal));
        let journal = JournalFile { backend, owner: self.owner };
        RedbLogStore::open_files(options, file, journal, self.checkpoints, FileMark::default())
    }
}
