//! Raft as a deterministic state machine: no I/O, no clock, no randomness, no async, no serialization.
//!
//! # The protocol in a page
//!
//! A group of *voters* keeps identical copies of one log (Ongaro and Ousterhout, "In Search of an Understandable Consensus
//! Algorithm", USENIX ATC 2014, here *the paper*; Ongaro's *dissertation*, Stanford 2014). At any time each member is a
//! [follower, a candidate or a leader](RoleKind); time is divided into numbered *terms*, each with at most one leader.
//!
//! * **Elections** (paper §5.2, §5.4.1; dissertation §9.6). A follower that hears from no leader for a randomized time
//!   first asks whether a campaign would succeed (*pre-vote*). If a majority says so, it raises its term, votes for
//!   itself and asks for votes. A voter gives one vote a term, and only to a log at least as up-to-date as its own: so
//!   whoever wins has every committed entry.
//! * **Replication** (paper §5.3). Only the leader appends. It sends entries together with the position before them; a
//!   follower takes them only if its log has that position, and overwrites what contradicts them. What it refuses, it
//!   refuses with a hint of where the logs may agree.
//! * **Commitment** (paper §5.4.2). An entry is committed once a majority has it *durably* and it, or an entry after
//!   it, is of the leader's own term. Committed entries are applied to the state machine in order, and are never lost.
//! * **Reads** (dissertation §6.4). A leader answers a read without writing to the log: it remembers its commit index,
//!   has a majority confirm that it still leads, and waits until the index is applied. Where clocks can be trusted
//!   within a bound, a *lease* spares the question (§6.4.1); and any member can answer, once it has asked the leader
//!   for the index.
//! * **Membership** (dissertation §4). The configuration is an entry like any other, and in effect as soon as it is in
//!   the log. One voter may come or go in one step, since majorities then overlap; any other change passes through a
//!   *joint* configuration, in which old and new decide together. Learners receive the log without a vote until they
//!   have caught up; witnesses vote without keeping commands.
//! * **Transfer** (dissertation §3.10). A leader can hand over: it stops taking proposals, brings another up to date
//!   and tells it to campaign.
//! * **Snapshots** (paper §7). The state machine's durable snapshots let the log forget its beginning; a follower that
//!   needs what is forgotten gets the snapshot.
//!
//! What a member knows of its log. The commit index may lie on either side of what is durable: the disks of a quorum
//! may have what this one does not have yet. Entries are handed out to be applied when they are both.
//!
//! ```text
//!  base       applied    handed               durable              last
//!   ├───────────┼──────────┼─────────────────────┼───────────────────┤
//!   │ on this disk                               │ being written, or │
//!   │                                            │ not written yet   │
//!
//!  base       applied    handed      commit                        last
//!   ├───────────┼──────────┼────────────┼────────────────────────────┤
//!   │ applied   │ being    │ to be      │ not committed,             │
//!   │           │ applied  │ applied    │ as far as is known         │
//! ```
//!
//! # Beyond the paper
//!
//! Most of this decides nothing that the protocol above would not: it withholds, waits, or asks elsewhere. Two parts
//! act by themselves: where stores are told apart, a leader makes a learner of a voter on another store; and a leader
//! whose disk stalls hands over. Decisions are those of `docs/decisions` in the project's repository.
//!
//! * **Store identities** (decision 14). The configuration records on which store each member was admitted; one whose
//!   disk was wiped or put back from a copy has forgotten votes and acknowledgements, and does not count before it has
//!   caught up as a learner and was promoted ([`StoreStamp`]).
//! * **Storage health** (dissertation §6.2, on leaders that can do nothing for their clients). A disk that hangs is
//!   worse than one that fails, for its member still answers. Told so, a leader serves no lease, and hands over if
//!   another can lead; a follower does not campaign ([`StorageHealth`]).
//! * **Election priorities** (dissertation §3.10, on members that suit better as leaders). Who has a low one waits
//!   longer before it campaigns, and never for ever: no safety rests on how long anybody waits (paper §5.6).
//! * **Commit groups** (after those of raft-rs; decision 14, on stores in them). Beside the quorum an entry has to be
//!   in a number of *zones*, so that what is committed is not lost with one of them; nothing commits while too few can
//!   be reached ([`CommitGroups`]).
//! * **Witnesses** get what they would complete a quorum for (decision 16), and are witnesses by their own settings
//!   (decision 11).
//! * **Forwarding** (dissertation §6.2, on routing requests). A member passes proposals on to the leader, each batch at
//!   most once; where no answer comes in time, its outcome is unknown, and only the state machine can tell a repetition
//!   (§6.3).
//! * **Record and replay** (the bytes: [`recording`]). A core is a function of its start, its inputs and their times:
//!   a [`recording`] of these is lived again elsewhere, action by action.
//!
//! # Caveats
//!
//! A minority of the voters can neither elect nor commit: it waits. More voters make a group slower, not faster;
//! *learners* and reads at any member are what spreads load. Lease reads are only as good as the clocks. A store that
//! lost acknowledged writes is found out and made a learner if the group knows it ([`StoreStamp`]); if every store that
//! can be reached is blank, nobody can know.
//!
//! # The loop
//!
//! One input type, one output type, and time as a number. The core never blocks and never fails on what a peer says: a
//! message that breaks the rules is refused by name ([`PeerFault`]) and changes nothing.
//!
//! Three cores in one thread; whatever one has for another, or for itself, waits in one queue:
//!
//! ```
//! use std::collections::{BTreeMap, VecDeque};
//!
//! use bytes::Bytes;
//! use raft_core::{Action, Config, Input, Instant, Membership, NodeId, ProposalId, Raft, Restored};
//!
//! let ids = [NodeId(1), NodeId(2), NodeId(3)];
//! let (mut group, mut applied) = (BTreeMap::new(), BTreeMap::new());
//! for id in ids {
//!     let founding = Restored::founding(Membership::of_voters(ids));
//!     group.insert(id, Raft::new(Config::new(id), id.0, Instant(0), founding)?);
//!     applied.insert(id, Vec::new());
//! }
//! let (mut now, mut is_proposed, mut inputs) = (Instant(0), false, VecDeque::new());
//!
//! // The leader's own first entry, and the command, everywhere.
//! while applied.values().any(|entries| entries.len() < 2) {
//!     for (&id, raft) in &mut group {
//!         while let Some(action) = raft.poll_action() {
//!             match action {
//!                 // A real driver writes and calls fsync first: everything else follows from this answer.
//!                 Action::Persist(write) => inputs.push_back((id, Input::Persisted(write.ticket))),
//!                 Action::Send { to, message } => {
//!                     inputs.push_back((to, Input::Message { from: id, store: None, message }));
//!                 }
//!                 Action::Apply(apply) => {
//!                     applied.entry(id).or_default().extend(apply.entries.iter().cloned());
//!                     inputs.push_back((id, Input::Applied(apply.last)));
//!                 }
//!                 // Answers to clients and news; and for a log that outgrows its memory, reading it back, and snapshots.
//!                 _ => {}
//!             }
//!         }
//!     }
//!     if let Some((id, input)) = inputs.pop_front() {
//!         group.get_mut(&id).ok_or("a member")?.handle(now, input)?;
//!     } else {
//!         // All are silent. If somebody leads there is a command for it; otherwise whoever is the most impatient campaigns.
//!         let leader = group.values().find_map(Raft::leader).filter(|_| !is_proposed);
//!         let first = group.iter().filter_map(|(&id, raft)| Some((raft.poll_timeout()?, id))).min();
//!         let (deadline, id) = first.ok_or("somebody waits for something")?;
//!         if let Some(leader) = leader {
//!             let commands = vec![Bytes::from("hello")];
//!             inputs.push_back((leader, Input::Propose { id: ProposalId(1), commands }));
//!             is_proposed = true;
//!         } else {
//!             now = now.max(deadline);
//!             inputs.push_back((id, Input::Timeout));
//!         }
//!     }
//! }
//! assert!(ids.iter().all(|id| applied[id] == applied[&ids[0]]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A loop with disks and machines finds what must come before what in `raft_node::order`, the rules by which the ready
//! driver and the simulator go, and what it owes besides in the book's chapter on embedding.
//!
//! # Reading order
//!
//! `ids`, `time`, `entry`, `membership`, `quorum`, `change`, `message`: the nouns. `config`, `restored`: what a member
//! starts from. `input`, `action`, `error`: what goes in and comes out. `rng`, `nonce`: where all that is random comes from.
//! `log` (shape, tail, writes), `window`, `progress`, `peers`, `role`, `outbox`: what is remembered. `raft`: the way in
//! and out. Then one file per rule: `election`, `follower`, `leader`, `reads`, `lease`, `snapshots`, `reconfigure`,
//! `transfer`, `forward`, `stores`. `invariants` says what always holds, `status` shows it, and `explain` says why.
//! `recording` writes down what goes in. `mutants` lists the guards that stand in all these files, each as the bug that
//! it keeps out.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[macro_use]
mod mutants;

mod action;
mod change;
mod config;
mod election;
mod entry;
mod error;
mod explain;
mod follower;
mod forward;
mod ids;
mod input;
mod invariants;
mod leader;
mod lease;
mod log;
mod membership;
mod message;
mod nonce;
mod outbox;
mod peers;
mod progress;
mod quorum;
mod raft;
mod reads;
mod reconfigure;
pub mod recording;
mod restored;
mod rng;
mod role;
mod snapshots;
mod status;
mod stores;
mod time;
mod transfer;
mod window;

pub use action::{Action, Apply, Event, HardState, Persist, Resolution, RoleKind};
pub use change::{ChangeStep, MembershipChange};
pub use config::{CommitGroups, Config, ConfigError, LeaseConfig};
pub use entry::{Entries, Entry, NotARun, Payload};
pub use error::{CallerFault, HandleError, PeerFault, Refusal, RestoreError};
pub use explain::{
    CampaignObstacle, CommitReason, Lacks, LeadershipReason, Missing, MissingReason, NoTarget,
    RefusalReason, StalledLeader, Tally, TransferObstacle, UnappliedReason, Uncounted,
    UncountedReason, VotePromise,
};
pub use ids::{
    Index, LogPosition, NodeId, ProposalId, ReadId, RequestId, StoreId, StoreStamp, Term, Ticket,
};
pub use input::{Input, ReadAt, StorageHealth};
pub use membership::Membership;
pub use message::{
    AppendOutcome, Body, ForwardId, ForwardOutcome, Message, SnapshotMeta, SnapshotOutcome,
    TrafficClass,
};
pub use raft::Raft;
pub use restored::{Restored, RestoredLog, TermRun};
pub use status::{InFlightStatus, Memory, PeerStatus, ReplicationKind, Status};
pub use stores::StoreStanding;
pub use time::Instant;
