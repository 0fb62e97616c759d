//! Rules that judge by books of their own: the checker's, the configurations', the ledger's, the oracle's and the clients' history.

use raft_core::{
    AppendOutcome, Body, Entry, HardState, Index, LogPosition, Membership, NodeId, Payload,
    Persist, ProposalId, ReadId, RequestId, SnapshotMeta, Term,
};
use raft_kv::{Response, WriteOutcome};

use super::quiet::{entry, message, nothing, snapshot, voters, writes};
use super::{Judged, Shown, shown, verdict};
use crate::history::{Answer, Ask, judge};
use crate::history_tests::{KEY, SESSION, get, oracle, put, seen, write};
use crate::oracle::name_of;
use crate::{Checker, Image, Ledger, Machine};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

/// A log with entries of these terms.
fn log(terms: &[u64], term: u64) -> Image {
    let mut image = Image::founding(voters());
    let mut write = nothing();
    for (index, term) in (1..).zip(terms) {
        write.entries.extend(writes(entry(index, Term(*term))).entries);
    }
    image.write(&write).expect("it fits");
    image.hard_state = HardState { term: Term(term), vote: None, commit: Index(0) };
    image
}

/// A checker that saw this log committed.
fn committed(log: &Image) -> Checker {
    let mut checker = Checker::new(voters());
    commit(&mut checker, log, 2).expect("on two disks");
    checker
}

/// Node 1 takes all of its log for committed, while it is on this many disks.
fn commit(checker: &mut Checker, log: &Image, disks: usize) -> Judged {
    let disks: Vec<(NodeId, &Image)> = (1..).map(NodeId).zip(vec![log; disks]).collect();
    let last = log.last().index;
    verdict(checker.on_commit(ONE, last, (log, None), None, &disks.iter().copied()))
}

fn at(index: u64, term: u64) -> LogPosition {
    LogPosition { index: Index(index), term: Term(term) }
}

fn configuration(index: u64, term: u64, membership: Membership) -> Entry {
    Entry { payload: Payload::Membership(membership.into()), ..entry(index, Term(term)) }
}

fn command(index: u64) -> Entry {
    Entry { payload: Payload::Command(bytes::Bytes::from_static(b"x")), ..entry(index, Term(1)) }
}

/// Node 1 writes configurations into an empty log, one after the other; `is_settled` says whether an entry of its term is committed.
fn configure(is_settled: bool, all: &[Membership]) -> Judged {
    let begun = log(&[1], 1);
    let mut checker = if is_settled { committed(&begun) } else { Checker::new(voters()) };
    let entries = (2..).zip(all).map(|(index, next)| configuration(index, 1, next.clone()));
    let write = Persist { entries: super::quiet::entries(entries.collect()), ..nothing() };
    verdict(checker.on_write(ONE, &write, &begun))
}

fn of(voters: &[u64]) -> Membership {
    Membership::of_voters(voters.iter().copied().map(NodeId))
}

/// Nodes 1 and 2, the second on this store.
fn on_store(store: u64) -> Membership {
    Membership { stores: [(TWO, raft_core::StoreId(store))].into(), ..of(&[1, 2]) }
}

fn hard_state(term: u64, vote: Option<NodeId>) -> HardState {
    HardState { term: Term(term), vote, commit: Index(0) }
}

/// What is said by a message of term 2, with this on the disk.
fn said(body: Body, disk: &Image) -> Judged {
    Checker::new(voters()).on_send(ONE, TWO, &message(Term(2), body), disk)
}

fn accepted(matched: u64) -> Body {
    Body::AppendResponse(AppendOutcome::Accepted { matched: Index(matched) })
}

/// Node 1 in a group whose only witness it is writes this.
fn witness_writes(entry: Entry) -> Judged {
    let membership = Membership { witnesses: [ONE].into(), ..voters() };
    let write = writes(entry);
    verdict(Checker::new(membership.clone()).on_write(ONE, &write, &Image::founding(membership)))
}

/// Node 2 acknowledges entry 1 to node 1, which leads term 2.
fn acknowledges(held: u64, sent: u64) -> Judged {
    let mut checker = Checker::new(voters());
    let leader = log(&[sent], 2);
    checker.on_leader(ONE, Term(2), &leader)?;
    checker.on_acknowledge(TWO, Term(2), Index(1), &log(&[held], 2), (ONE, &leader))
}

/// A ledger in which node 1 was asked to append batch 1 (commands 10 and 11) and a read, and for a request.
fn ledger() -> Ledger {
    let mut ledger = Ledger::default();
    ledger.propose(ONE, ProposalId(1), vec![10, 11]);
    ledger.read(ONE, ReadId(1));
    ledger.request(ONE, RequestId(1));
    ledger
}

/// The same, with the batch in the log at 1 and 2, term 1.
fn appended() -> Ledger {
    let mut ledger = ledger();
    ledger.on_appended(ONE, ProposalId(1), Index(1), 2, Term(1)).expect("it was asked for");
    ledger
}

/// The batch of [`appended`] is applied with command 10 at `first`.
fn applied(first: u64) -> Judged {
    let mut ledger = appended();
    ledger.on_applied(ONE, Index(first), Term(1), Some(10))?;
    ledger.on_applied(ONE, Index(2), Term(1), Some(11))
}

/// A member answers a write that was answered before, with its state's digest.
fn answers_again(outcome: WriteOutcome, digest: Option<u64>) -> Judged {
    let (mut oracle, mut machine) = oracle();
    let ten = 10u64.to_le_bytes();
    let key = &crate::history::key_bytes(KEY);
    let again = write(5, 0, raft_kv::Write::Put { key, value: &ten });
    Machine::apply(&mut machine, &again);
    let digest = digest.unwrap_or_else(|| Machine::digest(&machine));
    let asked = (name_of(&again), Some(Ask::Put { key: KEY, value: 10 }));
    oracle.on_applied(TWO, &again, asked, (Some(Response::Written(outcome)), digest))
}

/// A member answers a new write at this index.
fn answers_new(index: u64, outcome: WriteOutcome) -> Judged {
    let (mut oracle, mut machine) = oracle();
    let eight = 8u64.to_le_bytes();
    let key = &crate::history::key_bytes(KEY);
    let new = write(index, 3, raft_kv::Write::Put { key, value: &eight });
    Machine::apply(&mut machine, &new);
    let asked = (name_of(&new), Some(Ask::Put { key: KEY, value: 8 }));
    let told = (Some(Response::Written(outcome)), Machine::digest(&machine));
    oracle.on_applied(TWO, &new, asked, told)
}

/// A client is told this of [`KEY`], of the state at `index`, after somebody knew of `floor`.
fn is_told(value: u64, revision: u64, index: u64, floor: u64) -> Judged {
    let answer = Answer::Read(vec![(KEY, seen(value, revision))]);
    let asked = (Ask::Get { key: KEY }, None);
    verdict(oracle().0.on_told(asked, &answer, Index(index), Index(floor)))
}

/// A client is told that its write is done, which took effect at index 4.
fn is_done(floor: u64) -> Judged {
    let asked = (Ask::Put { key: KEY, value: 11 }, Some((SESSION, 3)));
    let answer = Answer::Written(WriteOutcome::Put { revision: 2 });
    verdict(oracle().0.on_told(asked, &answer, Index(6), Index(floor)))
}

/// Of two sessions that were opened, machines keep one. The first then writes, and is answered this.
fn forgotten_is_answered(kept: u64, response: Response) -> Judged {
    let mut oracle = crate::oracle::Oracle::<crate::HashMachine>::new(kept);
    let mut machine = crate::HashMachine::default();
    let other = raft_kv::SessionId(2);
    let open = |index, session| {
        let command = raft_kv::Command::OpenSession { session }.encode();
        Entry { payload: Payload::Command(command), ..entry(index, Term(1)) }
    };
    let key = &crate::history::key_bytes(KEY);
    let new = write(3, 0, raft_kv::Write::Put { key, value: b"ten" });
    let put = Ask::Put { key: KEY, value: 10 };
    let opened = Response::SessionOpened;
    for (entry, ask, response) in [
        (open(1, SESSION), Ask::Open, opened),
        (open(2, other), Ask::Open, opened),
        (new, put, response),
    ] {
        Machine::apply(&mut machine, &entry);
        let told = (Some(response), Machine::digest(&machine));
        oracle.on_applied(ONE, &entry, (name_of(&entry), Some(ask)), told)?;
    }
    Ok(())
}

fn snapshot_at(term: u64, membership: &Membership) -> Judged {
    let checker = committed(&log(&[1, 1], 1));
    let meta = SnapshotMeta { membership: membership.clone().into(), ..snapshot(at(2, term)) };
    checker.on_snapshot_position(ONE, &meta)
}

fn leads_after_commit(log_of: &Image) -> Judged {
    verdict(committed(&log(&[1], 1)).on_leader(TWO, Term(3), log_of))
}

fn second_leader(who: NodeId) -> Judged {
    let mut checker = Checker::new(voters());
    checker.on_leader(ONE, Term(1), &log(&[], 1))?;
    verdict(checker.on_leader(who, Term(1), &log(&[], 1)))
}

fn seen_after(term: u64) -> Judged {
    let mut checker = Checker::new(voters());
    let seen = entry(2, Term(2));
    checker.on_entry(ONE, &seen, Term(1))?;
    checker.on_entry(TWO, &seen, Term(term))
}

fn truncates(from: u64) -> Judged {
    let log = log(&[1], 1);
    let write = Persist { truncate_from: Some(Index(from)), ..nothing() };
    verdict(committed(&log).on_write(ONE, &write, &log))
}

fn takes_for_committed(other: &Image) -> Judged {
    commit(&mut committed(&log(&[1], 1)), other, 3)
}

/// Node 1 spoke in term 2 and voted for node 2, then starts with this.
fn restarts(hard_state: HardState) -> Judged {
    let mut checker = Checker::new(voters());
    let mut disk = log(&[], 2);
    disk.hard_state.vote = Some(TWO);
    checker.on_send(ONE, TWO, &message(Term(2), Body::VoteResponse { granted: true }), &disk)?;
    checker.on_start(ONE, &hard_state)
}

fn digests(second: u64) -> Judged {
    let mut checker = committed(&log(&[1], 1));
    checker.on_applied(ONE, at(1, 1), 7)?;
    checker.on_applied(TWO, at(1, 1), second)
}

fn voted(vote: NodeId) -> Image {
    let mut image = log(&[], 2);
    image.hard_state = hard_state(2, Some(vote));
    image
}

fn moves(to: HardState) -> Judged {
    let write = Persist { hard_state: Some(to), ..nothing() };
    verdict(Checker::new(voters()).on_write(ONE, &write, &voted(TWO)))
}

pub(super) const SHOWN: &[Shown] = &[
    shown("election safety", |_| second_leader(ONE), |_| second_leader(TWO)),
    shown(
        "leader completeness",
        |_| leads_after_commit(&log(&[1, 2], 3)),
        |_| leads_after_commit(&log(&[], 3)),
    ),
    shown(
        "leader completeness",
        |_| leads_after_commit(&log(&[1], 3)),
        |_| leads_after_commit(&log(&[2], 3)),
    ),
    shown(
        "leaders have voted for themselves",
        |_| Checker::new(voters()).on_elected(ONE, Term(2), &voted(ONE)),
        |_| Checker::new(voters()).on_elected(ONE, Term(2), &voted(TWO)),
    ),
    shown("log matching", |_| seen_after(1), |_| seen_after(2)),
    shown(
        "hard state only moves forward",
        |_| moves(hard_state(3, Some(ONE))),
        |_| moves(hard_state(1, None)),
    ),
    shown(
        "hard state only moves forward",
        |_| moves(hard_state(2, Some(TWO))),
        |_| moves(hard_state(2, Some(ONE))),
    ),
    shown("committed entries stay", |_| truncates(2), |_| truncates(1)),
    shown(
        "writes fit the log",
        |_| verdict(Checker::new(voters()).on_write(ONE, &writes(command(2)), &log(&[1], 1))),
        |_| verdict(Checker::new(voters()).on_write(ONE, &writes(command(3)), &log(&[1], 1))),
    ),
    shown(
        "witnesses get no commands",
        |_| witness_writes(Entry { payload: Payload::Withheld, ..entry(1, Term(1)) }),
        |_| witness_writes(command(1)),
    ),
    shown("snapshots are committed", |_| snapshot_at(1, &voters()), |_| snapshot_at(2, &voters())),
    shown(
        "snapshots carry the configuration",
        |_| snapshot_at(1, &voters()),
        |_| snapshot_at(1, &of(&[1, 2])),
    ),
    shown(
        "state machine safety",
        |_| takes_for_committed(&log(&[1], 2)),
        |_| takes_for_committed(&log(&[2], 2)),
    ),
    shown("state machine safety", |_| digests(7), |_| digests(8)),
    shown(
        "commit is in the log",
        |_| commit(&mut Checker::new(voters()), &log(&[1], 1), 2),
        |_| {
            let log = log(&[1], 1);
            let disks = [(ONE, &log), (TWO, &log)].into_iter();
            let mut checker = Checker::new(voters());
            verdict(checker.on_commit(ONE, Index(2), (&log, None), None, &disks))
        },
    ),
    shown(
        "commit is durable",
        |_| commit(&mut Checker::new(voters()), &log(&[1], 1), 2),
        |_| commit(&mut Checker::new(voters()), &log(&[1], 1), 1),
    ),
    shown(
        "reads wait for committed entries",
        |_| committed(&log(&[1], 1)).on_read_index(ONE, Index(1)),
        |_| committed(&log(&[1], 1)).on_read_index(ONE, Index(2)),
    ),
    shown(
        "what was said is remembered",
        |_| restarts(hard_state(2, Some(TWO))),
        |_| restarts(hard_state(1, None)),
    ),
    shown(
        "what was said is remembered",
        |_| restarts(hard_state(3, None)),
        |_| restarts(hard_state(2, None)),
    ),
    shown(
        "only committed entries are applied",
        |_| committed(&log(&[1], 1)).on_applied(ONE, at(1, 1), 7),
        |_| committed(&log(&[1], 1)).on_applied(ONE, at(2, 1), 7),
    ),
    shown(
        "durable before said",
        |_| said(Body::VoteResponse { granted: false }, &log(&[], 2)),
        |_| said(Body::VoteResponse { granted: false }, &log(&[], 1)),
    ),
    shown(
        "durable before said",
        |_| said(Body::VoteResponse { granted: true }, &voted(TWO)),
        |_| said(Body::VoteResponse { granted: true }, &voted(ONE)),
    ),
    shown(
        "durable before said",
        |_| said(accepted(1), &log(&[1], 2)),
        |_| said(accepted(2), &log(&[1], 2)),
    ),
    shown("acknowledged entries match", |_| acknowledges(1, 1), |_| acknowledges(1, 2)),
    shown(
        "configurations change by simple or joint steps",
        |_| configure(true, &[of(&[1, 2])]),
        |_| configure(true, &[of(&[1, 4, 5])]),
    ),
    shown(
        "one change at a time",
        |_| configure(true, &[of(&[1, 2])]),
        |_| configure(true, &[of(&[1, 2]), of(&[1])]),
    ),
    shown(
        "voters stay on their stores",
        |_| configure(true, &[of(&[1, 2]), on_store(1)]),
        |_| configure(true, &[of(&[1, 2]), on_store(1), on_store(2)]),
    ),
    shown(
        "no change before an own commit",
        |_| configure(true, &[of(&[1, 2])]),
        |_| configure(false, &[of(&[1, 2])]),
    ),
    shown(
        "answers fit questions",
        |_| ledger().on_request_answered(ONE, RequestId(1)),
        |_| ledger().on_request_answered(TWO, RequestId(1)),
    ),
    shown(
        "answers fit questions",
        |_| ledger().on_appended(ONE, ProposalId(1), Index(1), 2, Term(1)),
        |_| ledger().on_appended(ONE, ProposalId(1), Index(1), 3, Term(1)),
    ),
    shown(
        "answers fit questions",
        |_| appended().on_abandoned(ONE, ProposalId(1)),
        |_| appended().on_abandoned(ONE, ProposalId(2)),
    ),
    shown(
        "answers fit questions",
        |_| ledger().on_refused(ONE, ProposalId(1)),
        |_| appended().on_refused(ONE, ProposalId(1)),
    ),
    shown(
        "answers fit questions",
        |_| ledger().on_read_refused(ONE, ReadId(1)),
        |_| ledger().on_read_refused(ONE, ReadId(2)),
    ),
    shown(
        "refused is never applied",
        |_| appended().on_applied(ONE, Index(1), Term(1), Some(10)),
        |_| {
            let mut ledger = ledger();
            ledger.on_refused(ONE, ProposalId(1))?;
            ledger.on_applied(ONE, Index(1), Term(1), Some(10))
        },
    ),
    shown(
        "a copy of a command is applied once",
        |_| appended().on_applied(ONE, Index(1), Term(1), Some(10)),
        |_| {
            let mut ledger = appended();
            ledger.on_applied(TWO, Index(7), Term(1), Some(10))?;
            ledger.on_applied(TWO, Index(8), Term(1), Some(10))
        },
    ),
    shown(
        "appended is committed or abandoned",
        |_| applied(1),
        |_| appended().on_applied(ONE, Index(2), Term(2), None),
    ),
    shown("batches are whole and contiguous", |_| applied(1), |_| applied(5)),
    shown(
        "no stale read",
        |_| {
            let mut ledger = appended();
            ledger.on_applied(ONE, Index(1), Term(1), Some(10))?;
            ledger.on_applied(ONE, Index(2), Term(1), Some(11))?;
            // It began before that was acknowledged.
            ledger.on_read_ready(ONE, ReadId(1), Index(1))
        },
        |_| {
            let mut ledger = appended();
            ledger.on_applied(ONE, Index(1), Term(1), Some(10))?;
            ledger.on_applied(ONE, Index(2), Term(1), Some(11))?;
            ledger.read(ONE, ReadId(2));
            ledger.on_read_ready(ONE, ReadId(2), Index(1))
        },
    ),
    shown(
        "entries are applied in order",
        |_| answers_new(5, WriteOutcome::Put { revision: 3 }),
        |_| answers_new(6, WriteOutcome::Put { revision: 3 }),
    ),
    shown(
        "answers are those of a map",
        |_| answers_new(5, WriteOutcome::Put { revision: 3 }),
        |_| answers_new(5, WriteOutcome::Put { revision: 4 }),
    ),
    shown(
        "answers are those of a map",
        |_| forgotten_is_answered(1, Response::SessionExpired),
        |_| forgotten_is_answered(2, Response::SessionExpired),
    ),
    shown(
        "answers are those of a map",
        |_| forgotten_is_answered(2, Response::Written(WriteOutcome::Put { revision: 1 })),
        |_| forgotten_is_answered(1, Response::Written(WriteOutcome::Put { revision: 1 })),
    ),
    shown(
        "snapshot and tail equal a full replay",
        |_| answers_again(WriteOutcome::Put { revision: 1 }, None),
        |_| answers_again(WriteOutcome::Put { revision: 1 }, Some(7)),
    ),
    shown(
        "each session's request is applied once",
        |_| answers_again(WriteOutcome::Put { revision: 1 }, None),
        |_| answers_again(WriteOutcome::NotFound, None),
    ),
    shown(
        "each session's request is applied once",
        |_| answers_new(5, WriteOutcome::Put { revision: 3 }),
        |_| answers_new(5, WriteOutcome::Put { revision: 1 }),
    ),
    shown("reads are those of their index", |_| is_told(11, 2, 4, 4), |_| is_told(10, 1, 4, 4)),
    shown("real time is kept", |_| is_told(10, 1, 3, 3), |_| is_told(10, 1, 3, 4)),
    shown("real time is kept", |_| is_done(3), |_| is_done(4)),
    shown(
        "linearizability",
        |_| verdict(judge(&[put(0, 1, 10, 1), get(4, 5, Some((10, 1)))])),
        |_| verdict(judge(&[put(0, 1, 10, 1), get(4, 5, None)])),
    ),
];
