//! The lines of a trace: the event schema of etcd/raft's published trace-validation spec, and nothing else. What the events mean is in
//! [`check`](super::check).

use serde::{Deserialize, Serialize};

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Always `trace`.
    pub tag: Tag,
    /// What happened.
    pub event: Event,
}

/// Tells the lines of a trace from others that a log may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tag {
    /// A line of a trace.
    Trace,
}

/// What happened, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// What happened.
    pub name: Name,
    /// At which node: a decimal number.
    pub nid: String,
    /// Its term, vote and commit index.
    pub state: State,
    /// Its role. A pre-candidate shows as follower.
    pub role: RoleName,
    /// The last index of its log.
    pub log: u32,
    /// The voters of the configuration in effect, and of the one that is being left (always empty here).
    pub conf: [Vec<String>; 2],
    /// The message, of events that are about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msg: Option<Msg>,
    /// The configuration change, of events that are about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prop: Option<Prop>,
}

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the schema's; what each means is in `check`")]
pub enum Name {
    InitState,
    BecomeCandidate,
    BecomeLeader,
    BecomeFollower,
    SendRequestVoteRequest,
    SendRequestVoteResponse,
    SendAppendEntriesRequest,
    SendAppendEntriesResponse,
    ReceiveRequestVoteRequest,
    ReceiveRequestVoteResponse,
    ReceiveAppendEntriesRequest,
    ReceiveAppendEntriesResponse,
    Ready,
    Replicate,
    ChangeConf,
    ApplyConfChange,
    Commit,
}

/// Term, vote and commit index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The term.
    pub term: u32,
    /// Whom it voted for in that term; `"0"` if nobody.
    pub vote: String,
    /// The commit index.
    pub commit: u32,
}

/// The roles that the schema knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RoleName {
    /// Neither of the others.
    #[serde(rename = "StateFollower")]
    Follower,
    /// Campaigns.
    #[serde(rename = "StateCandidate")]
    Candidate,
    /// Leads.
    #[serde(rename = "StateLeader")]
    Leader,
}

/// The kinds of messages that the schema knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the schema's")]
pub enum MsgType {
    MsgApp,
    MsgAppResp,
    MsgHeartbeat,
    MsgHeartbeatResp,
    MsgVote,
    MsgVoteResp,
}

/// A message. Which of the optional fields there are depends on its type alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Msg {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: MsgType,
    /// The sender's term.
    pub term: u32,
    /// The sender.
    pub from: String,
    /// The receiver.
    pub to: String,
    /// Of an append: the previous entry's index. Of a vote request: the last one's. Of an append's answer: what it acknowledges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// The term of the entry at `index`, of requests that have one.
    #[serde(default, rename = "logTerm", skip_serializing_if = "Option::is_none")]
    pub log_term: Option<u32>,
    /// How many entries: of appends; of heartbeats zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u32>,
    /// The commit index that it tells: of appends and heartbeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<u32>,
    /// Whether it refuses: of answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reject: Option<bool>,
}

impl Msg {
    /// A message without its optional fields.
    pub fn new(kind: MsgType, term: u32, from: String, to: String) -> Msg {
        let (index, log_term, entries, commit, reject) = (None, None, None, None, None);
        Msg { kind, term, from, to, index, log_term, entries, commit, reject }
    }

    /// Whether exactly those optional fields are there that its type has.
    pub fn is_complete(&self) -> bool {
        let has = [
            self.index.is_some(),
            self.log_term.is_some(),
            self.entries.is_some(),
            self.commit.is_some(),
            self.reject.is_some(),
        ];
        has == match self.kind {
            MsgType::MsgApp => [true, true, true, true, false],
            MsgType::MsgAppResp => [true, false, false, false, true],
            MsgType::MsgHeartbeat => [false, false, true, true, false],
            MsgType::MsgHeartbeatResp | MsgType::MsgVoteResp => [false, false, false, false, true],
            MsgType::MsgVote => [true, true, false, false, false],
        }
    }
}

/// What belongs to an event and is no message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prop {
    /// A change of the configuration.
    pub cc: ConfChange,
}

/// A change of the configuration: what was asked for, or what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfChange {
    /// What was asked for: of `ChangeConf`, exactly one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<Change>>,
    /// The voters from now on: of `ApplyConfChange`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newconf: Option<Vec<String>>,
}

/// One change of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Who comes or goes.
    pub nid: String,
    /// What is done.
    pub action: ChangeAction,
}

/// The changes that the schema knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeAction {
    /// A new voter, or a learner that becomes one.
    AddNewServer,
    /// A member of any kind leaves.
    RemoveServer,
    /// A new learner.
    AddLearner,
}
