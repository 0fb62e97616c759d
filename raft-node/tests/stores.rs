//! Members whose disk was emptied, or put back from a copy: what was acknowledged stays, and the group takes them back by itself.

mod common;

use common::{Disks, Group, PATIENCE, applied, command, until};
use raft_node::raft_core::{
    ChangeStep, Membership, MembershipChange, NodeId, StoreId, StoreStanding,
};
use raft_node::{Health, NodeStatus};

/// Waits until the configuration of all of these nodes records as many stores as it has members.
async fn all_recorded(group: &Group) {
    for node in group.nodes.values() {
        let is_recorded = |members: &Membership| members.stores.len() == 3;
        until(node, |status| is_recorded(&status.raft.membership)).await;
    }
}

/// A group of three of which node 3 is down, and nodes 1 and 2 after it, once they have acknowledged a command. Returns a copy of
/// node 2's disk from before the command.
async fn stopped() -> (Group, Disks) {
    let mut group = Group::start(3, |_| ()).await;
    let leader = group.leader_of(1..=3).await;
    group.nodes[&leader].propose(command("early")).await.unwrap();
    all_recorded(&group).await;
    for node in group.nodes.values() {
        applied(node, 1).await;
    }
    group.stop_node(3).await;
    let leader = group.leader_of([1, 2]).await;
    let old = group.disks[&NodeId(2)].clone();
    let copy = Disks { log: old.log.copied(), machine: old.machine };
    group.nodes[&leader].propose(command("acknowledged")).await.unwrap();
    group.stop_node(1).await;
    group.stop_node(2).await;
    (group, copy)
}

/// Waits until a node says that it can not be elected, since what these nodes say does not count.
async fn says_that_they_do_not_count(group: &Group, node: u64, strange: &[u64]) {
    let node = &group.nodes[&NodeId(node)];
    let mut status = node.watch_status();
    let says = async {
        loop {
            status.mark_unchanged();
            let why = node.explain().await.unwrap().to_string();
            let is_named = |id: &u64| {
                why.contains(&format!(
                    "node {id} (it runs on a store that it was not admitted with)"
                ))
            };
            if strange.iter().all(is_named) {
                return;
            }
            status.changed().await.expect("the node lives");
        }
    };
    tokio::time::timeout(PATIENCE, says).await.expect("it says so in time");
}

fn store(status: &NodeStatus) -> Option<StoreId> {
    status.raft.store.map(|stamp| stamp.id)
}

/// Node 2 is on another disk, and elects nobody; once node 1 is back, nothing is lost, and node 2 becomes a voter again.
async fn is_taken_back(mut group: Group) {
    group.start_node(NodeId(2)).await;
    group.start_node(NodeId(3)).await;
    says_that_they_do_not_count(&group, 3, &[2]).await;
    let told = group.nodes[&NodeId(2)].status();
    assert!(matches!(told.health, Health::Uncounted { .. }), "{told:?}");
    for node in group.nodes.values() {
        assert_eq!(node.status().raft.leader, None, "nobody was elected");
    }
    group.start_node(NodeId(1)).await;
    for node in group.nodes.values() {
        assert_eq!(applied(node, 2).await, [command("early"), command("acknowledged")]);
        let wanted = store(&group.nodes[&NodeId(2)].status());
        let is_back = |status: &NodeStatus| {
            let members = &status.raft.membership;
            members.voters.len() == 3 && members.stores.get(&NodeId(2)).copied() == wanted
        };
        let status = until(node, is_back).await;
        assert_eq!(status.raft.standing, StoreStanding::Accepted);
    }
    for node in group.nodes.values() {
        let status = until(node, |status| status.health.is_ok()).await;
        assert_eq!(status.health, Health::Ok, "nobody is suspect");
    }
    // With it alone: it counts.
    group.stop_node(3).await;
    let leader = group.leader_of([1, 2]).await;
    group.nodes[&leader].propose(command("late")).await.unwrap();
    group.shutdown().await;
}

#[tokio::test]
async fn a_wiped_member_elects_nobody_and_is_taken_back() {
    let (mut group, _) = stopped().await;
    group.replace_disk(2, Disks::default());
    is_taken_back(group).await;
}

#[tokio::test]
async fn a_member_put_back_from_a_copy_elects_nobody_and_is_taken_back() {
    let (mut group, copy) = stopped().await;
    group.replace_disk(2, copy);
    is_taken_back(group).await;
}

#[tokio::test]
async fn of_two_wiped_members_nobody_founds_anything() {
    let (mut group, _) = stopped().await;
    for wiped in [2, 3] {
        group.replace_disk(wiped, Disks::default());
        group.start_node(NodeId(wiped)).await;
    }
    group.start_node(NodeId(1)).await;
    says_that_they_do_not_count(&group, 1, &[2, 3]).await;
    for (id, node) in &group.nodes {
        let status = node.status();
        assert_eq!(status.raft.leader, None, "nobody was elected");
        assert_eq!(status.health.is_ok(), *id == NodeId(1), "{status:?}");
    }
    group.shutdown().await;
}

#[tokio::test]
async fn a_learner_that_was_never_a_voter_is_not_promoted() {
    let group = Group::start(3, |_| ()).await;
    let leader = group.leader_of(1..=3).await;
    all_recorded(&group).await;
    let learner = *group.nodes.keys().find(|id| **id != leader).unwrap();
    let demoted = async {
        let demote: MembershipChange = ChangeStep::Demote(learner).into();
        // It is refused while the last configuration is not everywhere yet.
        while group.nodes[&leader].change_membership(demote.clone()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, demoted).await.expect("demoted in time");
    // Some rounds of the driver with a learner that is in step.
    for text in ["a", "b", "c"] {
        group.nodes[&leader].propose(command(text)).await.unwrap();
        applied(&group.nodes[&learner], 1).await;
    }
    let membership = group.nodes[&leader].status().raft.membership;
    assert!(membership.learners.contains(&learner), "{membership:?}");
    group.shutdown().await;
}
