//! `raft status`: asks every node how it is, and prints a table or JSON. What the figures mean is the nodes' affair.

use comfy_table::{CellAlignment, Table, presets};
use raft_core::{NodeId, RoleKind};
use raft_kv::client::{Client, ClientError, NodeReport};
use serde::Serialize;

use crate::cli::StatusArgs;
use crate::connect;
use crate::exit::{Code, Failure, Outcome};
use crate::output::{say, say_json};
use crate::text;

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
    /// How many entries it has yet to apply of those that any node knows to be committed.
    pub(crate) lag: Option<u64>,
    pub(crate) address: String,
    /// `ok`, or what is wrong.
    pub(crate) health: String,
    /// Of the state as of `applied`.
    pub(crate) state_digest: Option<String>,
    pub(crate) pid: Option<u32>,
    /// Why it leads or does not, and what the last entry of its log waits for.
    pub(crate) why: Option<String>,
    /// Whom it takes for the leader.
    pub(crate) leader: Option<u64>,
    /// It does not answer because one side does not accept the other's credentials.
    #[serde(skip)]
    is_refused: bool,
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
        let Some(first) = self.nodes.first() else {
            return false;
        };
        first.state_digest.is_some()
            && self.nodes.iter().all(|row| {
                row.health == "ok"
                    && row.lag == Some(0)
                    && row.applied == first.applied
                    && row.state_digest == first.state_digest
            })
    }
}

/// Runs the command.
pub(crate) async fn run(args: StatusArgs) -> Outcome {
    let client = connect::open(&args.client)?;
    let status = gather(&client).await;
    client.close().await;
    if args.json {
        say_json(&status)?;
    } else {
        say(table(&status))?;
        for (node, why) in status.reasons(args.why) {
            say(format_args!("node {node}: {}", text::shown(why)))?;
        }
    }
    if status.nodes.iter().all(|row| row.is_refused) {
        return Err(Failure::new(
            Code::Config,
            "no node and this client accept each other: are the addresses, the certificates and the cluster id in the client's configuration of one cluster?",
        ));
    }
    if status.nodes.iter().all(|row| row.role.is_none()) {
        return Err(Failure::new(
            Code::Unavailable,
            "no node answers: are they running, and are the addresses in the client's configuration right?",
        ));
    }
    Ok(())
}

/// Asks every node at the same time.
pub(crate) async fn gather(client: &Client) -> ClusterStatus {
    let mut nodes: Vec<NodeRow> = client.status_all().await.into_iter().map(row).collect();
    nodes.sort_by_key(|row| row.node);
    let commit_max = nodes.iter().filter_map(|row| row.commit).max().unwrap_or(0);
    for row in &mut nodes {
        row.lag = row.applied.map(|applied| commit_max.saturating_sub(applied));
    }
    ClusterStatus { nodes }
}

fn row((node, address, report): (NodeId, String, Result<NodeReport, ClientError>)) -> NodeRow {
    let silent = NodeRow {
        node: node.0,
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
        leader: None,
        is_refused: false,
    };
    match report {
        Err(ClientError::Network(error)) if error.is_credentials() => {
            NodeRow { health: format!("refused: {error}"), is_refused: true, ..silent }
        }
        Err(error) => NodeRow { health: format!("unreachable: {error}"), ..silent },
        Ok(report) => NodeRow {
            role: Some(role_name(report.role).to_owned()),
            term: Some(report.term.0),
            commit: Some(report.commit.0),
            // Of one moment with the digest, where there is one.
            applied: Some(report.stats.map_or(report.applied.0, |stats| stats.applied)),
            health: match (report.failure, report.uncounted, report.suspicion) {
                (Some(why), ..) => format!("failed: {why}"),
                (None, Some(why), _) => format!("does not count: {why}"),
                (None, None, Some(why)) => format!("suspect: {why}"),
                (None, None, None) => "ok".to_owned(),
            },
            state_digest: report.stats.map(|stats| format!("{:032x}", stats.digest)),
            pid: Some(report.pid),
            why: report.explanation,
            leader: report.leader.map(|leader| leader.0),
            ..silent
        },
    }
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

/// The table that `raft status` prints.
pub(crate) fn table(status: &ClusterStatus) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "NODE",
        "ROLE",
        "TERM",
        "COMMIT",
        "APPLIED",
        "LAG",
        "ADDRESS",
        "HEALTH",
        "STATE DIGEST",
    ]);
    for row in &status.nodes {
        let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        table.add_row([
            row.node.to_string(),
            or_dash(&row.role),
            number(row.term),
            number(row.commit),
            number(row.applied),
            number(row.lag),
            text::shown(&row.address),
            text::shown(&row.health),
            or_dash(&row.state_digest),
        ]);
    }
    for column in [2, 3, 4, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(node: u64, role: &str, term: u64, applied: u64) -> NodeRow {
        NodeRow {
            node,
            role: Some(role.to_owned()),
            term: Some(term),
            commit: Some(applied),
            applied: Some(applied),
            lag: Some(0),
            address: format!("127.0.0.1:{node}"),
            health: "ok".to_owned(),
            state_digest: Some(format!("digest at {applied}")),
            pid: Some(1),
            why: Some("follows".to_owned()),
            leader: None,
            is_refused: false,
        }
    }

    #[test]
    fn the_leader_is_the_one_of_the_highest_term() {
        let nodes = vec![row(1, "leader", 4, 9), row(2, "leader", 5, 9), row(3, "follower", 5, 9)];
        assert_eq!(ClusterStatus { nodes }.leader().map(|row| row.node), Some(2));
    }

    #[test]
    fn agreement_needs_every_node() {
        let mut status =
            ClusterStatus { nodes: vec![row(1, "leader", 1, 9), row(2, "follower", 1, 9)] };
        assert!(status.agrees());
        status.nodes[1].state_digest = Some("another".to_owned());
        assert!(!status.agrees());
        status.nodes[1] = row(2, "follower", 1, 8);
        assert!(!status.agrees());
        status.nodes[1] = NodeRow { health: "unreachable".to_owned(), ..row(2, "follower", 1, 9) };
        assert!(!status.agrees());
    }

    #[test]
    fn the_table_and_the_json_name_the_same_fields() {
        let status = ClusterStatus { nodes: vec![row(1, "leader", 1, 9)] };
        let header = table(&status).to_string().lines().next().unwrap().to_lowercase();
        let json = serde_json::to_value(&status).unwrap();
        for field in [
            "node",
            "role",
            "term",
            "commit",
            "applied",
            "lag",
            "address",
            "health",
            "state_digest",
        ] {
            assert!(header.contains(&field.replace('_', " ")), "{header}");
            assert!(!json["nodes"][0][field].is_null(), "{json}");
        }
        assert_eq!(json["nodes"][0]["pid"], 1);
    }
}
