//! What scripts write: positions, entries, configurations, messages and inputs. A new kind of message or input is added in [`body`] or [`input`].

use std::error::Error;
use std::str::FromStr;

use bytes::Bytes;
use goldenscript::{Argument, ArgumentConsumer};
use raft_core::{
    AppendOutcome, Body, ChangeStep, CommitGroups, Config, Entries, Entry, ForwardId,
    ForwardOutcome, Index, Input, LeaseConfig, LogPosition, Membership, MembershipChange, NodeId,
    Payload, ReadAt, ReadId, Refusal, RequestId, SnapshotMeta, SnapshotOutcome, StorageHealth,
    StoreId, StoreStamp, Term, Ticket,
};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A command's arguments, taken one by one; what is left at the end is an error.
pub(crate) struct Args<'a>(pub(crate) ArgumentConsumer<'a>);

impl Args<'_> {
    /// The next word, which must be there.
    pub(crate) fn word(&mut self, what: &str) -> Result<String> {
        self.0.next_pos().map(str::to_owned).ok_or_else(|| format!("{what} is missing").into())
    }

    pub(crate) fn optional_word(&mut self) -> Option<String> {
        self.0.next_pos().map(str::to_owned)
    }

    pub(crate) fn node(&mut self) -> Result<u64> {
        number(&self.word("a node")?)
    }

    /// All words that are left, as numbers.
    pub(crate) fn numbers(&mut self) -> Result<Vec<u64>> {
        std::iter::from_fn(|| self.0.next_pos()).map(number).collect()
    }

    pub(crate) fn words(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.0.next_pos()).map(str::to_owned).collect()
    }

    pub(crate) fn text(&mut self, key: &str) -> Option<String> {
        self.0.take_key(key).map(str::to_owned)
    }

    pub(crate) fn number(&mut self, key: &str) -> Result<Option<u64>> {
        self.text(key).map(|text| number(&text)).transpose()
    }

    /// `key=N`, or 0.
    pub(crate) fn number_or_zero(&mut self, key: &str) -> Result<u64> {
        Ok(self.number(key)?.unwrap_or(0))
    }

    /// `key=INDEX@TERM`, or the origin.
    fn position(&mut self, key: &str) -> Result<LogPosition> {
        self.text(key).map_or(Ok(LogPosition::ORIGIN), |text| position(&text))
    }

    pub(crate) fn pairs(&mut self) -> Vec<(String, String)> {
        std::iter::from_fn(|| self.0.next_key())
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    pub(crate) fn end(mut self) -> Result<()> {
        match self.0.next() {
            None => Ok(()),
            Some(Argument::Positional(word)) => Err(format!("unexpected {word}").into()),
            Some(argument) => Err(format!("unexpected {argument}").into()),
        }
    }
}

/// A number, or `max` for the largest.
pub(crate) fn number(text: &str) -> Result<u64> {
    if text == "max" {
        return Ok(u64::MAX);
    }
    u64::from_str(text).map_err(|_| format!("{text} is no number").into())
}

/// `INDEX@TERM`.
pub(crate) fn position(text: &str) -> Result<LogPosition> {
    let (index, term) = text.split_once('@').ok_or_else(|| format!("{text} is no INDEX@TERM"))?;
    Ok(LogPosition { index: Index(number(index)?), term: Term(number(term)?) })
}

/// `{1,2,3}`, `{1,2,4}&{1,2,3}`, `{1,2,3}+{4}`, `{1,2,3w}`, `{1,2}/{1:100,2:200}`: see `print::membership`.
pub(crate) fn membership(text: &str) -> Result<Membership> {
    let (members, stores) = text.split_once('/').unwrap_or((text, "{}"));
    let (halves, learners) = members.split_once('+').unwrap_or((members, "{}"));
    let (voters, outgoing) = halves.split_once('&').unwrap_or((halves, "{}"));
    let mut membership = Membership::default();
    for (listed, target) in [
        (voters, &mut membership.voters),
        (outgoing, &mut membership.outgoing),
        (learners, &mut membership.learners),
    ] {
        for name in listed_in(listed)? {
            let node = NodeId(number(name.trim_end_matches('w'))?);
            target.insert(node);
            if name.ends_with('w') {
                membership.witnesses.insert(node);
            }
        }
    }
    for pair in listed_in(stores)? {
        let (node, store) = pair.split_once(':').ok_or_else(|| format!("{pair} is no 1:100"))?;
        membership.stores.insert(NodeId(number(node)?), StoreId(number(store)?));
    }
    Ok(membership)
}

/// What stands between braces, with commas between.
fn listed_in(text: &str) -> Result<impl Iterator<Item = &str>> {
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    let inner = inner.ok_or_else(|| format!("{text} is no {{1,2,3}}"))?;
    Ok(inner.split(',').filter(|item| !item.is_empty()))
}

/// `AddLearner 4 Promote 5`: any number of steps.
pub(crate) fn change(args: &mut Args<'_>) -> Result<MembershipChange> {
    let mut steps = Vec::new();
    while let Some(kind) = args.optional_word() {
        let node = NodeId(args.node()?);
        steps.push(match kind.as_str() {
            "AddLearner" => ChangeStep::AddLearner(node),
            "Promote" => ChangeStep::Promote(node),
            "AddVoter" => ChangeStep::AddVoter(node),
            "AddWitness" => ChangeStep::AddWitness(node),
            "Demote" => ChangeStep::Demote(node),
            "Remove" => ChangeStep::Remove(node),
            _ => return Err(format!("{kind} is no step of a change").into()),
        });
    }
    Ok(MembershipChange { steps })
}

/// `[store=ID [life=N]]`: the store that a message of a script's own comes from.
pub(crate) fn stamp(args: &mut Args<'_>) -> Result<Option<StoreStamp>> {
    let id = args.number("store")?.map(StoreId);
    let life = args.number("life")?.unwrap_or(1);
    let nonce = args.number_or_zero("nonce")?;
    Ok(id.map(|id| StoreStamp { id, life, nonce }))
}

const NO_GROUPS: CommitGroups =
    CommitGroups { zones: std::collections::BTreeMap::new(), zones_min: 1 };

/// `1:7 2:7 3:8`: each voter's zone.
fn zones(text: &str) -> Result<std::collections::BTreeMap<NodeId, u64>> {
    let pairs = text.split_whitespace().map(|pair| {
        let (node, zone) = pair.split_once(':').ok_or_else(|| format!("{pair} is no 1:7"))?;
        Ok((NodeId(number(node)?), number(zone)?))
    });
    pairs.collect()
}

/// `1@1 2@1=x 3@2={1,2,3}`: empty, a command, a configuration.
pub(crate) fn entries(text: &str) -> Result<Entries> {
    let entries: Result<Vec<Entry>> = text.split_whitespace().map(entry).collect();
    Ok(Entries::try_from_vec(entries?)?)
}

fn entry(text: &str) -> Result<Entry> {
    let (at, content) = text.split_once('=').unwrap_or((text, ""));
    let LogPosition { index, term } = position(at)?;
    let payload = match content {
        "" => Payload::Empty,
        "<withheld>" => Payload::Withheld,
        _ if content.starts_with('{') => Payload::Membership(membership(content)?.into()),
        _ => Payload::Command(Bytes::copy_from_slice(content.as_bytes())),
    };
    Ok(Entry { term, index, payload })
}

/// The content of a message that a script sends, by the name that it has in the output.
pub(crate) fn body(kind: &str, args: &mut Args<'_>, members: &Membership) -> Result<Body> {
    Ok(match kind {
        "PreVote" => Body::PreVote { last: args.position("last")? },
        "PreVoteResponse" => Body::PreVoteResponse { granted: granted(args)? },
        "Vote" => Body::Vote {
            last: args.position("last")?,
            transfer: args.number_or_zero("transfer")? > 0,
        },
        "VoteResponse" => Body::VoteResponse { granted: granted(args)? },
        "Append" => Body::Append {
            prev: args.position("prev")?,
            entries: entries(&args.text("entries").unwrap_or_default())?,
            commit: Index(args.number_or_zero("commit")?),
        },
        "AppendResponse" => Body::AppendResponse(append_outcome(args)?),
        "Heartbeat" => Body::Heartbeat {
            commit: Index(args.number_or_zero("commit")?),
            read_context: args.number_or_zero("read_context")?,
        },
        "HeartbeatResponse" => {
            Body::HeartbeatResponse { read_context: args.number_or_zero("read_context")? }
        }
        "TimeoutNow" => Body::TimeoutNow,
        "ReadIndex" => Body::ReadIndex { context: args.number_or_zero("context")? },
        "ReadIndexResponse" => Body::ReadIndexResponse {
            context: args.number_or_zero("context")?,
            index: args.number("index")?.map(Index),
        },
        "Forward" => Body::Forward {
            id: forward_id(args)?,
            commands: args.words().into_iter().map(Bytes::from).collect(),
        },
        "ForwardResponse" => {
            Body::ForwardResponse { id: forward_id(args)?, outcome: forward_outcome(args)? }
        }
        "SnapshotOffer" => Body::SnapshotOffer { snapshot: snapshot(args, members)? },
        "SnapshotResponse" => Body::SnapshotResponse {
            position: args.position("at")?,
            outcome: match args.number("matched")? {
                Some(matched) => SnapshotOutcome::Matched(Index(matched)),
                None => match args.word("wanted, failed or matched=N")?.as_str() {
                    "wanted" => SnapshotOutcome::Wanted,
                    "failed" => SnapshotOutcome::Failed,
                    word => return Err(format!("{word} is no outcome").into()),
                },
            },
        },
        _ => return Err(format!("{kind} is no kind of message").into()),
    })
}

fn forward_id(args: &mut Args<'_>) -> Result<ForwardId> {
    let nonce = args.number_or_zero("nonce")?;
    Ok(ForwardId { nonce, sequence: args.number_or_zero("sequence")? })
}

/// `first=N count=N`, or a refusal for the reason that nobody leads.
fn forward_outcome(args: &mut Args<'_>) -> Result<ForwardOutcome> {
    Ok(match args.number("first")? {
        Some(first) => {
            ForwardOutcome::Appended { first: Index(first), count: args.number_or_zero("count")? }
        }
        None => ForwardOutcome::Refused(Refusal::NotLeader { leader: None }),
    })
}

fn append_outcome(args: &mut Args<'_>) -> Result<AppendOutcome> {
    if let Some(matched) = args.number("witnessed")? {
        return Ok(AppendOutcome::Witnessed { matched: Index(matched) });
    }
    if let Some(matched) = args.number("matched")? {
        return Ok(AppendOutcome::Accepted { matched: Index(matched) });
    }
    match args.word("matched=N or rejected")?.as_str() {
        "rejected" => Ok(AppendOutcome::Rejected {
            prev: Index(args.number_or_zero("prev")?),
            hint: args.position("hint")?,
        }),
        word => Err(format!("{word} is no outcome").into()),
    }
}

fn granted(args: &mut Args<'_>) -> Result<bool> {
    match args.word("granted or refused")?.as_str() {
        "granted" => Ok(true),
        "refused" => Ok(false),
        word => Err(format!("{word} is neither granted nor refused").into()),
    }
}

/// `at=INDEX@TERM [members={1,2,3}]`.
pub(crate) fn snapshot(args: &mut Args<'_>, members: &Membership) -> Result<SnapshotMeta> {
    let members = args.text("members").map_or(Ok(members.clone()), |text| membership(&text))?;
    Ok(SnapshotMeta { position: args.position("at")?, membership: members.into() })
}

/// An input that a script gives by hand, by its name.
pub(crate) fn input(name: &str, args: &mut Args<'_>, members: &Membership) -> Result<Input> {
    let peer = |args: &mut Args<'_>| args.number_or_zero("peer").map(NodeId);
    Ok(match name {
        "Timeout" => Input::Timeout,
        "Read" => Input::Read { id: ReadId(args.number_or_zero("id")?), at: ReadAt::Leader },
        "ChangeMembership" => Input::ChangeMembership {
            id: RequestId(args.number_or_zero("id")?),
            change: change(args)?,
        },
        "TransferLeadership" => Input::TransferLeadership {
            id: RequestId(args.number_or_zero("id")?),
            to: args.number("peer")?.map(NodeId),
        },
        "StorageHealth" => Input::StorageHealth(match args.word("healthy or stalled")?.as_str() {
            "healthy" => StorageHealth::Healthy,
            "stalled" => StorageHealth::Stalled,
            word => return Err(format!("{word} is no state of health").into()),
        }),
        "ClockSuspect" => Input::ClockSuspect,
        "Persisted" => Input::Persisted(Ticket(args.number_or_zero("ticket")?)),
        "Fetched" => Input::Fetched {
            peer: peer(args)?,
            entries: entries(&args.text("entries").unwrap_or_default())?,
        },
        "FetchFailed" => Input::FetchFailed { peer: peer(args)? },
        "Applied" => Input::Applied(Index(args.number_or_zero("index")?)),
        "SnapshotTaken" => Input::SnapshotTaken(snapshot(args, members)?),
        "SnapshotReceived" => Input::SnapshotReceived(snapshot(args, members)?),
        "SnapshotInstalled" => Input::SnapshotInstalled(snapshot(args, members)?),
        "SnapshotFailed" => Input::SnapshotFailed(snapshot(args, members)?),
        "SnapshotInstallFailed" => Input::SnapshotInstallFailed(snapshot(args, members)?),
        "SnapshotStreamEnded" => {
            Input::SnapshotStreamEnded { to: peer(args)?, position: args.position("at")? }
        }
        "Unreachable" => Input::Unreachable(peer(args)?),
        _ => return Err(format!("{name} is no input that a script can give").into()),
    })
}

/// The name of an input, as scripts write it: `Message` and `Propose` have commands of their own, `send` and `propose`.
pub(crate) fn input_name(input: &Input) -> &'static str {
    match input {
        Input::Timeout => "Timeout",
        Input::Message { .. } => "Message",
        Input::Propose { .. } => "Propose",
        Input::Read { .. } => "Read",
        Input::ChangeMembership { .. } => "ChangeMembership",
        Input::TransferLeadership { .. } => "TransferLeadership",
        Input::StorageHealth(_) => "StorageHealth",
        Input::ClockSuspect => "ClockSuspect",
        Input::Persisted(_) => "Persisted",
        Input::Fetched { .. } => "Fetched",
        Input::FetchFailed { .. } => "FetchFailed",
        Input::Applied(_) => "Applied",
        Input::SnapshotTaken(_) => "SnapshotTaken",
        Input::SnapshotReceived(_) => "SnapshotReceived",
        Input::SnapshotInstalled(_) => "SnapshotInstalled",
        Input::SnapshotFailed(_) => "SnapshotFailed",
        Input::SnapshotInstallFailed(_) => "SnapshotInstallFailed",
        Input::SnapshotStreamEnded { .. } => "SnapshotStreamEnded",
        Input::Unreachable(_) => "Unreachable",
    }
}

/// Sets one of a node's settings by its name; durations are in milliseconds.
pub(crate) fn configure(config: &mut Config, key: &str, value: &str) -> Result<()> {
    if key == "zones" {
        config.commit_groups.get_or_insert(NO_GROUPS).zones = zones(value)?;
        return Ok(());
    }
    let value = number(value)?;
    let millis = std::time::Duration::from_millis(value);
    let size = usize::try_from(value)?;
    match key {
        "election_timeout" => config.election_timeout = millis,
        "heartbeat_interval" => config.heartbeat_interval = millis,
        "append_bytes_max" => config.append_bytes_max = size,
        "in_flight_messages_max" => config.in_flight_messages_max = size,
        "in_flight_bytes_max" => config.in_flight_bytes_max = size,
        "command_bytes_max" => config.command_bytes_max = size,
        "uncommitted_bytes_max" => config.uncommitted_bytes_max = size,
        "tail_bytes_max" => config.tail_bytes_max = size,
        "apply_entries_max" => config.apply_entries_max = value,
        "apply_bytes_max" => config.apply_bytes_max = value,
        "retained_entries" => config.retained_entries = value,
        "retained_bytes" => config.retained_bytes = value,
        "compaction_lag_max" => config.compaction_lag_max = value,
        "compaction_lag_bytes_max" => config.compaction_lag_bytes_max = value,
        "waiting_reads_max" => config.waiting_reads_max = size,
        "priority" => config.priority = u8::try_from(value)?,
        "transfer_lag_max" => config.transfer_lag_max = value,
        "forward_proposals" => config.forward_proposals = value > 0,
        "witness" => config.is_witness = value > 0,
        "zones_min" => config.commit_groups.get_or_insert(NO_GROUPS).zones_min = size,
        "lease_drift_ppm" => {
            config.lease = Some(LeaseConfig { clock_drift_max_ppm: u32::try_from(value)? });
        }
        _ => return Err(format!("{key} is no setting").into()),
    }
    Ok(())
}
