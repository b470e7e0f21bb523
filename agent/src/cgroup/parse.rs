//! The text of cgroup files becomes numbers. Pure; no allocation on success; a file that is cut short is an error,
//! never a smaller number.

use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::sample::CpuCounters;
use thiserror::Error;

/// Why the content of a file was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Nothing was read.
    #[error("file is empty")]
    Empty,
    /// The kernel ends each line; a last line without an end was cut.
    #[error("last line is cut short")]
    CutShort,
    /// A line that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// What should be a number of 64 bits is not.
    #[error("{0} is not a number")]
    Number(&'static str),
}

/// `cpu.stat`. Lines come in any order and new ones are ignored; the CFS lines are absent where the controller is off.
///
/// # Errors
/// A cut or malformed file.
pub fn cpu_stat(bytes: &[u8]) -> Result<CpuCounters, ParseError> {
    let mut counters = CpuCounters::default();
    let mut usage = None;
    for line in lines(bytes)? {
        let (key, value) = split(line);
        match key {
            b"usage_usec" => usage = Some(number("usage_usec", value)?),
            b"nr_periods" => counters.periods = number("nr_periods", value)?,
            b"nr_throttled" => counters.throttled_periods = number("nr_throttled", value)?,
            b"throttled_usec" => counters.throttled_micros = number("throttled_usec", value)?,
            _ => {}
        }
    }
    counters.usage_micros = usage.ok_or(ParseError::Missing("usage_usec"))?;
    Ok(counters)
}

/// `inactive_file` of `memory.stat`: bytes that the kernel takes back first.
///
/// # Errors
/// A cut or malformed file, or one without the line.
pub fn inactive_file(bytes: &[u8]) -> Result<u64, ParseError> {
    keyed(bytes, "inactive_file")
}

/// `oom_kill` of `memory.events`: processes killed by the OOM killer in the cgroup and below it.
///
/// # Errors
/// A cut or malformed file, or one without the line.
pub fn oom_kill(bytes: &[u8]) -> Result<u64, ParseError> {
    keyed(bytes, "oom_kill")
}

/// `populated` of `cgroup.events`: whether any process lives in the cgroup or below it.
///
/// # Errors
/// A cut or malformed file, or one without the line.
pub fn populated(bytes: &[u8]) -> Result<bool, ParseError> {
    keyed(bytes, "populated").map(|value| value != 0)
}

/// `shmem` of `memory.stat`: bytes of files in tmpfs and of shared memory.
///
/// # Errors
/// A cut or malformed file, or one without the line.
pub fn shmem(bytes: &[u8]) -> Result<u64, ParseError> {
    keyed(bytes, "shmem")
}

/// A file with one number, such as `memory.swap.current` or `cpu.max.burst`; `None` for `max`.
///
/// # Errors
/// A cut or malformed file.
pub fn amount(bytes: &[u8]) -> Result<Option<u64>, ParseError> {
    match single(bytes)? {
        b"max" => Ok(None),
        value => number("the amount", value).map(Some),
    }
}

/// `cpuset.cpus` or `cpuset.mems`: whether it names any.
///
/// # Errors
/// A cut file.
pub fn names_any(bytes: &[u8]) -> Result<bool, ParseError> {
    single(bytes).map(|list| !list.is_empty())
}

/// `total` of the line `some` of a pressure file: microseconds in which some task stalled.
///
/// # Errors
/// A cut or malformed file, or one without the line.
pub fn stalled_micros(bytes: &[u8]) -> Result<u64, ParseError> {
    let some =
        lines(bytes)?.find_map(|line| line.strip_prefix(b"some ")).ok_or(ParseError::Missing("some"))?;
    let total = some.split(|b| *b == b' ').find_map(|part| part.strip_prefix(b"total="));
    number("total", total.ok_or(ParseError::Missing("total"))?)
}

/// `memory.current`, bytes.
///
/// # Errors
/// A cut or malformed file.
pub fn memory_current(bytes: &[u8]) -> Result<u64, ParseError> {
    number("memory.current", single(bytes)?)
}

/// `memory.max`; `None` for `max`.
///
/// # Errors
/// A cut or malformed file.
pub fn memory_max(bytes: &[u8]) -> Result<Option<Bytes>, ParseError> {
    match single(bytes)? {
        b"max" => Ok(None),
        value => number("memory.max", value).map(|bytes| Some(Bytes(bytes))),
    }
}

/// `cpu.max` as millicores, rounded up; `None` for `max`.
///
/// # Errors
/// A cut or malformed file, or a period of zero.
pub fn cpu_max(bytes: &[u8]) -> Result<Option<MilliCpu>, ParseError> {
    let (quota, period) = split(single(bytes)?);
    let period = number("period of cpu.max", period)?;
    if period == 0 {
        return Err(ParseError::Number("period of cpu.max"));
    }
    if quota == b"max" {
        return Ok(None);
    }
    let quota = number("quota of cpu.max", quota)?;
    let millicores = (u128::from(quota) * 1000).div_ceil(u128::from(period));
    Ok(Some(MilliCpu(u64::try_from(millicores).unwrap_or(u64::MAX))))
}

/// `cpu.weight`, 1 to 10,000; `None` for the 0 of an idle cgroup (`cpu.idle`).
///
/// # Errors
/// A cut or malformed file.
pub fn cpu_weight(bytes: &[u8]) -> Result<Option<u16>, ParseError> {
    let weight = number("cpu.weight", single(bytes)?)?;
    let weight =
        u16::try_from(weight).ok().filter(|w| *w <= 10_000).ok_or(ParseError::Number("cpu.weight"))?;
    Ok(Some(weight).filter(|w| *w > 0))
}

fn complete(bytes: &[u8]) -> Result<&[u8], ParseError> {
    match bytes.split_last() {
        None => Err(ParseError::Empty),
        Some((b'\n', rest)) => Ok(rest),
        Some(_) => Err(ParseError::CutShort),
    }
}

fn lines(bytes: &[u8]) -> Result<impl Iterator<Item = &[u8]>, ParseError> {
    complete(bytes).map(|rest| rest.split(|b| *b == b'\n'))
}

fn single(bytes: &[u8]) -> Result<&[u8], ParseError> {
    complete(bytes)
}

/// Key and value; an absent value is empty, which is no number.
fn split(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|b| *b == b' ') {
        Some(at) => (line.get(..at).unwrap_or_default(), line.get(at + 1..).unwrap_or_default()),
        None => (line, &[]),
    }
}

fn keyed(bytes: &[u8], wanted: &'static str) -> Result<u64, ParseError> {
    for line in lines(bytes)? {
        let (key, value) = split(line);
        if key == wanted.as_bytes() {
            return number(wanted, value);
        }
    }
    Err(ParseError::Missing(wanted))
}

fn number(what: &'static str, digits: &[u8]) -> Result<u64, ParseError> {
    if digits.is_empty() {
        return Err(ParseError::Number(what));
    }
    digits
        .iter()
        .try_fold(0_u64, |value, digit| {
            let digit = digit.checked_sub(b'0').filter(|d| *d < 10)?;
            value.checked_mul(10)?.checked_add(u64::from(digit))
        })
        .ok_or(ParseError::Number(what))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CPU_STAT: &[u8] = b"usage_usec 27000\nuser_usec 20000\nsystem_usec 7000\nnice_usec 0\n\
        core_sched.force_idle_usec 0\nnr_periods 12\nnr_throttled 3\nthrottled_usec 4500\nnr_bursts 0\nburst_usec 0\n";

    #[test]
    fn cpu_stat_of_a_limited_container_is_read() {
        let expected =
            CpuCounters { usage_micros: 27_000, periods: 12, throttled_periods: 3, throttled_micros: 4500 };
        assert_eq!(cpu_stat(CPU_STAT), Ok(expected));
        let bare = b"system_usec 1\nusage_usec 5\n";
        assert_eq!(cpu_stat(bare), Ok(CpuCounters { usage_micros: 5, ..CpuCounters::default() }));
    }

    #[test]
    fn malformed_cpu_stat_is_refused() {
        let rows: [(&[u8], ParseError); 7] = [
            (b"", ParseError::Empty),
            (b"usage_usec 270", ParseError::CutShort),
            (b"user_usec 5\n", ParseError::Missing("usage_usec")),
            (b"usage_usec\n", ParseError::Number("usage_usec")),
            (b"usage_usec -5\n", ParseError::Number("usage_usec")),
            (b"usage_usec 18446744073709551616\n", ParseError::Number("usage_usec")),
            (b"usage_usec 5\nnr_periods x\n", ParseError::Number("nr_periods")),
        ];
        for (bytes, error) in rows {
            assert_eq!(cpu_stat(bytes), Err(error), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        assert_eq!(cpu_max(b"max 100000\n"), Ok(None));
        assert_eq!(cpu_max(b"50000 100000\n"), Ok(Some(MilliCpu(500))));
        assert_eq!(cpu_max(b"33333 100000\n"), Ok(Some(MilliCpu(334))));
        assert_eq!(memory_max(b"max\n"), Ok(None));
        assert_eq!(memory_max(b"134217728\n"), Ok(Some(Bytes(134_217_728))));
        assert_eq!(cpu_weight(b"79\n"), Ok(Some(79)));
        assert_eq!(cpu_weight(b"0\n"), Ok(None));
        assert_eq!(memory_current(b"4096\n"), Ok(4096));
    }

    #[test]
    fn malformed_limits_are_refused() {
        for bytes in [b"".as_slice(), b"max", b"\n", b"max 0\n", b"5\n", b"5 \n", b"x 100000\n", b"5 100000"]
        {
            assert!(cpu_max(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        for bytes in [b"".as_slice(), b"max", b"\n", b"12 \n", b"0x5\n"] {
            assert!(memory_max(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        for bytes in [b"".as_slice(), b"10001\n", b"70000\n", b"-1\n"] {
            assert!(cpu_weight(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn keyed_files_are_read_by_exact_key() {
        assert_eq!(oom_kill(b"low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n"), Ok(1));
        assert_eq!(oom_kill(b"oom 2\n"), Err(ParseError::Missing("oom_kill")));
        assert_eq!(inactive_file(b"anon 1\ninactive_file 77\n"), Ok(77));
        assert_eq!(populated(b"populated 1\nfrozen 0\n"), Ok(true));
        assert_eq!(populated(b"populated 0\nfrozen 0\n"), Ok(false));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = (cpu_stat(&bytes), cpu_max(&bytes), cpu_weight(&bytes), memory_max(&bytes));
            let _ = (memory_current(&bytes), inactive_file(&bytes), oom_kill(&bytes), populated(&bytes));
        }

        #[test]
        fn a_cut_file_never_gives_another_usage(at in 0..CPU_STAT.len()) {
            if let Ok(counters) = cpu_stat(&CPU_STAT[..at]) {
                prop_assert_eq!(counters.usage_micros, 27_000);
            }
        }
    }
}
