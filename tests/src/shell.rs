//! A root shell in a guest, over its debug port; reachable only inside the instance's namespace.

use std::{
    io::{self, IsTerminal, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::network::{self, Namespace};

const PORT: u16 = 22;
/// A guest answers within milliseconds; while it boots there is nobody to connect to.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest silence of a command.
const SILENCE: Duration = Duration::from_mins(1);
/// Printed after the command with its exit status; nothing else prints this.
const END: &str = "-=optipod-lab-end=-";

/// Output and exit status of a command in a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Standard output and error, as they came.
    pub output: String,
    /// Exit status.
    pub status: u8,
}

/// Runs a shell command in node `index`.
pub fn run(namespace: &Namespace, index: u8, shell_command: &str) -> Result<Done> {
    let mut stream = connect(namespace, index)?;
    stream.set_read_timeout(Some(SILENCE)).context("cannot set a timeout")?;
    // The subshell keeps `exit` and standard input of the command away from the shell that reports the status.
    let script = format!("(\n{shell_command}\n) </dev/null 2>&1; echo \"{END}$?\"; exit\n");
    stream.write_all(script.as_bytes()).context("cannot write to the guest's shell")?;
    let mut bytes = Vec::new();
    stream
        .read_to_end(&mut bytes)
        .with_context(|| format!("no answer from the guest to `{shell_command}`"))?;
    parse(&String::from_utf8_lossy(&bytes))
        .with_context(|| format!("the guest's shell broke off in `{shell_command}`"))
}

/// As [`run`]; another exit status than 0 is an error that shows the output.
pub fn output(namespace: &Namespace, index: u8, shell_command: &str) -> Result<String> {
    let Done { output, status } = run(namespace, index, shell_command)?;
    if status != 0 {
        bail!("`{shell_command}` in the guest ended with {status}: {}", output.trim());
    }
    Ok(output)
}

/// Joins standard input and output to a shell in the guest, without a terminal of its own.
pub fn interactive(namespace: &Namespace, index: u8) -> Result<()> {
    let mut stream = connect(namespace, index)?;
    // A terminal gets prompts. A pipe gets the plain shell: the first one has read ahead what a second one would miss.
    let start: &[u8] = if io::stdin().is_terminal() { b"exec sh -i 2>&1\n" } else { b"exec 2>&1\n" };
    stream.write_all(start).context("cannot write to the guest's shell")?;
    let mut writer = stream.try_clone().context("cannot duplicate a connection")?;
    thread::spawn(move || {
        // Either side may end the session: there is nobody to tell.
        drop(io::copy(&mut io::stdin().lock(), &mut writer));
        drop(writer.write_all(b"\nexit\n"));
        drop(writer.shutdown(Shutdown::Write));
    });
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).context("cannot read from the guest")?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        let mut output = io::stdout().lock();
        output.write_all(bytes).and_then(|()| output.flush()).context("cannot write to standard output")?;
    }
}

fn connect(namespace: &Namespace, index: u8) -> Result<TcpStream> {
    let stream = namespace.connect(SocketAddr::from((network::node(index), PORT)), CONNECT)?;
    stream.set_nodelay(true).context("cannot configure a connection")?;
    Ok(stream)
}

fn parse(text: &str) -> Result<Done> {
    let (output, status) = text.rsplit_once(END).context("no exit status")?;
    let status = status.trim().parse().context("no number in the exit status")?;
    Ok(Done { output: output.to_owned(), status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_without_final_newline_and_status_are_told_apart() {
        assert_eq!(
            parse(&format!("max 100000{END}3\n")).unwrap(),
            Done { output: "max 100000".to_owned(), status: 3 }
        );
        assert!(parse("half an answ").is_err());
    }
}
