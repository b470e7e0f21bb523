//! The clocks of the process. Everything else gets time as a value.

use std::time::Duration;

use optipod_common::time::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::sampler::Now;

/// `CLOCK_MONOTONIC`.
pub fn monotonic() -> Duration {
    duration(clock_gettime(ClockId::Monotonic))
}

/// `CLOCK_REALTIME`.
pub fn wall() -> Timestamp {
    let now = duration(clock_gettime(ClockId::Realtime));
    Timestamp::from_unix_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

/// All that a tick needs.
pub fn now() -> Now {
    Now { monotonic: monotonic(), wall: wall(), own_cpu: duration(clock_gettime(ClockId::ProcessCPUTime)) }
}

/// Sleeps until a point of `CLOCK_MONOTONIC`; signals do not shorten it.
pub fn sleep_until(monotonic: Duration) {
    let (seconds, nanos) = (monotonic.as_secs(), monotonic.subsec_nanos());
    let Ok(seconds) = i64::try_from(seconds) else { return };
    let deadline = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    while rustix::thread::clock_nanosleep_absolute(ClockId::Monotonic, &deadline)
        == Err(rustix::io::Errno::INTR)
    {}
}

fn duration(time: Timespec) -> Duration {
    // these clocks are never negative and nanoseconds are below 10^9
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
