//! An executable model of the published spec, of what a trace of it can show: each event's enabling condition and its effect. It knows nothing of our
//! core. Written from the spec's rules; where a comment says "the spec", that is etcd/raft's `etcdraft` with `Traceetcdraft`, in the version
//! whose `Ready(i)` makes server `i` alone durable (`PersistState(i)`), and which has `ApplySimpleConfChange(i)`. The book says which other
//! versions refuse such traces.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{ChangeAction, Line, Msg, MsgType, Name, RoleName};

type Ids = BTreeSet<String>;

/// An entry, as far as the spec tells entries apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    term: u32,
    /// Of a configuration entry: voters and learners.
    conf: Option<(Ids, Ids)>,
}

/// What survives a crash: what the last `Ready` showed.
#[derive(Clone, Debug)]
struct Durable {
    term: u32,
    vote: String,
    log: usize,
    commit: u32,
    conf: (Ids, Ids),
}

/// One of the spec's servers.
#[derive(Clone, Debug)]
struct Server {
    term: u32,
    vote: String,
    role: RoleName,
    log: Vec<Entry>,
    commit: u32,
    granted: Ids,
    responded: Ids,
    matched: BTreeMap<String, u32>,
    /// The latest configuration entry that it proposed and that is not in effect; zero if there is none.
    change: u32,
    conf: (Ids, Ids),
    durable: Durable,
    /// Queued until the next `Ready`.
    pending: Vec<(Msg, Vec<Entry>)>,
}

impl Server {
    fn boot(line: &Line) -> Server {
        let event = &line.event;
        let voters: Ids = event.conf[0].iter().cloned().collect();
        let entry = Entry { term: 1, conf: Some((voters.clone(), Ids::new())) };
        let conf = (voters, Ids::new());
        let (term, vote, commit) = (event.state.term, event.state.vote.clone(), event.state.commit);
        let durable = Durable {
            term,
            vote: vote.clone(),
            log: event.log as usize,
            commit,
            conf: conf.clone(),
        };
        Server {
            term,
            vote,
            role: event.role,
            log: vec![entry; event.log as usize],
            commit,
            granted: Ids::new(),
            responded: Ids::new(),
            matched: BTreeMap::new(),
            change: 0,
            conf,
            durable,
            pending: Vec::new(),
        }
    }

    fn last(&self) -> u32 {
        self.log.len() as u32
    }

    fn term_at(&self, index: u32) -> u32 {
        let at = (index as usize).checked_sub(1).and_then(|at| self.log.get(at));
        at.map_or(0, |entry| entry.term)
    }

    fn is_quorum(&self, ids: &Ids) -> bool {
        ids.is_subset(&self.conf.0) && ids.len() * 2 > self.conf.0.len()
    }

    fn matched(&self, node: &str) -> u32 {
        self.matched.get(node).copied().unwrap_or(0)
    }

    fn follow(&mut self, term: u32) {
        if term != self.term {
            "0".clone_into(&mut self.vote);
        }
        self.term = term;
        self.role = RoleName::Follower;
    }

    /// The latest committed configuration entry.
    fn committed_conf(&self) -> Option<(u32, (Ids, Ids))> {
        let committed = self.log.iter().take(self.commit as usize).zip(1u32..);
        committed.filter_map(|(entry, at)| Some((at, entry.conf.clone()?))).last()
    }

    /// Compares what a line shows with what the model has.
    fn compare(&self, line: &Line) -> Result<(), String> {
        let event = &line.event;
        let shown: Ids = event.conf[0].iter().cloned().collect();
        let same =
            |what: &str, shown: &dyn std::fmt::Debug, has: &dyn std::fmt::Debug, is: bool| {
                if is {
                    Ok(())
                } else {
                    Err(format!("{what} is {shown:?}; by the rules it is {has:?}"))
                }
            };
        let state = &event.state;
        same("term", &state.term, &self.term, state.term == self.term)?;
        same("vote", &state.vote, &self.vote, state.vote == self.vote)?;
        same("commit", &state.commit, &self.commit, state.commit == self.commit)?;
        same("role", &event.role, &self.role, event.role == self.role)?;
        same("log", &event.log, &self.last(), event.log == self.last())?;
        same("conf", &shown, &self.conf.0, shown == self.conf.0 && event.conf[1].is_empty())
    }
}

/// All servers, the network between them, and what must hold of them together.
#[derive(Debug, Default)]
pub(super) struct Model {
    servers: BTreeMap<String, Server>,
    sent: BTreeMap<Msg, Vec<Vec<Entry>>>,
    /// Who led which term: at most one ever.
    leaders: BTreeMap<u32, String>,
    committed: Vec<Entry>,
}

fn require(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

impl Model {
    /// A server as it is before the first line that is not about its start.
    pub(super) fn boot(&mut self, line: &Line) -> Result<(), String> {
        require(
            line.event.role == RoleName::Follower,
            "a server starts as another than a follower",
        )?;
        require(
            line.event.state.commit <= line.event.log,
            "a server starts with commit beyond its log",
        )?;
        let server = Server::boot(line);
        let id = line.event.nid.clone();
        self.servers.insert(id.clone(), server);
        self.check_committed(&id)
    }

    /// Takes one line.
    pub(super) fn take(&mut self, line: &Line) -> Result<(), String> {
        let id = line.event.nid.clone();
        let mut server = self.servers.remove(&id).ok_or("a server that was never started")?;
        let commit_before = server.commit;
        let result = self.act(&id, &mut server, line);
        let commit = server.commit;
        self.servers.insert(id.clone(), server);
        result?;
        if commit > commit_before { self.check_committed(&id) } else { Ok(()) }
    }

    fn act(&mut self, id: &str, server: &mut Server, line: &Line) -> Result<(), String> {
        let event = &line.event;
        match event.name {
            // These show what was before; so the spec's own traces do.
            Name::Replicate | Name::ChangeConf | Name::ApplyConfChange => server.compare(line)?,
            _ => {}
        }
        match event.name {
            Name::InitState => restart(server),
            Name::BecomeCandidate => campaign(id, server)?,
            Name::BecomeLeader => self.lead(id, server)?,
            Name::BecomeFollower => {
                require(server.role != RoleName::Follower, "a follower steps down")?;
                server.follow(server.term);
            }
            Name::SendRequestVoteRequest | Name::SendRequestVoteResponse => {
                ask_for_vote(id, server, message(line)?)?;
            }
            Name::SendAppendEntriesRequest => send_append(id, server, message(line)?)?,
            Name::SendAppendEntriesResponse => acknowledge_itself(id, server, message(line)?)?,
            Name::ReceiveRequestVoteRequest
            | Name::ReceiveRequestVoteResponse
            | Name::ReceiveAppendEntriesRequest
            | Name::ReceiveAppendEntriesResponse => {
                server.compare(line)?;
                return self.receive(id, server, event.name, message(line)?);
            }
            Name::Ready => self.ready(server),
            Name::Replicate => {
                require(server.role == RoleName::Leader, "another than a leader replicates")?;
                server.log.push(Entry { term: server.term, conf: None });
                return Ok(());
            }
            Name::ChangeConf => return change_conf(server, line),
            Name::ApplyConfChange => return apply_conf(server, line),
            Name::Commit => commit(server)?,
        }
        server.compare(line)
    }

    fn lead(&mut self, id: &str, server: &mut Server) -> Result<(), String> {
        require(server.role == RoleName::Candidate, "another than a candidate comes to lead")?;
        require(server.is_quorum(&server.granted), "a leader without a quorum of votes")?;
        if self.leaders.insert(server.term, id.to_owned()).is_some() {
            return Err("a second leader of the term".to_owned());
        }
        require(server.log.starts_with(&self.committed), "a leader lacks what is committed")?;
        server.role = RoleName::Leader;
        server.matched = BTreeMap::from([(id.to_owned(), server.last())]);
        Ok(())
    }

    fn ready(&mut self, server: &mut Server) {
        server.durable = Durable {
            term: server.term,
            vote: server.vote.clone(),
            log: server.log.len(),
            commit: server.commit,
            conf: server.conf.clone(),
        };
        for (msg, entries) in std::mem::take(&mut server.pending) {
            self.sent.entry(msg).or_default().push(entries);
        }
    }

    fn receive(
        &mut self,
        id: &str,
        server: &mut Server,
        name: Name,
        msg: &Msg,
    ) -> Result<(), String> {
        require(msg.to == id, "a message for another")?;
        let fits = match name {
            Name::ReceiveRequestVoteRequest => msg.kind == MsgType::MsgVote,
            Name::ReceiveRequestVoteResponse => msg.kind == MsgType::MsgVoteResp,
            Name::ReceiveAppendEntriesRequest => {
                matches!(msg.kind, MsgType::MsgApp | MsgType::MsgHeartbeat)
            }
            _ => matches!(msg.kind, MsgType::MsgAppResp | MsgType::MsgHeartbeatResp),
        };
        require(fits, "a message of another kind than its event")?;
        let key = normal(msg);
        let entries = self.sent.get_mut(&key).and_then(Vec::pop);
        let entries = entries.ok_or("a message that nobody sent, or that was received before")?;
        if msg.term > server.term {
            server.follow(msg.term);
        }
        match name {
            Name::ReceiveRequestVoteRequest => {
                vote(id, server, &key);
                Ok(())
            }
            Name::ReceiveRequestVoteResponse => {
                if msg.term == server.term {
                    server.responded.insert(msg.from.clone());
                    if msg.reject == Some(false) {
                        server.granted.insert(msg.from.clone());
                    }
                }
                Ok(())
            }
            Name::ReceiveAppendEntriesRequest => take_append(id, server, &key, entries),
            _ => {
                if msg.term == server.term && msg.reject == Some(false) {
                    let matched = msg.index.unwrap_or(0).max(server.matched(&msg.from));
                    server.matched.insert(msg.from.clone(), matched);
                }
                Ok(())
            }
        }
    }

    /// What is committed is the same everywhere, and a leader has it on its disk.
    fn check_committed(&mut self, id: &str) -> Result<(), String> {
        let Some(server) = self.servers.get(id) else { return Ok(()) };
        let own = server.log.get(..server.commit as usize).ok_or("commit beyond the log")?;
        let common = own.len().min(self.committed.len());
        require(own[..common] == self.committed[..common], "what is committed differs")?;
        self.committed.extend_from_slice(&own[common..]);
        let is_durable = server.commit as usize <= server.durable.log;
        require(
            server.role != RoleName::Leader || is_durable,
            "a leader commits what is not durable",
        )
    }

    /// Log matching (paper figure 3), over all pairs of servers.
    pub(super) fn check_logs(&self) -> Result<(), String> {
        for (one, other) in self
            .servers
            .values()
            .flat_map(|one| self.servers.values().map(move |other| (one, other)))
        {
            let common = one.log.len().min(other.log.len());
            let agreed = (0..common).rev().find(|at| one.log[*at].term == other.log[*at].term);
            let end = agreed.map_or(0, |at| at + 1);
            require(one.log[..end] == other.log[..end], "logs agree above where they differ")?;
        }
        Ok(())
    }
}

fn message(line: &Line) -> Result<&Msg, String> {
    line.event.msg.as_ref().ok_or_else(|| "a message event without a message".to_owned())
}

/// What of a message the spec compares: of a refused append, not the index.
fn normal(msg: &Msg) -> Msg {
    let mut key = msg.clone();
    if msg.kind == MsgType::MsgAppResp && msg.reject == Some(true) {
        key.index = Some(0);
    }
    key
}

fn restart(server: &mut Server) {
    let durable = server.durable.clone();
    server.role = RoleName::Follower;
    server.granted.clear();
    server.responded.clear();
    server.matched.clear();
    server.change = 0;
    server.pending.clear();
    server.log.truncate(durable.log);
    (server.term, server.vote) = (durable.term, durable.vote);
    (server.commit, server.conf) = (durable.commit, durable.conf);
}

fn campaign(id: &str, server: &mut Server) -> Result<(), String> {
    require(server.role != RoleName::Leader, "a leader campaigns")?;
    require(server.conf.0.contains(id), "a candidate that is no voter")?;
    // The version of the spec that the traces follow does not ask this: the model is stricter here.
    let in_effect = server.committed_conf().is_none_or(|(_, conf)| conf == server.conf);
    require(in_effect, "a candidate with a committed configuration that is not in effect")?;
    server.role = RoleName::Candidate;
    server.term += 1;
    id.clone_into(&mut server.vote);
    server.granted.clear();
    server.responded.clear();
    Ok(())
}

fn ask_for_vote(id: &str, server: &mut Server, msg: &Msg) -> Result<(), String> {
    require(server.role == RoleName::Candidate, "another than a candidate asks for votes")?;
    let is_member = server.conf.0.contains(&msg.to) || server.conf.1.contains(&msg.to);
    require(is_member, "a vote asked of a stranger")?;
    require(!server.responded.contains(&msg.to), "a vote asked of who has answered")?;
    let (from, to) = (id.to_owned(), msg.to.clone());
    let expected = if msg.to == id {
        Msg { reject: Some(false), ..Msg::new(MsgType::MsgVoteResp, server.term, from, to) }
    } else {
        Msg {
            index: Some(server.last()),
            log_term: Some(server.term_at(server.last())),
            ..Msg::new(MsgType::MsgVote, server.term, from, to)
        }
    };
    queue(server, msg, expected, Vec::new())
}

fn queue(server: &mut Server, msg: &Msg, expected: Msg, entries: Vec<Entry>) -> Result<(), String> {
    if *msg != expected {
        return Err(format!("{msg:?}; by the rules it is {expected:?}"));
    }
    server.pending.push((expected, entries));
    Ok(())
}

fn send_append(id: &str, server: &mut Server, msg: &Msg) -> Result<(), String> {
    require(server.role == RoleName::Leader, "another than a leader sends appends")?;
    require(msg.to != id, "a leader sends appends to itself")?;
    let is_member = server.conf.0.contains(&msg.to) || server.conf.1.contains(&msg.to);
    require(is_member, "an append for a stranger")?;
    let (from, to) = (id.to_owned(), msg.to.clone());
    let blank = Msg::new(msg.kind, server.term, from, to.clone());
    if msg.kind == MsgType::MsgHeartbeat {
        let commit = Some(server.commit.min(server.matched(&to)));
        return queue(server, msg, Msg { entries: Some(0), commit, ..blank }, Vec::new());
    }
    require(msg.kind == MsgType::MsgApp, "an append of another kind")?;
    let (prev, count) = (msg.index.unwrap_or(0), msg.entries.unwrap_or(0));
    require(prev >= server.matched(&to), "an append from below what was acknowledged")?;
    let end = prev.checked_add(count).filter(|end| *end <= server.last());
    let end = end.ok_or("an append beyond the leader's log")?;
    let expected = Msg {
        index: Some(prev),
        log_term: Some(server.term_at(prev)),
        entries: Some(count),
        commit: Some(server.commit.min(end)),
        ..blank
    };
    let entries = server.log[prev as usize..end as usize].to_vec();
    queue(server, msg, expected, entries)
}

fn acknowledge_itself(id: &str, server: &mut Server, msg: &Msg) -> Result<(), String> {
    require(server.role == RoleName::Leader, "another than a leader acknowledges to itself")?;
    let expected = Msg {
        index: Some(server.last()),
        reject: Some(false),
        ..Msg::new(MsgType::MsgAppResp, server.term, id.to_owned(), id.to_owned())
    };
    queue(server, msg, expected, Vec::new())
}

fn vote(id: &str, server: &mut Server, msg: &Msg) {
    let asked = (msg.log_term.unwrap_or(0), msg.index.unwrap_or(0));
    let own = (server.term_at(server.last()), server.last());
    let is_free = server.vote == "0" || server.vote == msg.from;
    let grants = msg.term == server.term && asked >= own && is_free;
    if grants {
        server.vote.clone_from(&msg.from);
    }
    let blank = Msg::new(MsgType::MsgVoteResp, server.term, id.to_owned(), msg.from.clone());
    server.pending.push((Msg { reject: Some(!grants), ..blank }, Vec::new()));
}

fn take_append(
    id: &str,
    server: &mut Server,
    msg: &Msg,
    entries: Vec<Entry>,
) -> Result<(), String> {
    let is_beat = msg.kind == MsgType::MsgHeartbeat;
    let (prev, commit) = (msg.index.unwrap_or(0), msg.commit.unwrap_or(0));
    let answer = |kind, term| Msg::new(kind, term, id.to_owned(), msg.from.clone());
    let fits =
        prev == 0 || prev <= server.last() && server.term_at(prev) == msg.log_term.unwrap_or(0);
    if msg.term < server.term || server.role != RoleName::Leader && !fits {
        if msg.term == server.term {
            server.role = RoleName::Follower;
        }
        let refused = answer(MsgType::MsgAppResp, server.term);
        server.pending.push((Msg { index: Some(0), reject: Some(true), ..refused }, Vec::new()));
        return Ok(());
    }
    require(server.role != RoleName::Leader, "a leader gets another leader's append")?;
    server.role = RoleName::Follower;
    let end = prev + entries.len() as u32;
    let mut matched = end;
    if prev >= server.commit {
        for (entry, at) in entries.into_iter().zip(prev as usize..) {
            if server.log.get(at).is_some_and(|own| own.term != entry.term) {
                require(at >= server.commit as usize, "an append overwrites what is committed")?;
                server.log.truncate(at);
            }
            if at == server.log.len() {
                server.log.push(entry);
            }
        }
        server.commit = server.commit.max(commit.min(end));
    } else if is_beat {
        server.commit = server.commit.max(commit);
    } else {
        matched = server.commit;
    }
    let kind = if is_beat { MsgType::MsgHeartbeatResp } else { MsgType::MsgAppResp };
    let index = (!is_beat).then_some(matched);
    let accepted = Msg { index, reject: Some(false), ..answer(kind, server.term) };
    server.pending.push((accepted, Vec::new()));
    require(server.commit <= server.last(), "commit beyond the log")
}

/// The largest index that a quorum has, if it is of the leader's own term.
fn commit(server: &mut Server) -> Result<(), String> {
    require(server.role == RoleName::Leader, "another than a leader commits")?;
    let reached = |index: u32| -> Ids {
        let voters = server.conf.0.iter();
        voters.filter(|node| server.matched(node) >= index).cloned().collect()
    };
    let largest = server.conf.0.iter().map(|node| server.matched(node));
    let largest = largest.filter(|index| server.is_quorum(&reached(*index))).max().unwrap_or(0);
    if largest > 0 && largest <= server.last() && server.term_at(largest) == server.term {
        server.commit = server.commit.max(largest);
    }
    Ok(())
}

fn change_conf(server: &mut Server, line: &Line) -> Result<(), String> {
    require(server.role == RoleName::Leader, "another than a leader changes the configuration")?;
    let changes = line.event.prop.as_ref().and_then(|prop| prop.cc.changes.as_deref());
    let Some([change]) = changes else { return Err("not exactly one change".to_owned()) };
    let (mut voters, mut learners) = server.conf.clone();
    let (is_voter, is_learner) = (voters.contains(&change.nid), learners.contains(&change.nid));
    match change.action {
        ChangeAction::AddNewServer => {
            require(!is_voter, "a voter is added again")?;
            voters.insert(change.nid.clone());
        }
        ChangeAction::AddLearner => {
            require(!is_voter && !is_learner, "a member is added as a learner")?;
            learners.insert(change.nid.clone());
        }
        ChangeAction::RemoveServer => {
            require(is_voter || is_learner, "a stranger is removed")?;
            voters.remove(&change.nid);
            learners.remove(&change.nid);
        }
    }
    // A second change, while one is under way, becomes an ordinary entry.
    let conf = (server.change == 0).then_some((voters, learners));
    let is_change = conf.is_some();
    server.log.push(Entry { term: server.term, conf });
    if is_change {
        server.change = server.last();
    }
    Ok(())
}

fn apply_conf(server: &mut Server, line: &Line) -> Result<(), String> {
    let (at, conf) = server.committed_conf().ok_or("no configuration is committed")?;
    let newconf = line.event.prop.as_ref().and_then(|prop| prop.cc.newconf.as_ref());
    let newconf: Option<Ids> = newconf.map(|nodes| nodes.iter().cloned().collect());
    require(newconf.as_ref() == Some(&conf.0), "another configuration than the committed one")?;
    if server.role == RoleName::Leader && server.change >= at {
        server.change = 0;
    }
    server.conf = conf;
    Ok(())
}
