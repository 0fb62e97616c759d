//! Diagrams: well-formed, one arrow for each message that arrives, and nothing from outside breaks out of its text.

use super::*;
use crate::Case;
use raft_core::Term;

/// Checks that elements nest, that attributes are quoted, and that no sign stands where XML forbids it. Returns how often each element opens.
fn elements(svg: &str) -> BTreeMap<String, usize> {
    let mut open: Vec<String> = Vec::new();
    let mut counts = BTreeMap::new();
    let mut rest = svg;
    while let Some(at) = rest.find('<') {
        let text = &rest[..at];
        assert!(!text.contains('>'), "a stray sign in {text:?}");
        check_entities(text);
        let end = rest[at..].find('>').expect("the element ends") + at;
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
            continue;
        }
        assert!(!tag.contains('<'), "{tag}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        check_entities(tag);
        let name = tag.split([' ', '/']).next().unwrap_or_default().to_owned();
        *counts.entry(name.clone()).or_default() += 1;
        if !tag.ends_with('/') {
            assert!(!open.is_empty() || name == "svg", "{name} outside of the drawing");
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?} stay open");
    assert!(rest.trim().is_empty());
    counts
}

fn check_entities(text: &str) {
    for part in text.split('&').skip(1) {
        let known = ["amp;", "lt;", "gt;", "quot;"];
        assert!(known.iter().any(|entity| part.starts_with(entity)), "{text}");
    }
}

fn moment(at_us: u64, kind: Kind, text: &str) -> Moment {
    Moment { at_us, kind, text: text.to_owned() }
}

fn arrows(svg: &str) -> usize {
    svg.matches("marker-end=\"url(#head)\"").count()
}

#[test]
fn every_message_that_arrives_is_an_arrow_and_every_lost_one_a_cross() {
    let way = |number, from, to| Passage { number, from: NodeId(from), to: NodeId(to) };
    let moments = [
        moment(0, Kind::Mark { mark: Mark::Start, node: Some(NodeId(1)) }, "starts"),
        moment(1, Kind::Arrived(way(0, 2, 1)), "Vote t1 last 0@0"),
        moment(2, Kind::Role { node: NodeId(1), role: RoleKind::Leader, term: Term(1) }, "leads"),
        moment(3, Kind::Sent(way(1, 1, 2)), "Heartbeat t1"),
        moment(4, Kind::Sent(way(2, 1, 3)), "Heartbeat t1"),
        moment(5, Kind::Lost(way(3, 1, 3)), "Heartbeat t1 (lost: cut off)"),
        moment(6, Kind::Arrived(way(1, 1, 2)), "Heartbeat t1"),
        moment(7, Kind::Arrived(way(1, 1, 2)), "Heartbeat t1"),
        moment(8, Kind::Lost(way(2, 1, 3)), "Heartbeat t1 (lost: nobody is there)"),
        moment(9, Kind::Sent(way(4, 2, 1)), "HeartbeatReply t1"),
    ];
    let moments: Vec<&Moment> = moments.iter().collect();
    let svg = draw("a title", &moments, 100);
    let counts = elements(&svg);
    assert_eq!(counts["svg"], 1);
    assert_eq!(arrows(&svg), 3, "one from before, one that arrives twice");
    assert_eq!(svg.matches("text-anchor=\"middle\">✕").count(), 2);
    assert!(svg.contains("class=\"way waiting\"><title>HeartbeatReply t1"), "one under way");
    for node in 1..=3 {
        assert!(svg.contains(&format!(">node {node}<")), "node {node} has a column");
    }
    assert!(svg.contains("node 1: leader"));
}

#[test]
fn a_run_is_drawn_whole_and_from_any_place_on() {
    let mut moments = Vec::new();
    Case::of_seed(7).run(Some(&mut |moment| moments.push(moment)));
    moments.truncate(1500);
    let moments: Vec<&Moment> = moments.iter().collect();
    for rows in [0, 1, 300, 1500] {
        let svg = draw("seed 7", &moments, rows);
        elements(&svg);
        let drawn = &moments[moments.len() - rows..];
        let arrived = drawn.iter().filter(|moment| matches!(moment.kind, Kind::Arrived(_)));
        assert_eq!(arrows(&svg), arrived.count());
    }
}

#[test]
fn texts_stay_texts() {
    let kind = Kind::Local { node: NodeId(1) };
    let wild = moment(1, kind, "<script>&\"'\u{0}\u{1b}\n]]> \u{ffff}</title>");
    let svg = draw("</svg><&>\"", &[&wild], 10);
    let counts = elements(&svg);
    assert_eq!(counts["svg"], 1);
    assert!(!counts.contains_key("script"));
    assert!(!svg.contains('\u{0}') && !svg.contains('\u{1b}') && !svg.contains('\u{ffff}'));
    elements(&draw("", &[], 10));
}
