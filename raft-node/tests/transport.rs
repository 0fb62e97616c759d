//! The switchboard is a transport like any other.

use std::future::{Future, ready};

use raft_node::raft_core::{NodeId, StoreStamp};
use raft_node::testing::{Switchboard, SwitchboardTransport, TestNetwork, check_transport};
use raft_node::{Inbox, PeerMessage, Transport, TransportError};

struct InOneProcess(Switchboard);

impl TestNetwork for InOneProcess {
    type Transport = SwitchboardTransport;

    fn plug(&mut self, node: NodeId) -> impl Future<Output = SwitchboardTransport> {
        ready(self.0.transport(node))
    }
}

#[tokio::test]
async fn the_switchboard_keeps_what_a_transport_promises() {
    check_transport(|| InOneProcess(Switchboard::new())).await;
}

/// Sends what was gathered the wrong way round.
struct Backwards {
    inner: SwitchboardTransport,
    gathered: Vec<(NodeId, PeerMessage)>,
}

impl Transport for Backwards {
    fn start(&mut self, inbox: Inbox, own: StoreStamp) -> Result<(), TransportError> {
        self.inner.start(inbox, own)
    }

    fn send(&mut self, to: NodeId, message: PeerMessage) {
        self.gathered.push((to, message));
    }

    fn flush(&mut self) {
        for (to, message) in self.gathered.drain(..).rev() {
            self.inner.send(to, message);
        }
    }
}

struct AllBackwards(Switchboard);

impl TestNetwork for AllBackwards {
    type Transport = Backwards;

    fn plug(&mut self, node: NodeId) -> impl Future<Output = Backwards> {
        ready(Backwards { inner: self.0.transport(node), gathered: Vec::new() })
    }
}

#[tokio::test]
#[should_panic(expected = "in order")]
async fn a_transport_without_order_does_not_pass() {
    check_transport(|| AllBackwards(Switchboard::new())).await;
}
