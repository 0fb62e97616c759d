//! How everything that a core is told is written: one line for each kind. The lists are exhaustive, so that the
//! compiler names what is missing when something is added. Numbers that were given out stay: a new kind gets a new
//! number, and whatever else changes raises [`VERSION`](super::VERSION).

use alloc::vec::Vec;

use super::RecordingError;
use super::codec::{Code, Reader};
use crate::{
    AppendOutcome, Body, ChangeStep, CommitGroups, Config, Entries, Entry, ForwardId,
    ForwardOutcome, HardState, Index, Input, Instant, LeaseConfig, LogPosition, Membership,
    MembershipChange, Message, NodeId, Payload, ProposalId, ReadAt, ReadId, Refusal, RequestId,
    Restored, RestoredLog, SnapshotMeta, SnapshotOutcome, StorageHealth, StoreId, StoreStamp, Term,
    TermRun, Ticket,
};

/// A number with a name.
macro_rules! code_newtypes {
    ($($name:ident),* $(,)?) => { $(
        impl Code for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                let $name(value) = self;
                value.encode(out);
            }

            fn decode(reader: &mut Reader<'_>) -> Result<$name, RecordingError> {
                Code::decode(reader).map($name)
            }
        }
    )* };
}

/// Fields one after the other, all of them.
macro_rules! code_struct {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl Code for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                let $name { $($field),* } = self;
                $($field.encode(out);)*
            }

            fn decode(reader: &mut Reader<'_>) -> Result<$name, RecordingError> {
                Ok($name { $($field: Code::decode(reader)?),* })
            }
        }
    };
}

/// A byte that says which, then its fields.
macro_rules! code_enum {
    ($name:ident, $of:literal {
        $($tag:literal => $kind:ident $({ $($field:ident),* })? $(( $($item:ident),* ))?),* $(,)?
    }) => {
        impl Code for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                match self { $(
                    $name::$kind $({ $($field),* })? $(( $($item),* ))? => {
                        out.push($tag);
                        $($($field.encode(out);)*)?
                        $($($item.encode(out);)*)?
                    }
                )* }
            }

            fn decode(reader: &mut Reader<'_>) -> Result<$name, RecordingError> {
                let at = reader.at();
                match reader.byte()? {
                    $($tag => Ok($name::$kind
                        $({ $($field: Code::decode(reader)?),* })?
                        $(( $({ let $item = Code::decode(reader)?; $item }),* ))?
                    ),)*
                    tag => Err(RecordingError::UnknownTag { of: $of, tag, at }),
                }
            }
        }
    };
}

code_newtypes!(Index, Instant, NodeId, ProposalId, ReadId, RequestId, StoreId, Term, Ticket);

code_struct!(LogPosition { index, term });
code_struct!(StoreStamp { id, life, nonce });
code_struct!(Membership { voters, outgoing, learners, witnesses, stores });
code_struct!(SnapshotMeta { position, membership });
code_struct!(HardState { term, vote, commit });
code_struct!(TermRun { term, first });
code_struct!(RestoredLog { hard_state, base, base_membership, terms, last, memberships });
code_struct!(Restored { log, snapshot });
code_struct!(LeaseConfig { clock_drift_max_ppm });
code_struct!(CommitGroups { zones, zones_min });
code_struct!(Config {
    id,
    election_timeout,
    heartbeat_interval,
    append_bytes_max,
    in_flight_messages_max,
    in_flight_bytes_max,
    command_bytes_max,
    uncommitted_bytes_max,
    tail_bytes_max,
    apply_entries_max,
    apply_bytes_max,
    retained_entries,
    retained_bytes,
    compaction_lag_max,
    compaction_lag_bytes_max,
    waiting_reads_max,
    priority,
    transfer_lag_max,
    forward_proposals,
    lease,
    commit_groups,
    is_witness,
    store,
});

code_enum!(Payload, "what an entry holds" {
    0 => Empty,
    1 => Command(command),
    2 => Membership(membership),
    3 => Withheld,
});

code_struct!(MembershipChange { steps });
code_enum!(ChangeStep, "a step of a membership change" {
    0 => AddLearner(node),
    1 => Promote(node),
    2 => AddVoter(node),
    3 => AddWitness(node),
    4 => Demote(node),
    5 => Remove(node),
});

code_enum!(Input, "an input" {
    0 => Timeout,
    1 => Message { from, store, message },
    2 => Propose { id, commands },
    3 => Read { id, at },
    4 => ChangeMembership { id, change },
    5 => TransferLeadership { id, to },
    6 => StorageHealth(health),
    7 => ClockSuspect,
    8 => Persisted(ticket),
    9 => Fetched { peer, entries },
    10 => FetchFailed { peer },
    11 => Applied(index),
    12 => SnapshotTaken(meta),
    13 => SnapshotReceived(meta),
    14 => SnapshotInstalled(meta),
    15 => SnapshotFailed(meta),
    16 => SnapshotStreamEnded { to, position },
    17 => Unreachable(peer),
    18 => SnapshotInstallFailed(meta),
});
code_enum!(ReadAt, "where a read may be answered" {
    0 => Leader,
    1 => AnyMember,
});
code_enum!(StorageHealth, "how a store does" {
    0 => Healthy,
    1 => Stalled,
});

code_struct!(Message { term, body });
code_struct!(ForwardId { nonce, sequence });
code_enum!(Body, "what a message says" {
    0 => PreVote { last },
    1 => PreVoteResponse { granted },
    2 => Vote { last, transfer },
    3 => VoteResponse { granted },
    4 => Append { prev, entries, commit },
    5 => AppendResponse(outcome),
    6 => Heartbeat { commit, read_context },
    7 => HeartbeatResponse { read_context },
    8 => TimeoutNow,
    9 => ReadIndex { context },
    10 => ReadIndexResponse { context, index },
    11 => Forward { id, commands },
    12 => ForwardResponse { id, outcome },
    13 => SnapshotOffer { snapshot },
    14 => SnapshotResponse { position, outcome },
});
code_enum!(ForwardOutcome, "the answer to forwarded proposals" {
    0 => Appended { first, count },
    1 => Refused(reason),
});
code_enum!(AppendOutcome, "the answer to an append" {
    0 => Accepted { matched },
    1 => Rejected { prev, hint },
    2 => Witnessed { matched },
});
code_enum!(SnapshotOutcome, "the answer to a snapshot" {
    0 => Wanted,
    1 => Matched(index),
    2 => Failed,
});
code_enum!(Refusal, "a refusal" {
    0 => NotLeader { leader },
    1 => QuotaExceeded { uncommitted_bytes, max_bytes },
    2 => EmptyBatch,
    3 => BatchTooLarge { bytes, max_bytes },
    4 => TooManyReads { waiting },
    5 => LeaderSilent { leader },
    6 => WitnessHasNoState { leader },
    7 => TransferInProgress { to },
    8 => TransferTimedOut { to },
    9 => NoTransferTarget,
    10 => CannotLead { node },
    11 => NotCaughtUp { node, behind },
    12 => ChangePending { at },
    13 => NotSettled,
    14 => NoChange,
    15 => AlreadyMember { node },
    16 => NotALearner { node },
    17 => NotAVoter { node },
    18 => NotAMember { node },
    19 => NobodyCouldLead,
    20 => StoreLacksCommands { node },
});

/// The count; if it is not zero, the first index; then of each entry its term and payload. Indexes follow each other.
impl Code for Entries {
    fn encode(&self, out: &mut Vec<u8>) {
        self.len().encode(out);
        if let Some(first) = self.first() {
            first.index.encode(out);
        }
        for Entry { term, index: _, payload } in self.iter() {
            term.encode(out);
            payload.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Entries, RecordingError> {
        let count = u64::decode(reader)?;
        let mut entries = Entries::new();
        if count == 0 {
            return Ok(entries);
        }
        let at = reader.at();
        let mut index = Index::decode(reader)?;
        if index.0.checked_add(count - 1).is_none() {
            return Err(RecordingError::OutOfRange { value: index.0, at });
        }
        let mut run: Vec<Entry> = Vec::new();
        for _ in 0..count {
            let (term, payload) = <(Term, Payload)>::decode(reader)?;
            if run.last().is_some_and(|last| last.term > term) {
                // No log has that; but a driver may say so, and what it said is what is replayed.
                join(&mut entries, core::mem::take(&mut run), at)?;
            }
            run.push(Entry { term, index, payload });
            index = index.next();
        }
        join(&mut entries, run, at)?;
        Ok(entries)
    }
}

fn join(entries: &mut Entries, run: Vec<Entry>, at: usize) -> Result<(), RecordingError> {
    let run = Entries::try_from_vec(run).map_err(|fault| RecordingError::NotARun { fault, at })?;
    entries.extend(run);
    Ok(())
}
