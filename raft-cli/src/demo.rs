//! `raft demo`: a tour of a whole cluster of real processes, from its making to a crash and back. Every step is checked.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_kv::client::Client;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::DemoArgs;
use crate::config::ClientConfig;
use crate::exit::{Code, Failure, OrFail, Outcome};
use crate::init::{self, Address, AuthorityKey};
use crate::load::{self, Place};
use crate::outage::Writer;
use crate::output::say;
use crate::processes::{NodeProcess, free_ports};
use crate::status::{self, ClusterStatus, NodeRow};
use crate::text::Format;
use crate::{connect, progress};

/// The names of the characters of Unicode; see `data/README.md`.
const DATA: &[u8] = include_bytes!("../data/characters.tsv");
const NODES: u64 = 3;
/// How long any one step may take before it counts as failed.
const STEP_WITHIN: Duration = Duration::from_secs(60);
/// How often the cluster is asked whether it is there yet.
const POLL: Duration = Duration::from_millis(20);
/// How many acknowledged writes must follow an outage before it counts as over.
const WRITES_AFTER_OUTAGE: u64 = 50;

/// Runs the command.
pub(crate) async fn run(args: DemoArgs) -> Outcome {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let home = Home::new(args.dir)?;
    let mut nodes: Vec<NodeProcess> =
        (1..=NODES).map(|node| NodeProcess::new(home.path(), node)).collect();
    let stopped = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::pin!(stopped);
    let toured = tokio::select! {
        toured = tour(home.path(), &mut nodes) => toured,
        () = &mut stopped => Err(Failure::new(Code::Interrupted, "interrupted")),
    };
    let ended = match toured {
        Ok(()) => finish(&home, &mut nodes, args.once, stopped).await,
        Err(failure) => Err(failure),
    };
    for node in &mut nodes {
        node.kill().await?;
    }
    ended.map_err(|failure| home.close_after(failure))
}

/// What follows a tour of which every step held.
async fn finish(
    home: &Home,
    nodes: &mut [NodeProcess],
    once: bool,
    stopped: impl Future<Output = ()>,
) -> Outcome {
    if !once {
        print_farewell(home)?;
        stopped.await;
        say("")?;
    }
    stop_all(nodes).await
}

/// The demo's folder: temporary, or the one that was asked for.
enum Home {
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Home {
    fn new(dir: Option<PathBuf>) -> Outcome<Home> {
        if let Some(dir) = dir {
            return Ok(Home::Kept(dir));
        }
        let temporary = tempfile::Builder::new().prefix("raft-demo-").tempdir();
        let temporary = temporary.or_fail(Code::DataFolder, || {
            "can not make a temporary folder (give one with --dir)".to_owned()
        })?;
        Ok(Home::Temporary(temporary))
    }

    fn path(&self) -> &Path {
        match self {
            Home::Temporary(temporary) => temporary.path(),
            Home::Kept(path) => path,
        }
    }

    /// Says what is left after a demo that did not come to its end. The logs of one that failed are worth keeping; one that was
    /// interrupted leaves nothing behind. (The CA's key was never there to be left, however the demo ends.)
    fn close_after(self, failure: Failure) -> Failure {
        let told = match self {
            Home::Temporary(temporary) if failure.code == Code::Interrupted => {
                let path = temporary.path().display().to_string();
                match temporary.close() {
                    Ok(()) => "the demo's nodes were killed and its files are removed".to_owned(),
                    Err(error) => format!(
                        "the demo's nodes were killed, but {path} can not be removed ({error})"
                    ),
                }
            }
            Home::Kept(path) if failure.code == Code::Interrupted => {
                format!("the demo's nodes were killed; its files stay in {}", path.display())
            }
            Home::Temporary(temporary) => {
                format!("the demo failed (see {})", temporary.keep().display())
            }
            Home::Kept(path) => format!("the demo failed (see {})", path.display()),
        };
        Failure { error: failure.error.context(told), ..failure }
    }
}

/// Prints the steps as they go.
struct Guide {
    step: u32,
}

impl Guide {
    /// Does one step: says what is being done, waits for it, and says how it went.
    async fn step<T>(
        &mut self,
        what: &str,
        doing: impl Future<Output = Outcome<(T, String)>>,
    ) -> Outcome<T> {
        self.step += 1;
        let spinner = progress::spinner(what);
        let done = tokio::time::timeout(STEP_WITHIN, doing).await;
        spinner.finish_and_clear();
        let step = self.step;
        let failed = |failure: Failure| Failure {
            error: failure.error.context(format!("step {step} ({what})")),
            ..failure
        };
        let late = |_| Failure::new(Code::Failed, format!("not done within {STEP_WITHIN:?}"));
        let (value, told) = done.map_err(late).flatten().map_err(failed)?;
        say(format_args!("{} {what}: {told}", progress::tick(step)))?;
        Ok(value)
    }
}

/// The tour. Every step either holds or ends it.
async fn tour(home: &Path, nodes: &mut [NodeProcess]) -> Outcome {
    let mut guide = Guide { step: 0 };
    guide.step("make a cluster", async { make(home) }).await?;
    guide.step("start three processes", start_all(nodes)).await?;
    let config = ClientConfig::load(&home.join("client.toml"))?;
    let client = connect::client(&config, None)?;
    let toured = tour_running(&mut guide, nodes, &config, &client).await;
    client.close().await;
    toured
}

async fn tour_running(
    guide: &mut Guide,
    nodes: &mut [NodeProcess],
    config: &ClientConfig,
    client: &Client,
) -> Outcome {
    guide.step("wait for a leader", wait_for_leader(client)).await?;
    guide.step("load the names of the characters of Unicode", load_data(client)).await?;
    guide.step("write and read back", put_and_get(client)).await?;
    let killed = guide
        .step("kill the leader (SIGKILL) under continuing writes", crash(nodes, client, config))
        .await?;
    guide.step("restart it", restart(nodes, killed)).await?;
    let status = guide.step("wait until all three states agree", wait_for_agreement(client));
    let status = status.await?;
    guide.step("read what was written before the crash", read_again(client)).await?;
    say(format_args!("\n{}", status::table(&status)))
}

/// Makes the cluster; one that an earlier demo left in the folder is used again.
fn make(home: &Path) -> Outcome<((), String)> {
    if home.join("client.toml").exists() {
        return Ok(((), format!("the one in {} is used again", home.display())));
    }
    let addresses: Vec<Address> = free_ports(NODES as usize)?
        .into_iter()
        .map(|port| Address { host: "127.0.0.1".to_owned(), port })
        .collect();
    let cluster = init::create(home, &addresses, AuthorityKey::Forgotten)?;
    Ok(((), format!("{cluster} in {}", home.display())))
}

async fn start_all(nodes: &mut [NodeProcess]) -> Outcome<((), String)> {
    let mut pids = Vec::new();
    for node in nodes {
        node.start().await?;
        pids.push(node.pid().map_or_else(|| "?".to_owned(), |pid| pid.to_string()));
    }
    Ok(((), format!("pids {}", pids.join(", "))))
}

async fn wait_for_leader(client: &Client) -> Outcome<((), String)> {
    let begun = Instant::now();
    let leader = poll(client, |status| status.leader().cloned()).await;
    let told = format!(
        "node {} leads term {}, after {} ms",
        leader.node,
        leader.term.unwrap_or(0),
        begun.elapsed().as_millis()
    );
    Ok(((), told))
}

async fn load_data(client: &Client) -> Outcome<((), String)> {
    let checked = load::check(DATA, Format::Tsv, "characters.tsv", false)?;
    let bar = progress::record_bar("loading", checked.records);
    let begun = Instant::now();
    let records = load::store(client, Cursor::new(DATA), Format::Tsv, Place::default(), |stored| {
        bar.set_position(stored.place.line);
    })
    .await?;
    bar.finish_and_clear();
    let seconds = begun.elapsed().as_secs_f64();
    let rate = records as f64 / seconds.max(1e-9);
    Ok((
        (),
        format!(
            "{records} records, each durable on a majority, in {seconds:.2} s ({rate:.0} a second)"
        ),
    ))
}

const GREETING: (&[u8], &[u8]) = (b"demo/greeting", b"written before the crash");
const SAMPLE: (&[u8], &[u8]) = (b"U+1F980", b"CRAB");

async fn put_and_get(client: &Client) -> Outcome<((), String)> {
    let (key, value) = (Bytes::from_static(GREETING.0), Bytes::from_static(GREETING.1));
    let put = client.put(key, value).await;
    put.map_err(|error| connect::failure(error, "put"))?;
    expect(client, GREETING).await?;
    expect(client, SAMPLE).await?;
    Ok(((), "a put, and linearizable gets that return it and a record of the data".to_owned()))
}

async fn read_again(client: &Client) -> Outcome<((), String)> {
    expect(client, GREETING).await?;
    expect(client, SAMPLE).await?;
    Ok(((), "it is all there".to_owned()))
}

async fn expect(client: &Client, (key, value): (&'static [u8], &'static [u8])) -> Outcome {
    let found = client.get(Bytes::from_static(key)).await;
    let found = found.map_err(|error| connect::failure(error, "get"))?;
    if found.is_some_and(|record| *record.value == *value) {
        return Ok(());
    }
    let key = String::from_utf8_lossy(key);
    Err(Failure::new(Code::Failed, format!("the key {key} does not hold what was written")))
}

/// Kills the leader while writes go on, and waits until they are acknowledged again.
async fn crash(
    nodes: &mut [NodeProcess],
    client: &Client,
    config: &ClientConfig,
) -> Outcome<(u64, String)> {
    let writing = connect::client(config, None)?;
    let writer = Writer::start(writing.clone(), "demo/writes/");
    wait_until(|| writer.writes().acknowledged >= WRITES_AFTER_OUTAGE).await;
    let leader = poll(client, |status| status.leader().cloned()).await.node;
    let Some(process) = nodes.iter_mut().find(|process| process.node == leader) else {
        return Err(Failure::new(
            Code::Failed,
            format!("node {leader} leads, which is none of the three"),
        ));
    };
    let before = writer.writes().longest_gap;
    process.kill().await?;
    let elects = |row: &&NodeRow| row.node != leader;
    let next = poll(client, |status| status.leader().filter(elects).cloned()).await;
    let seen = writer.writes().acknowledged;
    wait_until(|| writer.writes().acknowledged >= seen + WRITES_AFTER_OUTAGE).await;
    let writes = writer.stop().await;
    writing.close().await;
    let told = format!(
        "node {leader} was killed, node {} leads; writes were unavailable for {} ms (longest gap before: {} ms; \
         {} writes acknowledged, {} failed)",
        next.node,
        writes.longest_gap.as_millis(),
        before.as_millis(),
        writes.acknowledged,
        writes.failed
    );
    Ok((leader, told))
}

async fn restart(nodes: &mut [NodeProcess], killed: u64) -> Outcome<((), String)> {
    let begun = Instant::now();
    for process in nodes.iter_mut().filter(|process| process.node == killed) {
        process.start().await?;
    }
    Ok(((), format!("node {killed} serves again after {} ms", begun.elapsed().as_millis())))
}

async fn wait_for_agreement(client: &Client) -> Outcome<(ClusterStatus, String)> {
    let begun = Instant::now();
    let status = poll(client, |status| status.agrees().then(|| status.clone())).await;
    let first = status.nodes.first();
    let told = format!(
        "all have applied {} and hold the same state, digest {}, after {} ms",
        first.and_then(|row| row.applied).unwrap_or(0),
        first.and_then(|row| row.state_digest.clone()).unwrap_or_default(),
        begun.elapsed().as_millis()
    );
    Ok((status, told))
}

/// Asks the cluster until `wanted` finds something. The step's time limit ends it otherwise.
async fn poll<T>(client: &Client, wanted: impl Fn(&ClusterStatus) -> Option<T>) -> T {
    loop {
        if let Some(found) = wanted(&status::gather(client).await) {
            return found;
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn wait_until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(POLL).await;
    }
}

async fn stop_all(nodes: &mut [NodeProcess]) -> Outcome {
    let spinner = progress::spinner("stopping");
    for node in nodes {
        node.stop().await?;
    }
    spinner.finish_and_clear();
    say("all nodes stopped in good order")
}

fn print_farewell(home: &Home) -> Outcome {
    let raft = std::env::args().next().unwrap_or_else(|| "raft".to_owned());
    let config = home.path().join("client.toml");
    let after = match home {
        Home::Temporary(_) => "stops it and removes its data",
        Home::Kept(_) => "stops it; its data stays",
    };
    say(format_args!(
        "
The cluster is running; Ctrl-C {after}. Try, in another terminal:

  export RAFT_CONFIG={}
  {raft} status
  {raft} get U+1F980
  {raft} put greeting hello
  {raft} range --prefix U+1F98 --limit 5
  {raft} dump | head
  {raft} bench put --inflight 100 --seconds 5",
        config.display()
    ))
}
