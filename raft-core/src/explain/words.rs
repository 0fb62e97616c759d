//! The answers in words: a sentence each, that goes on where "node 3 …" begins.

use core::fmt;

use super::{
    CampaignObstacle, CommitReason, LeadershipReason, Missing, MissingReason, RefusalReason, Tally,
    Uncounted, UncountedReason, VotePromise,
};
use crate::RoleKind;

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
            MissingReason::Silent { since } => write!(f, "not heard from for {since:?}"),
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

impl fmt::Display for CampaignObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CampaignObstacle::NotAVoter { role: RoleKind::Learner } => f.write_str(
                "the configuration does not list it as a voter: it is a learner, and can be promoted once it has caught up",
            ),
            CampaignObstacle::DemotedForItsStore { own, admitted } => write!(
                f,
                "it was made a learner, for it runs on store {own}, and was admitted with store {admitted}: promote it once it has caught up"
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
                "it runs on store {own}, and was admitted with store {admitted}: promote it again once it has caught up"
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
            LeadershipReason::Leads { since, heard, missing, transfer_to } => {
                write!(f, "leads since index {since}; heard from: {}", List(heard))?;
                if !missing.is_empty() {
                    write!(f, "; missing: {}", List(missing))?;
                }
                match transfer_to {
                    Some(to) => write!(f, "; is handing over to node {to}"),
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
            LeadershipReason::Waits { until, promise } => {
                write!(f, "knows of no leader, and campaigns at {until}")?;
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
        let Tally { granted, uncounted, refused, silent } = self;
        write!(f, "votes: {}", List(granted))?;
        if !uncounted.is_empty() {
            write!(f, "; do not count: {}", List(uncounted))?;
        }
        if !refused.is_empty() {
            write!(f, "; refused: {}", List(refused))?;
        }
        if !silent.is_empty() {
            write!(f, "; no answer: {}", List(silent))?;
        }
        Ok(())
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
            CommitReason::Committed { is_applied: true } => f.write_str("committed and applied"),
            CommitReason::Committed { is_applied: false } => {
                f.write_str("committed, and not applied here yet")
            }
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
            CommitReason::WaitsForVoters { have, missing, is_joint } => {
                let half =
                    if *is_joint { " in at least one half of the joint configuration" } else { "" };
                write!(f, "too few voters have it{half}: {}; missing: ", List(have))?;
                List(missing).fmt(f)
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

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RefusalReason::Leadership(because) => write!(f, "this node {because}"),
            RefusalReason::Commit { index, because } => write!(f, "index {index}: {because}"),
            RefusalReason::Member(missing) => missing.fmt(f),
            RefusalReason::Request => f.write_str("the request itself has to change"),
            RefusalReason::Gone => f.write_str("what was in the way is gone: ask again"),
        }
    }
}
