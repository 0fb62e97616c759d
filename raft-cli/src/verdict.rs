//! What follows from the nodes' answers: whether the cluster serves, and whether its states agree. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Serialize, Serializer};

use crate::exit::{Code, Failure, Outcome};
use crate::status::{ClusterStatus, Contact, NodeRow};

/// Whether the cluster serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    #[serde(rename = "verdict")]
    kind: Kind,
    /// The leader of the highest term.
    leader: Option<u64>,
    /// Whether a majority of the voters follow it.
    quorum: bool,
    /// How many voters follow it, itself included.
    followers: usize,
    /// How many there are, as far as is known.
    voters: usize,
    states: States,
    /// Those with a health of their own.
    #[serde(skip)]
    unwell: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// It serves, and nothing is wrong.
    Ok,
    /// It serves, but a node is missing or not well.
    Degraded,
    /// There is no leader, or no majority that follows it.
    Unavailable,
    /// Two nodes hold different states at the same index.
    Diverged,
}

impl Verdict {
    pub(crate) fn of(status: &ClusterStatus) -> Verdict {
        let leader = status.leader();
        // Where nothing else is known, a node counts as a voter: rather too many than too few.
        let votes = |row: &&NodeRow| !matches!(row.role.as_deref(), Some("learner" | "outsider"));
        let voters: Vec<&NodeRow> = status.nodes.iter().filter(votes).collect();
        let follows = |row: &&&NodeRow| {
            leader.is_some_and(|leader| {
                row.node == leader.node
                    || row.leader == Some(leader.node) && row.term == leader.term
            })
        };
        let followers = voters.iter().filter(follows).count();
        // Of those that nobody could ask, the leader alone knows: it steps down when it hears from no majority.
        let unasked = voters.iter().filter(|row| row.contact == Contact::NotAsked).count();
        let quorum = leader.is_some() && 2 * (followers + unasked) > voters.len();
        let states = States::of(status);
        let unwell: Vec<u64> =
            status.nodes.iter().filter(|row| row.health != "ok").map(|row| row.node).collect();
        let kind = match (&states, quorum, unwell.is_empty()) {
            (States::Differ { .. }, ..) => Kind::Diverged,
            (_, false, _) => Kind::Unavailable,
            (_, true, false) => Kind::Degraded,
            (_, true, true) => Kind::Ok,
        };
        Verdict {
            kind,
            leader: leader.map(|row| row.node),
            quorum,
            followers,
            voters: voters.len(),
            states,
            unwell,
        }
    }

    /// What the command ends with: an error unless the cluster serves.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.kind {
            Kind::Ok | Kind::Degraded => Ok(()),
            Kind::Unavailable => Err(Failure::new(Code::Unavailable, self.to_string())),
            Kind::Diverged => Err(Failure::new(Code::Diverged, self.to_string())),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { followers, voters, .. } = self;
        match self.kind {
            Kind::Diverged => return write!(f, "diverged: the states {}", self.states),
            Kind::Unavailable => f.write_str("unavailable: ")?,
            Kind::Degraded => f.write_str("degraded: ")?,
            Kind::Ok => f.write_str("ok: ")?,
        }
        match self.leader {
            None => f.write_str("no node leads, so nothing is written or read")?,
            Some(leader) => {
                write!(f, "node {leader} leads, {followers} of {voters} voters follow it")?;
            }
        }
        if self.kind == Kind::Unavailable && self.leader.is_some() {
            f.write_str(", which is no majority")?;
        }
        if !self.unwell.is_empty() {
            write!(f, "; see node {}", Listed(&self.unwell))?;
        }
        Ok(())
    }
}

/// Whether the nodes hold the same state, which can be told of those that have applied the same index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum States {
    /// These do, at the highest index that two of them have applied; the others were elsewhere or did not tell.
    Agree { index: u64, nodes: Vec<u64>, others: Vec<u64> },
    /// These do not.
    Differ { index: u64, nodes: Vec<u64> },
    /// No two nodes were at the same index.
    Unknown,
}

impl States {
    pub(crate) fn of(status: &ClusterStatus) -> States {
        let mut at: BTreeMap<u64, Vec<(u64, &str)>> = BTreeMap::new();
        for row in &status.nodes {
            if let (Some(applied), Some(digest)) = (row.applied, &row.state_digest) {
                at.entry(applied).or_default().push((row.node, digest));
            }
        }
        let nodes = |rows: &[(u64, &str)]| rows.iter().map(|(node, _)| *node).collect::<Vec<u64>>();
        for (&index, rows) in &at {
            let digests: BTreeSet<&str> = rows.iter().map(|(_, digest)| *digest).collect();
            if digests.len() > 1 {
                return States::Differ { index, nodes: nodes(rows) };
            }
        }
        // One node agrees with itself, if there is no other.
        let needed = status.nodes.len().min(2);
        let Some((&index, rows)) = at.iter().rev().find(|(_, rows)| rows.len() >= needed) else {
            return States::Unknown;
        };
        let nodes = nodes(rows);
        let others = status.nodes.iter().map(|row| row.node);
        let others = others.filter(|node| !nodes.contains(node)).collect();
        States::Agree { index, nodes, others }
    }
}

impl Serialize for States {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            States::Agree { others, .. } if others.is_empty() => "agree",
            States::Agree { .. } => "agree so far",
            States::Differ { .. } => "differ",
            States::Unknown => "unknown",
        })
    }
}

impl fmt::Display for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            States::Agree { index, others, .. } if others.is_empty() => {
                write!(f, "all nodes hold the same at index {index}")
            }
            States::Agree { index, nodes, others } => write!(
                f,
                "nodes {} hold the same at index {index}; node {} was not at that index",
                Listed(nodes),
                Listed(others)
            ),
            States::Differ { index, nodes } => write!(
                f,
                "of nodes {} DIFFER at index {index}: stop writing, keep the data folders, and report it",
                Listed(nodes)
            ),
            States::Unknown => f.write_str(
                "no two nodes were at the same index, so nothing can be compared; ask again",
            ),
        }
    }
}

/// Ids with commas.
struct Listed<'a>(&'a [u64]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<String> = self.0.iter().map(u64::to_string).collect();
        f.write_str(&ids.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use raft_core::{RoleKind, Term};

    use super::*;
    use crate::status::tests::{report, status, three};

    fn verdict(status: &ClusterStatus) -> (Verdict, Option<Code>) {
        let verdict = Verdict::of(status);
        let code = verdict.outcome().err().map(|failure| failure.code);
        (verdict, code)
    }

    #[test]
    fn a_cluster_serves_with_a_leader_and_a_majority() {
        let (all, code) = verdict(&status(three(9), &[]));
        assert_eq!((all.kind, code), (Kind::Ok, None));
        assert_eq!(all.to_string(), "ok: node 1 leads, 3 of 3 voters follow it");
        let mut reports = three(9);
        reports.pop();
        let (two, code) = verdict(&status(reports.clone(), &[3]));
        assert_eq!((two.kind, code), (Kind::Degraded, None));
        assert!(two.to_string().ends_with("2 of 3 voters follow it; see node 3"), "{two}");
        reports.pop();
        let (one, code) = verdict(&status(reports, &[2, 3]));
        assert_eq!((one.kind, code), (Kind::Unavailable, Some(Code::Unavailable)));
        assert!(one.to_string().contains("which is no majority"), "{one}");
    }

    #[test]
    fn a_follower_of_another_term_or_leader_does_not_count() {
        let mut reports = three(9);
        reports[1].term = Term(4);
        reports[2].leader = None;
        let (verdict, _) = verdict(&status(reports, &[]));
        assert_eq!((verdict.followers, verdict.quorum), (1, false));
    }

    #[test]
    fn without_a_leader_it_does_not_serve() {
        let mut reports = three(9);
        reports.remove(0);
        for report in &mut reports {
            report.leader = None;
        }
        let (verdict, code) = verdict(&status(reports, &[1]));
        assert_eq!((verdict.kind, code), (Kind::Unavailable, Some(Code::Unavailable)));
        assert!(verdict.to_string().contains("no node leads"), "{verdict}");
    }

    #[test]
    fn of_members_that_could_not_be_asked_the_leader_is_believed() {
        let alone = status(vec![report(1, RoleKind::Leader, 9)], &[]);
        assert_eq!(verdict(&alone).1, None);
        let silent = status(vec![report(1, RoleKind::Leader, 9)], &[2, 3]);
        assert_eq!(verdict(&silent).1, Some(Code::Unavailable));
    }

    #[test]
    fn states_are_compared_at_the_same_index() {
        let mut reports = three(9);
        assert_eq!(
            States::of(&status(reports.clone(), &[])).to_string(),
            "all nodes hold the same at index 9"
        );
        reports[2] = report(3, RoleKind::Follower, 8);
        let states = States::of(&status(reports.clone(), &[]));
        assert_eq!(
            states.to_string(),
            "nodes 1, 2 hold the same at index 9; node 3 was not at that index"
        );
        reports[1] = report(2, RoleKind::Follower, 7);
        assert_eq!(States::of(&status(reports.clone(), &[])), States::Unknown);
        reports[1].stats.as_mut().unwrap().applied = 8;
        let (verdict, code) = verdict(&status(reports, &[]));
        assert_eq!((verdict.kind, code), (Kind::Diverged, Some(Code::Diverged)));
        assert!(verdict.to_string().contains("nodes 2, 3 DIFFER at index 8"), "{verdict}");
    }

    #[test]
    fn the_json_has_a_verdict() {
        let json = serde_json::to_value(Verdict::of(&status(three(9), &[]))).unwrap();
        let expected = serde_json::json!({
            "verdict": "ok", "leader": 1, "quorum": true, "followers": 3, "voters": 3, "states": "agree",
        });
        assert_eq!(json, expected);
    }
}
