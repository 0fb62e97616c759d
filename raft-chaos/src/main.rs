//! Real processes under faults: a cluster of the `raft` binary, clients over the public client, and in every round one or two
//! faults. Afterwards everything must hold that is promised: histories are linearizable, revisions unique and rising, all
//! states equal, nothing is logged as an error and nothing ends without an explanation, memory and disk stay within budget.
//!
//! Reading order: [`hosts`] and [`cluster`] (what there is), [`nemesis`] (what is done to it), [`load`] (what clients do),
//! [`judge`] (what must hold), [`report`].

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use raft_kv::client::Client;
use raft_sim::Rng;

use crate::cluster::Cluster;
use crate::hosts::Hosts;
use crate::judge::Verdict;
use crate::load::{Book, Load};
use crate::nemesis::{InEffect, Injection, Nemesis};
use crate::report::{Report, Round};

mod cluster;
mod hosts;
mod judge;
mod load;
mod nemesis;
mod report;

/// How many clients a round has; each has a connection and a session of its own.
const CLIENTS: usize = 4;
/// How long a request is tried.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long clients work before a fault, and after it is undone.
const CALM: Duration = Duration::from_secs(2);

/// Kills, cuts, starves and misleads the processes of a cluster, and judges what clients saw.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask chaos")]
struct Args {
    /// For how long to begin new rounds.
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// Only these faults; all that the system allows otherwise.
    #[arg(long, value_enum, num_args = 1.., value_delimiter = ',')]
    nemesis: Vec<Nemesis>,
    /// Decides which faults come when, and whom they hit; drawn if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Requests a second.
    #[arg(long, default_value_t = 600)]
    rate: u64,
    /// How long a fault lasts.
    #[arg(long, default_value_t = 6.0)]
    hold_seconds: f64,
    /// Runs all nodes on loopback, without namespaces.
    #[arg(long)]
    loopback: bool,
    /// The program to run.
    #[arg(long)]
    raft: PathBuf,
    /// The report; a JSON file is written beside it.
    #[arg(long, default_value = "target/chaos.html")]
    report: PathBuf,
    /// Where a failed run's folders and logs are kept.
    #[arg(long, default_value = "target/chaos-failed")]
    keep: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(
        async {
            tokio::select! {
                ran = run(&args) => ran,
                _ = tokio::signal::ctrl_c() => bail!("interrupted; all nodes are killed"),
            }
        },
    )
}

async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(|| {
        use std::hash::{BuildHasher as _, RandomState};
        RandomState::new().hash_one(std::process::id())
    });
    let mut rng = Rng::new(seed);
    let home = tempfile::Builder::new().prefix("raft-chaos-").tempdir()?;
    let (hosts, why_loopback) = Hosts::new(args.nodes, args.loopback);
    let told = match &why_loopback {
        None => "network namespaces".to_owned(),
        Some(why) => format!("loopback ({why})"),
    };
    println!("seed {seed}, {} nodes on {told}", args.nodes);
    let mut cluster = Cluster::make(home.path(), &args.raft, hosts, args.nodes)?;
    let (nemeses, skipped) = allowed(args, &cluster);
    if nemeses.is_empty() {
        bail!("none of the faults is possible here: {}", skipped.join("; "));
    }
    let mut report = Report {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        seed,
        nodes: args.nodes,
        hosts: told,
        skipped,
        rounds: Vec::new(),
    };
    for line in &report.skipped {
        println!("left out: {line}");
    }
    cluster.start_all()?;
    let watcher = cluster.client(REQUEST_TIMEOUT)?;
    let mut first = Verdict::default();
    let mut revision = judge::agreement(&mut first, &mut cluster, &watcher)
        .await
        .with_context(|| format!("the cluster did not come up: {:?}", first.faults))?;
    let until = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    let mut deck = Vec::new();
    for number in 1.. {
        if Instant::now() >= until {
            break;
        }
        let drawn = draw(&mut deck, &nemeses, &mut rng);
        let mut runner = Runner { args, cluster: &mut cluster, watcher: &watcher, rng: &mut rng };
        let round = runner.round(number, &drawn, &mut revision).await?;
        print_round(&round);
        let has_failed = !round.faults.is_empty();
        report.rounds.push(round);
        report.write(&args.report)?;
        if has_failed {
            keep(&cluster, &args.keep)?;
            // What follows a broken state proves nothing.
            break;
        }
    }
    let code = if report.faults() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    println!(
        "{} rounds, {} operations, {} findings; report: {}",
        report.rounds.len(),
        report.operations(),
        report.faults(),
        args.report.display()
    );
    if code != ExitCode::SUCCESS {
        println!("logs and folders are kept in {}; again with --seed {seed}", args.keep.display());
    }
    Ok(code)
}

/// The faults that were asked for and are possible, and why the others are not.
fn allowed(args: &Args, cluster: &Cluster) -> (Vec<Nemesis>, Vec<String>) {
    use clap::ValueEnum as _;
    let wanted = if args.nemesis.is_empty() { Nemesis::value_variants() } else { &args.nemesis };
    let mut skipped = Vec::new();
    let mut allowed = Vec::new();
    for &nemesis in wanted {
        match nemesis.missing(cluster) {
            None => allowed.push(nemesis),
            Some(why) => skipped.push(format!("{}: {why}", nemesis.name())),
        }
    }
    (allowed, skipped)
}

/// One fault, or in one round of four two of them. Every fault comes once before one comes twice.
fn draw(deck: &mut Vec<Nemesis>, nemeses: &[Nemesis], rng: &mut Rng) -> Vec<Nemesis> {
    let count = if rng.chance(250) { 2 } else { 1 };
    let mut drawn = Vec::new();
    while drawn.len() < count {
        if deck.is_empty() {
            deck.extend(nemeses);
        }
        let at = usize::try_from(rng.below(deck.len() as u64)).unwrap_or(0);
        let nemesis = deck.swap_remove(at);
        if drawn.iter().any(|other: &Nemesis| *other == nemesis || !other.goes_with(nemesis)) {
            deck.push(nemesis);
            break;
        }
        drawn.push(nemesis);
    }
    drawn
}

struct Runner<'a> {
    args: &'a Args,
    cluster: &'a mut Cluster,
    watcher: &'a Client,
    rng: &'a mut Rng,
}

impl Runner<'_> {
    /// Calm, faults, healing, calm, agreement, judgement.
    async fn round(
        &mut self,
        number: u64,
        nemeses: &[Nemesis],
        revision: &mut u64,
    ) -> anyhow::Result<Round> {
        let begun = Instant::now();
        nemesis::prepare(nemeses, self.watcher).await?;
        *revision = self.watcher.stats().await?.revision.max(*revision);
        let book = Book::new(*revision);
        let clients = (0..CLIENTS)
            .map(|_| self.cluster.client(REQUEST_TIMEOUT))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let prefix = format!("r{number:05}/");
        let load = Load::start(&clients, &book, &prefix, self.args.rate, self.rng.draw());
        tokio::time::sleep(CALM).await;
        let mut effect = InEffect::default();
        let (mut told, mut faults) = (Vec::new(), Vec::new());
        for &nemesis in nemeses {
            let mut injection = Injection {
                cluster: self.cluster,
                client: self.watcher,
                rng: self.rng,
                effect: &mut effect,
            };
            match injection.inject(nemesis).await {
                Ok(done) => told.push(done),
                Err(error) => faults.push(format!("{}: {error:#}", nemesis.name())),
            }
        }
        self.hold().await;
        nemesis::heal(self.cluster, effect).await?;
        let healed = book.now();
        tokio::time::sleep(CALM).await;
        load.stop().await;
        let ended = book.now();
        for client in clients {
            client.close().await;
        }
        let mut verdict = Verdict { faults, ..Verdict::default() };
        let agreed = judge::agreement(&mut verdict, self.cluster, self.watcher).await;
        judge::processes(&mut verdict, self.cluster, nemeses);
        let requests = book.history();
        judge::history(&mut verdict, &requests, revision, book.base);
        *revision = agreed.unwrap_or(*revision).max(*revision);
        let acknowledged = book.acknowledged();
        if acknowledged.last().is_none_or(|last| *last < healed) {
            verdict.faults.push("no write was acknowledged after healing".to_owned());
        }
        verdict.faults.extend(book.failures().iter().map(|it| format!("a client was told: {it}")));
        Ok(Self::describe(number, nemeses, told, verdict, (&requests, &acknowledged), ended, begun))
    }

    fn describe(
        number: u64,
        nemeses: &[Nemesis],
        told: Vec<String>,
        verdict: Verdict,
        (requests, acknowledged): (&[raft_sim::history::Request], &[u64]),
        ended: u64,
        begun: Instant,
    ) -> Round {
        let mut writes = vec![0; usize::try_from(ended / 250_000).unwrap_or(0) + 1];
        for at in acknowledged {
            if let Some(count) = writes.get_mut(usize::try_from(at / 250_000).unwrap_or(0)) {
                *count += 1;
            }
        }
        Round {
            number,
            nemeses: nemeses.iter().map(|nemesis| nemesis.name()).collect(),
            told,
            operations: requests.len() as u64,
            answered: requests.iter().filter(|request| request.result.is_some()).count() as u64,
            unknown: verdict.judged.map_or(0, |judged| judged.unknown),
            acknowledged_writes: acknowledged.len() as u64,
            longest_gap_ms: judge::longest_gap(acknowledged, ended) / 1000,
            agreed_after_ms: verdict
                .agreed_after
                .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            memory_mib: verdict.memory_kib_max >> 10,
            disk_mib: verdict.disk_kib_max >> 10,
            exits: verdict.exits,
            seconds: begun.elapsed().as_secs_f64(),
            writes,
            faults: verdict.faults,
        }
    }

    /// Lets the faults last. A process that ends meanwhile stays down until healing, as it would without a supervisor.
    async fn hold(&mut self) {
        let until = Instant::now() + Duration::from_secs_f64(self.args.hold_seconds);
        while Instant::now() < until {
            self.cluster.reap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn print_round(round: &Round) {
    println!(
        "round {:>3} {:<28} {:>6} operations, {:>6} answered, gap {:>5} ms, agreed after {} ms: {}",
        round.number,
        round.nemeses.join("+"),
        round.operations,
        round.answered,
        round.longest_gap_ms,
        round.agreed_after_ms.map_or("-".to_owned(), |ms| ms.to_string()),
        if round.faults.is_empty() { "held" } else { "FAILED" },
    );
    println!("          {}", round.told.join("; "));
    for fault in &round.faults {
        println!("          {fault}");
    }
}

/// Copies all that is needed to understand a failed run; keys of the throw-away cluster included.
fn keep(cluster: &Cluster, to: &Path) -> anyhow::Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent)?;
    }
    cluster::copy_folder(cluster.home(), to)
}
