//! The client's one task: takes what is asked, puts it into frames, matches the replies, and repeats what was lost. How a connection works
//! is `link`'s affair, and how the leader is found `search`'s; whom to ask is decided in `route`.

mod route;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::NodeId;
use raft_net_quic::ClientEndpoint;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::call::{Answered, Call};
use super::error::ClientError;
use super::link::{Event, Link};
use super::pending::{Pending, Table, What};
use super::search::{Jitter, Search, random_seed};
use super::session::Session;
use super::{Known, Page, deadline_in};
use crate::command::{Command, Response, SessionId};
use crate::protocol::{COMMAND, Fault, FrameBuilder, Reply, ReplyBody, ServeAt};

/// How often deadlines are looked at.
const SWEEP: Duration = Duration::from_millis(20);
/// A leader that answers nothing for so long is doubted: the others are asked.
const STALL: Duration = Duration::from_millis(400);
/// After so long a search, or a quarter of the time that requests have, whoever knows a leader is asked to pass requests on to it.
const RELAY_AFTER: Duration = Duration::from_secs(1);
/// The first and the longest pause after a node was busy.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));
/// About how large a frame gets.
const FRAME_BYTES: usize = 256 << 10;
/// The most requests in a frame.
const FRAME_REQUESTS: u32 = 4096;
/// A frame is sent when it holds at least this share (one in so many) of the requests that are under way: with few of them at once,
/// with many once enough have gathered, since everything on the way is paid for by the frame, not by the request.
const FRAMES_GATHERED: usize = 4;
/// How many events may wait.
const EVENTS_MAX: usize = 64;
/// After so many redirections in a row, hearsay is not followed any more.
const HOPS_MAX: u32 = 3;

/// Where replies say that requests should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Redirect {
    Stay,
    /// Not here, but it is not known where.
    Away,
    To(NodeId),
}

pub(super) struct Worker {
    asked: mpsc::Receiver<Call>,
    closing: watch::Receiver<bool>,
    endpoint: Arc<ClientEndpoint>,
    known: Arc<Known>,
    request_timeout: Duration,
    in_flight_max: usize,
    pending: Table,
    /// To be sent, in this order.
    ready: VecDeque<u64>,
    /// Writes that wait for the session to open, or for room in its window.
    held: Vec<u64>,
    session: Session,
    link: Option<Link>,
    search: Option<Search>,
    next_number: u64,
    events: mpsc::Sender<Event>,
    happened: mpsc::Receiver<Event>,
    on_wire: usize,
    /// What is ready has waited long enough for company.
    has_waited: bool,
    /// When a reply came last, or when something was sent after nothing had been.
    progress_at: Instant,
    paused_until: Option<Instant>,
    next_pause: Duration,
    hops: u32,
    jitter: Jitter,
    last_seen: String,
    /// Whoever does not accept our credentials, or has none that we accept, and why. A node that answers is not among them.
    refusals: BTreeMap<NodeId, String>,
}

impl Worker {
    pub(super) fn new(
        asked: mpsc::Receiver<Call>,
        closing: watch::Receiver<bool>,
        endpoint: Arc<ClientEndpoint>,
        known: Arc<Known>,
        request_timeout: Duration,
        in_flight_max: usize,
    ) -> Result<Worker, ClientError> {
        // Fails here rather than at the first write.
        new_session()?;
        let (events, happened) = mpsc::channel(EVENTS_MAX);
        Ok(Worker {
            asked,
            closing,
            endpoint,
            known,
            request_timeout,
            in_flight_max,
            pending: Table::default(),
            ready: VecDeque::new(),
            held: Vec::new(),
            session: Session::default(),
            link: None,
            search: None,
            next_number: 1,
            events,
            happened,
            on_wire: 0,
            has_waited: false,
            progress_at: Instant::now(),
            paused_until: None,
            next_pause: PAUSE.0,
            hops: 0,
            jitter: Jitter(random_seed()),
            last_seen: "nothing yet".into(),
            refusals: BTreeMap::new(),
        })
    }

    /// Works until every [`Client`](super::Client) is dropped, or one is closed.
    pub(super) async fn run(mut self) {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut calls = Vec::new();
        loop {
            let room = self.in_flight_max.saturating_sub(self.pending.len());
            let frames = self.can_send();
            let can_send = frames.is_some();
            tokio::select! {
                biased;
                Ok(()) = closed(&mut self.closing) => return self.close(),
                _ = sweep.tick(), if !self.pending.is_empty() => self.sweep(),
                Some(event) = self.happened.recv() => self.on_event(event),
                count = self.asked.recv_many(&mut calls, room), if room > 0 => {
                    if count == 0 {
                        return;
                    }
                    for call in calls.drain(..) {
                        self.accept(call);
                    }
                }
                // Last, so that a frame takes everything that is here.
                Some(permit) = reserve(frames), if can_send => {
                    let frame = self.next_frame();
                    if let Some(frame) = frame {
                        permit.send(frame);
                    }
                }
            }
        }
    }

    /// Fails everything that is under way, and whatever comes later.
    fn close(mut self) {
        self.asked.close();
        while let Ok(Call { reply, .. }) = self.asked.try_recv() {
            // The caller may have given up.
            let _ = reply.send(Err(ClientError::Closed));
        }
        for id in self.pending.pick(|_| true) {
            self.finish(id, Err(ClientError::Closed));
        }
    }

    fn accept(&mut self, Call { op, reply, deadline, timeout }: Call) {
        if reply.is_closed() {
            return;
        }
        let id = self.pending.insert(What::Call { op, reply }, deadline, timeout);
        self.ready.push_back(id);
        self.ensure_link();
    }

    fn can_send(&self) -> Option<mpsc::Sender<Bytes>> {
        let link = self.link.as_ref().filter(|link| link.is_up)?;
        let is_enough = self.ready.len() * FRAMES_GATHERED >= self.on_wire || self.has_waited;
        let can = !self.ready.is_empty() && is_enough && self.paused_until.is_none();
        can.then(|| link.frames.clone())
    }

    /// A frame of what is ready; `None` if all of it has to wait for the session.
    fn next_frame(&mut self) -> Option<Bytes> {
        let mut frame = FrameBuilder::new();
        let at = self.link.as_ref().map(|link| link.at).unwrap_or_default();
        self.has_waited = false;
        while frame.len_bytes() < FRAME_BYTES && frame.count() < FRAME_REQUESTS {
            let Some(id) = self.ready.pop_front() else { break };
            // It may have been given up meanwhile.
            let Some(pending) = self.pending.get_mut(id) else { continue };
            if !put_request(&mut frame, (id, at), pending, &mut self.session) {
                self.held.push(id);
                continue;
            }
            pending.on_wire = true;
            if self.on_wire == 0 {
                self.progress_at = Instant::now();
            }
            self.on_wire += 1;
        }
        self.ensure_session();
        (!frame.is_empty()).then(|| frame.take())
    }

    /// Asks for a session if there are writes that need one.
    fn ensure_session(&mut self) {
        if self.held.is_empty() || !self.session.is_closed() {
            return;
        }
        match new_session() {
            Ok(session) => {
                self.session.opening(session);
                let timeout = self.request_timeout;
                let what = What::OpenSession(session);
                let id = self.pending.insert(what, deadline_in(timeout), timeout);
                self.ready.push_front(id);
            }
            // The writes' time will be up.
            Err(error) => self.last_seen = error.to_string(),
        }
    }

    /// Writes that were held are tried again.
    fn release(&mut self) {
        if !self.held.is_empty() && self.session.has_room() {
            self.ready.extend(self.held.drain(..));
        }
    }

    fn on_event(&mut self, event: Event) {
        let present = self.link.as_ref().map(|link| link.number);
        match event {
            Event::Connected { link } if present == Some(link) => {
                self.settle_search();
                if let Some(link) = &mut self.link {
                    link.is_up = true;
                    self.refusals.remove(&link.node);
                    if link.at == ServeAt::Leader {
                        self.known.set_leader(Some(link.node));
                    }
                }
            }
            Event::Replies { link, replies } if present == Some(link) => self.on_replies(replies),
            Event::Lost { link, trouble } if present == Some(link) => self.on_lost(trouble),
            Event::Reported(reported) => self.on_reported(reported),
            // Of a connection that was given up.
            Event::Connected { .. } | Event::Replies { .. } | Event::Lost { .. } => {}
        }
    }

    fn on_replies(&mut self, replies: Vec<Reply>) {
        self.progress_at = Instant::now();
        self.settle_search();
        let mut redirect = Redirect::Stay;
        for Reply { id, body } in replies {
            let Some(pending) = self.pending.get_mut(id).filter(|pending| pending.on_wire) else {
                continue;
            };
            pending.on_wire = false;
            self.on_wire -= 1;
            match body {
                ReplyBody::Failed(fault) => self.on_fault(id, &fault, &mut redirect),
                ReplyBody::Response(response) => self.on_response(id, response),
                answer => self.on_answer(id, answer),
            }
        }
        self.release();
        match redirect {
            Redirect::Stay => {}
            Redirect::Away => self.on_redirect(None),
            Redirect::To(leader) => self.on_redirect(Some(leader)),
        }
    }

    fn on_answer(&mut self, id: u64, answer: ReplyBody) {
        let answered = match answer {
            ReplyBody::Value(record) => Answered::Value(record),
            ReplyBody::Page { records, has_more } => Answered::Page(Page { records, has_more }),
            ReplyBody::Stats(stats) => Answered::Stats(stats),
            _ => return self.finish(id, Err(ClientError::WrongAnswer)),
        };
        self.succeeded();
        self.finish(id, Ok(answered));
    }

    fn on_response(&mut self, id: u64, response: Response) {
        let Some(pending) = self.pending.get_mut(id) else { return };
        match (response, pending.number) {
            (Response::Written(outcome), Some(_)) => {
                self.succeeded();
                self.finish(id, Ok(Answered::Written(outcome)));
            }
            (Response::SessionOpened, _) => {
                if let What::OpenSession(session) = pending.what {
                    self.session.opened(session);
                    self.succeeded();
                }
                self.finish(id, Err(ClientError::WrongAnswer));
            }
            (Response::SessionExpired, Some((session, _))) => {
                let is_uncertain = pending.is_uncertain;
                pending.number = None;
                self.session.close(session);
                if is_uncertain {
                    self.finish(id, Err(ClientError::OutcomeUnknown));
                } else {
                    // This was the only try, and it changed nothing.
                    self.ready.push_back(id);
                }
            }
            (Response::WindowExceeded, Some(_)) => {
                self.ready.push_back(id);
                self.pause();
            }
            (Response::Refused(limit), _) => self.finish(id, Err(limit.into())),
            (Response::Malformed, _) => {
                let why = "the state machine can not read the command".into();
                self.finish(id, Err(ClientError::Refused { why }));
            }
            _ => self.finish(id, Err(ClientError::WrongAnswer)),
        }
    }

    /// `redirect` becomes where to go instead, if anywhere.
    fn on_fault(&mut self, id: u64, fault: &Fault, redirect: &mut Redirect) {
        let link = self.link.as_ref().map(|link| (link.node, link.at));
        let (node, at) = link.unwrap_or((NodeId(0), ServeAt::Leader));
        let Some(pending) = self.pending.get_mut(id) else { return };
        match fault {
            // A node of an earlier version, which passes nothing on.
            Fault::Malformed { .. } if at == ServeAt::AnyMember => {}
            Fault::OutcomeUnknown | Fault::Stopped { .. } => pending.is_uncertain = true,
            Fault::NotLeader { .. } | Fault::Busy => {}
            Fault::Malformed { why } | Fault::Refused { why } => {
                let why = why.clone();
                return self.finish(id, Err(ClientError::Refused { why }));
            }
            Fault::Failed { why } => {
                let why = why.clone();
                return self.finish(id, Err(ClientError::NodeFailed { why }));
            }
        }
        self.ready.push_back(id);
        match fault {
            Fault::Busy => {
                if self.paused_until.is_none() {
                    self.last_seen = format!("node {node} is busy");
                    self.pause();
                }
                return;
            }
            // All of a frame say the same.
            _ if *redirect != Redirect::Stay => return,
            Fault::NotLeader { leader: Some((leader, address)) } => {
                if let Some(address) = address {
                    self.known.learn(*leader, address.clone());
                }
                // Who asks for more than the leader's word has found that it does not reach the leader.
                *redirect = match at {
                    ServeAt::Leader => Redirect::To(*leader),
                    ServeAt::AnyMember => Redirect::Away,
                };
            }
            _ => *redirect = Redirect::Away,
        }
        self.last_seen = format!("node {node}: {fault}");
    }

    /// Answers a request, for good.
    fn finish(&mut self, id: u64, result: Result<Answered, ClientError>) {
        if let Some(pending) = self.pending.remove(id) {
            if pending.on_wire {
                self.on_wire -= 1;
            }
            if let Some(number) = pending.number {
                self.session.finish(number);
            }
            if let What::OpenSession(session) = pending.what {
                // Does nothing if it is open.
                self.session.give_up_opening(session);
            }
            pending.answer(result);
        }
    }

    fn succeeded(&mut self) {
        self.next_pause = PAUSE.0;
        self.hops = 0;
    }

    /// Sends nothing for a while, longer each time.
    fn pause(&mut self) {
        if self.paused_until.is_none() {
            self.paused_until = Some(Instant::now() + self.jitter.spread(self.next_pause));
            self.next_pause = (self.next_pause * 2).min(PAUSE.1);
        }
    }

    /// Looks after everything that has to do with time.
    fn sweep(&mut self) {
        let now = Instant::now();
        self.has_waited = !self.ready.is_empty();
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        for id in self.pending.pick(|pending| pending.deadline <= now) {
            let Some(pending) = self.pending.get_mut(id) else { continue };
            let maybe_applied = pending.is_write() && (pending.is_uncertain || pending.on_wire);
            let (last_seen, after) = (self.last_seen.clone(), pending.timeout);
            self.finish(id, Err(ClientError::Timeout { after, maybe_applied, last_seen }));
        }
        let pending = &mut self.pending;
        self.held.retain(|id| pending.get_mut(*id).is_some());
        self.release();
        self.ensure_session();
        let is_searching = self.search.as_ref().is_some_and(|search| !search.is_calm);
        if let Some(link) = self.link.as_ref().filter(|_| !is_searching) {
            let is_waiting = self.on_wire > 0 || !link.is_up;
            if is_waiting && now.duration_since(self.progress_at) > STALL {
                self.last_seen = format!("node {} answers nothing", link.node);
                self.start_search();
            }
        }
        self.ensure_link();
    }
}

/// Appends a request. `false` if it is a write that can have no number yet.
fn put_request(
    frame: &mut FrameBuilder,
    (id, at): (u64, ServeAt),
    pending: &mut Pending,
    session: &mut Session,
) -> bool {
    let op = match &mut pending.what {
        What::OpenSession(of) => {
            if pending.is_uncertain {
                // An earlier try may still reach the log, even after the session that this one opens was evicted, and would then
                // revive it without its memory of what was applied: every try opens a session of its own.
                match new_session() {
                    Ok(new) => *of = new,
                    Err(_) => return true,
                }
                session.opening(*of);
            }
            let command = Command::OpenSession { session: *of };
            frame.push(id, at.kind(COMMAND), |out| command.encode_into(out));
            return true;
        }
        What::Call { op, .. } => op,
    };
    if let Some(body) = op.read() {
        frame.push_request_at(id, at, &body);
    } else if let Some(write) = op.write() {
        let Some((of, sequence)) = pending.number.or_else(|| session.number()) else {
            return false;
        };
        pending.number = Some((of, sequence));
        let acked_below = session.acked_below(of);
        let command = Command::Write { session: of, sequence, acked_below, write };
        frame.push(id, at.kind(COMMAND), |out| command.encode_into(out));
    }
    true
}

/// A session that nobody else has.
fn new_session() -> Result<SessionId, ClientError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| ClientError::Randomness(error.to_string()))?;
    Ok(SessionId(u128::from_le_bytes(bytes)))
}

/// Resolves once the client is closed; an error says that nobody is left who could close it.
async fn closed(closing: &mut watch::Receiver<bool>) -> Result<(), watch::error::RecvError> {
    closing.wait_for(|closed| *closed).await.map(drop)
}

/// A place for a frame; `None` if the connection's task has ended, of which an event tells more.
async fn reserve(frames: Option<mpsc::Sender<Bytes>>) -> Option<mpsc::OwnedPermit<Bytes>> {
    frames?.reserve_owned().await.ok()
}
