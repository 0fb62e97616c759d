//! The arguments: what can be typed, and the help that teaches it. Nothing is done here.

// These comments are printed as they are, where backticks would be noise.
#![allow(clippy::doc_markdown)]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::exit;
use crate::text::Format;

/// A durable, replicated key-value service: one binary for its nodes, its clients and its operators.
///
/// Try it at once with `raft demo`. For a cluster of your own: `raft init`, one `raft serve` a node, then the client commands.
#[derive(Debug, Parser)]
#[command(name = "raft", version, after_help = exit::HELP,
    after_long_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  raft demo                                  a tour: three processes, a crash, a recovery
  raft init --dir c --nodes 3                a cluster of three on this machine, ports 7401 to 7403
  raft serve --config c/node1.toml           run one node; the same for node2 and node3
  export RAFT_CONFIG=c/client.toml           for the commands below
  raft put greeting hello
  raft get greeting
  raft status

Configuration: flags override environment variables, and both override the file. All log to stderr what RAFT_LOG asks for \
(by default `info` for `raft serve`, and `warn` for the others; for example `raft_node=debug`).";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show a whole cluster: start it, load data, kill its leader, watch it recover
    Demo(DemoArgs),
    /// Make a cluster's certificates and configuration files
    #[command(after_help = "\
Examples:
  raft init --dir c                                       three nodes on this machine, ports 7401 to 7403
  raft init --dir c --host a.lan,b.lan,c.lan              three machines
  raft init --dir c --host a.lan:7000,b.lan:7000,c.lan:7000
  raft init --dir c --nodes 5 --base-port 9000")]
    Init(InitArgs),
    /// Issue certificates with the cluster's authority
    #[command(subcommand)]
    Certs(CertsCommand),
    /// Run one node until it is told to stop (SIGINT or SIGTERM); SIGHUP makes it read its certificate and key anew
    Serve(ServeArgs),
    /// Let a node whose data folder `raft init` did not make found its cluster at its next start; for a cluster that has never run
    Found(FoundArgs),
    /// Store a value under a key
    #[command(after_help = "\
Examples:
  raft put greeting hello
  date | raft put now -              the value from stdin, as it is")]
    Put(PutArgs),
    /// Print the value of a key; exit code 3 if there is none
    #[command(after_help = "\
Examples:
  raft get greeting                   on a terminal: one line, with escapes
  raft get photo > photo.jpg          into a file or pipe: exactly the bytes
  raft get --key-hex 00ff --json")]
    Get(GetArgs),
    /// Delete a key; exit code 3 if there was none
    #[command(after_help = "\
Examples:
  raft delete greeting
  raft delete --key-hex 00ff          a key that cannot be typed")]
    Delete(DeleteArgs),
    /// Store a value only if the current one is as expected; exit code 3 if it is not
    #[command(after_help = "\
Examples:
  raft cas lock held --absent         take a lock
  raft cas counter 8 --expect 7")]
    Cas(CasArgs),
    /// List keys and values in the order of the keys
    #[command(after_help = "\
Examples:
  raft range                          everything, page by page
  raft range a b                      from a (included) to b (not included)
  raft range --prefix user/ --limit 10 --json")]
    Range(RangeArgs),
    /// Load a file of keys and values
    #[command(after_help = "\
TSV is one `key<tab>value` a line; \\t \\n \\r \\\\ and \\xNN stand for a tab, a line feed, a carriage return, a backslash and any \
byte. Everything after the first tab is the value. `--format raw-tsv` takes backslashes as they are. JSON Lines is one \
{\"key\": \"...\", \"value\": \"...\"} a line (`key_hex`, `value_hex` for bytes that are not UTF-8).

The whole file is checked before anything is loaded: a malformed line is named by its number, a dump without its end mark is \
refused, and nothing is loaded then. If the load is interrupted, the same command goes on where it stopped (it keeps \
FILE.raft-progress beside the file), unless the cluster no longer holds what was stored.

Examples:
  raft load backup.tsv
  raft dump --config old/client.toml | raft load - --config new/client.toml")]
    Load(LoadArgs),
    /// Print everything as TSV, sorted by key, as of one moment
    #[command(after_help = "\
Example:
  raft dump > backup.tsv              then: raft load backup.tsv

The first line says that it is a dump, the last one how many records there are, with a checksum: `raft load` refuses what was \
cut off or changed. Both begin with `#raft-dump ` and have no tab, so no record looks like them.")]
    Dump(DumpArgs),
    /// Show every node: role, term, how far it is, and whether the states agree
    #[command(after_help = "\
Exit codes: 0 if a node leads and a majority of the voters follow it, even if others are down or unwell; 4 if not; 9 if two nodes \
hold different states at the same index. `verdict` of --json is ok, degraded, unavailable or diverged, and `states` is agree, \
agree so far (of those that could be compared), differ or unknown.

Examples:
  raft status
  raft status --json | jq -r .verdict
  until raft status > /dev/null; do sleep 1; done    wait until the cluster serves")]
    Status(StatusArgs),
    /// Measure throughput and latency over the public client
    #[command(after_help = "\
Example:
  raft bench put --inflight 1000 --value-size 256 --seconds 10 --json

It keeps N requests in flight, each worker waiting for its answer before it sends the next. A first second warms up and is not \
counted. `get` first stores every key once. Keys are `bench/` and a number, drawn evenly; those that were put are removed at the \
end, unless --keep is given. Latencies are microseconds. Exit code 4 if an operation failed or none was done.")]
    Bench(BenchArgs),
}

/// Where a client command finds its cluster.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClientArgs {
    /// The client's configuration file
    #[arg(long, env = "RAFT_CONFIG", default_value = "client.toml", value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Give up after this many milliseconds [default: timeout_ms of the file]
    #[arg(long, env = "RAFT_TIMEOUT_MS", value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout_ms: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The folder to make; must not hold a cluster yet
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// How many nodes; odd numbers make sense: 3 stand the loss of one, 5 of two [default: as many as hosts, or 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) nodes: Option<u16>,
    /// Node i listens on UDP port P + i
    #[arg(long, value_name = "P", default_value_t = 7400, value_parser = clap::value_parser!(u16).range(1..=65000))]
    pub(crate) base_port: u16,
    /// The host name or IP address of every node in turn (several times, or with commas), or one for all; HOST:PORT for a port of its own
    #[arg(long, value_name = "HOST", num_args = 1.., value_delimiter = ',', default_value = "127.0.0.1")]
    pub(crate) host: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Issue the certificate of a node or a client, with a new key
    #[command(after_help = "\
Examples:
  raft certs issue --dir c --client backup          c/backup.pem and c/backup.key
  raft certs issue --dir c --node 2 --renew         replaces those of node 2; then copy both to it, and send its process SIGHUP

An older certificate stays valid: nothing revokes it.")]
    Issue(IssueArgs),
}

#[derive(Debug, Args)]
pub(crate) struct IssueArgs {
    /// The folder with ca.pem and ca.key, which `raft init` made; the certificate is put there
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// For the node with this id
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "client")]
    pub(crate) node: Option<u64>,
    /// For a client; the name tells clients apart in logs, and names the files
    #[arg(long, value_name = "NAME", required_unless_present = "node")]
    pub(crate) client: Option<String>,
    /// A host name or IP address of the node, for tools that look for one
    #[arg(long, value_name = "HOST", value_delimiter = ',', conflicts_with = "client")]
    pub(crate) host: Vec<String>,
    /// Replace a certificate and key that are there
    #[arg(long)]
    pub(crate) renew: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The node's configuration file
    #[arg(long, env = "RAFT_NODE_CONFIG", value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Listen here instead of where the file says
    #[arg(long, env = "RAFT_LISTEN", value_name = "IP:PORT")]
    pub(crate) listen: Option<String>,
    /// Use this data folder instead of the file's
    #[arg(long, env = "RAFT_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The data folder was moved here as a whole, after its node was stopped, and is not an older copy: the node goes on as who it was
    #[arg(long)]
    pub(crate) moved: bool,
    /// Stop in good order when stdin ends: for a parent that must not leave nodes behind
    #[arg(long, hide = true)]
    pub(crate) until_stdin_closes: bool,
    /// Threads of the network and the protocol, instead of the file's number
    #[arg(long, env = "RAFT_WORKERS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) workers: Option<u16>,
    /// Record what the protocol is told into this file, for `cargo xtask sim --replay`; it holds the commands
    #[arg(long, env = "RAFT_RECORD", value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    /// The recording ends before it is larger than this, instead of the file's number
    #[arg(long, env = "RAFT_RECORD_MIB", value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) record_mib: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct FoundArgs {
    /// The node's configuration file
    #[arg(long, env = "RAFT_NODE_CONFIG", value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The data folder, if it is not the file's
    #[arg(long, env = "RAFT_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// The key
    pub(crate) key: OsString,
    /// KEY is hexadecimal digits, as `key_hex` of `raft range --json`: for bytes that cannot be typed
    #[arg(long)]
    pub(crate) key_hex: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// The value, or - for stdin
    #[arg(allow_hyphen_values = true)]
    pub(crate) value: OsString,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// Print the value's bytes as they are, without escapes or a line feed, on a terminal too
    #[arg(long)]
    pub(crate) raw: bool,
    /// Print the value on one line, with escapes, into a file or pipe too
    #[arg(long, conflicts_with = "raw")]
    pub(crate) text: bool,
    /// Print a JSON object with the value and its revisions
    #[arg(long, conflicts_with_all = ["raw", "text"])]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CasArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// The new value, or - for stdin
    #[arg(allow_hyphen_values = true)]
    pub(crate) value: OsString,
    /// The value that must be there now
    #[arg(
        long,
        value_name = "VALUE",
        allow_hyphen_values = true,
        required_unless_present = "absent"
    )]
    pub(crate) expect: Option<OsString>,
    /// The key must not exist now
    #[arg(long, conflicts_with = "expect")]
    pub(crate) absent: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RangeArgs {
    /// The first key [default: the lowest]
    pub(crate) start: Option<OsString>,
    /// The key to stop before [default: none]
    pub(crate) end: Option<OsString>,
    /// All keys that start like this
    #[arg(long, conflicts_with_all = ["start", "end"])]
    pub(crate) prefix: Option<OsString>,
    /// START, END and the prefix are hexadecimal digits
    #[arg(long)]
    pub(crate) key_hex: bool,
    /// At most this many
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// One JSON object a line instead of TSV
    #[arg(long)]
    pub(crate) json: bool,
    /// Without values
    #[arg(long)]
    pub(crate) keys_only: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The file, or - for stdin (which cannot be resumed)
    pub(crate) file: PathBuf,
    /// How it is written [default: by its name: jsonl for .jsonl and .ndjson, else tsv]
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// Load what there is of a dump that was cut off, or of a table whose last line has no line feed
    #[arg(long)]
    pub(crate) allow_incomplete: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Let every node say why it leads or does not, and what its last entry waits for; otherwise only those that know of no leader do
    #[arg(long)]
    pub(crate) why: bool,
    /// A JSON object with a `nodes` array
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BenchKind {
    /// Durable writes
    Put,
    /// Linearizable reads
    Get,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure
    #[arg(value_enum)]
    pub(crate) kind: BenchKind,
    /// Requests in flight
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) inflight: u32,
    /// Bytes of a value
    #[arg(long, value_name = "B", default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1048576))]
    pub(crate) value_size: u32,
    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub(crate) seconds: u64,
    /// How many different keys
    #[arg(long, value_name = "K", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) keys: u64,
    /// Leave the keys in the cluster
    #[arg(long)]
    pub(crate) keep: bool,
    /// Threads of the generator
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) workers: u16,
    /// Print ops_per_second, p50_us, p99_us, p999_us, max_us, errors and more as a JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Keep the cluster in this folder [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Exit after the tour; with 0 only if every step held
    #[arg(long)]
    pub(crate) once: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_value_may_start_with_a_hyphen() {
        let cli = Cli::try_parse_from(["raft", "put", "k", "-"]).unwrap();
        assert!(matches!(cli.command, Command::Put(PutArgs { value, .. }) if value == "-"));
        assert!(
            Cli::try_parse_from(["raft", "cas", "k", "v"]).is_err(),
            "cas needs an expectation"
        );
    }
}
