//! The journal: what makes a durable commit one sequential write instead of many scattered ones. It holds writes of the log, which `store` puts there and
//! brings into redb later, and the pages that redb writes then.
//!
//! redb commits by writing 7 to 10 pages all over its file and syncing it once. A disk needs more than twice as long for
//! that as for the same bytes in a row. So the pages go to the file with plain writes only, and a copy of them goes, as one
//! *record*, into a preallocated file beside it, the journal; `fdatasync` of the journal is what makes the commit durable.
//! From time to time, in the background, the file itself is synced, and the records up to there may be overwritten. After
//! a crash the records since then are written over the file again, in order.
//!
//! Why that is sound:
//! - redb bears that any part of what it wrote since its last sync is lost. So pages of a commit whose record never became
//!   durable may be in the file or not; and replaying older records over them only loses more of the same commit.
//! - A record holds everything written since the record before it, and says which record is the *oldest* that the file may
//!   still need. The last valid record decides; everything from its oldest up to itself must be there and be valid.
//! - A record is overwritten only once a later *durable* record says that it is not needed, and the last one never is. So a
//!   record that is missing or broken in the middle is damage, and refused. One that is broken after the last valid one was
//!   being written when the power went: it was never acknowledged.
//! - Sequence numbers never repeat in a journal, and records carry the journal's random id. So what is left of an earlier
//!   round, or of another journal, is never taken for a record.
//! - The file itself carries a *stamp* ([`stamp`]) with the id of its journal and how far it is synced. So neither of the two
//!   can be lost, or replaced by an older copy, unnoticed.
//!
//! - A commit that is too large for a record goes straight to the file, announced by a record. If the process then starts again
//!   after a failed sync, the kernel may show what it will never write: so all of the file is written again.
//! - Each record says up to which commit of the log all is durable. redb goes back by one commit if the last one is damaged;
//!   what it then shows is older than the journal says, and refused, unless the journal still holds every write in between.
//! - Nothing is called durable before a sync has returned: such facts are of a type that only a sync makes ([`durable`]).
//! - At the start nothing is written until redb, on a copy in memory ([`held`]), has shown a log that fits the journal.
//!
//! - A write of the log is a record of its own kind, with a number. It stays until redb says in its state that it holds that number: the *oldest* of a record
//!   heeds that as well as the pages. Bringing writes into redb at the start goes straight to the file, announced once, so that no number of crashes
//!   meanwhile fills the ring.
//!
//! A failed sync, of either file, is final, as everywhere in this crate: nothing is acknowledged after it.
//!
//! What it is not: it knows nothing of redb's pages or of what a write of the log says; to it there are bytes at offsets, and numbered bytes.

mod backend;
mod checkpoint;
pub(crate) mod durable;
pub(crate) mod file;
pub(crate) mod held;
mod overlay;
pub(crate) mod record;
mod records;
pub(crate) mod recover;
mod ring;
pub(crate) mod stamp;

pub(crate) use backend::{Checkpoints, Journaled, LogJournal, LogPart};

/// Records begin at multiples of this, so that writing one never touches a block of the one before it.
pub(crate) const BLOCK_BYTES: usize = 4096;
