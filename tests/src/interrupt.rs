//! Ctrl-C and SIGTERM become a flag that every wait loop asks for, so that cleaning up is ordinary error handling.

use std::sync::{Arc, OnceLock, atomic::AtomicBool, atomic::Ordering};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on SIGINT and SIGTERM only raise the flag; a second signal ends the process at once. Calling it again is fine.
pub fn install() -> Result<()> {
    let flag = Arc::new(AtomicBool::new(false));
    if FLAG.set(Arc::clone(&flag)).is_err() {
        return Ok(()); // Installed before: a second set would take the first signal for the second.
    }
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))
            .context("cannot install a signal handler")?;
        signal_hook::flag::register(signal, Arc::clone(&flag)).context("cannot install a signal handler")?;
    }
    Ok(())
}

/// Whether the person asked to stop.
pub fn raised() -> bool {
    FLAG.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// An error once the person asked to stop; call it wherever the lab waits.
pub fn check() -> Result<()> {
    if raised() {
        bail!("interrupted");
    }
    Ok(())
}
