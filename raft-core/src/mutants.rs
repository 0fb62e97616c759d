//! Seeded bugs: each takes one guard of the protocol out, and at least one test must notice. `cargo xtask mutants` checks that.
//!
//! They exist only in builds with `--cfg raft_mutants`, where the environment variable `RAFT_MUTANT` names the one that
//! is active. In every other build [`Mutant::is_active`] is the constant `false`, and the guards are compiled as if
//! nothing stood here.
//!
//! This file is the list: per mutant the guard that it takes out, where that guard comes from (paper, dissertation, or
//! a row of the known failures, "scenario"). `cargo xtask mutants` reads the names from here.

/// Whether a seeded bug is active: `if mutated!(VoteTwiceInATerm) || self.vote.is_none_or(…)`.
macro_rules! mutated {
    ($name:ident) => {
        $crate::mutants::Mutant::$name.is_active()
    };
}

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The list.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Mutant {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Mutant {
            #[cfg(raft_mutants)]
            const ALL: &[Mutant] = &[$(Mutant::$name),+];

            #[cfg(raft_mutants)]
            const fn name(self) -> &'static str {
                match self {
                    $(Mutant::$name => stringify!($name)),+
                }
            }
        }
    };
}

mutants! {
    // Elections.

    /// A voter gives any number of votes a term. Paper §5.2.
    VoteTwiceInATerm,
    /// A vote goes to a candidate whose log lacks entries that the voter has. Paper §5.4.1.
    VoteForAShorterLog,
    /// Logs are compared by their length alone, not by their last term first. Paper §5.4.1.
    UpToDateByLengthAlone,
    /// A pre-vote goes to an asker whose log lacks entries. Dissertation §9.6.
    PreVoteForAShorterLog,
    /// A step-down within a term forgets the vote. Paper figure 2, persistent state; scenario 1.
    VoteForgottenInTheSameTerm,
    /// A message of a new term leaves before the term and the vote are durable. Paper figure 2, persistent state; scenario 2.
    MessageBeforeItsTermIsDurable,
    /// A candidate's vote for itself counts before it is durable. Paper figure 2, persistent state.
    OwnVoteCountedBeforeDurable,
    /// After a restart the vote is gone. Paper figure 2, persistent state; scenario 2.
    VoteLostOnRestart,
    /// To grant a pre-vote puts off the granter's own election. Dissertation §9.6; scenario 7.
    PreVotePutsOffTheElection,
    /// No pre-vote: a node that was cut off raises its term and disturbs the group. Dissertation §9.6.
    NoPreVote,
    /// A refused pre-vote's higher term is ignored. Scenarios 4 and 5.
    TermOfARefusalIgnored,
    /// Votes and pre-votes are given while a leader is heard. Dissertation §4.2.3.
    NoLeaderStickiness,
    /// A follower refuses the pre-vote of the leader that it recognizes. Scenario 6.
    RecognizedLeaderRefused,
    /// A refusal that comes late takes back a vote that was given. Paper §5.2.
    LateRefusalTakesAVoteBack,
    /// A candidate keeps the answers of those who have no vote: whoever invents names fills its memory.
    StrangersAnswersKept,
    /// A learner campaigns. Dissertation §4.2.1.
    LearnerCampaigns,
    /// An answer with a higher term does not depose. Paper §5.1, rules for all servers.
    HigherTermOfAnAnswerIgnored,
    /// An answer of an earlier term counts in this one. Paper §5.1.
    AnswerOfAnEarlierTermCounts,
    /// A leader that hears from no quorum stays. Dissertation §6.2.
    NoCheckQuorum,
    /// A new leader appends no entry of its own. Paper §8, dissertation §6.4.
    NoEntryOfItsOwn,
    /// A leader lets nobody hear from it while there is nothing to append. Paper §5.2, rules for leaders.
    NoHeartbeats,
    /// Followers time out all at once: nothing is random. Paper §5.2.
    ElectionTimeoutsNotRandom,

    // Receiving entries.

    /// A leader of an earlier term is believed. Paper figure 2, `AppendEntries` 1.
    LeaderOfAnEarlierTermBelieved,
    /// A second leader in one term is followed. Paper figure 3, election safety.
    SecondLeaderFollowed,
    /// The entry before the appended ones is not compared. Paper figure 2, `AppendEntries` 2.
    PreviousEntryUnchecked,
    /// An append truncates what matches. Paper figure 2, `AppendEntries` 3; scenario 13.
    AppendTruncatesWhatMatches,
    /// An append may replace what is committed. Paper figure 3, leader completeness.
    CommittedEntryReplaced,
    /// A truncation does not reach the disk. Paper figure 2, `AppendEntries` 3.
    TruncationNotPersisted,
    /// A truncation leaves the configurations of what it cut in force. Dissertation §4.1; scenario 30.
    TruncationKeepsConfiguration,
    /// A follower takes the leader's commit index for its own beyond what it has compared. Paper figure 2, `AppendEntries` 5.
    CommitBeyondWhatMatches,
    /// A follower's commit index falls when its leader's is behind. Paper figure 2, volatile state.
    CommitGoesBack,
    /// An acknowledgement leaves before its entries are durable. Paper figure 2, persistent state.
    AcknowledgedBeforeDurable,
    /// An acknowledgement leaves before its term is durable. Scenario 3.
    AcknowledgedBeforeItsTermIsDurable,
    /// A rejection's hint knows nothing of terms: one round trip per entry. Paper §5.3.
    HintWithoutTerms,

    // Sending entries and committing them.

    /// What a probe carried is sent again as soon as its first half is acknowledged.
    ProbeSentTwice,
    /// A probe that taught nothing is repeated at once, and again for every copy of its answer.
    ProbeRepeatedAtOnce,
    /// The end of a stream that was lost waits for an election timeout.
    LostEndOfAStreamNotAskedFor,
    /// What was under way when a connection broke waits for an election timeout.
    BrokenConnectionIgnored,
    /// A peer that answers again goes on being probed: one append a heartbeat, whatever there is to send. Scenario 19.
    BackOffOutlivesTheAnswer,
    /// What a follower acknowledged is held against it though its log is gone: it is never sent what it lacks, nor
    /// offered the snapshot. Scenario 35.
    LostLogNotBelieved,
    /// A rejection that an acknowledgement overtook takes it back.
    LateRejectionTakesBack,
    /// A store that starts twice in one life counts on. Rule 2 of stores.
    LifeOfAStoreRepeated,

    /// The leader counts itself for entries that its disk does not have. Paper §5.3; scenario 41.
    LeaderCountsItselfBeforeDurable,
    /// An entry of an earlier term is committed by counting. Paper §5.4.2, figure 8; scenario 10.
    EarlierTermCommittedByCounting,
    /// A quorum's progress is read unsorted. Scenario 11.
    QuorumUnsorted,
    /// Half of the voters are a majority. Paper §5.2.
    HalfIsAMajority,
    /// While it is joint, the outgoing half is not asked. Dissertation §4.3.
    OutgoingHalfNotAsked,
    /// A heartbeat carries a commit index beyond what its receiver acknowledged. Paper §5.3.
    HeartbeatCommitUnbounded,
    /// Bytes in flight are never given back. Scenario 15.
    InFlightBytesNotReleased,
    /// Bytes of committed proposals are never given back.
    QuotaLeaks,
    /// Proposals are taken without a bound.
    QuotaNotChecked,
    /// A leader that steps down leaves its proposers without an answer.
    ProposersLeftWaiting,
    /// An acknowledgement of entries that the leader does not have is believed. Paper §5.3.
    AckBeyondTheLogBelieved,
    /// A rejection of an earlier probe moves the present one.
    StaleRejectionBelieved,
    /// Entries that were fetched before they were overwritten are sent. Paper figure 3, leader append-only.
    FetchedEntriesUnchecked,
    /// An append is made of what is compacted, instead of a snapshot. Paper §7; scenario 14.
    CompactedEntriesFetched,

    // Reads.

    /// A read is served before an entry of the leader's own term is committed. Dissertation §6.4; scenario 20.
    ReadBeforeOwnTermCommit,
    /// A read's context is used twice. Scenario 21.
    ReadContextReused,
    /// A read is served without a quorum's word. Dissertation §6.4.
    ReadWithoutAQuorum,
    /// An answer to a context that was never sent is believed. Dissertation §6.4.
    UnknownReadContextBelieved,

    // Durability.

    /// Entries are applied that are not durable here.
    AppliedBeforeDurable,
    /// Entries that no write carries yet count as durable. Scenario 41.
    UnwrittenCountsAsDurable,
    /// A late completion stabilizes an index that has been rewritten since. Scenario 17.
    LateCompletionStabilizesARewrite,
    /// A write counts as durable before the writes that were handed out before it. Scenario 3.
    DurableBeforeItsPredecessors,
    /// A completion that overtook that of an earlier write is lost. Scenario 18.
    OvertakingCompletionLost,
    /// The hard state's term may lie behind the log's at start. Scenario 3.
    RestoredTermUnchecked,
    /// A commit index beyond the log is believed at start. Scenario 46.
    RestoredCommitUnchecked,
    /// Entries whose places or terms are out of order are believed at start. Scenario 46.
    RestoredTermsUnchecked,
    /// Configurations out of order, beyond the log or without a voter are believed at start.
    RestoredMembershipUnchecked,
    /// A log that starts after the machine's state ends is believed at start.
    RestoredGapUnchecked,
    /// A snapshot that was installed just before a crash does not replace the old log at start. Paper §7.
    RestoredSnapshotIgnored,

    // Snapshots.

    /// A snapshot over a log that has another entry there keeps that log. Paper figure 13, rules 6 and 7; scenario 34.
    SnapshotKeepsAConflictingLog,
    /// A snapshot that appends have overtaken throws the machine back. Paper figure 13.
    SnapshotInstalledOverNewer,
    /// The replacement of the log by a snapshot does not reach the disk. Paper figure 13, rule 7.
    ResetNotPersisted,
    /// A snapshot is reported as installed before the log's replacement is durable. Paper §7.
    InstalledReportedBeforeDurable,
    /// Entries are applied while the machine is being replaced.
    AppliedWhileInstalling,
    /// A node campaigns while its log is about to be replaced.
    CampaignWhileInstalling,
    /// A snapshot of what is not applied is believed. Paper §7.
    SnapshotBeyondAppliedBelieved,
    /// No entries are kept for followers that lag a little. Paper §7.
    NothingRetained,
    /// A wanted snapshot is streamed again while it is being streamed. Scenario 45.
    SnapshotStreamedTwice,
    /// A snapshot is offered again, and streamed anew, while a slow link still carries it. Scenario 45.
    SlowStreamOfferedAgain,
    /// An offer that was not answered is never repeated. Scenario 38.
    LostOfferNotRepeated,
    /// Nothing is offered for an earlier snapshot that is wanted, though a newer one was taken meanwhile. Scenario 38.
    NewerSnapshotNotOffered,
    /// What a follower says of an earlier offer is taken for its answer to the latest.
    AnswerToAnEarlierOfferBelieved,
    /// A follower that has less than was offered, but enough for the log to go on from there, is served no further.
    EarlierSnapshotNotEnough,
    /// The end of a snapshot's stream is taken for that of a later one's, which is then begun once more.
    EarlierStreamEndsTheLater,
    /// A copy of a snapshot that does not arrive is taken for the failure of the installation that is under way.
    LateCopyFailsTheInstallation,
    /// A snapshot from before the entry that added a member is offered to others, who would know of no group. Paper figure 13; dissertation §5.1.
    SnapshotOfNobodysGroupOffered,
    /// The log is compacted past a follower that replicates and lags within the budget.
    SlowFollowerOutrun,
    /// The log grows for a slow follower without a bound.
    SlowFollowerHoldsTheLog,

    // Membership.

    /// A configuration elects only once it is committed. Dissertation §4.1; scenario 26.
    ConfigurationElectsOnceCommitted,
    /// Two voters come or go in one step, without a joint configuration. Dissertation §4.1.
    TwoVotersInOneStep,
    /// A change is begun while another is not settled. Dissertation §4.1.
    TwoChangesAtATime,
    /// A configuration is changed before an entry of the leader's own term is committed. Scenario 25.
    ChangeBeforeOwnTermCommit,
    /// A joint configuration is left before it is committed. Dissertation §4.3.
    JointLeftBeforeCommitted,
    /// What a quorum of the new configuration has already is committed at the next input only.
    ShrunkQuorumNotNoticed,
    /// Reads that a quorum of the new configuration has confirmed already wait for an answer that may never come. Dissertation §6.4.
    ReadsOfALargerQuorumWaitOn,
    /// Observers are not told of the role that a configuration gives a node: a learner that was promoted, a witness that was added.
    RoleByConfigurationNotTold,
    /// A joint configuration is never left. Dissertation §4.3; scenario 27.
    JointNeverLeft,
    /// Who is added and removed by one change is not served until it knows that it was removed. Dissertation §4.2.3.
    RemovedPeerForgotten,
    /// A learner is promoted however far it is behind. Dissertation §4.2.1.
    PromotedBeforeCaughtUp,
    /// A learner is promoted that had all of a quiet log once, and is gone. Dissertation §4.2.1.
    PromotedThoughSilent,
    /// A change may make a quorum depend on members that do not vote yet, because their logs record no store.
    QuorumOfWhoCanNotVote,
    /// The last voter that could lead may go.
    NobodyLeftToLead,
    /// A leader that was removed goes on leading. Dissertation §4.2.2; scenario 28.
    RemovedLeaderStays,
    /// A member that was removed is not told so. Dissertation §4.2.3.
    RemovedMemberNotTold,
    /// A snapshot may carry a configuration of later than its place. Scenario 31.
    SnapshotOfALaterConfiguration,

    // Transfer of leadership.

    /// A transfer whose target does not take over is never given up. Dissertation §3.10.
    TransferNeverEnds,
    /// Leadership is handed to a learner, or to who is no member that votes. Dissertation §3.10, §4.2.1.
    TransferToALearner,
    /// Leadership is handed to a witness.
    TransferToAWitness,
    /// A transfer goes on though a change of the configuration took the target's vote. Dissertation §3.10, §4.3.
    TransferOutlivesTheTargetsVote,
    /// Leadership is handed to a member that lags or is silent. Dissertation §3.10.
    TransferToALaggard,
    /// The target is told to campaign before it has the leader's log. Dissertation §3.10.
    TransferBeforeTheTargetHasTheLog,
    /// Proposals are taken while leadership is being handed over. Dissertation §3.10.
    ProposalsDuringATransfer,
    /// Voters keep their promise to a leader that asks for an election itself. Dissertation §4.2.3.
    PromiseHoldsBackATransfer,

    // Leases.

    /// Reads are served under a lease after another member was told to campaign. Dissertation §6.4.1.
    LeaseKeptWhileHandingOver,
    /// A lease is served while leadership is handed over, until the target is told to campaign.
    LeaseUntilTheTargetIsTold,
    /// The lease is as long as the promise: no clock drifts. Dissertation §6.4.1; scenario 23.
    LeaseWithoutDrift,
    /// The lease counts from when a heartbeat was answered, not from when it left. Dissertation §6.4.1; scenario 23.
    LeaseFromTheAnswer,
    /// A lease that is over is served until the next check of the quorum ends the leadership. Dissertation §6.4.1; scenario 23.
    LeaseEndsAtTheNextCheck,
    /// A leader that was paused goes on with its lease. Scenario 24.
    LeaseOutlivesAPause,
    /// The word that the clock stood still changes nothing. Scenario 24.
    ClockSuspicionIgnored,
    /// A voter that restarts votes at once, though it may have promised not to. Dissertation §6.4.1.
    PromiseForgottenByARestart,
    /// A read is served under a lease before an entry of the leader's own term is committed. Scenario 20.
    LeaseReadBeforeOwnTermCommit,
    /// A leader whose disk stalls keeps its lease.
    LeaseOnAStalledDisk,

    // Witnesses and zones.

    /// A witness campaigns.
    WitnessCampaigns,
    /// A witness is sent commands.
    WitnessGetsCommands,
    /// A witness lets reads be asked for, though it has no state.
    WitnessAnswersReads,
    /// A member that keeps commands takes entries without them.
    WithheldCommandBelieved,
    /// A witness is sent what the leader may lose yet; then nobody could be elected.
    WitnessAheadOfTheLeadersDisk,
    /// A witness is sent what this leader alone has besides, though that is not enough to commit it with the witnesses.
    WitnessAheadOfWhoStays,
    /// A witness takes commands, which it does not keep.
    CommandForAWitnessBelieved,
    /// Who keeps no commands is counted where commands count.
    CommandsMissingBelieved,
    /// A member that is set up as a full one starts on the store of a witness.
    WitnessStoreBelieved,
    /// Who was a witness comes back as a member that keeps commands, on a store that lacks them.
    WitnessBecomesAMember,
    /// A witness counts for its zone, though it has no commands.
    WitnessSpeaksForItsZone,
    /// An entry commits by a majority alone, whichever zones have it.
    ZonesNotAsked,
    /// Who is in the outgoing half alone speaks for its zone.
    ZonesOfWhoLeaves,

    // Stores.

    /// What a member says on another store than the recorded one counts. Scenario 32.
    StrangeStoreCounts,
    /// No store is recorded while the configuration is joint, though its incoming half may need one that is not.
    NoRecordWhileJoint,
    /// A member campaigns on another store than the recorded one. Scenario 32.
    WipedStoreCampaigns,
    /// A member that knows no configuration votes for a candidate without a log. Scenario 32.
    WipedOutsiderFounds,
    /// Once stores are recorded, a member without a record counts all the same. Rule 2 of stores.
    UnrecordedStoreCounts,
    /// Voters that do not count are sent entries. Rule 4 of stores.
    EntriesForWhoDoesNotCount,
    /// A group that did not tell stores apart records some while others are unknown. Rule 1 of stores.
    FirstRecordsTooEarly,
    /// A voter on another store than the recorded one is not made a learner.
    StrangeStoreNotDemoted,
    /// A member whose own configuration has another store for it than the one it runs on is not told. Rule 3 of stores.
    StoreRejectionNotTold,
    /// A message of an earlier term tells that its sender runs on another store.
    StoreOfAnEarlierTermBelieved,
    /// The store that a member was heard to run on in an earlier term is written into the configuration.
    StoreOfAnEarlierTermRecorded,
    /// Who is added and promoted by one change is recorded on the store that it had in an earlier stay in the group.
    StoreOfAnEarlierStayRecorded,
    /// A voter that is removed and added by one change comes back on another store, without having been a learner.
    VoterChangesItsStore,
    /// Messages of an earlier life of a store are believed.
    LifeOfAStoreGoesBack,
    /// A store that lacks what it acknowledged in an earlier life goes on counting.
    LossOfWhatWasAcknowledgedForgiven,
    /// After a restart a heartbeat's commit index is believed before the logs were compared.
    CommitBelievedBeforeComparing,

    // Forwarding, priorities, health, and reads at any member.

    /// A batch that a member passed on is appended as often as it arrives.
    ForwardTakenTwice,
    /// Proposals are passed on without a bound.
    ForwardQuotaNotChecked,
    /// A proposal that was passed on waits for its answer for ever.
    ForwardsNeverGivenUp,
    /// An answer to what an earlier life of this member passed on is taken for one to this life.
    AnswerToAnEarlierLifeBelieved,
    /// A low priority does not make a member wait.
    PriorityIgnored,
    /// A low priority makes a member wait for ever.
    LowPriorityWaitsForEver,
    /// A member whose disk stalls campaigns.
    StalledMemberCampaigns,
    /// A leader whose disk stalls does not make way.
    StalledLeaderStays,
    /// What a member asks its leader is numbered alike in all its lives. Scenario 21.
    QuestionsOfAllLivesAlike,
    /// A read at a member whose leader does not answer waits for ever.
    QuestionsNeverGivenUp,
}

impl Mutant {
    /// Whether this one was chosen: never, outside a build for mutants.
    #[cfg(not(raft_mutants))]
    #[inline(always)]
    #[allow(
        clippy::inline_always,
        clippy::unused_self,
        reason = "a constant, also without optimization"
    )]
    pub(crate) const fn is_active(self) -> bool {
        false
    }

    /// Whether `RAFT_MUTANT` names this one.
    ///
    /// # Panics
    /// If it names none of the list: a misspelt mutant would pass for one that no test catches.
    #[cfg(raft_mutants)]
    pub(crate) fn is_active(self) -> bool {
        extern crate std;
        static CHOSEN: std::sync::OnceLock<Option<Mutant>> = std::sync::OnceLock::new();
        let choose = || {
            let name = std::env::var("RAFT_MUTANT").ok().filter(|name| !name.is_empty())?;
            let chosen = Self::ALL.iter().copied().find(|mutant| mutant.name() == name);
            Some(chosen.unwrap_or_else(|| panic!("RAFT_MUTANT={name}: no such mutant")))
        };
        *CHOSEN.get_or_init(choose) == Some(self)
    }
}
