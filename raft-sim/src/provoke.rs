//! What no honest peer, driver or disk says. It is told to members in whatever state they are in: they must refuse it by name, and be as they were.
//!
//! Nothing here takes time or draws from the run's own sequence of chance: a run with provocations goes as it would without.

use bytes::Bytes;
use raft_core::{
    AppendOutcome, Body, Config, Entries, Entry, HandleError, Index, Input, Instant,
    LeadershipReason, LogPosition, Membership, Message, NodeId, Payload, Raft, RestoreError,
    Restored, RoleKind, SnapshotMeta, Status, Term, TermRun, Ticket,
};

use crate::checker::broken;
use crate::world::World;
use crate::{Image, Machine, Rng, Violation};

/// Something that must be refused.
pub(crate) struct Provocation {
    /// The refusal, by the name of its variant; nothing if it is to be passed over in silence.
    pub(crate) refusal: &'static str,
    /// How it is counted.
    counted: &'static str,
    pub(crate) input: Input,
}

impl Provocation {
    /// One that is not counted.
    #[cfg(test)]
    pub(crate) fn new(refusal: &'static str, input: Input) -> Provocation {
        Provocation { refusal, counted: "provocations of tests", input }
    }
}

/// By the name of its refusal.
macro_rules! refused {
    ($refusal:literal, $input:expr) => {
        Provocation { refusal: $refusal, counted: concat!("refused: ", $refusal), input: $input }
    };
}

/// A member is provoked after every so many messages.
const EVERY: u64 = 32;
/// Any number will do that no other stream of chance begins with.
const STREAM: u64 = 0x0ff5_e17e;

/// All of a core that can be seen from outside.
type Looks = (Status, Option<Instant>, LeadershipReason);

fn looks(raft: &Raft) -> Looks {
    (raft.status(), raft.poll_timeout(), raft.explain_leadership())
}

impl<M: Machine> World<'_, M> {
    /// Now and then, and whenever it has just changed the group, a member is provoked that was polled dry. (Had it more to say, it would say that now.)
    pub(crate) fn provoke_sometimes(&mut self, node: usize) -> Result<(), Violation> {
        let it = &self.nodes[node];
        // At another time it would notice that its clock went on.
        let changed = it.watch.leading.as_ref().and_then(|leading| leading.changed);
        let is_ready = (self.messages.is_multiple_of(EVERY) || changed == Some(it.watch.told))
            && it.is_running()
            && !it.poll_scheduled
            && it.raft.as_ref().and_then(Raft::poll_timeout).is_none_or(|due| due > it.watch.told)
            && it.clock.local(self.now_us()) == it.watch.told;
        if !is_ready {
            return Ok(());
        }
        let mut rng = Rng::beside(self.seed ^ self.messages, STREAM);
        let mut all = self.provocations(node, &mut rng);
        if all.is_empty() {
            return Ok(());
        }
        let one = all.swap_remove(rng.below(all.len() as u64) as usize);
        self.provoke(node, one)
    }

    pub(crate) fn provoke(&mut self, node: usize, one: Provocation) -> Result<(), Violation> {
        self.coverage.hit(one.counted);
        let it = &mut self.nodes[node];
        let (id, now) = (it.id, it.watch.told);
        let Some(raft) = &mut it.raft else { return Ok(()) };
        let before = looks(raft);
        let told = format!("{:?}", one.input);
        let answer = raft.handle(now, one.input).err().map(|error| name_of(&error));
        if answer.as_deref().unwrap_or_default() != one.refusal {
            return broken(
                "what breaks the rules is refused by name",
                format!("node {id} answers {answer:?}, not {:?}, to {told}", one.refusal),
            );
        }
        let (after, action) = (looks(raft), raft.poll_action());
        if after != before || action.is_some() {
            return broken(
                "what is refused changes nothing",
                format!(
                    "node {id} was {before:?}, and is {after:?} and does {action:?} after {told}"
                ),
            );
        }
        Ok(())
    }

    /// Whatever would be wrong just now.
    fn provocations(&self, node: usize, rng: &mut Rng) -> Vec<Provocation> {
        let it = &self.nodes[node];
        let Some(raft) = &it.raft else { return Vec::new() };
        let status = raft.status();
        let others: Vec<NodeId> = status.membership.members().filter(|id| *id != it.id).collect();
        let mut all = of_drivers(&status, &it.log);
        if status.term > Term(0) && !others.is_empty() {
            let from = rng.pick(&others);
            all.extend(of_anybody(&status, from));
            all.extend(of_leaders(&status, (&it.log, it.is_witness), from));
            match status.role {
                RoleKind::Leader => all.extend(of_followers(&status, from)),
                RoleKind::Candidate | RoleKind::PreCandidate => {
                    all.extend(of_voters(&status, &raft.explain_leadership(), self.nodes.len()));
                }
                _ => {}
            }
        }
        all
    }
}

fn name_of(error: &HandleError) -> String {
    let text = match error {
        HandleError::Peer { fault, .. } => format!("{fault:?}"),
        HandleError::Caller(fault) => format!("{fault:?}"),
    };
    text.chars().take_while(|c| c.is_alphanumeric()).collect()
}

fn says(from: NodeId, term: Term, body: Body) -> Input {
    Input::Message { from, store: None, message: Message { term, body } }
}

fn one_entry(index: Index, term: Term, payload: Payload) -> Entries {
    Entries::try_from_vec(vec![Entry { term, index, payload }]).unwrap_or_default()
}

/// What no member at all says.
fn of_anybody(status: &Status, from: NodeId) -> Vec<Provocation> {
    let beat = Body::Heartbeat { commit: Index(0), read_context: 0 };
    let future = LogPosition { index: Index(1), term: status.term };
    vec![
        refused!("OwnId", says(status.id, status.term, beat.clone())),
        refused!("ImpossibleTerm", says(from, Term(u64::MAX), beat)),
        refused!(
            "PositionFromTheFuture",
            says(from, status.term, Body::Vote { last: future, transfer: false })
        ),
    ]
}

/// What no leader says.
fn of_leaders(
    status: &Status,
    (log, is_witness): (&Image, bool),
    from: NodeId,
) -> Vec<Provocation> {
    let Some(leader) = status.leader else { return Vec::new() };
    let term = status.term;
    let beat = Body::Heartbeat { commit: Index(0), read_context: 0 };
    if leader != from {
        return vec![refused!("SecondLeader", says(from, term, beat))];
    }
    let append = |prev: LogPosition, entries: Entries| {
        says(from, term, Body::Append { prev, entries, commit: Index(0) })
    };
    let end = log.last();
    let next = |payload| one_entry(end.index.next(), term, payload);
    let later = one_entry(end.index.next(), Term(term.0 + 1), Payload::Empty);
    let gap = one_entry(end.index.plus(2), term, Payload::Empty);
    let nobody = Payload::Membership(Membership::default().into());
    let mut all = vec![
        refused!("EntryFromTheFuture", append(end, later)),
        refused!("BrokenRun", append(end, gap)),
        refused!("ImpossibleMembership", append(end, next(nobody))),
    ];
    all.push(if is_witness {
        refused!("CommandForWitness", append(end, next(Payload::Command(Bytes::new()))))
    } else {
        refused!("WithheldCommand", append(end, next(Payload::Withheld)))
    });
    let committed = log.term_at(status.commit).filter(|committed| *committed > Term(1));
    if let Some(committed) = committed.filter(|_| status.commit > log.base.index) {
        let prev = LogPosition { index: status.commit, term: Term(committed.0 - 1) };
        all.push(refused!("OverwritesCommitted", append(prev, Entries::new())));
    }
    all
}

/// What nobody answers a leader.
fn of_followers(status: &Status, from: NodeId) -> Vec<Provocation> {
    let term = status.term;
    let answer = |outcome| says(from, term, Body::AppendResponse(outcome));
    let mut all = vec![
        refused!(
            "AcknowledgedTooMuch",
            answer(AppendOutcome::Accepted { matched: status.last.next() })
        ),
        refused!(
            "UnknownReadContext",
            says(from, term, Body::HeartbeatResponse { read_context: u64::MAX })
        ),
    ];
    if !status.membership.is_witness(from) {
        let outcome = AppendOutcome::Witnessed { matched: status.last };
        all.push(refused!("CommandsMissing", answer(outcome)));
    }
    all
}

/// What says nothing to a candidate: a stranger's answer, and a refusal that comes after the vote.
fn of_voters(status: &Status, reason: &LeadershipReason, nodes: usize) -> Vec<Provocation> {
    let (LeadershipReason::Campaigns { tally, .. }
    | LeadershipReason::AsksForPreVotes { tally, .. }) = reason
    else {
        return Vec::new();
    };
    let is_vote = status.role == RoleKind::Candidate;
    let refuses = |from: NodeId| {
        let granted = false;
        let answer = if is_vote {
            Body::VoteResponse { granted }
        } else {
            Body::PreVoteResponse { granted }
        };
        says(from, status.term, answer)
    };
    let mut strangers =
        (1..=nodes as u64).map(NodeId).filter(|id| !status.membership.is_voter(*id));
    let stranger = strangers.next().map(|from| Provocation {
        refusal: "",
        counted: "passed over: answers of strangers",
        input: refuses(from),
    });
    let late = tally.granted.iter().find(|id| **id != status.id).map(|from| Provocation {
        refusal: "",
        counted: "passed over: refusals after the vote",
        input: refuses(*from),
    });
    stranger.into_iter().chain(late).collect()
}

/// What no driver reports.
fn of_drivers(status: &Status, log: &Image) -> Vec<Provocation> {
    let meta = |position, membership: &Membership| SnapshotMeta {
        position,
        membership: membership.clone().into(),
    };
    let beyond = LogPosition { index: status.last.plus(7), term: Term(status.term.0 + 1) };
    let mut all = vec![
        refused!("UnknownTicket", Input::Persisted(Ticket(u64::MAX))),
        refused!("AppliedOutOfRange", Input::Applied(status.last.next())),
        refused!("UnexpectedSnapshot", Input::SnapshotInstalled(meta(beyond, &status.membership))),
    ];
    let at = |index: Index| log.term_at(index).map(|term| LogPosition { index, term });
    let unapplied = at(status.applied.next()).filter(|_| status.applied < status.last);
    if let Some(position) = unapplied {
        let known = log.membership_as_of(position.index);
        all.push(refused!("ImpossibleSnapshot", Input::SnapshotTaken(meta(position, known))));
    }
    if let Some(position) = at(status.applied).filter(|it| it.index > log.base.index) {
        let mut other = log.membership_as_of(position.index).clone();
        other.learners.insert(NodeId(99));
        all.push(refused!("WrongMembership", Input::SnapshotTaken(meta(position, &other))));
    }
    all
}

/// A start from what no sound disk holds: what was found on this one, and made wrong. Whether it was refused by its name is judged.
pub(crate) fn judge_damaged_start(
    config: &Config,
    now: Instant,
    found: &Restored,
    rng: &mut Rng,
) -> Result<Option<&'static str>, Violation> {
    let mut all = damages(config, found);
    if all.is_empty() {
        return Ok(None);
    }
    let Damage { refusal, counted, config, restored } =
        all.swap_remove(rng.below(all.len() as u64) as usize);
    judge_refused_start(refusal, config, now, restored)?;
    Ok(Some(counted))
}

pub(crate) fn judge_refused_start(
    refusal: &str,
    config: Config,
    now: Instant,
    restored: Restored,
) -> Result<(), Violation> {
    let answer = Raft::new(config, 0, now, restored).err().map(|error| restore_name(&error));
    if answer.as_deref() == Some(refusal) {
        return Ok(());
    }
    broken(
        "what no sound disk holds is refused by name",
        format!("a start answers {answer:?}, not {refusal}"),
    )
}

struct Damage {
    refusal: &'static str,
    counted: &'static str,
    config: Config,
    restored: Restored,
}

fn restore_name(error: &RestoreError) -> String {
    format!("{error:?}").chars().take_while(|c| c.is_alphanumeric()).collect()
}

fn damages(config: &Config, found: &Restored) -> Vec<Damage> {
    let (log, last) = (&found.log, found.log.last);
    let mut all = Vec::new();
    macro_rules! damage {
        ($refusal:literal, |$restored:ident, $config:ident| $make:expr) => {{
            let (mut $restored, mut $config) = (found.clone(), config.clone());
            $make;
            all.push(Damage {
                refusal: $refusal,
                counted: concat!("refused at start: ", $refusal),
                config: $config,
                restored: $restored,
            });
        }};
    }
    let included = found.snapshot.as_ref().map_or(Index(0), |held| held.position.index);
    damage!("CommitBeyondLog", |restored, _config| {
        restored.log.hard_state.commit = last.max(included).next();
    });
    damage!("BrokenTerms", |restored, _config| {
        restored.log.terms.push(TermRun { term: Term(u64::MAX - 1), first: last.next() });
    });
    damage!("BrokenMembership", |restored, _config| {
        let known = restored.log.base_membership.clone();
        restored.log.memberships.push((last.next(), known));
    });
    let end = log.terms.last().map(|run| run.term);
    if let Some(end) = end.filter(|_| log.base.index < last) {
        damage!("TermBeyondHardState", |restored, _config| {
            restored.log.hard_state.term = Term(end.0 - 1);
            restored.log.hard_state.vote = None;
        });
    }
    if log.base.index > Index(0) && !config.is_witness {
        damage!("MachineBehindLog", |restored, _config| restored.snapshot = None);
    }
    let latest = log.memberships.last().map_or(&log.base_membership, |(_, known)| known);
    if config.is_witness && last > Index(0) && latest.is_witness(config.id) {
        damage!("WitnessStore", |_restored, config| config.is_witness = false);
    }
    if last == Index(0) && latest.contains(config.id) {
        damage!("FoundedAsAnotherKind", |_restored, config| config.is_witness ^= true);
    }
    all
}
