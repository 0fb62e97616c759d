//! Handshakes that are under way, before it is known who it is: how many there may be, from where, and which one goes when there are too
//! many. Not about whom a certificate lets in (that is `accept`) nor how many connections it may have (`accounts`).
//!
//! Whoever begins a handshake and does not go on costs a place until it times out. So the oldest handshake makes room for the newest: an
//! honest one is done within a few round trips, long before it is the oldest. Addresses of peers have places of their own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::config::Limits;

/// From this share (one in so many) of the places on, only those come in that have shown that their address is theirs.
const SURE_FROM: usize = 8;
/// How many handshakes of peers may be under way.
const PEERS_MAX: usize = 64;
#[derive(Debug)]
pub(crate) struct Door {
    per_address_max: usize,
    strangers: Mutex<Lane>,
    peers: Mutex<Lane>,
}

#[derive(Debug)]
struct Lane {
    places: usize,
    next: u64,
    inside: BTreeMap<u64, (IpAddr, Arc<Notify>)>,
    by_address: HashMap<IpAddr, BTreeSet<u64>>,
}

/// A handshake's place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    door: Arc<Door>,
    is_peer: bool,
    number: u64,
    evicted: Arc<Notify>,
}

impl Door {
    pub(crate) fn new(limits: &Limits) -> Arc<Door> {
        Arc::new(Door {
            per_address_max: limits.handshakes_per_address_max.max(1),
            strangers: Mutex::new(Lane::new(limits.handshakes_max.max(1))),
            peers: Mutex::new(Lane::new(PEERS_MAX)),
        })
    }

    fn lane(&self, is_peer: bool) -> MutexGuard<'_, Lane> {
        let lane = if is_peer { &self.peers } else { &self.strangers };
        lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there are so many that addresses have to be proved.
    pub(crate) fn is_busy(&self, is_peer: bool) -> bool {
        let lane = self.lane(is_peer);
        lane.inside.len() * SURE_FROM >= lane.places
    }

    /// Takes a place, if need be that of the oldest: of the same address, if that has all it may have.
    pub(crate) fn enter(self: &Arc<Self>, from: SocketAddr, is_peer: bool) -> Ticket {
        let mut lane = self.lane(is_peer);
        let address = from.ip().to_canonical();
        let of_address = lane.by_address.get(&address);
        let oldest_here = of_address
            .filter(|inside| !is_peer && inside.len() >= self.per_address_max)
            .and_then(BTreeSet::first)
            .copied();
        let is_full = lane.inside.len() >= lane.places;
        let oldest =
            oldest_here.or_else(|| is_full.then(|| lane.inside.keys().next().copied()).flatten());
        if let Some(evicted) = oldest.and_then(|oldest| lane.remove(oldest)) {
            evicted.notify_one();
        }
        lane.next += 1;
        let (number, evicted) = (lane.next, Arc::new(Notify::new()));
        lane.inside.insert(number, (address, Arc::clone(&evicted)));
        lane.by_address.entry(address).or_default().insert(number);
        Ticket { door: Arc::clone(self), is_peer, number, evicted }
    }
}

impl Lane {
    fn new(places: usize) -> Lane {
        Lane { places, next: 0, inside: BTreeMap::new(), by_address: HashMap::new() }
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Notify>> {
        let (address, evicted) = self.inside.remove(&number)?;
        if let Some(inside) = self.by_address.get_mut(&address) {
            inside.remove(&number);
            if inside.is_empty() {
                self.by_address.remove(&address);
            }
        }
        Some(evicted)
    }
}

impl Ticket {
    /// Resolves when another handshake needs the place.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.door.lane(self.is_peer).remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(handshakes_max: usize, handshakes_per_address_max: usize) -> Arc<Door> {
        let limits = Limits { handshakes_max, handshakes_per_address_max, ..Limits::default() };
        Door::new(&limits)
    }

    fn at(host: u8, port: u16) -> SocketAddr {
        ([10, 0, 0, host], port).into()
    }

    fn is_evicted(ticket: &Ticket) -> bool {
        let evicted = std::pin::pin!(ticket.evicted());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        evicted.poll(&mut context).is_ready()
    }

    #[test]
    fn the_oldest_handshake_makes_room_and_first_that_of_the_same_address() {
        let door = door(4, 2);
        let mut tickets: Vec<_> = [(1, 1), (2, 1), (2, 2)]
            .map(|(host, port)| door.enter(at(host, port), false))
            .into_iter()
            .collect();
        tickets.push(door.enter(at(2, 3), false));
        let evicted: Vec<_> = tickets.iter().map(is_evicted).collect();
        assert_eq!(evicted, [false, true, false, false], "its own address has too many");
        tickets.push(door.enter(at(3, 1), false));
        tickets.push(door.enter(at(4, 1), false));
        let evicted: Vec<_> = tickets.iter().map(is_evicted).collect();
        assert_eq!(evicted, [true, false, false, false, false, false], "all places were taken");
        drop(tickets);
        let lane = door.lane(false);
        assert!(lane.inside.is_empty() && lane.by_address.is_empty());
    }

    #[test]
    fn peers_have_places_that_strangers_cannot_take() {
        let door = door(1, 1);
        let peer = door.enter(at(1, 1), true);
        let _strangers: Vec<_> = (0..10).map(|port| door.enter(at(1, port), false)).collect();
        assert!(!is_evicted(&peer));
        assert!(door.is_busy(false) && !door.is_busy(true));
    }
}
