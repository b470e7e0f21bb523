//! `simulate`: what a policy would have done to a recorded workload, in resizes, savings and risk.

mod report;
mod trace;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Args;
use flate2::read::MultiGzDecoder;
use optipod_common::policy::{Policy, Violation};
use optipod_common::quantity::{Bytes, MilliCpu};
use optipod_common::replay::replay_policy;
use optipod_common::resources::{Amounts, Resources};
use optipod_coordinator::api::convert::to_policy;
use optipod_coordinator::api::lint::{is_meant, lint};
use optipod_coordinator::expression::Cel;
use serde_json::Value;

use super::files;
use super::prices;
use report::{Recorded, Simulated};

/// Room for a year of seconds.
const MOST_BYTES: u64 = 1 << 30;
/// Less is a number that was meant to have a unit.
const LEAST_MEMORY: Bytes = Bytes::from_mebibytes(1);

/// What is simulated.
#[derive(Debug, Args)]
pub struct Options {
    /// CSV with the columns `t_seconds`, `cpu_cores` and `memory_mib` (one of the two is enough) and perhaps `series`;
    /// an empty cell is a missing value; - for standard input. May be compressed with gzip.
    pub usage: PathBuf,
    /// YAML with policies. Several are compared.
    #[arg(long, short = 'f', required = true)]
    pub policy: Vec<PathBuf>,
    /// Only the policies of this name.
    #[arg(long)]
    pub name: Option<String>,
    /// Only this series of the CSV; needed when it has several.
    #[arg(long)]
    pub series: Option<String>,
    /// CPU request that the owner declares, such as 500m.
    #[arg(long)]
    pub cpu_request: Option<MilliCpu>,
    /// CPU limit that the owner declares.
    #[arg(long)]
    pub cpu_limit: Option<MilliCpu>,
    /// Memory request that the owner declares, such as 256Mi.
    #[arg(long)]
    pub memory_request: Option<Bytes>,
    /// Memory limit that the owner declares.
    #[arg(long)]
    pub memory_limit: Option<Bytes>,
    #[command(flatten)]
    pub prices: prices::Options,
    /// JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Reads the files and plays the policies.
pub fn run(options: &Options) -> Result<String> {
    let inputs = options.policy.iter().chain([&options.usage]).filter(|path| *path == Path::new("-"));
    ensure!(inputs.count() < 2, "several files are -: standard input can be read once");
    let policies = policies(&files::objects(&options.policy)?, options.name.as_deref())?;
    let place = options.usage.display().to_string();
    let usage = trace::read(&usage_text(&options.usage)?, options.series.as_deref()).context(place)?;
    let recorded = Recorded { usage, declared: declared(options)?, prices: options.prices.prices() };
    let simulated: Vec<Simulated> = policies
        .into_iter()
        .map(|(name, policy)| {
            let replayed = replay_policy(&policy, &recorded.usage, recorded.declared, &Cel);
            Simulated::new(name, &recorded, replayed)
        })
        .collect();
    if options.json {
        return Ok(format!("{:#}\n", report::json(&recorded, &simulated)));
    }
    Ok(report::text(&recorded, &simulated))
}

/// Gzip is told by its first two bytes.
fn usage_text(path: &Path) -> Result<String> {
    let bytes = files::bytes(path)?;
    let place = || format!("{}", path.display());
    unpacked(&bytes, MOST_BYTES).with_context(place)
}

fn unpacked(bytes: &[u8], most: u64) -> Result<String> {
    let mut text = Vec::new();
    let read = if bytes.starts_with(&[0x1f, 0x8b]) {
        MultiGzDecoder::new(bytes).take(most + 1).read_to_end(&mut text)?
    } else {
        text = bytes.to_vec();
        bytes.len()
    };
    ensure!(u64::try_from(read)? <= most, "is too large: expected at most {most} bytes, unpacked");
    String::from_utf8(text).context("is no text")
}

/// Each policy with its name.
fn policies(objects: &[files::Located], name: Option<&str>) -> Result<Vec<(String, Policy)>> {
    let name_of = |object: &Value| {
        object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let found: Vec<_> = objects
        .iter()
        .filter(|located| is_meant(&located.object))
        .map(|located| (name_of(&located.object), located))
        .filter(|(found, _)| name.is_none_or(|name| found == name))
        .collect();
    let named = name.map_or_else(String::new, |name| format!(" named {name:?}"));
    ensure!(!found.is_empty(), "no policy{named} was found");
    found.into_iter().map(|(name, located)| Ok((name, policy(located)?))).collect()
}

fn policy(located: &files::Located) -> Result<Policy> {
    let refused = |violations: &[Violation]| {
        let all: Vec<_> = violations.iter().map(ToString::to_string).collect();
        anyhow!("{}: {}", located.place, all.join("; "))
    };
    // it also sees what the schema refuses
    let violations = lint(&located.object).violations;
    if !violations.is_empty() {
        return Err(refused(&violations));
    }
    let spec = located.object.get("spec").cloned().unwrap_or_else(|| serde_json::json!({}));
    let (policy, _) = to_policy(&serde_json::from_value(spec)?).map_err(|violations| refused(&violations))?;
    Ok(policy)
}

fn declared(options: &Options) -> Result<Resources> {
    let requests = Amounts { cpu: options.cpu_request, memory: options.memory_request };
    let limits = Amounts { cpu: options.cpu_limit, memory: options.memory_limit };
    // as the API server has it: a request that is not said is the limit
    let requests = limits.overlaid(requests);
    ensure!(
        !requests.is_empty(),
        "nothing is declared: expected --cpu-request, --memory-request or limits, since what nobody declares is never changed"
    );
    let above = |request: Option<u64>, limit: Option<u64>| request.zip(limit).is_some_and(|(r, l)| r > l);
    let cpu = above(requests.cpu.map(|c| c.0), limits.cpu.map(|c| c.0));
    let memory = above(requests.memory.map(|m| m.0), limits.memory.map(|m| m.0));
    ensure!(!cpu && !memory, "a request is above its limit");
    for (option, given) in
        [("--memory-request", options.memory_request), ("--memory-limit", options.memory_limit)]
    {
        if let Some(given) = given.filter(|given| *given < LEAST_MEMORY) {
            bail!(
                "{option}: {given} is too little: expected 1Mi or more, such as 256Mi, as memory is counted in bytes"
            );
        }
    }
    for (option, given) in [("--cpu-request", options.cpu_request), ("--cpu-limit", options.cpu_limit)] {
        ensure!(given != Some(MilliCpu(0)), "{option}: 0 declares nothing: expected more, such as 500m");
    }
    Ok(Resources { requests, limits })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const POLICY: &str = "
apiVersion: optipod.io/v1alpha1
kind: OptimizationPolicy
metadata: {name: gold}
spec:
  metricsConfig: {rollingWindow: 2h, percentile: P90}
";

    fn options(cpu: &str) -> Options {
        Options {
            usage: "-".into(),
            policy: Vec::new(),
            name: None,
            series: None,
            cpu_request: Some(cpu.parse().unwrap()),
            cpu_limit: None,
            memory_request: None,
            memory_limit: None,
            prices: prices::Options::default(),
            json: false,
        }
    }

    /// Six hours at 0.1 cores, and the policies of a text.
    fn files(policies: &str, gzip: bool) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("policies.yaml"), policies).unwrap();
        let rows: Vec<String> = (0..360).map(|minute| format!("{},0.1", minute * 60)).collect();
        let csv = format!("t_seconds,cpu_cores\n{}\n", rows.join("\n"));
        let bytes = if gzip {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(csv.as_bytes()).unwrap();
            encoder.finish().unwrap()
        } else {
            csv.into_bytes()
        };
        std::fs::write(folder.path().join("usage"), bytes).unwrap();
        folder
    }

    fn said(folder: &tempfile::TempDir, options: Options) -> String {
        let at = |name| folder.path().join(name);
        run(&Options { usage: at("usage"), policy: vec![at("policies.yaml")], ..options }).unwrap()
    }

    fn two() -> String {
        format!("{POLICY}---{}", POLICY.replace("gold", "silver").replace("2h", "4h"))
    }

    #[test]
    fn savings_risk_and_resizes_are_told() {
        let folder = files(POLICY, true);
        let text = said(&folder, options("1"));
        for expected in [
            "360 samples of 60 s, 6.0 h in all",
            "not simulated: ",
            "gold: ",
            "cpu as declared               1.000      0.100       0.00 %       0.00 %          0.0          0",
            "core-hours given back",
            "memory: not recorded, or not declared",
            "container: cpu request 1 > 120m",
            "ChangeTooSmall",
        ] {
            assert!(text.contains(expected), "{expected:?} in {text}");
        }
        assert!(!text.contains("cost"), "{text}");
        assert_eq!(said(&files(POLICY, false), options("1")), text, "compressed or not");
    }

    #[test]
    fn policies_are_compared_in_money() {
        let priced = Options { prices: prices::Options::of(0.04, 0.005), ..options("1") };
        let text = said(&files(&two(), false), priced);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| ["as declared", "gold", "silver"].iter().any(|name| line.starts_with(name)))
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows.len(), 3, "{text}");
        // 1 core for 6 hours at 0.04
        assert_eq!(rows[0].last(), Some(&"0.2400"), "{text}");
        let cost = |row: usize| rows[row].last().unwrap().parse::<f64>().unwrap();
        // the shorter window is covered sooner
        assert!(cost(1) < cost(2) && cost(2) < cost(0), "{text}");
    }

    #[test]
    fn json_says_the_same() {
        let priced = Options { prices: prices::Options::of(0.04, 0.005), ..options("1") };
        let text = said(&files(&two(), false), Options { json: true, ..priced });
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["samples"], &value["hours"]), (&360.into(), &6.0.into()));
        assert_eq!(value["declared"]["cpu"]["meanRequest"], 1.0);
        assert_eq!(value["declared"]["cost"], 0.24);
        let policies = value["policies"].as_array().unwrap();
        assert_eq!(policies.len(), 2);
        assert_eq!(policies[0]["name"], "gold");
        assert!(policies[0]["cpu"]["givenBack"].as_f64().unwrap() > 3.0, "{text}");
        assert_eq!(policies[0]["memory"], Value::Null);
        assert!(policies[0]["cost"].as_f64().unwrap() < 0.24, "{text}");
        assert!(policies[0]["changes"][0]["plan"].as_str().unwrap().contains("120m"), "{text}");
        assert!(policies[0]["held"]["ChangeTooSmall"].is_u64(), "{text}");
        assert!(!value["notSimulated"].as_array().unwrap().is_empty());
    }

    #[test]
    fn kills_are_counted_alike_before_and_after() {
        let folder = files(POLICY, false);
        let rows: Vec<String> = (0..60).map(|minute| format!("{},200", minute * 60)).collect();
        std::fs::write(folder.path().join("usage"), format!("t_seconds,memory_mib\n{}\n", rows.join("\n")))
            .unwrap();
        let options = Options {
            cpu_request: None,
            memory_request: Some(Bytes(64 << 20)),
            memory_limit: Some(Bytes(160 << 20)),
            ..options("1")
        };
        let text = said(&folder, options);
        let kills: Vec<&str> = text
            .lines()
            .filter(|l| l.starts_with("memory "))
            .filter_map(|l| l.split(' ').next_back())
            .collect();
        assert_eq!(kills, ["12", "12"], "{text}");
    }

    #[test]
    fn what_is_asked_for_wrong_is_named() {
        let two = files::parse(&two(), "p").unwrap();
        assert_eq!(policies(&two, None).unwrap().len(), 2);
        let error = |objects: &[files::Located], name| policies(objects, name).unwrap_err().to_string();
        assert_eq!(error(&two, Some("x")), "no policy named \"x\" was found");
        assert_eq!(error(&[], None), "no policy was found");
        assert_eq!(policies(&two, Some("silver")).unwrap().len(), 1);
        let bad = files::parse(&POLICY.replace("2h", "2d"), "p").unwrap();
        assert!(error(&bad, None).contains("rollingWindow"));
        let misspelt = files::parse(&POLICY.replace("kind: Opti", "kind: Otpi"), "p").unwrap();
        assert!(error(&misspelt, None).contains("expected OptimizationPolicy"));

        let mut none = options("1");
        none.cpu_request = None;
        assert!(declared(&none).unwrap_err().to_string().contains("nothing is declared"));
        let above = Options { cpu_limit: Some(MilliCpu(10)), ..options("1") };
        assert!(declared(&above).unwrap_err().to_string().contains("above its limit"));
        let bytes = Options { memory_limit: Some(Bytes(256)), ..options("1") };
        assert!(declared(&bytes).unwrap_err().to_string().starts_with("--memory-limit: 256 is too little"));
        assert!(
            declared(&options("0")).unwrap_err().to_string().starts_with("--cpu-request: 0 declares nothing")
        );
        let twice = Options { policy: vec!["-".into()], ..options("1") };
        assert!(run(&twice).unwrap_err().to_string().contains("standard input can be read once"));
    }

    #[test]
    fn what_is_unpacked_has_an_end() {
        let packed = |content: &[u8]| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(unpacked(&packed(b"text"), 4).unwrap(), "text");
        for bytes in [packed(&[b'1'; 1000]), vec![b'1'; 1000]] {
            let error = unpacked(&bytes, 999).unwrap_err().to_string();
            assert!(error.contains("is too large: expected at most 999 bytes"), "{error}");
        }
        assert_eq!(unpacked(&packed(&[0xff]), 4).unwrap_err().to_string(), "is no text");
    }
}
