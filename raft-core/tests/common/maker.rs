//! Makes values of every kind that a core is told, from one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use raft_core::{
    AppendOutcome, Body, ChangeStep, CommitGroups, Config, Entries, Entry, ForwardId,
    ForwardOutcome, HardState, Index, Input, LeaseConfig, LogPosition, Membership,
    MembershipChange, Message, NodeId, Payload, ProposalId, ReadAt, ReadId, Refusal, RequestId,
    Restored, RestoredLog, SnapshotMeta, SnapshotOutcome, StorageHealth, StoreId, StoreStamp, Term,
    TermRun, Ticket,
};

/// How many kinds there are of what is told apart by a number; the generators below make each of them in every run.
pub const INPUTS: u8 = 19;
pub const BODIES: u8 = 15;
pub const REFUSALS: u8 = 21;

/// Makes values of every kind from one seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Maker {
    state: u64,
    /// Whether nearly all numbers are small, and the others lie where arithmetic ends: so that much of what is made
    /// belongs together, and reaches far into a core.
    is_close: bool,
}

impl Maker {
    /// Numbers of every size.
    pub fn new(seed: u64) -> Maker {
        Maker { state: seed, is_close: false }
    }

    /// Numbers that fit each other, and extremes.
    pub fn close(seed: u64) -> Maker {
        Maker { state: seed, is_close: true }
    }

    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }

    /// Small and large numbers, and the extremes.
    pub fn number(&mut self) -> u64 {
        if self.is_close {
            let edge = [u64::MAX, u64::MAX >> 1, 1 << 63, 1 << 40][self.below(4) as usize];
            return match self.below(24) {
                0 => edge.wrapping_add(self.below(4)).wrapping_sub(2),
                _ => self.below(6),
            };
        }
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            shift => self.bits() >> (8 * shift),
        }
    }

    pub fn count(&mut self) -> usize {
        usize::try_from(self.number()).unwrap_or(usize::MAX)
    }

    pub fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    pub fn maybe<T>(&mut self, make: impl FnOnce(&mut Maker) -> T) -> Option<T> {
        if self.flag() { Some(make(self)) } else { None }
    }

    pub fn several<T>(&mut self, mut make: impl FnMut(&mut Maker) -> T) -> Vec<T> {
        (0..self.below(5)).map(|_| make(self)).collect()
    }

    pub fn node(&mut self) -> NodeId {
        NodeId(self.number())
    }

    pub fn nodes(&mut self) -> BTreeSet<NodeId> {
        self.several(Maker::node).into_iter().collect()
    }

    pub fn index(&mut self) -> Index {
        Index(self.number())
    }

    pub fn term(&mut self) -> Term {
        Term(self.number())
    }

    pub fn position(&mut self) -> LogPosition {
        LogPosition { index: self.index(), term: self.term() }
    }

    pub fn stamp(&mut self) -> StoreStamp {
        StoreStamp { id: StoreId(self.number()), life: self.number(), nonce: self.number() }
    }

    pub fn bytes(&mut self) -> Bytes {
        let length = self.below(200);
        (0..length).map(|_| self.bits().to_le_bytes()[0]).collect()
    }

    pub fn membership(&mut self) -> Membership {
        if self.is_close && self.below(3) > 0 {
            return Membership::of_voters((1..=self.below(4)).map(NodeId));
        }
        let (voters, outgoing) = (self.nodes(), self.nodes());
        let (learners, witnesses) = (self.nodes(), self.nodes());
        let stores = self.several(|m| (m.node(), StoreId(m.number()))).into_iter().collect();
        Membership { voters, outgoing, learners, witnesses, stores }
    }

    pub fn snapshot(&mut self) -> SnapshotMeta {
        SnapshotMeta { position: self.position(), membership: self.membership().into() }
    }

    pub fn entries(&mut self) -> Entries {
        let mut entries = Entries::new();
        let mut index = Index(1 + self.number() / 2);
        for _ in 0..self.below(3) {
            // Runs may come from anywhere, so that terms may fall from one to the next.
            let term = Term(1 + self.number() / 2);
            let mut run = Vec::new();
            for kind in 0..4 {
                let payload = match kind {
                    0 => Payload::Empty,
                    1 => Payload::Command(self.bytes()),
                    2 => Payload::Membership(self.membership().into()),
                    _ => Payload::Withheld,
                };
                run.push(Entry { term: Term(term.0 + kind), index, payload });
                index = index.next();
            }
            entries.extend(Entries::try_from_vec(run).expect("a run"));
        }
        entries
    }

    fn some_entries(&mut self) -> Entries {
        match self.below(4) {
            0 if self.is_close => Entries::new(),
            _ if self.is_close => self.run(),
            _ => self.entries(),
        }
    }

    /// One to four entries that end where the numbers do, or begin with a small index.
    pub fn run(&mut self) -> Entries {
        let count = 1 + self.below(4);
        let first = match self.number() {
            small if small < 1 << 20 => small.max(1),
            edge => edge.saturating_sub(count - 1),
        };
        let mut term = self.number().clamp(1, u64::MAX - 8);
        let mut run = Vec::new();
        for index in (first..=u64::MAX).take(usize::try_from(count).unwrap_or(1)) {
            term += self.below(2);
            let payload = match self.below(6) {
                0 => Payload::Empty,
                1 => Payload::Membership(self.membership().into()),
                2 => Payload::Withheld,
                _ => Payload::Command(self.bytes()),
            };
            run.push(Entry { term: Term(term), index: Index(index), payload });
        }
        Entries::try_from_vec(run).expect("a run")
    }

    pub fn change(&mut self) -> MembershipChange {
        let steps = [
            ChangeStep::AddLearner(self.node()),
            ChangeStep::Promote(self.node()),
            ChangeStep::AddVoter(self.node()),
            ChangeStep::AddWitness(self.node()),
            ChangeStep::Demote(self.node()),
            ChangeStep::Remove(self.node()),
        ];
        MembershipChange { steps: steps[usize::try_from(self.below(6)).unwrap()..].to_vec() }
    }

    pub fn refusal(&mut self, kind: u8) -> Refusal {
        let (node, bytes) = (self.node(), self.count());
        match kind {
            0 => Refusal::NotLeader { leader: self.maybe(Maker::node) },
            1 => Refusal::QuotaExceeded { uncommitted_bytes: self.count(), max_bytes: bytes },
            2 => Refusal::EmptyBatch,
            3 => Refusal::BatchTooLarge { bytes, max_bytes: self.count() },
            4 => Refusal::TooManyReads { waiting: bytes },
            5 => Refusal::LeaderSilent { leader: node },
            6 => Refusal::WitnessHasNoState { leader: self.maybe(Maker::node) },
            7 => Refusal::TransferInProgress { to: node },
            8 => Refusal::TransferTimedOut { to: node },
            9 => Refusal::NoTransferTarget,
            10 => Refusal::CannotLead { node },
            11 => Refusal::NotCaughtUp { node, behind: self.number() },
            12 => Refusal::ChangePending { at: self.index() },
            13 => Refusal::NotSettled,
            14 => Refusal::NoChange,
            15 => Refusal::AlreadyMember { node },
            16 => Refusal::NotALearner { node },
            17 => Refusal::NotAVoter { node },
            18 => Refusal::NotAMember { node },
            19 => Refusal::NobodyCouldLead,
            _ => Refusal::StoreLacksCommands { node },
        }
    }

    pub fn body(&mut self, kind: u8) -> Body {
        let id = ForwardId { nonce: self.number(), sequence: self.number() };
        match kind {
            0 => Body::PreVote { last: self.position() },
            1 => Body::PreVoteResponse { granted: self.flag() },
            2 => Body::Vote { last: self.position(), transfer: self.flag() },
            3 => Body::VoteResponse { granted: self.flag() },
            4 => Body::Append {
                prev: self.position(),
                entries: self.some_entries(),
                commit: self.index(),
            },
            5 => Body::AppendResponse(match self.bits() % 3 {
                0 => AppendOutcome::Accepted { matched: self.index() },
                1 => AppendOutcome::Witnessed { matched: self.index() },
                _ => AppendOutcome::Rejected { prev: self.index(), hint: self.position() },
            }),
            6 => Body::Heartbeat { commit: self.index(), read_context: self.number() },
            7 => Body::HeartbeatResponse { read_context: self.number() },
            8 => Body::TimeoutNow,
            9 => Body::ReadIndex { context: self.number() },
            10 => {
                Body::ReadIndexResponse { context: self.number(), index: self.maybe(Maker::index) }
            }
            11 => Body::Forward { id, commands: self.several(Maker::bytes) },
            12 => {
                let appended =
                    ForwardOutcome::Appended { first: self.index(), count: self.number() };
                Body::ForwardResponse { id, outcome: appended }
            }
            13 => Body::SnapshotOffer { snapshot: self.snapshot() },
            _ => Body::SnapshotResponse {
                position: self.position(),
                outcome: match self.below(3) {
                    0 => SnapshotOutcome::Wanted,
                    1 => SnapshotOutcome::Matched(self.index()),
                    _ => SnapshotOutcome::Failed,
                },
            },
        }
    }

    pub fn message(&mut self, body: Body) -> Input {
        let message = Message { term: self.term(), body };
        Input::Message { from: self.node(), store: self.maybe(Maker::stamp), message }
    }

    pub fn input(&mut self, kind: u8) -> Input {
        let id = RequestId(self.number());
        match kind {
            0 => Input::Timeout,
            1 => {
                let body = self.body(0);
                self.message(body)
            }
            2 => Input::Propose {
                id: ProposalId(self.number()),
                commands: self.several(Maker::bytes),
            },
            3 => {
                let at = if self.flag() { ReadAt::Leader } else { ReadAt::AnyMember };
                Input::Read { id: ReadId(self.number()), at }
            }
            4 => Input::ChangeMembership { id, change: self.change() },
            5 => Input::TransferLeadership { id, to: self.maybe(Maker::node) },
            6 if self.flag() => Input::StorageHealth(StorageHealth::Healthy),
            6 => Input::StorageHealth(StorageHealth::Stalled),
            7 => Input::ClockSuspect,
            8 => Input::Persisted(Ticket(self.number())),
            9 => Input::Fetched { peer: self.node(), entries: self.some_entries() },
            10 => Input::FetchFailed { peer: self.node() },
            11 => Input::Applied(self.index()),
            12 => Input::SnapshotTaken(self.snapshot()),
            13 => Input::SnapshotReceived(self.snapshot()),
            14 => Input::SnapshotInstalled(self.snapshot()),
            15 => Input::SnapshotFailed(self.snapshot()),
            16 => Input::SnapshotStreamEnded { to: self.node(), position: self.position() },
            17 => Input::SnapshotInstallFailed(self.snapshot()),
            _ => Input::Unreachable(self.node()),
        }
    }

    /// One of each kind at least.
    pub fn inputs(&mut self) -> Vec<Input> {
        let mut inputs: Vec<Input> = (0..INPUTS).map(|kind| self.input(kind)).collect();
        for kind in 0..BODIES {
            let body = self.body(kind);
            inputs.push(self.message(body));
        }
        for kind in 0..REFUSALS {
            let outcome = ForwardOutcome::Refused(self.refusal(kind));
            let id = ForwardId { nonce: self.number(), sequence: self.number() };
            inputs.push(self.message(Body::ForwardResponse { id, outcome }));
        }
        inputs
    }

    pub fn duration(&mut self) -> Duration {
        Duration::new(self.below(1 << 40), u32::try_from(self.below(1_000_000_000)).unwrap())
    }

    pub fn config(&mut self) -> Config {
        Config {
            id: self.node(),
            election_timeout: self.duration(),
            heartbeat_interval: self.duration(),
            append_bytes_max: self.count(),
            in_flight_messages_max: self.count(),
            in_flight_bytes_max: self.count(),
            command_bytes_max: self.count(),
            uncommitted_bytes_max: self.count(),
            tail_bytes_max: self.count(),
            apply_entries_max: self.number(),
            apply_bytes_max: self.number(),
            retained_entries: self.number(),
            retained_bytes: self.number(),
            compaction_lag_max: self.number(),
            compaction_lag_bytes_max: self.number(),
            waiting_reads_max: self.count(),
            priority: self.bits().to_le_bytes()[0],
            transfer_lag_max: self.number(),
            forward_proposals: self.flag(),
            lease: self.maybe(|m| LeaseConfig {
                clock_drift_max_ppm: u32::try_from(m.bits() >> 32).unwrap(),
            }),
            commit_groups: self.maybe(|m| CommitGroups {
                zones: m
                    .several(|m| (m.node(), m.number()))
                    .into_iter()
                    .collect::<BTreeMap<_, _>>(),
                zones_min: m.count(),
            }),
            is_witness: self.flag(),
            store: self.maybe(Maker::stamp),
        }
    }

    pub fn restored(&mut self) -> Restored {
        let hard_state =
            HardState { term: self.term(), vote: self.maybe(Maker::node), commit: self.index() };
        let log = RestoredLog {
            hard_state,
            base: self.position(),
            base_membership: self.membership(),
            terms: self.several(|m| TermRun { term: m.term(), first: m.index() }),
            last: self.index(),
            memberships: self.several(|m| (m.index(), m.membership())),
        };
        Restored { log, snapshot: self.maybe(Maker::snapshot) }
    }
}
