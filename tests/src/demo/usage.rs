//! Usage as an agent's `/metrics` shows it, and a histogram of it. Pure.

use std::collections::BTreeMap;

/// Digits of a container id that an agent shows.
const ID_DIGITS: usize = 12;
/// Upper edges of the histogram's bars in millicores; the last bar has none.
const EDGES: [u64; 7] = [10, 25, 50, 100, 200, 400, 800];
/// Heights of a bar, from none to full.
const HEIGHTS: [char; 9] = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What an agent says about one container.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// CPU seconds since its start.
    pub cpu_seconds: f64,
    /// Median of the 100 ms ticks of the last frame, in cores.
    pub median: f64,
    /// Highest of them.
    pub highest: f64,
    /// Highest working set of the last frame.
    pub working_set: f64,
    /// CFS periods so far.
    pub periods: f64,
    /// Of them, throttled.
    pub throttled: f64,
}

/// Reads the container with that id from an agent's page.
pub fn of(page: &str, container_id: &str) -> Option<Usage> {
    let id = container_id.get(..ID_DIGITS)?;
    let label = format!("container_id=\"{id}\"");
    let values: BTreeMap<String, f64> = page
        .lines()
        .filter(|line| line.contains(&label))
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{')?;
            let name = name.strip_prefix("optipod_agent_container_")?;
            let (_, quantile) = labels.split_once("quantile=\"").unwrap_or(("", ""));
            let quantile = quantile.split('"').next().unwrap_or_default();
            Some((format!("{name}{quantile}"), value.parse().ok()?))
        })
        .collect();
    let get = |name: &str| values.get(name).copied().unwrap_or_default();
    values.contains_key("cpu_usage_seconds_total").then(|| Usage {
        cpu_seconds: get("cpu_usage_seconds_total"),
        median: get("cpu_cores0.5"),
        highest: get("cpu_cores1"),
        working_set: get("memory_working_set_bytes"),
        periods: get("cfs_periods_total"),
        throttled: get("cfs_throttled_periods_total"),
    })
}

/// How often which CPU usage was seen: the median of each frame counts once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    counts: [u32; EDGES.len() + 1],
    last: Option<Usage>,
    throttled: f64,
}

impl Histogram {
    /// Counts a frame, unless it is the one that was counted before.
    pub fn add(&mut self, usage: Usage) {
        let Self { counts, last, throttled } = self;
        if last.is_some_and(|last| last.cpu_seconds >= usage.cpu_seconds) {
            return;
        }
        if let Some(last) = last {
            let periods = usage.periods - last.periods;
            *throttled = if periods > 0.0 { (usage.throttled - last.throttled) / periods } else { 0.0 };
        }
        *last = Some(usage);
        let bar = EDGES.iter().position(|&edge| usage.median * 1000.0 <= edge as f64).unwrap_or(EDGES.len());
        if let Some(count) = counts.get_mut(bar) {
            *count += 1;
        }
    }

    /// The last frame.
    pub fn last(&self) -> Option<Usage> {
        self.last
    }

    /// Frames counted.
    pub fn frames(&self) -> u32 {
        self.counts.iter().sum()
    }

    /// Share of the CFS periods of the last frame in which the container was throttled.
    pub fn throttled(&self) -> f64 {
        self.throttled
    }

    /// `10m ▂ 25m █ ...`: each bar counts what is at most its number, the last one what is above.
    pub fn bars(&self) -> String {
        let most = self.counts.iter().copied().max().unwrap_or(0).max(1);
        let full = u32::try_from(HEIGHTS.len() - 1).unwrap_or(0);
        let bar = |count: u32| {
            let height = (count * full).div_ceil(most);
            usize::try_from(height).ok().and_then(|height| HEIGHTS.get(height)).copied().unwrap_or('?')
        };
        let edges = EDGES.iter().map(|edge| format!("≤{edge}m")).chain(["more".to_owned()]);
        let bars: Vec<String> =
            edges.zip(self.counts).map(|(edge, count)| format!("{edge} {}", bar(count))).collect();
        bars.join("  ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"# HELP optipod_agent_container_cpu_cores Quantiles
optipod_agent_container_cpu_cores{container_id="1657bc98ea7b",pod_uid="013b",quantile="0.5"} 0.19
optipod_agent_container_cpu_cores{container_id="1657bc98ea7b",pod_uid="013b",quantile="1"} 0.6475
optipod_agent_container_cpu_cores{container_id="48c40eb502e4",pod_uid="6072",quantile="1"} 0.0823
optipod_agent_container_cpu_usage_seconds_total{container_id="1657bc98ea7b",pod_uid="013b"} 22.5
optipod_agent_container_memory_working_set_bytes{container_id="1657bc98ea7b",pod_uid="013b"} 17235968
optipod_agent_host_cores 2
"#;

    #[test]
    fn page_is_read_for_one_container() {
        let usage = of(PAGE, "1657bc98ea7bb8a649d0b349").unwrap();
        let read = (usage.cpu_seconds, usage.median, usage.highest, usage.working_set);
        assert_eq!(read, (22.5, 0.19, 0.6475, 17_235_968.0));
        assert_eq!(of(PAGE, "ffffffffffffffff"), None);
        assert_eq!(of(PAGE, "short"), None);
    }

    #[test]
    fn frame_counts_once_in_the_bar_of_its_median() {
        let mut histogram = Histogram::default();
        for (cpu_seconds, median) in [(1.0, 0.02), (1.0, 0.02), (2.0, 0.02), (3.0, 0.19), (4.0, 9.0)] {
            histogram.add(Usage { cpu_seconds, median, ..Usage::default() });
        }
        assert_eq!(histogram.frames(), 4);
        assert_eq!(histogram.bars(), "≤10m ·  ≤25m █  ≤50m ·  ≤100m ·  ≤200m ▄  ≤400m ·  ≤800m ·  more ▄");
    }

    #[test]
    fn throttling_is_that_of_the_last_frame() {
        let mut histogram = Histogram::default();
        for (cpu_seconds, periods, throttled) in [(1.0, 100.0, 90.0), (2.0, 120.0, 95.0)] {
            histogram.add(Usage { cpu_seconds, periods, throttled, ..Usage::default() });
        }
        assert!((histogram.throttled() - 0.25).abs() < 1e-9);
    }
}
