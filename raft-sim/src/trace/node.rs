//! One member of a traced run: its core, its disk, and what of both the trace's schema shows.

use std::collections::BTreeSet;

use raft_core::{
    HardState, Index, LogPosition, Membership, Message, NodeId, Payload, Persist, Raft, RoleKind,
    Status, Term,
};

use super::event::{Event, Line, Msg, MsgType, Name, Prop, RoleName, State, Tag};
use crate::Image;

/// What a trace shows of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shot {
    pub(super) id: NodeId,
    pub(super) term: Term,
    pub(super) vote: Option<NodeId>,
    pub(super) commit: Index,
    pub(super) role: RoleName,
    pub(super) last: Index,
    /// The voters of the configuration that the schema takes for the one in effect: the latest that the node knows to be committed.
    pub(super) voters: BTreeSet<NodeId>,
}

impl Shot {
    /// One line about this node as it is here.
    pub(super) fn line(&self, name: Name, msg: Option<Msg>, prop: Option<Prop>) -> Line {
        let event = Event {
            name,
            nid: self.id.to_string(),
            state: State {
                term: number(self.term.0),
                vote: self.vote.map_or_else(|| "0".to_owned(), |vote| vote.to_string()),
                commit: number(self.commit.0),
            },
            role: self.role,
            log: number(self.last.0),
            conf: [names(&self.voters), Vec::new()],
            msg,
            prop,
        };
        Line { tag: Tag::Trace, event }
    }
}

/// The schema's integers are signed and have 32 bits. Runs are far too short to come near.
pub(super) fn number(value: u64) -> u32 {
    value.min(i32::MAX as u64) as u32
}

pub(super) fn names(nodes: &BTreeSet<NodeId>) -> Vec<String> {
    nodes.iter().map(NodeId::to_string).collect()
}

/// One member.
pub(super) struct Node {
    pub(super) id: NodeId,
    /// `None` while it is down.
    pub(super) raft: Option<Raft>,
    /// What a restart finds.
    pub(super) disk: Image,
    /// What the disk will hold once all writes are done.
    pub(super) log: Image,
    /// The committed configuration that it knows, and the index of its entry.
    pub(super) conf: Membership,
    pub(super) conf_at: Index,
    /// What the last `Ready` showed.
    pub(super) durable: Option<Shot>,
    /// Whether the spec's node has messages that wait for a `Ready`.
    pub(super) is_dirty: bool,
    pub(super) persists: Vec<Persist>,
    pub(super) outgoing: Vec<(NodeId, Message)>,
    pub(super) votes_for_itself: bool,
    pub(super) own_acks: Vec<(Term, Index)>,
    /// The acknowledgements that the spec's node has queued: to whom, in which term, up to where.
    pub(super) replies: Vec<(NodeId, Term, Index)>,
    /// Refusals that the spec would not make; they are lost on the way.
    pub(super) suppressed: BTreeSet<(NodeId, Term)>,
    /// Who granted its vote in the candidacy that is under way.
    pub(super) granted: BTreeSet<NodeId>,
    /// The spec lets a leader change the configuration only while this is zero.
    pub(super) change_at: Index,
    /// How often it was started.
    pub(super) lives: u64,
}

impl Node {
    /// A node on this disk, not started yet.
    pub(super) fn new(id: NodeId, disk: Image) -> Node {
        let mut node = Node {
            id,
            raft: None,
            log: disk.clone(),
            disk,
            conf: Membership::default(),
            conf_at: Index(0),
            durable: None,
            is_dirty: false,
            persists: Vec::new(),
            outgoing: Vec::new(),
            votes_for_itself: false,
            own_acks: Vec::new(),
            replies: Vec::new(),
            suppressed: BTreeSet::new(),
            granted: BTreeSet::new(),
            change_at: Index(0),
            lives: 0,
        };
        node.lose_memory();
        node
    }

    /// The disk of a founding member: one committed entry of term 1, which holds the configuration.
    pub(super) fn founding_disk(membership: &Membership) -> Image {
        let mut disk = Image::founding(membership.clone());
        disk.entries.push(raft_core::Entry {
            term: Term(1),
            index: Index(1),
            payload: Payload::Membership(membership.clone().into()),
        });
        disk.hard_state = HardState { term: Term(1), vote: None, commit: Index(1) };
        disk
    }

    /// What a crash does: everything is gone but the disk.
    pub(super) fn lose_memory(&mut self) {
        self.raft = None;
        self.log = self.disk.clone();
        self.durable = None;
        self.is_dirty = false;
        self.persists.clear();
        self.outgoing.clear();
        self.votes_for_itself = false;
        self.own_acks.clear();
        self.replies.clear();
        self.suppressed.clear();
        self.granted.clear();
        self.change_at = Index(0);
        let (conf, conf_at) = self.committed_conf(self.disk.hard_state.commit);
        (self.conf, self.conf_at) = (conf, conf_at);
    }

    /// The latest configuration at or below `commit`. Before any entry there is none, as far as the schema goes.
    pub(super) fn committed_conf(&self, commit: Index) -> (Membership, Index) {
        let committed = self.log.entries.iter().take_while(|entry| entry.index <= commit);
        committed
            .filter_map(|entry| match &entry.payload {
                Payload::Membership(membership) => {
                    Some((Membership::clone(membership), entry.index))
                }
                _ => None,
            })
            .last()
            .unwrap_or_default()
    }

    pub(super) fn status(&self) -> Option<Status> {
        self.raft.as_ref().map(Raft::status)
    }

    pub(super) fn shot(&self) -> Option<Shot> {
        let status = self.status()?;
        let role = match status.role {
            RoleKind::Candidate => RoleName::Candidate,
            RoleKind::Leader => RoleName::Leader,
            _ => RoleName::Follower,
        };
        Some(Shot {
            id: self.id,
            term: status.term,
            vote: status.vote,
            commit: status.commit,
            role,
            last: status.last,
            voters: self.conf.voters.clone(),
        })
    }

    /// Makes all writes durable; says what does not fit, if anything.
    pub(super) fn write_all(&mut self) -> Result<Vec<Persist>, String> {
        let persists = std::mem::take(&mut self.persists);
        for persist in &persists {
            self.disk.write(persist)?;
        }
        let Some(shot) = self.shot() else { return Ok(persists) };
        // The commit index never causes a write of its own; this disk notes it whenever it is in use anyway.
        self.disk.hard_state.commit = shot.commit;
        let HardState { term, vote, .. } = self.disk.hard_state;
        if (term, vote, self.disk.last().index) != (shot.term, shot.vote, shot.last) {
            return Err(format!(
                "its disk has {term}, {vote:?}, {}; the core {shot:?}",
                self.disk.last()
            ));
        }
        Ok(persists)
    }

    /// Whether the log holds this position.
    pub(super) fn contains(&self, position: LogPosition) -> bool {
        self.log.term_at(position.index) == Some(position.term)
    }
}

/// How a message shows in a trace; `None` if the schema does not know its kind.
pub(super) fn project(from: NodeId, to: NodeId, message: &Message) -> Option<Msg> {
    use raft_core::{AppendOutcome, Body};
    let msg = |kind| Msg::new(kind, number(message.term.0), from.to_string(), to.to_string());
    let mut told = match &message.body {
        Body::Vote { last, .. } => Msg {
            index: Some(number(last.index.0)),
            log_term: Some(number(last.term.0)),
            ..msg(MsgType::MsgVote)
        },
        Body::VoteResponse { granted } => {
            Msg { reject: Some(!granted), ..msg(MsgType::MsgVoteResp) }
        }
        Body::Append { prev, entries, commit } => Msg {
            index: Some(number(prev.index.0)),
            log_term: Some(number(prev.term.0)),
            entries: Some(number(entries.len() as u64)),
            // What it tells about, and no more: the receiver can not have more from it.
            commit: Some(number(commit.0.min(prev.index.0 + entries.len() as u64))),
            ..msg(MsgType::MsgApp)
        },
        Body::Heartbeat { commit, .. } => {
            Msg { entries: Some(0), commit: Some(number(commit.0)), ..msg(MsgType::MsgHeartbeat) }
        }
        // The answer to a leader of the past. The schema has no other word for it than a refused append.
        Body::HeartbeatResponse { read_context: 0 } => {
            Msg { index: Some(0), reject: Some(true), ..msg(MsgType::MsgAppResp) }
        }
        Body::HeartbeatResponse { .. } => msg(MsgType::MsgHeartbeatResp),
        Body::AppendResponse(AppendOutcome::Accepted { matched }) => {
            Msg { index: Some(number(matched.0)), ..msg(MsgType::MsgAppResp) }
        }
        Body::AppendResponse(AppendOutcome::Rejected { prev, .. }) => {
            Msg { index: Some(number(prev.0)), reject: Some(true), ..msg(MsgType::MsgAppResp) }
        }
        _ => return None,
    };
    let is_answer = matches!(told.kind, MsgType::MsgAppResp | MsgType::MsgHeartbeatResp);
    if is_answer && told.reject.is_none() {
        told.reject = Some(false);
    }
    Some(told)
}
