//! Floors and bounds: intersected before any of them acts.

use super::steps::{Step, StepKind, said};
use super::{No, Series};
use crate::decide::Reason;
use crate::histogram::MergedHistogram;
use crate::resources::Resource;

/// Everything that holds a value from below and from above.
pub(super) struct Fence {
    resource: Resource,
    /// What holds from below, with more about it.
    floors: Vec<(StepKind, u64, String)>,
    /// What holds from above, with more about it.
    ceilings: Vec<(StepKind, u64, String)>,
}

impl Fence {
    pub fn around(series: &Series<'_>) -> Result<Self, No> {
        let mut fence = Self { resource: series.resource, floors: series.floors(), ceilings: Vec::new() };
        let policy = series.policy;
        fence.add(series, &policy.bounds, None)?;
        for enforced in &policy.enforced {
            fence.add(series, &enforced.bounds, Some(&enforced.policy))?;
        }
        Ok(fence)
    }

    fn add(
        &mut self,
        series: &Series<'_>,
        bounds: &crate::policy::ResourceBounds,
        enforced_by: Option<&str>,
    ) -> Result<(), No> {
        let relative = match series.resource {
            Resource::Cpu => bounds.cpu_relative,
            Resource::Memory => bounds.memory_relative,
        };
        let unknown = series.asked.container.declaration_unknown;
        if unknown && (relative.min.is_some() || relative.max.is_some()) {
            let message =
                "relative bounds need what is declared, and the pod was resized before it was first seen";
            return Err((Reason::NotDeclared, message.to_owned()));
        }
        let (min, max) = match enforced_by {
            Some(_) => (StepKind::EnforcedMin, StepKind::EnforcedMax),
            None => (StepKind::BoundMin, StepKind::BoundMax),
        };
        let by = enforced_by.map_or_else(String::new, |policy| format!("of policy {policy}"));
        let (absolute, around) = series.bounds_of(bounds);
        for (range, what) in [(absolute, ""), (around, "around what is declared")] {
            let detail = [by.as_str(), what].join(" ").trim().to_owned();
            self.floors.extend(range.min.map(|value| (min, value, detail.clone())));
            self.ceilings.extend(range.max.map(|value| (max, value, detail)));
        }
        Ok(())
    }

    /// One more floor.
    pub fn raise(&mut self, kind: StepKind, floor: u64, detail: String) {
        self.floors.push((kind, floor, detail));
    }

    /// The highest floor of any kind.
    pub fn highest_floor(&self) -> Option<u64> {
        self.floors.iter().map(|(_, floor, _)| *floor).max()
    }

    /// The highest floor that the policy or one that is enforced sets.
    pub fn min(&self) -> Option<(StepKind, u64)> {
        let set = self
            .floors
            .iter()
            .filter(|(kind, ..)| matches!(kind, StepKind::BoundMin | StepKind::EnforcedMin));
        set.max_by_key(|(_, floor, _)| *floor).map(|(kind, floor, _)| (*kind, *floor))
    }

    /// The lowest ceiling.
    pub fn max(&self) -> Option<u64> {
        self.ceilings.iter().map(|(_, ceiling, _)| *ceiling).min()
    }

    /// The value within the fence.
    pub fn hold(&self, value: u64, steps: &mut Vec<Step>) -> Result<u64, No> {
        let floor = self.floors.iter().max_by_key(|(_, floor, _)| *floor);
        let ceiling = self.ceilings.iter().min_by_key(|(_, ceiling, _)| *ceiling);
        if let (Some(below), Some(above)) = (floor, ceiling)
            && below.1 > above.1
        {
            let said =
                |(kind, value, detail): &(StepKind, u64, String)| said(*kind, *value, detail, self.resource);
            let message = format!("{} is above {}", said(below), said(above));
            return Err((Reason::BoundsDisjoint, message));
        }
        let mut value = value;
        for (kind, floor, detail) in &self.floors {
            if value < *floor {
                value = *floor;
                steps.push(Step::new(*kind, value, detail.clone()));
            }
        }
        if let Some((kind, ceiling, detail)) = ceiling.filter(|(_, ceiling, _)| value > *ceiling) {
            value = *ceiling;
            steps.push(Step::new(*kind, value, detail.clone()));
        }
        Ok(value)
    }
}

impl Series<'_> {
    /// Floors that evidence and platform set.
    fn floors(&self) -> Vec<(StepKind, u64, String)> {
        let evidence = self.asked.evidence;
        let none = String::new;
        let mut floors = Vec::new();
        let values = match self.resource {
            Resource::Cpu => evidence.cpu_seconds(),
            Resource::Memory => Some(&evidence.memory),
        };
        if let Some(mean) = values.and_then(MergedHistogram::mean) {
            floors.push((StepKind::MeanFloor, (self.scale)(mean), none()));
        }
        if self.resource == Resource::Memory {
            // eviction ranks what exceeds its request, by working set
            let peak = evidence.memory.max();
            if self.policy.memory_peak_floor {
                floors.push((StepKind::PeakFloor, (self.scale)(peak), none()));
            }
            let floors_of_kills = evidence.ooms.iter().map(|oom| (oom.floor(peak, evidence.window), oom));
            if let Some((floor, oom)) = floors_of_kills.max_by_key(|(floor, oom)| (*floor, oom.at)) {
                let floor = (self.scale)(floor);
                let detail = format!("killed at {}", self.show((self.scale)(oom.size)));
                floors.push((StepKind::OomFloor, floor, detail));
            }
        }
        floors.extend(self.hour_of_week());
        let platform = self.platform_floor.min(self.declared.0.unwrap_or(self.platform_floor));
        floors.push((StepKind::PlatformFloor, platform, none()));
        floors
    }

    /// The peak of this hour of the week is a floor of decreases: it never raises.
    fn hour_of_week(&self) -> Option<(StepKind, u64, String)> {
        let evidence = self.asked.evidence;
        let peaks = match self.resource {
            Resource::Cpu => &evidence.cpu_peaks,
            Resource::Memory => &evidence.memory_peaks,
        };
        let peak = (self.scale)(peaks.hour_of_week(evidence.now)?);
        let detail = format!("{} earlier weeks", peaks.weeks_known(evidence.now));
        Some((StepKind::HourOfWeekFloor, peak.min(self.current.0?), detail))
    }
}
