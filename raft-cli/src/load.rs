//! `raft load`: checks a whole file, then stores every record of it, many at a time; resumable. Not how a line is written
//! (`text`), how a dump is marked (`dump_file`), where a load goes on (`sidecar`), nor how a record is stored (`raft_kv::client`).

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_kv::client::{Client, ClientError};
use raft_kv::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::cli::LoadArgs;
use crate::config::ClientConfig;
use crate::connect;
use crate::dump_file::{self, DumpReader, Ending};
use crate::exit::{Code, Failure, OrFail, Outcome};
use crate::lines::{Line, Lines};
use crate::output::say;
use crate::progress;
use crate::sidecar::Sidecar;
use crate::text::Format;

/// How many puts wait for their answers at any time.
const IN_FLIGHT: usize = 512;
/// No longer line can be a record: every byte of key and value as a `\u00NN` of JSON, and some room for the rest.
const LINE_BYTES_MAX: usize = 6 * (KEY_BYTES_MAX + VALUE_BYTES_MAX) + 256;
/// How many malformed lines are listed before the rest is only counted.
const FAULTS_LISTED: usize = 10;

/// Runs the command.
pub(crate) async fn run(args: LoadArgs) -> Outcome {
    let format = args.format.unwrap_or_else(|| format_of(&args.file));
    let (mut file, name) = open(&args.file)?;
    let checked = check(&file, format, &name, args.allow_incomplete)?;
    if let Some(loss) = &checked.loss {
        eprintln!("{name}: {loss}");
    }
    let config = ClientConfig::load(&args.client.config)?;
    let client = connect::client(&config, args.client.timeout_ms.map(Duration::from_millis))?;
    let mut sidecar = Sidecar::new(&args.file, &config.cluster, format, &checked.hash);
    let from = match resume(&mut sidecar, &client, &name).await {
        Ok(from) => from,
        Err(failure) => {
            client.close().await;
            return Err(failure);
        }
    };
    file.seek(SeekFrom::Start(from.offset))
        .or_fail(Code::Failed, || format!("cannot read {name}"))?;
    let source = BufReader::new(file.take(checked.bytes.saturating_sub(from.offset)));

    let started = Instant::now();
    let bar = progress::byte_bar("loading", checked.bytes);
    let storing = store(&client, source, format, from, |stored| {
        bar.set_position(stored.place.offset);
        sidecar.note(stored);
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

/// Where to go on. An earlier load counts only if the cluster still holds what it stored: one that was founded anew under the same
/// id, or put back from a copy, does not.
async fn resume(sidecar: &mut Sidecar, client: &Client, name: &str) -> Outcome<Place> {
    let Some(found) = sidecar.earlier() else {
        return Ok(Place::default());
    };
    let stored = client.get(found.last.key()).await;
    let stored = stored.map_err(|error| {
        connect::failure(error, &format!("find out how much of {name} is stored"))
    })?;
    let Some(record) = stored.filter(|record| found.last.is(record)) else {
        eprintln!(
            "{name}: starting over: the cluster does not hold what an earlier load stored last, or it was changed since"
        );
        return Ok(Place::default());
    };
    eprintln!("{name}: going on after line {}", found.place.line);
    Ok(sidecar.go_on(&found, &record))
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
    /// How many bytes hold them.
    pub(crate) bytes: u64,
    /// BLAKE3 of all bytes, in hexadecimal digits.
    pub(crate) hash: String,
    /// What is missing, and was allowed to.
    loss: Option<String>,
}

/// Reads everything once and stores nothing. The error lists malformed lines by number, or says that the file is not whole.
pub(crate) fn check(
    source: impl Read,
    format: Format,
    name: &str,
    allow_incomplete: bool,
) -> Outcome<Checked> {
    let hashing = Hashing { source, hasher: blake3::Hasher::new() };
    let mut reader = BufReader::with_capacity(128 << 10, hashing);
    let mut lines = Lines::new(&mut reader, LINE_BYTES_MAX, 0, 0);
    let mut checked = Checked { records: 0, bytes: 0, hash: String::new(), loss: None };
    let mut marks = DumpReader::Start;
    let mut faults = Faults::default();
    let mut cut = None;
    while let Some(line) = lines.next().or_fail(Code::Input, || format!("cannot read {name}"))? {
        // The last line of a dump that lacks its end is what is left of a record, or of the end mark.
        if !line.is_ended && matches!(marks, DumpReader::Records { .. }) && !is_end(&line, &marks) {
            cut = Some(line.number);
            break;
        }
        checked.bytes = line.end;
        let is_record = match line.bytes {
            Some(bytes) if format == Format::Tsv => marks.line(bytes),
            _ => Ok(true),
        };
        match is_record
            .and_then(|is| if is { parse(line.bytes, format).map(|_| is) } else { Ok(is) })
        {
            Ok(is_record) => checked.records += u64::from(is_record),
            Err(fault) => faults.note(line.number, &fault),
        }
        if !line.is_ended && format != Format::Jsonl && marks.ending() == Ending::Unmarked {
            cut = Some(line.number);
        }
    }
    faults.refuse(name)?;
    checked.loss = loss(marks.ending(), cut, &checked);
    if let Some(loss) = checked.loss.as_ref().filter(|_| !allow_incomplete) {
        let message = format!(
            "{name}: {loss}; nothing was loaded. Get the whole file, or load what there is with --allow-incomplete"
        );
        return Err(Failure::new(Code::Input, message));
    }
    // What is left after a cut belongs to the content too.
    let read_on = io::copy(&mut reader, &mut io::sink());
    read_on.or_fail(Code::Input, || format!("cannot read {name}"))?;
    checked.hash = reader.into_inner().hasher.finalize().to_hex().to_string();
    Ok(checked)
}

/// Whether this last line, which has no line feed, is the whole end mark all the same.
fn is_end(line: &Line<'_>, marks: &DumpReader) -> bool {
    line.bytes.is_some_and(|bytes| marks.is_end(bytes))
}

/// What shows that the file is not whole.
fn loss(ending: Ending, cut: Option<u64>, checked: &Checked) -> Option<String> {
    let records = checked.records;
    match (ending, cut) {
        (Ending::CutOff, Some(line)) => Some(format!(
            "the dump was cut off in line {line}, after {records} whole records: it has no end mark"
        )),
        (Ending::CutOff, None) => {
            Some(format!("the dump was cut off after {records} records: it has no end mark"))
        }
        (Ending::Unmarked, Some(line)) => Some(format!(
            "line {line} is the last and has no line feed, so it may be cut off (if it is not, end it with one)"
        )),
        (Ending::Unmarked, None) if checked.bytes == 0 => Some("there is nothing in it".to_owned()),
        (Ending::Marked, _) | (Ending::Unmarked, None) => None,
    }
}

/// Malformed lines.
#[derive(Default)]
struct Faults {
    listed: Vec<String>,
    total: u64,
}

impl Faults {
    fn note(&mut self, line: u64, fault: &str) {
        self.total += 1;
        if self.listed.len() < FAULTS_LISTED {
            self.listed.push(format!("\n  line {line}: {fault}"));
        }
    }

    /// The error, if there is any.
    fn refuse(mut self, name: &str) -> Outcome {
        if self.total == 0 {
            return Ok(());
        }
        let more = self.total - self.listed.len() as u64;
        if more > 0 {
            self.listed.push(format!("\n  and {more} more"));
        }
        Err(Failure::new(
            Code::Input,
            format!(
                "{name} is malformed in {} of its lines; nothing was loaded. Correct them and load it again:{}",
                self.total,
                self.listed.concat()
            ),
        ))
    }
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

/// A put that was acknowledged, as was everything before it in the file.
pub(crate) struct Stored {
    /// After its line.
    pub(crate) place: Place,
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    /// The revision since when the key has the value.
    pub(crate) revision: u64,
}

/// Stores every record of `source`, which stands at `from`, and reports how far everything is acknowledged. A key that comes twice ends with
/// its last value.
pub(crate) async fn store(
    client: &Client,
    source: impl BufRead,
    format: Format,
    from: Place,
    mut acknowledged: impl FnMut(Stored),
) -> Outcome<u64> {
    let mut lines = Lines::new(source, LINE_BYTES_MAX, from.line, from.offset);
    let mut window = Window::default();
    let mut records = 0;
    while let Some(line) = lines.next().or_fail(Code::Input, || "cannot read on".to_owned())? {
        if format == Format::Tsv && line.bytes.is_some_and(dump_file::is_mark) {
            continue;
        }
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
        let (client, put_key, put_value) = (client.clone(), key.clone(), value.clone());
        let task = tokio::spawn(async move { client.put(put_key, put_value).await });
        window.puts.push_back(Put { key, value, place, task });
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
    value: Bytes,
    /// After its line.
    place: Place,
    task: JoinHandle<Result<u64, ClientError>>,
}

impl Window {
    /// Waits for the oldest put; everything up to it is acknowledged then.
    async fn finish_oldest(&mut self) -> Outcome<Stored> {
        let Some(put) = self.puts.pop_front() else {
            return Err(Failure::new(Code::Failed, "no put is under way"));
        };
        let done = put.task.await.or_fail(Code::Failed, || "a put was cut off".to_owned())?;
        let Put { key, value, place, .. } = put;
        let revision =
            done.map_err(|error| connect::failure(error, &format!("line {}", place.line)))?;
        self.keys.remove(&key);
        Ok(Stored { place, key, value, revision })
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        for put in &self.puts {
            put.task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump_file::DumpWriter;

    fn fault(text: &[u8]) -> String {
        let failure = check(text, Format::Tsv, "f.tsv", false).unwrap_err();
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
        let fits =
            [&vec![b'k'; KEY_BYTES_MAX][..], b"\t", &vec![b'v'; VALUE_BYTES_MAX], b"\n"].concat();
        assert_eq!(check(&fits[..], Format::Tsv, "f", false).unwrap().records, 1);
    }

    #[test]
    fn what_may_be_cut_off_needs_a_word() {
        let mut dump = Vec::new();
        let mut writer = DumpWriter::begin(&mut dump).unwrap();
        for key in [b"a", b"b", b"c"] {
            writer.record(key, b"value").unwrap();
        }
        writer.finish().unwrap();
        let whole = |text: &[u8]| check(text, Format::Tsv, "f.tsv", false);
        assert_eq!(whole(&dump).unwrap().records, 3);
        assert_eq!(whole(&dump[..dump.len() - 1]).unwrap().records, 3, "the last line feed");
        for cut in 0..dump.len() - 1 {
            assert!(whole(&dump[..cut]).is_err(), "{cut}");
        }
        // Through the second record.
        let cut = &dump[..dump.len() - b"lue\nc\tvalue\n".len() - end_mark_bytes(&dump)];
        let error = fault(cut);
        assert!(error.contains("cut off in line 3, after 1 whole records"), "{error}");
        assert!(error.contains("--allow-incomplete"), "{error}");
        let checked = check(cut, Format::Tsv, "f.tsv", true).unwrap();
        assert_eq!((checked.records, checked.bytes), (1, b"#raft-dump 1\na\tvalue\n".len() as u64));
        // A table has no end mark, but its last line has an end.
        assert!(fault(b"a\tb\nc\tval").contains("line 2 is the last and has no line feed"));
        assert_eq!(check(&b"a\tb\nc\tval"[..], Format::Tsv, "f.tsv", true).unwrap().records, 2);
        assert!(check(&b"{\"key\":\"k\",\"value\":\"v\"}"[..], Format::Jsonl, "f", false).is_ok());
        assert!(fault(b"").contains("nothing in it"));
    }

    fn end_mark_bytes(dump: &[u8]) -> usize {
        dump.split_inclusive(|&byte| byte == b'\n').next_back().unwrap().len()
    }
}
