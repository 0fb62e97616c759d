//! The answers in words: a sentence each, that goes on where "node 3 …" begins.

use core::fmt;

use super::{
    CampaignObstacle, CommitReason, Lacks, LeadershipReason, Missing, MissingReason, NoTarget,
    RefusalReason, StalledLeader, Tally, TransferObstacle, UnappliedReason, Uncounted,
    UncountedReason, VotePromise,
};
use crate::{RoleKind, StoreStanding};

/// Numbers with commas between them.
struct List<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (place, item) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{item}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Missing { node, matched, because } = self;
        write!(f, "node {node} (has {matched}: {because})")
    }
}

impl fmt::Display for MissingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MissingReason::OwnDisk => f.write_str("this node's own disk is still writing"),
            MissingReason::StoreDoesNotCount => {
                f.write_str("it runs on a store that it was not admitted with")
            }
            MissingReason::StoreNotRecorded => {
                f.write_str("its store is not recorded yet: it has not been heard from, or a change is under way")
            }
            MissingReason::Silent { silent_for } => {
                write!(f, "not heard from for {silent_for:?}")
            }
            MissingReason::Probing => f.write_str("the leader looks for where their logs agree"),
            MissingReason::NeedsSnapshot => f.write_str("it needs a snapshot first"),
            MissingReason::Fetching => {
                f.write_str("what it needs is being read from the leader's disk")
            }
            MissingReason::AwaitsFullVoters => {
                f.write_str("a witness: it gets entries once enough full voters have them")
            }
            MissingReason::Streaming => f.write_str("entries are on their way to it"),
            MissingReason::UpToDate => f.write_str("it has the whole log"),
        }
    }
}

impl fmt::Display for StoreStanding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreStanding::Accepted => f.write_str("its store is the one that it was admitted with"),
            StoreStanding::Blank => f.write_str(
                "its log is blank, so it votes for nobody until the group has filled it: a new member has to be added; one whose data was \
                 lost is taken back once the others have a leader",
            ),
            StoreStanding::Rejected { admitted } => write!(
                f,
                "it does not run on store {admitted}, with which it was admitted, as after a wipe or a restore from a copy: it does not vote \
                 until the others have a leader that fills it and promotes it again"
            ),
            StoreStanding::Demoted { admitted } => write!(
                f,
                "it came back without store {admitted}, with which it was admitted: it is a learner until it is in step, and is promoted then"
            ),
        }
    }
}

impl fmt::Display for CampaignObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CampaignObstacle::NotAVoter { role: RoleKind::Learner } => f.write_str(
                "the configuration does not list it as a voter: it is a learner, and can be promoted once it has caught up",
            ),
            CampaignObstacle::DemotedForItsStore { own, admitted } => write!(
                f,
                "it was made a learner, for it runs on store {own}, and was admitted with store {admitted}: it is to be promoted once it has caught up"
            ),
            CampaignObstacle::NotAVoter { role } => {
                let article = if *role == RoleKind::Outsider { "an" } else { "a" };
                write!(f, "the configuration does not list it as a voter (it is {article} {role})")
            }
            CampaignObstacle::Witness => f.write_str("it is a witness, which has no commands"),
            CampaignObstacle::InstallingSnapshot => {
                f.write_str("its state is being replaced by a snapshot")
            }
            CampaignObstacle::StoreNotAdmitted { own, admitted: Some(admitted) } => write!(
                f,
                "it runs on store {own}, and was admitted with store {admitted}: it has to be made a learner, filled and promoted"
            ),
            CampaignObstacle::StoreNotAdmitted { own, admitted: None } => {
                write!(f, "its store {own} is not recorded: it may have been wiped")
            }
            CampaignObstacle::StorageStalled => f.write_str("its disk does not answer"),
            CampaignObstacle::NoTermLeft => f.write_str("there is no higher term"),
        }
    }
}

impl fmt::Display for LeadershipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LeadershipReason::Leads { since, heard, missing, transfer_to, stalled } => {
                write!(f, "leads since index {since}; heard from: {}", List(heard))?;
                if !missing.is_empty() {
                    write!(f, "; missing: {}", List(missing))?;
                }
                if let Some(to) = transfer_to {
                    write!(f, "; is handing over to node {to}")?;
                }
                match stalled {
                    Some(stalled) => write!(f, "; its disk does not answer, and {stalled}"),
                    None => Ok(()),
                }
            }
            LeadershipReason::Follows { leader, until, obstacle, promise } => {
                write!(f, "follows node {leader}, and gives it up at {until} if nothing is heard")?;
                if let Some(obstacle) = obstacle {
                    write!(f, "; may not campaign itself: {obstacle}")?;
                }
                with_promise(f, promise.as_ref())
            }
            LeadershipReason::Waits { until, priority_delay, promise } => {
                write!(f, "knows of no leader, and campaigns at {until}")?;
                if !priority_delay.is_zero() {
                    write!(f, " ({priority_delay:?} of that wait is due to its low priority)")?;
                }
                with_promise(f, promise.as_ref())
            }
            LeadershipReason::MayNotCampaign { because, promise } => {
                write!(f, "knows of no leader, and may not campaign: {because}")?;
                with_promise(f, promise.as_ref())
            }
            LeadershipReason::AsksForPreVotes { tally, until } => {
                write!(f, "asks whether it could be elected; {tally}; tries anew at {until}")
            }
            LeadershipReason::Campaigns { tally, until } => {
                write!(f, "campaigns; {tally}; tries anew at {until}")
            }
        }
    }
}

fn with_promise(f: &mut fmt::Formatter<'_>, promise: Option<&VotePromise>) -> fmt::Result {
    promise.map_or(Ok(()), |promise| write!(f, "; {promise}"))
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { granted, uncounted, refused, silent, lacks } = self;
        write!(f, "votes: {}", List(granted))?;
        if !uncounted.is_empty() {
            write!(f, "; do not count: {}", List(uncounted))?;
        }
        if uncounted.iter().any(|it| it.because == UncountedReason::StoreDoesNotCount) {
            f.write_str(
                "; start the members that are down, or put back the data folders of those that do not count",
            )?;
        }
        if !refused.is_empty() {
            let why = "they have entries that it lacks, or owe their vote to another";
            write!(f, "; refused: {} ({why})", List(refused))?;
        }
        if !silent.is_empty() {
            write!(f, "; no answer: {}", List(silent))?;
        }
        match lacks {
            Some(lacks) => write!(f, "; {lacks}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Lacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lacks { incoming, outgoing } = self;
        for (place, (half, lacking)) in
            [("incoming", incoming), ("outgoing", outgoing)].into_iter().enumerate()
        {
            let separator = if place == 0 { "" } else { ", " };
            if lacking.is_empty() {
                write!(f, "{separator}the {half} half has its majority")?;
            } else {
                write!(f, "{separator}the {half} half lacks {}", List(lacking))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for StalledLeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StalledLeader::MakesWay => f.write_str("it makes way for another"),
            StalledLeader::Stays { others } => nobody_can(f, others),
        }
    }
}

fn nobody_can(f: &mut fmt::Formatter<'_>, others: &[NoTarget]) -> fmt::Result {
    if others.is_empty() {
        return f.write_str("there is no other voter to take over");
    }
    write!(f, "nobody can take over: {}", List(others))
}

impl fmt::Display for NoTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} ({})", self.node, self.because)
    }
}

impl fmt::Display for TransferObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransferObstacle::NotAVoter => f.write_str("it is no voter"),
            TransferObstacle::Witness => f.write_str("a witness, which has no commands"),
            TransferObstacle::StoreDoesNotCount => MissingReason::StoreDoesNotCount.fmt(f),
            TransferObstacle::StoreNotRecorded => MissingReason::StoreNotRecorded.fmt(f),
            TransferObstacle::Silent { silent_for } => {
                MissingReason::Silent { silent_for: *silent_for }.fmt(f)
            }
            TransferObstacle::Probing => MissingReason::Probing.fmt(f),
            TransferObstacle::NeedsSnapshot => MissingReason::NeedsSnapshot.fmt(f),
            TransferObstacle::TooFarBehind { behind, max } => {
                write!(f, "it lacks {behind} entries, and may lack {max}")
            }
        }
    }
}

impl fmt::Display for Uncounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} ({})", self.node, self.because)
    }
}

impl fmt::Display for UncountedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UncountedReason::NotDurable => "its own disk is still writing that vote",
            UncountedReason::StoreDoesNotCount => {
                "it runs on a store that it was not admitted with"
            }
            UncountedReason::StoreNotRecorded => "its store is not recorded yet",
        })
    }
}

impl fmt::Display for VotePromise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VotePromise::ToLeader { leader, until } => {
                write!(
                    f,
                    "votes for nobody but node {leader}, which it heard as the leader, until {until}"
                )
            }
            VotePromise::BeforeRestart { until } => write!(
                f,
                "withholds its vote until {until}: it may have promised it to a leader before it restarted"
            ),
        }
    }
}

impl fmt::Display for CommitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommitReason::Committed { unapplied: None } => f.write_str("committed and applied"),
            CommitReason::Committed { unapplied: Some(because) } => {
                write!(f, "committed, and not applied here yet: {because}")
            }
            CommitReason::QuorumHasIt => f.write_str("a quorum has it, and it is being committed"),
            CommitReason::NotInTheLog { last } => write!(f, "not in the log, which ends at {last}"),
            CommitReason::NotLeader { leader: Some(leader), commit } => write!(
                f,
                "committed up to {commit} as far as this node knows: ask the leader, node {leader}"
            ),
            CommitReason::NotLeader { leader: None, commit } => write!(
                f,
                "committed up to {commit} as far as this node knows, and no leader is known"
            ),
            CommitReason::EarlierTerm { term, waits_for } => write!(
                f,
                "a quorum has it, but it is of term {term}: it is committed along with index {waits_for}"
            ),
            CommitReason::WaitsForVoters { have, missing, lacks } => {
                write!(f, "too few voters have it: {}; missing: {}", List(have), List(missing))?;
                match lacks {
                    Some(lacks) => write!(f, "; of the joint configuration {lacks}"),
                    None => Ok(()),
                }
            }
            CommitReason::WaitsForZones { have, zones_min, missing } => write!(
                f,
                "it must be in {zones_min} zones, and is in: {}; missing: {}",
                List(have),
                List(missing)
            ),
        }
    }
}

impl fmt::Display for UnappliedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnappliedReason::OwnDisk { durable } => {
                write!(f, "this node's own disk has the log up to {durable}")
            }
            UnappliedReason::InstallingSnapshot => {
                f.write_str("its state is being replaced by a snapshot")
            }
            UnappliedReason::MachineBehind { applied } => {
                write!(f, "its state machine has applied the log up to {applied}")
            }
        }
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RefusalReason::Leadership(because) => write!(f, "this node {because}"),
            RefusalReason::Commit { index, because } => write!(f, "index {index}: {because}"),
            RefusalReason::Member(missing) => missing.fmt(f),
            RefusalReason::NobodyCanTakeOver { others } => nobody_can(f, others),
            RefusalReason::Forwarded { leader, unanswered_bytes, until, uncommitted_bytes } => {
                if let Some(until) = until {
                    write!(
                        f,
                        "{unanswered_bytes} bytes wait for the answer of the leader, node {leader}; the first are given up at {until}"
                    )?;
                }
                if *uncommitted_bytes > 0 {
                    let separator = if until.is_some() { "; " } else { "" };
                    write!(
                        f,
                        "{separator}{uncommitted_bytes} bytes are in the log of the leader, node {leader}, and wait to be committed"
                    )?;
                }
                Ok(())
            }
            RefusalReason::Request => f.write_str("the request itself has to change"),
            RefusalReason::Gone => f.write_str("what was in the way is gone: ask again"),
        }
    }
}
