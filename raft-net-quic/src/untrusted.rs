//! Text that a stranger wrote, on its way into errors and logs: shown in one line, without anything that a terminal or a reader of logs
//! would take for something else. And a limit on how many lines strangers cause.

use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longer texts are cut here.
const CHARS_MAX: usize = 512;

/// Shows a text of a stranger: line breaks, control characters, marks that change the direction of writing and whatever else is not printable
/// are escaped as in Rust's string literals, as is the backslash. Cut after 512 characters.
#[derive(Clone, Copy, Debug)]
pub struct Untrusted<'a>(pub &'a str);

impl fmt::Display for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, character) in self.0.chars().enumerate() {
            if at == CHARS_MAX {
                return f.write_str(" […]");
            }
            match character {
                '"' | '\'' => f.write_char(character)?,
                _ => write!(f, "{}", character.escape_debug())?,
            }
        }
        Ok(())
    }
}

impl Untrusted<'_> {
    /// The same of bytes that should be UTF-8.
    pub fn bytes(bytes: &[u8]) -> String {
        // Four bytes a character at most; what is left over says that there is more.
        let bytes = &bytes[..bytes.len().min(4 * (CHARS_MAX + 1))];
        Untrusted(&String::from_utf8_lossy(bytes)).to_string()
    }
}

/// Lets the first of many lines through, and then one in a while with the count of those that it stands for.
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    passed_over: u64,
}

/// How often a line that strangers cause is written.
const INTERVAL: Duration = Duration::from_secs(10);

impl Default for Throttle {
    fn default() -> Throttle {
        Throttle::every(INTERVAL)
    }
}

impl Throttle {
    /// One line an interval.
    pub fn every(interval: Duration) -> Throttle {
        Throttle { interval, state: Mutex::default() }
    }

    /// Whether to write the line that is due now, and how many were passed over since the last one.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < self.interval) {
            state.passed_over += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.passed_over))
    }

    /// What was passed over and is not going to be told by another line soon; to be called now and then.
    pub fn rest(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due =
            state.last.is_some_and(|last| now.saturating_duration_since(last) >= self.interval);
        if state.passed_over == 0 || !is_due {
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.passed_over))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_that_forges_a_line_or_moves_a_cursor_is_left() {
        let text =
            Untrusted::bytes(b"bye\n2026 ERROR \x1b[31mforged\r\xff\xc2\x9b \xe2\x80\xae \\n");
        assert_eq!(text, "bye\\n2026 ERROR \\u{1b}[31mforged\\r\u{fffd}\\u{9b} \\u{202e} \\\\n");
        assert_eq!(Untrusted("it's \"fine\", naïve 漢字").to_string(), "it's \"fine\", naïve 漢字");
    }

    #[test]
    fn the_first_line_is_written_and_then_one_an_interval_with_a_count() {
        let throttle = Throttle::every(Duration::from_secs(10));
        let start = Instant::now();
        let told: Vec<_> = [0, 1, 9, 10, 11, 30]
            .map(|second| throttle.pass_at(start + Duration::from_secs(second)))
            .into();
        assert_eq!(told, [Some(0), None, None, Some(2), None, Some(1)]);
    }

    proptest! {
        #[test]
        fn whatever_it_says_is_one_printable_line(bytes: Vec<u8>) {
            let text = Untrusted::bytes(&bytes);
            let forging = ['\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}', '\u{200f}', '\u{2028}'];
            prop_assert!(text.chars().all(|c| !c.is_control() && !forging.contains(&c)));
        }
    }
}
