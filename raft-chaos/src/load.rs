//! The clients of one round: reads and writes of a few keys at a steady rate, and the history of what they asked and were
//! told. Every value is written once. What the history proves is for `judge` to say.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_kv::client::{Client, ClientError, ExpectKey};
use raft_kv::{Record, WriteOutcome};
use raft_sim::Rng;
use raft_sim::history::{Answer, Ask, Expected, Request, Seen};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// How many keys a round has.
pub(crate) const KEYS: u8 = 8;
/// No more requests of one client than these are under way; more begin when some have ended. The search for an order
/// tries all that are open, so a bound keeps it short.
const IN_FLIGHT_MAX: usize = 64;

/// What a round's clients did so far.
#[derive(Debug)]
pub(crate) struct Book {
    /// The revision before the round: those of the history count from there.
    pub(crate) base: u64,
    begun: Instant,
    state: Mutex<State>,
    value: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    requests: Vec<Request>,
    /// Of each key: the last value and revision that a client was told of.
    told: [Option<(u64, u64)>; KEYS as usize],
    /// When writes were acknowledged, in microseconds since the beginning.
    acknowledged: Vec<u64>,
    failures: Vec<String>,
}

impl Book {
    pub(crate) fn new(base: u64) -> Arc<Book> {
        let (state, value) = (Mutex::default(), AtomicU64::new(1));
        Arc::new(Book { base, begun: Instant::now(), state, value })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds since the round began.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(crate) fn history(&self) -> Vec<Request> {
        self.lock().requests.clone()
    }

    /// When writes were acknowledged, in microseconds, rising.
    pub(crate) fn acknowledged(&self) -> Vec<u64> {
        let mut all = self.lock().acknowledged.clone();
        all.sort_unstable();
        all
    }

    /// Errors that no client should ever see, each kind once.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.lock().failures.clone()
    }

    fn relative(&self, revision: u64) -> u64 {
        // A revision from before the round is one that the judge cannot explain, which is right.
        revision.checked_sub(self.base).unwrap_or(u64::MAX)
    }

    fn seen(&self, record: &Record) -> Seen {
        let value = record.value.get(..8).and_then(|head| head.try_into().ok());
        Seen {
            value: value.map_or(0, u64::from_le_bytes),
            create_revision: self.relative(record.create_revision),
            mod_revision: self.relative(record.mod_revision),
            version: record.version,
        }
    }

    fn outcome(&self, outcome: WriteOutcome) -> WriteOutcome {
        match outcome {
            WriteOutcome::Put { revision } => {
                WriteOutcome::Put { revision: self.relative(revision) }
            }
            WriteOutcome::Deleted { revision } => {
                WriteOutcome::Deleted { revision: self.relative(revision) }
            }
            WriteOutcome::CompareFailed { mod_revision } => WriteOutcome::CompareFailed {
                mod_revision: mod_revision.map(|revision| self.relative(revision)),
            },
            WriteOutcome::NotFound => WriteOutcome::NotFound,
        }
    }

    fn begin(&self, ask: Ask) -> usize {
        let mut state = self.lock();
        let call = self.now();
        state.requests.push(Request { ask, call, result: None, is_refused: false, guess: None });
        state.requests.len() - 1
    }

    fn end(&self, at: usize, result: Result<Answer, ClientError>) {
        let now = self.now();
        let mut state = self.lock();
        let ask = state.requests[at].ask;
        match result {
            Ok(answer) => {
                note_told(&mut state.told, &ask, &answer);
                if matches!(answer, Answer::Written(_)) {
                    state.acknowledged.push(now);
                }
                state.requests[at].result = Some((now, answer));
            }
            Err(ClientError::Timeout { maybe_applied: true, .. } | ClientError::OutcomeUnknown) => {
            }
            Err(error) => {
                let is_expected = matches!(error, ClientError::Timeout { .. });
                // What was never sent, or refused, changed nothing; a read never does.
                state.requests[at].is_refused = is_expected
                    || ask_is_read(&ask)
                    || matches!(error, ClientError::Refused { .. } | ClientError::Limit(_));
                let text = error.to_string();
                if !is_expected && state.failures.len() < 20 && !state.failures.contains(&text) {
                    state.failures.push(text);
                }
            }
        }
    }
}

fn ask_is_read(ask: &Ask) -> bool {
    matches!(ask, Ask::Get { .. } | Ask::Range { .. })
}

fn note_told(told: &mut [Option<(u64, u64)>; KEYS as usize], ask: &Ask, answer: &Answer) {
    match (*ask, answer) {
        (_, Answer::Read(found)) => {
            for (key, seen) in found {
                told[usize::from(*key)] = Some((seen.value, seen.mod_revision));
            }
        }
        (
            Ask::Put { key, value } | Ask::Cas { key, value: Some(value), .. },
            Answer::Written(WriteOutcome::Put { revision }),
        ) => told[usize::from(key)] = Some((value, *revision)),
        _ => {}
    }
}

/// The clients of a round.
#[derive(Debug)]
pub(crate) struct Load {
    tasks: JoinSet<()>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Load {
    /// Starts `rate` requests a second, spread over `clients`. `prefix` is the round's own, so that its keys begin absent.
    pub(crate) fn start(
        clients: &[Client],
        book: &Arc<Book>,
        prefix: &str,
        rate: u64,
        seed: u64,
    ) -> Load {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut tasks = JoinSet::new();
        for (number, client) in (0_u64..).zip(clients) {
            let per_client = (rate / clients.len() as u64).max(1);
            let worker = Worker {
                client: client.clone(),
                book: Arc::clone(book),
                prefix: prefix.to_owned(),
                rng: Rng::new(seed ^ (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            };
            let interval = Duration::from_micros(1_000_000 / per_client);
            tasks.spawn(worker.run(interval, stopped.clone()));
        }
        Load { tasks, stop }
    }

    /// Asks nothing more, and waits for the answers that are under way.
    pub(crate) async fn stop(mut self) {
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Worker {
    client: Client,
    book: Arc<Book>,
    prefix: String,
    rng: Rng,
}

impl Worker {
    async fn run(mut self, interval: Duration, mut stopped: tokio::sync::watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut asked = JoinSet::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopped.wait_for(|stop| *stop) => break,
            }
            while asked.try_join_next().is_some() {}
            if asked.len() < IN_FLIGHT_MAX {
                let ask = self.draw();
                let (client, book) = (self.client.clone(), Arc::clone(&self.book));
                let prefix = self.prefix.clone();
                asked.spawn(async move {
                    let at = book.begin(ask);
                    let result = carry_out(&client, &book, &prefix, ask).await;
                    book.end(at, result);
                });
            }
        }
        while asked.join_next().await.is_some() {}
    }

    fn draw(&mut self) -> Ask {
        let key = u8::try_from(self.rng.below(u64::from(KEYS))).unwrap_or(0);
        let value = self.book.value.fetch_add(1, Relaxed);
        match self.rng.below(100) {
            0..40 => Ask::Put { key, value },
            40..70 => Ask::Get { key },
            70..85 => {
                let told = self.book.lock().told[usize::from(key)];
                let expect = match (told, self.rng.below(2)) {
                    (None, _) => Expected::Absent,
                    (Some((value, _)), 0) => Expected::Value(value),
                    (Some((_, revision)), _) => Expected::Revision(revision),
                };
                Ask::Cas { key, expect, value: Some(value) }
            }
            85..93 => Ask::Delete { key },
            _ => Ask::Range { from: 0, to: KEYS },
        }
    }
}

async fn carry_out(
    client: &Client,
    book: &Book,
    prefix: &str,
    ask: Ask,
) -> Result<Answer, ClientError> {
    let name = |key: u8| Bytes::from(format!("{prefix}{key}"));
    let bytes = |value: u64| Bytes::copy_from_slice(&value.to_le_bytes());
    Ok(match ask {
        Ask::Open => Answer::Opened,
        Ask::Put { key, value } => {
            let revision = client.put(name(key), bytes(value)).await?;
            Answer::Written(book.outcome(WriteOutcome::Put { revision }))
        }
        Ask::Delete { key } => Answer::Written(match client.delete(name(key)).await? {
            Some(revision) => book.outcome(WriteOutcome::Deleted { revision }),
            None => WriteOutcome::NotFound,
        }),
        Ask::Cas { key, expect, value } => {
            let expect = match expect {
                Expected::Absent => ExpectKey::Absent,
                Expected::Value(value) => ExpectKey::Value(bytes(value)),
                Expected::Revision(revision) => ExpectKey::ModRevision(book.base + revision),
            };
            let outcome = client.compare_and_set(name(key), expect, value.map(bytes)).await?;
            Answer::Written(book.outcome(outcome))
        }
        Ask::Get { key } => {
            let record = client.get(name(key)).await?;
            Answer::Read(record.map(|record| (key, book.seen(&record))).into_iter().collect())
        }
        Ask::Range { from, to } => {
            let end = Some(name(to));
            let page = client.range(name(from), end, 100, false).await?;
            let found = page.records.iter().map(|found| {
                let digit = found.key.last().map_or(0, |byte| byte.wrapping_sub(b'0'));
                (digit, book.seen(&found.record))
            });
            Answer::Read(found.collect())
        }
    })
}
