//! Recorded series: CSV files, plain or with gzip.
//!
//! A series has CPU, memory or both. Between two rows CPU time is used evenly and memory stays; an empty cell is a
//! missing value, which the value before it fills (the first value, at the start). At its end a series begins again;
//! its last row lasts as long as the one before it. Time starts at the first row.
//!
//! The header tells the format:
//!
//! | header | a row says |
//! |---|---|
//! | `series,t_seconds,cpu_cores,memory_mib` | means from its time until the next row of the series |
//! | `t_s,NAME_cpu_cores,..,NAME_ws_mib_max,..` | CPU mean and memory maximum of the second that begins then |
//! | `delta_t_us,NAME_cpu_us,..` | CPU microseconds used in the time since the row before |
//! | `delta_t_us,NAME_current_kib,NAME_rss_kib,NAME_inactive_file_kib,..` | memory at that time; delta as above |

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use csv::{Reader, StringRecord};
use flate2::read::GzDecoder;
use thiserror::Error;

use super::memory::Level;

/// Most that a cell may say: 1,000,000 cores, or as many GiB.
const LARGEST: f64 = 1e9;

/// Why there is no series.
#[derive(Debug, Error)]
pub enum TraceError {
    /// No file of that name.
    #[error("no trace {set:?} in {}: expected one of {}", folder.display(), known.join(", "))]
    NoSet {
        /// As asked for.
        set: String,
        /// Where it was looked for.
        folder: PathBuf,
        /// What is there.
        known: Vec<String>,
    },
    /// The file has no series of that name with that resource.
    #[error("trace {set:?} has no {what} of {series:?}: expected one of {}", known.join(", "))]
    NoSeries {
        /// As asked for.
        set: String,
        /// As asked for.
        series: String,
        /// CPU or memory.
        what: &'static str,
        /// Series of the file that have it.
        known: Vec<String>,
    },
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: csv::Error,
    },
    /// It is not a trace.
    #[error("{}, line {line}: {message}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// What is wrong, and what is allowed.
        message: String,
    },
}

/// CPU time over time: a polyline of cumulative work that begins at (0, 0).
#[derive(Debug, PartialEq)]
pub struct CpuTrace {
    /// Microseconds since the start, and the work until then in nanocores times microseconds. Both ascend; at least
    /// two.
    points: Vec<(u64, u128)>,
}

/// Memory over time.
#[derive(Debug, PartialEq)]
pub struct MemoryTrace {
    /// Microseconds since the start, ascending from 0; at least one.
    points: Vec<(u64, Level)>,
    /// Of the whole, microseconds.
    length: u64,
}

/// The series of one file.
#[derive(Debug, Default, PartialEq)]
pub struct TraceSet {
    cpu: BTreeMap<String, Arc<CpuTrace>>,
    memory: BTreeMap<String, Arc<MemoryTrace>>,
}

impl CpuTrace {
    /// Work from one time to a later one, microseconds since the start; in nanocores times microseconds.
    pub fn work(&self, from: u64, to: u64) -> u128 {
        self.until(to).saturating_sub(self.until(from))
    }

    /// Length, microseconds.
    pub fn length(&self) -> u64 {
        self.points.last().map_or(1, |(at, _)| *at)
    }

    fn until(&self, at: u64) -> u128 {
        let (length, total) = self.points.last().copied().unwrap_or((1, 0));
        let (rounds, at) = (at / length, at % length);
        let next = self.points.partition_point(|(point, _)| *point <= at);
        let before =
            next.checked_sub(1).and_then(|before| self.points.get(before)).copied().unwrap_or((0, 0));
        let within = self.points.get(next).map_or(0, |(end, work)| {
            (work - before.1) * u128::from(at - before.0) / u128::from(end - before.0)
        });
        u128::from(rounds) * total + before.1 + within
    }
}

impl MemoryTrace {
    /// Memory at a time, microseconds since the start.
    pub fn at(&self, at: u64) -> Level {
        let at = at % self.length;
        let next = self.points.partition_point(|(point, _)| *point <= at);
        next.checked_sub(1)
            .and_then(|last| self.points.get(last))
            .map(|(_, level)| *level)
            .unwrap_or_default()
    }

    /// Length, microseconds.
    pub const fn length(&self) -> u64 {
        self.length
    }
}

impl TraceSet {
    /// Reads a file, by its name with or without `.gz`.
    ///
    /// # Errors
    /// When it cannot be read or is not a trace.
    pub fn load(path: &Path) -> Result<Self, TraceError> {
        let unreadable = |source: csv::Error| TraceError::Unreadable { path: path.to_owned(), source };
        let file = BufReader::new(File::open(path).map_err(|e| unreadable(e.into()))?);
        let packed = path.extension().is_some_and(|extension| extension == "gz");
        let bytes: Box<dyn Read> = if packed { Box::new(GzDecoder::new(file)) } else { Box::new(file) };
        Self::read(bytes).map_err(|error| match error {
            Unread::Csv(source) => unreadable(source),
            Unread::Content(line, message) => TraceError::Malformed { path: path.to_owned(), line, message },
        })
    }

    fn read(bytes: impl Read) -> Result<Self, Unread> {
        let mut reader = Reader::from_reader(bytes);
        let header = reader.headers()?.clone();
        let rows = reader.into_records();
        match header.get(0) {
            Some("series") if header.iter().eq(["series", "t_seconds", "cpu_cores", "memory_mib"]) => {
                Self::of_rows(rows)
            }
            Some("t_s" | "delta_t_us") => Self::of_columns(&header, rows),
            _ => Err(Unread::Content(1, "unknown header: expected series,t_seconds,cpu_cores,memory_mib or one of the recorded formats".to_owned())),
        }
    }

    /// One series a row.
    fn of_rows(rows: impl Iterator<Item = csv::Result<StringRecord>>) -> Result<Self, Unread> {
        let mut series: BTreeMap<String, [Column; 2]> = BTreeMap::new();
        for row in rows {
            let row = Row(row?);
            let name = row.0.get(0).unwrap_or_default();
            let at = row.micros(1, 1e6)?;
            let [cpu, memory] =
                series.entry(name.to_owned()).or_insert_with(|| [Column::new(name), Column::new(name)]);
            cpu.push(&row, at, row.value(2)?)?;
            memory.push(&row, at, row.value(3)?)?;
        }
        let mut set = Self::default();
        for (name, [cpu, memory]) in series {
            if let Some(trace) = cpu.rates() {
                set.cpu.insert(name.clone(), Arc::new(trace));
            }
            if let Some(trace) = memory.levels(|mib| Level::anonymous(bytes(mib * 1024.0))) {
                set.memory.insert(name, Arc::new(trace));
            }
        }
        Ok(set)
    }

    /// One series, or a third of one, a column.
    fn of_columns(
        header: &StringRecord,
        rows: impl Iterator<Item = csv::Result<StringRecord>>,
    ) -> Result<Self, Unread> {
        let deltas = header.get(0) == Some("delta_t_us");
        let mut columns: Vec<Column> = header.iter().skip(1).map(Column::new).collect();
        let mut at = 0;
        for row in rows {
            let row = Row(row?);
            at = if deltas { at + row.micros(0, 1.0)? } else { row.micros(0, 1e6)? };
            for (index, column) in columns.iter_mut().enumerate() {
                column.push(&row, at, row.value(index + 1)?)?;
            }
        }
        let mut set = Self::default();
        let mut parts: BTreeMap<String, [Option<Column>; 3]> = BTreeMap::new();
        for column in columns {
            let named = |suffix| column.name.strip_suffix(suffix).map(str::to_owned);
            if let Some(name) = named("_cpu_cores") {
                set.cpu.extend(column.rates().map(|trace| (name, Arc::new(trace))));
            } else if let Some(name) = named("_cpu_us") {
                set.cpu.extend(column.amounts().map(|trace| (name, Arc::new(trace))));
            } else if let Some(name) = named("_ws_mib_max") {
                let trace = column.levels(|mib| Level::anonymous(bytes(mib * 1024.0)));
                set.memory.extend(trace.map(|trace| (name, Arc::new(trace))));
            } else {
                let mut part = ["_current_kib", "_rss_kib", "_inactive_file_kib"].into_iter().zip(0..);
                let found = part.find_map(|(suffix, index)| Some((named(suffix)?, index)));
                let (name, index): (String, usize) = found.ok_or_else(|| {
                    Unread::Content(1, format!("column {:?} has no known suffix: expected _cpu_cores, _cpu_us, _ws_mib_max, _current_kib, _rss_kib or _inactive_file_kib", column.name))
                })?;
                if let Some(slot) = parts.entry(name).or_default().get_mut(index) {
                    *slot = Some(column);
                }
            }
        }
        for (name, [current, rss, inactive]) in parts {
            let (Some(current), Some(rss), Some(inactive)) = (current, rss, inactive) else {
                return Err(Unread::Content(
                    1,
                    format!("{name:?} lacks one of _current_kib, _rss_kib and _inactive_file_kib"),
                ));
            };
            set.memory.extend(Column::joined(&current, &rss, &inactive).map(|trace| (name, Arc::new(trace))));
        }
        Ok(set)
    }
}

enum Unread {
    Csv(csv::Error),
    Content(u64, String),
}

impl From<csv::Error> for Unread {
    fn from(error: csv::Error) -> Self {
        Self::Csv(error)
    }
}

struct Row(StringRecord);

impl Row {
    fn error(&self, message: String) -> Unread {
        Unread::Content(self.0.position().map_or(0, csv::Position::line), message)
    }

    /// A cell; `None` when it is empty.
    fn value(&self, column: usize) -> Result<Option<f64>, Unread> {
        let text = self.0.get(column).unwrap_or_default();
        if text.is_empty() {
            return Ok(None);
        }
        match text.parse::<f64>() {
            Ok(value) if (0.0..=LARGEST).contains(&value) => Ok(Some(value)),
            _ => Err(self.error(format!(
                "{text:?} is not a value: expected a number from 0 to {LARGEST}, or nothing"
            ))),
        }
    }

    /// A time.
    fn micros(&self, column: usize, scale: f64) -> Result<u64, Unread> {
        match self.value(column)? {
            Some(value) => Ok(whole(value * scale)),
            None => Err(self.error("the time is missing".to_owned())),
        }
    }
}

/// Values of one column with their times.
struct Column {
    name: String,
    rows: Vec<(u64, Option<f64>)>,
}

impl Column {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), rows: Vec::new() }
    }

    fn push(&mut self, row: &Row, at: u64, value: Option<f64>) -> Result<(), Unread> {
        if self.rows.last().is_some_and(|(last, _)| *last >= at) {
            return Err(row.error(format!("the time does not ascend in {:?}", self.name)));
        }
        self.rows.push((at, value));
        Ok(())
    }

    /// Times from 0, without gaps, and the end of the last row. `None` when there is no value at all.
    fn filled(&self) -> Option<(Vec<(u64, f64)>, u64)> {
        let mut last = self.rows.iter().find_map(|(_, value)| *value)?;
        let start = self.rows.first()?.0;
        let rows: Vec<(u64, f64)> = self
            .rows
            .iter()
            .map(|(at, value)| {
                last = value.unwrap_or(last);
                (at - start, last)
            })
            .collect();
        let end = match rows.as_slice() {
            [.., (before, _), (at, _)] => at + (at - before),
            _ => 1_000_000,
        };
        Some((rows, end))
    }

    /// Cores that hold until the next row.
    fn rates(&self) -> Option<CpuTrace> {
        let (rows, end) = self.filled()?;
        let (mut points, mut work) = (vec![(0, 0)], 0_u128);
        let ends = rows.iter().skip(1).map(|(at, _)| *at).chain([end]);
        for ((at, cores), end) in rows.iter().zip(ends) {
            work += u128::from(whole(cores * 1e9)) * u128::from(end - at);
            points.push((end, work));
        }
        Some(CpuTrace { points })
    }

    /// Microseconds used since the row before; those of the first row have no time.
    fn amounts(&self) -> Option<CpuTrace> {
        let (rows, _) = self.filled()?;
        let mut work = 0_u128;
        let points: Vec<(u64, u128)> = rows
            .iter()
            .enumerate()
            .map(|(index, (at, used))| {
                if index > 0 {
                    work += u128::from(whole(*used)) * 1_000_000_000;
                }
                (*at, work)
            })
            .collect();
        Some(CpuTrace { points }).filter(|trace| trace.points.len() > 1)
    }

    fn levels(&self, level: impl Fn(f64) -> Level) -> Option<MemoryTrace> {
        let (rows, length) = self.filled()?;
        let points = rows.into_iter().map(|(at, value)| (at, level(value))).collect();
        Some(MemoryTrace { points, length })
    }

    /// From KiB of the whole, the anonymous part and the inactive page cache: the rest is active page cache.
    fn joined(current: &Self, rss: &Self, inactive: &Self) -> Option<MemoryTrace> {
        let ((current, length), (rss, _), (inactive, _)) =
            (current.filled()?, rss.filled()?, inactive.filled()?);
        let rows = current.into_iter().zip(rss).zip(inactive);
        let points = rows
            .map(|(((at, current), (_, rss)), (_, inactive))| {
                let (current, inactive) = (bytes(current), bytes(inactive));
                // counters are read one after the other, so the parts may exceed the whole by a little
                let inactive = inactive.min(current);
                let anon = bytes(rss).min(current - inactive);
                (at, Level { anon, inactive_file: inactive, active_file: current - inactive - anon })
            })
            .collect();
        Some(MemoryTrace { points, length })
    }
}

fn bytes(kib: f64) -> u64 {
    whole(kib * 1024.0)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "cells are from 0 to 1e9")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// All nodes of a process read a file once.
static SHIPPED: LazyLock<Library> =
    LazyLock::new(|| Library::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/traces")));

/// A folder of trace files, each read once. Clones share what was read.
#[derive(Clone, Debug)]
pub struct Library {
    folder: PathBuf,
    read: Arc<Mutex<HashMap<String, Arc<TraceSet>>>>,
}

impl Default for Library {
    /// The traces that come with the project.
    fn default() -> Self {
        SHIPPED.clone()
    }
}

impl Library {
    /// Nothing is read before it is asked for.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, read: Arc::default() }
    }

    /// CPU of a series.
    ///
    /// # Errors
    /// When there is none, with the names of those that are there.
    pub fn cpu(&self, set: &str, series: &str) -> Result<Arc<CpuTrace>, TraceError> {
        let found = self.set(set)?;
        let missing = || missing("CPU", set, series, found.cpu.keys());
        found.cpu.get(series).map(Arc::clone).ok_or_else(missing)
    }

    /// Memory of a series.
    ///
    /// # Errors
    /// When there is none, with the names of those that are there.
    pub fn memory(&self, set: &str, series: &str) -> Result<Arc<MemoryTrace>, TraceError> {
        let found = self.set(set)?;
        let missing = || missing("memory", set, series, found.memory.keys());
        found.memory.get(series).map(Arc::clone).ok_or_else(missing)
    }

    fn set(&self, name: &str) -> Result<Arc<TraceSet>, TraceError> {
        // what was read is complete, so a panic elsewhere leaves nothing half done
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(set) = read.get(name) {
            return Ok(Arc::clone(set));
        }
        let files = ["csv.gz", "csv"].map(|extension| self.folder.join(format!("{name}.{extension}")));
        let path = files.into_iter().find(|path| path.is_file()).ok_or_else(|| self.no_set(name))?;
        let set = Arc::new(TraceSet::load(&path)?);
        read.insert(name.to_owned(), Arc::clone(&set));
        Ok(set)
    }

    fn no_set(&self, set: &str) -> TraceError {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut known: Vec<String> = names
            .filter_map(|name| {
                let stem = name.strip_suffix(".gz").unwrap_or(&name).strip_suffix(".csv")?;
                Some(stem.to_owned())
            })
            .collect();
        known.sort();
        TraceError::NoSet { set: set.to_owned(), folder: self.folder.clone(), known }
    }
}

/// As many names as fit into a message.
const NAMES: usize = 20;

fn missing<'a>(
    what: &'static str,
    set: &str,
    series: &str,
    known: impl Iterator<Item = &'a String>,
) -> TraceError {
    let known = known.take(NAMES).cloned().collect();
    TraceError::NoSeries { set: set.to_owned(), series: series.to_owned(), what, known }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> TraceSet {
        match TraceSet::read(text.as_bytes()) {
            Ok(set) => set,
            Err(Unread::Csv(error)) => panic!("{error}"),
            Err(Unread::Content(line, message)) => panic!("line {line}: {message}"),
        }
    }

    fn refused(text: &str) -> String {
        match TraceSet::read(text.as_bytes()) {
            Err(Unread::Content(line, message)) => format!("line {line}: {message}"),
            Err(Unread::Csv(error)) => error.to_string(),
            Ok(_) => panic!("not refused: {text}"),
        }
    }

    const SECOND: u64 = 1_000_000;
    /// Work of one core in one second.
    const CORE: u128 = 1_000_000_000 * 1_000_000;

    #[test]
    fn rates_hold_until_the_next_row_and_the_series_begins_again() {
        let set = set("series,t_seconds,cpu_cores,memory_mib\na,60,1,10\na,120,0.5,20\n");
        let (cpu, memory) = (&set.cpu["a"], &set.memory["a"]);
        assert_eq!(cpu.length(), 120 * SECOND);
        assert_eq!(cpu.work(59 * SECOND, 61 * SECOND), CORE * 3 / 2);
        assert_eq!(cpu.work(0, 240 * SECOND), CORE * 180);
        assert_eq!(cpu.work(119 * SECOND, 121 * SECOND), CORE * 3 / 2);
        assert_eq!(memory.at(60 * SECOND - 1).anon, 10 << 20);
        assert_eq!(memory.at(60 * SECOND).anon, 20 << 20);
        assert_eq!(memory.at(120 * SECOND).anon, 10 << 20);
    }

    #[test]
    fn missing_values_are_filled_and_empty_series_are_none() {
        let set = set("series,t_seconds,cpu_cores,memory_mib\na,0,,\na,1,2,\na,2,,\na,3,1,\n");
        assert_eq!(set.cpu["a"].work(0, 4 * SECOND), CORE * 7);
        assert!(set.memory.is_empty());
    }

    #[test]
    fn amounts_are_used_evenly_since_the_row_before() {
        let set = set("delta_t_us,x_cpu_us\n0,0\n10000,4000\n10000,0\n");
        let cpu = &set.cpu["x"];
        assert_eq!(cpu.length(), 20_000);
        assert_eq!(cpu.work(0, 5_000), CORE / 500);
        assert_eq!(cpu.work(0, 40_000), CORE / 125);
    }

    #[test]
    fn parts_of_memory_add_up_to_the_whole() {
        let set =
            set("delta_t_us,x_current_kib,x_rss_kib,x_inactive_file_kib\n0,100,60,30\n100000,100,90,30\n");
        let expected = Level { anon: 60 << 10, inactive_file: 30 << 10, active_file: 10 << 10 };
        assert_eq!(set.memory["x"].at(0), expected);
        let capped = Level { anon: 70 << 10, inactive_file: 30 << 10, active_file: 0 };
        assert_eq!(set.memory["x"].at(100_000), capped);
    }

    #[test]
    fn what_is_no_trace_is_refused_with_line_and_reason() {
        for (text, expected) in [
            ("a,b\n", "line 1: unknown header"),
            ("series,t_seconds,cpu_cores,memory_mib\na,0,x,\n", "line 2: \"x\" is not a value"),
            ("series,t_seconds,cpu_cores,memory_mib\na,0,-1,\n", "line 2: \"-1\" is not a value"),
            ("series,t_seconds,cpu_cores,memory_mib\na,,1,\n", "line 2: the time is missing"),
            ("series,t_seconds,cpu_cores,memory_mib\na,5,1,\na,5,1,\n", "line 3: the time does not ascend"),
            ("t_s,x_load\n", "line 1: column \"x_load\" has no known suffix"),
            ("delta_t_us,x_rss_kib\n", "line 1: \"x\" lacks one of"),
            ("t_s,x_cpu_cores\n0\n", "found record with 1 fields"),
        ] {
            let message = refused(text);
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn library_names_what_it_has() {
        let library = Library::default();
        let message = library.cpu("recorded", "x").unwrap_err().to_string();
        assert!(message.ends_with("recorded-1s, recorded-cpu-100hz, recorded-memory-10hz"), "{message}");
        let message = library.cpu("recorded-1s", "x").unwrap_err().to_string();
        assert!(message.contains("batch, javaapi, leaky, nodeapi, postgres, redis"), "{message}");
        assert!(library.memory("recorded-cpu-100hz", "redis").is_err());
        assert_eq!(library.memory("recorded-1s", "redis").unwrap().length() % SECOND, 0);
    }
}
