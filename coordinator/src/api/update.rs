//! How changes are carried out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cel::{self, rule};

/// How changes are carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(clippy::struct_excessive_bools, reason = "the API's own switches")]
pub struct UpdateStrategy {
    /// Running pods may be resized in place, without a restart. Default: true.
    pub allow_in_place_resize: bool,
    /// Pods may be evicted where a resize in place is impossible. This version does not carry that out: it is accepted
    /// and answered with a warning condition. Default: false.
    pub allow_recreate: bool,
    /// Resources that are changed; the others are recommended only. Default: both.
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub resources: Vec<ResourceName>,
    /// Only requests are written. With `false`, limits follow `limits`. Default: true.
    pub update_requests_only: bool,
    /// What happens to limits when `updateRequestsOnly` is false.
    pub limits: Limits,
    /// Whether memory may shrink: `Never`, or `Guarded` = when use is well below the new value and not rising.
    /// Default: `Guarded`.
    pub memory_decrease: MemoryDecrease,
    /// What happens to a container whose `resizePolicy` is `RestartContainer` for a resource: `Hold` = that resource is left
    /// alone, `OneAtATime` = it is resized and restarts, one pod of a workload after the other, never the last one that is
    /// ready, as its disruption budgets allow, at most every 5 minutes and every `cooldown`. Default: `Hold`.
    pub restart_container: RestartContainer,
    /// What happens to a resource that the process is told (`resourceFieldRef` in its environment or files): `Hold` = it is left
    /// alone, `Move` = it moves, and the process sees it when its container starts anew. Default: `Hold`.
    pub coupled_resources: CoupledResources,
    /// Language runtimes whose CPU limit moves although they follow it while they run: `Go` (GOMAXPROCS, since 1.25).
    /// Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1), extend("x-kubernetes-list-type" = "set"))]
    pub limit_runtimes: Vec<LimitRuntime>,
    /// Time after OptiPod's last resize of a pod before a decrease; increases are immediate. 0s to 2160h.
    /// Default: `10m`.
    #[schemars(length(max = 20))]
    #[schemars(extend("x-kubernetes-validations" = [cel::duration("0s", "10m")]))]
    pub cooldown: String,
    /// Changes below this share of the current value are not made, except a raise because use is above the size. 0% to
    /// 100%. Default: `10%`; none for `Adaptive`, which keeps a size within bands of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-validations" = [cel::percentage("10%")]))]
    pub min_change: Option<String>,
    /// Largest change at once; a larger one is made in several steps. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_step: Option<MaxStep>,
    /// A resize that the kubelet keeps Deferred for longer is taken back. 1s to 2160h. Default: `5m`.
    #[schemars(length(max = 20))]
    #[schemars(extend("x-kubernetes-validations" = [cel::duration("1s", "5m")]))]
    pub deferred_deadline: String,
    /// Resizes of this policy that may be under way at once. 1 to 10000. Default: 10.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_concurrent_resizes: i32,
    /// Times at which changes are made. Windows of one time zone must not overlap. At most 16. Default: always.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-validations" = [cel::windows_apart()]))]
    pub windows: Vec<Window>,
    /// A change goes to some pods of a workload first. Default: all pods alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// What takes a change back.
    pub rollback: Rollback,
}

/// A resource that can be resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResourceName {
    /// CPU.
    Cpu,
    /// Memory.
    Memory,
}

/// What happens to limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// To CPU limits. Default: `{type: Keep}`.
    pub cpu: LimitRule,
    /// To memory limits. Default: `{type: Ratio}`.
    pub memory: LimitRule,
}

/// What happens to one limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("self.type == 'Headroom' || !has(self.headroom)", "headroom is for type Headroom only")]))]
pub struct LimitRule {
    /// `Keep` = it stays, and the request is held below it; `Ratio` = it keeps the ratio to the request that the owner
    /// declares; `Headroom` = it follows usage, see `headroom`.
    #[serde(rename = "type")]
    pub rule: LimitType,
    /// The limit is this percentile of usage times this factor, never below the request. CPU usage is looked at in
    /// slots of 100 ms, the period that CPU limits throttle on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headroom: Option<Headroom>,
}

/// Rule for a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LimitType {
    /// It stays.
    Keep,
    /// It keeps the declared ratio to the request.
    Ratio,
    /// It follows usage.
    Headroom,
}

/// How far a limit is above usage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Headroom {
    /// Of usage within the window. Default: `P99.9`.
    #[schemars(length(max = 6))]
    #[schemars(extend("x-kubernetes-validations" = [cel::percentile()]))]
    pub percentile: String,
    /// 1 to 10. Default: 1.2.
    #[schemars(extend("x-kubernetes-validations" = [rule("self >= 1.0 && self <= 10.0", "must be a number from 1 to 10, such as 1.2")]))]
    pub factor: f64,
}

/// Whether memory may shrink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MemoryDecrease {
    /// Never.
    Never,
    /// When use is below the new value with a margin, and not rising.
    #[default]
    Guarded,
}

/// What happens to a container that a resize would restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RestartContainer {
    /// The resource is left alone.
    #[default]
    Hold,
    /// It is resized, one pod of a workload after the other.
    OneAtATime,
}

/// What happens to a resource that the process is told at its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CoupledResources {
    /// It is left alone.
    #[default]
    Hold,
    /// It moves.
    Move,
}

/// A language runtime that follows its CPU limit while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LimitRuntime {
    /// Go 1.25 and later.
    Go,
}

/// Largest change at once, relative to the current value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MaxStep {
    /// Of an increase: above 0%, at most 1000%. Emergencies are exempt. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-validations" = [cel::step_up()]))]
    pub up: Option<String>,
    /// Of a decrease: above 0%, below 100%. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-validations" = [cel::step_down()]))]
    pub down: Option<String>,
}

/// A part of some days of the week. A window that passes midnight is written as two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [cel::window_in_order()]))]
pub struct Window {
    /// Days of the week. Default: all.
    #[serde(default = "Day::all")]
    #[schemars(length(min = 1, max = 7), extend("x-kubernetes-list-type" = "set"))]
    pub days: Vec<Day>,
    /// Local time at which it begins, `00:00` to `23:59`.
    #[schemars(length(max = 5))]
    #[schemars(extend("x-kubernetes-validations" = [cel::time_of_day("23:59")]))]
    pub from: String,
    /// Local time before which it ends, later than `from`, at most `24:00`.
    #[schemars(length(max = 5))]
    #[schemars(extend("x-kubernetes-validations" = [cel::time_of_day("24:00")]))]
    pub to: String,
    /// Time zone of `from` and `to`: a name of the IANA database. Default: `UTC`.
    #[serde(default = "utc")]
    #[schemars(length(max = 40))]
    #[schemars(extend("x-kubernetes-validations" = [cel::time_zone()]))]
    pub time_zone: String,
    /// `Decrease` = decreases are made in such windows only, increases at any time; `Any` = all changes are made in such
    /// windows only, but for increases in an emergency. Default: `Decrease`.
    #[serde(default)]
    pub allow: WindowChange,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    /// The whole week.
    fn all() -> Vec<Self> {
        vec![Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun]
    }
}

fn utc() -> String {
    "UTC".to_owned()
}

/// Which changes a window is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WindowChange {
    /// Decreases.
    #[default]
    Decrease,
    /// All changes.
    Any,
}

/// Some pods first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Canary {
    /// Share of the workload's pods that get a change first, at least one pod. 0% to 100%. Default: `10%`.
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-validations" = [cel::percentage("10%")]))]
    pub share: String,
    /// How long they are watched before the others follow; with less memory for a day at least, so that they have seen a
    /// daily peak. 1s to 2160h. Default: `5m`.
    #[schemars(length(max = 20))]
    #[schemars(extend("x-kubernetes-validations" = [cel::duration("1s", "5m")]))]
    pub observe: String,
}

/// What takes a change back. This version has the decision and not yet the act: nothing is put back after a change
/// that the kubelet has carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Rollback {
    /// An OOM kill. Default: true.
    #[serde(rename = "onOOM")]
    pub on_oom: bool,
    /// A restart of the container. Default: true.
    pub on_restart: bool,
    /// Throttling of more than this share of the CPU periods. 0% to 100%; 100% = never. Default: `25%`.
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-validations" = [cel::percentage("25%")]))]
    pub on_throttle: String,
    /// Stall on CPU or memory for more than this share of the time. 0% to 100%; 100% = never. Default: `10%`.
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-validations" = [cel::percentage("10%")]))]
    pub on_pressure: String,
    /// How long the workload is left alone then. 0s to 2160h. Default: `10m`.
    #[schemars(length(max = 20))]
    #[schemars(extend("x-kubernetes-validations" = [cel::duration("0s", "10m")]))]
    pub backoff: String,
}
