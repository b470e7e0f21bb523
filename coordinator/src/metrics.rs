//! Names of every coordinator metric.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use optipod_common::decide::RestartDebt;
use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Seconds, from a fast evaluation to a stuck one.
const DURATION_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// Seconds from a patch to its end on an ordinary node (under a second) and on a bad day.
const RESIZE_BUCKETS: [f64; 9] = [0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 1800.0];

/// Seconds from the end of a frame until it counts: one that comes at once, one that waited for a stream, one that an
/// agent kept for the next leader.
const COLLECTION_BUCKETS: [f64; 9] = [0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0];

/// All metrics, registered in one registry. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    names: Arc<[String]>,
    /// 1 while this process leads.
    pub leader: IntGauge,
    /// 1 while nothing is resized, whatever policies say.
    pub dry_run: IntGauge,
    /// Streams of agents.
    pub streams: IntGauge,
    /// Frames by what became of them: `new`, `duplicate`, `refused`.
    pub frames: IntCounterVec,
    /// Malformed frames by field.
    pub frames_refused: IntCounterVec,
    /// Frames that this leader will not get: agents no longer hold them.
    pub frames_lost: IntGauge,
    /// Records whose container is not known yet.
    pub records_parked: IntGauge,
    /// Records whose container never became known.
    pub records_dropped: IntCounter,
    /// Records of containers that are not on the node that sent them.
    pub records_foreign: IntCounter,
    /// Containers of workloads with usage in the store.
    pub store_containers: IntGauge,
    /// Slots of time in the store.
    pub store_slots: IntGauge,
    /// Pods in the index.
    pub pods: IntGauge,
    /// Resizes under way.
    pub resizes_in_flight: IntGauge,
    /// Resizes by outcome: `Done`, `DoneUnverified`, or a reason.
    pub resizes: IntCounterVec,
    /// Seconds from the accepted patch until the kubelet has done it.
    pub resize_seconds: Histogram,
    /// Containers that restarted while a resize of their pod was under way.
    pub restarts_during_resize: IntCounter,
    /// Pods of Jobs that a node had no room for after a raise of ours.
    pub jobs_lost: IntCounter,
    /// Millicores that replacements would ask for beyond what runs, by `pool`.
    pub restart_debt_cpu: IntGaugeVec,
    /// Bytes that replacements would ask for beyond what runs, by `pool`.
    pub restart_debt_memory: IntGaugeVec,
    /// Workloads that a policy selects.
    pub workloads_monitored: IntGaugeVec,
    /// Workloads whose pods have the recommended size.
    pub workloads_updated: IntGaugeVec,
    /// Workloads that are left alone, by reason.
    pub workloads_skipped: IntGaugeVec,
    /// Time from the end of what was measured until it counts, by provider.
    pub collection_seconds: HistogramVec,
    /// Time of one evaluation of a policy.
    pub reconciliation_seconds: HistogramVec,
    /// Workloads evaluated before their policy was due, because something happened to them.
    pub event_evaluations: IntCounter,
    /// Errors while a policy was evaluated or applied.
    pub reconciliation_errors: IntCounterVec,
    /// Recommendations computed (containers).
    pub recommendations: IntCounterVec,
    /// Patches that the API server accepted.
    pub applications: IntCounterVec,
    /// What pods of a policy's workloads ask for, use, gave back, lack: CPU in millicores.
    pub cpu: IntGaugeVec,
    /// The same of memory, in bytes.
    pub memory: IntGaugeVec,
    /// What the requests given back would cost for an hour, where prices are set.
    pub saved_per_hour: GaugeVec,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name is registered twice.
    #[allow(clippy::too_many_lines, reason = "one list of all names")]
    pub fn new() -> Result<Self, prometheus::Error> {
        let names = Names { registry: Registry::new_custom(None, None)?, names: RefCell::default() };
        let r = &names;
        let metrics = Self {
            // the last line fills it, when all are registered
            names: Arc::default(),
            leader: gauge(r, "optipod_coordinator_leader", "1 while this process leads.")?,
            dry_run: gauge(
                r,
                "optipod_coordinator_dry_run",
                "1 while nothing is resized, whatever policies say: by flag, or by the ConfigMap optipod-config.",
            )?,
            streams: gauge(r, "optipod_coordinator_agent_streams", "Open streams of agents.")?,
            frames: counters(
                r,
                "optipod_coordinator_frames_total",
                "Frames by what became of them.",
                &["result"],
            )?,
            frames_refused: counters(
                r,
                "optipod_coordinator_frames_malformed_total",
                "Malformed frames by the field that is wrong.",
                &["category"],
            )?,
            frames_lost: gauge(
                r,
                "optipod_coordinator_frames_lost",
                "Frames that this leader will not get: agents no longer hold them.",
            )?,
            records_parked: gauge(
                r,
                "optipod_coordinator_records_parked",
                "Container records whose pod is not known yet.",
            )?,
            records_dropped: counter(
                r,
                "optipod_coordinator_records_dropped_total",
                "Container records whose pod never became known (sandboxes among them).",
            )?,
            records_foreign: counter(
                r,
                "optipod_coordinator_records_foreign_total",
                "Container records refused: the container is not on the node that sent them.",
            )?,
            store_containers: gauge(
                r,
                "optipod_coordinator_store_containers",
                "Containers of workloads with usage in the store.",
            )?,
            store_slots: gauge(r, "optipod_coordinator_store_slots", "Slots of time in the store.")?,
            pods: gauge(r, "optipod_coordinator_pods", "Pods in the index.")?,
            resizes_in_flight: gauge(r, "optipod_coordinator_resizes_in_flight", "Resizes under way.")?,
            resizes: counters(
                r,
                "optipod_coordinator_resizes_total",
                "Finished resizes by outcome: Done, DoneUnverified, or the reason of the failure.",
                &["outcome"],
            )?,
            resize_seconds: registered(
                r,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "optipod_coordinator_resize_duration_seconds",
                        "From the accepted patch until desired, allocated and actual agree.",
                    )
                    .buckets(RESIZE_BUCKETS.to_vec()),
                )?,
            )?,
            restarts_during_resize: counter(
                r,
                "optipod_coordinator_restarts_during_resize_total",
                "Container restarts seen while a resize of their pod was under way.",
            )?,
            jobs_lost: counter(
                r,
                "optipod_coordinator_jobs_lost_total",
                "Pods of Jobs that a node refused for want of room within a minute after a raise there.",
            )?,
            restart_debt_cpu: gauges(
                r,
                "optipod_coordinator_restart_debt_millicores",
                "CPU that replaced pods would ask for beyond what their predecessors do, by class of nodes.",
                &["pool"],
            )?,
            restart_debt_memory: gauges(
                r,
                "optipod_coordinator_restart_debt_bytes",
                "Memory that replaced pods would ask for beyond what their predecessors do, by class of nodes.",
                &["pool"],
            )?,
            workloads_monitored: gauges(
                r,
                "optipod_workloads_monitored",
                "Workloads that a policy selects.",
                &["namespace", "policy"],
            )?,
            workloads_updated: gauges(
                r,
                "optipod_workloads_updated",
                "Workloads whose pods all have the recommended size.",
                &["namespace", "policy"],
            )?,
            workloads_skipped: gauges(
                r,
                "optipod_workloads_skipped",
                "Workloads that are left alone, by reason.",
                &["namespace", "policy", "reason"],
            )?,
            collection_seconds: registered(
                r,
                HistogramVec::new(
                    HistogramOpts::new(
                        "optipod_metrics_collection_duration_seconds",
                        "From the end of what was measured until it counts.",
                    )
                    .buckets(COLLECTION_BUCKETS.to_vec()),
                    &["provider"],
                )?,
            )?,
            reconciliation_seconds: registered(
                r,
                HistogramVec::new(
                    HistogramOpts::new(
                        "optipod_reconciliation_duration_seconds",
                        "Time of one evaluation of a policy.",
                    )
                    .buckets(DURATION_BUCKETS.to_vec()),
                    &["policy"],
                )?,
            )?,
            event_evaluations: counter(
                r,
                "optipod_coordinator_event_evaluations_total",
                "Workloads evaluated before their policy was due, because something happened to them.",
            )?,
            reconciliation_errors: counters(
                r,
                "optipod_reconciliation_errors_total",
                "Errors while a policy was evaluated or applied.",
                &["policy", "error_type"],
            )?,
            recommendations: counters(
                r,
                "optipod_recommendations_total",
                "Recommendations computed, one per container and evaluation.",
                &["policy"],
            )?,
            applications: counters(
                r,
                "optipod_applications_total",
                "Patches that the API server accepted.",
                &["policy", "method"],
            )?,
            cpu: gauges(
                r,
                "optipod_cpu_millicores",
                "CPU of a policy's workloads by account: requested, used (mean), reclaimed, reclaimable, missing.",
                &["namespace", "policy", "account"],
            )?,
            memory: gauges(
                r,
                "optipod_memory_bytes",
                "Memory of a policy's workloads by account: requested, used (mean), reclaimed, reclaimable, missing.",
                &["namespace", "policy", "account"],
            )?,
            saved_per_hour: registered(
                r,
                GaugeVec::new(
                    Opts::new(
                        "optipod_saved_cost_per_hour",
                        "Cost of the requests given back, by the prices that are set.",
                    ),
                    &["namespace", "policy"],
                )?,
            )?,
            registry: r.registry.clone(),
        };
        Ok(Self { names: names.names.into_inner().into(), ..metrics })
    }

    /// Shows what replaced pods would ask for beyond what their predecessors do, by class of nodes.
    pub fn show_debts(&self, debts: &BTreeMap<String, RestartDebt>) {
        self.restart_debt_cpu.reset();
        self.restart_debt_memory.reset();
        for (pool, debt) in debts {
            let (cpu, memory) = (debt.owed.cpu.unwrap_or_default().0, debt.owed.memory.unwrap_or_default().0);
            for (gauge, owed) in [(&self.restart_debt_cpu, cpu), (&self.restart_debt_memory, memory)] {
                gauge.with_label_values(&[pool.as_str()]).set(i64::try_from(owed).unwrap_or(i64::MAX));
            }
        }
    }

    /// Everything in the Prometheus text format.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Names of all families, whether or not they have values yet.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

/// A registry that tells what is in it: it shows families only once they have values.
struct Names {
    registry: Registry,
    names: RefCell<Vec<String>>,
}

fn registered<C: Collector + Clone + 'static>(to: &Names, collector: C) -> Result<C, prometheus::Error> {
    to.registry.register(Box::new(collector.clone()))?;
    to.names.borrow_mut().extend(collector.desc().iter().map(|desc| desc.fq_name.clone()));
    Ok(collector)
}

fn gauge(registry: &Names, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    registered(registry, IntGauge::new(name, help)?)
}

fn gauges(
    registry: &Names,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

fn counter(registry: &Names, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    registered(registry, IntCounter::new(name, help)?)
}

fn counters(
    registry: &Names,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const OPERATIONS: &str = include_str!("../../deploy/docs/operations.md");

    #[test]
    fn the_table_of_metrics_names_each_of_them_and_no_other() {
        let section = OPERATIONS.split("\n## Metrics\n").nth(1).unwrap().split("\n## ").next().unwrap();
        let named: BTreeSet<&str> = section
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .flat_map(|cell| cell.split('`').filter(|word| word.starts_with("optipod_")))
            .filter(|name| !name.starts_with("optipod_agent_"))
            .collect();
        let metrics = Metrics::new().unwrap();
        let all: BTreeSet<&str> = metrics.names().iter().map(String::as_str).collect();
        assert_eq!(named, all);
    }
}
