//! Reads lines one by one, with their number and place, in bounded memory. Knows nothing of what they mean.

use std::io::{self, BufRead, Read as _};

/// A reader of lines.
pub(crate) struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    number: u64,
    offset: u64,
    bytes_max: usize,
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// Its number; the first is 1.
    pub(crate) number: u64,
    /// The offset of the byte after it, line feed included.
    pub(crate) end: u64,
    /// Its bytes without the line feed; `None` if there are more than allowed.
    pub(crate) bytes: Option<&'a [u8]>,
    /// Whether it has a line feed; only the last of a file may lack it.
    pub(crate) is_ended: bool,
}

impl<R: BufRead> Lines<R> {
    /// Lines of at most `bytes_max` bytes; the reader stands at `offset`, after `number` lines.
    pub(crate) fn new(reader: R, bytes_max: usize, number: u64, offset: u64) -> Lines<R> {
        Lines { reader, buffer: Vec::new(), number, offset, bytes_max }
    }

    /// The next line; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.buffer.clear();
        let limit = self.bytes_max as u64 + 1;
        let mut read = (&mut self.reader).take(limit).read_until(b'\n', &mut self.buffer)? as u64;
        if read == 0 {
            return Ok(None);
        }
        let mut is_ended = self.buffer.last() == Some(&b'\n');
        if is_ended {
            self.buffer.pop();
        }
        let too_long = self.buffer.len() > self.bytes_max;
        if too_long && !is_ended {
            let skipped;
            (skipped, is_ended) = self.skip_line()?;
            read += skipped;
        }
        let byte_order_mark: &[u8] = if self.offset == 0 { b"\xef\xbb\xbf" } else { b"" };
        self.number += 1;
        self.offset += read;
        let bytes = self.buffer.strip_prefix(byte_order_mark).unwrap_or(&self.buffer);
        let bytes = (!too_long).then_some(bytes);
        Ok(Some(Line { number: self.number, end: self.offset, bytes, is_ended }))
    }

    /// Consumes through the next line feed, and returns how many bytes that were, and whether there was one.
    fn skip_line(&mut self) -> io::Result<(u64, bool)> {
        let mut skipped = 0;
        loop {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                return Ok((skipped, false));
            }
            let end = available.iter().position(|&byte| byte == b'\n');
            let used = end.map_or(available.len(), |at| at + 1);
            self.reader.consume(used);
            skipped += used as u64;
            if end.is_some() {
                return Ok((skipped, true));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8], bytes_max: usize) -> Vec<(u64, u64, Option<Vec<u8>>)> {
        // A small buffer, so that lines straddle it.
        let reader = io::BufReader::with_capacity(3, text);
        let mut lines = Lines::new(reader, bytes_max, 0, 0);
        let mut seen = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            seen.push((line.number, line.end, line.bytes.map(<[u8]>::to_vec)));
        }
        seen
    }

    #[test]
    fn lines_have_numbers_and_ends() {
        let expected =
            vec![(1, 3, Some(b"ab".to_vec())), (2, 4, Some(vec![])), (3, 6, Some(b"cd".to_vec()))];
        assert_eq!(all(b"ab\n\ncd", 10), expected);
        assert_eq!(all(b"", 10), vec![]);
        assert_eq!(all(b"\xef\xbb\xbfa\n", 10), vec![(1, 5, Some(b"a".to_vec()))]);
    }

    #[test]
    fn only_the_last_line_may_lack_its_end() {
        for (text, ends) in
            [("a\nb", &[true, false][..]), ("a\n", &[true]), ("12345\n1234567", &[true, false])]
        {
            let mut lines = Lines::new(text.as_bytes(), 4, 0, 0);
            for end in ends {
                assert_eq!(lines.next().unwrap().unwrap().is_ended, *end, "{text:?}");
            }
            assert_eq!(lines.next().unwrap(), None);
        }
    }

    #[test]
    fn a_line_over_the_limit_is_named_and_skipped() {
        let expected =
            vec![(1, 5, Some(b"1234".to_vec())), (2, 17, None), (3, 19, Some(b"x".to_vec()))];
        assert_eq!(all(b"1234\n12345678901\nx\n", 4), expected);
        assert_eq!(all(b"12345", 4), vec![(1, 5, None)]);
        assert_eq!(all(b"12345\n", 4), vec![(1, 6, None)]);
    }
}
