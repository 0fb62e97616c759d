//! The connection to the node that is taken for the leader, or that passes requests on to it. Not about which node that is.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::{NodeId, Term};
use raft_net_quic::{ClientEndpoint, FrameReader, FrameWriter, ServiceStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::Trouble;
use super::search::Reported;
use crate::protocol::{Reply, ServeAt, decode_replies};

/// What the client's task is told.
#[derive(Debug)]
pub(super) enum Event {
    /// Connection number `link` is up.
    Connected { link: u64 },
    /// Replies came over it.
    Replies { link: u64, replies: Vec<Reply> },
    /// It is lost, or could not be made.
    Lost { link: u64, trouble: Trouble },
    /// A node was asked how it is.
    Reported(Reported),
}

/// How many frames may wait to be sent; more requests are gathered meanwhile.
const FRAMES_AHEAD: usize = 2;

/// A connection. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) number: u64,
    pub(super) node: NodeId,
    /// What is asked of the node: as a rule it is taken for the leader.
    pub(super) at: ServeAt,
    /// The term in which the node was found to lead, or to know a leader; 0 if that is only hearsay.
    pub(super) term: Term,
    pub(super) is_up: bool,
    pub(super) frames: mpsc::Sender<Bytes>,
    _task: JoinSet<()>,
}

impl Link {
    /// Starts to connect.
    pub(super) fn connect(
        endpoint: Arc<ClientEndpoint>,
        number: u64,
        (node, address): (NodeId, String),
        (at, term): (ServeAt, Term),
        events: mpsc::Sender<Event>,
    ) -> Link {
        let (frames, to_send) = mpsc::channel(FRAMES_AHEAD);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let trouble = match endpoint.connect(node, &address).await {
                Ok(stream) => run(number, stream, to_send, &events).await,
                Err(error) => error.into(),
            };
            let _ = events.send(Event::Lost { link: number, trouble }).await;
        });
        Link { number, node, at, term, is_up: false, frames, _task: task }
    }
}

/// Works until the connection ends, and says why it did.
async fn run(
    link: u64,
    stream: ServiceStream,
    to_send: mpsc::Receiver<Bytes>,
    events: &mpsc::Sender<Event>,
) -> Trouble {
    let (reader, writer) = stream.split();
    if events.send(Event::Connected { link }).await.is_err() {
        return Trouble::from("");
    }
    tokio::select! {
        trouble = receive(link, reader, events) => trouble,
        trouble = send(writer, to_send) => trouble,
    }
}

async fn receive(link: u64, mut reader: FrameReader, events: &mpsc::Sender<Event>) -> Trouble {
    let mut frames = Vec::new();
    loop {
        match reader.next_batch(&mut frames).await {
            Ok(true) => {}
            Ok(false) => return "the node closed the stream".into(),
            Err(error) => return error.into(),
        }
        for frame in frames.drain(..) {
            let replies = match decode_replies(&frame) {
                Ok(replies) => replies,
                Err(error) => return format!("the node's replies make no sense: {error}").into(),
            };
            if events.send(Event::Replies { link, replies }).await.is_err() {
                return Trouble::from("");
            }
        }
    }
}

async fn send(mut writer: FrameWriter, mut to_send: mpsc::Receiver<Bytes>) -> Trouble {
    let mut frames = Vec::new();
    while to_send.recv_many(&mut frames, FRAMES_AHEAD).await > 0 {
        if let Err(error) = writer.send_all(&mut frames).await {
            return error.into();
        }
        frames.clear();
    }
    "the client closed it".into()
}
