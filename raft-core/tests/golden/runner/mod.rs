//! The commands of golden scripts. A command's arguments are in `parse`, what it does in `world` and `node`, how it looks in `print`.

mod life;
mod node;
mod parse;
mod print;
mod world;

use std::error::Error;

use bytes::Bytes;
use goldenscript::{Command, Context};
use raft_core::{
    Config, Index, Input, Membership, Message, NodeId, ProposalId, ReadAt, ReadId, RequestId, Term,
};

use life::Relived;
use node::{Disk, Work};
use parse::{Args, Result};
use world::{Packet, World};

/// Runs one script.
#[derive(Default)]
pub(crate) struct Runner {
    world: World,
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _context: &Context,
    ) -> std::result::Result<String, Box<dyn Error>> {
        let mut args = Args(command.consume_args());
        let name = command.name.as_str();
        let is_known = self.set_up(name, &mut args)?
            || self.network(name, &mut args)?
            || self.machine(name, &mut args)?
            || self.ask(name, &mut args)?
            || self.explain(name, &mut args)?
            || self.show(name, &mut args)?;
        if !is_known {
            return Err(format!("there is no command {name}").into());
        }
        args.end()?;
        self.world.follow_up()
    }

    /// Whatever a script is about: every life in it can be lived again from its recording.
    fn end_script(&mut self) -> std::result::Result<(), Box<dyn Error>> {
        for (id, node) in &self.world.nodes {
            node.relive().map_err(|error| format!("node {id} can not be replayed: {error}"))?;
        }
        Ok(())
    }
}

impl Runner {
    /// Making members, stopping them, starting them again.
    fn set_up(&mut self, name: &str, args: &mut Args<'_>) -> Result<bool> {
        match name {
            "cluster" => self.cluster(args)?,
            "disk" => {
                let id = args.node()?;
                self.write_disk(id, args)?;
                self.world.start(id)?;
            }
            "crash" => self.crash(args)?,
            "restart" => {
                let id = args.node()?;
                self.world.node(id)?.crash();
                self.world.start(id)?;
            }
            "wipe" => {
                let id = args.node()?;
                self.world.wipe(id)?;
            }
            "stamp" => {
                for id in args.numbers()? {
                    self.world.stamp(id)?;
                }
            }
            "copy" => {
                let id = args.node()?;
                let node = self.world.node(id)?;
                node.copy = node.disk.clone();
            }
            "restore" => {
                let id = args.node()?;
                let node = self.world.node(id)?;
                node.crash();
                node.disk = node.copy.clone();
            }
            "join" => {
                let mut config = Config::new(NodeId(args.node()?));
                for (key, value) in args.pairs() {
                    parse::configure(&mut config, &key, &value)?;
                }
                let id = config.id.0;
                self.world.add(config, Membership::default());
                self.world.start(id)?;
            }
            "set" => {
                let id = args.node()?;
                let node = self.world.node(id)?;
                for (key, value) in args.pairs() {
                    parse::configure(&mut node.config, &key, &value)?;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `cluster voters=N [learners=N] [members={…}] [only=ID,…] [SETTING=VALUE…]`
    fn cluster(&mut self, args: &mut Args<'_>) -> Result<()> {
        let voters = args.number("voters")?.unwrap_or(3);
        let learners = args.number("learners")?.unwrap_or(0);
        self.world.founding = match args.text("members") {
            Some(text) => parse::membership(&text)?,
            None => Membership {
                voters: (1..=voters).map(NodeId).collect(),
                learners: (voters + 1..=voters + learners).map(NodeId).collect(),
                ..Membership::default()
            },
        };
        let only: Option<Vec<u64>> = args
            .text("only")
            .map(|text| text.split(' ').map(parse::number).collect())
            .transpose()?;
        self.world.has_stores = args.number_or_zero("stores")? > 0;
        let settings = args.pairs();
        let members: Vec<NodeId> = self.world.founding.members().collect();
        for id in members {
            if only.as_ref().is_some_and(|only| !only.contains(&id.0)) {
                continue;
            }
            let mut config = Config::new(id);
            config.is_witness = self.world.founding.is_witness(id);
            for (key, value) in &settings {
                parse::configure(&mut config, key, value)?;
            }
            let founding = self.world.founding.clone();
            self.world.add(config, founding);
            self.world.start(id.0)?;
        }
        Ok(())
    }

    /// `disk ID [log="1 1 2"] [base=INDEX@TERM] [term=N] [vote=ID] [commit=N]`: what the member finds when it starts.
    fn write_disk(&mut self, id: u64, args: &mut Args<'_>) -> Result<()> {
        let mut disk = Disk::founding(self.world.founding.clone());
        if let Some(base) = args.text("base") {
            disk.base = parse::position(&base)?;
        }
        if let Some(at) = args.text("snapshot") {
            let position = parse::position(&at)?;
            disk.snapshot = Some(raft_core::SnapshotMeta {
                position,
                membership: self.world.founding.clone().into(),
            });
        }
        let terms = args.text("log").unwrap_or_default();
        for term in terms.split_whitespace() {
            let entry = raft_core::Entry {
                term: Term(parse::number(term)?),
                index: disk.last().next(),
                payload: raft_core::Payload::Empty,
            };
            disk.entries.push(entry);
        }
        let last_term = disk.entries.last().map_or(disk.base.term, |entry| entry.term);
        disk.hard_state.term = args.number("term")?.map_or(last_term, Term);
        disk.hard_state.vote = args.number("vote")?.map(NodeId);
        disk.hard_state.commit = Index(args.number_or_zero("commit")?);
        let node = self.world.node(id)?;
        node.crash();
        node.disk = disk;
        Ok(())
    }

    /// `crash ID… [written=TICKET]`: the disk keeps what was reported as durable, and what else it had written through `TICKET`.
    fn crash(&mut self, args: &mut Args<'_>) -> Result<()> {
        let written = args.number_or_zero("written")?;
        for id in args.numbers()? {
            let node = self.world.node(id)?;
            for (write, is_written) in &node.writes {
                if write.ticket.0 <= written && !is_written {
                    node.disk.write(write);
                }
            }
            node.crash();
        }
        Ok(())
    }

    /// Messages, one by one or all, and the links that carry them.
    fn network(&mut self, name: &str, args: &mut Args<'_>) -> Result<bool> {
        match name {
            "deliver" => {
                for packet in self.pick(args, true)? {
                    self.world.line(format_args!("⇒ {packet}"));
                    self.world.deliver(packet);
                }
            }
            "drop" => {
                for packet in self.pick(args, true)? {
                    self.world.lose(&packet);
                }
            }
            "duplicate" => {
                let copies = self.pick(args, false)?;
                self.world.network.extend(copies);
            }
            "settle" => self.world.settle()?,
            "network" => {
                let lines: Vec<String> =
                    self.world.network.iter().map(ToString::to_string).collect();
                for line in lines {
                    self.world.line(line);
                }
            }
            "cut" => {
                let (from, to) = (args.node()?, args.node()?);
                self.world.cut.insert((from, to));
                match args.optional_word().as_deref() {
                    None => {
                        self.world.cut.insert((to, from));
                    }
                    Some("one_way") => {}
                    Some(word) => return Err(format!("{word} is no way to cut a link").into()),
                }
            }
            "isolate" => {
                let id = args.node()?;
                for other in self.world.ids().into_iter().filter(|other| *other != id) {
                    self.world.cut.extend([(id, other), (other, id)]);
                }
            }
            "heal" => self.world.cut.clear(),
            "send" => {
                let (from, to, kind) = (args.node()?, args.node()?, args.word("a kind")?);
                let term = Term(args.number("term")?.ok_or("term= is missing")?);
                let members = self.world.founding.clone();
                let store = parse::stamp(args)?;
                let message = Message { term, body: parse::body(&kind, args, &members)? };
                self.world.handle(to, Input::Message { from: NodeId(from), store, message });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `[FROM|_ [TO|_ [KIND]]] [nth=N] [order=reversed]`: what is on the network now and fits.
    fn pick(&mut self, args: &mut Args<'_>, takes: bool) -> Result<Vec<Packet>> {
        let mut node = || match args.optional_word().as_deref() {
            None | Some("_") => Ok(None),
            Some(word) => parse::number(word).map(Some),
        };
        let (from, to) = (node()?, node()?);
        let kind = args.optional_word();
        let nth = args.number("nth")?;
        let fits = |packet: &Packet| {
            from.is_none_or(|from| from == packet.from)
                && to.is_none_or(|to| to == packet.to)
                && kind.as_ref().is_none_or(|kind| kind == packet.kind())
        };
        let mut picked = Vec::new();
        let mut left = std::collections::VecDeque::new();
        let mut fitting = 0;
        for packet in self.world.network.drain(..) {
            let fits = fits(&packet);
            fitting += u64::from(fits);
            let is_picked = fits && nth.is_none_or(|nth| nth == fitting);
            if is_picked {
                picked.push(packet.clone());
            }
            if !is_picked || !takes {
                left.push_back(packet);
            }
        }
        self.world.network = left;
        match args.text("order").as_deref() {
            None => {}
            Some("reversed") => picked.reverse(),
            Some(word) => return Err(format!("{word} is no order").into()),
        }
        if picked.is_empty() {
            return Err("nothing like that is on the network".into());
        }
        Ok(picked)
    }

    /// Time, disks and state machines.
    fn machine(&mut self, name: &str, args: &mut Args<'_>) -> Result<bool> {
        match name {
            "tick" => {
                let millis = parse::number(&args.word("milliseconds")?)?;
                let mut ids = args.numbers()?;
                if ids.is_empty() {
                    ids = self.world.ids();
                }
                self.world.tick(millis, &ids)?;
            }
            "pause" => {
                let wait =
                    std::time::Duration::from_millis(parse::number(&args.word("milliseconds")?)?);
                for id in args.numbers()? {
                    let node = self.world.node(id)?;
                    node.clock = node.clock + wait;
                }
            }
            "campaign" => {
                let id = args.node()?;
                self.world.run_out(id)?;
            }
            "elect" => {
                let id = args.node()?;
                self.world.elect(id)?;
            }
            "hold" => self.hold(args, true)?,
            "release" => self.hold(args, false)?,
            "write" => self.write(args)?,
            "fetch" => {
                let id = args.node()?;
                let fails = args.optional_word().is_some_and(|word| word == "failed");
                self.world.answer_fetch(id, fails);
                self.world.handle(id, Input::Timeout);
            }
            "apply" => {
                let id = args.node()?;
                self.world.finish_apply(id);
                self.world.handle(id, Input::Timeout);
            }
            "install" => {
                let id = args.node()?;
                let fails = args.optional_word().is_some_and(|word| word == "failed");
                self.world.finish_install(id, fails);
                self.world.handle(id, Input::Timeout);
            }
            "snapshot" => {
                let id = args.node()?;
                let index = args.number("at")?;
                self.world.take_snapshot(id, index)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `hold network`, or `hold writes|fetches|applies|installs [ID…]`.
    fn hold(&mut self, args: &mut Args<'_>, is_held: bool) -> Result<()> {
        let what = args.word("what")?;
        if what == "network" {
            self.world.holds_network = is_held;
            return Ok(());
        }
        let work = match what.as_str() {
            "writes" => Work::Writes,
            "fetches" => Work::Fetches,
            "applies" => Work::Applies,
            "installs" => Work::Installs,
            _ => return Err(format!("{what} can not be held").into()),
        };
        let mut ids = args.numbers()?;
        if ids.is_empty() {
            ids = self.world.ids();
        }
        for id in ids {
            let held = &mut self.world.node(id)?.held;
            if is_held {
                held.insert(work);
            } else {
                held.remove(&work);
                // A harmless input, so that what waited is done.
                self.world.handle(id, Input::Timeout);
            }
        }
        Ok(())
    }

    /// `write ID [TICKET…]`: completes these writes in this order; all that wait, if none is named.
    fn write(&mut self, args: &mut Args<'_>) -> Result<()> {
        let id = args.node()?;
        let mut tickets = args.numbers()?;
        if tickets.is_empty() {
            tickets = self.world.node(id)?.writes.iter().map(|(write, _)| write.ticket.0).collect();
        }
        for ticket in tickets {
            self.world.complete_write(id, ticket);
            self.world.handle(id, Input::Timeout);
        }
        Ok(())
    }

    /// Requests, and inputs by hand.
    fn ask(&mut self, name: &str, args: &mut Args<'_>) -> Result<bool> {
        match name {
            "propose" => {
                let id = args.node()?;
                let mut commands: Vec<Bytes> = args.words().into_iter().map(Bytes::from).collect();
                if let Some(bytes) = args.number("bytes")? {
                    commands.push(Bytes::from(vec![b'.'; usize::try_from(bytes)?]));
                }
                let count = args.number("times")?.unwrap_or(1);
                for _ in 0..count {
                    let proposal = ProposalId(self.world.next_id());
                    let commands = commands.clone();
                    self.world.handle(id, Input::Propose { id: proposal, commands });
                }
            }
            "read" => {
                let id = args.node()?;
                let read = ReadId(self.world.next_id());
                let at = match args.optional_word().as_deref() {
                    None => ReadAt::Leader,
                    Some("any_member") => ReadAt::AnyMember,
                    Some(word) => return Err(format!("{word} is no place to read at").into()),
                };
                self.world.handle(id, Input::Read { id: read, at });
            }
            "change" => {
                let id = args.node()?;
                let change = parse::change(args)?;
                let request = RequestId(self.world.next_id());
                self.world.handle(id, Input::ChangeMembership { id: request, change });
            }
            "transfer" => {
                let id = args.node()?;
                let to = args.numbers()?.first().copied().map(NodeId);
                let request = RequestId(self.world.next_id());
                self.world.handle(id, Input::TransferLeadership { id: request, to });
            }
            "tell" => {
                let (id, kind) = (args.node()?, args.word("an input")?);
                let members = self.world.founding.clone();
                let input = parse::input(&kind, args, &members)?;
                self.world.handle(id, input);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `explain ID leadership|refusal`, `explain ID commit INDEX`: why, in the core's own words.
    fn explain(&mut self, name: &str, args: &mut Args<'_>) -> Result<bool> {
        if name != "explain" {
            return Ok(false);
        }
        let (id, what) = (args.node()?, args.word("leadership, commit or refusal")?);
        // A core knows no time but that of its latest input.
        self.world.handle(id, Input::Timeout);
        let node = self.world.node(id)?;
        let (raft, clock) = (node.raft.as_ref().ok_or("it is down")?, node.clock);
        let text = match what.as_str() {
            "leadership" => format!("{id} at {clock} {}", raft.explain_leadership()),
            "commit" => {
                let index = Index(parse::number(&args.word("an index")?)?);
                format!("{id} on index {index}: {}", raft.explain_commit(index))
            }
            "refusal" => {
                let refusal = node.refusal.as_ref().ok_or("it has refused nothing")?;
                format!("{id} on {}: {}", print::variant(refusal), raft.explain_refusal(refusal))
            }
            _ => return Err(format!("{what} is nothing to explain").into()),
        };
        self.world.line(text);
        Ok(true)
    }

    fn show(&mut self, name: &str, args: &mut Args<'_>) -> Result<bool> {
        if !["status", "log", "logs", "applied", "deadline", "window", "replay"].contains(&name) {
            return Ok(false);
        }
        let mut ids = args.numbers()?;
        if ids.is_empty() {
            ids = self.world.ids();
        }
        for id in ids {
            match name {
                "status" => {
                    let status = self.world.node(id)?.raft.as_ref().map(raft_core::Raft::status);
                    let text =
                        status.map_or_else(|| format!("{id} is down"), |s| print::status(&s));
                    self.world.line(text);
                }
                "window" => {
                    let status = self.world.node(id)?.raft.as_ref().map(raft_core::Raft::status);
                    for line in status.iter().flat_map(print::windows) {
                        self.world.line(line);
                    }
                }
                "replay" => {
                    let lives = self.world.node(id)?.relive()?;
                    for (start, Relived { inputs, actions }) in (1..).zip(lives) {
                        self.world.line(format_args!(
                            "{id} replays start {start}: {inputs} inputs, {actions} actions, all the same"
                        ));
                    }
                }
                "log" => self.world.show_log(id, true)?,
                "logs" => self.world.show_log(id, false)?,
                "deadline" => {
                    let wait = self.world.until_deadline(id);
                    let text = wait.map_or("waits for no deadline".to_owned(), |wait| {
                        format!("waits {} ms at most", wait.as_millis())
                    });
                    self.world.line(format_args!("{id} {text}"));
                }
                _ => {
                    let machine = &self.world.node(id)?.machine;
                    let all: Vec<String> = machine.iter().map(print::entry).collect();
                    self.world.line(format_args!("{id} has applied [{}]", all.join(" ")));
                }
            }
        }
        Ok(true)
    }
}
