//! A workload whose usage is known: burns so much CPU, holds so much memory, shows what its cgroup says.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

/// One CFS period: the grid on which the kernel throttles.
const WINDOW: Duration = Duration::from_millis(100);
/// Where a container sees its own cgroup.
const CGROUP: &str = "/sys/fs/cgroup";
/// What `cgroup` prints.
const CGROUP_FILES: [&str; 4] = ["cpu.max", "cpu.weight", "memory.max", "memory.current"];

#[derive(Debug, Parser)]
#[command(name = "optipod-load", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    load: Load,
    #[command(subcommand)]
    command: Option<Commands>,
}

/// Runs until SIGTERM.
#[derive(Debug, Args)]
struct Load {
    /// CPU that it wants, in thousandths of a core; under a lower limit it is throttled.
    #[arg(long, env = "LOAD_CPU_MILLICORES", default_value_t = 0)]
    cpu_millicores: u32,
    /// Memory that it touches and holds.
    #[arg(long, env = "LOAD_MEMORY_MIB", default_value_t = 0)]
    memory_mib: usize,
    /// Answers every HTTP request on this port with `ok`.
    #[arg(long, env = "LOAD_SERVE")]
    serve: Option<u16>,
}

#[derive(Debug, Subcommand)]
enum Commands {
    /// Prints the limits and the usage of its own cgroup, one `name value` per line.
    Cgroup,
    /// Does nothing until SIGTERM.
    Sleep,
}

fn main() -> ExitCode {
    let Cli { load, command } = Cli::parse();
    let done = match command {
        Some(Commands::Cgroup) => cgroup(Path::new(CGROUP)).map(|text| print!("{text}")),
        Some(Commands::Sleep) => wait(),
        None => run(&load),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A handler of its own, since the kernel ignores the default action for process 1 of a container.
fn wait() -> Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot handle signals")?;
    signals.forever().next();
    Ok(())
}

fn run(load: &Load) -> Result<()> {
    let &Load { cpu_millicores, memory_mib, serve } = load;
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot handle signals")?;
    for share in shares(cpu_millicores) {
        thread::spawn(move || burn(share));
    }
    if let Some(port) = serve {
        let listener =
            TcpListener::bind(("0.0.0.0", port)).with_context(|| format!("cannot listen on port {port}"))?;
        thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(answer(stream))));
    }
    // Not zero: pages of zeroes may never be touched.
    let memory = vec![1_u8; memory_mib << 20];
    println!("cpu {cpu_millicores}m, memory {memory_mib}Mi");
    signals.forever().next();
    drop(std::hint::black_box(memory));
    Ok(())
}

/// Busy time per window of each thread.
fn shares(millicores: u32) -> Vec<Duration> {
    let threads = millicores.div_ceil(1000);
    let busy = |thread: u32| WINDOW * (millicores - thread * 1000).min(1000) / 1000;
    (0..threads).map(busy).collect()
}

/// Windows follow a fixed grid: time lost to throttling is not made up for, as with a steady stream of requests.
fn burn(busy: Duration) {
    let start = Instant::now();
    loop {
        let into =
            Duration::from_nanos((start.elapsed().as_nanos() % WINDOW.as_nanos()).try_into().unwrap_or(0));
        if into < busy {
            std::hint::spin_loop();
        } else {
            thread::sleep(WINDOW.saturating_sub(into));
        }
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    // One read is enough: what is asked does not matter.
    let _read = stream.read(&mut [0; 1024])?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
}

fn cgroup(folder: &Path) -> Result<String> {
    let line = |file: &str| {
        let path = folder.join(file);
        let value = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(format!("{file} {}\n", value.trim()))
    };
    CGROUP_FILES.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_above_one_core_is_spread_over_threads() {
        assert_eq!(shares(0), []);
        assert_eq!(shares(250), [Duration::from_millis(25)]);
        assert_eq!(shares(2500), [WINDOW, WINDOW, Duration::from_millis(50)]);
    }

    #[test]
    fn cgroup_prints_one_value_per_line() {
        let folder = tempfile::tempdir().unwrap();
        for file in CGROUP_FILES {
            fs::write(folder.path().join(file), "max 100000\n").unwrap();
        }
        let text = cgroup(folder.path()).unwrap();
        assert_eq!(text.lines().next(), Some("cpu.max max 100000"));
        assert_eq!(text.lines().count(), CGROUP_FILES.len());
    }
}
