//! How a [`VirtualDisk`](super::VirtualDisk) fails: the kinds, and how often each happened.

use std::collections::BTreeMap;

/// What goes wrong while a disk works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskFault {
    /// A write fails. What it would have written may be there in part.
    WriteError,
    /// A write or a change of length finds no space; so does everything after it, until the process ends.
    Full,
    /// A sync fails. What it would have made durable stays readable, but a later sync, which succeeds, does not make it durable: the
    /// kernel takes the pages for clean (as `fsync` does on Linux).
    SyncError,
    /// A sync says that it succeeded and makes nothing durable. A later one that does not lie makes up for it.
    SyncLie,
    /// A read fails.
    ReadError,
    /// The power goes: this operation and all later ones fail, until [`lose_power`](super::VirtualDisk::lose_power) is called.
    PowerLoss,
}

/// What goes wrong with what is durable, without anybody doing anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rot {
    /// One bit is another.
    BitFlip,
    /// A page holds what it held before it was written last.
    StalePage,
    /// The last write of a page went to another page, of either file, and destroyed that.
    MisdirectedWrite,
    /// Some bytes of a page are garbage.
    Garbage,
    /// A page is all zeros.
    ZeroedPage,
}

impl Rot {
    /// All kinds.
    pub const ALL: [Rot; 5] =
        [Rot::BitFlip, Rot::StalePage, Rot::MisdirectedWrite, Rot::Garbage, Rot::ZeroedPage];
}

/// How often things happened to a disk, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fired(BTreeMap<&'static str, u64>);

impl Fired {
    pub(super) fn hit(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// How often `what` happened.
    pub fn count(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// All counts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(what, count)| (*what, *count))
    }
}

/// `SplitMix64`: the same seed means the same on every machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Luck(pub(super) u64);

impl Luck {
    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }
}
