//! `raft put`, `get`, `delete`, `cas`, `range` and `dump`: one question to the cluster, printed.

use std::ffi::OsStr;
use std::io::{self, BufWriter, IsTerminal as _, Read as _, Write};
use std::os::unix::ffi::OsStrExt as _;

use bytes::Bytes;
use raft_kv::WriteOutcome;
use raft_kv::client::{Client, ExpectKey};
use raft_kv::limits::VALUE_BYTES_MAX;
use raft_kv::query::KeyRecord;
use serde_json::{Map, Value};

use crate::cli::{CasArgs, DeleteArgs, DumpArgs, GetArgs, KeyArgs, PutArgs, RangeArgs};
use crate::connect;
use crate::dump_file::DumpWriter;
use crate::exit::{Code, Failure, OrFail as _, Outcome};
use crate::output::written;
use crate::text;

pub(crate) async fn put(args: PutArgs) -> Outcome {
    let (key, value) = (key(&args.key)?, value(&args.value)?);
    let client = connect::open(&args.client)?;
    let put = client.put(key.clone(), value).await;
    client.close().await;
    put.map_err(|error| connect::failure(error, &format!("put {}", text::name(&key))))?;
    Ok(())
}

pub(crate) async fn get(args: GetArgs) -> Outcome {
    let key = key(&args.key)?;
    let client = connect::open(&args.client)?;
    let found = client.get(key.clone()).await;
    client.close().await;
    let found =
        found.map_err(|error| connect::failure(error, &format!("get {}", text::name(&key))))?;
    let Some(record) = found else {
        return Err(absent(&key));
    };
    let mut out = io::stdout().lock();
    let is_escaped = args.text || !args.raw && out.is_terminal();
    if args.json {
        let record = KeyRecord { key: key.as_ref().into(), record };
        written(writeln!(out, "{}", json(&record, false)))?;
    } else if is_escaped {
        written(writeln!(out, "{}", text::escaped(&record.value)))?;
    } else {
        written(out.write_all(&record.value))?;
    }
    written(out.flush())?;
    Ok(())
}

pub(crate) async fn delete(args: DeleteArgs) -> Outcome {
    let key = key(&args.key)?;
    let client = connect::open(&args.client)?;
    let deleted = client.delete(key.clone()).await;
    client.close().await;
    let deleted = deleted
        .map_err(|error| connect::failure(error, &format!("delete {}", text::name(&key))))?;
    deleted.map(drop).ok_or_else(|| absent(&key))
}

pub(crate) async fn cas(args: CasArgs) -> Outcome {
    let key = key(&args.key)?;
    let expect = match args.expect {
        Some(expected) => ExpectKey::Value(Bytes::copy_from_slice(expected.as_bytes())),
        None => ExpectKey::Absent,
    };
    let value = value(&args.value)?;
    let client = connect::open(&args.client)?;
    let outcome = client.compare_and_set(key.clone(), expect, Some(value)).await;
    client.close().await;
    let outcome =
        outcome.map_err(|error| connect::failure(error, &format!("cas {}", text::name(&key))))?;
    let WriteOutcome::CompareFailed { mod_revision } = outcome else {
        return Ok(());
    };
    let found = match mod_revision {
        Some(revision) => format!("it was last changed in revision {revision}"),
        None => "it does not exist".to_owned(),
    };
    Err(Failure::new(
        Code::NotFound,
        format!("the key {} is not as expected ({found}); nothing was changed", text::name(&key)),
    ))
}

pub(crate) async fn range(args: RangeArgs) -> Outcome {
    let client = connect::open(&args.client)?;
    let ranged = range_with(&client, &args).await;
    client.close().await;
    ranged
}

/// Prints page after page. Each is linearizable; a change between two of them may show in the later one.
async fn range_with(client: &Client, args: &RangeArgs) -> Outcome {
    let bytes = |argument: &OsStr| key_bytes(argument, args.key_hex);
    let bound = |argument: &Option<_>| argument.as_deref().map(bytes).transpose();
    let (mut start, end) = match &args.prefix {
        Some(prefix) => {
            let prefix = bytes(prefix)?;
            let end = prefix_end(&prefix);
            (prefix, end)
        }
        None => (bound(&args.start)?.unwrap_or_default(), bound(&args.end)?),
    };
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut out = BufWriter::new(io::stdout().lock());
    while left > 0 {
        let limit = u32::try_from(left).unwrap_or(u32::MAX);
        let page = client.range(start, end.clone(), limit, args.keys_only).await;
        let page = page.map_err(|error| connect::failure(error, "range"))?;
        for record in &page.records {
            written(print(&mut out, record, args))?;
        }
        left = left.saturating_sub(page.records.len() as u64);
        let Some(last) = page.records.last().filter(|_| page.has_more) else {
            break;
        };
        // The least key above the last one.
        start = [&last.key[..], &[0]].concat().into();
    }
    written(out.flush())?;
    Ok(())
}

fn print(out: &mut impl Write, record: &KeyRecord, args: &RangeArgs) -> io::Result<()> {
    if args.json {
        return writeln!(out, "{}", json(record, args.keys_only));
    }
    if args.keys_only {
        return writeln!(out, "{}", text::escaped(&record.key));
    }
    let mut line = String::new();
    text::put_tsv(&record.key, &record.record.value, &mut line);
    out.write_all(line.as_bytes())
}

pub(crate) async fn dump(args: DumpArgs) -> Outcome {
    let client = connect::open(&args.client)?;
    let dumped = dump_with(&client).await;
    client.close().await;
    dumped
}

async fn dump_with(client: &Client) -> Outcome {
    let failed =
        |error| connect::failure(error, "the dump is incomplete, and has no end mark: dump");
    let mut dump = client.dump(Bytes::new());
    let mut out = written(DumpWriter::begin(BufWriter::new(io::stdout().lock())))?;
    while let Some(records) = dump.next().await {
        for record in &records.map_err(failed)? {
            written(out.record(&record.key, &record.record.value))?;
        }
    }
    written(out.finish())
}

/// The key of an argument.
fn key(argument: &KeyArgs) -> Outcome<Bytes> {
    key_bytes(&argument.key, argument.key_hex)
}

fn key_bytes(argument: &OsStr, is_hex: bool) -> Outcome<Bytes> {
    let bytes = argument.as_bytes();
    if !is_hex {
        return Ok(Bytes::copy_from_slice(bytes));
    }
    text::unhex(bytes).map(Bytes::from).ok_or_else(|| {
        let message = format!(
            "the key {} is no string of hexadecimal pairs (--key-hex says that it is one)",
            text::name(bytes)
        );
        Failure::new(Code::Input, message)
    })
}

/// The value of an argument; `-` is stdin, to its end.
fn value(argument: &OsStr) -> Outcome<Bytes> {
    if argument != "-" {
        return Ok(Bytes::copy_from_slice(argument.as_bytes()));
    }
    let mut bytes = Vec::new();
    // One byte more than is allowed is enough to be refused.
    let mut stdin = io::stdin().lock().take(VALUE_BYTES_MAX as u64 + 1);
    stdin.read_to_end(&mut bytes).or_fail(Code::Input, || "can not read stdin".to_owned())?;
    if bytes.len() > VALUE_BYTES_MAX {
        return Err(Failure::new(
            Code::Input,
            format!(
                "the value on stdin is over the limit of {VALUE_BYTES_MAX} bytes: split it over several keys"
            ),
        ));
    }
    Ok(bytes.into())
}

fn absent(key: &[u8]) -> Failure {
    Failure::new(Code::NotFound, format!("the key {} does not exist", text::name(key)))
}

/// The first key after all that start with `prefix`; `None` if there is none.
fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

fn json(record: &KeyRecord, keys_only: bool) -> String {
    let mut object = Map::new();
    text::put_json(&mut object, "key", &record.key);
    let KeyRecord { record, .. } = record;
    if !keys_only {
        text::put_json(&mut object, "value", &record.value);
    }
    object.insert("create_revision".to_owned(), record.create_revision.into());
    object.insert("mod_revision".to_owned(), record.mod_revision.into());
    object.insert("version".to_owned(), record.version.into());
    text::safe_json(&Value::Object(object).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(prefix_end(b"ab").as_deref(), Some(&b"ac"[..]));
        assert_eq!(prefix_end(b"a\xff\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(prefix_end(b"\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
