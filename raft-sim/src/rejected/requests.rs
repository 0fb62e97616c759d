//! Rules of conduct on proposals, reads and other questions.

use core::time::Duration;

use raft_core::{
    Body, Index, Instant, Membership, ProposalId, ReadId, RequestId, Resolution, Term,
};

use super::leading::forget_answers;
use super::quiet::{Quiet, follower, id, leader, message, term};
use super::{Judged, Shown, shown};
use crate::Image;
use crate::watch::Question;

/// Later than all that clients of this world asked for.
const BATCH: ProposalId = ProposalId(1 << 40);
const READ: ReadId = ReadId(1 << 40);

/// A follower was asked to append something, which is due; it did not answer, or the answer is known.
fn owes_batch(world: &mut Quiet, is_answered: bool) -> Judged {
    let node = follower(world);
    if !is_answered {
        world.ledger.propose(id(node), BATCH, Vec::new());
    }
    world.nodes[node].watch.questions.push_front((Instant(0), Question::Batch(BATCH)));
    world.watch_drained(node)
}

fn owes_transfer(world: &mut Quiet, is_answered: bool) -> Judged {
    let node = leader(world);
    let request = RequestId(1 << 40);
    if !is_answered {
        world.ledger.request(id(node), request);
    }
    world.nodes[node].watch.questions.push_front((Instant(0), Question::Transfer(request)));
    world.watch_drained(node)
}

/// Somebody has owed the answer to a read for long.
fn owes_read(world: &mut Quiet, node: usize) -> Judged {
    world.ledger.read(id(node), READ);
    world.nodes[node].watch.questions_to_read.push_front((Instant(0), READ));
    world.watch_drained(node)
}

/// A leader of a group of its own, or of three, owes the answer to a read.
fn owes_read_alone(world: &mut Quiet, is_alone: bool) -> Judged {
    let node = leader(world);
    world.ledger.read(id(node), READ);
    if is_alone {
        world.nodes[node].log = Image::founding(Membership::of_voters([id(node)]));
        world.nodes[node].claimed = Index(0);
        world.nodes[node].log.hard_state.term = Term(0);
    }
    world.judge_lone_reads(node)
}

/// A follower asks its leader with a context that it asked with in this life, or in the one before.
fn asks(world: &mut Quiet, lives_ago: u64) -> Judged {
    let (node, to, term) = (follower(world), id(leader(world)), term(world));
    let life = world.nodes[node].life - lives_ago;
    let context = 1 << 40;
    world.nodes[node].watch.contexts.insert(context, life);
    world.watch_send(node, to, &message(term, Body::ReadIndex { context }))
}

fn appended(world: &mut Quiet, node: usize) -> Judged {
    let term = term(world);
    let resolution = Resolution::Appended { id: BATCH, first: Index(1 << 30), count: 1, term };
    world.watch_resolution(node, &resolution)
}

/// A follower hears that its batch is in the leader's log, from what answers an earlier life or does not.
fn hears_of_batch(world: &mut Quiet, has_echo: bool) -> Judged {
    let node = follower(world);
    world.nodes[node].watch.has_echo = has_echo;
    appended(world, node)
}

/// The leader takes a batch of so many bytes more than its quota has room for.
fn takes(world: &mut Quiet, more: usize) -> Judged {
    let node = leader(world);
    let bytes = world.plan.config.uncommitted_bytes_max + more;
    let watch = &mut world.nodes[node].watch;
    watch.leading.as_mut().expect("it leads").batches.clear();
    watch.batches.insert(BATCH, bytes);
    appended(world, node)
}

/// The leader takes a batch, while it hands over since the request of this number.
fn takes_while_handing_over(world: &mut Quiet, request: RequestId) -> Judged {
    let node = leader(world);
    let leading = world.nodes[node].watch.leading.as_mut().expect("it leads");
    leading.transfer = Some(request);
    appended(world, node)
}

/// A follower passes on a batch of so many bytes more than its quota has room for.
fn passes_on(world: &mut Quiet, more: usize) -> Judged {
    let node = follower(world);
    world.ledger.propose(id(node), BATCH, Vec::new());
    let bytes = world.plan.config.uncommitted_bytes_max + more;
    world.nodes[node].watch.batches.insert(BATCH, bytes);
    world.judge_forwarded(node, BATCH)
}

/// The leader answers a read that it was just asked.
fn answers_read(world: &mut Quiet, node: usize) -> Judged {
    let told = world.nodes[node].watch.told;
    world.nodes[node].watch.reads.insert(READ, told);
    world.watch_resolution(node, &Resolution::ReadReady { id: READ, index: Index(1) })
}

pub(super) const SHOWN: &[Shown] = &[
    shown("questions are answered in time", |w| owes_batch(w, true), |w| owes_batch(w, false)),
    shown(
        "questions are answered in time",
        |w| owes_transfer(w, true),
        |w| owes_transfer(w, false),
    ),
    shown(
        "questions are answered in time",
        |w| owes_read(w, leader(w)),
        |w| owes_read(w, follower(w)),
    ),
    shown(
        "who is alone answers reads at once",
        |w| owes_read_alone(w, false),
        |w| owes_read_alone(w, true),
    ),
    shown("questions of two lives are told apart", |w| asks(w, 0), |w| asks(w, 1)),
    shown(
        "answers to an earlier life are nobody's",
        |w| hears_of_batch(w, false),
        |w| hears_of_batch(w, true),
    ),
    shown(
        "no proposals while leadership is handed over",
        |w| takes_while_handing_over(w, RequestId(BATCH.0 + 1)),
        |w| takes_while_handing_over(w, RequestId(BATCH.0 - 1)),
    ),
    shown("uncommitted proposals keep to their quota", |w| takes(w, 0), |w| takes(w, 1)),
    shown(
        "proposals that are passed on keep to their quota",
        |w| passes_on(w, 0),
        |w| passes_on(w, 1),
    ),
    shown(
        "witnesses answer no reads",
        |w| answers_read(w, follower(w)),
        |w| {
            let node = follower(w);
            w.nodes[node].is_witness = true;
            answers_read(w, node)
        },
    ),
    shown(
        "reads rest on a quorum's word or a lease",
        |w| answers_read(w, leader(w)),
        |w| {
            forget_answers(w, Duration::from_millis(1));
            answers_read(w, leader(w))
        },
    ),
];
