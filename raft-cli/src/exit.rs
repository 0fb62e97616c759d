//! How a command ends: the exit codes that scripts may rely on, and the error that carries one. No printing but [`report`].

use std::fmt;
use std::process::ExitCode;

use crate::text;

/// The exit codes. 0 is success, and 2 is clap's for arguments that make no sense. Documented in `raft --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// Anything that has no code of its own.
    Failed = 1,
    /// The key does not exist, or the comparison of `cas` did not hold. Nothing was changed.
    NotFound = 3,
    /// No leader, no majority that follows it, no answer in time, or an answer that leaves the outcome unknown.
    Unavailable = 4,
    /// The configuration or the credentials are missing, malformed, or not accepted by the other side.
    Config = 5,
    /// The data folder can not be used: in use, of another cluster or version, damaged, or not writable.
    DataFolder = 6,
    /// The input is malformed, or a key or value is over the limit. Nothing was changed.
    Input = 7,
    /// The address can not be listened on.
    Address = 8,
    /// Two nodes hold different states at the same index, which no fault of one node explains.
    Diverged = 9,
    /// Told to stop by a signal before it was done. The number is that of a process that SIGINT ended.
    Interrupted = 130,
}

/// What is printed below `raft --help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  failed, for a reason that has no code of its own
  2  the arguments make no sense
  3  the key does not exist, or the comparison of `cas` did not hold
  4  unavailable: no leader, no majority that follows it, or no answer in time
  5  the configuration or the credentials are missing, malformed or not accepted
  6  the data folder can not be used
  7  the input is malformed, or a key or a value is over the limit
  8  the address can not be listened on
  9  two nodes hold different states at the same index (`status`)
  130  interrupted before it was done";

/// An error and the code to exit with.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What to exit with.
    pub(crate) code: Code,
    /// What happened, to what, and the remedy.
    pub(crate) error: anyhow::Error,
}

/// What every command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure in words.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure { code, error: anyhow::Error::msg(message.into()) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = String::new();
        for cause in self.error.chain().map(ToString::to_string) {
            // Many errors repeat their cause in their own words.
            if !told.ends_with(&cause) && !told.contains(&format!("{cause};")) {
                if !told.is_empty() {
                    told.push_str(": ");
                }
                told.push_str(&cause);
            }
        }
        f.write_str(&told)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure { code: Code::Failed, error: error.into() }
    }
}

/// Gives an error its exit code, and says what was being done.
pub(crate) trait OrFail<T> {
    /// Wraps the error in `message`, to exit with `code`.
    fn or_fail(self, code: Code, message: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: Into<anyhow::Error>> OrFail<T> for Result<T, E> {
    fn or_fail(self, code: Code, message: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| Failure { code, error: error.into().context(message()) })
    }
}

/// Prints a failure to stderr and turns it into the process's exit code.
pub(crate) fn report(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough (`raft dump | head`): not worth a word.
        Err(failure) if is_broken_pipe(&failure.error) => ExitCode::SUCCESS,
        Err(failure) => {
            // The text may quote a file, an argument or another process.
            eprintln!("error: {}", text::shown_lines(&failure.to_string()));
            ExitCode::from(failure.code as u8)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("can not listen on here: {source}; is the port taken?")]
    struct Told {
        source: std::io::Error,
    }

    #[test]
    fn a_cause_is_told_once() {
        let told = Told { source: std::io::Error::other("in use") };
        let failure = Err::<(), _>(told).or_fail(Code::Address, || "no node".to_owned());
        let failure = failure.unwrap_err().to_string();
        assert_eq!(failure, "no node: can not listen on here: in use; is the port taken?");
        let silent = anyhow::anyhow!("in use").context("can not listen");
        assert_eq!(Failure::from(silent).to_string(), "can not listen: in use");
    }
}
