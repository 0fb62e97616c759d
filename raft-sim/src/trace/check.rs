//! Checks a trace against the [model](super::model) of the published spec, line by line.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{Line, Name};
use super::model::Model;

/// What a trace that keeps the rules holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many lines.
    pub lines: usize,
    /// How many of each kind.
    pub events: BTreeMap<Name, usize>,
    /// At how many nodes.
    pub nodes: usize,
}

/// The first line that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Fault {
    /// Which line, from 1 on.
    pub line: usize,
    /// Which rule.
    pub what: String,
}

/// The longest line that is read.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Checks a trace in its written form: one JSON object a line.
///
/// # Errors
/// The first [`Fault`], of form or of content.
pub fn check_json(text: &str) -> Result<Summary, Fault> {
    let mut lines = Vec::new();
    for (row, number) in text.lines().zip(1..) {
        let fault = |what: String| Fault { line: number, what };
        if row.len() > LINE_BYTES_MAX {
            return Err(fault(format!("longer than {LINE_BYTES_MAX} bytes")));
        }
        let value: serde_json::Value =
            serde_json::from_str(row).map_err(|error| fault(error.to_string()))?;
        if has_null(&value) {
            return Err(fault("a null".to_owned()));
        }
        lines.push(serde_json::from_value(value).map_err(|error| fault(error.to_string()))?);
    }
    check(&lines)
}

fn has_null(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Null => true,
        serde_json::Value::Array(values) => values.iter().any(has_null),
        serde_json::Value::Object(fields) => fields.values().any(has_null),
        _ => false,
    }
}

/// Checks a trace.
///
/// # Errors
/// The first [`Fault`].
pub fn check<'a>(lines: impl IntoIterator<Item = &'a Line>) -> Result<Summary, Fault> {
    let lines: Vec<&Line> = lines.into_iter().collect();
    let mut model = Model::default();
    let starting = starts(&lines);
    let mut summary = Summary { lines: lines.len(), ..Summary::default() };
    for (line, number) in lines.iter().zip(1..) {
        let fault = |what: String| Fault { line: number, what };
        check_form(line).map_err(fault)?;
        *summary.events.entry(line.event.name).or_default() += 1;
        let step = if starting.contains(&number) {
            if line.event.name == Name::InitState {
                model.boot(line)
            } else {
                Err("a server does something before it is started".to_owned())
            }
        } else {
            model.take(line)
        };
        step.map_err(|what| {
            let Line { event, .. } = line;
            fault(format!("{:?} at node {}: {what}", event.name, event.nid))
        })?;
    }
    model.check_logs().map_err(|what| Fault { line: lines.len(), what })?;
    let nodes: BTreeSet<&str> = lines.iter().map(|line| line.event.nid.as_str()).collect();
    summary.nodes = nodes.len();
    Ok(summary)
}

/// The lines that the spec takes for a server's start: of each server, those before it does anything else.
fn starts(lines: &[&Line]) -> BTreeSet<usize> {
    let mut begun = BTreeSet::new();
    let mut found = BTreeSet::new();
    for (line, number) in lines.iter().zip(1..) {
        let nid = line.event.nid.as_str();
        let is_start = matches!(
            line.event.name,
            Name::InitState | Name::BecomeFollower | Name::ApplyConfChange
        );
        if is_start && !begun.contains(nid) {
            found.insert(number);
        } else {
            begun.insert(nid);
        }
    }
    found
}

/// What can be seen without any state: ids, numbers, and which fields there are.
fn check_form(line: &Line) -> Result<(), String> {
    let event = &line.event;
    let is_id =
        |id: &str| id.parse::<u64>().is_ok_and(|number| number > 0 && number.to_string() == id);
    let mut ids: Vec<&str> = vec![&event.nid];
    ids.extend(event.conf.iter().flatten().map(String::as_str));
    if event.state.vote != "0" {
        ids.push(&event.state.vote);
    }
    let mut numbers = vec![event.state.term, event.state.commit, event.log];
    if let Some(msg) = &event.msg {
        ids.extend([msg.from.as_str(), msg.to.as_str()]);
        numbers.push(msg.term);
        numbers.extend([msg.index, msg.log_term, msg.entries, msg.commit].into_iter().flatten());
        if !msg.is_complete() {
            return Err(format!("a message with other fields than its type has: {msg:?}"));
        }
    }
    if let Some(id) = ids.iter().find(|id| !is_id(id)) {
        return Err(format!("{id:?} is no id: ids are decimal numbers from 1 on, as strings"));
    }
    if numbers.iter().any(|number| *number > i32::MAX as u32) {
        return Err("a number beyond 32 bits with a sign".to_owned());
    }
    let is_about_message = matches!(
        event.name,
        Name::SendRequestVoteRequest
            | Name::SendRequestVoteResponse
            | Name::SendAppendEntriesRequest
            | Name::SendAppendEntriesResponse
            | Name::ReceiveRequestVoteRequest
            | Name::ReceiveRequestVoteResponse
            | Name::ReceiveAppendEntriesRequest
            | Name::ReceiveAppendEntriesResponse
    );
    let is_about_change = matches!(event.name, Name::ChangeConf | Name::ApplyConfChange);
    if is_about_message != event.msg.is_some() || is_about_change != event.prop.is_some() {
        return Err("`msg` or `prop` where there is none, or none where there is one".to_owned());
    }
    Ok(())
}
