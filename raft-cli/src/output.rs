//! What commands print on stdout, and what it means when that fails. Not about what they print.

use std::fmt::Display;
use std::io::{self, Write as _};

use serde::Serialize;

use crate::exit::{Code, OrFail as _, Outcome};
use crate::text;

/// Prints a line, at once. `println!` would panic where this fails: on a full disk, or when nobody reads any more.
pub(crate) fn say(line: impl Display) -> Outcome {
    let mut out = io::stdout().lock();
    written(writeln!(out, "{line}").and_then(|()| out.flush()))
}

/// Prints a value as JSON over several lines.
pub(crate) fn say_json(value: &impl Serialize) -> Outcome {
    say(text::safe_json(&serde_json::to_string_pretty(value)?))
}

/// Says of a failed write that it was stdout's.
pub(crate) fn written<T>(result: io::Result<T>) -> Outcome<T> {
    result.or_fail(Code::Failed, || "can not write to stdout".to_owned())
}
