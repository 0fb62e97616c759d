//! Progress on a terminal, and silence elsewhere. Where it is silent, the caller's plain lines tell the story.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Whether a person is watching: only then anything moves or has a colour.
pub(crate) fn is_watched() -> bool {
    std::io::stdout().is_terminal() && std::io::stderr().is_terminal()
}

/// A bar that counts bytes of a file.
pub(crate) fn byte_bar(message: &str, bytes: u64) -> ProgressBar {
    bar(message, bytes, "{msg} {wide_bar} {bytes}/{total_bytes} {eta}")
}

/// A bar that counts records.
pub(crate) fn record_bar(message: &str, records: u64) -> ProgressBar {
    bar(message, records, "{msg} {wide_bar} {human_pos}/{human_len} {per_sec}")
}

fn bar(message: &str, length: u64, template: &str) -> ProgressBar {
    if !is_watched() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template);
    let bar = ProgressBar::new(length).with_message(message.to_owned());
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Something that turns while one waits.
pub(crate) fn spinner(message: &str) -> ProgressBar {
    if !is_watched() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner().with_message(message.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// The mark of a step that held.
pub(crate) fn tick(step: u32) -> String {
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if is_watched() && !is_plain {
        return format!("\x1b[32m{step}.\x1b[0m");
    }
    format!("{step}.")
}
