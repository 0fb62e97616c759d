//! A network inside one process: whoever is plugged in reaches everybody else, unless the link is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_core::{NodeId, StoreStamp};

use crate::{Delivery, Inbox, PeerMessage, Transport, TransportError};

/// Connects nodes of one process. Clones are the same network.
#[derive(Clone, Debug, Default)]
pub struct Switchboard {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    inboxes: BTreeMap<NodeId, (Inbox, StoreStamp)>,
    /// Links that are cut, from and to.
    cut: BTreeSet<(NodeId, NodeId)>,
}

impl Switchboard {
    /// A network with nobody on it.
    pub fn new() -> Switchboard {
        Switchboard::default()
    }

    /// A node's own plug. A later one for the same node replaces it.
    pub fn transport(&self, id: NodeId) -> SwitchboardTransport {
        SwitchboardTransport { switchboard: self.clone(), id, own: None }
    }

    /// Cuts a node off from all others, in both directions.
    pub fn isolate(&self, node: NodeId) {
        let others: Vec<NodeId> = self.lock().inboxes.keys().copied().collect();
        for other in others.into_iter().filter(|&other| other != node) {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// Cuts a link in one direction. The sender notices no more than with a real network.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.lock().cut.insert((from, to));
    }

    /// Mends all links.
    pub fn mend(&self) {
        self.lock().cut.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node's plug in a [`Switchboard`]. Delivers at once or, if the receiver's inbox is full, not at all; nor if another
/// plug has taken this one's place.
#[derive(Debug)]
pub struct SwitchboardTransport {
    switchboard: Switchboard,
    id: NodeId,
    own: Option<StoreStamp>,
}

impl Transport for SwitchboardTransport {
    fn start(&mut self, inbox: Inbox, own: StoreStamp) -> Result<(), TransportError> {
        self.own = Some(own);
        self.switchboard.lock().inboxes.insert(self.id, (inbox, own));
        Ok(())
    }

    fn send(&mut self, to: NodeId, message: PeerMessage) {
        let state = self.switchboard.lock();
        if state.cut.contains(&(self.id, to)) {
            return;
        }
        let plugged = state.inboxes.get(&self.id).map(|(_, own)| *own);
        if self.own.is_some() && plugged != self.own {
            return;
        }
        if let Some((inbox, _)) = state.inboxes.get(&to) {
            inbox.try_deliver(Delivery::Message { from: self.id, store: self.own, message });
        }
    }
}
