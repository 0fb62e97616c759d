//! Rules of conduct on leaders: leases, what they send, to whom they hand over, and when they step down.

use core::time::Duration;

use raft_core::{
    AppendOutcome, Body, Entries, Index, LogPosition, Membership, NodeId, RequestId, Term,
};

use super::quiet::{
    OUTSIDER, Quiet, entries, entry, follower, id, last, leader, message, snapshot, term, voters,
};
use super::{Judged, Shown, shown};
use crate::watch::{Leading, Leaving};

/// The leader's books are lost: by them nobody answered it since it began to lead, which is so long ago.
pub(super) fn forget_answers(world: &mut Quiet, led_for: Duration) {
    let (node, term) = (leader(world), term(world));
    let told = world.nodes[node].watch.told;
    let since = raft_core::Instant(told.0 - led_for.as_micros() as u64);
    world.nodes[node].watch.leading = Some(Leading::new(term, since));
}

/// The leader was told something, and believes in its lease.
fn believes_in_its_lease(world: &mut Quiet) -> Judged {
    let node = leader(world);
    let told = world.nodes[node].watch.told;
    world.watch_handled(node, None, (told, true))
}

/// The leader believes in its lease, with a request to hand over that it has accepted or has not looked at yet.
fn leases_while_it_hands_over(world: &mut Quiet, is_accepted: bool) -> Judged {
    let node = leader(world);
    let leading = world.nodes[node].watch.leading.as_mut().expect("it leads");
    leading.transfer = Some(RequestId(1 << 40));
    leading.hands_over = is_accepted;
    world.watch_drained(node)
}

/// The leader of so many terms later commits all of its log, of which it knew nothing to be committed.
fn commits(world: &mut Quiet, terms: u64) -> Judged {
    let node = leader(world);
    let (term, end) = (Term(term(world).0 + terms), last(world, node).index);
    let watch = &mut world.nodes[node].watch;
    watch.told_commit = Index(0);
    watch.leading = Some(Leading::new(term, watch.told));
    world.judge_own_commit(node, term, end)
}

/// The leader's heartbeats have left, so long after it owed a follower something, or sent it entries that are not answered.
fn beats_after(world: &mut Quiet, heartbeats: u32, owes: bool) -> Judged {
    let (node, to) = (leader(world), id(follower(world)));
    let (heartbeat, end) = (world.plan.config.heartbeat_interval, last(world, node).index);
    let watch = &mut world.nodes[node].watch;
    let (now, leading) = (watch.told, watch.leading.as_mut().expect("it leads"));
    leading.serving.clear();
    leading.owed.clear();
    leading.attended.clear();
    leading.has_beaten = true;
    if owes {
        leading.owed.insert(to, now);
    } else {
        leading.replicates.insert(to);
        let serving = leading.serving.entry(to).or_default();
        serving.on_append((end, end.next()), now, heartbeat).expect("it is the first");
    }
    world.judge_attention(node, now + heartbeat * heartbeats)
}

/// The connection to a follower broke in the middle of a stream; the leader goes on so far beyond what that acknowledged.
fn goes_on(world: &mut Quiet, beyond: u64) -> Judged {
    let (node, to) = (leader(world), id(follower(world)));
    let leading = world.nodes[node].watch.leading.as_mut().expect("it leads");
    leading.most.insert(to, Index(10));
    leading.broken.insert(to);
    world.judge_begun_anew(node, to, Index(10 + beyond))
}

/// The leader offers a snapshot to who said that it has so much; its log begins after 10.
fn offers_to_who_has(world: &mut Quiet, matched: u64) -> Judged {
    let (node, to) = (leader(world), id(follower(world)));
    let it = &mut world.nodes[node];
    it.log.base.index = Index(10);
    it.watch.leading.as_mut().expect("it leads").enough.insert(to, Index(matched));
    world.judge_need(node, to)
}

/// The leader cuts its log through 10; a follower that replicates has so much of it.
fn cuts_its_log(world: &mut Quiet, matched: u64) -> Judged {
    let (node, peer) = (leader(world), id(follower(world)));
    let meta = snapshot(last(world, node));
    world.plan.config.compaction_lag_max = 1_000;
    let watch = &mut world.nodes[node].watch;
    watch.holdings.note_input(&raft_core::Input::SnapshotTaken(meta), true);
    let leading = watch.leading.as_mut().expect("it leads");
    leading.most.insert(peer, Index(matched));
    leading.replicates.insert(peer);
    leading.answered_at.insert(peer, watch.told);
    world.judge_compaction(node, Index(10))
}

/// The leader of so many terms later sends a heartbeat.
fn beats(world: &mut Quiet, terms: u64) -> Judged {
    let (node, to) = (leader(world), id(follower(world)));
    let term = Term(term(world).0 + terms);
    let told = world.nodes[node].watch.told;
    world.nodes[node].watch.leading = Some(Leading::new(term, told));
    let body = Body::Heartbeat { commit: Index(0), read_context: 1 << 40 };
    world.watch_send(node, to, &message(term, body))
}

/// The leader sends an entry of this term in the place of the last of its log.
fn sends_last(world: &mut Quiet, terms: u64) -> Judged {
    let node = leader(world);
    let end = last(world, node);
    let sent = entry(end.index.0, Term(end.term.0 + terms));
    let prev = LogPosition { index: end.index.prev(), term: end.term };
    sends(world, prev, entries(vec![sent]))
}

fn sends(world: &mut Quiet, prev: LogPosition, entries: Entries) -> Judged {
    let (node, to) = (leader(world), id(follower(world)));
    let body = Body::Append { prev, entries, commit: Index(0) };
    world.watch_send(node, to, &message(term(world), body))
}

/// The leader sends the last of its log to a witness, while that is on its disk or is not.
fn sends_to_witness(world: &mut Quiet, is_durable: bool) -> Judged {
    let (node, to) = (leader(world), follower(world));
    world.nodes[to].is_witness = true;
    let it = &mut world.nodes[node];
    it.log.base_membership = Membership { witnesses: [id(to)].into(), ..voters() };
    let without =
        raft_core::Persist { truncate_from: Some(it.log.last().index), ..super::quiet::nothing() };
    // Of two full voters one is enough, with the witness.
    let lacking = world.nodes.iter_mut().filter(|it| !is_durable || it.id != id(node));
    for it in lacking.filter(|it| it.disk.last().index > Index(0)) {
        it.disk.write(&without).expect("it fits");
    }
    sends_last(world, 0)
}

/// The leader sends its last entry again to who acknowledged so much less than all.
fn sends_again(world: &mut Quiet, less: u64) -> Judged {
    let (node, to) = (leader(world), follower(world));
    world.plan.has_stores = true;
    let acked = Index(last(world, node).index.0 - less);
    let store = Some(world.nodes[to].store);
    let leading = world.nodes[node].watch.leading.as_mut().expect("it leads");
    leading.acked.insert(id(to), (store, acked));
    sends_last(world, 0)
}

fn hands_over(world: &mut Quiet, to: NodeId) -> Judged {
    let (node, term) = (leader(world), term(world));
    world.watch_send(node, to, &message(term, Body::TimeoutNow))
}

/// A follower's disk loses its last entries.
fn fall_behind(world: &mut Quiet, entries: u64) -> usize {
    let node = follower(world);
    let disk = &mut world.nodes[node].disk;
    let from = Index(disk.last().index.0 + 1 - entries);
    let write = raft_core::Persist { truncate_from: Some(from), ..super::quiet::nothing() };
    disk.write(&write).expect("it fits");
    node
}

/// The leader begins to hand over to who is so far behind, and was heard so long ago.
fn begins_to_hand_over(world: &mut Quiet, behind: u64, silent: Duration) -> Judged {
    let (node, to) = (leader(world), fall_behind(world, behind));
    let request = RequestId(1 << 40);
    world.ledger.request(id(node), request);
    let it = &mut world.nodes[node];
    let leading = it.watch.leading.as_mut().expect("it leads");
    leading.transfer = Some(request);
    leading.contact.insert(id(to), it.watch.told);
    it.watch.told = it.watch.told + silent;
    world.judge_transfer(node, request, Some(id(to)))
}

/// Node 3 or 2 was removed by what is committed since so long ago, was not spoken to since, and has acknowledged it or has not.
fn says_farewell(world: &mut Quiet, does_it_know: bool) -> Judged {
    let (node, gone) = (leader(world), id(follower(world)));
    let heartbeat = world.plan.config.heartbeat_interval;
    let it = &mut world.nodes[node];
    let told = it.watch.told;
    let since = raft_core::Instant(told.0 - 5 * heartbeat.as_micros() as u64);
    let at = it.claimed;
    let leading = it.watch.leading.as_mut().expect("it leads");
    let acked = if does_it_know { at } else { Index(0) };
    leading.acked.insert(gone, (None, acked));
    leading.leaving.push(Leaving { node: gone, at, began: since, since: Some(since), spoken: 0 });
    world.watch_drained(node)
}

/// The leader has led for so long, and heard nobody.
fn hears_nobody(world: &mut Quiet, for_so_long: Duration) -> Judged {
    let node = leader(world);
    forget_answers(world, for_so_long);
    // It is looked at now and then.
    world.messages = 0;
    world.watch_drained(node)
}

/// The leader begins to stream two snapshots, the second of one entry more or of the same.
fn streams_twice(world: &mut Quiet, more: u64) -> Judged {
    let (node, to) = (leader(world), id(follower(world)));
    let first = last(world, node);
    let second = LogPosition { index: first.index.plus(more), ..first };
    world.watch_stream(node, to, &snapshot(first))?;
    world.watch_stream(node, to, &snapshot(second))
}

fn election(world: &Quiet) -> Duration {
    world.plan.config.election_timeout
}

/// The leader sends a follower these entries, counted from beyond its log's end, one by one.
fn sends_in_turn(world: &mut Quiet, entries: &[u64]) -> Judged {
    let (node, to) = (leader(world), id(follower(world)));
    let end = last(world, node).index;
    entries
        .iter()
        .try_for_each(|at| world.judge_serving(node, to, (end.plus(at - 1), end.plus(*at))))
}

/// It asks so often whether the follower has the log's end.
fn asks(world: &mut Quiet, times: u32) -> Judged {
    let (node, to) = (leader(world), id(follower(world)));
    let end = last(world, node).index;
    (0..times).try_for_each(|_| world.judge_serving(node, to, (end, end)))
}

/// So many probes are rejected, each one entry before the other, although both logs have one term only.
fn searches(world: &mut Quiet, times: u64) -> Judged {
    let (node, peer) = (leader(world), follower(world));
    let (end, to) = (last(world, node).index, id(peer));
    for before in 0..times {
        let prev = Index(end.0 - before);
        world.judge_serving(node, to, (prev, prev))?;
        let hint = LogPosition::ORIGIN;
        let rejected = Body::AppendResponse(AppendOutcome::Rejected { prev, hint });
        let message = message(term(world), rejected);
        let now = world.nodes[node].watch.told;
        let own = last(world, node);
        world.nodes[node].watch.note_message(to, None, &message, now, own);
    }
    let place = Index(end.0 - times);
    world.judge_serving(node, to, (place, place))
}

/// The leader sends its last entry to a follower whose store is recorded, or is not.
fn sends_to_voter(world: &mut Quiet, is_recorded: bool) -> Judged {
    let (node, to) = (leader(world), id(follower(world)));
    world.plan.has_stores = true;
    let recorded = if is_recorded { to } else { id(node) };
    world.nodes[node].log.base_membership.stores.insert(recorded, raft_core::StoreId(1));
    sends_last(world, 0)
}

pub(super) const SHOWN: &[Shown] = &[
    shown("leases rest on fresh promises", believes_in_its_lease, |w| {
        forget_answers(w, Duration::from_millis(1));
        believes_in_its_lease(w)
    }),
    shown(
        "no leases while leadership is handed over",
        |w| leases_while_it_hands_over(w, false),
        |w| leases_while_it_hands_over(w, true),
    ),
    shown("leaders commit by entries of their own term", |w| commits(w, 0), |w| commits(w, 1)),
    shown(
        "who is owed something gets it soon",
        |w| beats_after(w, 4, true),
        |w| beats_after(w, 5, true),
    ),
    shown(
        "what is not answered is asked about",
        |w| beats_after(w, 4, false),
        |w| beats_after(w, 5, false),
    ),
    shown("what a broken connection lost is sent anew", |w| goes_on(w, 0), |w| goes_on(w, 1)),
    shown(
        "snapshots are for who needs them",
        |w| offers_to_who_has(w, 9),
        |w| offers_to_who_has(w, 10),
    ),
    shown(
        "logs are not cut before slow followers",
        |w| cuts_its_log(w, 10),
        |w| cuts_its_log(w, 9),
    ),
    shown("leaders begin with an entry of their own", |w| beats(w, 0), |w| beats(w, 1)),
    shown("leaders send what is in their logs", |w| sends_last(w, 0), |w| sends_last(w, 1)),
    shown(
        "witnesses get what they complete a quorum for",
        |w| sends_to_witness(w, true),
        |w| sends_to_witness(w, false),
    ),
    shown("what was acknowledged is not sent again", |w| sends_again(w, 1), |w| sends_again(w, 0)),
    shown(
        "leadership goes to voters",
        |w| hands_over(w, id(follower(w))),
        |w| hands_over(w, OUTSIDER),
    ),
    shown(
        "leadership goes to who has the log",
        |w| hands_over(w, id(follower(w))),
        |w| {
            let to = id(fall_behind(w, 1));
            hands_over(w, to)
        },
    ),
    shown(
        "leadership goes to who is near",
        |w| begins_to_hand_over(w, 10, Duration::ZERO),
        |w| begins_to_hand_over(w, 11, Duration::ZERO),
    ),
    shown(
        "leadership goes to who is near",
        |w| begins_to_hand_over(w, 0, election(w).saturating_sub(Duration::from_micros(1))),
        |w| begins_to_hand_over(w, 0, election(w)),
    ),
    shown(
        "leaders on stalled disks make way",
        |w| {
            let node = leader(w);
            w.stall(node)
        },
        // Nobody told it.
        |w| w.judge_stalled_leader(leader(w)),
    ),
    shown("who is removed is told so", |w| says_farewell(w, true), |w| says_farewell(w, false)),
    shown(
        "leaders that hear no quorum step down",
        |w| hears_nobody(w, election(w) * 2),
        |w| hears_nobody(w, election(w) * 2 + Duration::from_micros(1)),
    ),
    shown(
        "a snapshot is streamed once at a time",
        |w| streams_twice(w, 1),
        |w| streams_twice(w, 0),
    ),
    shown(
        "what is under way is not sent again",
        |w| sends_in_turn(w, &[1, 2]),
        |w| sends_in_turn(w, &[1, 2, 2]),
    ),
    shown("what was asked is not asked again at once", |w| asks(w, 3), |w| asks(w, 4)),
    shown(
        "where logs part is found in a round trip a term",
        |w| searches(w, 5),
        |w| searches(w, 6),
    ),
    shown(
        "who does not count gets no entries",
        |w| sends_to_voter(w, true),
        |w| sends_to_voter(w, false),
    ),
];
