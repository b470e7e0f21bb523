//! Recorded use from CSV.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use optipod_common::replay::{Usage, UsageSample};
use optipod_common::time::Timestamp;

use crate::output::shown;

const COLUMNS: &str = "t_seconds, cpu_cores, memory_mib, series";
/// More than any container has.
const MOST_CORES: f64 = 100_000.0;
const MOST_MEBIBYTES: f64 = 1e9;

/// Evidence is of seconds. A recorder's second may be a little short.
const SHORTEST_STEP: Duration = Duration::from_millis(900);

/// A longer mean says nothing about what a container needs.
const LONGEST_STEP: Duration = Duration::from_hours(1);

/// Where each column is.
struct Columns {
    time: usize,
    cpu: Option<usize>,
    memory: Option<usize>,
    series: Option<usize>,
}

/// Reads one series. An error names the line, what is wrong with it, and what is allowed.
pub fn read(text: &str, series: Option<&str>) -> Result<Usage> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let columns = columns(reader.headers()?)?;
    ensure!(series.is_none() || columns.series.is_some(), "--series: there is no column `series`");
    let (mut samples, mut names) = (Vec::new(), BTreeSet::new());
    for row in reader.records() {
        let row = row?;
        let line = row.position().map_or(0, csv::Position::line);
        let cell = |column: Option<usize>| column.and_then(|column| row.get(column)).unwrap_or_default();
        let name = cell(columns.series);
        names.insert(name.to_owned());
        if series.is_some_and(|series| series != name) {
            continue;
        }
        let sample = sample(cell(Some(columns.time)), cell(columns.cpu), cell(columns.memory));
        samples.push(sample.with_context(|| format!("line {line}"))?);
        if let [.., before, last] = &samples[..] {
            ensure!(
                series.is_some() || names.len() == 1,
                "has several series: choose one with --series: {}",
                list(&names)
            );
            ensure!(before.at < last.at, "line {line}: t_seconds is not above that of the line before");
        }
    }
    if samples.is_empty() {
        match series {
            Some(series) => bail!("no series is named {series:?}: expected one of {}", list(&names)),
            None => bail!("has no samples"),
        }
    }
    ensure!(samples.len() > 1, "has one sample: expected two or more, whose distance is their length");
    let mut steps: Vec<Duration> =
        samples.iter().zip(samples.iter().skip(1)).map(|(before, after)| after.at.since(before.at)).collect();
    steps.sort();
    // gaps are longer, nothing is shorter
    let least = steps.first().copied().unwrap_or_default();
    let step = steps.get((steps.len() - 1) / 2).copied().unwrap_or_default();
    ensure!(
        least * 2 > step,
        "samples are {} s apart, but some only {} s: expected equal distances, and gaps",
        step.as_secs_f64(),
        least.as_secs_f64()
    );
    let apart = step.as_secs_f64();
    ensure!(step >= SHORTEST_STEP, "samples are {apart} s apart: expected a second or more");
    ensure!(step <= LONGEST_STEP, "samples are {apart} s apart: expected an hour or less");
    Ok(Usage { step, samples })
}

fn columns(header: &csv::StringRecord) -> Result<Columns> {
    let at = |name: &str| header.iter().position(|column| column == name);
    let known = |column: &&str| COLUMNS.split(", ").any(|known| known == *column);
    if let Some(unknown) = header.iter().find(|column| !known(column)) {
        bail!("the column {} is not known: expected {COLUMNS}", shown(unknown));
    }
    let columns = Columns {
        time: at("t_seconds").with_context(|| format!("there is no column t_seconds: expected {COLUMNS}"))?,
        cpu: at("cpu_cores"),
        memory: at("memory_mib"),
        series: at("series"),
    };
    ensure!(
        columns.cpu.is_some() || columns.memory.is_some(),
        "there is no column cpu_cores and no column memory_mib"
    );
    Ok(columns)
}

fn sample(time: &str, cpu: &str, memory: &str) -> Result<UsageSample> {
    let time = number("t_seconds", time, 1e11)?.context("t_seconds: is empty")?;
    let cpu = number("cpu_cores", cpu, MOST_CORES)?;
    let memory = number("memory_mib", memory, MOST_MEBIBYTES)?;
    Ok(UsageSample {
        at: Timestamp::from_unix_micros(whole(time * 1e6).try_into()?),
        cpu: cpu.map(|cores| whole(cores * 10_000.0)),
        memory: memory.map(|mebibytes| whole(mebibytes * 1_048_576.0)),
    })
}

fn number(name: &str, text: &str, most: f64) -> Result<Option<f64>> {
    if text.is_empty() {
        return Ok(None);
    }
    let value = text.parse::<f64>().ok().filter(|value| (0.0..=most).contains(value));
    match value {
        Some(value) => Ok(Some(value)),
        None => bail!("{name}: {} is not a number from 0 to {most}", shown(text)),
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be a number far below 2^63 that is not negative"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

fn list(names: &BTreeSet<String>) -> String {
    let some: Vec<_> = names.iter().take(10).map(|name| shown(name)).collect();
    let more = if names.len() > some.len() { ", ..." } else { "" };
    format!("{}{more}", some.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_empty_cells_are_no_values() {
        let text = "series,t_seconds,cpu_cores,memory_mib\na,0,0.5,64\nb,0,1,1\na,60,,65\na,180,0.25,\n";
        let usage = read(text, Some("a")).unwrap();
        assert_eq!(usage.step, Duration::from_secs(60));
        let values: Vec<_> = usage.samples.iter().map(|sample| (sample.cpu, sample.memory)).collect();
        assert_eq!(values, [(Some(5000), Some(64 << 20)), (None, Some(65 << 20)), (Some(2500), None)]);
    }

    #[test]
    fn times_need_not_be_whole_seconds() {
        let usage = read("t_seconds,cpu_cores\n0.25,1\n1.75,1\n3.25,1\n6.25,1\n", None).unwrap();
        assert_eq!(usage.step, Duration::from_millis(1500));
        let at: Vec<_> = usage.samples.iter().map(|sample| sample.at.unix_micros()).collect();
        assert_eq!(at, [250_000, 1_750_000, 3_250_000, 6_250_000]);
        assert!(read("t_seconds,cpu_cores\n0,1\n0.99,1\n1.98,1\n", None).is_ok(), "a short second");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, series, expected) in [
            ("", None, "there is no column t_seconds"),
            (&"x".repeat(100), None, "x\"... is not known"),
            ("t_seconds,cpu\n", None, "\"cpu\" is not known: expected t_seconds, cpu_cores"),
            ("t_seconds\n0\n", None, "no column cpu_cores and no column memory_mib"),
            ("t_seconds,cpu_cores\n", None, "has no samples"),
            ("t_seconds,cpu_cores\n0,1\n", None, "has one sample"),
            ("t_seconds,cpu_cores\n0,x\n", None, "line 2: cpu_cores: \"x\" is not a number from 0"),
            ("t_seconds,cpu_cores\n0,-1\n", None, "\"-1\" is not a number from 0"),
            ("t_seconds,cpu_cores\n0,nan\n", None, "\"nan\" is not a number"),
            ("t_seconds,cpu_cores\n,1\n", None, "t_seconds: is empty"),
            ("t_seconds,cpu_cores\n60,1\n60,1\n", None, "line 3: t_seconds is not above"),
            ("t_seconds,cpu_cores\n0,1\n1,1,1\n", None, "line: 3"),
            ("t_seconds,cpu_cores\n0,1\n60,1\n61,1\n121,1\n", None, "60 s apart, but some only 1 s"),
            ("t_seconds,cpu_cores\n0,1\n0.1,1\n0.2,1\n", None, "0.1 s apart: expected a second or more"),
            ("t_seconds,cpu_cores\n0,1\n99999999999,1\n", None, "expected an hour or less"),
            (
                "series,t_seconds,cpu_cores\na,0,1\nb,60,1\n",
                None,
                "has several series: choose one with --series: \"a\", \"b\"",
            ),
            (
                "series,t_seconds,cpu_cores\na,0,1\n",
                Some("c"),
                "no series is named \"c\": expected one of \"a\"",
            ),
            ("t_seconds,cpu_cores\n0,1\n", Some("c"), "there is no column `series`"),
        ] {
            let error = format!("{:#}", read(text, series).unwrap_err());
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
