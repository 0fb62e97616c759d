//! Budgets of memory and log.

use raft_core::{
    Config, Index, Input, LogPosition, Memory, NodeId, Persist, SnapshotMeta, Term, Ticket,
};

use super::quiet::{Quiet, entry, follower, leader, nothing, snapshot, writes};
use super::{Judged, Shown, shown, verdict};
use crate::budgets::{Holdings, judge_reads};

fn config() -> Config {
    Config {
        tail_bytes_max: 100,
        retained_entries: 10,
        compaction_lag_max: 5,
        waiting_reads_max: 3,
        ..Config::new(NodeId(0))
    }
}

/// Somebody that was handed two writes of an entry each, and told that these are durable.
fn holds(reported: &[u64]) -> Holdings {
    let mut holdings = Holdings::default();
    for number in 1..=2 {
        let write = writes(entry(number, Term(1)));
        holdings.note_write(&Persist { ticket: Ticket(number), ..write });
    }
    for ticket in reported {
        holdings.note_input(&Input::Persisted(Ticket(*ticket)), false);
    }
    holdings
}

fn entry_bytes() -> usize {
    entry(1, Term(1)).size_bytes()
}

/// It holds so many bytes beyond the budget of its tail.
fn holds_beyond(bytes: usize, reported: &[u64]) -> Judged {
    let held = Memory { tail_bytes: config().tail_bytes_max + bytes, withheld_messages: 0 };
    verdict(holds(reported).judge_tail(held, &config()))
}

fn withholds(messages: usize, reported: &[u64]) -> Judged {
    let held = Memory { tail_bytes: 0, withheld_messages: messages };
    verdict(holds(reported).judge_withheld(held, 3))
}

/// The log begins after `base`, once the machine took a checkpoint at 100.
fn keeps(base: u64, leads: bool) -> Judged {
    let position = LogPosition { index: Index(100), term: Term(1) };
    let meta: SnapshotMeta = snapshot(position);
    let mut holdings = Holdings::default();
    holdings.note_input(&Input::SnapshotTaken(meta), leads);
    verdict(holdings.judge_log(Index(base), &config()))
}

/// A witness whose log is durable through 20 keeps all that is committed after `base`.
fn witness_keeps(base: u64, commit: u64) -> Judged {
    let mut holdings = Holdings::default();
    let all = (1..=20).map(|index| entry(index, Term(1))).collect();
    let entries = super::quiet::entries(all);
    holdings.note_write(&Persist { ticket: Ticket(1), entries, ..nothing() });
    holdings.note_input(&Input::Persisted(Ticket(1)), false);
    verdict(holdings.judge_witness((Index(base), Index(commit)), &config()))
}

/// The same, while all that it has after 10 is being replaced.
fn witness_replaces(base: u64) -> Judged {
    let mut holdings = Holdings::default();
    let all = (1..=20).map(|index| entry(index, Term(1))).collect();
    let entries = super::quiet::entries(all);
    holdings.note_write(&Persist { ticket: Ticket(1), entries, ..nothing() });
    holdings.note_input(&Input::Persisted(Ticket(1)), false);
    let other = writes(entry(11, Term(2)));
    let truncate_from = Some(Index(11));
    holdings.note_write(&Persist { ticket: Ticket(2), truncate_from, ..other });
    let config = Config { retained_entries: 5, ..config() };
    verdict(holdings.judge_witness((Index(base), Index(20)), &config))
}

/// The same by the whole judgement, of a member of a world.
fn read_waits(world: &mut Quiet, reads: usize) -> Judged {
    let node = follower(world);
    world.plan.config.waiting_reads_max = 3;
    let told = world.nodes[node].watch.told;
    let waiting = (0..reads as u64).map(|read| (raft_core::ReadId(read), told));
    world.nodes[node].watch.reads = waiting.collect();
    world.judge_budgets(node)
}

/// Its settings allow for less than the leader holds.
fn has_a_small_tail(world: &mut Quiet, bytes_max: usize) -> Judged {
    world.plan.config.tail_bytes_max = bytes_max;
    world.judge_budgets(leader(world))
}

pub(super) const SHOWN: &[Shown] = &[
    shown(
        "entries in memory keep to their budget",
        |_| holds_beyond(0, &[1, 2]),
        |_| holds_beyond(1, &[1, 2]),
    ),
    shown(
        "entries in memory keep to their budget",
        |_| holds_beyond(entry_bytes(), &[1]),
        |_| holds_beyond(entry_bytes() + 1, &[1]),
    ),
    shown(
        // The second write can not be let go of before the first.
        "entries in memory keep to their budget",
        |_| holds_beyond(2 * entry_bytes(), &[2]),
        |_| holds_beyond(2 * entry_bytes() + 1, &[2]),
    ),
    shown(
        "entries in memory keep to their budget",
        |w| has_a_small_tail(w, 16 << 20),
        |w| has_a_small_tail(w, 1),
    ),
    shown("messages wait for writes only", |_| withholds(0, &[1, 2]), |_| withholds(1, &[1, 2])),
    shown("messages wait for writes only", |_| withholds(6, &[1]), |_| withholds(7, &[1])),
    shown("logs are cut to their reserve", |_| keeps(90, false), |_| keeps(89, false)),
    shown("logs are cut to their reserve", |_| keeps(85, true), |_| keeps(84, true)),
    shown("witnesses cut their logs", |_| witness_keeps(1, 20), |_| witness_keeps(0, 20)),
    shown("witnesses cut their logs", |_| witness_keeps(0, 19), |_| witness_keeps(0, 30)),
    shown("witnesses cut their logs", |_| witness_replaces(1), |_| witness_replaces(0)),
    shown(
        "waiting reads keep to their budget",
        |_| verdict(judge_reads(3, &config())),
        |_| verdict(judge_reads(4, &config())),
    ),
    shown("waiting reads keep to their budget", |w| read_waits(w, 3), |w| read_waits(w, 4)),
];
