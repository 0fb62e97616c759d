//! Who has how many connections and streams open, by certificate: who gets a place, and whose place goes when there is none.
//!
//! A certificate that is new here always gets a place, and a new connection of a certificate takes the place of one that does nothing: so a
//! client that fills all places, by intent or by mistake, keeps neither others out nor its own operator. Peers are not counted here; they
//! are known by name, and each has one connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quinn::{Connection, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::budget::{Budget, Pool, Purse};
use crate::config::Limits;
use crate::error::CloseCode;

/// A connection that has sent no request for so long may lose its place to a new one of the same certificate.
const IDLE: Duration = Duration::from_secs(5);
/// So may one that has sent none at all, after this time: an honest client asks at once.
const SILENT: Duration = Duration::from_millis(200);

/// What a client's connection may have under way, at most and at least; and what all connections share.
const RECEIVE_WINDOW: (usize, usize) = (8 << 20, 64 << 10);
const RECEIVE_WINDOWS: usize = 64 << 20;
/// The same of what is on its way to a client, unacknowledged.
const SEND_WINDOW: (usize, usize) = (2 << 20, 64 << 10);
const SEND_WINDOWS: usize = 32 << 20;

/// Whose a stream is: which certificate, which connection, and the budgets of both. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Owner {
    certificate: u64,
    connection: u64,
    received: Arc<Budget>,
    unsent: Arc<Budget>,
    activity: Arc<Activity>,
}

impl Owner {
    /// A number for the certificate: the same for all of its connections that are open at a time.
    pub fn certificate(&self) -> u64 {
        self.certificate
    }

    /// A number for the connection.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// For what has been received and is being worked on.
    pub fn received(&self) -> &Arc<Budget> {
        &self.received
    }

    /// For what has yet to be sent.
    pub fn unsent(&self) -> &Arc<Budget> {
        &self.unsent
    }

    /// Of the side that dials, which trusts the other.
    pub(crate) fn unlimited() -> Owner {
        Owner {
            certificate: 0,
            connection: 0,
            received: Budget::unlimited(),
            unsent: Budget::unlimited(),
            activity: Arc::new(Activity::new()),
        }
    }

    /// A request came.
    pub(crate) fn note_request(&self) {
        self.activity.note();
    }
}

/// When the last request came, in milliseconds since the connection was made; 0 for none.
#[derive(Debug)]
struct Activity {
    since: Instant,
    last: AtomicU64,
}

impl Activity {
    fn new() -> Activity {
        Activity { since: Instant::now(), last: AtomicU64::new(0) }
    }

    fn note(&self) {
        let millis = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis.max(1), Ordering::Relaxed);
    }

    /// For how long nothing came, and whether anything ever did.
    fn idle(&self) -> (Duration, bool) {
        let last = self.last.load(Ordering::Relaxed);
        (self.since.elapsed().saturating_sub(Duration::from_millis(last)), last > 0)
    }

    fn may_go(&self) -> bool {
        match self.idle() {
            (idle, true) => idle >= IDLE,
            (idle, false) => idle >= SILENT,
        }
    }
}

/// What clients have open, and how much they make this endpoint hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Connections of clients.
    pub connections: usize,
    /// Certificates that they were opened with.
    pub certificates: usize,
    /// Of requests, beyond what each connection has for itself.
    pub received_bytes: usize,
    /// Of answers, beyond what each connection has for itself.
    pub unsent_bytes: usize,
}

/// All certificates that have connections open.
#[derive(Debug)]
pub(crate) struct Accounts {
    connections_max: usize,
    per_certificate_max: usize,
    streams_per_certificate_max: usize,
    received: Arc<Pool>,
    unsent: Arc<Pool>,
    streams: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: usize,
    accounts: HashMap<Box<[u8]>, Account>,
}

#[derive(Debug)]
struct Account {
    number: u64,
    received: Arc<Purse>,
    unsent: Arc<Purse>,
    streams: Arc<Semaphore>,
    connections: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    closer: Closer,
    activity: Arc<Activity>,
}

/// How a connection that loses its place is told.
#[derive(Debug)]
pub(crate) enum Closer {
    Connection(Connection),
    #[cfg(test)]
    Test(Arc<AtomicUsize>),
}

impl Closer {
    fn close(&self) {
        match self {
            Closer::Connection(connection) => connection.close(
                CloseCode::Busy.code(),
                b"another connection of this certificate needs the place, and this one did nothing",
            ),
            #[cfg(test)]
            Closer::Test(closed) => {
                closed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// The certificate has as many as it may have, and all are in use.
    Certificate { open: usize },
    /// All are taken, and no certificate has more than this one.
    All { open: usize },
}

impl std::fmt::Display for NoPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoPlace::Certificate { open } => {
                write!(
                    f,
                    "its certificate has {open} connections open already: close some, or issue another"
                )
            }
            NoPlace::All { open } => {
                write!(
                    f,
                    "{open} connections are open, and no certificate has more than its share: try again later"
                )
            }
        }
    }
}

/// A connection's place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    accounts: Arc<Accounts>,
    certificate: Box<[u8]>,
    streams: Arc<Semaphore>,
    open_streams: Arc<AtomicUsize>,
    pub(crate) owner: Owner,
}

/// A stream's place; free again when dropped.
#[derive(Debug)]
pub(crate) struct StreamPlace {
    _counted: Counted,
    /// The certificate's, and one of all; the connection's first stream needs neither.
    _permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

/// One of a connection's open streams.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Accounts {
    pub(crate) fn new(limits: &Limits) -> Arc<Accounts> {
        let permits = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Arc::new(Accounts {
            connections_max: limits.connections_max.max(1),
            per_certificate_max: limits.connections_per_certificate_max.max(1),
            streams_per_certificate_max: limits.streams_per_certificate_max,
            received: Pool::new(limits.received),
            unsent: Pool::new(limits.unsent),
            streams: permits(limits.streams_max),
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn load(&self) -> Load {
        let state = self.lock();
        Load {
            connections: state.open,
            certificates: state.accounts.len(),
            received_bytes: self.received.shared(),
            unsent_bytes: self.unsent.shared(),
        }
    }

    /// A place for a connection that was made with this certificate, and sets how much it may have under way.
    pub(crate) fn enter(
        self: &Arc<Self>,
        certificate: &[u8],
        connection: &Connection,
    ) -> Result<Place, NoPlace> {
        let place = self.place(certificate, Closer::Connection(connection.clone()))?;
        let (mine, all) = self.counts(certificate);
        let share = |(most, least): (usize, usize), shared: usize| {
            (most / mine.max(1)).min(shared / all.max(1)).max(least)
        };
        let receive = share(RECEIVE_WINDOW, RECEIVE_WINDOWS);
        connection.set_receive_window(VarInt::from_u32(receive as u32));
        connection.set_send_window(share(SEND_WINDOW, SEND_WINDOWS) as u64);
        Ok(place)
    }

    fn counts(&self, certificate: &[u8]) -> (usize, usize) {
        let state = self.lock();
        let mine = state.accounts.get(certificate).map_or(0, |account| account.connections.len());
        (mine, state.open)
    }

    pub(crate) fn place(
        self: &Arc<Self>,
        certificate: &[u8],
        closer: Closer,
    ) -> Result<Place, NoPlace> {
        let mut state = self.lock();
        let mine = state.accounts.get(certificate).map_or(0, |account| account.connections.len());
        if mine >= self.per_certificate_max && !state.free_one(certificate, Account::idlest) {
            return Err(NoPlace::Certificate { open: mine });
        }
        if state.open >= self.connections_max && !state.make_room(certificate, mine) {
            return Err(NoPlace::All { open: state.open });
        }
        state.next += 1;
        let number = state.next;
        let account = state.accounts.entry(certificate.into()).or_insert_with(|| Account {
            number,
            received: Purse::new(&self.received),
            unsent: Purse::new(&self.unsent),
            streams: Arc::new(Semaphore::new(
                self.streams_per_certificate_max.min(Semaphore::MAX_PERMITS),
            )),
            connections: HashMap::new(),
        });
        let activity = Arc::new(Activity::new());
        let owner = Owner {
            certificate: account.number,
            connection: number,
            received: Budget::new(&account.received),
            unsent: Budget::new(&account.unsent),
            activity: Arc::clone(&activity),
        };
        account.connections.insert(number, Entry { closer, activity });
        let streams = Arc::clone(&account.streams);
        state.open += 1;
        Ok(Place {
            accounts: Arc::clone(self),
            certificate: certificate.into(),
            streams,
            open_streams: Arc::default(),
            owner,
        })
    }
}

impl State {
    /// Frees a place of a certificate that has more than this one would have.
    fn make_room(&mut self, certificate: &[u8], mine: usize) -> bool {
        let most = self.accounts.iter().max_by_key(|(_, account)| account.connections.len());
        match most.map(|(victim, account)| (victim.clone(), account.connections.len())) {
            Some((victim, _)) if *victim == *certificate => {
                self.free_one(certificate, Account::idlest)
            }
            Some((victim, has)) if has > mine + 1 => self.free_one(&victim, Account::longest),
            _ => false,
        }
    }

    /// Closes one of a certificate's connections. Its place counts as free from now on.
    fn free_one(&mut self, certificate: &[u8], choose: impl Fn(&Account) -> Option<u64>) -> bool {
        let Some(account) = self.accounts.get_mut(certificate) else { return false };
        let Some(chosen) = choose(account) else { return false };
        if let Some(entry) = account.connections.remove(&chosen) {
            entry.closer.close();
            self.open -= 1;
        }
        true
    }
}

impl Account {
    /// Which connection has done nothing for longest.
    fn longest(&self) -> Option<u64> {
        let idle = |entry: &Entry| {
            let (idle, is_used) = entry.activity.idle();
            (!is_used, idle)
        };
        self.connections.iter().max_by_key(|(_, entry)| idle(entry)).map(|(number, _)| *number)
    }

    /// The same, if it may go.
    fn idlest(&self) -> Option<u64> {
        self.longest().filter(|number| self.connections[number].activity.may_go())
    }
}

impl Place {
    /// A place for one more stream. The connection's first is there at once; further ones are the certificate's and may have to wait.
    pub(crate) async fn stream(&self) -> StreamPlace {
        let is_first = self.open_streams.fetch_add(1, Ordering::Relaxed) == 0;
        let counted = Counted(Arc::clone(&self.open_streams));
        if is_first {
            return StreamPlace { _counted: counted, _permits: None };
        }
        let of_certificate = Arc::clone(&self.streams).acquire_owned().await;
        let of_all = Arc::clone(&self.accounts.streams).acquire_owned().await;
        // Neither is ever closed.
        StreamPlace { _counted: counted, _permits: of_certificate.ok().zip(of_all.ok()) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.accounts.lock();
        let State { accounts, open, .. } = &mut *state;
        let Some(account) = accounts.get_mut(&self.certificate) else { return };
        // It may have lost its place already.
        if account.connections.remove(&self.owner.connection).is_some() {
            *open -= 1;
        }
        if account.connections.is_empty() {
            accounts.remove(&self.certificate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(connections_max: usize, connections_per_certificate_max: usize) -> Arc<Accounts> {
        let limits =
            Limits { connections_max, connections_per_certificate_max, ..Limits::default() };
        Accounts::new(&limits)
    }

    /// Connections of one certificate, and how many of them were closed to make room.
    struct Client(Arc<Accounts>, &'static [u8], Arc<AtomicUsize>);

    impl Client {
        fn of(accounts: &Arc<Accounts>, certificate: &'static [u8]) -> Client {
            Client(Arc::clone(accounts), certificate, Arc::default())
        }

        fn enter(&self) -> Result<Place, NoPlace> {
            self.0.place(self.1, Closer::Test(Arc::clone(&self.2)))
        }

        fn closed(&self) -> usize {
            self.2.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_new_certificate_takes_a_place_of_the_one_that_has_most() {
        let accounts = accounts(4, 4);
        let (greedy, other) = (Client::of(&accounts, b"greedy"), Client::of(&accounts, b"other"));
        let held: Vec<_> = (0..4).map(|_| greedy.enter().unwrap()).collect();
        let first = other.enter().unwrap();
        let second = other.enter().unwrap();
        assert_eq!((greedy.closed(), accounts.load().connections), (2, 4));
        assert_eq!(other.enter().unwrap_err(), NoPlace::All { open: 4 }, "both have their share");
        drop((held, first, second));
        assert_eq!(accounts.load().connections, 0);
    }

    #[test]
    fn a_certificate_gives_up_what_it_does_not_use_and_nothing_else() {
        let accounts = accounts(100, 2);
        let client = Client::of(&accounts, b"client");
        let (one, _two) = (client.enter().unwrap(), client.enter().unwrap());
        one.owner.note_request();
        assert_eq!(client.enter().unwrap_err(), NoPlace::Certificate { open: 2 });
        {
            let mut state = accounts.lock();
            let account = state.accounts.get_mut(&b"client"[..]).unwrap();
            for entry in account.connections.values_mut() {
                let last = entry.activity.last.load(Ordering::Relaxed);
                let since = Instant::now().checked_sub(SILENT).unwrap();
                entry.activity = Arc::new(Activity { since, last: AtomicU64::new(last) });
            }
        }
        let _three = client.enter().unwrap();
        assert_eq!(client.closed(), 1);
        let state = accounts.lock();
        let account = &state.accounts[&b"client"[..]];
        assert!(account.connections.contains_key(&one.owner.connection), "it had asked something");
    }

    #[tokio::test]
    async fn each_connection_has_its_first_stream_and_a_certificate_so_many() {
        let limits = Limits { streams_per_certificate_max: 1, streams_max: 8, ..Limits::default() };
        let accounts = Accounts::new(&limits);
        let client = Client::of(&accounts, b"client");
        let (one, two) = (client.enter().unwrap(), client.enter().unwrap());
        let _first = one.stream().await;
        let shared = one.stream().await;
        let third = tokio::spawn(async move { one.stream().await });
        let _other = two.stream().await;
        assert!(!third.is_finished());
        drop(shared);
        third.await.unwrap();
    }
}
