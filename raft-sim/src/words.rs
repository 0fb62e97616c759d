//! Messages, inputs and actions in the field's words, short enough for one line: `Append t4 prev 12@3 +5 commit 11`. A position is
//! `index@term`, a term `t4`. For people; nothing reads this back.

use std::fmt::Write as _;

use raft_core::{
    Action, AppendOutcome, Body, ChangeStep, Entries, Event, ForwardOutcome, Input, Membership,
    Message, NodeId, Payload, Persist, ReadAt, Resolution, SnapshotOutcome, StorageHealth,
};
use raft_node::{SnapshotChunk, SnapshotFrame};

/// A message.
pub fn message(message: &Message) -> String {
    let (name, rest) = body(&message.body);
    let gap = if rest.is_empty() { "" } else { " " };
    format!("{name} t{}{gap}{rest}", message.term)
}

/// A snapshot's chunk: `Chunk t4 7@3 0..512`.
pub fn frame(frame: &SnapshotFrame) -> String {
    let SnapshotFrame { term, position, chunk } = frame;
    match chunk {
        SnapshotChunk::Data { data, .. } if data.is_empty() => {
            format!("ChunkQuestion t{term} {position}")
        }
        SnapshotChunk::Data { offset, data, .. } => {
            let end = offset.saturating_add(data.len() as u64);
            format!("Chunk t{term} {position} {offset}..{end}")
        }
        SnapshotChunk::End { size_bytes, .. } => {
            format!("ChunkEnd t{term} {position} of {size_bytes}")
        }
        SnapshotChunk::Ack { offset: SnapshotChunk::ACK_COMPLETE } => {
            format!("ChunkReply t{term} {position} complete")
        }
        SnapshotChunk::Ack { offset } => format!("ChunkReply t{term} {position} has {offset}"),
        SnapshotChunk::Abort => format!("ChunkAbort t{term} {position}"),
    }
}

fn body(body: &Body) -> (&'static str, String) {
    let granted = |granted: bool| if granted { "granted" } else { "refused" }.to_owned();
    match body {
        Body::PreVote { last } => ("PreVote", format!("last {last}")),
        Body::PreVoteResponse { granted: yes } => ("PreVoteReply", granted(*yes)),
        Body::Vote { last, transfer } => {
            ("Vote", format!("last {last}{}", if *transfer { " transfer" } else { "" }))
        }
        Body::VoteResponse { granted: yes } => ("VoteReply", granted(*yes)),
        Body::Append { prev, entries, commit } => {
            ("Append", format!("prev {prev} {} commit {commit}", entries_words(entries)))
        }
        Body::AppendResponse(AppendOutcome::Accepted { matched }) => {
            ("AppendReply", format!("matched {matched}"))
        }
        Body::AppendResponse(AppendOutcome::Witnessed { matched }) => {
            ("AppendReply", format!("witnessed {matched}"))
        }
        Body::AppendResponse(AppendOutcome::Rejected { prev, hint }) => {
            ("AppendReply", format!("rejected prev {prev} hint {hint}"))
        }
        Body::Heartbeat { commit, read_context } => {
            ("Heartbeat", format!("commit {commit} round {read_context}"))
        }
        Body::HeartbeatResponse { read_context } => {
            ("HeartbeatReply", format!("round {read_context}"))
        }
        Body::TimeoutNow => ("TimeoutNow", String::new()),
        Body::ReadIndex { context } => ("ReadIndex", format!("#{context}")),
        Body::ReadIndexResponse { context, index: Some(index) } => {
            ("ReadIndexReply", format!("#{context} index {index}"))
        }
        Body::ReadIndexResponse { context, index: None } => {
            ("ReadIndexReply", format!("#{context} refused"))
        }
        Body::Forward { id, commands } => {
            ("Forward", format!("#{} {} commands", id.sequence, commands.len()))
        }
        Body::ForwardResponse { id, outcome: ForwardOutcome::Appended { first, count } } => {
            ("ForwardReply", format!("#{} appended {first} +{count}", id.sequence))
        }
        Body::ForwardResponse { id, outcome: ForwardOutcome::Refused(reason) } => {
            ("ForwardReply", format!("#{} refused: {reason}", id.sequence))
        }
        Body::SnapshotOffer { snapshot } => ("SnapshotOffer", format!("{}", snapshot.position)),
        Body::SnapshotResponse { position, outcome } => {
            let outcome = match outcome {
                SnapshotOutcome::Wanted => "wanted".to_owned(),
                SnapshotOutcome::Matched(index) => format!("matched {index}"),
                SnapshotOutcome::Failed => "failed".to_owned(),
            };
            ("SnapshotReply", format!("{position} {outcome}"))
        }
    }
}

/// Something that a core is told.
pub fn input(input: &Input) -> String {
    match input {
        Input::Timeout => "its timer fires".to_owned(),
        Input::Message { from, message: it, .. } => format!("hears from {from}: {}", message(it)),
        Input::Propose { id, commands } => {
            format!("is asked to append batch #{} of {}", id.0, commands.len())
        }
        Input::Read { id, at: ReadAt::Leader } => format!("is asked for read #{}", id.0),
        Input::Read { id, at: ReadAt::AnyMember } => {
            format!("is asked for read #{} (any member)", id.0)
        }
        Input::ChangeMembership { id, change } => {
            let steps: Vec<String> = change.steps.iter().map(|step| step_words(*step)).collect();
            format!("is asked to {} (#{})", steps.join(", "), id.0)
        }
        Input::TransferLeadership { id, to: Some(to) } => {
            format!("is asked to hand leadership to {to} (#{})", id.0)
        }
        Input::TransferLeadership { id, to: None } => {
            format!("is asked to hand leadership on (#{})", id.0)
        }
        Input::StorageHealth(StorageHealth::Healthy) => "its disk is healthy".to_owned(),
        Input::StorageHealth(StorageHealth::Stalled) => "its disk stalls".to_owned(),
        Input::ClockSuspect => "its clock may have stopped".to_owned(),
        Input::Persisted(ticket) => format!("write #{ticket} is durable"),
        Input::Fetched { peer, entries } => {
            format!("has read {} for {peer}", entries_words(entries))
        }
        Input::FetchFailed { peer } => format!("can not read entries for {peer}"),
        Input::Applied(index) => format!("has applied through {index}"),
        Input::SnapshotTaken(meta) => format!("has a checkpoint at {}", meta.position),
        Input::SnapshotReceived(meta) => format!("has received the snapshot at {}", meta.position),
        Input::SnapshotInstalled(meta) => {
            format!("has installed the snapshot at {}", meta.position)
        }
        Input::SnapshotFailed(meta) => {
            format!("has not received the snapshot at {}", meta.position)
        }
        Input::SnapshotInstallFailed(meta) => {
            format!("failed to install the snapshot at {}", meta.position)
        }
        Input::SnapshotStreamEnded { to, position } => {
            format!("its stream of the snapshot at {position} to {to} has ended")
        }
        Input::Unreachable(peer) => format!("can not reach {peer}"),
    }
}

/// Something that a core wants done.
pub fn action(action: &Action) -> String {
    match action {
        Action::Persist(write) => persist(write),
        Action::Send { to, message: it } => format!("tells {to}: {}", message(it)),
        Action::Fetch { peer, first, last, .. } => format!("reads {first}..{last} for {peer}"),
        Action::Apply(apply) => format!("commits and applies {}..{}", apply.first, apply.last),
        Action::Compact { through } => format!("compacts through {through}"),
        Action::StreamSnapshot { to, snapshot, .. } => {
            format!("streams the snapshot at {} to {to}", snapshot.position)
        }
        Action::ReceiveSnapshot { from, snapshot, .. } => {
            format!("expects the snapshot at {} from {from}", snapshot.position)
        }
        Action::InstallSnapshot(meta) => format!("installs the snapshot at {}", meta.position),
        Action::Resolve(outcome) => resolution(outcome),
        Action::Event(event) => event_words(event),
    }
}

fn persist(write: &Persist) -> String {
    let mut text = format!("writes #{}:", write.ticket);
    if let Some(state) = write.hard_state {
        let _ = write!(text, " t{}", state.term);
        if let Some(vote) = state.vote {
            let _ = write!(text, " vote {vote}");
        }
        let _ = write!(text, " commit {}", state.commit);
    }
    if let Some(reset) = &write.reset {
        let _ = write!(text, " reset to {}", reset.position);
    }
    if let Some(from) = write.truncate_from {
        let _ = write!(text, " cut from {from}");
    }
    if !write.entries.is_empty() {
        let _ = write!(text, " {}", entries_words(&write.entries));
    }
    text
}

fn resolution(outcome: &Resolution) -> String {
    match outcome {
        Resolution::Appended { id, first, count, term } => {
            format!("answers batch #{}: appended {first} +{count} t{term}", id.0)
        }
        Resolution::Refused { id, reason } => format!("refuses batch #{}: {reason}", id.0),
        Resolution::Abandoned { id } => format!("abandons batch #{}", id.0),
        Resolution::ReadReady { id, index } => format!("answers read #{}: as of {index}", id.0),
        Resolution::ReadRefused { id, reason } => format!("refuses read #{}: {reason}", id.0),
        Resolution::RequestDone { id } => format!("has done request #{}", id.0),
        Resolution::RequestRefused { id, reason } => format!("refuses request #{}: {reason}", id.0),
        Resolution::RequestAbandoned { id } => format!("abandons request #{}", id.0),
    }
}

fn event_words(event: &Event) -> String {
    match event {
        Event::RoleChanged { role, term } => format!("becomes {role} t{term}"),
        Event::LeaderChanged { leader: Some(leader), term } => {
            format!("knows leader {leader} t{term}")
        }
        Event::LeaderChanged { leader: None, term } => format!("knows no leader t{term}"),
        Event::MembershipChanged { at } => format!("follows the configuration at {at}"),
        Event::StoreRejected { node, store } => {
            format!("learns that store {store} of {node} does not count")
        }
    }
}

fn step_words(step: ChangeStep) -> String {
    match step {
        ChangeStep::AddLearner(node) => format!("add learner {node}"),
        ChangeStep::Promote(node) => format!("promote {node}"),
        ChangeStep::AddVoter(node) => format!("add voter {node}"),
        ChangeStep::AddWitness(node) => format!("add witness {node}"),
        ChangeStep::Demote(node) => format!("demote {node}"),
        ChangeStep::Remove(node) => format!("remove {node}"),
    }
}

/// How many entries, and the configurations among them.
fn entries_words(entries: &Entries) -> String {
    let mut text = format!("+{}", entries.len());
    if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
        let (first, last) = (first.position(), last.position());
        let _ = write!(text, " ({first}");
        if first != last {
            let _ = write!(text, "..{last}");
        }
        text.push(')');
    }
    for entry in entries.iter() {
        if let Payload::Membership(it) = &entry.payload {
            let _ = write!(text, " [{}: {}]", entry.index, membership(it));
        }
    }
    text
}

/// A configuration: `voters 1 2 3 (leaving 1 2) learners 4 witnesses 5`.
pub fn membership(it: &Membership) -> String {
    if it.is_empty() {
        return "no members".to_owned();
    }
    let mut text = format!("voters {}", nodes(&it.voters));
    for (what, set) in
        [(" leaving ", &it.outgoing), (" learners ", &it.learners), (" witnesses ", &it.witnesses)]
    {
        if !set.is_empty() {
            let _ = write!(text, "{what}{}", nodes(set));
        }
    }
    text
}

fn nodes<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> String {
    nodes.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::{Entry, Index, LogPosition, Term};

    #[test]
    fn an_append_fits_one_short_line() {
        let entry = |index| Entry { index: Index(index), term: Term(4), payload: Payload::Empty };
        let entries = Entries::try_from_vec((13..18).map(entry).collect()).expect("a run");
        let append = Body::Append {
            prev: LogPosition { index: Index(12), term: Term(3) },
            entries,
            commit: Index(11),
        };
        let text = message(&Message { term: Term(4), body: append });
        assert_eq!(text, "Append t4 prev 12@3 +5 (13@4..17@4) commit 11");
    }
}
