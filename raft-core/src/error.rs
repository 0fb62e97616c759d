//! Everything that can be refused, by name: what a caller asked for, what a peer sent, what a disk held.

use crate::{ConfigError, Index, LogPosition, NodeId, Term, Ticket};

/// Why a proposal, a read, a membership change or a transfer was refused. Nothing was changed; it is safe to try again,
/// elsewhere or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This node does not lead.
    #[error("not the leader{}", Hint(*.leader))]
    NotLeader {
        /// Who does, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Too many bytes are appended and not yet committed.
    #[error(
        "{uncommitted_bytes} bytes wait to be committed, of {max_bytes} allowed: slow down, or wait for a quorum to return"
    )]
    QuotaExceeded {
        /// How many bytes wait.
        uncommitted_bytes: usize,
        /// The configured maximum.
        max_bytes: usize,
    },
    /// The batch holds no command.
    #[error("the batch holds no command")]
    EmptyBatch,
    /// A command, or the batch as a whole, is larger than may ever be accepted.
    #[error(
        "the command or batch holds {bytes} bytes, and at most {max_bytes} can ever be accepted: split it"
    )]
    BatchTooLarge {
        /// What it holds.
        bytes: usize,
        /// The configured maximum.
        max_bytes: usize,
    },
    /// Too many reads wait already.
    #[error("{waiting} reads wait already: slow down, or wait for a quorum to return")]
    TooManyReads {
        /// How many wait.
        waiting: usize,
    },
    /// The leader did not answer a forwarded question within an election timeout.
    #[error("the leader, node {leader}, did not answer in time: try again")]
    LeaderSilent {
        /// Whom this node asked.
        leader: NodeId,
    },
    /// This member has no state machine to read from.
    #[error("a witness keeps no state to read{}", Hint(*.leader))]
    WitnessHasNoState {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over; proposals and changes wait for the next leader.
    #[error("leadership is being handed to node {to}: try there")]
    TransferInProgress {
        /// To whom.
        to: NodeId,
    },
    /// The other member did not take over within an election timeout.
    #[error("node {to} did not take over within an election timeout; this node goes on leading")]
    TransferTimedOut {
        /// To whom leadership was to go.
        to: NodeId,
    },
    /// Nobody can take over now.
    #[error("no voter is caught up and healthy enough to take over")]
    NoTransferTarget,
    /// Only a voter with commands can lead.
    #[error("node {node} can not lead: it is no full voter")]
    CannotLead {
        /// The learner, witness or stranger.
        node: NodeId,
    },
    /// A member is too far behind for what was asked.
    #[error(
        "node {node} is {behind} entries behind, or has not been heard from: wait until it has caught up"
    )]
    NotCaughtUp {
        /// The laggard.
        node: NodeId,
        /// How many entries it lacks.
        behind: u64,
    },
    /// A change is under way. One at a time (dissertation §4.1).
    #[error("the configuration of index {at} is not settled yet: wait until it is")]
    ChangePending {
        /// The index of the configuration that is not committed, or is joint.
        at: Index,
    },
    /// A new leader changes nothing before an entry of its own term is committed: two leaders' uncommitted single changes might
    /// otherwise lead to disjoint majorities.
    #[error("this leader has not committed an entry of its own term yet: try again in a moment")]
    NotSettled,
    /// The change leaves everything as it is.
    #[error("the configuration is so already")]
    NoChange,
    /// Who is to be added is there.
    #[error("node {node} is a member already")]
    AlreadyMember {
        /// The member.
        node: NodeId,
    },
    /// A witness, or what was one, is to become another kind of member under its old id.
    #[error(
        "node {node} is or was a witness, whose store lacks commands: give it a new id and an empty store"
    )]
    StoreLacksCommands {
        /// The witness.
        node: NodeId,
    },
    /// Who is to be promoted is no learner.
    #[error("node {node} is no learner, so it can not be promoted: add it as a learner first")]
    NotALearner {
        /// The node.
        node: NodeId,
    },
    /// Who is to be demoted is no voter, or a witness.
    #[error("node {node} is no full voter, so it can not be demoted")]
    NotAVoter {
        /// The node.
        node: NodeId,
    },
    /// Who is to leave is not there.
    #[error("node {node} is no member")]
    NotAMember {
        /// The node.
        node: NodeId,
    },
    /// The change would leave nobody who could lead.
    #[error("nobody could lead: at least one voter must stay that is no witness")]
    NobodyCouldLead,
}

struct Hint(Option<NodeId>);

impl core::fmt::Display for Hint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            Some(leader) => write!(f, ": try node {leader}"),
            None => write!(f, ", and none is known at the moment"),
        }
    }
}

/// A witness or not.
struct Kind(bool);

impl core::fmt::Display for Kind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(if self.0 { "a witness" } else { "a full member" })
    }
}

/// Why an input was not taken. The core is unchanged, but for its clock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// The peer broke the protocol: its message was dropped whole.
    #[error("node {from} broke the protocol: {fault}")]
    Peer {
        /// The authenticated sender.
        from: NodeId,
        /// What it did.
        fault: PeerFault,
    },
    /// The caller broke the contract of [`Raft::handle`](crate::Raft::handle).
    #[error("the driver broke the contract: {0}")]
    Caller(#[from] CallerFault),
}

/// Every way in which a peer's message can break the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// The sender's id is the receiver's own.
    #[error("it sent under this node's own id: two machines run as one member")]
    OwnId,
    /// The message carries term 0, in which nobody acts, or a term beyond [`Term::MAX`].
    #[error("it sent in term {term}, in which no message can be sent")]
    ImpossibleTerm {
        /// The term.
        term: Term,
    },
    /// The message carries a term so far above this member's that elections cannot have led there.
    #[error(
        "it sent in term {term}, but elections cannot have led beyond term {believable} since this node started: \
         take it out of the group; if all other nodes are in that term, remove this node and add it with a new id and an empty store"
    )]
    TermTooFar {
        /// The term.
        term: Term,
        /// The highest that is believed.
        believable: Term,
    },
    /// An index that no log can have reached.
    #[error("it sent an entry or a snapshot at index {index}, which no log can have reached")]
    ImpossibleIndex {
        /// The index.
        index: Index,
    },
    /// Two leaders in one term: the election safety property (paper figure 3) is broken somewhere.
    #[error("it leads term {term}, in which node {leader} was already seen to lead")]
    SecondLeader {
        /// The term.
        term: Term,
        /// The leader seen before.
        leader: NodeId,
    },
    /// Appended entries do not follow `prev`.
    #[error("it sent entries that do not continue the log after {prev}")]
    BrokenRun {
        /// The claimed position before them.
        prev: LogPosition,
    },
    /// Appended entries are of a later term than the message.
    #[error("it sent an entry of term {entry_term} in term {term}")]
    EntryFromTheFuture {
        /// The entry's term.
        entry_term: Term,
        /// The message's term.
        term: Term,
    },
    /// A position of a later term than the message.
    #[error("it named the position {position} in term {term}")]
    PositionFromTheFuture {
        /// The position.
        position: LogPosition,
        /// The message's term.
        term: Term,
    },
    /// An append or a snapshot contradicts what is committed here: leader completeness (paper figure 3) is broken.
    #[error("it would replace the committed entry {index}")]
    OverwritesCommitted {
        /// The committed index.
        index: Index,
    },
    /// An acknowledgement of entries that the leader does not have.
    #[error("it acknowledged index {matched}, beyond the end of the log at {last}")]
    AcknowledgedTooMuch {
        /// What it acknowledged.
        matched: Index,
        /// Where the leader's log ends.
        last: Index,
    },
    /// An answer to a read context that was never sent.
    #[error("it answered read context {read_context}, which was never sent")]
    UnknownReadContext {
        /// The context.
        read_context: u64,
    },
    /// A configuration that no group can have.
    #[error("it sent a configuration that contradicts itself, or in which nobody could lead")]
    ImpossibleMembership,
    /// A command without its content, to a member that is no witness: the group lists it as one.
    #[error(
        "it withheld the command of entry {index}, since the group lists this node as a witness, and it is set up as a full member: \
         remove it from the group, and set it up as a witness on an empty store or add it as a full member"
    )]
    WithheldCommand {
        /// The entry.
        index: Index,
    },
    /// A command, to a witness: the group lists it as a full member.
    #[error(
        "it sent the command of entry {index}, since the group lists this node as a full member, and it is set up as a witness: \
         remove it from the group, and set it up as a full member on an empty store or add it as a witness"
    )]
    CommandForWitness {
        /// The entry.
        index: Index,
    },
    /// A witness's acknowledgement, from a node that the group lists as a full member. It does not count.
    #[error(
        "it acknowledged index {matched} without the commands, since it is set up as a witness, and the group lists it as a full member: \
         remove it from the group, and set it up as a full member on an empty store or add it as a witness"
    )]
    CommandsMissing {
        /// What it acknowledged.
        matched: Index,
    },
    /// An earlier life of a store than was seen before: the store was put back from a copy, or the message is very late.
    #[error(
        "it speaks from life {life} of its store, of which life {seen} was seen before: its store was put back from a copy, or this is an echo"
    )]
    RolledBackStore {
        /// The life in the message.
        life: u64,
        /// The latest life seen.
        seen: u64,
    },
}

/// Every way in which a driver can break the contract of [`Raft::handle`](crate::Raft::handle).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallerFault {
    /// A ticket that is not outstanding.
    #[error("ticket {0} is not outstanding")]
    UnknownTicket(Ticket),
    /// An applied index beyond what was handed out, or below what was reported.
    #[error("index {applied} was reported as applied; it must be within {low} to {high}")]
    AppliedOutOfRange {
        /// What was reported.
        applied: Index,
        /// The lowest index that fits.
        low: Index,
        /// The highest index that fits.
        high: Index,
    },
    /// A snapshot that the state machine can not have.
    #[error("a snapshot at {position} was reported, which is not in the applied part of the log")]
    ImpossibleSnapshot {
        /// Its position.
        position: LogPosition,
    },
    /// A snapshot whose configuration is not the log's: an uncommitted one, or one of another place.
    #[error(
        "the snapshot at {position} was reported with a configuration that is not the one in effect there"
    )]
    WrongMembership {
        /// Its position.
        position: LogPosition,
    },
    /// A snapshot was reported as installed, or its installation as failed, that was not being installed.
    #[error("a snapshot at {position} was reported, which was not asked for")]
    UnexpectedSnapshot {
        /// Its position.
        position: LogPosition,
    },
}

/// Why a core can not be built from what was restored. Either the disk is damaged or files of different members were mixed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A setting can not work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The term runs of the log do not rise, or lie outside it.
    #[error("the restored log's terms are out of order at index {at}: the log store is damaged")]
    BrokenTerms {
        /// Where.
        at: Index,
    },
    /// A configuration lies outside the log, out of order, or has no voters.
    #[error(
        "the restored configuration at index {at} is out of place or has no voters: the log store is damaged"
    )]
    BrokenMembership {
        /// Where.
        at: Index,
    },
    /// The hard state's commit index lies beyond the log.
    #[error(
        "the restored commit index {commit} lies beyond the end of the log at {last}: entries have been lost"
    )]
    CommitBeyondLog {
        /// The commit index.
        commit: Index,
        /// The end of the log.
        last: Index,
    },
    /// The log holds terms beyond the hard state's.
    #[error(
        "the restored log reaches term {log_term}, beyond the hard state's term {term}: the hard state has been lost"
    )]
    TermBeyondHardState {
        /// The log's last term.
        log_term: Term,
        /// The hard state's term.
        term: Term,
    },
    /// A term that no election can have led to, or that leaves none after it.
    #[error(
        "the restored state reaches term {term}, beyond {}, the last: a damaged file or a hostile peer has led there, and nobody \
         can be elected after it; restore the group from a backup",
        Term::MAX
    )]
    ImpossibleTerm {
        /// The term.
        term: Term,
    },
    /// An index that no log can have reached.
    #[error(
        "the restored state reaches index {index}, which no log can have reached: the log store or the state machine is damaged"
    )]
    ImpossibleIndex {
        /// The index.
        index: Index,
    },
    /// The first configuration of a group that is being founded lists this member as a witness and its settings do not,
    /// or the other way round.
    #[error(
        "the founding configuration lists this member as {}, and it is set up as {}: make them agree before it starts",
        Kind(*.is_listed), Kind(!*.is_listed)
    )]
    FoundedAsAnotherKind {
        /// Whether the configuration lists it as a witness.
        is_listed: bool,
    },
    /// The log lists this member as a witness, whose store lacks commands, and its settings do not.
    #[error(
        "the log lists this member as a witness, and it is set up as a full member: a witness's store lacks commands; \
         set it up as a witness again, or remove it from the group and add it with an empty store"
    )]
    WitnessStore,
    /// The log starts after the state machine's state ends: entries between them are gone.
    #[error(
        "the log is compacted through {base}, but the state machine's state ends at {applied}: the entries between are gone; \
         restore the machine's state as it was; a member must never come back under its id without its log"
    )]
    MachineBehindLog {
        /// The log's base.
        base: Index,
        /// What the machine includes.
        applied: Index,
    },
}
