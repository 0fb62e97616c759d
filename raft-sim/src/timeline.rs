//! What happened in a world, moment by moment: for timelines, for diagrams, and for whoever wants to look on. It decides nothing.

use std::collections::VecDeque;
use std::fmt;

use raft_core::{Action, Event, Input, Message, NodeId, RoleKind, Term};
use raft_node::SnapshotFrame;

use crate::words;

/// Something that happened. Its [`Display`](fmt::Display) is one line of a timeline: milliseconds, who, what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When, in virtual microseconds.
    pub at_us: u64,
    /// What kind of thing.
    pub kind: Kind,
    /// What, in words.
    pub text: String,
}

/// Kinds of moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message leaves.
    Sent(Passage),
    /// A message is lost: at once if it was never sent, or where it should have arrived.
    Lost(Passage),
    /// A message is handled.
    Arrived(Passage),
    /// A core is told something else, or wants something else done.
    Local {
        /// Whose.
        node: NodeId,
    },
    /// A core takes another role, or the same in another term.
    Role {
        /// Whose.
        node: NodeId,
        /// Which.
        role: RoleKind,
        /// In which term.
        term: Term,
    },
    /// Something happens to a node, or to all.
    Mark {
        /// What.
        mark: Mark,
        /// To whom; `None` if to all, or to none in particular.
        node: Option<NodeId>,
    },
}

/// The way of one message. A message that arrives twice arrives under one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Which message.
    pub number: u64,
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
}

/// What happens to nodes from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A process starts.
    Start,
    /// A process ends without notice.
    Crash,
    /// A disk is replaced by an empty one.
    Wipe,
    /// A process stops for a while.
    Pause,
    /// It goes on.
    Resume,
    /// Another fault begins.
    Fault,
    /// Faults of the network end.
    Heal,
    /// All faults are over, within the core.
    Calm,
    /// The rule that the run broke.
    Broken,
    /// Worth a line.
    Note,
}

impl Moment {
    /// A core is told something.
    pub fn of_input(at_us: u64, node: NodeId, input: &Input) -> Moment {
        Moment { at_us, kind: Kind::Local { node }, text: words::input(input) }
    }

    /// A core wants something done.
    pub fn of_action(at_us: u64, node: NodeId, action: &Action) -> Moment {
        let kind = match action {
            Action::Event(Event::RoleChanged { role, term }) => {
                Kind::Role { node, role: *role, term: *term }
            }
            _ => Kind::Local { node },
        };
        Moment { at_us, kind, text: words::action(action) }
    }

    /// What a core is when it starts: nothing that it does says so.
    pub fn of_start(at_us: u64, node: NodeId, role: RoleKind, term: Term) -> Moment {
        let text = format!("starts as {role} t{term}");
        Moment { at_us, kind: Kind::Role { node, role, term }, text }
    }

    /// A message leaves, is lost or arrives; `kind` says which. Why, for one that is lost.
    pub fn of_message(at_us: u64, kind: Kind, message: &Message, why: Option<&str>) -> Moment {
        Moment::on_the_way(at_us, kind, words::message(message), why)
    }

    /// What becomes of a snapshot's chunk on its way; and why, if it is lost.
    pub fn of_frame(at_us: u64, kind: Kind, frame: &SnapshotFrame, why: Option<&str>) -> Moment {
        Moment::on_the_way(at_us, kind, words::frame(frame), why)
    }

    fn on_the_way(at_us: u64, kind: Kind, text: String, why: Option<&str>) -> Moment {
        let text = match why {
            Some(why) => format!("{text} (lost: {why})"),
            None => text,
        };
        Moment { at_us, kind, text }
    }

    /// Whether it concerns one of `nodes`. What concerns all concerns each.
    pub fn concerns(&self, nodes: &[NodeId]) -> bool {
        match self.kind {
            Kind::Sent(way) | Kind::Lost(way) | Kind::Arrived(way) => {
                nodes.contains(&way.from) || nodes.contains(&way.to)
            }
            Kind::Local { node } | Kind::Role { node, .. } => nodes.contains(&node),
            Kind::Mark { node, .. } => node.is_none_or(|node| nodes.contains(&node)),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match self.kind {
            Kind::Sent(way) => format!("{} -> {}", way.from, way.to),
            Kind::Lost(way) => format!("{} -x {}", way.from, way.to),
            Kind::Arrived(way) => format!("{} <- {}", way.to, way.from),
            Kind::Local { node } | Kind::Role { node, .. } => node.to_string(),
            Kind::Mark { node: Some(node), .. } => format!("{node} **"),
            Kind::Mark { node: None, .. } => "*****".to_owned(),
        };
        let (ms, us) = (self.at_us / 1000, self.at_us % 1000);
        write!(f, "{ms:>8}.{us:03}  {who:<7} {}", self.text)
    }
}

/// The last moments of a run: as many as are wanted, however long it is.
#[derive(Clone, Debug)]
pub struct Window {
    most: usize,
    moments: VecDeque<Moment>,
}

impl Window {
    /// Keeps the last `most` moments.
    pub fn new(most: usize) -> Window {
        Window { most, moments: VecDeque::new() }
    }

    /// Adds one; forgets the oldest if there are too many.
    pub fn push(&mut self, moment: Moment) {
        if self.moments.len() >= self.most {
            self.moments.pop_front();
        }
        self.moments.push_back(moment);
    }

    /// The moments, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Moment> {
        self.moments.iter()
    }

    /// The last `most` of those that concern `nodes`; of all if `nodes` is empty.
    pub fn last_of(&self, nodes: &[NodeId], most: usize) -> Vec<&Moment> {
        let of = |moment: &&Moment| nodes.is_empty() || moment.concerns(nodes);
        let mut last: Vec<&Moment> = self.moments.iter().rev().filter(of).take(most).collect();
        last.reverse();
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at_us: u64, kind: Kind) -> Moment {
        Moment { at_us, kind, text: "Heartbeat t1".to_owned() }
    }

    #[test]
    fn a_line_says_when_who_and_what() {
        let way = Passage { number: 7, from: NodeId(1), to: NodeId(3) };
        let line = |kind| at(12_345, kind).to_string();
        assert_eq!(line(Kind::Sent(way)), "      12.345  1 -> 3  Heartbeat t1");
        assert_eq!(line(Kind::Lost(way)), "      12.345  1 -x 3  Heartbeat t1");
        assert_eq!(line(Kind::Arrived(way)), "      12.345  3 <- 1  Heartbeat t1");
        assert_eq!(line(Kind::Local { node: NodeId(2) }), "      12.345  2       Heartbeat t1");
    }

    #[test]
    fn a_window_keeps_the_last_and_finds_those_of_a_node() {
        let mut window = Window::new(3);
        for id in 1..=5 {
            window.push(at(id, Kind::Local { node: NodeId(id) }));
        }
        window.push(at(6, Kind::Mark { mark: Mark::Heal, node: None }));
        let times = |moments: Vec<&Moment>| moments.iter().map(|m| m.at_us).collect::<Vec<_>>();
        assert_eq!(times(window.iter().collect()), [4, 5, 6]);
        assert_eq!(times(window.last_of(&[NodeId(5)], 10)), [5, 6]);
        assert_eq!(times(window.last_of(&[], 2)), [5, 6]);
    }
}
