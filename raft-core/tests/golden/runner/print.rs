//! How messages, writes, answers and errors look in a script's output. Every match is exhaustive, so that the compiler names what is missing here
//! when the core learns something new.

use std::fmt::{Debug, Write as _};

use raft_core::{
    Action, AppendOutcome, Apply, Body, Entries, Entry, Event, ForwardId, ForwardOutcome,
    HandleError, HardState, InFlightStatus, LogPosition, Membership, Message, NodeId, Payload,
    PeerStatus, Persist, ReplicationKind, Resolution, SnapshotMeta, SnapshotOutcome, Status,
    StorageHealth, StoreStanding,
};

/// One line for one action of `node`; what it says of messages is said by [`sent`] and [`streamed`].
pub(crate) fn action(node: u64, action: &Action) -> String {
    match action {
        Action::Persist(write) => format!("{node} persists {}", persist(write)),
        Action::Send { to, message } => sent(node, to.0, message),
        Action::Fetch { peer, first, last, budget_bytes } => {
            format!("{node} fetches {first}..{last} for {peer}, up to {budget_bytes} bytes")
        }
        Action::Apply(Apply { first, last, entries: in_memory }) => {
            format!("{node} applies {first}..{last} {}", entries(in_memory))
        }
        Action::Compact { through } => format!("{node} compacts its log through {through}"),
        Action::StreamSnapshot { to, term, snapshot } => streamed(node, to.0, term.0, snapshot),
        Action::ReceiveSnapshot { from, term, snapshot: meta } => {
            format!("{node} expects snapshot {} from {from} in term {term}", snapshot(meta))
        }
        Action::InstallSnapshot(meta) => format!("{node} installs snapshot {}", snapshot(meta)),
        Action::Resolve(answer) => format!("{node} answers {}", resolution(answer)),
        Action::Event(Event::StoreRejected { node: own, store }) if own.0 == node => {
            format!("{node} is told that its own store {} is rejected", store.0)
        }
        Action::Event(event) => format!("{node} {}", self::event(event)),
    }
}

pub(crate) fn sent(from: u64, to: u64, message: &Message) -> String {
    format!("{from}→{to} t{} {}", message.term, body(&message.body))
}

pub(crate) fn streamed(from: u64, to: u64, term: u64, meta: &SnapshotMeta) -> String {
    format!("{from}→{to} t{term} streams snapshot {}", snapshot(meta))
}

/// The name of a kind of message, as scripts write it too.
pub(crate) fn body_name(body: &Body) -> &'static str {
    match body {
        Body::PreVote { .. } => "PreVote",
        Body::PreVoteResponse { .. } => "PreVoteResponse",
        Body::Vote { .. } => "Vote",
        Body::VoteResponse { .. } => "VoteResponse",
        Body::Append { .. } => "Append",
        Body::AppendResponse(_) => "AppendResponse",
        Body::Heartbeat { .. } => "Heartbeat",
        Body::HeartbeatResponse { .. } => "HeartbeatResponse",
        Body::TimeoutNow => "TimeoutNow",
        Body::ReadIndex { .. } => "ReadIndex",
        Body::ReadIndexResponse { .. } => "ReadIndexResponse",
        Body::Forward { .. } => "Forward",
        Body::ForwardResponse { .. } => "ForwardResponse",
        Body::SnapshotOffer { .. } => "SnapshotOffer",
        Body::SnapshotResponse { .. } => "SnapshotResponse",
    }
}

fn body(body: &Body) -> String {
    let content = match body {
        Body::PreVote { last } | Body::Vote { last, transfer: false } => format!("last={last}"),
        Body::Vote { last, transfer: true } => format!("last={last} transfer"),
        Body::PreVoteResponse { granted } | Body::VoteResponse { granted } => {
            if *granted { "granted" } else { "refused" }.to_owned()
        }
        Body::Append { prev, entries, commit } => {
            format!("prev={prev} {} commit={commit}", self::entries(entries))
        }
        Body::AppendResponse(AppendOutcome::Accepted { matched }) => format!("matched={matched}"),
        Body::AppendResponse(AppendOutcome::Witnessed { matched }) => {
            format!("matched={matched} without commands")
        }
        Body::AppendResponse(AppendOutcome::Rejected { prev, hint }) => {
            format!("rejected prev={prev} hint={hint}")
        }
        Body::Heartbeat { commit, read_context } => {
            format!("commit={commit} read_context={read_context}")
        }
        Body::HeartbeatResponse { read_context } => format!("read_context={read_context}"),
        Body::TimeoutNow => return body_name(body).to_owned(),
        Body::ReadIndex { context } => format!("context={}", drawn(*context)),
        Body::ReadIndexResponse { context, index: Some(index) } => {
            format!("context={} index={index}", drawn(*context))
        }
        Body::ReadIndexResponse { context, index: None } => {
            format!("context={} refused", drawn(*context))
        }
        Body::Forward { id, commands } => {
            let texts: Vec<String> =
                commands.iter().map(|c| format!("{:?}", String::from_utf8_lossy(c))).collect();
            format!("{} [{}]", forward_id(*id), texts.join(" "))
        }
        Body::ForwardResponse { id, outcome } => match outcome {
            ForwardOutcome::Appended { first, count } => {
                format!("{} appended at {first}..{}", forward_id(*id), first.plus(*count).prev())
            }
            ForwardOutcome::Refused(reason) => {
                format!("{} refused, {}: {reason}", forward_id(*id), variant(reason))
            }
        },
        Body::SnapshotOffer { snapshot } => self::snapshot(snapshot),
        Body::SnapshotResponse { position, outcome } => match outcome {
            SnapshotOutcome::Wanted => format!("{position} wanted"),
            SnapshotOutcome::Matched(matched) => format!("{position} matched={matched}"),
            SnapshotOutcome::Failed => format!("{position} failed"),
        },
    };
    format!("{} {content}", body_name(body))
}

/// A number that a core drew at random: its last four digits tell it from others.
fn drawn(number: u64) -> String {
    format!("~{:04x}", number & 0xffff)
}

fn forward_id(id: ForwardId) -> String {
    let ForwardId { nonce, sequence } = id;
    format!("{}/{sequence}", drawn(nonce))
}

fn persist(write: &Persist) -> String {
    let Persist { ticket, hard_state, reset, truncate_from, entries } = write;
    let mut line = format!("#{ticket}");
    if let Some(HardState { term, vote, commit }) = hard_state {
        let _ = write!(line, " term={term} vote={} commit={commit}", optional(*vote));
    }
    if let Some(meta) = reset {
        let _ = write!(line, " reset to {}", snapshot(meta));
    }
    if let Some(index) = truncate_from {
        let _ = write!(line, " truncate from {index}");
    }
    if !entries.is_empty() {
        let _ = write!(line, " {}", self::entries(entries));
    }
    line
}

fn resolution(resolution: &Resolution) -> String {
    match resolution {
        Resolution::Appended { id, first, count, term } => {
            format!("p{}: appended at {first}..{} in term {term}", id.0, first.plus(*count).prev())
        }
        Resolution::Refused { id, reason } => {
            format!("p{}: refused, {}: {reason}", id.0, variant(reason))
        }
        Resolution::Abandoned { id } => format!("p{}: abandoned, it may or may not commit", id.0),
        Resolution::ReadReady { id, index } => format!("r{}: read once {index} is applied", id.0),
        Resolution::ReadRefused { id, reason } => {
            format!("r{}: refused, {}: {reason}", id.0, variant(reason))
        }
        Resolution::RequestDone { id } => format!("q{}: done", id.0),
        Resolution::RequestRefused { id, reason } => {
            format!("q{}: refused, {}: {reason}", id.0, variant(reason))
        }
        Resolution::RequestAbandoned { id } => {
            format!("q{}: abandoned, it may or may not be done", id.0)
        }
    }
}

fn event(event: &Event) -> String {
    match event {
        Event::RoleChanged { role, term } => format!("becomes {role} in term {term}"),
        Event::LeaderChanged { leader: Some(leader), term } => {
            format!("knows leader {leader} of term {term}")
        }
        Event::LeaderChanged { leader: None, term } => {
            format!("knows no leader of term {term}")
        }
        Event::MembershipChanged { at } => format!("has the configuration of {at}"),
        Event::StoreRejected { node, store } => {
            format!("rejects store {} of node {node}", store.0)
        }
    }
}

pub(crate) fn error(error: &HandleError) -> String {
    match error {
        HandleError::Peer { fault, .. } => format!("PeerFault::{}: {error}", variant(fault)),
        HandleError::Caller(fault) => format!("CallerFault::{}: {error}", variant(fault)),
    }
}

/// The name of an enum's variant, without what it holds.
pub(crate) fn variant(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
    text[..end].to_owned()
}

/// `[3@1 "a" 4@2]`; a long run of one term shows its ends only.
pub(crate) fn entries(entries: &Entries) -> String {
    let all: Vec<&Entry> = entries.iter().collect();
    match all[..] {
        [first, .., last] if all.len() > 6 => {
            format!("[{} … {} ({} entries)]", entry(first), entry(last), all.len())
        }
        _ => format!("[{}]", all.into_iter().map(entry).collect::<Vec<_>>().join(" ")),
    }
}

pub(crate) fn entry(entry: &Entry) -> String {
    let position = entry.position();
    match &entry.payload {
        Payload::Empty => position.to_string(),
        Payload::Command(command) if command.len() > 20 => {
            format!("{position} <{} bytes>", command.len())
        }
        Payload::Command(command) => {
            format!("{position} {:?}", String::from_utf8_lossy(command))
        }
        Payload::Withheld => format!("{position} withheld"),
        Payload::Membership(members) => format!("{position} {}", membership(members)),
    }
}

/// `{1,2,3}`, `{1,2,4}&{1,2,3}` while joint, `{1,2,3}+{4}` with a learner, `{1,2,3w}` with a witness; with the stores that members were admitted with,
/// `{1,2}/{1:100,2:200}`.
pub(crate) fn membership(membership: &Membership) -> String {
    let Membership { voters, outgoing, learners, witnesses, stores } = membership;
    let set = |nodes: &std::collections::BTreeSet<NodeId>| {
        let name = |node: &NodeId| {
            if witnesses.contains(node) { format!("{node}w") } else { node.to_string() }
        };
        nodes.iter().map(name).collect::<Vec<_>>().join(",")
    };
    let mut text = format!("{{{}}}", set(voters));
    if !outgoing.is_empty() {
        let _ = write!(text, "&{{{}}}", set(outgoing));
    }
    if !learners.is_empty() {
        let _ = write!(text, "+{{{}}}", set(learners));
    }
    if !stores.is_empty() {
        let pairs = stores.iter().map(|(node, store)| format!("{node}:{}", store.0));
        let _ = write!(text, "/{{{}}}", pairs.collect::<Vec<_>>().join(","));
    }
    text
}

pub(crate) fn snapshot(meta: &SnapshotMeta) -> String {
    let SnapshotMeta { position, membership: members } = meta;
    format!("{position} {}", membership(members))
}

pub(crate) fn optional(node: Option<NodeId>) -> String {
    node.map_or_else(|| "none".to_owned(), |node| node.to_string())
}

/// A node at one moment; what is as usual is left out.
pub(crate) fn status(status: &Status) -> String {
    let Status {
        id,
        role,
        term,
        vote,
        leader,
        base,
        last,
        durable,
        commit,
        applied,
        membership: members,
        membership_at,
        storage,
        store: _,
        standing,
        lease_until,
        transfer_to,
        peers,
    } = status;
    let mut text = format!(
        "{id} {role} term={term} vote={} leader={} base={base} last={last} durable={durable} commit={commit} applied={applied} {}",
        optional(*vote),
        optional(*leader),
        membership(members),
    );
    if membership_at.0 > 0 {
        let _ = write!(text, " of {membership_at}");
    }
    if *storage == StorageHealth::Stalled {
        text.push_str(" storage=stalled");
    }
    match standing {
        StoreStanding::Accepted => {}
        StoreStanding::Blank => text.push_str(" store=blank"),
        StoreStanding::Rejected { admitted } => {
            let _ = write!(text, " store=rejected, not {}", admitted.0);
        }
        StoreStanding::Demoted { admitted } => {
            let _ = write!(text, " store=demoted, not {}", admitted.0);
        }
        other => panic!("a standing that scripts can not show: {other:?}"),
    }
    if let Some(until) = lease_until {
        let _ = write!(text, " lease until {} ms", until.0 / 1000);
    }
    if let Some(to) = transfer_to {
        let _ = write!(text, " handing over to {to}");
    }
    for peer in peers {
        let _ = write!(text, "\n  {}", peer_status(peer, members));
    }
    text
}

fn peer_status(peer: &PeerStatus, members: &Membership) -> String {
    let PeerStatus {
        id,
        matched,
        replication,
        in_flight: _,
        last_contact: _,
        is_caught_up,
        counts,
    } = peer;
    let how = match replication {
        ReplicationKind::Probe => "probe",
        ReplicationKind::Replicate => "replicate",
        ReplicationKind::Snapshot => "snapshot",
    };
    let mut text = format!("{id} {how} matched={matched}");
    if members.learners.contains(id) {
        text.push_str(if *is_caught_up { " caught up" } else { " not caught up" });
    }
    if !counts {
        text.push_str(" does not count");
    }
    text
}

/// What a leader has under way to each peer, and how much may be.
pub(crate) fn windows(status: &Status) -> Vec<String> {
    let window = |peer: &PeerStatus| match peer.in_flight {
        Some(InFlightStatus { messages, messages_max, bytes, bytes_max }) => {
            format!(
                "{messages} of {messages_max} messages and {bytes} of {bytes_max} bytes under way"
            )
        }
        None => "one message at a time".to_owned(),
    };
    let peers = status.peers.iter();
    peers.map(|peer| format!("{}→{}: {}", status.id, peer.id, window(peer))).collect()
}

/// A log as the paper's figure 7 draws it: the terms of its entries. The position that it is compacted through stands before them in parentheses; what
/// is not durable yet stands after a bar.
pub(crate) fn terms(base: LogPosition, entries: &[Entry], durable: u64) -> String {
    let mut words = Vec::new();
    if base != LogPosition::ORIGIN {
        words.push(format!("({base})"));
    }
    let mut barred = false;
    for entry in entries {
        if entry.index.0 > durable && !barred {
            words.push("|".to_owned());
            barred = true;
        }
        words.push(entry.term.to_string());
    }
    words.join(" ")
}
