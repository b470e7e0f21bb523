//! Running other programs: what was run, where its output went and its last lines are part of every error.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{interrupt, progress::HEARTBEAT};

/// How often a child that writes to a log is asked whether it has ended.
const POLL: Duration = Duration::from_millis(50);
/// How much of a log is shown when its program failed.
const TAIL_LINES: usize = 20;

/// A command with its arguments, standard input closed.
pub fn command<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Runs to the end and returns standard output; a failure carries standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let what = shown(command);
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("cannot start `{what}`"))?;
    if !status.success() {
        bail!("`{what}` failed ({status}): {}", String::from_utf8_lossy(&stderr).trim());
    }
    String::from_utf8(stdout).with_context(|| format!("`{what}` did not print UTF-8"))
}

/// As [`output`], with `input` on standard input.
pub fn output_with_input(command: &mut Command, input: &str) -> Result<String> {
    let what = shown(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start `{what}`"))?;
    let mut pipe = child.stdin.take().context("a child without standard input")?;
    thread::scope(|scope| {
        // On a thread of its own: a child that writes before it has read everything would block us both. It may also
        // end early without reading; its status tells.
        scope.spawn(move || drop(pipe.write_all(input.as_bytes())));
        let Output { status, stdout, stderr } =
            child.wait_with_output().context("cannot wait for a child process")?;
        if !status.success() {
            bail!("`{what}` failed ({status}): {}", String::from_utf8_lossy(&stderr).trim());
        }
        String::from_utf8(stdout).with_context(|| format!("`{what}` did not print UTF-8"))
    })
}

/// Runs to the end and drops the output.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs with all output in `log`, says every [`HEARTBEAT`] through `alive` that it still runs.
pub fn run_logged(command: &mut Command, log: &Path, mut alive: impl FnMut(Duration)) -> Result<()> {
    let what = shown(command);
    let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    let errors = file.try_clone().context("cannot duplicate a log descriptor")?;
    let mut child =
        command.stdout(file).stderr(errors).spawn().with_context(|| format!("cannot start `{what}`"))?;
    let start = Instant::now();
    let mut told = start;
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child process")? {
            break status;
        }
        if interrupt::raised() {
            // Ctrl-C reaches the child by itself; SIGTERM of the lab alone does not.
            drop(child.kill());
            drop(child.wait());
            bail!("interrupted during `{what}`");
        }
        if told.elapsed() >= HEARTBEAT {
            told = Instant::now();
            alive(start.elapsed());
        }
        thread::sleep(POLL);
    };
    if !status.success() {
        bail!("`{what}` failed ({status}); the end of its output:\n{}", tail(log, TAIL_LINES));
    }
    Ok(())
}

/// The last `lines` of a text file, empty when it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    last(&String::from_utf8_lossy(&bytes), lines)
}

/// The last `lines` lines of a text.
pub fn last(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let skip = all.len().saturating_sub(lines);
    all.into_iter().skip(skip).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_names_command_and_standard_error() {
        let error = run(&mut command("sh", ["-c", "echo broken >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c 'echo broken >&2; exit 3'") && error.ends_with("broken"), "{error}");
    }

    #[test]
    fn logged_failure_shows_the_end_of_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let error =
            run_logged(&mut command("sh", ["-c", "seq 100; exit 1"]), &log, |_| {}).unwrap_err().to_string();
        assert!(error.contains("\n100") && !error.contains("\n80\n"), "{error}");
    }
}
