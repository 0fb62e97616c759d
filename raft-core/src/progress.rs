//! What a leader knows of one peer, and what it does next for it.

use alloc::collections::VecDeque;

use core::time::Duration;

use crate::outbox::shrink;
use crate::reconfigure::Leaving;
use crate::window::{BYTES_MIN, Window};
use crate::{Config, InFlightStatus, Index, Instant, LogPosition, ReplicationKind};

/// One peer, as its leader sees it.
#[derive(Debug)]
pub(crate) struct Peer {
    /// The last index known to be durable there and equal to the leader's.
    pub(crate) matched: Index,
    pub(crate) progress: Progress,
    /// When it last answered in this term.
    pub(crate) last_contact: Instant,
    /// The highest read context that it has answered (dissertation §6.4).
    pub(crate) read_context: u64,
    /// The first index of the fetch that is under way for it.
    pub(crate) fetching: Option<Index>,
    /// When the latest heartbeat left that it has answered: its promise lasts from then on. Zero if there is none.
    pub(crate) lease_from: Instant,
    /// The highest commit index that it was told.
    pub(crate) told_commit: Index,
    /// Whether commands are withheld from it. Who was removed as a witness stays one for as long as it is served.
    pub(crate) is_witness: bool,
    /// Whether it still has to learn that it was removed.
    pub(crate) leaving: Option<Leaving>,
    /// How well it keeps up; asked before a learner is promoted.
    pub(crate) catch_up: CatchUp,
    /// Whether its last answer denied what it had acknowledged.
    pub(crate) is_doubted: bool,
    /// What it acknowledged in an earlier life of its store, so that it must have it still.
    pub(crate) owed: Index,
}

/// Measures how a member catches up, in rounds (dissertation §4.2.1): a round lasts until the member has what the log
/// held when the round began. As the log grows meanwhile, the next round is about that growth; who needs less than an
/// election timeout for a round is caught up.
#[derive(Debug)]
pub(crate) struct CatchUp {
    target: Index,
    began: Instant,
    last_round_micros: Option<u64>,
}

impl CatchUp {
    pub(crate) fn new(target: Index, now: Instant) -> CatchUp {
        CatchUp { target, began: now, last_round_micros: None }
    }

    /// Ends the round if `matched` is its target, and begins the next at the log's end. Called at each answer, and at
    /// each heartbeat.
    pub(crate) fn on_matched(&mut self, matched: Index, last: Index, now: Instant) {
        if matched >= self.target {
            self.last_round_micros = Some(now.micros_since(self.began));
            self.target = last;
            self.began = now;
        }
    }

    fn is_done(&self, matched: Index, now: Instant, patience: Duration) -> bool {
        let is_in_time = matched >= self.target || now.since(self.began) < patience;
        let last_round = self.last_round_micros.map(Duration::from_micros);
        is_in_time && last_round.is_some_and(|round| round < patience)
    }
}

/// How the peer is being served. What belongs to one way cannot be named in another.
#[derive(Debug)]
#[repr(u8)] // See `Role`.
pub(crate) enum Progress {
    /// Looking for where the logs agree: one append at a time, from `next`.
    Probe {
        next: Index,
        /// The outstanding append; `None` if one may leave now.
        outstanding: Option<Sent>,
    },
    /// Streaming: appends leave before earlier ones are answered.
    Replicate { next: Index, in_flight: InFlight },
    /// It needs entries that the log has no more.
    Snapshot {
        /// What was offered last; `None` if nothing was yet.
        offered: Option<LogPosition>,
        /// When; the offer is repeated until it is answered.
        offered_at: Instant,
        /// Whether the driver is streaming.
        streaming: bool,
        /// What it will go on from.
        hold: Hold,
    },
}

/// The log that a snapshot's receiver will need once it has the snapshot. It is kept meanwhile: if the next checkpoint
/// cut it away, the snapshot would be out of date when it arrives, and so would every one after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    /// The snapshot's last index: what comes after it is kept.
    after: Index,
    /// When it was offered, its stream began, or its stream ended, whichever came last.
    since: Instant,
}

impl Hold {
    /// A receiver that answers heartbeats may be stuck all the same. It has so long to install what it was streamed. (A
    /// stream itself may take as long as it gets on, which the driver sees to.)
    const PATIENCE: Duration = Duration::from_secs(600);

    pub(crate) fn new(after: Index, since: Instant) -> Hold {
        Hold { after, since }
    }
}

impl Peer {
    pub(crate) fn new(next: Index, now: Instant) -> Peer {
        Peer {
            matched: Index(0),
            progress: Progress::Probe { next, outstanding: None },
            last_contact: now,
            read_context: 0,
            fetching: None,
            lease_from: Instant(0),
            told_commit: Index(0),
            is_witness: false,
            leaving: None,
            catch_up: CatchUp::new(next.prev(), now),
            is_doubted: false,
            owed: Index(0),
        }
    }

    /// Starts over from `next`. Everything about earlier appends goes with the old state, the in-flight count too (scenario 15).
    pub(crate) fn probe(&mut self, next: Index) {
        let next = next.max(self.matched.next());
        self.progress = Progress::Probe { next, outstanding: None };
    }

    /// Starts over from `next`, at the first heartbeat after an interval.
    pub(crate) fn probe_later(&mut self, next: Index, now: Instant) {
        let outstanding = Some(Sent { last: next.prev(), bytes: 0, at: now });
        self.progress = Progress::Probe { next, outstanding };
    }

    /// Asks the peer, which has restarted, whether it still has what it acknowledged.
    pub(crate) fn compare_again(&mut self) {
        if matches!(self.progress, Progress::Replicate { .. }) {
            self.probe(self.matched.next());
        }
    }

    /// Notes that the peer has everything up to `matched`. `write_time` is what a write takes on the leader's own disk.
    pub(crate) fn on_matched(&mut self, matched: Index, now: Instant, write_time: Duration) {
        self.matched = self.matched.max(matched);
        self.is_doubted = false;
        let matched = self.matched;
        match &mut self.progress {
            Progress::Replicate { next, in_flight } => {
                in_flight.release_through(matched, now, write_time);
                *next = (*next).max(matched.next());
            }
            Progress::Probe { .. } if mutated!(BackOffOutlivesTheAnswer) => {
                self.probe_later(matched.next(), now);
            }
            // It answers again: from now on it is streamed to, and nothing waits for a heartbeat (scenario 19).
            Progress::Probe { outstanding, .. } => {
                // It may have more of the probe than it has on its disk already: that is under way, and not sent again.
                let rest =
                    outstanding.filter(|sent| sent.last > matched && !mutated!(ProbeSentTwice));
                let mut in_flight = InFlight::default();
                if let Some(Sent { last, bytes, at }) = rest {
                    in_flight.add(last, bytes, at);
                }
                let next = rest.map_or(matched, |sent| sent.last).next();
                self.progress = Progress::Replicate { next, in_flight };
            }
            Progress::Snapshot { offered, .. } => {
                if offered.is_some_and(|position| position.index <= matched) {
                    self.probe(matched.next());
                }
            }
        }
    }

    /// The index up to which it needs no log; `None` if the log is not kept for it.
    pub(crate) fn needs_log_after(&self, now: Instant) -> Option<Index> {
        match &self.progress {
            Progress::Probe { .. } | Progress::Replicate { .. } => Some(self.matched),
            Progress::Snapshot { streaming, hold, .. } => {
                let is_in_time = *streaming || now.since(hold.since) < Hold::PATIENCE;
                is_in_time.then_some(hold.after)
            }
        }
    }

    /// The driver streams to it no more.
    pub(crate) fn on_stream_ended(&mut self, now: Instant) {
        if let Progress::Snapshot { offered_at, streaming, hold, .. } = &mut self.progress {
            if *streaming {
                hold.since = now;
            }
            *streaming = false;
            *offered_at = now;
        }
    }

    /// Whether it keeps up, and was heard from lately: who has all of a log that does not grow may be gone for long.
    pub(crate) fn is_caught_up(&self, now: Instant, patience: Duration) -> bool {
        let is_heard = !self.is_silent(now, patience) || mutated!(PromotedThoughSilent);
        is_heard && self.catch_up.is_done(self.matched, now, patience)
    }

    /// Whether it was not heard from for that long.
    pub(crate) fn is_silent(&self, now: Instant, patience: Duration) -> bool {
        now.since(self.last_contact) >= patience
    }

    pub(crate) fn in_flight_status(&self, config: &Config) -> Option<InFlightStatus> {
        let Progress::Replicate { in_flight, .. } = &self.progress else { return None };
        Some(in_flight.status(config.in_flight_messages_max, config.in_flight_bytes_max))
    }

    pub(crate) fn kind(&self) -> ReplicationKind {
        match self.progress {
            Progress::Probe { .. } => ReplicationKind::Probe,
            Progress::Replicate { .. } => ReplicationKind::Replicate,
            Progress::Snapshot { .. } => ReplicationKind::Snapshot,
        }
    }
}

/// Appends under way to one peer.
#[derive(Debug)]
pub(crate) struct InFlight {
    queue: VecDeque<Sent>,
    bytes: usize,
    /// How much may be under way for now. It starts small each time: a stream that starts at full width under reordering
    /// gets as many rejections as acceptances, each of which starts it anew: a storm that feeds itself.
    window: Window,
}

impl Default for InFlight {
    fn default() -> InFlight {
        InFlight { queue: VecDeque::new(), bytes: 0, window: Window::new() }
    }
}

/// An append that is not answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) last: Index,
    pub(crate) bytes: usize,
    pub(crate) at: Instant,
}

impl InFlight {
    pub(crate) fn has_room(&self, messages_max: usize, bytes_max: usize) -> bool {
        let InFlightStatus { messages, messages_max, bytes, bytes_max } =
            self.status(messages_max, bytes_max);
        messages < messages_max && bytes < bytes_max
    }

    fn status(&self, messages_max: usize, bytes_max: usize) -> InFlightStatus {
        InFlightStatus {
            messages: self.queue.len(),
            messages_max: messages_max.min(self.window.messages()),
            bytes: self.bytes,
            bytes_max: bytes_max.min(self.window.bytes()),
        }
    }

    /// The most bytes of the next message. A message as large as the window would be a queue of its own, unless the
    /// window is at its least: cutting up what fits into that would only cost messages.
    pub(crate) fn budget_bytes(&self, append_bytes_max: usize) -> usize {
        let least = BYTES_MIN.saturating_sub(self.bytes);
        append_bytes_max.min(least.max(self.window.bytes() / 4))
    }

    pub(crate) fn add(&mut self, last: Index, bytes: usize, at: Instant) {
        self.bytes += bytes;
        self.queue.push_back(Sent { last, bytes, at });
        self.window.on_sent(self.queue.len(), self.bytes);
    }

    fn release_through(&mut self, matched: Index, now: Instant, write_time: Duration) {
        let (mut count, mut newest) = (0, now);
        while self.queue.front().is_some_and(|sent| sent.last <= matched) {
            if let Some(sent) = self.queue.pop_front() {
                self.bytes -= if mutated!(InFlightBytesNotReleased) { 0 } else { sent.bytes };
                count += 1;
                newest = sent.at;
            }
        }
        self.window.on_answered(count, newest, now, write_time);
    }

    /// Gives back what a burst made of its room.
    pub(crate) fn shrink(&mut self) {
        shrink(&mut self.queue, 4);
    }

    /// When the oldest unanswered append left.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.queue.front().map(|sent| sent.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_back_to_probe_forgets_what_was_in_flight() {
        // scenario 15: a byte counter that survives the change stalls replication for ever
        let mut peer = Peer::new(Index(1), Instant(0));
        peer.on_matched(Index(0), Instant(0), Duration::ZERO);
        let Progress::Replicate { in_flight, .. } = &mut peer.progress else { panic!("{peer:?}") };
        in_flight.add(Index(1), 1000, Instant(0));
        assert!(!in_flight.has_room(10, 1000));
        peer.probe(Index(1));
        peer.on_matched(Index(1), Instant(0), Duration::ZERO);
        let Progress::Replicate { in_flight, next } = &peer.progress else { panic!("{peer:?}") };
        assert!(in_flight.has_room(10, 1000));
        assert_eq!(*next, Index(2));
    }
}
