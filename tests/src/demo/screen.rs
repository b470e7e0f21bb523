//! Where the story is shown: redrawn in place on a terminal, otherwise lines that come only when something changed.

use std::{
    io::{self, IsTerminal, Write},
    time::Instant,
};

use anyhow::{Context, Result};

/// Cursor to the start of the line that is that many lines up, and everything below erased.
fn back(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}F\x1b[J") }
}

/// Standard output.
#[derive(Debug)]
pub struct Screen {
    start: Instant,
    terminal: bool,
    drawn: usize,
    told: Vec<String>,
}

impl Screen {
    /// Starts the clock.
    pub fn start() -> Self {
        Self { start: Instant::now(), terminal: io::stdout().is_terminal(), drawn: 0, told: Vec::new() }
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Lines that stay.
    pub fn say(&mut self, text: &str) -> Result<()> {
        let erase = back(std::mem::take(&mut self.drawn));
        write(&format!("{erase}{text}\n"))
    }

    /// A line that stays, with the time.
    pub fn stamp(&mut self, text: &str) -> Result<()> {
        let line = format!("{:>6.1} s  {text}", self.seconds());
        self.say(&line)
    }

    /// The present state: on a terminal `block`, in the place of the one before; elsewhere those of the `lines` that
    /// were not among the last ones.
    pub fn show(&mut self, block: &str, lines: Vec<String>) -> Result<()> {
        if self.terminal {
            let erase = back(self.drawn);
            self.drawn = block.lines().count();
            // Without automatic wrapping a long line is cut, and the number of lines is what we count.
            return write(&format!("{erase}\x1b[?7l{block}\x1b[?7h"));
        }
        let told = std::mem::replace(&mut self.told, lines);
        let news: Vec<String> = self.told.iter().filter(|line| !told.contains(line)).cloned().collect();
        news.iter().try_for_each(|line| self.stamp(line))
    }

    /// The last block stays.
    pub fn keep(&mut self) {
        self.drawn = 0;
    }
}

/// A reader that has seen enough (`| head`) is no error.
fn write(text: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_erased_before_something_was_drawn() {
        assert_eq!(back(0), "");
        assert_eq!(back(7), "\x1b[7F\x1b[J");
    }
}
