//! Records as lines of text: the TSV and JSON Lines that `load` reads and `dump` and `range` print. No I/O.
//!
//! TSV: key, tab, value. In both, `\t`, `\n`, `\r` and `\\` stand for a tab, a line feed, a carriage return and a backslash, and
//! `\xNN` for any byte. [`escape`] writes bytes that are not UTF-8 and characters that are not [safe](is_safe) in this way and
//! leaves everything else alone, so that what is dumped can be loaded, and dumps to the same text again. Everything after the
//! first tab is the value, further tabs included: a table of more columns keeps them.
//!
//! JSON Lines: `{"key": "…", "value": "…"}`; bytes that are not UTF-8 stand in `key_hex` and `value_hex`.
//!
//! Whatever comes from the store, a file or another process passes [`escape`], [`shown`] or [`safe_json`] before it is printed:
//! a value must not be able to move a terminal's cursor, or to show its characters in another order than they have.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// How a file of records is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// key, tab, value; escapes \t \n \r \\ \xNN
    Tsv,
    /// like tsv, but a backslash is only a backslash
    RawTsv,
    /// one {"key": "...", "value": "..."} a line
    Jsonl,
}

impl Format {
    /// Reads one line, which has no line feed any more. The error says what is wrong with it, but not where it is.
    pub(crate) fn parse(self, line: &[u8]) -> Result<Record, String> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let record = match self {
            Format::Tsv => {
                let (key, value) = split_tsv(line)?;
                Record { key: unescape(key)?, value: unescape(value)? }
            }
            Format::RawTsv => {
                let (key, value) = split_tsv(line)?;
                Record { key: key.to_vec(), value: value.to_vec() }
            }
            Format::Jsonl => parse_json(line)?,
        };
        if record.key.is_empty() {
            return Err("the key is empty".to_owned());
        }
        Ok(record)
    }
}

fn split_tsv(line: &[u8]) -> Result<(&[u8], &[u8]), String> {
    if line.is_empty() {
        return Err("the line is empty".to_owned());
    }
    let Some(tab) = line.iter().position(|&byte| byte == b'\t') else {
        return Err("there is no tab between a key and a value".to_owned());
    };
    Ok((&line[..tab], &line[tab + 1..]))
}

/// Appends `bytes` as text on one line, without tabs.
pub(crate) fn escape(bytes: &[u8], out: &mut String) {
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\t' => out.push_str("\\t"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\\' => out.push_str("\\\\"),
                char if is_safe(char) => out.push(char),
                char => {
                    let mut utf8 = [0; 4];
                    escape_hex(char.encode_utf8(&mut utf8).as_bytes(), out);
                }
            }
        }
        escape_hex(chunk.invalid(), out);
    }
}

fn escape_hex(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        // Writing to a string can not fail.
        let _ = write!(out, "\\x{byte:02x}");
    }
}

/// [`escape`] into a new string.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    escape(bytes, &mut out);
    out
}

/// Appends a record as a line, line feed included.
pub(crate) fn put_tsv(key: &[u8], value: &[u8], out: &mut String) {
    escape(key, out);
    out.push('\t');
    escape(value, out);
    out.push('\n');
}

/// Whether a terminal shows this character as what it is: not a control character, which it may obey; not a mark that turns the
/// direction of what follows, or breaks the line; and not a byte order mark, which at the start of a file is none of its content.
pub(crate) fn is_safe(char: char) -> bool {
    let is_format = matches!(
        char,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
    );
    !char.is_control() && !is_format
}

/// A text from elsewhere as messages show it: on one line, with escapes for what is not [safe](is_safe).
pub(crate) fn shown(text: &str) -> String {
    with_escapes(text, is_safe)
}

/// Like [`shown`], for a text that this program has put together itself, whose lines stay lines.
pub(crate) fn shown_lines(text: &str) -> String {
    with_escapes(text, |char| char == '\n' || is_safe(char))
}

fn with_escapes(text: &str, is_left: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        if is_left(char) {
            out.push(char);
        } else {
            out.extend(char.escape_default());
        }
    }
    out
}

/// JSON with `\uNNNN` for what is not [safe](is_safe). Nothing but line feeds between its parts and the inside of its strings
/// can hold such a character, so it stays the same JSON.
pub(crate) fn safe_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for char in json.chars() {
        if char == '\n' || is_safe(char) {
            out.push(char);
        } else {
            let mut units = [0; 2];
            for unit in char.encode_utf16(&mut units) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

/// A key as messages name it: quoted, and cut if it is long.
pub(crate) fn name(key: &[u8]) -> String {
    const CHARS_MAX: usize = 64;
    let key = escaped(key);
    match key.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("\"{}\"...", &key[..at]),
        None => format!("\"{key}\""),
    }
}

/// Undoes [`escape`].
pub(crate) fn unescape(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        let (byte, used) = match rest.get(at + 1) {
            Some(b't') => (b'\t', 2),
            Some(b'n') => (b'\n', 2),
            Some(b'r') => (b'\r', 2),
            Some(b'\\') => (b'\\', 2),
            Some(b'x') => match rest.get(at + 2..at + 4).and_then(hex_byte) {
                Some(byte) => (byte, 4),
                None => return Err("\\x is not followed by two hexadecimal digits".to_owned()),
            },
            Some(&other) => {
                return Err(format!(
                    "\\{} is no escape (\\t \\n \\r \\\\ \\xNN are; `--format raw-tsv` takes backslashes as they are)",
                    escaped(&[other])
                ));
            }
            None => {
                return Err("it ends in a lone backslash (write \\\\, or use `--format raw-tsv`)"
                    .to_owned());
            }
        };
        out.push(byte);
        rest = &rest[at + used..];
    }
    out.extend_from_slice(rest);
    Ok(out)
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    match digits {
        [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    }
}

fn parse_json(line: &[u8]) -> Result<Record, String> {
    let value: Value =
        serde_json::from_slice(line).map_err(|error| format!("it is not JSON: {error}"))?;
    let Value::Object(mut object) = value else {
        return Err("it is not an object like {\"key\": \"k\", \"value\": \"v\"}".to_owned());
    };
    let key = take_bytes(&mut object, "key")?;
    let value = take_bytes(&mut object, "value")?;
    Ok(Record { key, value })
}

fn take_bytes(object: &mut Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    match (object.remove(name), object.remove(&format!("{name}_hex"))) {
        (Some(Value::String(text)), None) => Ok(text.into_bytes()),
        (None, Some(Value::String(text))) => unhex(text.as_bytes())
            .ok_or_else(|| format!("\"{name}_hex\" is not a string of hexadecimal pairs")),
        (None, None) => Err(format!("there is no {name:?}")),
        (Some(_), Some(_)) => Err(format!("there are both {name:?} and \"{name}_hex\"")),
        _ => Err(format!("{name:?} is not a string")),
    }
}

/// Puts `bytes` into a JSON object: under `name` if they are UTF-8, else under `name_hex`.
pub(crate) fn put_json(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), Value::from(text)),
        Err(_) => object.insert(format!("{name}_hex"), Value::from(hex(bytes))),
    };
}

/// Undoes [`hex`]; `None` if the digits are not pairs of hexadecimal ones.
pub(crate) fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    digits.chunks(2).map(hex_byte).collect()
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_escaping() {
        let all: Vec<u8> = (0..=255).chain("é\u{85}\u{10ffff}\\x41\\".bytes()).collect();
        let text = escaped(&all);
        assert!(!text.contains(['\t', '\n', '\r']), "{text}");
        assert_eq!(unescape(text.as_bytes()).unwrap(), all);
    }

    #[test]
    fn readable_text_is_left_alone() {
        assert_eq!(escaped("Grüße, 世界!".as_bytes()), "Grüße, 世界!");
        assert_eq!(escaped(b"a\tb\\c\x00\xff"), "a\\tb\\\\c\\x00\\xff");
        // As the first of a file it would be taken for a byte order mark.
        assert_eq!(escaped("\u{feff}k".as_bytes()), "\\xef\\xbb\\xbfk");
    }

    #[test]
    fn long_keys_are_cut_in_messages() {
        assert_eq!(name(b"k"), "\"k\"");
        assert_eq!(name(b"\xff"), "\"\\xff\"");
        assert_eq!(name("ü".repeat(65).as_bytes()), format!("{:?}...", "ü".repeat(64)));
    }

    /// Each of these is obeyed by some terminal: an escape sequence, its C1 form, marks that turn the direction, line breaks.
    const HOSTILE: &str =
        "a\u{1b}[2J\u{9b}31m\u{85}\u{7f}\u{202e}\u{2066}\u{200f}\u{61c}\u{2028}\u{feff}\r\nb";

    #[test]
    fn nothing_hostile_passes_to_a_terminal() {
        let texts = [
            escaped(HOSTILE.as_bytes()),
            shown(HOSTILE),
            shown_lines(&HOSTILE.replace('\n', "")),
            safe_json(&Value::from(HOSTILE).to_string()),
            name(HOSTILE.as_bytes()),
        ];
        for text in texts {
            assert!(text.chars().all(is_safe), "{text:?}");
            assert!(text.contains('a') && text.contains("[2J"), "{text}");
        }
        assert_eq!(unescape(escaped(HOSTILE.as_bytes()).as_bytes()).unwrap(), HOSTILE.as_bytes());
        assert_eq!(shown("two\nlines"), "two\\nlines");
        assert_eq!(shown_lines("two\nlines \u{202e}"), "two\nlines \\u{202e}");
    }

    #[test]
    fn safe_json_is_the_same_json() {
        let value = Value::from(format!("{HOSTILE} \u{1f980} é \" \\"));
        let json = safe_json(&serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), value);
        assert!(json.contains('\u{1f980}') && json.contains('é'), "{json}");
    }

    #[test]
    fn everything_after_the_first_tab_is_the_value() {
        let record = Format::Tsv.parse(b"k\\t1\ta\tb\r").unwrap();
        assert_eq!(record, Record { key: b"k\t1".to_vec(), value: b"a\tb".to_vec() });
        let raw = Format::RawTsv.parse(b"C:\\temp\tv").unwrap();
        assert_eq!(raw.key, b"C:\\temp");
    }

    #[test]
    fn malformed_lines_say_why() {
        let cases: [(&[u8], &str); 7] = [
            (b"", "the line is empty"),
            (b"no tab", "no tab"),
            (b"\tvalue", "the key is empty"),
            (b"a\\q\tv", "\\q is no escape"),
            (b"a\\x4\tv", "two hexadecimal digits"),
            (b"a\tv\\x+1", "two hexadecimal digits"),
            (b"a\tv\\", "lone backslash"),
        ];
        for (line, expected) in cases {
            let error = Format::Tsv.parse(line).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        for line in
            ["[]", "{}", "{\"key\":1,\"value\":\"\"}", "{\"key\":\"k\",\"value_hex\":\"a\"}"]
        {
            assert!(Format::Jsonl.parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn json_lines_carry_any_bytes() {
        for value in [&b"text \" \n"[..], &b"\xff\x00"[..], &b""[..]] {
            let mut object = Map::new();
            put_json(&mut object, "key", b"k");
            put_json(&mut object, "value", value);
            let line = Value::Object(object).to_string();
            let record = Format::Jsonl.parse(line.as_bytes()).unwrap();
            assert_eq!(record, Record { key: b"k".to_vec(), value: value.to_vec() });
        }
    }
}
