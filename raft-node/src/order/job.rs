//! Which action is whose: the lanes of a driver, and what goes into each.

use raft_core::{
    Action, Apply, Event, Index, LogPosition, Message, NodeId, Persist, ProposalId, ReadId,
    Refusal, RequestId, Resolution, SnapshotMeta, Term,
};

/// One action, by the lane that it belongs to. Made with [`Job::from`] of an action, which moves it and nothing else.
///
/// Within the lanes of the [log](Job::Store) and of the [machine](Job::Machine), jobs are carried out in the order in which they were
/// polled. Between lanes there is no order: whatever depends on something else is withheld by the core until that is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // as large as the action that it was
pub enum Job {
    /// For the log store: see [`WriteOrder`](super::WriteOrder).
    Store(StoreJob),
    /// For the state machine: see [`MachineOrder`](super::MachineOrder).
    Machine(MachineJob),
    /// For the transport, at once.
    Send {
        /// The receiver.
        to: NodeId,
        /// The message.
        message: Message,
    },
    /// For a reader of the durable log. It sees all writes that were reported, so that it needs to wait for none.
    Fetch {
        /// For whom.
        peer: NodeId,
        /// The first index wanted.
        first: Index,
        /// The last index wanted.
        last: Index,
        /// Stop once so much is read.
        budget_bytes: usize,
    },
    /// For whoever collects incoming snapshots: see [`Receiving`](super::Receiving).
    Receive {
        /// The leader that streams it.
        from: NodeId,
        /// The leader's term.
        term: Term,
        /// What will arrive.
        snapshot: SnapshotMeta,
    },
    /// For whoever asked, at once: nothing has to be applied first.
    Answer(Answer),
    /// For whoever looks on.
    Tell(Event),
}

/// What is done with the log store, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // nearly all of them are writes
pub enum StoreJob {
    /// Make this durable, then report its ticket.
    Write(Persist),
    /// Forget everything up to and including this position, some time.
    Compact(LogPosition),
}

/// What is done with the state machine, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineJob {
    /// Apply these.
    Apply(Apply),
    /// Replace the state by the snapshot that was received.
    Install(SnapshotMeta),
    /// Open the latest snapshot and stream it, if it is this one: see [`offered`](super::offered).
    Stream {
        /// The receiver.
        to: NodeId,
        /// The leader's term.
        term: Term,
        /// What was offered.
        snapshot: SnapshotMeta,
    },
    /// A batch is in the log: its waiter is answered when it is applied. It comes before the entries do.
    Expect {
        /// The batch.
        id: ProposalId,
        /// The index of its first command.
        first: Index,
        /// How many commands.
        count: u64,
        /// The term in which it was appended.
        term: Term,
    },
    /// Nobody can say any more what becomes of this batch, unless it was applied before. It may also be one that was never expected.
    Abandon(ProposalId),
    /// A read may be answered once `index` is applied.
    Read {
        /// The read.
        id: ReadId,
        /// What must be applied first.
        index: Index,
    },
}

/// An answer that depends on nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The batch was not appended, and never will be.
    Refused {
        /// The batch.
        id: ProposalId,
        /// Why.
        reason: Refusal,
    },
    /// The read can not be served here.
    ReadRefused {
        /// The read.
        id: ReadId,
        /// Why.
        reason: Refusal,
    },
    /// The administrative request is done.
    Done(RequestId),
    /// The administrative request was refused, or failed.
    RequestRefused {
        /// The request.
        id: RequestId,
        /// Why.
        reason: Refusal,
    },
    /// What became of the administrative request is unknown here.
    RequestAbandoned(RequestId),
}

impl From<Action> for Job {
    #[inline]
    fn from(action: Action) -> Job {
        match action {
            Action::Persist(persist) => Job::Store(StoreJob::Write(persist)),
            Action::Compact { through } => Job::Store(StoreJob::Compact(through)),
            Action::Send { to, message } => Job::Send { to, message },
            Action::Fetch { peer, first, last, budget_bytes } => {
                Job::Fetch { peer, first, last, budget_bytes }
            }
            Action::Apply(span) => Job::Machine(MachineJob::Apply(span)),
            Action::InstallSnapshot(snapshot) => Job::Machine(MachineJob::Install(snapshot)),
            Action::StreamSnapshot { to, term, snapshot } => {
                Job::Machine(MachineJob::Stream { to, term, snapshot })
            }
            Action::ReceiveSnapshot { from, term, snapshot } => {
                Job::Receive { from, term, snapshot }
            }
            Action::Resolve(resolution) => resolution.into(),
            Action::Event(event) => Job::Tell(event),
        }
    }
}

impl From<Resolution> for Job {
    #[inline]
    fn from(resolution: Resolution) -> Job {
        match resolution {
            Resolution::Appended { id, first, count, term } => {
                Job::Machine(MachineJob::Expect { id, first, count, term })
            }
            Resolution::Abandoned { id } => Job::Machine(MachineJob::Abandon(id)),
            Resolution::ReadReady { id, index } => Job::Machine(MachineJob::Read { id, index }),
            Resolution::Refused { id, reason } => Job::Answer(Answer::Refused { id, reason }),
            Resolution::ReadRefused { id, reason } => {
                Job::Answer(Answer::ReadRefused { id, reason })
            }
            Resolution::RequestDone { id } => Job::Answer(Answer::Done(id)),
            Resolution::RequestRefused { id, reason } => {
                Job::Answer(Answer::RequestRefused { id, reason })
            }
            Resolution::RequestAbandoned { id } => Job::Answer(Answer::RequestAbandoned(id)),
        }
    }
}
