//! The constants of Adaptive, by resource and objective. They were chosen on the tune halves of the back-test.

use serde::{Deserialize, Serialize};

use crate::policy::Objective;
use crate::resources::Resource;

/// What is sized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Size {
    /// Use above it competes.
    CpuRequest,
    /// Use above it is at risk under pressure; the limit is elsewhere.
    MemoryRequest,
    /// Request and limit as one: use above it is a kill.
    MemoryLimit,
}

impl From<Resource> for Size {
    /// The request of the resource.
    fn from(resource: Resource) -> Self {
        match resource {
            Resource::Cpu => Self::CpuRequest,
            Resource::Memory => Self::MemoryRequest,
        }
    }
}

/// What an objective weighs, and how calmly it moves. Weights and shares are in 1/1000 unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// What one unit of missing size costs, in units of idle size.
    pub overrun_weight: u32,
    /// What a minute with use above the size costs, however little is missing, in minutes of the size.
    pub exceed_weight: u32,
    /// What a resize costs, in minutes of the new size.
    pub change_weight: u32,
    /// How much cheaper another expert has to be.
    pub switch: u32,
    /// The size goes down when the expert asks for less by this share.
    pub dead_down: u32,
    /// The size goes up when the expert asks for more by this share.
    pub dead_up: u32,
    /// Minutes between two decreases.
    pub cooldown: u32,
    /// Use above this share of the size raises it at once,
    pub trigger: u32,
    /// by this share of the use,
    pub burst: u32,
    /// and only when the use is a new height: flat use may stay close to the size.
    pub heights_only: bool,
}

/// One tuning for each objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunings {
    /// See [`Objective::Savings`].
    pub savings: Tuning,
    /// See [`Objective::Balanced`].
    pub balanced: Tuning,
    /// See [`Objective::Safe`].
    pub safe: Tuning,
}

impl Tunings {
    /// The constants for what is sized.
    pub const fn of(size: Size) -> Self {
        match size {
            Size::CpuRequest => CPU,
            Size::MemoryRequest => MEMORY,
            Size::MemoryLimit => MEMORY_LIMIT,
        }
    }

    /// Those of one objective.
    pub const fn get(&self, objective: Objective) -> &Tuning {
        match objective {
            Objective::Savings => &self.savings,
            Objective::Balanced => &self.balanced,
            Objective::Safe => &self.safe,
        }
    }
}

/// A resize has to pay for itself within the next hour or two, else most of them follow noise.
const BALANCED: Tuning = Tuning {
    overrun_weight: 120,
    exceed_weight: 0,
    change_weight: 4500,
    switch: 30,
    dead_down: 150,
    dead_up: 40,
    cooldown: 30,
    trigger: 1000,
    burst: 50,
    heights_only: true,
};

const CPU: Tunings = Tunings {
    savings: Tuning {
        overrun_weight: 60,
        change_weight: 500,
        dead_down: 100,
        dead_up: 20,
        cooldown: 20,
        burst: 100,
        ..BALANCED
    },
    balanced: BALANCED,
    // what is above the size hurts by happening at all, so the size moves before use reaches it
    safe: Tuning {
        overrun_weight: 250,
        exceed_weight: 120_000,
        change_weight: 100,
        dead_down: 10,
        dead_up: 20,
        cooldown: 115,
        trigger: 950,
        burst: 250,
        ..BALANCED
    },
};

const MEMORY: Tunings = Tunings { balanced: Tuning { overrun_weight: 150, ..BALANCED }, ..CPU };

/// A size that is the limit too: use above it is a kill, so an expert is left only for a much better one, and a resize
/// has to pay for itself over hours.
const LIMIT: Tuning = Tuning {
    overrun_weight: 400,
    exceed_weight: 0,
    change_weight: 30_000,
    switch: 30,
    dead_down: 100,
    dead_up: 60,
    cooldown: 20,
    trigger: 950,
    burst: 200,
    heights_only: false,
};

const MEMORY_LIMIT: Tunings = Tunings {
    savings: Tuning { overrun_weight: 200, change_weight: 8000, ..LIMIT },
    balanced: LIMIT,
    safe: Tuning { overrun_weight: 4000, ..LIMIT },
};
