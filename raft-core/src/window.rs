//! How much may be under way to one peer: a window of messages and one of bytes, which follow the measured round trip.
//!
//! # Why not as much as possible
//!
//! What is under way beyond what the line and the peer's disk take up does not arrive sooner: it waits in a queue,
//! where nothing can be added to it. What waits at the leader instead leaves as one larger append, which costs one
//! message and one fsync.
//!
//! # The rule
//!
//! In the spirit of TCP Vegas (Brakmo and Peterson, 1995: delay tells of a queue before loss does) and of BBR (Cardwell
//! et al., 2016: a windowed minimum of the round trip is what the line itself takes, and rate times that minimum is
//! what it holds). In rounds of one round trip each, with
//!
//! * `rtt`, the least round trip measured in the round (one slow fsync is not a queue),
//! * `base`, the least of the last [`BASE_LIFETIME_MICROS`],
//! * `slack`, how much more than `base` is no queue yet: half of `base`, or what a write takes on the leader's own disk
//!   (an append that arrives during a write waits for it before its own), or [`SLACK_MIN_MICROS`], whichever is most,
//!
//! 1. `rtt <= base + slack`: no queue. The windows that were full grow: by an eighth, and if that goes well by a
//!    quarter, a half, and then the whole of themselves. They start there.
//! 2. `rtt > base + 2 slack`: a queue. Then the line passes on `used / rtt`, so that `used * (base + slack) / rtt` fills it with
//!    no more than `slack` of queue: the windows become that, in one step. Round trips of what left before are not counted.
//!    If all answers come so late for as long as `base`, the round is not waited for.
//! 3. In between they stay.
//! 4. They never fall below [`MESSAGES_MIN`] and [`BYTES_MIN`]. If there still is a "queue" at that size, it can not be
//!    ours: the line has become longer, and `rtt` is the new `base`. So it is also measured anew when `base` has not
//!    been seen for its lifetime.
//!
//! Integers, and no clock but the caller's: equal inputs give equal windows.

use core::time::Duration;

use crate::Instant;

/// Two messages: one on its way while the other is being written.
pub(crate) const MESSAGES_MIN: u64 = 2;
/// Less would cost more in messages than it saves in waiting.
pub(crate) const BYTES_MIN: usize = 32 << 10;
/// What schedulers and timers alone may add to a round trip.
const SLACK_MIN_MICROS: u64 = 500;
/// For how long the least round trip is believed.
const BASE_LIFETIME_MICROS: u64 = 10_000_000;
/// The windows grow by an eighth of themselves, shifted left by at most this.
const STREAK_MAX: u32 = 3;
/// Windows are not believed beyond this, whatever is measured; the configured bounds are far below.
const SIZE_MAX: u64 = 1 << 40;

/// One of the two windows.
#[derive(Clone, Copy, Debug)]
struct Size {
    min: u64,
    now: u64,
    /// The most that was under way in this round.
    used: u64,
}

impl Size {
    fn at_least(min: u64) -> Size {
        Size { min, now: min, used: 0 }
    }

    fn grow(&mut self, streak: u32) {
        if self.used >= self.now {
            let step = ((self.now >> STREAK_MAX) << streak).max(1);
            self.now = (self.now + step).min(SIZE_MAX);
        }
    }

    fn shrink(&mut self, target: u64, rtt: u64) {
        let fitting = u128::from(self.used) * u128::from(target) / u128::from(rtt.max(1));
        let fitting = u64::try_from(fitting).unwrap_or(SIZE_MAX);
        self.now = self.now.min(fitting).max(self.min);
    }
}

/// The windows of one peer.
#[derive(Debug)]
pub(crate) struct Window {
    messages: Size,
    bytes: Size,
    /// Microseconds, and when they were measured.
    base: Option<(u64, Instant)>,
    streak: u32,
    /// The sizes to go back to once `base` is measured anew.
    resume: Option<(u64, u64)>,
    /// How many messages were sent and answered.
    sent: u64,
    answered: u64,
    /// Answers to messages before this number say nothing of the present windows.
    counts_from: u64,
    /// The round ends with the answer to a message of this number or later.
    round_end: Option<u64>,
    round_rtt: u64,
    /// Since when every answer has come late, and the least round trip of these.
    late: Option<(Instant, u64)>,
}

impl Window {
    pub(crate) fn new() -> Window {
        Window {
            messages: Size::at_least(MESSAGES_MIN),
            bytes: Size::at_least(BYTES_MIN as u64),
            base: None,
            streak: STREAK_MAX,
            resume: None,
            sent: 0,
            answered: 0,
            counts_from: 0,
            round_end: None,
            round_rtt: u64::MAX,
            late: None,
        }
    }

    /// How many messages may be under way.
    pub(crate) fn messages(&self) -> usize {
        usize::try_from(self.messages.now).unwrap_or(usize::MAX)
    }

    /// How many bytes may be under way.
    pub(crate) fn bytes(&self) -> usize {
        usize::try_from(self.bytes.now).unwrap_or(usize::MAX)
    }

    /// A message leaves; with it, this much is under way.
    pub(crate) fn on_sent(&mut self, messages: usize, bytes: usize) {
        self.sent += 1;
        self.messages.used = self.messages.used.max(messages as u64);
        self.bytes.used = self.bytes.used.max(bytes as u64);
    }

    /// The `count` oldest messages under way are answered; the newest of them left at `sent_at`. `write_time` is what a
    /// write takes on the leader's own disk.
    pub(crate) fn on_answered(
        &mut self,
        count: u64,
        sent_at: Instant,
        now: Instant,
        write_time: Duration,
    ) {
        self.answered += count;
        let newest = self.answered.saturating_sub(1);
        if count == 0 || newest < self.counts_from {
            return;
        }
        let rtt = now.micros_since(sent_at);
        if self.resume.is_none() && self.base.is_none_or(|(base, _)| rtt <= base) {
            self.base = Some((rtt, now));
        }
        self.round_rtt = self.round_rtt.min(rtt);
        let write_time = micros(write_time);
        if let Some(least) = self.late_for_a_round(rtt, now, write_time) {
            self.round_rtt = least;
            self.end_round(now, write_time);
            return;
        }
        let end = *self.round_end.get_or_insert(self.sent);
        // A round is over when what left after its begin comes back, or when nothing is under way any more.
        if newest >= end || self.answered == self.sent {
            self.end_round(now, write_time);
        }
    }

    /// A round that a queue draws out would be told of it too late: if all answers were late for as long as a round
    /// should take, that is enough; returns the least of them.
    fn late_for_a_round(&mut self, rtt: u64, now: Instant, write_time: u64) -> Option<u64> {
        let (base, _) = self.base.filter(|_| self.resume.is_none())?;
        if rtt <= base.saturating_add(slack(base, write_time).saturating_mul(2)) {
            self.late = None;
            return None;
        }
        let (since, least) = self.late.unwrap_or((now, rtt));
        self.late = Some((since, least.min(rtt)));
        (now.micros_since(since) >= base).then_some(least.min(rtt))
    }

    fn end_round(&mut self, now: Instant, write_time: u64) {
        let rtt = self.round_rtt;
        if let Some((messages, bytes)) = self.resume.take() {
            self.base = Some((rtt, now));
            (self.messages.now, self.bytes.now) = (messages, bytes);
        }
        let (base, measured_at) = self.base.unwrap_or((rtt, now));
        let slack = slack(base, write_time);
        if rtt <= base.saturating_add(slack) {
            self.messages.grow(self.streak);
            self.bytes.grow(self.streak);
            self.streak = (self.streak + 1).min(STREAK_MAX);
        } else {
            self.streak = 0;
            if rtt > base.saturating_add(slack.saturating_mul(2)) {
                self.shrink(base.saturating_add(slack), rtt, now);
            }
        }
        if now.micros_since(measured_at) > BASE_LIFETIME_MICROS {
            self.measure_base();
        }
        self.begin_round();
    }

    fn shrink(&mut self, target: u64, rtt: u64, now: Instant) {
        let is_least = self.is_least_used();
        self.messages.shrink(target, rtt);
        self.bytes.shrink(target, rtt);
        self.counts_from = self.sent;
        if is_least {
            self.base = Some((rtt, now));
        }
    }

    /// Whether so little was under way that no queue can be of our making.
    fn is_least_used(&self) -> bool {
        self.messages.used <= 1
            || (self.messages.used <= self.messages.min && self.bytes.used <= self.bytes.min)
    }

    /// Lets the queue drain for one round, to see how long the line is without it.
    fn measure_base(&mut self) {
        self.resume = Some((self.messages.now, self.bytes.now));
        (self.messages.now, self.bytes.now) = (self.messages.min, self.bytes.min);
        self.counts_from = self.sent;
    }

    fn begin_round(&mut self) {
        self.round_end = None;
        self.round_rtt = u64::MAX;
        self.late = None;
        (self.messages.used, self.bytes.used) = (0, 0);
    }
}

/// How much more than `base` a round trip may take before it tells of a queue.
fn slack(base: u64, write_time: u64) -> u64 {
    (base / 2).max(write_time).max(SLACK_MIN_MICROS)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_LEAST: u64 = BYTES_MIN as u64;
    use alloc::collections::VecDeque;
    use proptest::prelude::*;

    /// A line of a given rate and delay, and a sender that always has something to send.
    struct Line {
        window: Window,
        now: u64,
        /// Bytes a millisecond, and microseconds there and back.
        rate: u64,
        delay: u64,
        /// When the last message will have passed the narrow place.
        busy_until: u64,
        /// (sent at, answered at, bytes)
        under_way: VecDeque<(u64, u64, u64)>,
        bytes: u64,
        delivered: u64,
    }

    const MESSAGE_MAX: u64 = 512 << 10;

    impl Line {
        fn new(rate: u64, delay: u64) -> Line {
            Line {
                window: Window::new(),
                now: 0,
                rate,
                delay,
                busy_until: 0,
                under_way: VecDeque::new(),
                bytes: 0,
                delivered: 0,
            }
        }

        /// Sends all that may leave, then lets the oldest answer come.
        fn step(&mut self) {
            while self.under_way.len() < self.window.messages()
                && self.bytes < self.window.bytes() as u64
            {
                let size = MESSAGE_MAX.min(self.window.bytes() as u64 / 4);
                self.bytes += size;
                self.busy_until = self.busy_until.max(self.now) + size * 1000 / self.rate;
                let answered_at = self.busy_until + self.delay;
                self.under_way.push_back((self.now, answered_at, size));
                self.window.on_sent(self.under_way.len(), usize::try_from(self.bytes).unwrap());
            }
            let (sent_at, answered_at, size) = self.under_way.pop_front().unwrap();
            self.now = self.now.max(answered_at);
            self.bytes -= size;
            self.delivered += size;
            self.window.on_answered(1, Instant(sent_at), Instant(self.now), Duration::ZERO);
        }

        fn run(&mut self, micros: u64) {
            let end = self.now + micros;
            while self.now < end {
                self.step();
            }
        }

        /// What the line holds without a queue.
        fn product(&self) -> u64 {
            self.rate * self.delay / 1000
        }

        /// The share of the line's rate that is used over this time, in percent.
        fn utilization(&mut self, micros: u64) -> u64 {
            let (before, begun) = (self.delivered, self.now);
            self.run(micros);
            (self.delivered - before) * 1000 * 100 / ((self.now - begun) * self.rate)
        }

        /// How long what is sent now would wait, in microseconds.
        fn queue(&self) -> u64 {
            self.busy_until.saturating_sub(self.now)
        }

        /// The longest queue that is within the rule: twice the slack, and what fills the least windows.
        fn queue_max(&self) -> u64 {
            let slack = (self.delay + BYTES_LEAST * 1000 / self.rate).max(1000);
            2 * slack + 2 * BYTES_LEAST * 1000 / self.rate
        }
    }

    #[test]
    fn a_fast_long_line_is_filled_and_not_flooded() {
        // 100 MB/s over 100 ms: ten megabytes under way.
        let mut line = Line::new(100_000, 100_000);
        line.run(8_000_000);
        assert!(line.utilization(5_000_000) >= 90, "{:?}", line.window);
        assert!(line.window.bytes() as u64 <= 3 * line.product(), "{:?}", line.window);
    }

    #[test]
    fn a_slow_line_gets_a_small_window() {
        // 1 MB/s over 10 ms: ten kilobytes under way, less than the least window.
        let mut line = Line::new(1_000, 10_000);
        line.run(5_000_000);
        assert!(line.window.bytes() as u64 <= 3 * BYTES_LEAST, "{:?}", line.window);
        assert!(line.utilization(5_000_000) >= 90);
    }

    #[test]
    fn a_line_that_becomes_longer_or_slower_is_followed() {
        let mut line = Line::new(50_000, 10_000);
        line.run(5_000_000);
        line.delay = 80_000;
        line.run(15_000_000);
        assert!(line.utilization(5_000_000) >= 80, "longer: {:?}", line.window);
        line.rate = 2_000;
        line.run(5_000_000);
        assert!(line.queue() <= line.queue_max(), "slower: {} {:?}", line.queue(), line.window);
    }

    #[test]
    fn a_pause_of_the_sender_changes_nothing() {
        let mut line = Line::new(50_000, 20_000);
        line.run(5_000_000);
        let before = line.window.bytes();
        while let Some((sent_at, at, size)) = line.under_way.pop_front() {
            line.now = line.now.max(at);
            line.bytes -= size;
            line.window.on_answered(1, Instant(sent_at), Instant(line.now), Duration::ZERO);
        }
        line.now += 60_000_000;
        for _ in 0..100 {
            // One small message at a time.
            line.window.on_sent(1, 100);
            line.now += 21_000;
            let sent_at = Instant(line.now - 21_000);
            line.window.on_answered(1, sent_at, Instant(line.now), Duration::ZERO);
        }
        assert!(line.window.bytes() >= before / 2, "{before} {:?}", line.window);
    }

    #[test]
    fn what_a_write_takes_is_no_queue() {
        // A peer answers at once or after a write of 5 ms: as long as the leader's own disk is as slow, nothing shrinks.
        let mut window = Window::new();
        let mut now = 0;
        for round in 0..200u64 {
            window.on_sent(window.messages(), 1000);
            now += if round % 20 == 0 { 300 } else { 5_000 };
            let sent_at = if round % 20 == 0 { now - 300 } else { now - 5_000 };
            window.on_answered(1, Instant(sent_at), Instant(now), Duration::from_millis(5));
        }
        assert!(window.messages() > 64, "{window:?}");
    }

    proptest! {
        #[test]
        fn any_line_is_filled_without_a_long_queue(rate in 500u64..200_000, delay in 100u64..150_000) {
            let mut line = Line::new(rate, delay);
            line.run(20_000_000);
            prop_assert!(line.utilization(3_000_000) >= 75, "{:?}", line.window);
            // Right after a cut the queue may be as long as a round of growth made it; the windows are never beyond that.
            let held = rate * (delay + line.queue_max()) / 1000;
            prop_assert!(line.window.bytes() as u64 <= 2 * held + 2 * BYTES_LEAST, "{} {:?}", held, line.window);
            prop_assert!(line.window.messages() as u64 >= MESSAGES_MIN);
        }

        #[test]
        fn nothing_that_is_measured_breaks_the_windows(
            steps in proptest::collection::vec((0usize..300, 0usize..1 << 24, 0u64..4, any::<u64>(), any::<u64>(), any::<u64>()), 1..200),
        ) {
            let mut window = Window::new();
            for (messages, bytes, count, sent_at, now, write_time) in steps {
                window.on_sent(messages, bytes);
                let count = count.min(window.sent - window.answered);
                window.on_answered(count, Instant(sent_at), Instant(now), Duration::from_micros(write_time));
                prop_assert!(window.messages.now >= MESSAGES_MIN && window.messages.now <= SIZE_MAX);
                prop_assert!(window.bytes.now >= BYTES_LEAST && window.bytes.now <= SIZE_MAX);
            }
        }
    }
}
