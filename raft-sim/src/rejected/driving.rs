//! Rules of the driver, of disks and of machines, and those of a whole run.

use bytes::Bytes;
use raft_core::{
    Action, AppendOutcome, Apply, Body, Entry, Event as CoreEvent, HardState, Index, Input,
    Instant, LogPosition, Membership, NodeId, Payload, Persist, RestoredLog, StoreId, Term, Ticket,
};
use raft_kv::Response;
use raft_node::SnapshotChunk;
use raft_node::order::{MachineJob, StoreJob, StreamId};
use xxhash_rust::xxh3::xxh3_64;

use super::quiet::{
    OUTSIDER, Quiet, entries, entry, follower, id, last, leader, message, nothing, snapshot, term,
    voters, writes,
};
use super::{Judged, Shown, shown, verdict};
use crate::event::Event;
use crate::history::{Answer, Ask};
use crate::liars::{
    judge_first_records, judge_lease_after_a_pause, judge_loss, judge_refill, judge_repeated_life,
};
use crate::node::Snapshot;
use crate::provoke::{Provocation, judge_refused_start};
use crate::real::Found;
use crate::real_disk::judge_found;
use crate::starting::{judge_real_restore, judge_restored};
use crate::world::{ACTIONS_AT_ONCE_MAX, judge_polling};
use crate::{Case, HashMachine, Image, Machine, outcome};

/// What is behind the end of a node's log by this much is to be applied.
fn applies(world: &mut Quiet, beyond: u64) -> Judged {
    let node = follower(world);
    let end = world.nodes[node].disk.last().index;
    // A claim to be committed is judged by itself.
    let action = Apply { first: end, last: end.plus(beyond), entries: entries(Vec::new()) };
    world.perform(node, Action::Apply(action))
}

/// The machine of a node that does not lead is told to do this next.
fn works(world: &mut Quiet, job: impl Fn(&Quiet, usize) -> MachineJob) -> Judged {
    let node = follower(world);
    world.nodes[node].driver.jobs.clear();
    let job = job(world, node);
    world.nodes[node].driver.jobs.push_back(job);
    world.on_work(node)
}

/// Entries from `first` to `last`, counted from the end of what the machine has applied.
fn to_apply(world: &Quiet, node: usize, first: u64, last: u64) -> MachineJob {
    let applied = world.nodes[node].machine.applied.index;
    MachineJob::Apply(Apply {
        first: applied.plus(first),
        last: applied.plus(last),
        entries: entries(Vec::new()),
    })
}

/// The next entry is committed, and on the disk of a follower, and of the leader.
fn commit_one_more(world: &mut Quiet, payload: &Payload) -> Judged {
    let (node, leader) = (follower(world), leader(world));
    let at = world.checker.committed().next();
    let applied = world.nodes[node].machine.applied.index;
    assert_eq!(applied.next(), at, "all that is committed is applied");
    for node in [node, leader] {
        let kept = Persist { truncate_from: Some(at), ..nothing() };
        let it = &mut world.nodes[node];
        for image in [&mut it.disk, &mut it.log] {
            image.write(&kept).expect("it fits");
            let next = Entry { payload: payload.clone(), ..entry(at.0, image.hard_state.term) };
            image.write(&writes(next)).expect("it fits");
        }
    }
    world.on_commit_claim(leader, at)
}

/// A snapshot that a follower received is installed, of this far beyond what it has applied.
fn installs(world: &mut Quiet, data: Option<Bytes>, behind: u64) -> Judged {
    let node = follower(world);
    let it = &mut world.nodes[node];
    let position = it.machine.applied;
    let meta = snapshot(LogPosition { index: Index(position.index.0 - behind), ..position });
    let data = data.unwrap_or_else(|| Machine::checkpoint(&mut it.machine.state, &meta));
    it.received = vec![Snapshot { meta: meta.clone(), data }];
    it.driver.receiving.give_up();
    world.nodes[node].driver.jobs.clear();
    world.nodes[node].driver.jobs.push_back(MachineJob::Install(meta));
    // What the core makes of a snapshot that it never asked for is its own affair.
    let judged = world.on_work(node);
    judged.or_else(|it| if it.rule == "an honest driver" { Ok(()) } else { Err(it) })
}

/// A follower that expects a snapshot of the leader gets a chunk of it, sound or not; after it was heard to have asked for a stream of this term.
fn keeps_chunk(world: &mut Quiet, asked: Term, is_sound: bool) -> Judged {
    let (node, peer) = (follower(world), id(leader(world)));
    let meta = snapshot(LogPosition { index: Index(1 << 20), term: Term(1) });
    let id = StreamId { peer, term: Term(1), position: meta.position };
    world.expect_snapshot(node, (peer, id.term), meta)?;
    world.nodes[node].watch.expected = Some(StreamId { term: asked, ..id });
    let data = Bytes::from_static(b"data");
    let chunk = SnapshotChunk::Data { offset: 0, checksum: xxh3_64(&data), data };
    world.receive(node, id, (&chunk, is_sound))
}

/// A node that does not lead starts again after `change`.
fn starts(world: &mut Quiet, change: impl Fn(&mut Quiet, usize)) -> Judged {
    let node = follower(world);
    world.crash(node)?;
    change(world, node);
    world.start(node)
}

/// The leader compacts so far before its checkpoint.
fn compacts(world: &mut Quiet, before: i64) -> Judged {
    let node = leader(world);
    let held = world.nodes[node].checkpoint.as_ref().expect("it took one").meta.position.index;
    let index = Index(held.0.wrapping_add_signed(-before));
    let term = world.nodes[node].log.term_at(index).expect("it is in the log");
    world.perform(node, Action::Compact { through: LogPosition { index, term } })
}

/// The leader's log is cut at a checkpoint of its group, or of nobody's.
fn compacts_for(world: &mut Quiet, membership: Membership) -> Judged {
    let node = leader(world);
    let held = world.nodes[node].checkpoint.as_mut().expect("it took one");
    held.meta.membership = membership.into();
    compacts(world, 20)
}

/// A leader rejects the store of a member, or does nothing.
fn concludes(is_rejected: bool) -> Vec<Action> {
    let (node, store) = (NodeId(2), StoreId(1));
    is_rejected
        .then_some(Action::Event(CoreEvent::StoreRejected { node, store }))
        .into_iter()
        .collect()
}

/// A leader records the stores of these members, as the first of three.
fn records(members: &[u64]) -> Judged {
    let stores = members.iter().map(|member| (NodeId(*member), StoreId(7))).collect();
    judge_first_records(NodeId(1), NodeId(3), &[Membership { stores, ..voters() }])
}

/// A leader sends entries from so far behind what a member had.
fn refills(behind: u64) -> Judged {
    let (peer, had) = (NodeId(2), Index(9));
    let index = Index(had.0 - behind);
    let prev = LogPosition { index, term: Term(1) };
    let body = Body::Append { prev, entries: entries(Vec::new()), commit: Index(0) };
    judge_refill(&[Action::Send { to: peer, message: message(Term(1), body) }], peer, had)
}

/// The leader appends a configuration that makes the node that stands by a voter, after it was a learner.
fn promotes(world: &mut Quiet, is_blank: bool) -> Judged {
    let node = leader(world);
    let learner = Membership { learners: [OUTSIDER].into(), ..voters() };
    let index = last(world, node).index;
    let payload = Payload::Membership(learner.into());
    let term = term(world);
    let added = Entry { payload, ..entry(index.0 + 1, term) };
    world.nodes[node].log.write(&writes(added)).expect("it fits");
    // It answered just now.
    let watch = &mut world.nodes[node].watch;
    watch.leading.as_mut().expect("it leads").answered_at.insert(OUTSIDER, watch.told);
    if !is_blank {
        let disk = world.nodes[node].log.clone();
        world.nodes[3].disk = disk;
    }
    let promoted = Membership::of_voters((1..=4).map(NodeId));
    let payload = Payload::Membership(promoted.into());
    world.judge_promotions(node, &writes(Entry { payload, ..entry(index.0 + 2, term) }))
}

fn appends(world: &mut Quiet, bytes: usize, is_to_witness: bool) -> Judged {
    let to = follower(world);
    world.nodes[to].is_witness = is_to_witness;
    let command =
        |index| Entry { payload: Payload::Command(vec![0; bytes].into()), ..entry(index, Term(1)) };
    let entries = entries((1..=2).map(command).collect());
    let body = Body::Append { prev: LogPosition::ORIGIN, entries, commit: Index(0) };
    world.judge_size(id(to), &message(Term(1), body))
}

/// Somebody commits in this many terms more than the leader leads.
fn commits_later(world: &mut Quiet, terms: u64) -> Judged {
    let term = Term(term(world).0 + terms);
    let node = follower(world);
    world.judge_leases(node, term)
}

/// A node takes a proposal after it was removed, by an entry that is committed or may not be.
fn takes_after_removal(world: &mut Quiet, is_committed: bool) -> Judged {
    let node = leader(world);
    let rest = Membership::of_voters((1..=3).map(NodeId).filter(|other| *other != id(node)));
    let at = last(world, node).index.next();
    let removal = Entry { payload: Payload::Membership(rest.into()), ..entry(at.0, term(world)) };
    world.nodes[node].log.write(&writes(removal)).expect("it fits");
    if is_committed {
        world.nodes[node].claimed = at;
    }
    world.judge_office(node)
}

/// So many things happen at one moment.
fn happens_at_once(world: &mut Quiet, times: u64) -> Judged {
    for _ in 0..times {
        world.at(0, Event::Heal);
    }
    let now = world.now_us();
    verdict(world.run_until(now, |_| false))
}

/// So many events wait for a later time.
fn lie_ahead(world: &mut Quiet, times: u64) -> Judged {
    for number in 0..times {
        world.at(5_000_000 + number, Event::Heal);
    }
    let soon = world.now_us() + 1_000_000;
    verdict(world.run_until(soon, |_| false))
}

/// The end of a run, with or without a way between the nodes.
fn converges(world: &mut Quiet, is_cut: bool) -> Judged {
    world.calm_down()?;
    if is_cut {
        world.network.cut(|_| true, |_| true);
    }
    world.converge()
}

/// What a node starts from, whose checkpoint is of an entry that its log has in another term.
fn starts_over(world: &Quiet, base: Option<Index>) -> Judged {
    let mut disk = world.nodes[0].disk.clone();
    let end = disk.last();
    let other = LogPosition { term: Term(end.term.0 + 1), ..end };
    disk.hard_state.commit = Index(0);
    let fresh = crate::node::Node::<HashMachine>::new(id(0), StoreId(0), &voters(), 1);
    let checkpoint = Some(Snapshot { meta: snapshot(other), data: Bytes::new() });
    let base = base.unwrap_or(end.index);
    judge_restored(&crate::node::Node { disk, checkpoint, ..fresh }, base)
}

fn restored() -> RestoredLog {
    Image::founding(voters()).restored()
}

fn polls(count: u64) -> Judged {
    judge_polling(count, &Action::Compact { through: LogPosition::ORIGIN })
}

fn comes_back(found: &Found, may_be_lost: bool) -> Judged {
    verdict(judge_found(NodeId(1), found, may_be_lost))
}

/// A machine that can not take a command.
#[derive(Debug, Default)]
struct Panics;

impl Machine for Panics {
    fn apply(&mut self, _: &Entry) -> Option<Response> {
        panic!("on purpose")
    }

    fn digest(&self) -> u64 {
        0
    }

    fn checkpoint(&mut self, _: &raft_core::SnapshotMeta) -> Bytes {
        Bytes::new()
    }

    fn restore(_: &raft_core::SnapshotMeta, _: &[u8]) -> Result<Panics, String> {
        Ok(Panics)
    }

    fn read(&self, _: &Ask) -> Option<Answer> {
        None
    }
}

/// A short run of the quiet plan.
fn runs<M: Machine>(world: &Quiet) -> Judged {
    let case = Case { seed: 1, plan: world.plan.clone() };
    outcome::run_case::<M>(&case, None).failure.map_or(Ok(()), |it| Err(it.violation))
}

/// An entry is committed, and a follower, which was told so or was not, takes it for that.
fn follows_commit(world: &mut Quiet, was_told: bool) -> Judged {
    let node = follower(world);
    commit_one_more(world, &Payload::Empty)?;
    let at = world.checker.committed();
    if was_told {
        world.nodes[node].watch.told_commit = at;
    }
    world.on_commit_claim(node, at)
}

/// The leader is told something that it must refuse by this name, or, without one, pass over.
fn provokes(world: &mut Quiet, refusal: &'static str, input: Input) -> Judged {
    let node = leader(world);
    world.provoke(node, Provocation::new(refusal, input))
}

fn unknown_ticket() -> Input {
    Input::Persisted(Ticket(u64::MAX))
}

/// A core starts from a log that ends before a run of terms of it, or from one that is sound.
fn starts_from(is_damaged: bool) -> Judged {
    let mut restored = raft_core::Restored::founding(voters());
    if is_damaged {
        restored.log.terms.push(raft_core::TermRun { term: Term(1), first: Index(1) });
    }
    let config = raft_core::Config::new(NodeId(1));
    judge_refused_start("BrokenTerms", config, Instant(0), restored)
}

pub(super) const SHOWN: &[Shown] = &[
    shown(
        "what breaks the rules is refused by name",
        |w| provokes(w, "UnknownTicket", unknown_ticket()),
        |w| provokes(w, "AppliedOutOfRange", unknown_ticket()),
    ),
    shown(
        "what is refused changes nothing",
        |w| provokes(w, "", Input::FetchFailed { peer: OUTSIDER }),
        |w| {
            provokes(
                w,
                "",
                Input::Read { id: raft_core::ReadId(1 << 40), at: raft_core::ReadAt::Leader },
            )
        },
    ),
    shown(
        "what no sound disk holds is refused by name",
        |_| starts_from(true),
        |_| starts_from(false),
    ),
    shown("what is applied is durable here", |w| applies(w, 0), |w| applies(w, 1)),
    shown(
        "writes fit the log",
        |w| {
            let node = follower(w);
            let next = entry(last(w, node).index.0 + 1, term(w));
            w.nodes[node].driver.queue.push_back(StoreJob::Write(writes(next)));
            w.on_flush(node)
        },
        |w| {
            let node = follower(w);
            let gap = entry(last(w, node).index.0 + 2, term(w));
            w.nodes[node].driver.queue.push_back(StoreJob::Write(writes(gap)));
            w.on_flush(node)
        },
    ),
    shown("who is promoted has caught up", |w| promotes(w, false), |w| promotes(w, true)),
    shown(
        "snapshots that replace the log tell of a group",
        |w| compacts_for(w, voters()),
        |w| compacts_for(w, Membership::default()),
    ),
    shown(
        "a store that repeats a life does not count",
        |_| judge_repeated_life(&concludes(true), NodeId(2)),
        |_| judge_repeated_life(&concludes(false), NodeId(2)),
    ),
    shown(
        "a store that lost what it acknowledged does not count",
        |_| judge_loss(&concludes(true), NodeId(2)),
        |_| judge_loss(&concludes(true), NodeId(3)),
    ),
    shown(
        "who stood still has no lease",
        |_| judge_lease_after_a_pause(NodeId(1), Some(Instant(7)), Instant(7)),
        |_| judge_lease_after_a_pause(NodeId(1), Some(Instant(8)), Instant(7)),
    ),
    shown("the first stores are recorded together", |_| records(&[1, 2, 3]), |_| records(&[1, 2])),
    shown("who lost its log is sent it again", |_| refills(1), |_| refills(0)),
    shown("compaction waits for a checkpoint", |w| compacts(w, 20), |w| compacts(w, -1)),
    shown("compaction leaves a reserve", |w| compacts(w, 20), |w| compacts(w, 19)),
    shown(
        "leases end before a newer leader commits",
        |w| commits_later(w, 0),
        |w| commits_later(w, 1),
    ),
    shown("appends keep to their budget", |w| appends(w, 500, false), |w| appends(w, 1_001, false)),
    shown("witnesses get no commands", |w| appends(w, 1, false), |w| appends(w, 1, true)),
    shown(
        "entries are applied in order",
        |w| {
            commit_one_more(w, &Payload::Empty)?;
            works(w, |w, node| to_apply(w, node, 1, 1)).or_else(core_is_surprised)
        },
        |w| works(w, |w, node| to_apply(w, node, 2, 2)),
    ),
    shown(
        "entries to apply can be read",
        |w| {
            commit_one_more(w, &Payload::Empty)?;
            works(w, |w, node| to_apply(w, node, 1, 1)).or_else(core_is_surprised)
        },
        |w| works(w, |w, node| to_apply(w, node, 1, 9)),
    ),
    shown(
        "machines get every command",
        |w| {
            commit_one_more(w, &Payload::Empty)?;
            works(w, |w, node| to_apply(w, node, 1, 1)).or_else(core_is_surprised)
        },
        |w| {
            commit_one_more(w, &Payload::Withheld)?;
            works(w, |w, node| to_apply(w, node, 1, 1))
        },
    ),
    shown(
        "only received snapshots are installed",
        |w| installs(w, None, 0),
        |w| works(w, |w, node| MachineJob::Install(snapshot(last(w, node)))),
    ),
    shown(
        "a machine does one thing at a time",
        |w| installs(w, None, 0),
        |w| {
            // The order knows nothing of it.
            let node = follower(w);
            w.nodes[node].checkpointing = w.nodes[node].checkpoint.clone();
            installs(w, None, 0)
        },
    ),
    shown("the machine never goes back", |w| installs(w, None, 0), |w| installs(w, None, 1)),
    shown(
        "snapshots can be read",
        |w| installs(w, None, 0),
        |w| installs(w, Some(Bytes::from_static(b"torn")), 0),
    ),
    shown(
        "checkpoints can be read",
        |w| starts(w, |_, _| ()),
        |w| {
            starts(w, |w, node| {
                let held = w.nodes[node].checkpoint.as_mut().expect("it took one");
                held.data = Bytes::from_static(b"torn");
            })
        },
    ),
    shown(
        "a node can restart",
        |w| starts(w, |_, _| ()),
        |w| starts(w, |w, node| w.plan.priorities[node] = u8::MAX),
    ),
    shown(
        "a real store restores what it holds",
        |_| judge_real_restore(id(0), &Ok(restored()), &restored()),
        |_| {
            let lost = HardState { term: Term(1), ..HardState::default() };
            let found = RestoredLog { hard_state: lost, ..restored() };
            judge_real_restore(id(0), &Ok(found), &restored())
        },
    ),
    shown(
        "a real store keeps its word",
        |_| comes_back(&Found::Whole(Box::new(Image::founding(voters()))), false),
        |_| comes_back(&Found::Wrong("it holds less".to_owned()), true),
    ),
    shown(
        "a real store keeps its word",
        |_| comes_back(&Found::Refused("it is damaged".to_owned()), true),
        |_| comes_back(&Found::Refused("it is damaged".to_owned()), false),
    ),
    shown(
        "honest peers",
        |w| {
            let (node, from) = (leader(w), id(follower(w)));
            let accepted = AppendOutcome::Accepted { matched: last(w, node).index };
            let message = message(term(w), Body::AppendResponse(accepted));
            w.tell(node, Input::Message { from, store: None, message })
        },
        |w| {
            let (node, from) = (leader(w), id(follower(w)));
            let accepted = AppendOutcome::Accepted { matched: Index(1 << 40) };
            let message = message(term(w), Body::AppendResponse(accepted));
            w.tell(node, Input::Message { from, store: None, message })
        },
    ),
    shown(
        "an honest driver",
        |w| w.tell(0, Input::Timeout),
        |w| w.tell(0, Input::Persisted(Ticket(1 << 40))),
    ),
    shown(
        "followers commit what was compared",
        |w| follows_commit(w, true),
        |w| follows_commit(w, false),
    ),
    shown("polling ends", |_| polls(ACTIONS_AT_ONCE_MAX), |_| polls(ACTIONS_AT_ONCE_MAX + 1)),
    shown("messages do not multiply", |w| lie_ahead(w, 100_000), |w| lie_ahead(w, 300_001)),
    shown("time goes on", |w| happens_at_once(w, 100_000), |w| happens_at_once(w, 200_002)),
    shown(
        "an installed snapshot replaces the log",
        |w| starts_over(w, None),
        |w| starts_over(w, Some(Index(0))),
    ),
    shown(
        "damaged chunks are not kept",
        |w| keeps_chunk(w, Term(1), true),
        |w| keeps_chunk(w, Term(1), false),
    ),
    shown(
        "only the stream that was asked for is believed",
        |w| keeps_chunk(w, Term(1), true),
        |w| keeps_chunk(w, Term(2), true),
    ),
    shown("liveness", |w| converges(w, false), |w| converges(w, true)),
    shown("no panic", |w| runs::<HashMachine>(w), |w| runs::<Panics>(w)),
    shown(
        "who was removed leads no more",
        |w| takes_after_removal(w, false),
        |w| takes_after_removal(w, true),
    ),
];

/// The core did not ask for what was applied here, and says so once it is told.
fn core_is_surprised(violation: crate::Violation) -> Judged {
    if violation.rule == "an honest driver" { Ok(()) } else { Err(violation) }
}
