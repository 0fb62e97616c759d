//! The device: a log file and its journal, each with what is durable and what is only written, and what faults do to them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{BackendError, StorageBackend};

use super::faults::{DiskFault, Fired, Luck, Rot};
use super::image::{Image, PAGE_BYTES, Page, PageWrite, split};

/// What a disk writes as a whole, or tears.
const SECTOR_BYTES: usize = 512;

/// Which of the two files of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskFile {
    /// The one that redb works on.
    Log,
    /// The one beside it.
    Journal,
}

/// A disk in memory with the two files of a log, that fails as real ones do. Clones are the same disk.
///
/// It keeps what is durable apart from what is only written. After a loss of power, each 512-byte sector that was written since the
/// last sync holds any of the versions that it had since then, or a torn mixture: any subset of the writes, in any order.
/// Everything that it decides comes from its seed.
#[derive(Clone, Debug)]
pub struct VirtualDisk {
    device: Arc<Mutex<Device>>,
    observer: Observer,
}

/// What a process is about to do to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskOperation {
    /// A write.
    Write,
    /// A change of its length.
    SetLength,
    /// A sync.
    Sync,
}

type Observe = dyn FnMut(DiskFile, DiskOperation) + Send;

/// Whoever is told of each operation.
#[derive(Clone, Default)]
struct Observer(Arc<Mutex<Option<Box<Observe>>>>);

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

/// One of its files, open in one process: what redb and the journal work on.
#[derive(Clone, Debug)]
pub struct VirtualFile {
    disk: VirtualDisk,
    file: DiskFile,
    process: u64,
}

#[derive(Clone, Debug, Default)]
struct Device {
    files: [File; 2],
    luck: Luck,
    /// Counts the processes that used it: a file that an earlier one left open is dead.
    process: u64,
    /// What will go wrong, each after so many operations that it can strike.
    armed: BTreeMap<(DiskFault, Option<DiskFile>), u64>,
    /// Syncs that will lie.
    lies: u64,
    is_full: bool,
    is_off: bool,
    /// Sectors are written whole or not at all.
    is_atomic: bool,
    fired: Fired,
}

#[derive(Clone, Debug, Default)]
struct File {
    durable: Image,
    /// What reads see.
    written: Image,
    /// What was written since the last sync, in order.
    unsynced: Vec<PageWrite>,
    /// What a failed sync forgot, though it is still read.
    forgotten: Vec<PageWrite>,
    /// What durable pages held before they were written last.
    earlier: BTreeMap<u64, Arc<Page>>,
    /// It was cut since the last sync, so that pages may be gone that were there.
    was_cut: bool,
    syncs: u64,
}

impl File {
    fn holding(bytes: &[u8]) -> File {
        let durable = Image::holding(bytes);
        File { written: durable.clone(), durable, ..File::default() }
    }

    fn write(&mut self, write: PageWrite) {
        self.written.write(&write);
        self.unsynced.push(write);
    }

    fn dirty(&self) -> BTreeSet<u64> {
        self.unsynced.iter().map(|write| write.page).collect()
    }

    fn sync(&mut self) {
        let dirty = self.dirty();
        self.forgotten.retain(|write| !dirty.contains(&write.page));
        for number in dirty {
            // It may have been cut off since.
            let Some(page) = self.written.pages.get(&number) else { continue };
            let before = self.durable.pages.insert(number, page.clone());
            self.earlier.insert(number, before.unwrap_or_else(|| Arc::new([0; PAGE_BYTES])));
        }
        self.unsynced.clear();
        if std::mem::take(&mut self.was_cut) {
            self.durable = self.written.clone();
        }
        self.durable.set_length(self.written.length);
        self.syncs += 1;
    }

    /// The power goes: of what is not durable, any part survives.
    fn lose_power(&mut self, is_atomic: bool, luck: &mut Luck, fired: &mut Fired) {
        let mode = luck.below(4);
        let mut writes = std::mem::take(&mut self.forgotten);
        writes.append(&mut self.unsynced);
        let keeps_length = mode == 1 || mode > 1 && luck.below(2) == 0;
        if keeps_length {
            self.durable.set_length(self.written.length);
        }
        let mut sectors: BTreeMap<(u64, usize), Vec<&PageWrite>> = BTreeMap::new();
        for write in &writes {
            let end = write.start + write.data.len();
            for sector in write.start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
                sectors.entry((write.page, sector)).or_default().push(write);
            }
        }
        let (mut kept, mut lost) = (false, false);
        for ((number, sector), versions) in sectors {
            let count = match mode {
                0 => 0,
                1 => versions.len(),
                // Most are lost, most are kept, or half of them.
                2 if luck.below(8) > 0 => 0,
                3 if luck.below(8) > 0 => versions.len(),
                _ => luck.below(versions.len() as u64 + 1) as usize,
            };
            kept |= count > 0;
            lost |= count < versions.len();
            if count == 0 || number * PAGE_BYTES as u64 >= self.durable.length {
                continue;
            }
            let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
            let mut page = self.durable.page(number);
            for write in &versions[..count] {
                page[write.start..write.start + write.data.len()].copy_from_slice(&write.data);
            }
            let mut found = self.durable.page(number);
            let is_torn = mode > 1 && !is_atomic && luck.below(16) == 0;
            let whole = if is_torn { luck.below(SECTOR_BYTES as u64) as usize } else { 0 };
            if is_torn {
                fired.hit("torn sectors");
            }
            // A torn sector keeps its old beginning.
            found[range.start + whole..range.end]
                .copy_from_slice(&page[range.start + whole..range.end]);
            self.durable.pages.insert(number, Arc::new(found));
        }
        // Nothing lies beyond the end.
        let length = self.durable.length;
        self.durable.length = u64::MAX;
        self.durable.set_length(length);
        if kept && lost {
            fired.hit("power losses that kept a part");
        }
        self.written = self.durable.clone();
        self.was_cut = false;
    }
}

impl Device {
    fn file(&mut self, file: DiskFile) -> &mut File {
        &mut self.files[file as usize]
    }

    /// Whether this fault strikes at this operation.
    fn strikes(&mut self, fault: DiskFault, file: DiskFile) -> bool {
        let mut is_due = false;
        for key in [(fault, None), (fault, Some(file))] {
            match self.armed.get_mut(&key) {
                None => {}
                Some(0) => {
                    self.armed.remove(&key);
                    is_due = true;
                }
                Some(left) => *left -= 1,
            }
        }
        is_due
    }

    /// Counts an operation that changes the disk. If this is when the power goes, a write may still be there in part.
    fn use_power(&mut self, file: DiskFile) -> io::Result<()> {
        if !self.is_off && self.strikes(DiskFault::PowerLoss, file) {
            self.is_off = true;
            self.fired.hit("power losses in the middle of a call");
        }
        if self.is_off { Err(io::Error::other("the power is gone")) } else { Ok(()) }
    }

    fn use_space(&mut self, file: DiskFile) -> io::Result<()> {
        if !self.is_full && self.strikes(DiskFault::Full, file) {
            self.is_full = true;
            self.fired.hit("full disks");
        }
        if self.is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn write(&mut self, file: DiskFile, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.is_off {
            return self.use_power(file);
        }
        self.use_space(file)?;
        let fails = self.strikes(DiskFault::WriteError, file);
        let data =
            if fails { &data[..self.luck.below(data.len() as u64 + 1) as usize] } else { data };
        for write in split(offset, data) {
            self.file(file).write(write);
        }
        if fails {
            self.fired.hit("write errors");
            return Err(io::Error::other("the disk can not write"));
        }
        self.use_power(file)
    }

    fn sync(&mut self, file: DiskFile) -> io::Result<()> {
        self.use_power(file)?;
        if self.strikes(DiskFault::SyncError, file) {
            self.fired.hit("sync errors");
            let file = self.file(file);
            let mut lost = std::mem::take(&mut file.unsynced);
            file.forgotten.append(&mut lost);
            return Err(io::Error::other("the disk can not sync"));
        }
        if self.strikes(DiskFault::SyncLie, file) || self.lies > 0 {
            self.lies = self.lies.saturating_sub(1);
            self.fired.hit("syncs that lied");
            return Ok(());
        }
        self.file(file).sync();
        Ok(())
    }

    /// Spoils something durable and says which pages.
    fn rot(&mut self, rot: Rot) -> Option<Vec<(DiskFile, u64)>> {
        let pages: Vec<(usize, u64)> = (0..2)
            .flat_map(|file| {
                self.files[file].durable.pages.keys().map(move |number| (file, *number))
            })
            .collect();
        let pick = |luck: &mut Luck, from: &[(usize, u64)]| {
            (!from.is_empty()).then(|| from[luck.below(from.len() as u64) as usize])
        };
        let rewritten: Vec<(usize, u64)> = (0..2)
            .flat_map(|file| self.files[file].earlier.keys().map(move |number| (file, *number)))
            .filter(|page| pages.contains(page))
            .collect();
        let from = match rot {
            Rot::StalePage | Rot::MisdirectedWrite => &rewritten,
            _ => &pages,
        };
        let (file, number) = pick(&mut self.luck, from)?;
        let before = self.files[file].durable.page(number);
        let mut page = before;
        match rot {
            Rot::BitFlip => {
                let bit = self.luck.below(PAGE_BYTES as u64 * 8);
                page[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
            Rot::Garbage => {
                let start = self.luck.below(PAGE_BYTES as u64) as usize;
                let end = PAGE_BYTES.min(start + 1 + self.luck.below(600) as usize);
                for byte in &mut page[start..end] {
                    *byte = self.luck.draw() as u8;
                }
            }
            Rot::ZeroedPage => page = [0; PAGE_BYTES],
            Rot::StalePage | Rot::MisdirectedWrite => {
                page = **self.files[file].earlier.get(&number)?;
            }
        }
        let mut places = vec![place((file, number))];
        if rot == Rot::MisdirectedWrite {
            let victim = pick(&mut self.luck, &pages)?;
            if victim != (file, number) {
                self.files[victim.0].replace(victim.1, &before);
                places.push(place(victim));
            }
        }
        if page == before && rot != Rot::MisdirectedWrite {
            return None;
        }
        self.files[file].replace(number, &page);
        self.fired.hit(match rot {
            Rot::BitFlip => "bit flips",
            Rot::StalePage => "stale pages",
            Rot::MisdirectedWrite => "misdirected writes",
            Rot::Garbage => "garbage in pages",
            Rot::ZeroedPage => "zeroed pages",
        });
        Some(places)
    }
}

fn place((file, page): (usize, u64)) -> (DiskFile, u64) {
    (if file == DiskFile::Log as usize { DiskFile::Log } else { DiskFile::Journal }, page)
}

impl File {
    /// What is durable is another page, and is seen at the next read.
    fn replace(&mut self, number: u64, page: &Page) {
        let page = Arc::new(*page);
        self.durable.pages.insert(number, page.clone());
        // What waits to be written is still in memory.
        if !self.unsynced.iter().any(|write| write.page == number) {
            self.written.pages.insert(number, page);
        }
    }
}

impl VirtualDisk {
    /// An empty disk without faults.
    pub fn new(seed: u64) -> VirtualDisk {
        let device = Device { luck: Luck(seed), ..Device::default() };
        VirtualDisk { device: Arc::new(Mutex::new(device)), observer: Observer::default() }
    }

    fn device(&self) -> MutexGuard<'_, Device> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `observe` see every write, change of length and sync before it happens. Until it returns, the operation has not
    /// begun, so it may use the disk: do what another thread would do meanwhile, or fork it and let the power go there. What it
    /// does itself it is not told of. Forks do not have it.
    pub fn observe(&self, observe: impl FnMut(DiskFile, DiskOperation) + Send + 'static) {
        *self.observer() = Some(Box::new(observe));
    }

    /// Ends that.
    pub fn stop_observing(&self) {
        *self.observer() = None;
    }

    fn observer(&self) -> MutexGuard<'_, Option<Box<Observe>>> {
        self.observer.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begins(&self, file: DiskFile, operation: DiskOperation) {
        let observe = self.observer().take();
        if let Some(mut observe) = observe {
            observe(file, operation);
            *self.observer() = Some(observe);
        }
    }

    /// Opens a file in the process that runs now.
    pub fn file(&self, file: DiskFile) -> VirtualFile {
        let process = self.device().process;
        VirtualFile { disk: self.clone(), file, process }
    }

    /// The same, of those disks that write a sector whole or not at all.
    #[must_use]
    pub fn with_atomic_sectors(self) -> VirtualDisk {
        self.device().is_atomic = true;
        self
    }

    /// A disk of its own with the same content, and a fate of its own.
    #[must_use]
    pub fn fork(&self) -> VirtualDisk {
        let mut original = self.device();
        let luck = Luck(original.luck.draw());
        let device = Arc::new(Mutex::new(Device { luck, ..original.clone() }));
        VirtualDisk { device, observer: Observer::default() }
    }

    /// The process ends without a warning; what it wrote stays readable, durable or not. Its open files are dead from now on. Faults that
    /// were to come do not.
    pub fn kill_process(&self) {
        let mut device = self.device();
        device.process += 1;
        device.armed.clear();
        device.is_full = false;
    }

    /// The power goes and comes back: of what was not durable, any part is left.
    pub fn lose_power(&self) {
        self.kill_process();
        let mut device = self.device();
        let Device { files, luck, fired, is_atomic, .. } = &mut *device;
        for file in files {
            file.lose_power(*is_atomic, luck, fired);
        }
        device.is_off = false;
        device.lies = 0;
    }

    /// Lets a fault happen at the operation after `after` others that it can strike: writes, syncs or reads; for
    /// [`DiskFault::PowerLoss`], writes, changes of length and syncs.
    pub fn arm(&self, fault: DiskFault, after: u64) {
        self.device().armed.insert((fault, None), after);
    }

    /// The same, for one of the files: only what happens to that counts.
    pub fn arm_on(&self, file: DiskFile, fault: DiskFault, after: u64) {
        self.device().armed.insert((fault, Some(file)), after);
    }

    /// Takes back all faults that were to come, and makes room.
    pub fn heal(&self) {
        let mut device = self.device();
        device.armed.clear();
        device.is_full = false;
        device.lies = 0;
    }

    /// Lets all syncs lie from now on, or none, until the power goes.
    pub fn lie(&self, lies: bool) {
        self.device().lies = if lies { u64::MAX } else { 0 };
    }

    /// Spoils something that is durable, and says in which pages of 4 KiB; `None` if there is nothing that can be spoilt in that way.
    ///
    /// Where the journal is hit, the last write may be lost unnoticed: its record looks like one that was being written when the
    /// power went.
    pub fn rot(&self, rot: Rot) -> Option<Vec<(DiskFile, u64)>> {
        self.device().rot(rot)
    }

    /// How often which fault happened so far.
    pub fn fired(&self) -> Fired {
        self.device().fired.clone()
    }

    /// The same, since the last call of this.
    pub fn take_fired(&self) -> Fired {
        std::mem::take(&mut self.device().fired)
    }

    /// How often a file was really synced.
    pub fn syncs(&self, file: DiskFile) -> u64 {
        self.device().file(file).syncs
    }

    /// What reads of a file see.
    pub fn bytes(&self, file: DiskFile) -> Vec<u8> {
        self.device().file(file).written.bytes()
    }

    /// Puts a file in place of what is there, durable.
    pub fn set_bytes(&self, file: DiskFile, bytes: &[u8]) {
        *self.device().file(file) = File::holding(bytes);
    }
}

impl VirtualFile {
    fn device(&self) -> io::Result<MutexGuard<'_, Device>> {
        let device = self.disk.device();
        if device.process == self.process {
            Ok(device)
        } else {
            Err(io::Error::other("the process that opened the file is dead"))
        }
    }
}

impl StorageBackend for VirtualFile {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.device()?.file(self.file).written.length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let mut device = self.device()?;
        if device.strikes(DiskFault::ReadError, self.file) {
            device.fired.hit("read errors");
            return Err(io::Error::other("the disk can not read"));
        }
        let image = &device.file(self.file).written;
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > image.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        image.read(offset, out);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.disk.begins(self.file, DiskOperation::SetLength);
        let mut device = self.device()?;
        device.use_power(self.file)?;
        device.use_space(self.file)?;
        let file = device.file(self.file);
        file.was_cut |= len < file.written.length;
        file.written.set_length(len);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.disk.begins(self.file, DiskOperation::Sync);
        self.device()?.sync(self.file)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.disk.begins(self.file, DiskOperation::Write);
        let mut device = self.device()?;
        let length = device.file(self.file).written.length;
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > length) {
            return Err(io::Error::other("a write beyond the end of the file"));
        }
        device.write(self.file, offset, data)
    }

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}
