//! Turns: who may put how much to the node at a time. Knows owners and costs, not what is asked.
//!
//! Every connection may have a little inside at any time, so that small requests never queue behind large ones. What is larger takes turns: by
//! certificate, then by connection of the certificate, whoever has had least goes next. While there is company, what is large is
//! inside for a third of the time at most: the node's disks and threads are everybody's.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raft_net_quic::Owner;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long somebody else's request counts as company.
const COMPANY: Duration = Duration::from_millis(200);
/// In company, large requests pause for so many times as long as the last one took, and no longer than this.
const REST: u32 = 2;
const REST_MAX: Duration = Duration::from_millis(200);

/// How much may be inside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Of each connection, at any time.
    pub(super) connection: usize,
    /// Of all connections of a certificate, at any time.
    pub(super) certificate: usize,
    /// Of what is larger, while only one connection asks for anything.
    pub(super) alone: usize,
    /// Of what is larger, in company. One request always passes.
    pub(super) in_company: usize,
}

#[derive(Debug)]
pub(super) struct Gate {
    room: Room,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What is inside beyond everybody's own little.
    inside: usize,
    /// Everybody's own little, by connection and by certificate.
    own: HashMap<u64, usize>,
    own_of_certificate: HashMap<u64, usize>,
    waiting: Turns<Turns<VecDeque<Waiter>>>,
    last: Option<(u64, Instant)>,
    company_at: Option<Instant>,
    rest_until: Option<Instant>,
    is_waking: bool,
}

#[derive(Debug)]
struct Waiter {
    who: (u64, u64),
    cost: usize,
    enter: oneshot::Sender<Pass>,
}

/// Those that wait, each with what it has had so far. Who comes anew is as far as whoever was served last.
#[derive(Debug)]
struct Turns<T> {
    floor: u64,
    of: BTreeMap<u64, (u64, T)>,
}

impl<T> Default for Turns<T> {
    fn default() -> Turns<T> {
        Turns { floor: 0, of: BTreeMap::new() }
    }
}

impl<T: Default> Turns<T> {
    fn of(&mut self, number: u64) -> &mut T {
        &mut self.of.entry(number).or_insert_with(|| (self.floor, T::default())).1
    }

    /// Whose turn it is.
    fn next(&self) -> Option<u64> {
        self.of.iter().min_by_key(|(_, (served, _))| *served).map(|(number, _)| *number)
    }

    fn served(&mut self, number: u64, cost: usize, is_done: impl FnOnce(&T) -> bool) {
        let Some((served, of)) = self.of.get_mut(&number) else { return };
        self.floor = *served;
        *served += cost as u64;
        if is_done(of) {
            self.of.remove(&number);
        }
    }
}

/// Something is inside, until this is dropped.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Gate>,
    who: (u64, u64),
    cost: usize,
    is_own: bool,
    since: Instant,
}

impl Gate {
    pub(super) fn new(room: Room) -> Arc<Gate> {
        Arc::new(Gate { room, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of this owner. What one connection asks for keeps its order. Cancel safe.
    pub(super) async fn pass(self: &Arc<Self>, owner: &Owner, cost: usize) -> Pass {
        let who = (owner.certificate(), owner.connection());
        match self.ask(who, cost, Instant::now()) {
            Ok(pass) => pass,
            Err(turn) => match turn.await {
                Ok(pass) => pass,
                // A waiter is dropped with the gate alone, which this future holds.
                Err(_) => std::future::pending().await,
            },
        }
    }

    fn ask(
        self: &Arc<Self>,
        who: (u64, u64),
        cost: usize,
        now: Instant,
    ) -> Result<Pass, oneshot::Receiver<Pass>> {
        let mut state = self.lock();
        state.note(who.1, now);
        let queued = state.waiting.of.get(&who.0);
        let has_queued = queued.is_some_and(|(_, queued)| queued.of.contains_key(&who.1));
        let is_own = !has_queued && state.fits_own(who, cost, &self.room);
        let may = is_own || (state.waiting.of.is_empty() && state.may_enter(cost, &self.room, now));
        if may {
            return Ok(self.enter(&mut state, who, cost, is_own, now));
        }
        let (enter, turn) = oneshot::channel();
        state.waiting.of(who.0).of(who.1).push_back(Waiter { who, cost, enter });
        self.wake_later(&mut state, now);
        Err(turn)
    }

    fn enter(
        self: &Arc<Self>,
        state: &mut State,
        who: (u64, u64),
        cost: usize,
        is_own: bool,
        now: Instant,
    ) -> Pass {
        if is_own {
            *state.own.entry(who.1).or_default() += cost;
            *state.own_of_certificate.entry(who.0).or_default() += cost;
        } else {
            state.inside += cost;
        }
        Pass { gate: Arc::clone(self), who, cost, is_own, since: now }
    }

    /// Lets in whoever may enter now.
    fn let_in(self: &Arc<Self>) {
        let mut unwanted = Vec::new();
        let now = Instant::now();
        let mut state = self.lock();
        while let Some(waiter) = state.take_next(&self.room, now) {
            let pass = self.enter(&mut state, waiter.who, waiter.cost, false, now);
            // Who waited may have gone. Its pass is given back below, since that takes the lock.
            unwanted.extend(waiter.enter.send(pass).err());
        }
        self.wake_later(&mut state, now);
        drop(state);
        drop(unwanted);
    }

    /// Somebody waits for nothing but the end of a rest.
    fn wake_later(self: &Arc<Self>, state: &mut State, now: Instant) {
        let Some(until) = state.rest_until.filter(|until| *until > now) else { return };
        if state.waiting.of.is_empty() || std::mem::replace(&mut state.is_waking, true) {
            return;
        }
        let gate = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            gate.lock().is_waking = false;
            gate.let_in();
        });
    }
}

impl State {
    /// Whether there is company shows in who asks.
    fn note(&mut self, connection: u64, now: Instant) {
        match self.last {
            Some((last, at)) if last != connection && now.duration_since(at) < COMPANY => {
                self.company_at = Some(now);
            }
            _ => {}
        }
        self.last = Some((connection, now));
    }

    fn has_company(&self, now: Instant) -> bool {
        let mut waiting = self.waiting.of.values();
        let several = match (waiting.next(), waiting.next()) {
            (Some((_, of_first)), None) => of_first.of.len() > 1,
            (first, _) => first.is_some(),
        };
        several || self.company_at.is_some_and(|at| now.saturating_duration_since(at) < COMPANY)
    }

    fn fits_own(&self, (certificate, connection): (u64, u64), cost: usize, room: &Room) -> bool {
        let used = |of: &HashMap<u64, usize>, number| of.get(&number).copied().unwrap_or_default();
        used(&self.own, connection) + cost <= room.connection
            && used(&self.own_of_certificate, certificate) + cost <= room.certificate
    }

    fn may_enter(&self, cost: usize, room: &Room, now: Instant) -> bool {
        let most = if self.has_company(now) { room.in_company } else { room.alone };
        let rests = self.rest_until.is_some_and(|until| until > now);
        !rests && (self.inside == 0 || self.inside + cost <= most)
    }

    fn take_next(&mut self, room: &Room, now: Instant) -> Option<Waiter> {
        let certificate = self.waiting.next()?;
        let connections = self.waiting.of(certificate);
        let connection = connections.next()?;
        let cost = connections.of(connection).front()?.cost;
        if !self.may_enter(cost, room, now) {
            return None;
        }
        let connections = self.waiting.of(certificate);
        let waiter = connections.of(connection).pop_front();
        connections.served(connection, cost, VecDeque::is_empty);
        self.waiting.served(certificate, cost, |connections| connections.of.is_empty());
        waiter
    }

    fn leave(&mut self, pass: &Pass, now: Instant) {
        if pass.is_own {
            let give_back = |of: &mut HashMap<u64, usize>, number: u64| {
                let Some(used) = of.get_mut(&number) else { return };
                *used -= pass.cost;
                if *used == 0 {
                    of.remove(&number);
                }
            };
            give_back(&mut self.own, pass.who.1);
            give_back(&mut self.own_of_certificate, pass.who.0);
            return;
        }
        self.inside -= pass.cost;
        if self.has_company(now) {
            let took = now.saturating_duration_since(pass.since);
            self.rest_until = Some(now + (took * REST).min(REST_MAX));
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.leave(self, Instant::now());
        let is_awaited = !self.is_own && !state.waiting.of.is_empty();
        drop(state);
        if is_awaited {
            self.gate.let_in();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { connection: 10, certificate: 25, alone: 300, in_company: 100 };
    const HEAVY: (u64, u64) = (1, 1);

    fn gate() -> Arc<Gate> {
        Gate::new(ROOM)
    }

    fn ask(
        gate: &Arc<Gate>,
        who: (u64, u64),
        cost: usize,
    ) -> Result<Pass, oneshot::Receiver<Pass>> {
        gate.ask(who, cost, Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn small_requests_pass_by_large_ones_within_their_own_room() {
        let gate = gate();
        let inside: Vec<_> = (0..3).map(|_| ask(&gate, HEAVY, 100).unwrap()).collect();
        let turn = ask(&gate, HEAVY, 100).unwrap_err();
        let small: Vec<_> =
            (2..4).map(|connection| ask(&gate, (1, connection), 10).unwrap()).collect();
        assert!(ask(&gate, (1, 2), 1).is_err(), "the connection has its own");
        assert!(ask(&gate, (1, 4), 6).is_err(), "and the certificate");
        assert!(ask(&gate, (2, 9), 10).is_ok());
        assert!(ask(&gate, HEAVY, 1).is_err(), "a connection's requests keep their order");
        drop((small, inside, turn));
    }

    #[tokio::test(start_paused = true)]
    async fn turns_go_by_certificate_and_then_by_connection() {
        let gate = gate();
        let inside = ask(&gate, HEAVY, 300).unwrap();
        let mut order = Vec::new();
        // One certificate with two connections, of which one asks for much; and another certificate.
        for who in [(1, 1), (1, 1), (1, 1), (1, 2), (3, 3), (3, 3)] {
            order.push((who, ask(&gate, who, 100).unwrap_err()));
        }
        drop(inside);
        let mut served = Vec::new();
        while !order.is_empty() {
            tokio::time::sleep(REST_MAX).await;
            let mut passed = Vec::new();
            order.retain_mut(|(who, turn)| match turn.try_recv() {
                Ok(pass) => {
                    passed.push(pass);
                    served.push(*who);
                    false
                }
                Err(_) => true,
            });
            let is_alone = served.len() > 3;
            assert!(passed.len() <= 1 || is_alone, "in company there is room for one");
        }
        assert_eq!(served[..3], [(1, 1), (3, 3), (1, 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn in_company_large_requests_rest_and_alone_never() {
        let gate = gate();
        let pass = ask(&gate, HEAVY, 300).unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        drop(pass);
        let pass = ask(&gate, HEAVY, 300).expect("alone there is no rest");
        drop(ask(&gate, (2, 2), 1).unwrap());
        tokio::time::sleep(Duration::from_millis(30)).await;
        drop(pass);
        let turn = ask(&gate, HEAVY, 100).unwrap_err();
        let started = Instant::now();
        drop(turn.await.unwrap());
        assert_eq!(started.elapsed().as_millis(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_gone_keeps_no_room() {
        let gate = gate();
        let inside = ask(&gate, HEAVY, 300).unwrap();
        drop(ask(&gate, HEAVY, 300).unwrap_err());
        let turn = ask(&gate, HEAVY, 300).unwrap_err();
        drop(inside);
        drop(turn.await.unwrap());
        let state = gate.lock();
        assert_eq!((state.inside, state.waiting.of.len(), state.own.len()), (0, 0, 0));
    }
}
