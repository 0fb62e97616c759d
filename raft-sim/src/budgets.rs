//! Memory and log within their budgets: what a member holds, against what it was told and what its settings allow. How much it must hold (writes that
//! nobody has reported as durable, questions that nobody has answered) the world knows from its own books; only for what lies in a core's memory the core
//! is asked, and then held to those books.

use std::collections::VecDeque;

use raft_core::{Config, Entries, Index, Input, Memory, Persist, Ticket};

use crate::checker::broken;
use crate::world::World;
use crate::{Coverage, Machine, Violation};

/// A write that was handed out.
#[derive(Clone, Debug)]
struct HandedOut {
    ticket: Ticket,
    /// Where the log ends after it, if it changes that.
    last: Option<Index>,
    bytes: usize,
    is_reported: bool,
}

/// What a member was given to hold in this life.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holdings {
    /// Writes that are not reported as durable, and those after them.
    writes: VecDeque<HandedOut>,
    /// Through where all that it wrote was reported.
    durable: Index,
    /// How many inputs it was told since it was polled last with no write under way.
    inputs: usize,
    /// The latest checkpoint that it was told of, and whether it led then.
    checkpoint: Option<(Index, bool)>,
}

impl Holdings {
    pub(crate) fn note_write(&mut self, write: &Persist) {
        let last = write.entries.last().map(|entry| entry.index);
        let reset = write.reset.as_ref().map(|snapshot| snapshot.position.index);
        let last = last.or(write.truncate_from.map(Index::prev)).or(reset);
        // What is replaced is not durable any more, whatever was reported of what stood there.
        let kept = write.truncate_from.map(Index::prev).or(reset).unwrap_or(self.durable);
        self.durable = self.durable.min(kept);
        let bytes = Entries::size_bytes(&write.entries);
        self.writes.push_back(HandedOut { ticket: write.ticket, last, bytes, is_reported: false });
    }

    pub(crate) fn note_input(&mut self, input: &Input, leads: bool) {
        self.inputs += 1;
        match input {
            Input::Persisted(ticket) => self.note_report(*ticket),
            Input::SnapshotTaken(meta) => {
                let index = meta.position.index;
                // One from before its member was added is of no use to others, and cuts no log.
                let is_used = !meta.membership.voters.is_empty();
                if is_used && self.checkpoint.is_none_or(|(before, _)| before <= index) {
                    self.checkpoint = Some((index, leads));
                }
            }
            _ => {}
        }
    }

    /// Notices may come out of order: what is durable is what lies before the first write that was not reported.
    fn note_report(&mut self, ticket: Ticket) {
        if let Some(write) = self.writes.iter_mut().find(|write| write.ticket == ticket) {
            write.is_reported = true;
        }
        while let Some(write) = self.writes.front().filter(|write| write.is_reported) {
            self.durable = write.last.unwrap_or(self.durable);
            self.writes.pop_front();
        }
    }

    /// Its latest checkpoint, if it led when it was told of that.
    pub(crate) fn checkpoint_of_leader(&self) -> Option<Index> {
        self.checkpoint.filter(|(_, led)| *led).map(|(index, _)| index)
    }

    /// It was polled: what it was told before can make no messages any more, unless they wait.
    fn note_poll(&mut self) {
        if self.writes.is_empty() {
            self.inputs = 0;
        }
    }

    /// Recent entries stay in memory within their budget; beyond it only what can not be read from the disk yet.
    pub(crate) fn judge_tail(&self, held: Memory, config: &Config) -> Result<bool, Violation> {
        let owed: usize = self.writes.iter().map(|write| write.bytes).sum();
        let max = config.tail_bytes_max;
        if held.tail_bytes > max + owed {
            return broken(
                "entries in memory keep to their budget",
                format!(
                    "{} bytes are in memory, of {max} allowed and {owed} not durable",
                    held.tail_bytes
                ),
            );
        }
        Ok(held.tail_bytes > max)
    }

    /// Messages wait for writes, and for nothing else. While one is under way, no input makes more of them than there are members.
    pub(crate) fn judge_withheld(&self, held: Memory, members: usize) -> Result<bool, Violation> {
        let max = if self.writes.is_empty() { 0 } else { (self.inputs + 1) * members };
        if held.withheld_messages > max {
            return broken(
                "messages wait for writes only",
                format!(
                    "{} wait, with {} writes under way for {} inputs",
                    held.withheld_messages,
                    self.writes.len(),
                    self.inputs
                ),
            );
        }
        Ok(held.withheld_messages > 0)
    }

    /// Once the machine has a checkpoint, the log keeps its reserve before that, and what a leader may keep for those that lag.
    pub(crate) fn judge_log(&self, base: Index, config: &Config) -> Result<bool, Violation> {
        let Some((checkpoint, led)) = self.checkpoint else { return Ok(false) };
        let lag = if led { config.compaction_lag_max } else { 0 };
        let max = config.retained_entries.saturating_add(lag);
        let kept = checkpoint.0.saturating_sub(base.0);
        if kept > max {
            return broken(
                "logs are cut to their reserve",
                format!("{kept} entries before the checkpoint at {checkpoint} are kept, of {max}"),
            );
        }
        Ok(base > Index(0))
    }

    /// A witness has no machine that takes checkpoints: it cuts its log when that has twice the reserve.
    pub(crate) fn judge_witness(
        &self,
        (base, commit): (Index, Index),
        config: &Config,
    ) -> Result<bool, Violation> {
        let max = config.retained_entries.max(1).saturating_mul(2);
        let kept = commit.min(self.durable).0.saturating_sub(base.0);
        if kept >= max {
            return broken(
                "witnesses cut their logs",
                format!("{kept} entries are kept that are committed, of {max}"),
            );
        }
        Ok(base > Index(0))
    }
}

/// Reads wait for the word of a quorum, or of the leader: not more of them than there is room for.
pub(crate) fn judge_reads(waiting: usize, config: &Config) -> Result<bool, Violation> {
    let max = config.waiting_reads_max;
    if waiting > max {
        return broken(
            "waiting reads keep to their budget",
            format!("{waiting} reads wait, of {max} allowed"),
        );
    }
    Ok(waiting == max)
}

impl<M: Machine> World<'_, M> {
    /// Once a core has nothing more to say.
    pub(crate) fn judge_budgets(&mut self, node: usize) -> Result<(), Violation> {
        let members = self.nodes.len();
        let (it, config) = (&self.nodes[node], &self.plan.config);
        let Some(raft) = &it.raft else { return Ok(()) };
        let (held, base, holdings) = (raft.memory(), it.log.base.index, &it.watch.holdings);
        let judged = || -> Result<[bool; NAMES.len()], Violation> {
            Ok([
                holdings.judge_tail(held, config)?,
                holdings.judge_withheld(held, members)?,
                judge_reads(it.watch.reads.len(), config)?,
                !it.is_witness && holdings.judge_log(base, config)?,
                it.is_witness && holdings.judge_witness((base, it.claimed), config)?,
            ])
        };
        let judged = judged().map_err(|Violation { rule, detail }| {
            let detail = format!("node {}: {detail}", it.id);
            Violation { rule, detail }
        })?;
        let log_entries = it.log.entries.len() as u64;
        self.nearness.note(judged, held, log_entries);
        self.nodes[node].watch.holdings.note_poll();
        Ok(())
    }
}

/// How near the budgets a run came: those that nobody comes near show nothing. Beside the other counts, since it is noted with every poll.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Nearness {
    counts: [u64; NAMES.len()],
    tail_bytes: u64,
    withheld_messages: u64,
    log_entries: u64,
}

/// In the order in which they are judged.
const NAMES: [&str; 5] = [
    "polls with more in memory than the tail's budget",
    "polls with messages withheld",
    "polls with as many reads as may wait",
    "polls with a log that was cut",
    "polls of witnesses with a log that was cut",
];

impl Nearness {
    fn note(&mut self, judged: [bool; NAMES.len()], held: Memory, log_entries: u64) {
        for (count, is_near) in self.counts.iter_mut().zip(judged) {
            *count += u64::from(is_near);
        }
        self.tail_bytes = self.tail_bytes.max(held.tail_bytes as u64);
        self.withheld_messages = self.withheld_messages.max(held.withheld_messages as u64);
        self.log_entries = self.log_entries.max(log_entries);
    }

    pub(crate) fn count(self, coverage: &mut Coverage) {
        for (what, count) in NAMES.into_iter().zip(self.counts) {
            coverage.add(what, count);
        }
        coverage.highest("most bytes of entries in memory", self.tail_bytes);
        coverage.highest("most messages withheld", self.withheld_messages);
        coverage.highest("longest log, in entries", self.log_entries);
    }
}
