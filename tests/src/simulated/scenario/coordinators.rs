//! The coordinators of a scenario: one leads, one may stand by, any may be killed and comes back under another name.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use kube::{Client, Config};

use super::coordinator::{Coordinator, Settings};

/// Real time after which a killed coordinator is there again: what a kubelet needs to start a container.
const RESTART: Duration = Duration::from_secs(2);

/// Coordinators that run or are about to.
pub struct Coordinators {
    settings: Settings,
    /// Through the fault proxy, as the chart's service account.
    config: Config,
    /// Of the first one: ports follow from it.
    first: u16,
    slots: Vec<Slot>,
    /// How many were started.
    started: u32,
}

enum Slot {
    Runs { coordinator: Coordinator, name: String },
    Killed(Instant),
}

impl Coordinators {
    /// Starts `count` of them, on the ports of the slots from `first` on.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start(first: u16, count: u32, settings: Settings, config: Config) -> Result<Self> {
        let mut coordinators = Self { settings, config, first, slots: Vec::new(), started: 0 };
        for slot in 0..u16::try_from(count).unwrap_or(u16::MAX) {
            let runs = coordinators.start_one(slot)?;
            coordinators.slots.push(runs);
        }
        Ok(coordinators)
    }

    fn start_one(&mut self, slot: u16) -> Result<Slot> {
        self.started += 1;
        let (name, config) = (format!("coordinator-{}", self.started), self.config.clone());
        let client = move || Ok(Client::try_from(config)?);
        let coordinator = Coordinator::start(self.first + slot, &name, self.settings.clone(), client)?;
        Ok(Slot::Runs { coordinator, name })
    }

    /// Where agents may find one.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.running().map(|(coordinator, _)| coordinator.telemetry).collect()
    }

    fn running(&self) -> impl Iterator<Item = (&Coordinator, &str)> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Runs { coordinator, name } => Some((coordinator, name.as_str())),
            Slot::Killed(_) => None,
        })
    }

    /// The one that leads and is ready, with its name.
    pub async fn leader(&self) -> Option<(&Coordinator, &str)> {
        for (coordinator, name) in self.running() {
            if coordinator.leads().await && coordinator.ready().await {
                return Some((coordinator, name));
            }
        }
        None
    }

    /// Kills the one that leads; its name. `None` when nobody leads.
    pub async fn kill_leader(&mut self) -> Option<String> {
        let name = self.leader().await?.1.to_owned();
        let leads = |slot: &Slot| matches!(slot, Slot::Runs { name: of, .. } if *of == name);
        if let Some(slot) = self.slots.iter_mut().find(|slot| leads(slot)) {
            *slot = Slot::Killed(Instant::now());
        }
        Some(name)
    }

    /// Starts those again that were killed a while ago; their names.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn restart(&mut self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for index in 0..self.slots.len() {
            let due = matches!(self.slots.get(index), Some(Slot::Killed(at)) if at.elapsed() > RESTART);
            if due {
                let runs = self.start_one(u16::try_from(index)?)?;
                if let Slot::Runs { name, .. } = &runs {
                    names.push(name.clone());
                }
                if let Some(slot) = self.slots.get_mut(index) {
                    *slot = runs;
                }
            }
        }
        Ok(names)
    }
}
