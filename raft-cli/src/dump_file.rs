//! The file that `raft dump` writes: records as TSV (see `text`) between a first line that says what it is and a last line that
//! says that it is whole. Neither line has a tab, so neither can be taken for a record. No I/O but through what it is given.
//!
//! | line | what |
//! | --- | --- |
//! | `#raft-dump 1` | the first: a dump, of this format version |
//! | `key<tab>value` | one record each |
//! | `#raft-dump end records=N blake3=HASH` | the end mark: how many records there are, and BLAKE3 of all lines before it, each without a carriage return and with its line feed |

use std::io::{self, Write};

use crate::text;

/// What both marks begin with.
const MARK: &str = "#raft-dump ";
/// The version that this program writes, and the only one that it reads.
const VERSION: &str = "1";

/// Writes a dump.
pub(crate) struct DumpWriter<W> {
    out: W,
    hasher: blake3::Hasher,
    records: u64,
    line: String,
}

impl<W: Write> DumpWriter<W> {
    /// Begins a dump.
    pub(crate) fn begin(out: W) -> io::Result<DumpWriter<W>> {
        let line = format!("{MARK}{VERSION}\n");
        let mut writer = DumpWriter { out, hasher: blake3::Hasher::new(), records: 0, line };
        writer.put_line()?;
        Ok(writer)
    }

    /// Writes a record.
    pub(crate) fn record(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.line.clear();
        text::put_tsv(key, value, &mut self.line);
        self.records += 1;
        self.put_line()
    }

    /// Says that this was all, and hands it on.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        let (records, hash) = (self.records, self.hasher.finalize());
        self.line = format!("{MARK}end records={records} blake3={hash}\n");
        self.put_line()?;
        self.out.flush()
    }

    fn put_line(&mut self) -> io::Result<()> {
        self.hasher.update(self.line.as_bytes());
        self.out.write_all(self.line.as_bytes())
    }
}

/// Whether a line of a TSV file is one of a dump's marks and no record.
pub(crate) fn is_mark(line: &[u8]) -> bool {
    line.starts_with(MARK.as_bytes()) && !line.contains(&b'\t')
}

/// Reads a TSV file's marks, if it has any.
#[derive(Debug)]
pub(crate) enum DumpReader {
    /// Nothing was read yet.
    Start,
    /// The file is a table that begins without a mark: nothing says where it ends.
    Table,
    /// Records of a dump.
    Records {
        /// Of all lines so far.
        hasher: Box<blake3::Hasher>,
        /// How many there were.
        records: u64,
    },
    /// The end mark was read.
    Ended,
}

/// How a file ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With its end mark.
    Marked,
    /// As a table does, which has none.
    Unmarked,
    /// Without the end mark that it should have.
    CutOff,
}

impl DumpReader {
    /// Takes the next line, and says whether it is a record. The error says what is wrong with it.
    pub(crate) fn line(&mut self, line: &[u8]) -> Result<bool, String> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let is_mark = is_mark(line);
        match self {
            DumpReader::Start if is_mark => {
                let version = &line[MARK.len()..];
                if version != VERSION.as_bytes() {
                    return Err(format!(
                        "it is a dump of format version {}, but this program reads version {VERSION}: use the version of raft that wrote it",
                        text::escaped(version)
                    ));
                }
                let hasher = Box::new(blake3::Hasher::new());
                *self = DumpReader::Records { hasher, records: 0 };
                self.count(line, false);
                Ok(false)
            }
            DumpReader::Start => {
                *self = DumpReader::Table;
                Ok(true)
            }
            DumpReader::Table => Ok(true),
            DumpReader::Records { records, .. } if is_mark => {
                let records = *records;
                if !self.is_end(line) {
                    return Err(format!(
                        "the end mark does not fit the {records} records before it: the dump was damaged or edited (to load it as it is, \
                         delete the lines that begin with {MARK:?})"
                    ));
                }
                *self = DumpReader::Ended;
                Ok(false)
            }
            DumpReader::Records { .. } => {
                self.count(line, true);
                Ok(true)
            }
            DumpReader::Ended => Err("it comes after the end mark of a dump".to_owned()),
        }
    }

    /// Whether this line is the end mark of what was read so far.
    pub(crate) fn is_end(&self, line: &[u8]) -> bool {
        let DumpReader::Records { hasher, records } = self else { return false };
        line == format!("{MARK}end records={records} blake3={}", hasher.finalize()).as_bytes()
    }

    /// How the file ended, if it ends here.
    pub(crate) fn ending(&self) -> Ending {
        match self {
            DumpReader::Start | DumpReader::Table => Ending::Unmarked,
            DumpReader::Records { .. } => Ending::CutOff,
            DumpReader::Ended => Ending::Marked,
        }
    }

    fn count(&mut self, line: &[u8], is_record: bool) {
        if let DumpReader::Records { hasher, records } = self {
            hasher.update(line).update(b"\n");
            *records += u64::from(is_record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(records: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = DumpWriter::begin(&mut out).unwrap();
        for (key, value) in records {
            writer.record(key, value).unwrap();
        }
        writer.finish().unwrap();
        out
    }

    /// How the text ended and how many records it had, or what was wrong.
    fn read(text: &[u8]) -> Result<(Ending, usize), String> {
        let mut reader = DumpReader::Start;
        let mut records = 0;
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            records += usize::from(reader.line(line.strip_suffix(b"\n").unwrap_or(line))?);
        }
        Ok((reader.ending(), records))
    }

    const RECORDS: [(&[u8], &[u8]); 3] =
        [(b"#raft-dump end\t", b""), (b"b", b"x\ny"), (b"c", b"\xff")];

    #[test]
    fn a_dump_reads_back() {
        assert_eq!(read(&dump(&RECORDS)), Ok((Ending::Marked, 3)));
        assert_eq!(read(&dump(&[])), Ok((Ending::Marked, 0)));
        assert_eq!(read(b"a\tb\n"), Ok((Ending::Unmarked, 1)));
        let windows = String::from_utf8(dump(&RECORDS)).unwrap().replace('\n', "\r\n");
        assert_eq!(read(windows.as_bytes()), Ok((Ending::Marked, 3)));
    }

    #[test]
    fn wherever_it_is_cut_it_is_not_whole() {
        let whole = dump(&RECORDS);
        // The last line feed is no loss.
        for cut in 1..whole.len() - 1 {
            let read = read(&whole[..cut]);
            assert!(
                read.as_ref().map_or(true, |(ending, _)| *ending != Ending::Marked),
                "{cut}: {read:?}"
            );
        }
    }

    #[test]
    fn whatever_byte_changes_it_is_noticed() {
        let whole = dump(&RECORDS);
        for at in 0..whole.len() - 1 {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            let read = read(&changed);
            assert!(
                read.as_ref().map_or(true, |(ending, _)| *ending != Ending::Marked),
                "{at}: {read:?}"
            );
        }
    }

    #[test]
    fn other_versions_and_what_follows_the_end_are_refused() {
        let error = read(b"#raft-dump 2\na\tb\n").unwrap_err();
        assert!(error.contains("format version 2, but this program reads version 1"), "{error}");
        let twice = [dump(&RECORDS), dump(&[])].concat();
        assert!(read(&twice).unwrap_err().contains("after the end mark"));
    }
}
