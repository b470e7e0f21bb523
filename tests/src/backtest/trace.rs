//! Reading traces: gzipped CSV, one set a file.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use flate2::read::MultiGzDecoder;
use optipod_common::{replay::Trace, resources::Resource, time::Timestamp};

/// CPU is counted in millionths of a core, memory in KiB: fine enough that rounding does not show in small containers.
pub const CPU_UNITS: f64 = 1e6;
/// See [`CPU_UNITS`].
pub const MEMORY_UNITS: f64 = 1024.0;

/// Traces begin here: a midnight, so that days of a trace are days.
const START: i64 = 1_700_006_400;
const HEADER: &str = "series,t_seconds,cpu_cores,memory_mib";
/// A series with fewer samples says nothing.
const SHORTEST: usize = 20;

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

/// Reads the sets of a folder, or the recordings that ship when there is none; `only` names sets, empty = all.
pub fn read_sets(folder: Option<&Path>, shipped: &Path, only: &[String]) -> Result<Vec<Set>> {
    let mut sets = Vec::new();
    match folder {
        None => sets.push(recorded(&shipped.join("recorded-1s.csv.gz"))?),
        Some(folder) => {
            let entries = fs::read_dir(folder)
                .with_context(|| format!("cannot read the folder {}", folder.display()))?;
            let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
            paths.sort();
            for path in paths {
                let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                // recordings have columns of their own; an hour says little about daily behaviour
                let Some(name) = file.strip_suffix(".csv.gz").filter(|name| !name.starts_with("recorded-"))
                else {
                    continue;
                };
                if only.is_empty() || only.iter().any(|wanted| wanted == name) {
                    sets.push(read_set(&path, name)?);
                }
            }
            ensure!(
                !sets.is_empty(),
                "no <set>.csv.gz in {}: expected files with the columns {HEADER}",
                folder.display()
            );
        }
    }
    if let Some(missing) = only.iter().find(|wanted| sets.iter().all(|set| set.name != **wanted)) {
        let names: Vec<_> = sets.iter().map(|set| set.name.as_str()).collect();
        bail!("no set {missing:?}: there are {}", names.join(", "));
    }
    Ok(sets)
}

fn lines(path: &Path) -> Result<impl Iterator<Item = Result<String>>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let what = path.display().to_string();
    let lines = BufReader::new(MultiGzDecoder::new(file)).lines();
    Ok(lines.map(move |line| line.with_context(|| format!("cannot read {what}"))))
}

/// (second, use), in the order of the file.
type Values = Vec<(i64, f64)>;

fn read_set(path: &Path, name: &str) -> Result<Set> {
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
        let second: f64 = second.parse().with_context(|| format!("{}: t_seconds is not a number", at()))?;
        #[allow(clippy::cast_possible_truncation, reason = "saturates; seconds of a trace")]
        let second = second.round() as i64;
        let entry = values.entry(series.to_owned()).or_default();
        for (cell, into) in [(cpu, &mut entry.0), (memory, &mut entry.1)] {
            if !cell.is_empty() {
                let value: f64 = cell.parse().with_context(|| format!("{}: not a number", at()))?;
                // what is not a use is missing
                if value.is_finite() && value >= 0.0 {
                    into.push((second, value));
                }
            }
        }
    }
    let mut series = Vec::new();
    for (name, (cpu, memory)) in values {
        for (resource, values) in [(Resource::Cpu, cpu), (Resource::Memory, memory)] {
            series.extend(series_of(&name, resource, values));
        }
    }
    Ok(Set { name: name.to_owned(), series })
}

/// `None` for what is too short, or never used anything.
fn series_of(name: &str, resource: Resource, mut values: Values) -> Option<Series> {
    values.sort_by_key(|(second, _)| *second);
    values.dedup_by_key(|(second, _)| *second);
    let step = usual_step(&values)?;
    let units = match resource {
        Resource::Cpu => CPU_UNITS,
        Resource::Memory => MEMORY_UNITS,
    };
    let samples: Vec<_> = values
        .iter()
        .map(|(second, value)| (Timestamp::from_unix_seconds(START + second), in_units(*value, units)))
        .collect();
    let trace = Trace { step, samples };
    (trace.samples.len() >= SHORTEST && trace.peak() > 0).then(|| Series {
        name: name.to_owned(),
        resource,
        trace,
    })
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
fn recorded(path: &Path) -> Result<Set> {
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
        for (cell, into) in line?.trim().split(',').skip(1).zip(&mut values) {
            into.extend(cell.parse().ok().map(|value| (second, value)));
        }
    }
    let series = columns.iter().zip(values);
    let series = series.filter_map(|((name, resource), values)| series_of(name, *resource, values)).collect();
    Ok(Set { name: "recorded-1s".to_owned(), series })
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
pub fn fine_cpu(path: &Path) -> Result<Vec<FineCpu>> {
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
        let mut cells = line.trim().split(',').map(|cell| {
            let cell = cell.parse::<u64>();
            cell.with_context(|| format!("{}:{}: {line:?}", path.display(), number + 2))
        });
        let delta = cells.next().transpose()?.unwrap_or(0);
        for series in &mut series {
            let used = cells.next().transpose()?;
            series
                .readings
                .push((delta, used.with_context(|| format!("line {}: too few cells", number + 2))?));
        }
    }
    Ok(series)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

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
        let sets = read_sets(Some(folder.path()), folder.path(), &[]).unwrap();
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
            format!("{:#}", read_sets(Some(folder.path()), folder.path(), only).unwrap_err())
        };
        assert!(message("time,value\n", &[]).contains("expected \"series,t_seconds"));
        assert!(message(&format!("{HEADER}\na,0,zero,\n"), &[]).contains("a.csv.gz:2"));
        assert!(message(&format!("{HEADER}\na,0\n"), &[]).contains("four cells"));
        assert!(message(&format!("{HEADER}\n"), &["b".to_owned()]).contains('b'));
    }

    #[test]
    fn the_shipped_recordings_can_be_read() {
        let shipped = crate::paths::workspace().join("tests/data/traces");
        let sets = read_sets(None, &shipped, &[]).unwrap();
        assert_eq!((sets.len(), sets[0].series.len()), (1, 12));
        let fine = fine_cpu(&shipped.join("recorded-cpu-100hz.csv.gz")).unwrap();
        assert_eq!((fine.len(), fine[0].readings.len()), (6, 376_771));
    }
}
