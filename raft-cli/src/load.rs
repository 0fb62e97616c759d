//! `raft load`: checks a whole file, then stores every record of it, many at a time; resumable. Not how a line is written
//! (`text`), nor how a record is stored (`raft_kv::client`).

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_kv::client::{Client, ClientError};
use raft_kv::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::cli::LoadArgs;
use crate::config::ClientConfig;
use crate::connect;
use crate::exit::{Code, Failure, OrFail, Outcome};
use crate::lines::Lines;
use crate::output::say;
use crate::progress;
use crate::text::Format;

/// How many puts wait for their answers at any time.
const IN_FLIGHT: usize = 512;
/// No longer line can be a record: every byte of key and value as a `\u00NN` of JSON, and some room for the rest.
const LINE_BYTES_MAX: usize = 6 * (KEY_BYTES_MAX + VALUE_BYTES_MAX) + 256;
/// How many malformed lines are listed before the rest is only counted.
const FAULTS_LISTED: usize = 10;
/// How often the progress file is written.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// Runs the command.
pub(crate) async fn run(args: LoadArgs) -> Outcome {
    let format = args.format.unwrap_or_else(|| format_of(&args.file));
    let (mut file, name) = open(&args.file)?;
    let checked = check(&file, format, &name)?;
    let config = ClientConfig::load(&args.client.config)?;
    let client = connect::client(&config, args.client.timeout_ms.map(Duration::from_millis))?;
    let mut sidecar = Sidecar::new(&args.file, &config.cluster, format, &checked);
    let from = sidecar.resume();
    if from.line > 0 {
        eprintln!("{name}: going on after line {}", from.line);
    }
    file.seek(SeekFrom::Start(from.offset))
        .or_fail(Code::Failed, || format!("can not read {name}"))?;

    let started = Instant::now();
    let bar = progress::byte_bar("loading", checked.bytes);
    let storing = store(&client, BufReader::new(file), format, from, |at| {
        bar.set_position(at.offset);
        sidecar.note(at);
    });
    let stored = tokio::select! {
        stored = storing => stored,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Code::Interrupted, "interrupted")),
    };
    bar.finish_and_clear();
    client.close().await;
    match stored {
        Ok(records) => {
            sidecar.remove();
            let seconds = started.elapsed().as_secs_f64();
            let rate = records as f64 / seconds.max(1e-9);
            say(format_args!("loaded {records} records in {seconds:.1} s ({rate:.0} a second)"))?;
            Ok(())
        }
        Err(failure) => {
            Err(Failure { error: failure.error.context(sidecar.farewell(&name)), ..failure })
        }
    }
}

fn format_of(file: &Path) -> Format {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("jsonl" | "ndjson") => Format::Jsonl,
        _ => Format::Tsv,
    }
}

/// Opens the file; stdin is copied to a temporary one, since it is read twice.
fn open(path: &Path) -> Outcome<(File, String)> {
    if path == Path::new("-") {
        let spool = || -> io::Result<File> {
            let mut file = tempfile::tempfile()?;
            io::copy(&mut io::stdin().lock(), &mut file)?;
            file.seek(SeekFrom::Start(0))?;
            Ok(file)
        };
        let file =
            spool().or_fail(Code::Input, || "can not keep stdin in a temporary file".to_owned())?;
        return Ok((file, "stdin".to_owned()));
    }
    let name = path.display().to_string();
    let file = File::open(path).or_fail(Code::Input, || format!("can not read {name}"))?;
    Ok((file, name))
}

/// What a check found out.
#[derive(Debug)]
pub(crate) struct Checked {
    /// How many records there are.
    pub(crate) records: u64,
    /// How many bytes.
    pub(crate) bytes: u64,
    /// BLAKE3 of all bytes, in hexadecimal digits.
    hash: String,
}

/// Reads everything once and stores nothing. The error lists malformed lines by number.
pub(crate) fn check(source: impl Read, format: Format, name: &str) -> Outcome<Checked> {
    let hashing = Hashing { source, hasher: blake3::Hasher::new() };
    let mut reader = BufReader::with_capacity(128 << 10, hashing);
    let mut lines = Lines::new(&mut reader, LINE_BYTES_MAX, 0, 0);
    let mut checked = Checked { records: 0, bytes: 0, hash: String::new() };
    let mut faults = Vec::new();
    let mut faults_total = 0_u64;
    while let Some(line) = lines.next().or_fail(Code::Input, || format!("can not read {name}"))? {
        checked.bytes = line.end;
        match parse(line.bytes, format) {
            Ok(_) => checked.records += 1,
            Err(fault) => {
                faults_total += 1;
                if faults.len() < FAULTS_LISTED {
                    faults.push(format!("\n  line {}: {fault}", line.number));
                }
            }
        }
    }
    if faults_total > 0 {
        let listed = faults.len() as u64;
        if faults_total > listed {
            faults.push(format!("\n  and {} more", faults_total - listed));
        }
        return Err(Failure::new(
            Code::Input,
            format!(
                "{name} is malformed in {faults_total} of its lines; nothing was loaded. Correct them and load it again:{}",
                faults.concat()
            ),
        ));
    }
    checked.hash = reader.into_inner().hasher.finalize().to_hex().to_string();
    Ok(checked)
}

fn parse(line: Option<&[u8]>, format: Format) -> Result<(Bytes, Bytes), String> {
    let Some(line) = line else {
        return Err(format!("it is longer than any record can be ({LINE_BYTES_MAX} bytes)"));
    };
    let record = format.parse(line)?;
    for (what, bytes, limit) in
        [("key", record.key.len(), KEY_BYTES_MAX), ("value", record.value.len(), VALUE_BYTES_MAX)]
    {
        if bytes > limit {
            return Err(format!("the {what} has {bytes} bytes; the limit is {limit}"));
        }
    }
    Ok((record.key.into(), record.value.into()))
}

struct Hashing<R> {
    source: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// A place between two lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// How many lines are before it.
    pub(crate) line: u64,
    /// How many bytes.
    pub(crate) offset: u64,
}

/// Stores every record of `source`, which stands at `from`, and reports how far everything is acknowledged. A key that comes twice ends with
/// its last value.
pub(crate) async fn store(
    client: &Client,
    source: impl BufRead,
    format: Format,
    from: Place,
    mut acknowledged: impl FnMut(Place),
) -> Outcome<u64> {
    let mut lines = Lines::new(source, LINE_BYTES_MAX, from.line, from.offset);
    let mut window = Window::default();
    let mut records = 0;
    while let Some(line) = lines.next().or_fail(Code::Input, || "can not read on".to_owned())? {
        let place = Place { line: line.number, offset: line.end };
        let (key, value) = parse(line.bytes, format).map_err(|fault| {
            let message = format!("line {} was changed while it was loaded: {fault}", line.number);
            Failure::new(Code::Input, message)
        })?;
        // Concurrent puts may be carried out in any order; those of one key must not be.
        while window.puts.len() >= IN_FLIGHT || window.keys.contains(&key) {
            acknowledged(window.finish_oldest().await?);
        }
        window.keys.insert(key.clone());
        let (client, put_key) = (client.clone(), key.clone());
        let task = tokio::spawn(async move { client.put(put_key, value).await.map(drop) });
        window.puts.push_back(Put { key, place, task });
        records += 1;
    }
    while !window.puts.is_empty() {
        acknowledged(window.finish_oldest().await?);
    }
    Ok(records)
}

/// The puts under way, in the order of the file.
#[derive(Default)]
struct Window {
    puts: VecDeque<Put>,
    keys: HashSet<Bytes>,
}

struct Put {
    key: Bytes,
    /// After its line.
    place: Place,
    task: JoinHandle<Result<(), ClientError>>,
}

impl Window {
    /// Waits for the oldest put, and returns the place up to which everything is acknowledged.
    async fn finish_oldest(&mut self) -> Outcome<Place> {
        let Some(put) = self.puts.pop_front() else {
            return Err(Failure::new(Code::Failed, "no put is under way"));
        };
        let done = put.task.await.or_fail(Code::Failed, || "a put was cut off".to_owned())?;
        done.map_err(|error| connect::failure(error, &format!("line {}", put.place.line)))?;
        self.keys.remove(&put.key);
        Ok(put.place)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        for put in &self.puts {
            put.task.abort();
        }
    }
}

/// The progress file beside a file that is being loaded. Only a help: when it can not be written, the load starts over next time.
struct Sidecar {
    path: Option<PathBuf>,
    state: Progress,
    saved: Option<Instant>,
}

/// What the progress file holds. It counts only for the same content and the same cluster.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    cluster: String,
    hash: String,
    format: String,
    place: Place,
}

impl Sidecar {
    fn new(file: &Path, cluster: &str, format: Format, checked: &Checked) -> Sidecar {
        let path = (file != Path::new("-")).then(|| {
            let mut name = file.as_os_str().to_owned();
            name.push(".raft-progress");
            PathBuf::from(name)
        });
        let state = Progress {
            cluster: cluster.to_owned(),
            hash: checked.hash.clone(),
            format: format!("{format:?}"),
            place: Place::default(),
        };
        Sidecar { path, state, saved: None }
    }

    /// Where an earlier load of the same content into the same cluster stopped; the start if there was none.
    fn resume(&mut self) -> Place {
        let found = self.path.as_ref().and_then(|path| fs::read(path).ok());
        let found = found.and_then(|text| serde_json::from_slice::<Progress>(&text).ok());
        if let Some(found) = found {
            self.state.place = found.place;
            if self.state != found {
                self.state.place = Place::default();
            }
        }
        self.state.place
    }

    fn note(&mut self, place: Place) {
        self.state.place = place;
        if self.saved.is_none_or(|saved| saved.elapsed() >= SAVE_INTERVAL) {
            self.save();
        }
    }

    fn save(&mut self) -> bool {
        self.saved = Some(Instant::now());
        let Some(path) = &self.path else {
            return false;
        };
        let write = || -> io::Result<()> {
            let mut temporary = path.clone().into_os_string();
            temporary.push(".new");
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(&self.state)?)?;
            fs::rename(&temporary, path)
        };
        write().is_ok()
    }

    fn remove(&mut self) {
        if let Some(path) = &self.path {
            // It may never have been written.
            let _ = fs::remove_file(path);
        }
    }

    /// What to say when the load ends early.
    fn farewell(&mut self, name: &str) -> String {
        let line = self.state.place.line;
        let saved = self.save();
        let next = if saved { "goes on from there" } else { "starts over" };
        format!(
            "the load of {name} stopped; all up to and including line {line} is stored, and some after it may be; the same command {next}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &[u8]) -> String {
        let failure = check(text, Format::Tsv, "f.tsv").unwrap_err();
        assert_eq!(failure.code, Code::Input);
        failure.to_string()
    }

    #[test]
    fn malformed_lines_are_named_by_number() {
        let error = fault(b"a\t1\nb\nc\t3\n\td\n");
        assert!(error.contains("malformed in 2 of its lines; nothing was loaded"), "{error}");
        assert!(error.contains("line 2: there is no tab") && error.contains("line 4: "), "{error}");
        let error = fault("x\n".repeat(25).as_bytes());
        assert!(error.contains("line 10:") && !error.contains("line 11:"), "{error}");
        assert!(error.contains("and 15 more"), "{error}");
    }

    #[test]
    fn limits_are_checked_before_anything_is_loaded() {
        let long_key = [&vec![b'k'; KEY_BYTES_MAX + 1][..], b"\tv\n"].concat();
        assert!(fault(&long_key).contains("line 1: the key has"));
        let long_value = [b"k\t", &vec![b'v'; VALUE_BYTES_MAX + 1][..]].concat();
        assert!(fault(&long_value).contains("line 1: the value has"));
        let fits = [&vec![b'k'; KEY_BYTES_MAX][..], b"\t", &vec![b'v'; VALUE_BYTES_MAX]].concat();
        assert_eq!(check(&fits[..], Format::Tsv, "f").unwrap().records, 1);
    }

    #[test]
    fn progress_counts_for_the_same_content_and_cluster_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f.tsv");
        let checked = check(&b"a\t1\nb\t2\n"[..], Format::Tsv, "f.tsv").unwrap();
        let sidecar = |cluster: &str, checked| Sidecar::new(&file, cluster, Format::Tsv, checked);
        let place = Place { line: 1, offset: 4 };
        let mut first = sidecar("c1", &checked);
        assert_eq!(first.resume(), Place::default());
        first.note(place);
        assert!(first.farewell("f.tsv").contains("goes on from there"));
        assert_eq!(sidecar("c1", &checked).resume(), place);
        assert_eq!(sidecar("c2", &checked).resume(), Place::default());
        let other = check(&b"a\t1\nb\t3\n"[..], Format::Tsv, "f.tsv").unwrap();
        assert_eq!(sidecar("c1", &other).resume(), Place::default());
        first.remove();
        assert_eq!(sidecar("c1", &checked).resume(), Place::default());
    }
}
