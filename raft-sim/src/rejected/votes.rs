//! Rules of conduct on campaigns, votes and stores.

use core::time::Duration;

use raft_core::{
    Body, HardState, Index, Instant, LogPosition, Membership, NodeId, Persist, RoleKind, StoreId,
    StoreStamp, Term,
};

use raft_node::order::MachineJob;

use super::quiet::{
    Quiet, clock, follower, id, last, leader, message, nothing, snapshot, term, voters,
};
use super::{Judged, Shown, shown};
use crate::watch::Asked;

const STORE: StoreStamp = StoreStamp { id: StoreId(7), life: 0, nonce: 0 };

/// Node 1 hears its peer in these lives of one store, one after the other.
fn hears_lives(world: &mut Quiet, lives: [u64; 2]) -> Judged {
    let (node, from, term) = (follower(world), id(leader(world)), term(world));
    for life in lives {
        world.judge_stamp(node, Some((from, term, StoreStamp { life, ..STORE })))?;
    }
    Ok(())
}

/// The leader records the store from which a follower spoke so many terms ago.
fn records(world: &mut Quiet, terms_ago: u64) -> Judged {
    let (node, from, term) = (leader(world), id(follower(world)), term(world));
    let spoken = message(Term(term.0 - terms_ago), Body::HeartbeatResponse { read_context: 0 });
    world.nodes[node].watch.note_stamp((from, STORE), &spoken, Some(term));
    let next = Membership { stores: [(from, STORE.id)].into(), ..voters() };
    world.judge_recorded_stores(node, (&voters(), &next), term)
}

/// The configuration of a follower records another store for it, of which it was told or was not.
fn finds_another_store(world: &mut Quiet, is_told: bool) -> Judged {
    let node = follower(world);
    world.plan.has_stores = true;
    let it = &mut world.nodes[node];
    it.log.base_membership.stores.insert(it.id, StoreId(it.store.id.0 ^ 1));
    it.watch.has_moved = true;
    it.watch.knows_rejection = is_told;
    world.judge_own_store(node)
}

/// A follower was told to be one, or something else.
fn is_told_to_be(world: &mut Quiet, role: RoleKind) -> Judged {
    let node = follower(world);
    world.nodes[node].role = role;
    world.judge_role(node)
}

/// The leader makes a full member of a node that its log lists as a witness as of its base, or never did.
fn takes_in(world: &mut Quiet, was_witness: bool) -> Judged {
    let (node, former) = (leader(world), id(follower(world)));
    if was_witness {
        world.nodes[node].log.base_membership.witnesses.insert(former);
    }
    world.judge_former_witnesses(node, &voters())
}

/// The leader promotes a learner that answered it so long ago.
fn promotes(world: &mut Quiet, silent: Duration) -> Judged {
    let (node, learner) = (leader(world), id(follower(world)));
    let (index, term) = (last(world, node).index.next(), term(world));
    let it = &mut world.nodes[node];
    it.log.base_membership.voters.remove(&learner);
    it.log.base_membership.learners.insert(learner);
    let next = it.log.base_membership.clone();
    let next = Membership { voters: voters().voters, learners: [].into(), ..next };
    let payload = raft_core::Payload::Membership(next.into());
    let write =
        super::quiet::writes(raft_core::Entry { payload, ..super::quiet::entry(index.0, term) });
    let watch = &mut it.watch;
    let leading = watch.leading.as_mut().expect("it leads");
    let long_ago = Instant(watch.told.0 - silent.as_micros() as u64);
    leading.answered_at.insert(learner, long_ago);
    (leading.since, leading.changed) = (long_ago, None);
    world.judge_promotions(node, &write)
}

/// A follower campaigns so long after it heard its leader, with so many prompt campaigns before it.
fn campaigns(world: &mut Quiet, after: Duration, prompt_before: u32) -> Judged {
    let (node, term) = (follower(world), term(world));
    let (_, heard) = world.nodes[node].watch.heard_before.expect("it hears its leader");
    world.nodes[node].watch.told = heard + after;
    world.prompt_campaigns = prompt_before;
    world.watch_role(node, RoleKind::PreCandidate, term)
}

fn election(world: &Quiet) -> Duration {
    world.plan.config.election_timeout
}

/// A follower takes this role while a snapshot is being installed.
fn installs_as(world: &mut Quiet, role: RoleKind) -> Judged {
    let (node, term) = (follower(world), term(world));
    let meta = snapshot(last(world, node));
    world.nodes[node].driver.jobs.push_back(MachineJob::Install(meta));
    world.watch_role(node, role, term)
}

/// A follower on stores, which compared its log with nobody's or did, takes all of it for committed.
fn takes_for_committed(world: &mut Quiet, has_compared: bool) -> Judged {
    let node = follower(world);
    world.plan.has_stores = true;
    let it = &mut world.nodes[node];
    it.watch.has_compared = has_compared;
    let commit = it.log.last().index.plus(1);
    let hard_state = Some(HardState { commit, ..it.log.hard_state });
    world.watch_write(node, &Persist { hard_state, ..nothing() })
}

/// A follower votes for somebody in the next term.
fn votes_for(world: &mut Quiet, to: NodeId) -> Judged {
    let node = follower(world);
    let old = world.nodes[node].log.hard_state;
    let hard_state = Some(HardState { term: Term(old.term.0 + 1), vote: Some(to), ..old });
    world.watch_write(node, &Persist { hard_state, ..nothing() })
}

/// The voter that neither leads nor is [`follower`].
fn third(world: &Quiet) -> usize {
    (0..3).find(|node| *node != leader(world) && *node != follower(world)).expect("of three")
}

/// A follower was asked to vote for the third by who has so much less in its log than itself, so long after it heard its leader.
fn is_asked(world: &mut Quiet, behind: u64, after: Duration) -> NodeId {
    let (node, from) = (follower(world), id(third(world)));
    let own = last(world, node);
    let last = LogPosition { index: Index(own.index.0 - behind), ..own };
    let term = Term(term(world).0 + 1);
    let it = &mut world.nodes[node];
    it.watch.asked = Some(Asked { from, term, last, transfer: false, own });
    let (_, heard) = it.watch.heard_before.expect("it hears its leader");
    it.watch.told = heard + after;
    from
}

/// A follower on a store campaigns; what is recorded of it is this.
fn campaigns_on(world: &mut Quiet, recorded: impl Fn(StoreId) -> StoreId) -> Judged {
    let node = follower(world);
    world.plan.has_stores = true;
    let it = &mut world.nodes[node];
    let store = recorded(it.store.id);
    it.log.base_membership.stores.insert(id(node), store);
    votes_for(world, id(node))
}

/// The leader changes the group, in which one more or less knows that it may vote.
fn changes(world: &mut Quiet, does_another_know: bool) -> Judged {
    let node = leader(world);
    if does_another_know {
        let other = follower(world);
        world.nodes[other].disk.base_membership.stores.insert(id(other), StoreId(other as u64));
    }
    let stores = (0..3).map(|node| (id(node), StoreId(node as u64))).collect();
    world.judge_electable(node, &Membership { stores, ..voters() })
}

/// A follower, which owes its former leader a pre-vote, answers somebody.
fn refuses_pre_vote(world: &mut Quiet, to: NodeId) -> Judged {
    let (node, term) = (follower(world), term(world));
    world.nodes[node].watch.owes_pre_vote = Some(id(leader(world)));
    world.watch_send(node, to, &message(term, Body::PreVoteResponse { granted: false }))
}

/// A follower was asked to let somebody take over, and votes.
fn takes_over(world: &mut Quiet, owed: NodeId, to: NodeId) -> Judged {
    let node = follower(world);
    let next = Term(term(world).0 + 1);
    world.nodes[node].watch.owes_vote = Some((owed, next));
    let now: Instant = clock(world, node);
    world.nodes[node].watch.told = now + world.plan.config.election_timeout * 2;
    votes_for(world, to)
}

/// A follower on a blank store, which knows of its group or does not, votes for somebody whose log is blank too.
fn founds(world: &mut Quiet, knows_the_group: bool) -> Judged {
    let to = is_asked(world, 0, election(world));
    let node = follower(world);
    world.plan.has_stores = true;
    let it = &mut world.nodes[node];
    let membership = if knows_the_group { voters() } else { Membership::default() };
    let hard_state = it.log.hard_state;
    it.log = crate::Image::founding(membership);
    it.log.hard_state = hard_state;
    if let Some(asked) = &mut it.watch.asked {
        (asked.last, asked.own) = (LogPosition::ORIGIN, LogPosition::ORIGIN);
    }
    votes_for(world, to)
}

pub(super) const SHOWN: &[Shown] = &[
    shown(
        "observers are told of every role",
        |w| is_told_to_be(w, RoleKind::Follower),
        |w| is_told_to_be(w, RoleKind::Learner),
    ),
    shown(
        "messages of earlier lives are refused",
        |w| hears_lives(w, [1, 2]),
        |w| hears_lives(w, [2, 1]),
    ),
    shown(
        "nobody campaigns while its log is replaced",
        |w| installs_as(w, RoleKind::Follower),
        |w| installs_as(w, RoleKind::Candidate),
    ),
    shown(
        "nobody campaigns before its time",
        |w| campaigns(w, election(w), 0),
        |w| campaigns(w, election(w).saturating_sub(Duration::from_micros(1)), 0),
    ),
    shown(
        "elections are spread over time",
        |w| campaigns(w, election(w), 3),
        |w| campaigns(w, election(w), 4),
    ),
    shown(
        "nobody campaigns on a disk that stalls",
        |w| campaigns(w, election(w) * 2, 0),
        |w| {
            let node = follower(w);
            w.nodes[node].watch.knows_stall = true;
            campaigns(w, election(w) * 2, 0)
        },
    ),
    shown(
        "nothing is taken for committed before the logs were compared",
        |w| takes_for_committed(w, true),
        |w| takes_for_committed(w, false),
    ),
    shown(
        "who was asked to take over gets the votes",
        |w| takes_over(w, id(third(w)), id(third(w))),
        |w| takes_over(w, id(third(w)), id(leader(w))),
    ),
    shown(
        "votes go to logs that lack nothing",
        |w| {
            let to = is_asked(w, 0, election(w));
            votes_for(w, to)
        },
        |w| {
            let to = is_asked(w, 1, election(w));
            votes_for(w, to)
        },
    ),
    shown(
        "promises to leaders are kept",
        |w| {
            let to = is_asked(w, 0, election(w));
            votes_for(w, to)
        },
        |w| {
            let to = is_asked(w, 0, election(w).saturating_sub(Duration::from_micros(1)));
            votes_for(w, to)
        },
    ),
    shown(
        "who may have been wiped does not campaign",
        |w| campaigns_on(w, |store| store),
        |w| campaigns_on(w, |store| StoreId(store.0 ^ 1)),
    ),
    shown(
        "who is on another store is told so",
        |w| finds_another_store(w, true),
        |w| finds_another_store(w, false),
    ),
    shown(
        "who was a witness becomes no full member",
        |w| takes_in(w, false),
        |w| takes_in(w, true),
    ),
    shown(
        "who is promoted was heard lately",
        |w| promotes(w, election(w).saturating_sub(Duration::from_micros(1))),
        |w| promotes(w, election(w)),
    ),
    shown("stores are recorded as they were heard of", |w| records(w, 0), |w| records(w, 1)),
    shown("a quorum knows that it may vote", |w| changes(w, true), |w| changes(w, false)),
    shown(
        "who led may ask for votes",
        |w| refuses_pre_vote(w, id(third(w))),
        |w| refuses_pre_vote(w, id(leader(w))),
    ),
    shown("who may have been wiped founds nothing", |w| founds(w, true), |w| founds(w, false)),
];
