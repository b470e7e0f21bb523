//! Reading traces: gzipped CSV, one set a file.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use flate2::read::MultiGzDecoder;
use optipod_common::{replay::Trace, resources::Resource, time::Timestamp};
use serde::Serialize;

/// CPU is counted in millionths of a core, memory in KiB: fine enough that rounding does not show in small containers.
pub const CPU_UNITS: f64 = 1e6;
/// See [`CPU_UNITS`].
pub const MEMORY_UNITS: f64 = 1024.0;
/// [`CPU_UNITS`] in a millicore.
pub const UNITS_PER_MILLICORE: u64 = 1000;
/// A trace counts memory in KiB.
pub const BYTES_PER_UNIT: u64 = 1024;

/// Traces begin here: a midnight, so that days of a trace are days.
const START: i64 = 1_700_006_400;
const SUFFIX: &str = ".csv.gz";
const HEADER: &str = "series,t_seconds,cpu_cores,memory_mib";
/// A series with fewer samples says nothing.
const SHORTEST: usize = 20;
const LONGEST_STEP: Duration = Duration::from_secs(3600);
/// More than any container has: sums of what is below stay far from the end of 64 bits.
const MOST_CORES: f64 = 100_000.0;
/// See [`MOST_CORES`].
const MOST_MEBIBYTES: f64 = 1e9;
/// Three thousand years.
const LATEST_SECOND: f64 = 1e11;
/// Two readings of a fine recording are 10 ms apart; longer than this is none.
const LONGEST_READING: u64 = 10_000_000;

/// Series from one source.
#[derive(Debug, Clone)]
pub struct Set {
    /// Name of its file.
    pub name: String,
    /// In the order of their names.
    pub series: Vec<Series>,
}

/// One resource of one container.
#[derive(Debug, Clone)]
pub struct Series {
    /// Name within the set.
    pub name: String,
    /// Which resource.
    pub resource: Resource,
    /// Use in [`CPU_UNITS`] or [`MEMORY_UNITS`].
    pub trace: Trace,
}

/// How many series are not replayed, by the reason.
pub type Skipped = BTreeMap<Useless, usize>;

/// Why a series is not replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Useless {
    /// It has fewer than 20 samples.
    #[serde(rename = "too-short")]
    TooShort,
    /// Its samples are more than an hour apart: such a mean says nothing about what a container needs.
    #[serde(rename = "too-coarse")]
    TooCoarse,
    /// It never used anything.
    #[serde(rename = "unused")]
    Unused,
}

impl fmt::Display for Useless {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => write!(out, "fewer than {SHORTEST} samples"),
            Self::TooCoarse => write!(out, "samples more than {} s apart", LONGEST_STEP.as_secs()),
            Self::Unused => out.write_str("nothing used"),
        }
    }
}

/// The recording of an hour at one sample a second.
const RECORDED: &str = "recorded-1s";
/// The recording that CPU limits are replayed on.
pub const RECORDED_FINE: &str = "recorded-cpu-100hz";

/// What a run is about.
#[derive(Debug, Clone)]
pub struct Traces {
    /// Sets that are replayed.
    pub sets: Vec<Set>,
    /// What is not.
    pub skipped: Skipped,
    /// CPU of each 10 ms, for limits.
    pub fine: Vec<FineCpu>,
}

/// Reads the sets of a folder, or the recordings that ship when there is none; `only` names sets, empty = all. Of a
/// folder the recordings are left out unless they are named: an hour says little about daily behaviour.
pub fn read(folder: Option<&Path>, shipped: &Path, only: &[String]) -> Result<Traces> {
    let names = names(folder)?;
    let known = || names.iter().map(String::as_str).chain([RECORDED, RECORDED_FINE]);
    if let Some(missing) = only.iter().find(|wanted| known().all(|name| name != **wanted)) {
        bail!("no set {missing:?}: there are {}", known().collect::<Vec<_>>().join(", "));
    }
    let asked = |name: &str| only.iter().any(|wanted| wanted == name);
    let recording = |name| {
        let own = folder.map(|folder| folder.join(file(name))).filter(|path| path.exists());
        own.unwrap_or_else(|| shipped.join(file(name)))
    };
    let (mut sets, mut useless) = (Vec::new(), Skipped::new());
    if let Some(folder) = folder {
        for name in names.iter().filter(|name| only.is_empty() || asked(name)) {
            sets.push(read_set(&folder.join(file(name)), name, &mut useless)?);
        }
    }
    if asked(RECORDED) || (only.is_empty() && folder.is_none()) {
        sets.push(recorded(&recording(RECORDED), &mut useless)?);
    }
    let fine = only.is_empty() || asked(RECORDED_FINE);
    let fine = if fine { fine_cpu(&recording(RECORDED_FINE))? } else { Vec::new() };
    Ok(Traces { sets, skipped: useless, fine })
}

fn file(name: &str) -> String {
    format!("{name}{SUFFIX}")
}

/// Names of the sets of a folder, without recordings: those have columns of their own.
fn names(folder: Option<&Path>) -> Result<Vec<String>> {
    let Some(folder) = folder else { return Ok(Vec::new()) };
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        names.extend(name.filter(|name| !name.starts_with("recorded-")).map(str::to_owned));
    }
    names.sort();
    ensure!(
        !names.is_empty(),
        "no <set>{SUFFIX} in {}: expected files with the columns {HEADER}",
        folder.display()
    );
    Ok(names)
}

fn lines(path: &Path) -> Result<impl Iterator<Item = Result<String>>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let what = path.display().to_string();
    let lines = BufReader::new(MultiGzDecoder::new(file)).lines();
    Ok(lines.map(move |line| line.with_context(|| format!("cannot read {what}"))))
}

/// (second, use), in the order of the file.
type Values = Vec<(i64, f64)>;

fn read_set(path: &Path, name: &str, skipped: &mut Skipped) -> Result<Set> {
    let mut lines = lines(path)?;
    let header = lines.next().transpose()?.unwrap_or_default();
    ensure!(header.trim() == HEADER, "{}: first line is {header:?}, expected {HEADER:?}", path.display());
    let mut values: BTreeMap<String, (Values, Values)> = BTreeMap::new();
    for (number, line) in lines.enumerate() {
        let line = line?;
        let at = || format!("{}:{}: {line:?}", path.display(), number + 2);
        let mut cells = line.trim_end().rsplitn(4, ',');
        let (memory, cpu, second, series) = (cells.next(), cells.next(), cells.next(), cells.next());
        let (Some(memory), Some(cpu), Some(second), Some(series)) = (memory, cpu, second, series) else {
            bail!("{}: expected four cells", at());
        };
        let second = time(second).with_context(at)?;
        let entry = values.entry(series.to_owned()).or_default();
        for (cell, into, resource) in
            [(cpu, &mut entry.0, Resource::Cpu), (memory, &mut entry.1, Resource::Memory)]
        {
            into.extend(used(cell, resource).with_context(at)?.map(|value| (second, value)));
        }
    }
    let mut series = Vec::new();
    for (name, (cpu, memory)) in values {
        for (resource, values) in [(Resource::Cpu, cpu), (Resource::Memory, memory)] {
            series.extend(series_of(&name, resource, values, skipped));
        }
    }
    Ok(Set { name: name.to_owned(), series })
}

/// The whole second that a time belongs to.
fn time(cell: &str) -> Result<i64> {
    let second: f64 = cell.parse().with_context(|| format!("t_seconds: {cell:?} is not a number"))?;
    ensure!(
        second.abs() <= LATEST_SECOND,
        "t_seconds: {cell:?} is not between -{LATEST_SECOND} and {LATEST_SECOND}"
    );
    #[allow(clippy::cast_possible_truncation, reason = "bounded")]
    let second = second.round() as i64;
    Ok(second)
}

/// `None` for what is not a use: an empty cell, less than nothing.
fn used(cell: &str, resource: Resource) -> Result<Option<f64>> {
    if cell.is_empty() {
        return Ok(None);
    }
    let value: f64 = cell.parse().with_context(|| format!("{cell:?} is not a number"))?;
    let (most, unit) = match resource {
        Resource::Cpu => (MOST_CORES, "cores"),
        Resource::Memory => (MOST_MEBIBYTES, "MiB"),
    };
    ensure!(value.is_nan() || value <= most, "{cell} {unit} are more than any container has: at most {most}");
    Ok((value >= 0.0).then_some(value))
}

/// `None` for what was not recorded, and for what is skipped.
fn series_of(name: &str, resource: Resource, values: Values, skipped: &mut Skipped) -> Option<Series> {
    let nothing = values.is_empty();
    let series = usable(name, resource, values);
    if let (Err(useless), false) = (&series, nothing) {
        *skipped.entry(*useless).or_default() += 1;
    }
    series.ok()
}

fn usable(name: &str, resource: Resource, mut values: Values) -> Result<Series, Useless> {
    values.sort_by_key(|(second, _)| *second);
    // of what is finer than seconds, or there twice, the highest counts
    values.dedup_by(|(second, value), (kept, highest)| {
        *highest = if second == kept { highest.max(*value) } else { *highest };
        second == kept
    });
    let step = usual_step(&values).filter(|_| values.len() >= SHORTEST).ok_or(Useless::TooShort)?;
    if step > LONGEST_STEP {
        return Err(Useless::TooCoarse);
    }
    let units = match resource {
        Resource::Cpu => CPU_UNITS,
        Resource::Memory => MEMORY_UNITS,
    };
    let samples: Vec<_> = values
        .iter()
        .map(|(second, value)| (Timestamp::from_unix_seconds(START + second), in_units(*value, units)))
        .collect();
    let trace = Trace { step, samples };
    let series = Series { name: name.to_owned(), resource, trace };
    if series.trace.peak() == 0 { Err(Useless::Unused) } else { Ok(series) }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "finite, not negative; saturates")]
fn in_units(value: f64, units: f64) -> u64 {
    (value * units).round() as u64
}

/// The median distance of two samples.
fn usual_step(values: &[(i64, f64)]) -> Option<Duration> {
    let mut steps: Vec<i64> =
        values.windows(2).filter_map(|pair| Some(pair.get(1)?.0 - pair.first()?.0)).collect();
    steps.sort_unstable();
    let middle = *steps.get(steps.len() / 2)?;
    u64::try_from(middle).ok().map(|step| Duration::from_secs(step.max(1)))
}

/// The project's own recording, one row a second: `t_s`, then a column for each workload and resource.
fn recorded(path: &Path, skipped: &mut Skipped) -> Result<Set> {
    let mut lines = lines(path)?;
    let header = lines.next().transpose()?.unwrap_or_default();
    let columns: Vec<(String, Resource)> = header
        .trim()
        .split(',')
        .skip(1)
        .map(|column| {
            let of = |suffix, resource| column.strip_suffix(suffix).map(|name| (name.to_owned(), resource));
            of("_cpu_cores", Resource::Cpu)
                .or_else(|| of("_ws_mib_max", Resource::Memory))
                .with_context(|| format!("{}: unknown column {column:?}", path.display()))
        })
        .collect::<Result<_>>()?;
    let mut values: Vec<Values> = vec![Vec::new(); columns.len()];
    for (second, line) in (0_i64..).zip(lines) {
        let line = line?;
        let cells = line.trim().split(',').skip(1).zip(&columns).zip(&mut values);
        for ((cell, (_, resource)), into) in cells {
            let value = used(cell, *resource)
                .with_context(|| format!("{}:{}: {line:?}", path.display(), second + 2))?;
            into.extend(value.map(|value| (second, value)));
        }
    }
    let series = columns.iter().zip(values);
    let series = series.filter_map(|((name, resource), values)| series_of(name, *resource, values, skipped));
    let series = series.collect();
    Ok(Set { name: RECORDED.to_owned(), series })
}

/// CPU time of each workload between two readings about 10 ms apart.
#[derive(Debug, Clone)]
pub struct FineCpu {
    /// Workload.
    pub name: String,
    /// (microseconds between the readings, microseconds of CPU used in them).
    pub readings: Vec<(u64, u64)>,
}

/// Reads `recorded-cpu-100hz.csv.gz`.
fn fine_cpu(path: &Path) -> Result<Vec<FineCpu>> {
    let mut lines = lines(path)?;
    let header = lines.next().transpose()?.unwrap_or_default();
    let mut series: Vec<FineCpu> = header
        .trim()
        .split(',')
        .skip(1)
        .map(|column| FineCpu { name: column.trim_end_matches("_cpu_us").to_owned(), readings: Vec::new() })
        .collect();
    for (number, line) in lines.enumerate() {
        let line = line?;
        let at = || format!("{}:{}: {line:?}", path.display(), number + 2);
        let mut cells = line.trim().split(',').map(|cell| cell.parse::<u64>().with_context(at));
        let delta = cells.next().transpose()?.unwrap_or(0);
        ensure!(delta <= LONGEST_READING, "{}: {delta} us between two readings", at());
        for series in &mut series {
            let used = cells.next().transpose()?.with_context(|| format!("{}: too few cells", at()))?;
            ensure!(used as f64 <= delta as f64 * MOST_CORES, "{}: {used} us of CPU in {delta} us", at());
            series.readings.push((delta, used));
        }
    }
    Ok(series)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn shipped() -> std::path::PathBuf {
        crate::paths::workspace().join("tests/data/traces")
    }

    fn folder(text: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut file =
            GzEncoder::new(File::create(folder.path().join("a.csv.gz")).unwrap(), Compression::default());
        file.write_all(text.as_bytes()).unwrap();
        file.finish().unwrap();
        folder
    }

    #[test]
    fn an_empty_cell_is_a_gap_and_a_name_may_hold_a_comma() {
        let row = |n| format!("x,y,{},{},{}", n * 60, if n == 3 { "" } else { "0.25" }, n + 1);
        let rows = (0..30).map(row).collect::<Vec<_>>().join("\n");
        let folder = folder(&format!("{HEADER}\n{rows}"));
        let sets = read(Some(folder.path()), &shipped(), &[]).unwrap().sets;
        let series = &sets[0].series;
        assert_eq!((series.len(), series[0].name.as_str()), (2, "x,y"));
        assert_eq!((series[0].trace.samples.len(), series[0].trace.peak()), (29, 250_000));
        assert_eq!((series[1].trace.samples.len(), series[1].trace.peak()), (30, 30 * 1024));
        assert_eq!(series[0].trace.step, Duration::from_secs(60));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |text: &str, only: &[String]| {
            let folder = folder(text);
            format!("{:#}", read(Some(folder.path()), &shipped(), only).unwrap_err())
        };
        assert!(message("time,value\n", &[]).contains("expected \"series,t_seconds"));
        assert!(message(&format!("{HEADER}\na,0,zero,\n"), &[]).contains("a.csv.gz:2"));
        assert!(message(&format!("{HEADER}\na,0\n"), &[]).contains("four cells"));
        assert!(message(&format!("{HEADER}\n"), &["b".to_owned()]).contains('b'));
        for (row, expected) in [
            ("a,0,,1e14", "1e14 MiB are more than any container has"),
            ("a,0,100001,", "100001 cores are more than any container has: at most 100000"),
            ("a,0,inf,", "inf cores are more"),
            ("a,nan,1,", "t_seconds: \"nan\" is not between"),
            ("a,inf,1,", "t_seconds: \"inf\" is not between"),
            ("a,1e300,1,", "t_seconds: \"1e300\" is not between"),
            ("a,x,1,", "t_seconds: \"x\" is not a number"),
        ] {
            let message = message(&format!("{HEADER}\na,0,1,1\n{row}\n"), &[]);
            assert!(message.contains("a.csv.gz:3") && message.contains(expected), "{message}");
        }
    }

    #[test]
    fn of_what_is_finer_than_a_second_the_highest_counts() {
        let row = |n: u32| format!("x,{},{},", f64::from(n) / 10.0, if n % 10 == 3 { 0.5 } else { 0.25 });
        let rows = (0..300).map(row).collect::<Vec<_>>().join("\n");
        let folder = folder(&format!("{HEADER}\n{rows}\nx,7,0.75,\nx,7,0.25,\n"));
        let sets = read(Some(folder.path()), &shipped(), &[]).unwrap().sets;
        let trace = &sets[0].series[0].trace;
        assert_eq!((trace.step, trace.samples.len()), (Duration::from_secs(1), 31));
        let used: Vec<u64> = trace.samples.iter().map(|(_, used)| *used).collect();
        let expected = |second| match second {
            7 => 750_000,
            30 => 250_000,
            _ => 500_000,
        };
        assert_eq!(used, (0..31).map(expected).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_not_replayed_is_counted() {
        let rows = |name, step, count, cpu| {
            (0..count).map(|n| format!("{name},{},{cpu},\n", n * step)).collect::<Vec<_>>().concat()
        };
        let text = [
            rows("good", 60, 20, 1),
            rows("short", 60, 19, 1),
            rows("single", 60, 1, 1),
            rows("coarse", 7200, 20, 1),
            rows("idle", 60, 20, 0),
        ];
        let folder = folder(&format!("{HEADER}\n{}", text.concat()));
        let Traces { sets, skipped, .. } = read(Some(folder.path()), &shipped(), &[]).unwrap();
        let names: Vec<_> = sets[0].series.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names, ["good"]);
        let counted = [(Useless::TooShort, 2), (Useless::TooCoarse, 1), (Useless::Unused, 1)];
        assert_eq!(skipped, Skipped::from(counted));
    }

    #[test]
    fn what_is_less_than_nothing_is_a_gap() {
        for cell in ["-1", "-inf", "nan", ""] {
            assert_eq!(used(cell, Resource::Memory).unwrap(), None, "{cell:?}");
        }
        assert_eq!(used("1e9", Resource::Memory).unwrap(), Some(1e9));
    }

    #[test]
    fn the_shipped_recordings_can_be_read() {
        let Traces { sets, fine, .. } = read(None, &shipped(), &[]).unwrap();
        assert_eq!((sets.len(), sets[0].series.len()), (1, 12));
        assert_eq!((fine.len(), fine[0].readings.len()), (6, 376_771));
    }

    #[test]
    fn a_recording_may_be_named_beside_a_folder() {
        let rows = (0..30).map(|n| format!("x,{},0.25,1", n * 60)).collect::<Vec<_>>().join("\n");
        let folder = folder(&format!("{HEADER}\n{rows}"));
        let read = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
            let Traces { sets, fine, .. } = read(Some(folder.path()), &shipped(), &only).unwrap();
            (sets.into_iter().map(|set| set.name).collect::<Vec<_>>(), fine.len())
        };
        assert_eq!(read(&[]), (vec!["a".to_owned()], 6));
        assert_eq!(read(&[RECORDED]), (vec![RECORDED.to_owned()], 0));
        assert_eq!(read(&["a", RECORDED_FINE]), (vec!["a".to_owned()], 6));
    }
}
