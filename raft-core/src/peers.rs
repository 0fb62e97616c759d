//! The peers of a leader, by id. They are few and looked up all the time, so a sorted vector serves better than a tree.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::NodeId;
use crate::progress::Peer;

/// Rising by id.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    list: Vec<(NodeId, Box<Peer>)>,
}

impl Peers {
    fn place(&self, node: NodeId) -> Result<usize, usize> {
        self.list.binary_search_by_key(&node, |(id, _)| *id)
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<&Peer> {
        self.place(node).ok().and_then(|place| self.list.get(place)).map(|(_, peer)| &**peer)
    }

    pub(crate) fn get_mut(&mut self, node: NodeId) -> Option<&mut Peer> {
        let place = self.place(node).ok()?;
        self.list.get_mut(place).map(|(_, peer)| &mut **peer)
    }

    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.place(node).is_ok()
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// By its place in the order of the ids.
    pub(crate) fn nth(&self, number: usize) -> Option<(NodeId, &Peer)> {
        self.list.get(number).map(|(node, peer)| (*node, &**peer))
    }

    pub(crate) fn get_or_insert_with(
        &mut self,
        node: NodeId,
        make: impl FnOnce() -> Peer,
    ) -> &mut Peer {
        let place = self.place(node).unwrap_or_else(|place| {
            self.list.insert(place, (node, Box::new(make())));
            place
        });
        &mut self.list[place].1
    }

    pub(crate) fn remove(&mut self, node: NodeId) {
        if let Ok(place) = self.place(node) {
            self.list.remove(place);
        }
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Peer) -> bool) {
        self.list.retain(|(_, peer)| keep(peer));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.list.iter().map(|(node, peer)| (*node, &**peer))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (NodeId, &mut Peer)> {
        self.list.iter_mut().map(|(node, peer)| (*node, &mut **peer))
    }
}

impl FromIterator<(NodeId, Peer)> for Peers {
    fn from_iter<I: IntoIterator<Item = (NodeId, Peer)>>(peers: I) -> Peers {
        let mut list: Vec<_> =
            peers.into_iter().map(|(node, peer)| (node, Box::new(peer))).collect();
        list.sort_unstable_by_key(|(node, _)| *node);
        list.dedup_by_key(|(node, _)| *node);
        Peers { list }
    }
}
