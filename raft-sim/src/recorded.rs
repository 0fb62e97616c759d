//! A recording of one node, lived again: its core is told what it was told then, and the timeline says what it did, in the words of the
//! simulator's timelines.
//!
//! A recording holds what went in, not what came out. That the actions are those of then shows in two ways: two cores that live it side by side must do
//! the same, and neither may be told that something is done which it never asked for.

use raft_core::recording::{Record, Replay, ReplayError, ReplayedStep};
use raft_core::{HandleError, Input, NodeId, Raft};

use crate::Observer;
use crate::timeline::{Kind, Mark, Moment, Passage};

/// What came of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Inputs.
    pub inputs: u64,
    /// Actions.
    pub actions: u64,
    /// Messages of peers that the core refused, then as now.
    pub refused: u64,
    /// What can not have happened to this core: it was replayed by another version of the program, or the file is damaged.
    pub contradictions: Vec<String>,
    /// The file ends in the middle of a record: its writer was cut off.
    pub is_cut_off: bool,
}

/// No more contradictions than this are told: after the first, the core is another.
const CONTRADICTIONS_MAX: usize = 20;

/// Lives a recording again, and tells `observer` of every moment. Times are those of the driver's clock, from the start of the recording on.
///
/// # Errors
/// [`ReplayError`] if these bytes do not begin a recording, or are damaged.
pub fn replay(bytes: &[u8], observer: Observer<'_>) -> Result<Replayed, ReplayError> {
    let mut one = Replay::new(bytes)?;
    let mut other = Replay::new(bytes)?;
    let mut life = Life::begin(bytes, one.raft(), observer)?;
    loop {
        match (one.next(), other.next()) {
            (None, _) | (_, None) => return Ok(life.result),
            (Some(Err(raft_core::recording::RecordingError::Truncated { .. })), _) => {
                life.result.is_cut_off = true;
                return Ok(life.result);
            }
            (Some(Err(error)), _) | (_, Some(Err(error))) => return Err(error.into()),
            (Some(Ok(step)), Some(Ok(again))) => {
                if step != again {
                    life.contradict("the same inputs gave other actions");
                }
                life.live(&step);
            }
        }
    }
}

struct Life<'a> {
    node: NodeId,
    /// When it began, and the time of the record at hand.
    origin: u64,
    at_us: u64,
    messages: u64,
    result: Replayed,
    observer: Observer<'a>,
}

impl<'a> Life<'a> {
    fn begin(bytes: &[u8], raft: &Raft, observer: Observer<'a>) -> Result<Life<'a>, ReplayError> {
        let recording = raft_core::recording::Recording::read(bytes)?;
        let start = recording.start();
        let node = start.config.id;
        let origin = start.now.0;
        let mut life =
            Life { node, origin, at_us: 0, messages: 0, result: Replayed::default(), observer };
        let text = crate::starting::starts(None, &start.restored);
        life.tell(Kind::Mark { mark: Mark::Start, node: Some(node) }, text);
        let term = start.restored.log.hard_state.term;
        (life.observer)(Moment::of_start(0, node, raft.status().role, term));
        Ok(life)
    }

    fn tell(&mut self, kind: Kind, text: String) {
        (self.observer)(Moment { at_us: self.at_us, kind, text });
    }

    fn contradict(&mut self, what: &str) {
        self.tell(Kind::Mark { mark: Mark::Broken, node: None }, what.to_owned());
        if self.result.contradictions.len() < CONTRADICTIONS_MAX {
            let (ms, us) = (self.at_us / 1000, self.at_us % 1000);
            self.result.contradictions.push(format!("at {ms}.{us:03} ms: {what}"));
        }
    }

    /// A message's way; numbered, since a recording of one node knows one end of each.
    fn way(&mut self, from: NodeId, to: NodeId) -> Passage {
        self.messages += 1;
        Passage { number: self.messages, from, to }
    }

    fn live(&mut self, step: &ReplayedStep) {
        let node = self.node;
        if let Record::Input { now, input } = &step.record {
            self.at_us = now.0.saturating_sub(self.origin);
            self.result.inputs += 1;
            if let Input::Message { from, message, .. } = input {
                let kind = Kind::Arrived(self.way(*from, node));
                (self.observer)(Moment::of_message(self.at_us, kind, message, None));
            } else {
                (self.observer)(Moment::of_input(self.at_us, node, input));
            }
        }
        match &step.outcome {
            Ok(()) => {}
            Err(error @ HandleError::Peer { .. }) => {
                self.result.refused += 1;
                self.tell(Kind::Local { node }, format!("refuses that: {error}"));
            }
            Err(error @ HandleError::Caller(_)) => self.contradict(&error.to_string()),
        }
        for action in &step.actions {
            self.result.actions += 1;
            if let raft_core::Action::Send { to, message } = action {
                let kind = Kind::Sent(self.way(node, *to));
                (self.observer)(Moment::of_message(self.at_us, kind, message, None));
            } else {
                (self.observer)(Moment::of_action(self.at_us, node, action));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::recording::Recorder;
    use raft_core::{Config, Instant, Membership, Restored, Ticket};

    /// A single voter that elects itself; `extra` is recorded at the end, and not told.
    fn recording(extra: Option<Input>) -> Vec<u8> {
        let restored = Restored::founding(Membership::of_voters([NodeId(1)]));
        let (config, start) = (Config::new(NodeId(1)), Instant(5_000));
        let mut recorder = Recorder::new(&config, 7, start, &restored);
        let mut raft = Raft::new(config, 7, start, restored).expect("a core");
        let mut now = start;
        for _ in 0..20 {
            now = raft.poll_timeout().unwrap_or(now).max(now);
            recorder.record(now, &Input::Timeout);
            raft.handle(now, Input::Timeout).expect("its timer");
            let mut done = Vec::new();
            while let Some(action) = raft.poll_action() {
                if let raft_core::Action::Persist(write) = action {
                    done.push(Input::Persisted(write.ticket));
                }
            }
            recorder.drained();
            for input in done {
                recorder.record(now, &input);
                raft.handle(now, input).expect("a report");
            }
        }
        if let Some(input) = extra {
            recorder.record(now, &input);
        }
        recorder.take()
    }

    fn lines(bytes: &[u8]) -> (Result<Replayed, ReplayError>, Vec<String>) {
        let mut lines = Vec::new();
        let result = replay(bytes, &mut |moment| lines.push(moment.to_string()));
        (result, lines)
    }

    #[test]
    fn a_recording_is_told_in_the_words_of_timelines() {
        let (result, lines) = lines(&recording(None));
        let replayed = result.expect("it can be replayed");
        assert_eq!(replayed.contradictions, Vec::<String>::new());
        assert!(!replayed.is_cut_off && replayed.actions > 3);
        assert!(lines[0].contains("1 **    starts: t0"), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("becomes leader t1")), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("its timer fires")), "{lines:?}");
    }

    #[test]
    fn what_the_core_never_asked_for_contradicts_it() {
        let (result, _) = lines(&recording(Some(Input::Persisted(Ticket(4711)))));
        assert_eq!(result.expect("it can be read").contradictions.len(), 1);
    }

    #[test]
    fn a_recording_that_was_cut_off_is_lived_as_far_as_it_goes() {
        let whole = recording(None);
        let start = raft_core::recording::Recording::read(&whole).expect("a start").offset();
        let mut cut_off = 0;
        for end in start..whole.len() {
            let (result, _) = lines(&whole[..end]);
            cut_off += u64::from(result.expect("sound as far as it goes").is_cut_off);
        }
        assert!(cut_off > 0);
        assert!(lines(&whole[..start - 1]).0.is_err());
        assert!(lines(b"something else").0.is_err());
    }
}
