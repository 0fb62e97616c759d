//! `raft status`: asks every node how it is, and prints a table or JSON. What follows from the answers is `verdict`'s.

use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use raft_core::{NodeId, RoleKind};
use raft_kv::client::{Client, ClientError, NodeReport};
use serde::Serialize;

use crate::cli::StatusArgs;
use crate::connect;
use crate::exit::{Code, Failure, Outcome};
use crate::output::{say, say_json};
use crate::text;
use crate::verdict::{States, Verdict};

/// How long the cluster may take to tell where its leader is, if none of the configured nodes is it.
const LEARN_WITHIN: Duration = Duration::from_secs(2);
/// How much of a digest the table shows.
const DIGEST_CHARS: usize = 8;

/// What is known of the cluster's nodes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ClusterStatus {
    /// In the order of ids.
    pub(crate) nodes: Vec<NodeRow>,
}

/// One node. Everything that it alone can tell is `None` if it does not answer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NodeRow {
    pub(crate) node: u64,
    pub(crate) role: Option<String>,
    pub(crate) term: Option<u64>,
    pub(crate) commit: Option<u64>,
    pub(crate) applied: Option<u64>,
    /// How many entries it has yet to apply of those that any node knows to be committed; or, if that is more, to make durable of
    /// those in its own log.
    pub(crate) lag: Option<u64>,
    pub(crate) address: String,
    /// `ok`, or what is wrong: a word or two, a colon, and why.
    pub(crate) health: String,
    /// Of the state as of `applied`.
    pub(crate) state_digest: Option<String>,
    pub(crate) pid: Option<u32>,
    /// Why it leads or does not, and what the last entry of its log waits for.
    pub(crate) why: Option<String>,
    /// Something about its configuration that an operator should know.
    pub(crate) notice: Option<String>,
    /// Whom it takes for the leader.
    pub(crate) leader: Option<u64>,
    /// How many entries at the end of its log are not durable yet.
    #[serde(skip)]
    pub(crate) unwritten: u64,
    /// Of a leader: the other members.
    #[serde(skip)]
    pub(crate) peers: Vec<u64>,
    /// How it was asked.
    #[serde(skip)]
    pub(crate) contact: Contact,
}

/// Whether a node was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contact {
    /// It answered.
    Answered,
    /// It did not.
    Silent,
    /// One side does not accept the other's credentials.
    Refused,
    /// Nobody has told where it is.
    NotAsked,
}

/// The JSON of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    verdict: &'a Verdict,
    nodes: &'a [NodeRow],
}

impl ClusterStatus {
    /// The leader of the highest term, if one says that it leads.
    pub(crate) fn leader(&self) -> Option<&NodeRow> {
        let leads = |row: &&NodeRow| row.role.as_deref() == Some("leader");
        self.nodes.iter().filter(leads).max_by_key(|row| row.term)
    }

    /// What the nodes say of themselves: all of them, or those that know of no leader and, if something waits to be committed, the leader.
    fn reasons(&self, all: bool) -> impl Iterator<Item = (u64, &str)> {
        let is_waiting = self.nodes.iter().any(|row| row.lag.is_some_and(|lag| lag > 0));
        let of_interest = move |row: &&NodeRow| {
            all || row.leader.is_none() || is_waiting && row.leader == Some(row.node)
        };
        let rows = self.nodes.iter().filter(of_interest);
        rows.filter_map(|row| row.why.as_deref().map(|why| (row.node, why)))
    }

    /// Whether every node answers, has applied all that is committed, and holds the same state.
    pub(crate) fn agrees(&self) -> bool {
        self.nodes.iter().all(|row| row.health == "ok" && row.lag == Some(0))
            && matches!(States::of(self), States::Agree { others, .. } if others.is_empty())
    }

    fn all_are(&self, contact: Contact) -> bool {
        self.nodes.iter().all(|row| row.contact == contact)
    }
}

/// Runs the command.
pub(crate) async fn run(args: StatusArgs) -> Outcome {
    let client = connect::open(&args.client)?;
    let status = gather(&client).await;
    client.close().await;
    let verdict = Verdict::of(&status);
    if args.json {
        say_json(&Report { verdict: &verdict, nodes: &status.nodes })?;
    } else {
        say(table(&status))?;
        for row in status.nodes.iter().filter(|row| row.health != "ok") {
            say(format_args!("node {}: {}", row.node, text::shown(&row.health)))?;
        }
        for (row, notice) in status.nodes.iter().filter_map(|row| Some((row, row.notice.as_ref()?)))
        {
            say(format_args!("node {}: {}", row.node, text::shown(notice)))?;
        }
        for (node, why) in status.reasons(args.why) {
            say(format_args!("node {node}: {}", text::shown(why)))?;
        }
        say(format_args!("states: {}", States::of(&status)))?;
        say(format_args!("verdict: {verdict}"))?;
    }
    if status.all_are(Contact::Refused) {
        return Err(Failure::new(
            Code::Config,
            "no node and this client accept each other: are the addresses, the certificates and the cluster id in the client's configuration of one cluster?",
        ));
    }
    if status.nodes.iter().all(|row| row.contact != Contact::Answered) {
        return Err(Failure::new(
            Code::Unavailable,
            "no node answers: are they running, and are the addresses in the client's configuration right?",
        ));
    }
    verdict.outcome()
}

/// Asks every node at the same time: those of the configuration, and the leader wherever it is.
pub(crate) async fn gather(client: &Client) -> ClusterStatus {
    let mut nodes: Vec<NodeRow> = client.status_all().await.into_iter().map(row).collect();
    let is_there = |node| nodes.iter().any(|row| row.node == node);
    if nodes.iter().filter_map(|row| row.leader).any(|leader| !is_there(leader)) {
        // Whoever is asked for something that only the leader can do tells where that is.
        let _ = tokio::time::timeout(LEARN_WITHIN, client.stats()).await;
        nodes = client.status_all().await.into_iter().map(row).collect();
    }
    complete(nodes)
}

/// Adds what only all rows together tell.
fn complete(mut nodes: Vec<NodeRow>) -> ClusterStatus {
    let commit_max = nodes.iter().filter_map(|row| row.commit).max().unwrap_or(0);
    for row in &mut nodes {
        row.lag = row.applied.map(|applied| commit_max.saturating_sub(applied).max(row.unwritten));
    }
    let mut status = ClusterStatus { nodes };
    let leader = status.leader().map(|leader| (leader.node, leader.peers.clone()));
    if let Some((leader, peers)) = leader {
        for node in peers {
            if status.nodes.iter().all(|row| row.node != node) {
                let health = format!(
                    "not asked: node {leader} counts it as a member, but the client's configuration does not say where it is"
                );
                let address = "-".to_owned();
                status.nodes.push(NodeRow { health, ..silent(node, address, Contact::NotAsked) });
            }
        }
    }
    status.nodes.sort_by_key(|row| row.node);
    status
}

fn silent(node: u64, address: String, contact: Contact) -> NodeRow {
    NodeRow {
        node,
        role: None,
        term: None,
        commit: None,
        applied: None,
        lag: None,
        address,
        health: String::new(),
        state_digest: None,
        pid: None,
        why: None,
        notice: None,
        leader: None,
        unwritten: 0,
        peers: Vec::new(),
        contact,
    }
}

fn row((node, address, report): (NodeId, String, Result<NodeReport, ClientError>)) -> NodeRow {
    let silent = |contact| silent(node.0, address.clone(), contact);
    match report {
        Err(ClientError::Network(error)) if error.is_credentials() => {
            NodeRow { health: format!("refused: {error}"), ..silent(Contact::Refused) }
        }
        Err(error) => {
            NodeRow { health: format!("unreachable: {error}"), ..silent(Contact::Silent) }
        }
        Ok(report) => NodeRow {
            role: Some(role_name(report.role).to_owned()),
            term: Some(report.term.0),
            commit: Some(report.commit.0),
            // Of one moment with the digest, where there is one.
            applied: Some(report.stats.map_or(report.applied.0, |stats| stats.applied)),
            health: health(&report),
            state_digest: report.stats.map(|stats| format!("{:032x}", stats.digest)),
            pid: Some(report.pid),
            why: report.explanation,
            notice: report.notice,
            leader: report.leader.map(|leader| leader.0),
            unwritten: report.last.0.saturating_sub(report.durable.0),
            peers: report.peers.iter().map(|peer| peer.node.0).collect(),
            ..silent(Contact::Answered)
        },
    }
}

fn health(report: &NodeReport) -> String {
    let told = [
        ("failed", &report.failure),
        ("does not count", &report.uncounted),
        ("suspect", &report.suspicion),
        ("stalled", &report.stall),
    ];
    let first = told.into_iter().find_map(|(what, why)| Some((what, why.as_ref()?)));
    first.map_or_else(|| "ok".to_owned(), |(what, why)| format!("{what}: {why}"))
}

fn role_name(role: RoleKind) -> &'static str {
    match role {
        RoleKind::Follower => "follower",
        RoleKind::Learner => "learner",
        RoleKind::Witness => "witness",
        RoleKind::Outsider => "outsider",
        RoleKind::PreCandidate => "pre-candidate",
        RoleKind::Candidate => "candidate",
        RoleKind::Leader => "leader",
    }
}

/// The table that `raft status` prints. It is made for 80 columns, and wraps its cells on a narrower terminal.
pub(crate) fn table(status: &ClusterStatus) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header([
        "NODE", "ROLE", "TERM", "COMMIT", "APPLIED", "LAG", "ADDRESS", "HEALTH", "DIGEST",
    ]);
    for row in &status.nodes {
        let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        let or_dash = |value: Option<&str>| value.unwrap_or("-").to_owned();
        let digest = row.state_digest.as_deref();
        table.add_row([
            row.node.to_string(),
            or_dash(row.role.as_deref()),
            number(row.term),
            number(row.commit),
            number(row.applied),
            number(row.lag),
            text::shown(&row.address),
            // Why it is so stands below the table.
            text::shown(row.health.split(':').next().unwrap_or_default()),
            or_dash(digest.map(|digest| digest.get(..DIGEST_CHARS).unwrap_or(digest))),
        ]);
    }
    for at in 0..=8 {
        if let Some(column) = table.column_mut(at) {
            column.set_padding((0, 1));
            if (2..=5).contains(&at) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use raft_core::{Index, Term};
    use raft_kv::Stats;
    use raft_kv::client::PeerReport;

    use super::*;

    /// What a node of three reports.
    pub(crate) fn report(node: u64, role: RoleKind, applied: u64) -> NodeReport {
        let peer = |node| PeerReport { node: NodeId(node), matched: Index(applied) };
        let peers = (1..=3).filter(|peer| *peer != node && role == RoleKind::Leader).map(peer);
        NodeReport {
            node: NodeId(node),
            role,
            term: Term(5),
            leader: Some(NodeId(1)),
            commit: Index(applied),
            applied: Index(applied),
            last: Index(applied),
            durable: Index(applied),
            address: format!("10.20.30.40:{}", 7400 + node),
            failure: None,
            suspicion: None,
            uncounted: None,
            stall: None,
            explanation: Some("follows".to_owned()),
            notice: None,
            stats: Some(Stats {
                applied,
                revision: 1,
                keys: 1,
                sessions: 1,
                digest: u128::from(applied) << 100,
            }),
            pid: 1,
            uptime: Duration::from_secs(1),
            version: "0".to_owned(),
            peers: peers.collect(),
        }
    }

    /// The status that these reports give; those of `silent` do not answer.
    pub(crate) fn status(reports: Vec<NodeReport>, silent: &[u64]) -> ClusterStatus {
        let answered = reports
            .into_iter()
            .map(|report| row((report.node, report.address.clone(), Ok(report))));
        let timeout = || ClientError::Timeout {
            after: Duration::from_secs(1),
            maybe_applied: false,
            last_seen: "the node does not answer".to_owned(),
        };
        let silent = silent
            .iter()
            .map(|&node| row((NodeId(node), format!("10.0.0.{node}:7"), Err(timeout()))));
        complete(answered.chain(silent).collect())
    }

    /// A leader and two followers that have applied the same.
    pub(crate) fn three(applied: u64) -> Vec<NodeReport> {
        vec![
            report(1, RoleKind::Leader, applied),
            report(2, RoleKind::Follower, applied),
            report(3, RoleKind::Follower, applied),
        ]
    }

    #[test]
    fn the_leader_is_the_one_of_the_highest_term() {
        let mut reports = three(9);
        reports[1].role = RoleKind::Leader;
        reports[1].term = Term(6);
        assert_eq!(status(reports, &[]).leader().map(|row| row.node), Some(2));
    }

    #[test]
    fn agreement_needs_every_node() {
        assert!(status(three(9), &[]).agrees());
        let mut reports = three(9);
        reports[1].stats.as_mut().unwrap().digest = 7;
        assert!(!status(reports, &[]).agrees());
        let mut reports = three(9);
        reports[1] = report(2, RoleKind::Follower, 8);
        assert!(!status(reports, &[]).agrees());
        let mut reports = three(9);
        reports.pop();
        assert!(!status(reports, &[3]).agrees());
    }

    #[test]
    fn the_table_and_the_json_name_the_same_fields() {
        let status = status(three(9), &[]);
        let header = table(&status).to_string().lines().next().unwrap().to_lowercase();
        let json = serde_json::to_value(&status).unwrap();
        for field in ["node", "role", "term", "commit", "applied", "lag", "address", "health"] {
            assert!(header.contains(field), "{header}");
            assert!(!json["nodes"][0][field].is_null(), "{json}");
        }
        assert_eq!(json["nodes"][0]["pid"], 1);
        assert_eq!(json["nodes"][0]["state_digest"].as_str().map(str::len), Some(32));
    }

    #[test]
    fn the_table_fits_80_columns() {
        let plain = table(&status(three(98_765_432), &[4])).to_string();
        assert!(plain.lines().all(|line| line.trim_end().chars().count() <= 80), "{plain}");
        // What is wider yet is wrapped, on a terminal.
        let mut reports = three(98_765_432_100);
        reports[2].role = RoleKind::PreCandidate;
        reports[2].uncounted = Some("its data is blank".to_owned());
        let status = status(reports, &[4]);
        for width in [80, 60] {
            let wrapped = table(&status).set_width(width).to_string();
            assert!(
                wrapped.lines().all(|line| line.chars().count() <= usize::from(width)),
                "{wrapped}"
            );
        }
    }

    #[test]
    fn a_stalled_node_is_not_ok_and_a_leader_that_lags_shows_it() {
        let mut reports = three(9);
        reports[0].last = Index(20);
        reports[0].stall = Some("its disk does not answer".to_owned());
        let status = status(reports, &[]);
        assert_eq!(status.nodes[0].health, "stalled: its disk does not answer");
        assert_eq!((status.nodes[0].lag, status.nodes[1].lag), (Some(11), Some(0)));
        assert!(table(&status).to_string().contains(" stalled "));
    }

    #[test]
    fn members_that_the_configuration_lacks_are_named() {
        let status = status(vec![report(1, RoleKind::Leader, 9)], &[]);
        let ids: Vec<u64> = status.nodes.iter().map(|row| row.node).collect();
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!(status.nodes[2].contact, Contact::NotAsked);
        assert!(status.nodes[2].health.starts_with("not asked: node 1 counts it"));
    }
}
