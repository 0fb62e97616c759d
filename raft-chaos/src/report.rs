//! The report of a run: one HTML file that needs nothing else, and a JSON file beside it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

/// One round, as the report shows it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Round {
    pub(crate) number: u64,
    pub(crate) nemeses: Vec<String>,
    pub(crate) told: Vec<String>,
    pub(crate) operations: u64,
    pub(crate) answered: u64,
    pub(crate) unknown: u64,
    pub(crate) acknowledged_writes: u64,
    pub(crate) longest_gap_ms: u64,
    pub(crate) agreed_after_ms: Option<u64>,
    pub(crate) memory_mib: u64,
    pub(crate) disk_mib: u64,
    pub(crate) exits: u64,
    pub(crate) seconds: f64,
    /// Acknowledged writes in each quarter of a second.
    pub(crate) writes: Vec<u64>,
    pub(crate) faults: Vec<String>,
}

/// A whole run.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) command: String,
    pub(crate) seed: u64,
    pub(crate) nodes: u64,
    pub(crate) hosts: String,
    /// Faults that this system does not allow, and why.
    pub(crate) skipped: Vec<String>,
    pub(crate) rounds: Vec<Round>,
}

impl Report {
    pub(crate) fn faults(&self) -> u64 {
        self.rounds.iter().map(|round| round.faults.len() as u64).sum()
    }

    pub(crate) fn operations(&self) -> u64 {
        self.rounds.iter().map(|round| round.operations).sum()
    }

    /// Writes `path` and, with the ending `.json`, the same for programs.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let told = || format!("cannot write {}", path.display());
        fs::write(path, self.html()).with_context(told)?;
        let json = serde_json::to_string_pretty(self)?;
        fs::write(path.with_extension("json"), json).with_context(told)
    }

    fn html(&self) -> String {
        let mut out = String::from(HEAD);
        let (rounds, faults) = (self.rounds.len(), self.faults());
        let verdict = if faults == 0 { "everything held" } else { "something did not hold" };
        let _ = write!(
            out,
            "<h1>{verdict}</h1><p><code>{}</code></p><p>{} nodes on {}; {rounds} rounds, {} \
             operations, {} answered, {faults} findings.</p>",
            escape(&self.command),
            self.nodes,
            escape(&self.hosts),
            self.operations(),
            self.rounds.iter().map(|round| round.answered).sum::<u64>(),
        );
        for line in &self.skipped {
            let _ = write!(out, "<p class=note>left out: {}</p>", escape(line));
        }
        out.push_str(
            "<table><tr><th>round<th>faults<th>operations<th>answered<th>unknown<th>longest \
             gap<th>agreed after<th>memory<th>disk<th>ends<th>acknowledged writes</tr>",
        );
        for round in &self.rounds {
            Report::row(&mut out, round);
        }
        out.push_str("</table>");
        out
    }

    fn row(out: &mut String, round: &Round) {
        let class = if round.faults.is_empty() { "ok" } else { "bad" };
        let agreed = round.agreed_after_ms.map_or("never".to_owned(), |ms| format!("{ms} ms"));
        let _ = write!(
            out,
            "<tr class={class}><td>{}<td><b>{}</b><br>{}<td>{}<td>{}<td>{}<td>{} ms<td>{agreed}\
             <td>{} MiB<td>{} MiB<td>{}<td>{}</tr>",
            round.number,
            escape(&round.nemeses.join(" + ")),
            escape(&round.told.join("; ")),
            round.operations,
            round.answered,
            round.unknown,
            round.longest_gap_ms,
            round.memory_mib,
            round.disk_mib,
            round.exits,
            bars(&round.writes),
        );
        for fault in &round.faults {
            let _ =
                write!(out, "<tr class=bad><td><td colspan=10><pre>{}</pre></tr>", escape(fault));
        }
    }
}

/// A bar for each quarter of a second.
fn bars(writes: &[u64]) -> String {
    let highest = writes.iter().copied().max().unwrap_or(0).max(1);
    let mut out = format!(
        "<svg width={} height=24 role=img aria-label='acknowledged writes over time'>",
        writes.len() * 3
    );
    for (at, count) in writes.iter().enumerate() {
        let height = count * 24 / highest;
        let _ = write!(out, "<rect x={} y={} width=2 height={height} />", at * 3, 24 - height);
    }
    out.push_str("</svg>");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const HEAD: &str = "<!doctype html><meta charset=utf-8><meta name=viewport \
content='width=device-width'><title>raft chaos</title><style>:root{color-scheme:light dark}\
body{font:14px/1.4 system-ui;margin:2em}table{border-collapse:collapse}td,th{padding:.3em .6em;\
border-bottom:1px solid #8884;text-align:left;vertical-align:top}.bad td{background:#f003}\
.note{opacity:.8}rect{fill:#48c}pre{white-space:pre-wrap;margin:0}</style>";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reported_is_escaped_and_counted() {
        let round = Round {
            operations: 5,
            faults: vec!["<b> & more".to_owned()],
            writes: vec![0, 4],
            ..Round::default()
        };
        let report = Report { rounds: vec![round], ..Report::default() };
        let html = report.html();
        assert!(html.contains("&lt;b&gt; &amp; more"), "{html}");
        assert!(html.contains("something did not hold"), "{html}");
        assert_eq!((report.faults(), report.operations()), (1, 5));
    }
}
