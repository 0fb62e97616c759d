//! How a node is: what an operator, and a client in search of the leader, wants to know.

use std::time::Duration;

use raft_core::{Index, NodeId, RoleKind, Term};

use super::replies::{put_stats, read_stats};
use super::{put_option, put_text, read_option, read_text};
use crate::codec::{Malformed, Put, Reader};
use crate::query::Stats;

/// A node at one moment, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    /// Who it is.
    pub node: NodeId,
    /// What it does.
    pub role: RoleKind,
    /// Its term.
    pub term: Term,
    /// Whom it takes for the leader of that term.
    pub leader: Option<NodeId>,
    /// The last index known to be committed.
    pub commit: Index,
    /// The last index that its state machine has applied.
    pub applied: Index,
    /// The last index of its log.
    pub last: Index,
    /// The last index of its log that is durable.
    pub durable: Index,
    /// The address it is known by, or listens on.
    pub address: String,
    /// Why it does not serve; `None` if it does.
    pub failure: Option<String>,
    /// Which peer it saw contradict what the group has agreed on; `None` if none, or if it does not count itself.
    pub suspicion: Option<String>,
    /// Why nothing that it says counts: its data is blank, or not what the group admitted it with; `None` if it counts.
    pub uncounted: Option<String>,
    /// Why its log store answers later than it should; `None` if it does not, or if something worse is told.
    pub stall: Option<String>,
    /// Why it leads or does not, and what the last entry of its log waits for, in words; `None` if its driver was too busy to say.
    pub explanation: Option<String>,
    /// Something about its configuration that an operator should know.
    pub notice: Option<String>,
    /// Its state, as it has it applied; `None` if the state machine could not be asked.
    pub stats: Option<Stats>,
    /// Its process.
    pub pid: u32,
    /// How long it has been running, to the millisecond.
    pub uptime: Duration,
    /// The program's version.
    pub version: String,
    /// Of a leader: how far the other members are. Empty at others.
    pub peers: Vec<PeerReport>,
}

/// How far a member is, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerReport {
    /// The member.
    pub node: NodeId,
    /// The last index known to be durable there.
    pub matched: Index,
}

/// Stands before why a node does not count, in the place of a suspicion: earlier versions show the two alike.
const UNCOUNTED: &str = "does not count: ";

/// Stands before why a node stalls, likewise.
const STALLED: &str = "stalled: ";
/// Stands between an explanation and a notice, which share a place too.
const NOTICE: &str = "; note: ";

/// The most peers in a report.
const PEERS_MAX: u32 = 1024;

impl NodeReport {
    /// Whether the node says that it leads and serves.
    pub fn is_serving_leader(&self) -> bool {
        self.role == RoleKind::Leader && self.failure.is_none()
    }

    pub(super) fn put_to(&self, out: &mut Vec<u8>) {
        out.put_u64(self.node.0);
        out.put_u8(role_tag(self.role));
        out.put_u64(self.term.0);
        put_option(out, self.leader, |out, leader| out.put_u64(leader.0));
        for index in [self.commit, self.applied, self.last, self.durable] {
            out.put_u64(index.0);
        }
        put_text(out, &self.address);
        put_option(out, self.failure.as_deref(), put_text);
        put_option(out, self.distrust().as_deref(), put_text);
        put_option(out, self.words().as_deref(), put_text);
        put_option(out, self.stats.as_ref(), put_stats);
        out.put_u32(self.pid);
        out.put_u64(u64::try_from(self.uptime.as_millis()).unwrap_or(u64::MAX));
        put_text(out, &self.version);
        let peers = &self.peers[..self.peers.len().min(PEERS_MAX as usize)];
        out.put_u32(peers.len() as u32);
        for peer in peers {
            out.put_u64(peer.node.0);
            out.put_u64(peer.matched.0);
        }
    }

    /// What speaks against the node, the worst of it.
    fn distrust(&self) -> Option<String> {
        let with =
            |mark: &str, why: &Option<String>| why.as_ref().map(|why| format!("{mark}{why}"));
        with(UNCOUNTED, &self.uncounted)
            .or_else(|| self.suspicion.clone())
            .or_else(|| with(STALLED, &self.stall))
    }

    /// The explanation and the notice.
    fn words(&self) -> Option<String> {
        let Some(notice) = &self.notice else { return self.explanation.clone() };
        Some(format!("{}{NOTICE}{notice}", self.explanation.as_deref().unwrap_or_default()))
    }

    /// Undoes [`NodeReport::distrust`] and [`NodeReport::words`].
    fn tell_apart(&mut self) {
        let distrust = self.suspicion.take();
        let after =
            |mark| distrust.as_ref().and_then(|why| why.strip_prefix(mark)).map(str::to_owned);
        self.uncounted = after(UNCOUNTED);
        self.stall = after(STALLED);
        if self.uncounted.is_none() && self.stall.is_none() {
            self.suspicion = distrust;
        }
        let words = self.explanation.take();
        let parts = words.as_ref().and_then(|words| words.rsplit_once(NOTICE));
        if let Some((explanation, notice)) = parts {
            self.explanation = (!explanation.is_empty()).then(|| explanation.to_owned());
            self.notice = Some(notice.to_owned());
        } else {
            self.explanation = words;
        }
    }

    pub(super) fn read_from(reader: &mut Reader<'_>) -> Result<NodeReport, Malformed> {
        const WHAT: &str = "a status";
        let mut report = NodeReport {
            node: NodeId(reader.u64(WHAT)?),
            role: read_role(reader)?,
            term: Term(reader.u64(WHAT)?),
            leader: read_option(reader, WHAT, |reader| reader.u64(WHAT).map(NodeId))?,
            commit: Index(reader.u64(WHAT)?),
            applied: Index(reader.u64(WHAT)?),
            last: Index(reader.u64(WHAT)?),
            durable: Index(reader.u64(WHAT)?),
            address: read_text(reader, WHAT)?,
            failure: read_option(reader, WHAT, |reader| read_text(reader, WHAT))?,
            suspicion: read_option(reader, WHAT, |reader| read_text(reader, WHAT))?,
            uncounted: None,
            stall: None,
            explanation: read_option(reader, WHAT, |reader| read_text(reader, WHAT))?,
            notice: None,
            stats: read_option(reader, WHAT, read_stats)?,
            pid: reader.u32(WHAT)?,
            uptime: Duration::from_millis(reader.u64(WHAT)?),
            version: read_text(reader, WHAT)?,
            peers: read_peers(reader)?,
        };
        report.tell_apart();
        Ok(report)
    }
}

fn read_peers(reader: &mut Reader<'_>) -> Result<Vec<PeerReport>, Malformed> {
    let count = reader.u32("a status's peers")?;
    if count > PEERS_MAX {
        return Err(Malformed::Truncated { what: "a status that claims too many peers" });
    }
    (0..count)
        .map(|_| {
            Ok(PeerReport {
                node: NodeId(reader.u64("a peer")?),
                matched: Index(reader.u64("a peer")?),
            })
        })
        .collect()
}

fn role_tag(role: RoleKind) -> u8 {
    match role {
        RoleKind::Follower => 1,
        RoleKind::PreCandidate => 2,
        RoleKind::Candidate => 3,
        RoleKind::Leader => 4,
        RoleKind::Learner => 5,
        RoleKind::Witness => 6,
        RoleKind::Outsider => 7,
    }
}

fn read_role(reader: &mut Reader<'_>) -> Result<RoleKind, Malformed> {
    Ok(match reader.u8("a role")? {
        1 => RoleKind::Follower,
        2 => RoleKind::PreCandidate,
        3 => RoleKind::Candidate,
        4 => RoleKind::Leader,
        5 => RoleKind::Learner,
        6 => RoleKind::Witness,
        7 => RoleKind::Outsider,
        tag => return Err(Malformed::UnknownTag { what: "role", tag }),
    })
}
