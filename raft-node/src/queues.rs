//! The queues to the worker threads, as all that hold an end of them know them.

use std::sync::Arc;

use crate::StateMachine;
use crate::apply::ApplyWork;
use crate::fetch::FetchWork;
use crate::handover::Handover;
use crate::order::StoreJob;
use crate::snapshot_receive::ReceiveWork;

/// The queues to the worker threads.
pub(crate) struct Queues<M: StateMachine> {
    pub(crate) storage: Arc<Handover<StoreJob>>,
    pub(crate) applier: Arc<Handover<ApplyWork<M>>>,
    pub(crate) fetcher: Arc<Handover<FetchWork>>,
    pub(crate) receiver: Arc<Handover<ReceiveWork>>,
}

impl<M: StateMachine> Clone for Queues<M> {
    fn clone(&self) -> Self {
        Queues {
            storage: Arc::clone(&self.storage),
            applier: Arc::clone(&self.applier),
            fetcher: Arc::clone(&self.fetcher),
            receiver: Arc::clone(&self.receiver),
        }
    }
}

impl<M: StateMachine> Queues<M> {
    pub(crate) fn new() -> Queues<M> {
        Queues {
            storage: Arc::new(Handover::new()),
            applier: Arc::new(Handover::new()),
            fetcher: Arc::new(Handover::new()),
            receiver: Arc::new(Handover::new()),
        }
    }
}
