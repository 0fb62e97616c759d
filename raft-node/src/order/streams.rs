//! Snapshots on their way: which stream is the one that was meant, at both of its ends.

use std::collections::BTreeMap;

use raft_core::{LogPosition, NodeId, SnapshotMeta, Term};

use super::mutants::mutated;

/// What tells one stream from all others: whatever belongs to it carries this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId {
    /// Who is at the other end.
    pub peer: NodeId,
    /// The leader's term.
    pub term: Term,
    /// The snapshot's position.
    pub position: LogPosition,
}

/// What to do about a snapshot that a peer wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// Stream it: it is what the machine has.
    Stream,
    /// The machine has another one meanwhile: report that as taken, then the stream as ended. It will be offered.
    Superseded(SnapshotMeta),
    /// There is none: report the stream as ended.
    Nothing,
}

/// Decides that. `latest` is the machine's latest durable snapshot.
pub fn offered(wanted: &SnapshotMeta, latest: Option<&SnapshotMeta>) -> Offered {
    match latest {
        Some(latest) if latest.position == wanted.position || mutated!(AnotherSnapshotStreamed) => {
            Offered::Stream
        }
        Some(other) => Offered::Superseded(other.clone()),
        None => Offered::Nothing,
    }
}

/// The streams to peers: one for each at most. `S` is whatever ends a stream when it is dropped.
///
/// A stream is let go of when another one to the same peer begins, and when this node leads no more. What is let go of is not reported as ended: the
/// core would take it for the end of its successor.
#[derive(Debug)]
pub struct Sending<S> {
    streams: BTreeMap<NodeId, (StreamId, S)>,
}

impl<S> Default for Sending<S> {
    fn default() -> Sending<S> {
        Sending { streams: BTreeMap::new() }
    }
}

impl<S> Sending<S> {
    /// A stream begins. An older one to the same peer is dropped.
    pub fn begin(&mut self, id: StreamId, stream: S) {
        self.streams.insert(id.peer, (id, stream));
    }

    /// The stream that something is an answer to; `None` if it has ended, or has not begun: then it will ask again.
    pub fn get(&self, id: StreamId) -> Option<&S> {
        self.streams.get(&id.peer).filter(|(held, _)| *held == id).map(|(_, stream)| stream)
    }

    /// A stream came to its end by itself. Whether that is to be reported.
    pub fn on_end(&mut self, id: StreamId) -> bool {
        let is_held = self.get(id).is_some();
        if is_held {
            self.streams.remove(&id.peer);
        }
        is_held
    }

    /// This node leads no more: all are dropped.
    pub fn let_go(&mut self) {
        self.streams.clear();
    }
}

/// The snapshot that is being received: one at most. `T` is what has arrived of it.
///
/// Its promises:
/// 1. Only what belongs to the stream that the core asked for last is believed.
/// 2. When the same snapshot is asked for again, of whomever, what has arrived of it is kept; when another one is, dropped.
/// 3. A snapshot is reported once for each time that it was asked for.
#[derive(Debug)]
pub struct Receiving<T> {
    arriving: Option<Arriving<T>>,
    /// The last stream that was complete, to say so again if that was lost.
    completed: Option<StreamId>,
}

/// A snapshot that is arriving.
#[derive(Debug)]
pub struct Arriving<T> {
    /// Its stream.
    pub id: StreamId,
    /// What it is.
    pub snapshot: SnapshotMeta,
    /// What has arrived.
    pub data: T,
}

impl<T> Default for Receiving<T> {
    fn default() -> Receiving<T> {
        Receiving { arriving: None, completed: None }
    }
}

impl<T> Receiving<T> {
    /// The core asks for a snapshot. `open` gives what is there of it from earlier, for one that was not arriving.
    ///
    /// # Errors
    /// That of `open`: nothing is arriving then.
    pub fn begin<E>(
        &mut self,
        (from, term): (NodeId, Term),
        snapshot: SnapshotMeta,
        open: impl FnOnce(&SnapshotMeta) -> Result<T, E>,
    ) -> Result<(), E> {
        self.completed = None;
        let id = StreamId { peer: from, term, position: snapshot.position };
        let before = self.arriving.take();
        let data = match before {
            Some(before) if before.id.position == id.position => before.data,
            _ => open(&snapshot)?,
        };
        self.arriving = Some(Arriving { id, snapshot, data });
        Ok(())
    }

    /// Whether something belongs to what is arriving.
    pub fn expects(&self, id: StreamId) -> bool {
        self.arriving.as_ref().is_some_and(|it| it.id == id || mutated!(AnyStreamBelieved))
    }

    /// Whether something belongs to the stream that was complete last: its end was not heard, and is to be acknowledged again.
    pub fn was_completed(&self, id: StreamId) -> bool {
        self.completed == Some(id)
    }

    /// What is arriving.
    pub fn arriving(&self) -> Option<&Arriving<T>> {
        self.arriving.as_ref()
    }

    /// What is arriving.
    pub fn arriving_mut(&mut self) -> Option<&mut Arriving<T>> {
        self.arriving.as_mut()
    }

    /// It has arrived, whole: to be reported to the core.
    pub fn complete(&mut self) -> Option<Arriving<T>> {
        let whole = self.arriving.take()?;
        self.completed = Some(whole.id);
        Some(whole)
    }

    /// It can not go on: to be reported to the core.
    pub fn give_up(&mut self) -> Option<Arriving<T>> {
        self.arriving.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::{Index, Membership};

    fn meta(index: u64) -> SnapshotMeta {
        let position = LogPosition { index: Index(index), term: Term(1) };
        SnapshotMeta { position, membership: Membership::default().into() }
    }

    fn id(peer: u64, term: u64, index: u64) -> StreamId {
        StreamId { peer: NodeId(peer), term: Term(term), position: meta(index).position }
    }

    #[test]
    fn only_what_was_offered_is_streamed() {
        assert_eq!(offered(&meta(3), Some(&meta(3))), Offered::Stream);
        assert_eq!(offered(&meta(3), Some(&meta(5))), Offered::Superseded(meta(5)));
        assert_eq!(offered(&meta(3), None), Offered::Nothing);
    }

    #[test]
    fn the_end_of_a_stream_that_was_let_go_is_nobodys() {
        let mut sending = Sending::default();
        sending.begin(id(2, 1, 3), "first");
        sending.begin(id(2, 1, 5), "second");
        assert_eq!((sending.get(id(2, 1, 3)), sending.get(id(2, 1, 5))), (None, Some(&"second")));
        assert!(!sending.on_end(id(2, 1, 3)));
        assert!(sending.on_end(id(2, 1, 5)) && !sending.on_end(id(2, 1, 5)));
        sending.begin(id(2, 1, 7), "third");
        sending.let_go();
        assert!(!sending.on_end(id(2, 1, 7)));
    }

    #[test]
    fn what_has_arrived_is_kept_for_the_same_snapshot_only() {
        let mut receiving = Receiving::default();
        let ask = |receiving: &mut Receiving<&'static str>, from, term, index, data| {
            let open = |_: &SnapshotMeta| Ok::<_, ()>(data);
            receiving.begin((NodeId(from), Term(term)), meta(index), open).expect("opened");
            receiving.arriving().expect("it is arriving").data
        };
        assert_eq!(ask(&mut receiving, 1, 1, 3, "old"), "old");
        assert_eq!(ask(&mut receiving, 2, 2, 3, "again"), "old", "of another leader");
        assert!(receiving.expects(id(2, 2, 3)) && !receiving.expects(id(1, 1, 3)));
        assert_eq!(ask(&mut receiving, 2, 2, 5, "new"), "new");
        assert!(!receiving.expects(id(2, 2, 3)));
        assert!(receiving.complete().is_some_and(|whole| whole.snapshot == meta(5)));
        assert!(receiving.was_completed(id(2, 2, 5)) && receiving.complete().is_none());
        let failed = receiving.begin((NodeId(2), Term(2)), meta(5), |_| Err(()));
        assert!(failed.is_err() && receiving.give_up().is_none());
        assert!(!receiving.was_completed(id(2, 2, 5)));
    }
}
