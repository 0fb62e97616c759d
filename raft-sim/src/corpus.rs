//! The corpus: runs that once failed, one a line, with what they found. They stay, and a test runs them all.
//!
//! A line is `seed N`, `dense N` or `plan FILE`, and then what it found; a `#` begins a comment. Plan files stand beside the corpus.

use std::path::Path;

use crate::{Case, CaseError};

/// One line of the corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The run.
    pub case: Case,
    /// How the line names it.
    pub name: String,
    /// What it found.
    pub found: String,
}

/// Why a corpus can not be read.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// A line that names no run.
    #[error(
        "line {line} of the corpus, {text:?}, is not `seed N`, `dense N` or `plan FILE`, and then what it found"
    )]
    Line {
        /// Which, from 1 on.
        line: usize,
        /// The line.
        text: String,
    },
    /// A plan file that can not be run.
    #[error("line {line} of the corpus: {error}")]
    Plan {
        /// Which, from 1 on.
        line: usize,
        /// Why.
        error: CaseError,
    },
    /// A file that can not be read.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
}

/// Reads a corpus and the plan files that it names.
///
/// # Errors
/// [`CorpusError`]
pub fn read(file: &Path) -> Result<Vec<Known>, CorpusError> {
    let text = read_text(file)?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut all = Vec::new();
    for (place, line) in text.lines().enumerate() {
        let line_number = place + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = || CorpusError::Line { line: line_number, text: line.to_owned() };
        let mut words = line.splitn(3, char::is_whitespace);
        let (kind, name) = words.next().zip(words.next()).ok_or_else(bad)?;
        let found = words.next().unwrap_or_default().trim().to_owned();
        let number = || name.parse().map_err(|_| bad());
        let case = match kind {
            "seed" => Case::of_seed(number()?),
            "dense" => Case::dense(number()?),
            "plan" => Case::from_text(&read_text(&folder.join(name))?)
                .map_err(|error| CorpusError::Plan { line: line_number, error })?,
            _ => return Err(bad()),
        };
        if found.is_empty() {
            return Err(bad());
        }
        all.push(Known { case, name: format!("{kind} {name}"), found });
    }
    Ok(all)
}

fn read_text(path: &Path) -> Result<String, CorpusError> {
    std::fs::read_to_string(path)
        .map_err(|error| CorpusError::Io { path: path.display().to_string(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(name: &str, text: &str) -> Result<Vec<Known>, CorpusError> {
        let folder = std::env::temp_dir().join(format!("raft-sim-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let case = Case::of_seed(9);
        std::fs::write(folder.join("nine.toml"), case.to_text()).expect("a plan");
        std::fs::write(folder.join("corpus.txt"), text).expect("a corpus");
        let read = read(&folder.join("corpus.txt"));
        let _ = std::fs::remove_dir_all(&folder);
        read
    }

    #[test]
    fn each_line_names_a_run() {
        let text =
            "# first\n\nseed 4   a lost vote\ndense 5 a stale read\nplan nine.toml  two leaders\n";
        let all = corpus("good", text).expect("a corpus");
        let cases: Vec<&Case> = all.iter().map(|known| &known.case).collect();
        assert_eq!(cases, [&Case::of_seed(4), &Case::dense(5), &Case::of_seed(9)]);
        assert_eq!(all[0].found, "a lost vote");
        assert_eq!(all[2].name, "plan nine.toml");
    }

    #[test]
    fn a_line_that_names_none_is_refused_with_its_number() {
        for text in ["seed", "seed x what", "sead 4 what", "seed 4", "plan ten.toml what"] {
            let error = corpus("bad", &format!("# first\n{text}\n")).expect_err(text);
            let text = error.to_string();
            assert!(text.contains("line 2") || text.contains("ten.toml"), "{text}");
        }
    }
}
