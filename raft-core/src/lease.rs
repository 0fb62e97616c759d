//! Lease reads (dissertation §6.4.1): answering reads without asking, for as long as nobody else can have been elected.
//!
//! # Why it is safe, and when it is not
//!
//! A member that hears from a leader promises it, for one election timeout on its own clock, to vote for nobody else
//! ([`Promise`]). The leader reckons from when the heartbeat *left*, which was before that promise began; so as long as
//! a quorum has answered heartbeats that left less than an election timeout ago, no other quorum can have elected
//! anybody. Clocks need not agree, only run at about the same rate: the lease is cut by the configured drift, and if
//! clocks drift more, reads may be stale.
//!
//! What would break the promise is dealt with one by one. A member that restarts has forgotten to whom it promised, so
//! it votes for nobody for one election timeout. An election that the leader itself asks for ignores promises; and
//! since that order may arrive at any later time, a leader that ever gave it serves no lease for the rest of its term.
//! A pause between two inputs shows as a gap in time, and the lease begins anew; a clock that stood still (a suspended
//! machine) does not, which is what [`Input::ClockSuspect`](crate::Input::ClockSuspect) is for. Whenever there is no
//! lease, reads ask a quorum.

use alloc::collections::VecDeque;
use core::time::Duration;

use crate::role::{Leader, Role};
use crate::{Config, Instant, NodeId, Raft, StorageHealth, Term};

/// What a leader remembers of its heartbeats, and whether it may use it.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// When the heartbeat of each context left, for those that are recent enough to matter.
    sent: VecDeque<(u64, Instant)>,
    /// Set for the rest of the term once another member was asked to campaign.
    is_forsworn: bool,
}

impl Lease {
    pub(crate) fn note_sent(&mut self, context: u64, now: Instant, window: Duration) {
        while self.sent.front().is_some_and(|(_, at)| now.since(*at) > window) {
            self.sent.pop_front();
        }
        self.sent.push_back((context, now));
    }

    /// When the heartbeat of this context left, if that is recent.
    pub(crate) fn sent_at(&self, context: u64) -> Option<Instant> {
        let place = self.sent.binary_search_by_key(&context, |(context, _)| *context).ok()?;
        self.sent.get(place).map(|(_, at)| *at)
    }

    pub(crate) fn forswear(&mut self) {
        self.is_forsworn = !mutated!(LeaseKeptWhileHandingOver);
    }

    pub(crate) fn is_forsworn(&self) -> bool {
        self.is_forsworn
    }
}

/// What a member owes to the leader that it heard last: no vote for anybody else until then. It outlives changes of
/// role and term.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Promise {
    /// To whom; `None` after a restart, which forgets that.
    pub(crate) to: Option<NodeId>,
    pub(crate) until: Instant,
}

impl Promise {
    /// It may have promised its vote before it went down; it no longer knows.
    pub(crate) fn after_restart(config: &Config, term: Term, now: Instant) -> Promise {
        let may_have_promised = config.lease.is_some() && term > Term(0);
        let is_kept = may_have_promised && !mutated!(PromiseForgottenByARestart);
        let lasts = if is_kept { config.election_timeout } else { Duration::ZERO };
        Promise { to: None, until: now + lasts }
    }

    pub(crate) fn holds(&self, now: Instant) -> bool {
        now < self.until
    }
}

impl Raft {
    /// Until when reads may be answered without asking; `None` if there is no lease.
    pub fn lease_until(&self) -> Option<Instant> {
        let Role::Leader(leader) = &self.role else { return None };
        let drift = self.config.lease?.clock_drift_max_ppm;
        let drift = if mutated!(LeaseWithoutDrift) { 0 } else { drift };
        let is_stalled = self.health == StorageHealth::Stalled && !mutated!(LeaseOnAStalledDisk);
        let hands_over = leader.transfer.is_some() && !mutated!(LeaseUntilTheTargetIsTold);
        if leader.lease.is_forsworn() || hands_over || is_stalled {
            return None;
        }
        let began = self.quorum_answered(leader)?;
        let timeout = u64::try_from(self.config.election_timeout.as_micros()).unwrap_or(u64::MAX);
        let length = u128::from(timeout) * u128::from(1_000_000 - drift.min(1_000_000)) / 1_000_000;
        let until = began + Duration::from_micros(u64::try_from(length).unwrap_or(u64::MAX));
        // Judged whenever it is used, not from time to time: it may end between two checks (scenario 23).
        (self.now < until || mutated!(LeaseEndsAtTheNextCheck)).then_some(until)
    }

    /// The latest time such that a quorum has answered heartbeats that left then or later.
    fn quorum_answered(&self, leader: &Leader) -> Option<Instant> {
        let (id, now) = (self.config.id, self.now);
        let answered = |node: NodeId| {
            if node == id {
                now
            } else if self.stores.counts(self.log.membership(), node) {
                leader.peers.get(node).map_or(Instant(0), |peer| peer.lease_from)
            } else {
                Instant(0)
            }
        };
        let began = crate::quorum::quorum_reached(self.log.membership(), answered);
        (began > Instant(0)).then_some(began)
    }

    /// Time may not have been what it seemed: forgets every answer to a heartbeat that left before now.
    pub(crate) fn on_clock_suspect(&mut self) {
        if let Role::Leader(leader) = &mut self.role {
            leader.lease.sent.clear();
            for (_, peer) in leader.peers.iter_mut() {
                peer.lease_from = Instant(0);
            }
        }
    }

    /// A leader is to be back within a heartbeat interval. If it was away for longer, it was paused (scenario 24).
    pub(crate) fn detect_pause(&mut self, now: Instant) {
        if self.config.lease.is_some()
            && now.since(self.now) > self.config.heartbeat_interval * 2
            && !mutated!(LeaseOutlivesAPause)
        {
            self.on_clock_suspect();
        }
    }

    /// Whether a leader other than `asker` has this member's promise: then an election would only disturb (dissertation
    /// §4.2.3), and a vote would break the leader's lease. An asker whom this member took for the leader evidently
    /// leads no more (scenario 6).
    pub(crate) fn has_promised_another(&self, asker: NodeId) -> bool {
        if mutated!(NoLeaderStickiness) {
            return false;
        }
        let is_another = self.promise.to != Some(asker) || mutated!(RecognizedLeaderRefused);
        matches!(self.role, Role::Leader(_)) || (self.promise.holds(self.now) && is_another)
    }
}
