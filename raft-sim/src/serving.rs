//! How a leader must serve one peer: nothing is sent twice while it is under way, nothing is asked again and again, and where two logs part is found in a
//! round trip a term. Judged by what the leader sends and what it is answered; all that these rules protect is time, so nothing else would show it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use raft_core::{AppendOutcome, Index, Instant, Term};

use crate::checker::broken;
use crate::{Image, Violation};

/// What was seen of the appends to one peer, in one leadership.
#[derive(Debug, Default)]
pub(crate) struct Serving {
    /// Entries that were sent and are not answered, in the order in which they left.
    under_way: VecDeque<Sent>,
    /// Where the last append began, how often one began there without having been accepted, and since when.
    asked: Option<(Index, u32, Instant)>,
    /// How many probes in a row were rejected, each before the one before it.
    rejected: u32,
    rejected_at: Option<Index>,
    /// Its last answer was an acceptance: it is streamed to.
    is_streamed_to: bool,
    /// It began anew, and what the leader decided before may leave after that: nothing is noted until it was polled.
    is_unsettled: bool,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    last: Index,
    at: Instant,
    /// From then on it may be lost.
    due: Instant,
}

/// One place may be asked about so often within the leader's patience: once more if the answer is doubted, and a few times by chance.
const ASKED_MAX: u32 = 3;
/// Rejections beyond a term each: the end of the leader's log, the base, and one that the peer's log overtook.
const REJECTIONS_SPARE: u32 = 3;

impl Serving {
    /// An append leaves, for what comes after `prev` up to `last`. What has waited for longer than `patience` may be lost.
    pub(crate) fn on_append(
        &mut self,
        (prev, last): (Index, Index),
        now: Instant,
        patience: Duration,
    ) -> Result<(), Violation> {
        let (times, since) = match self.asked {
            Some((place, times, since)) if place == prev && now.since(since) < patience => {
                (times + 1, since)
            }
            _ => (1, now),
        };
        self.asked = Some((prev, times, since));
        if times > ASKED_MAX {
            let what = format!("it is asked about {prev} for the {times}th time since {since}");
            return broken("what was asked is not asked again at once", what);
        }
        if last == prev {
            return Ok(());
        }
        if self.is_unsettled {
            // It may be lost as soon as what left before it.
            self.under_way.push_back(Sent { last, at: now, due: Instant(0) });
            return Ok(());
        }
        if let Some(sent) = self.under_way.back().filter(|sent| sent.last > prev) {
            let is_overdue = self.under_way.front().is_some_and(|it| now >= it.due);
            if !is_overdue {
                let what =
                    format!("entries after {prev} leave again; {} left at {}", sent.last, sent.at);
                return broken("what is under way is not sent again", what);
            }
            self.under_way.clear();
        }
        self.under_way.push_back(Sent { last, at: now, due: now + patience });
        Ok(())
    }

    /// The peer answers.
    pub(crate) fn on_answer(&mut self, outcome: AppendOutcome, now: Instant) {
        match outcome {
            AppendOutcome::Accepted { matched } | AppendOutcome::Witnessed { matched } => {
                let mut is_overdue = false;
                while let Some(sent) = self.under_way.front().filter(|sent| sent.last <= matched) {
                    is_overdue |= now >= sent.due;
                    self.under_way.pop_front();
                }
                if is_overdue {
                    // It was taken for lost perhaps, and all that left after it; only that nothing shows while it is read from disk once more.
                    self.give_up();
                }
                self.asked = None;
                self.is_streamed_to = true;
                (self.rejected, self.rejected_at) = (0, None);
            }
            AppendOutcome::Rejected { prev, .. } => {
                let is_asked = self.asked.is_some_and(|(place, _, _)| place == prev);
                if is_asked && self.rejected_at.is_none_or(|before| prev < before) {
                    self.rejected += 1;
                    self.rejected_at = Some(prev);
                }
                // It may say that something was lost, or be old and say nothing.
                self.doubt();
            }
        }
    }

    /// What was sent may be lost, or is for another log.
    pub(crate) fn begin_anew(&mut self) {
        self.doubt();
        self.asked = None;
        (self.rejected, self.rejected_at) = (0, None);
    }

    fn doubt(&mut self) {
        self.is_streamed_to = false;
        self.give_up();
        self.is_unsettled = true;
    }

    fn give_up(&mut self) {
        self.under_way.iter_mut().for_each(|sent| sent.due = Instant(0));
    }

    /// Since when the oldest of what left last has been waiting for its answer; `None` if all is answered, or may be lost.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        self.under_way.front().filter(|sent| sent.due > Instant(0)).map(|sent| sent.at)
    }

    /// Whether something that was streamed waits for its answer.
    pub(crate) fn is_in_the_middle(&self) -> bool {
        self.is_streamed_to && self.waits_since().is_some()
    }

    /// The leader was polled: whatever it decided has left.
    pub(crate) fn settle(&mut self) {
        self.is_unsettled = false;
    }

    /// Whether it takes no more round trips than there are terms to find where two logs agree.
    pub(crate) fn judge_search(&self, own: &Image, peer: &Image) -> Result<(), Violation> {
        if self.rejected <= REJECTIONS_SPARE {
            return Ok(());
        }
        let terms = terms_of(own) + terms_of(peer);
        if self.rejected <= terms + REJECTIONS_SPARE {
            return Ok(());
        }
        let what = format!("{} probes were rejected; the logs have {terms} terms", self.rejected);
        broken("where logs part is found in a round trip a term", what)
    }
}

fn terms_of(log: &Image) -> u32 {
    let terms: BTreeSet<Term> = log.entries.iter().map(|entry| entry.term).collect();
    u32::try_from(terms.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raft_core::{Entries, Entry, LogPosition, Membership, Payload, Persist, Ticket};

    use super::*;

    const PATIENCE: Duration = Duration::from_micros(100);

    fn append(serving: &mut Serving, prev: u64, last: u64, at: u64) -> Option<&'static str> {
        let span = (Index(prev), Index(last));
        serving.on_append(span, Instant(at), PATIENCE).err().map(|it| it.rule)
    }

    fn accept(serving: &mut Serving, matched: u64, at: u64) {
        serving.on_answer(AppendOutcome::Accepted { matched: Index(matched) }, Instant(at));
    }

    fn reject(serving: &mut Serving, prev: u64) {
        let hint = LogPosition::ORIGIN;
        serving.on_answer(AppendOutcome::Rejected { prev: Index(prev), hint }, Instant(0));
    }

    #[test]
    fn entries_that_are_under_way_are_not_sent_again() {
        let rule = Some("what is under way is not sent again");
        let mut serving = Serving::default();
        assert_eq!(append(&mut serving, 0, 4, 10), None);
        assert_eq!(append(&mut serving, 4, 6, 11), None);
        // Half of it is durable there: the rest is on its way.
        accept(&mut serving, 5, 12);
        assert_eq!(append(&mut serving, 5, 6, 12), rule);
        // It may be lost, by its age, by a rejection, or by what broke.
        assert_eq!(append(&mut serving, 5, 6, 200), None);
        reject(&mut serving, 5);
        assert_eq!(append(&mut serving, 5, 6, 201), None);
        serving.settle();
        assert_eq!(append(&mut serving, 5, 6, 400), None);
        assert_eq!(append(&mut serving, 5, 6, 401), rule);
        serving.begin_anew();
        assert_eq!(append(&mut serving, 5, 6, 402), None);
    }

    #[test]
    fn what_left_after_something_that_was_taken_for_lost_may_be_sent_again() {
        let again = |answered_at| {
            let mut serving = Serving::default();
            assert_eq!(append(&mut serving, 0, 4, 10), None);
            assert_eq!(append(&mut serving, 4, 6, 100), None);
            accept(&mut serving, 4, answered_at);
            append(&mut serving, 4, 6, 120)
        };
        assert_eq!(again(109), Some("what is under way is not sent again"));
        assert_eq!(again(110), None);
    }

    #[test]
    fn one_question_is_not_asked_without_end() {
        let mut serving = Serving::default();
        for at in 0..3 {
            assert_eq!(append(&mut serving, 7, 7, at), None);
            reject(&mut serving, 7);
        }
        assert_eq!(
            append(&mut serving, 7, 7, 9),
            Some("what was asked is not asked again at once")
        );
        let mut serving = Serving::default();
        for beat in 0..100 {
            assert_eq!(append(&mut serving, 7, 7, beat * 100), None);
        }
    }

    #[test]
    fn a_search_takes_a_round_trip_a_term() {
        let log = |terms: &[u64]| {
            let mut image = Image::founding(Membership::of_voters([raft_core::NodeId(1)]));
            let entries = (1..).zip(terms).map(|(index, term)| Entry {
                term: Term(*term),
                index: Index(index),
                payload: Payload::Command(Bytes::new()),
            });
            let entries = Entries::try_from_vec(entries.collect()).expect("a run");
            let ticket = Ticket(1);
            let write =
                Persist { ticket, hard_state: None, reset: None, truncate_from: None, entries };
            image.write(&write).expect("it fits");
            image
        };
        let (own, peer) = (log(&[1, 1, 1, 3, 3, 3, 3, 3]), log(&[1, 1, 2, 2, 2, 2, 2, 2]));
        let mut serving = Serving::default();
        for prev in (0..8).rev() {
            let verdict = serving.judge_search(&own, &peer);
            let is_patient = serving.rejected <= 7;
            assert_eq!(verdict.is_ok(), is_patient, "{verdict:?}");
            append(&mut serving, prev, prev, 8 - prev);
            reject(&mut serving, prev);
            // What is said twice is heard once.
            reject(&mut serving, prev);
        }
        assert!(serving.judge_search(&own, &peer).is_err());
        accept(&mut serving, 2, 9);
        assert_eq!(serving.judge_search(&own, &peer), Ok(()));
    }
}
