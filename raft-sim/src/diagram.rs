//! A message diagram as SVG: nodes as columns, time downwards, messages as arrows, and what happened to whom. One moment is one row, so that no
//! two texts collide; long silences are short. Hovering shows what was cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use raft_core::{NodeId, RoleKind};

use crate::timeline::{Kind, Mark, Moment, Passage};

/// Draws the last `rows` of `moments`. What comes before them says in which role each node begins.
pub fn draw(title: &str, moments: &[&Moment], rows: usize) -> String {
    let first = moments.len().saturating_sub(rows);
    let (before, drawn) = moments.split_at(first);
    let mut states: BTreeMap<NodeId, State> = BTreeMap::new();
    for moment in moments {
        for node in nodes_of(moment) {
            states.entry(node).or_insert(State::Down);
        }
    }
    for moment in before {
        follow(&mut states, moment);
    }
    let columns = states.keys().enumerate().map(|(place, node)| (*node, place)).collect();
    let layout = Layout::new(columns, drawn);
    let mut page = Page { layout, svg: String::new() };
    page.draw_frame(title);
    page.draw_lifelines(states, drawn);
    page.draw_messages(drawn);
    page.draw_texts(drawn);
    page.draw_names();
    page.finish()
}

/// What a node is, for the color of its line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Down,
    Paused(RoleKind),
    Up(RoleKind),
}

impl State {
    fn color(self) -> &'static str {
        match self {
            State::Down => "none",
            State::Paused(_) => "#c9b3e6",
            State::Up(role) => role_color(role),
        }
    }
}

fn role_color(role: RoleKind) -> &'static str {
    match role {
        RoleKind::Follower => "#9db8d9",
        RoleKind::Learner => "#a8d5d5",
        RoleKind::Witness => "#c9c9c9",
        RoleKind::Outsider => "#e4e4e4",
        RoleKind::PreCandidate => "#f2d479",
        RoleKind::Candidate => "#f0a04b",
        RoleKind::Leader => "#5cb85c",
    }
}

const LEGEND: [(RoleKind, &str); 7] = [
    (RoleKind::Leader, "leader"),
    (RoleKind::Candidate, "candidate"),
    (RoleKind::PreCandidate, "pre-candidate"),
    (RoleKind::Follower, "follower"),
    (RoleKind::Learner, "learner"),
    (RoleKind::Witness, "witness"),
    (RoleKind::Outsider, "outsider"),
];

/// Follows what a node is.
fn follow(states: &mut BTreeMap<NodeId, State>, moment: &Moment) {
    match moment.kind {
        Kind::Role { node, role, .. } => {
            states.insert(node, State::Up(role));
        }
        Kind::Mark { mark, node: Some(node) } => {
            let state = states.entry(node).or_insert(State::Down);
            *state = match (mark, *state) {
                (Mark::Start, _) => State::Up(RoleKind::Follower),
                (Mark::Crash | Mark::Wipe, _) => State::Down,
                (Mark::Pause, State::Up(role)) => State::Paused(role),
                (Mark::Resume, State::Paused(role)) => State::Up(role),
                (_, state) => state,
            };
        }
        // Whoever is paused then may go on.
        Kind::Mark { mark: Mark::Calm, .. } => {
            for state in states.values_mut() {
                if let State::Paused(role) = *state {
                    *state = State::Up(role);
                }
            }
        }
        _ => {}
    }
}

fn nodes_of(moment: &Moment) -> impl Iterator<Item = NodeId> {
    let (one, other) = match moment.kind {
        Kind::Sent(way) | Kind::Lost(way) | Kind::Arrived(way) => (Some(way.from), Some(way.to)),
        Kind::Local { node } | Kind::Role { node, .. } => (Some(node), None),
        Kind::Mark { node, .. } => (node, None),
    };
    one.into_iter().chain(other)
}

/// What is worth a text: the rest is a dot that tells when it is pointed at.
fn is_told(moment: &Moment) -> bool {
    let dull = [
        "its timer",
        "is asked for read",
        "is asked to append",
        "write #",
        "answers",
        "has applied",
    ];
    match moment.kind {
        Kind::Local { .. } => !dull.iter().any(|start| moment.text.starts_with(start)),
        Kind::Arrived(_) => false,
        _ => true,
    }
}

/// Of a moment's row. What a message says stands above its arrow, which takes a little more.
fn height(moment: &Moment) -> u64 {
    match moment.kind {
        Kind::Sent(_) | Kind::Lost(_) => ROW + 5,
        _ if is_told(moment) => ROW,
        _ => DOT_ROW,
    }
}

const ROW: u64 = 15;
const DOT_ROW: u64 = 6;
const TOP: u64 = 132;
const LEFT: u64 = 130;
/// Of one letter.
const LETTER: u64 = 7;

/// Where everything stands.
struct Layout {
    columns: BTreeMap<NodeId, usize>,
    spacing: u64,
    /// Of each moment.
    y: Vec<u64>,
    width: u64,
    height: u64,
}

impl Layout {
    fn new(columns: BTreeMap<NodeId, usize>, drawn: &[&Moment]) -> Layout {
        let count = columns.len().max(1) as u64;
        let spacing = (1500 / count).clamp(150, 280);
        let mut y = Vec::with_capacity(drawn.len());
        let mut at = TOP;
        let mut last: Option<u64> = None;
        for moment in drawn {
            let silence = moment.at_us.saturating_sub(last.unwrap_or(moment.at_us));
            let gap = if silence > 0 { (silence / 2_000).clamp(2, 18) } else { 0 };
            at += gap + height(moment);
            last = Some(moment.at_us);
            y.push(at);
        }
        let width = LEFT + (count - 1) * spacing + 460;
        Layout { columns, spacing, y, width, height: at + 60 }
    }

    fn x(&self, node: NodeId) -> u64 {
        let place = self.columns.get(&node).copied().unwrap_or(0) as u64;
        LEFT + 30 + place * self.spacing
    }

    fn bottom(&self) -> u64 {
        self.height - 30
    }
}

struct Page {
    layout: Layout,
    svg: String,
}

impl Page {
    fn put(&mut self, line: &str) {
        self.svg.push_str(line);
        self.svg.push('\n');
    }

    fn text(&mut self, (x, y): (u64, u64), class: &str, text: &str, most: usize) {
        let short: String = text.chars().take(most).collect();
        let end = if short.len() < text.len() { "…" } else { "" };
        let (short, title) = (escape(&short), escape(text));
        self.put(&format!(
            "<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{short}{end}<title>{title}</title></text>"
        ));
    }

    /// The title and the legend.
    fn draw_frame(&mut self, title: &str) {
        let (width, height) = (self.layout.width, self.layout.height);
        self.put(&format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">"
        ));
        self.put(STYLE);
        self.put(&format!("<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>"));
        let letters = ((width - 40) / (LETTER + 1)).max(40) as usize;
        let letter: Vec<char> = title.chars().collect();
        for (place, line) in letter.chunks(letters).take(3).enumerate() {
            let line: String = line.iter().collect();
            let class = if place == 0 { "title" } else { "subtitle" };
            self.text((16, 24 + 18 * place as u64), class, &line, letters);
        }
        let mut x = 16;
        for (role, name) in LEGEND {
            let color = role_color(role);
            self.put(&format!(
                "<rect x=\"{x}\" y=\"76\" width=\"12\" height=\"12\" fill=\"{color}\"/>"
            ));
            self.text((x + 17, 86), "note", name, 20);
            x += 30 + LETTER * name.len() as u64;
        }
        self.put(&format!(
            "<rect x=\"{x}\" y=\"76\" width=\"12\" height=\"12\" fill=\"#c9b3e6\"/>"
        ));
        self.text((x + 17, 86), "note", "stopped", 20);
        self.text((x + 90, 86), "note", "dashed: down", 20);
        self.text((x + 200, 86), "lost", "✕ lost", 20);
        self.text((16, 112), "note", "milliseconds", 20);
    }

    /// The names of the nodes, again and again, so that one stays in sight.
    fn draw_names(&mut self) {
        let columns: Vec<NodeId> = self.layout.columns.keys().copied().collect();
        for node in columns {
            let x = self.layout.x(node);
            self.text((x, TOP - 16), "node", &format!("node {node}"), 20);
            let mut y = TOP + 600;
            while y < self.layout.bottom() {
                let (left, top) = (x - 9, y - 11);
                self.put(&format!(
                    "<rect x=\"{left}\" y=\"{top}\" width=\"18\" height=\"15\" rx=\"4\" fill=\"#fff\" stroke=\"#888\"/>"
                ));
                self.text((x, y), "node", &node.to_string(), 20);
                y += 600;
            }
        }
    }

    /// A bar for each stretch in which a node is the same; dashes while it is down.
    fn draw_lifelines(&mut self, mut states: BTreeMap<NodeId, State>, drawn: &[&Moment]) {
        let mut since: BTreeMap<NodeId, u64> = states.keys().map(|node| (*node, TOP - 8)).collect();
        for (place, moment) in drawn.iter().enumerate() {
            let before = states.clone();
            follow(&mut states, moment);
            let y = self.layout.y[place];
            for (node, state) in &before {
                if states.get(node) != Some(state) {
                    let from = since.insert(*node, y).unwrap_or(TOP);
                    self.draw_stretch(*node, *state, from, y);
                }
            }
        }
        let bottom = self.layout.bottom();
        for (node, state) in states {
            let from = since.get(&node).copied().unwrap_or(TOP);
            self.draw_stretch(node, state, from, bottom);
        }
    }

    fn draw_stretch(&mut self, node: NodeId, state: State, from: u64, to: u64) {
        let x = self.layout.x(node);
        if state == State::Down {
            self.put(&format!(
                "<line x1=\"{x}\" y1=\"{from}\" x2=\"{x}\" y2=\"{to}\" class=\"down\"/>"
            ));
            return;
        }
        let (left, height, color) = (x - 5, to.saturating_sub(from), state.color());
        let what = match state {
            State::Up(role) => role.to_string(),
            State::Paused(role) => format!("{role}, stopped"),
            State::Down => "down".to_owned(),
        };
        self.put(&format!(
            "<rect x=\"{left}\" y=\"{from}\" width=\"10\" height=\"{height}\" fill=\"{color}\"><title>node {node}: {what}</title></rect>"
        ));
    }

    /// An arrow for each message that arrives; part of one for those that are lost, or under way at either edge.
    fn draw_messages(&mut self, drawn: &[&Moment]) {
        let mut under_way: BTreeMap<u64, (usize, Passage, bool)> = BTreeMap::new();
        for (place, moment) in drawn.iter().enumerate() {
            match moment.kind {
                Kind::Sent(way) => {
                    under_way.insert(way.number, (place, way, false));
                }
                Kind::Arrived(way) | Kind::Lost(way) => {
                    let is_lost = matches!(moment.kind, Kind::Lost(_));
                    let sent = under_way
                        .get_mut(&way.number)
                        .map(|(at, _, has_arrived)| (*at, std::mem::replace(has_arrived, true)));
                    self.draw_passage(way, sent, place, is_lost, moment);
                }
                _ => {}
            }
        }
        let bottom = self.layout.bottom();
        for (place, way, has_arrived) in under_way.into_values() {
            if !has_arrived {
                let y = self.layout.y[place];
                let (x1, x2) = (self.layout.x(way.from), self.layout.x(way.to));
                let x = along(x1, x2, 30);
                let to = (y + 40).min(bottom);
                self.put(&format!(
                    "<line x1=\"{x1}\" y1=\"{y}\" x2=\"{x}\" y2=\"{to}\" class=\"way waiting\"><title>{}</title></line>",
                    escape(&drawn[place].text)
                ));
            }
        }
    }

    fn draw_passage(
        &mut self,
        way: Passage,
        sent: Option<(usize, bool)>,
        place: usize,
        is_lost: bool,
        moment: &Moment,
    ) {
        let y2 = self.layout.y[place];
        let (from, to) = (self.layout.x(way.from), self.layout.x(way.to));
        let (x1, y1, x2, class) = match sent {
            Some((at, false)) => (from, self.layout.y[at], to, "way"),
            // It arrives once more.
            Some((at, true)) => (from, self.layout.y[at], to, "way again"),
            // Lost as soon as it was sent.
            None if is_lost => (from, y2, along(from, to, 25), "way"),
            // Sent before the first row.
            None => (along(from, to, 60), y2.saturating_sub(24).max(TOP - 8), to, "way waiting"),
        };
        let color = message_color(&moment.text);
        let marker = if is_lost { "" } else { " marker-end=\"url(#head)\"" };
        let title = escape(&format!("{} -> {} {}", way.from, way.to, moment.text));
        self.put(&format!(
            "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" class=\"{class}\" stroke=\"{color}\"{marker}><title>{title}</title></line>"
        ));
        if is_lost {
            let y = y2 + 5;
            self.put(&format!(
                "<text x=\"{x2}\" y=\"{y}\" class=\"lost\" text-anchor=\"middle\">✕<title>{title}</title></text>"
            ));
        }
    }

    fn draw_texts(&mut self, drawn: &[&Moment]) {
        let mut timed: Option<(u64, u64)> = None;
        let mut sent = BTreeSet::new();
        for (place, moment) in drawn.iter().enumerate() {
            let y = self.layout.y[place];
            let is_due = |(at, at_us): (u64, u64)| y >= at + ROW && moment.at_us != at_us;
            if timed.is_none_or(is_due) && is_told(moment) {
                timed = Some((y, moment.at_us));
                let time = format!("{}.{:03}", moment.at_us / 1000, moment.at_us % 1000);
                self.text((LEFT - 16, y + 4), "time", &time, 20);
            }
            match moment.kind {
                Kind::Lost(way) if sent.contains(&way.number) => {
                    // What it said stands where it was sent.
                    let why = moment.text.find("(lost").map_or("lost", |at| &moment.text[at..]);
                    self.text((self.layout.x(way.to) + 9, y + 5), "label gone", why, 60);
                }
                Kind::Sent(way) | Kind::Lost(way) => {
                    sent.insert(way.number);
                    self.draw_label(way, moment, y);
                }
                Kind::Arrived(_) => {}
                Kind::Local { node } => self.draw_local(node, moment, y),
                Kind::Role { node, role, term } => {
                    let x = self.layout.x(node);
                    let color = role_color(role);
                    self.put(&format!(
                        "<circle cx=\"{x}\" cy=\"{y}\" r=\"6\" fill=\"{color}\" stroke=\"#333\"/>"
                    ));
                    let text = format!("{role} t{term}");
                    self.text((x + 10, y + 4), "role", &text, 40);
                }
                Kind::Mark { mark, node } => self.draw_mark(mark, node, moment, y),
            }
        }
    }

    /// What a message says, beside its sender, on the side that it goes to.
    fn draw_label(&mut self, way: Passage, moment: &Moment, y: u64) {
        let x = self.layout.x(way.from);
        let is_lost = matches!(moment.kind, Kind::Lost(_));
        let class = if is_lost { "label gone" } else { "label" };
        if way.to > way.from {
            let room = (self.layout.width - x - 20) / LETTER;
            self.text((x + 9, y - 3), class, &moment.text, room.min(70) as usize);
        } else {
            let room = (x - LEFT.min(x)) / LETTER;
            let class = format!("{class} left");
            self.text((x - 9, y - 3), &class, &moment.text, room.clamp(14, 70) as usize);
        }
    }

    fn draw_local(&mut self, node: NodeId, moment: &Moment, y: u64) {
        let x = self.layout.x(node);
        let title = escape(&moment.text);
        self.put(&format!(
            "<circle cx=\"{x}\" cy=\"{y}\" r=\"2.5\" fill=\"#333\"><title>{title}</title></circle>"
        ));
        if is_told(moment) {
            let room = (self.layout.width - x - 20) / LETTER;
            self.text((x + 9, y + 4), "local", &moment.text, room.min(70) as usize);
        }
    }

    fn draw_mark(&mut self, mark: Mark, node: Option<NodeId>, moment: &Moment, y: u64) {
        let class = match mark {
            Mark::Broken => "broken",
            Mark::Start | Mark::Resume | Mark::Heal | Mark::Calm => "good",
            Mark::Note => "note",
            _ => "fault",
        };
        let Some(node) = node else {
            let (left, right) = (LEFT - 8, self.layout.width - 10);
            self.put(&format!(
                "<line x1=\"{left}\" y1=\"{y}\" x2=\"{right}\" y2=\"{y}\" class=\"band {class}\"/>"
            ));
            let room = ((right - left) / LETTER) as usize;
            self.text((left + 4, y - 3), class, &moment.text, room);
            return;
        };
        let x = self.layout.x(node);
        let sign = match mark {
            Mark::Crash | Mark::Wipe => "✖",
            Mark::Start | Mark::Resume => "▶",
            Mark::Pause => "⏸",
            _ => "⚡",
        };
        let at = y + 5;
        self.put(&format!(
            "<text x=\"{x}\" y=\"{at}\" class=\"sign {class}\" text-anchor=\"middle\">{sign}</text>"
        ));
        let room = (self.layout.width - x - 20) / LETTER;
        self.text((x + 12, y + 4), class, &moment.text, room.min(90) as usize);
    }

    fn finish(mut self) -> String {
        self.put("</svg>");
        self.svg
    }
}

/// A point so many percent of the way.
fn along(from: u64, to: u64, percent: u64) -> u64 {
    if to >= from { from + (to - from) * percent / 100 } else { from - (from - to) * percent / 100 }
}

fn message_color(text: &str) -> &'static str {
    let kinds = [
        ("Append", "#2b6cb0"),
        ("Heartbeat", "#b5b5b5"),
        ("PreVote", "#c99a1e"),
        ("Vote", "#d9730d"),
        ("TimeoutNow", "#d9730d"),
        ("Snapshot", "#7b3fa0"),
        ("Read", "#2f9e8f"),
        ("Forward", "#2f9e8f"),
    ];
    kinds.iter().find(|(start, _)| text.starts_with(start)).map_or("#555555", |(_, color)| color)
}

/// As the text of an element or an attribute. Signs that XML does not have are left out.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\n' | '\t' => safe.push(' '),
            sign if sign.is_control() => {
                let _ = write!(safe, "\\x{:x}", u32::from(sign));
            }
            '\u{fffe}' | '\u{ffff}' => {}
            sign => safe.push(sign),
        }
    }
    safe
}

const STYLE: &str = "<defs><marker id=\"head\" markerWidth=\"9\" markerHeight=\"8\" refX=\"8\" refY=\"4\" orient=\"auto\" markerUnits=\"userSpaceOnUse\"><path d=\"M0,0 L9,4 L0,8 z\" fill=\"context-stroke\"/></marker></defs>
<style>
text { font: 11.5px 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #333; paint-order: stroke; stroke: #fff; stroke-width: 3px; stroke-linejoin: round; }
.title { font-size: 15px; font-weight: bold; fill: #a00; } .subtitle { font-size: 13px; fill: #a00; }
.node { font-weight: bold; text-anchor: middle; font-size: 13px; } .again { fill: #aaa; }
.time { text-anchor: end; fill: #888; } .note { fill: #666; } .local { fill: #666; }
.label { fill: #1d4e89; } .left { text-anchor: end; } .gone { fill: #b33; }
.role { font-weight: bold; } .lost { fill: #d00; font-weight: bold; font-size: 14px; }
.fault { fill: #c0392b; font-weight: bold; } .good { fill: #2e7d32; } .broken { fill: #fff; stroke: #b00; font-weight: bold; }
.sign { font-size: 15px; } .band { stroke-width: 1px; stroke-dasharray: 6 3; } .band.fault { stroke: #c0392b; }
.band.good { stroke: #2e7d32; } .band.note { stroke: #ccc; } .band.broken { stroke: #b00; stroke-width: 4px; stroke-dasharray: none; }
.way { stroke-width: 1.3px; } .again.way { stroke-dasharray: 2 3; } .waiting { stroke-dasharray: 5 4; stroke: #999; }
.down { stroke: #c0392b; stroke-width: 1.5px; stroke-dasharray: 3 5; }
</style>";

#[cfg(test)]
#[path = "diagram_tests.rs"]
mod tests;
