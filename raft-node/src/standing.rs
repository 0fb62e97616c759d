//! What follows from the store that a node runs on: what it says of itself, and whom a leader takes back. Whose votes count is the
//! core's affair.

use raft_core::{ChangeStep, Input, RequestId, Status, StoreStanding};

use crate::driver::Driver;
use crate::status::{Health, NodeStatus};
use crate::{StateMachine, Transport};

/// The status of a node that was started just now.
pub(crate) fn first(raft: Status) -> NodeStatus {
    let mut health = Health::Ok;
    follow(&mut health, raft.standing);
    NodeStatus { raft, health }
}

/// Brings the health in step with what the group makes of this node's store. Whether that changed it.
pub(crate) fn follow(health: &mut Health, standing: StoreStanding) -> bool {
    let now = match (&*health, standing) {
        (Health::Ok | Health::Uncounted { .. }, StoreStanding::Accepted) => Health::Ok,
        (Health::Ok | Health::Uncounted { .. }, _) => {
            Health::Uncounted { why: standing.to_string().into() }
        }
        _ => return false,
    };
    if now == *health {
        return false;
    }
    if let Health::Uncounted { why } = &now {
        tracing::warn!("this node does not count: {why}");
    } else {
        tracing::info!("this node counts again");
    }
    *health = now;
    true
}

impl<M: StateMachine, T: Transport> Driver<M, T> {
    /// Leader: promotes a learner that was a voter until it came back on another store, once it is in step. (The core would
    /// refuse it before.) Nobody waits for the answer: if it is lost, the next leader does the same.
    pub(crate) fn take_back(&mut self) {
        let Some(node) = self.raft.returned_learner() else { return };
        tracing::info!(%node, "promoting a member that was made a learner for its store, and is in step again");
        let id = RequestId(self.requests.next_id());
        self.handle(Input::ChangeMembership { id, change: ChangeStep::Promote(node).into() });
    }
}
