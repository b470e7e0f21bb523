//! The constants of Adaptive, by resource and objective: how they were chosen is in `tests/BACKTEST.md`.

use serde::{Deserialize, Serialize};

use crate::packed::{Damaged, Pack, Reader};
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

impl Pack for Size {
    fn pack(&self, into: &mut Vec<u8>) {
        let number: u8 = match self {
            Self::CpuRequest => 0,
            Self::MemoryRequest => 1,
            Self::MemoryLimit => 2,
        };
        number.pack(into);
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        match u8::unpack(from)? {
            0 => Ok(Self::CpuRequest),
            1 => Ok(Self::MemoryRequest),
            2 => Ok(Self::MemoryLimit),
            _ => Err(from.damaged("nothing that Adaptive sizes")),
        }
    }
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
    /// What one unit of missing size costs in a flat series, in units of idle size; more where the peak is far above the mean.
    pub overrun_weight: u32,
    /// What a minute with use above the size costs, however little is missing, in minutes of the highest use.
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
    /// Minutes between an increase and the next decrease.
    pub settle: u32,
    /// Use above this share of the size raises it at once where it is a new height for the expert: flat use may stay close
    /// to the size.
    pub trigger: u32,
    /// The size is then the use and this share of it.
    pub burst: u32,
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

/// Few steps down, each as small as need be: a size that falls slowly is above the next peak more often, at no more
/// resizes than one that falls by leaps.
const BALANCED: Tuning = Tuning {
    overrun_weight: 6400,
    exceed_weight: 0,
    change_weight: 1000,
    switch: 4,
    dead_down: 10,
    dead_up: 50,
    cooldown: 120,
    settle: 10,
    trigger: 1000,
    burst: 150,
};

const CPU: Tunings = Tunings {
    savings: Tuning { overrun_weight: 3000, dead_up: 30, cooldown: 30, burst: 200, ..BALANCED },
    balanced: BALANCED,
    // what is above the size hurts by happening at all, so the size moves before use reaches it
    safe: Tuning {
        overrun_weight: 18_000,
        exceed_weight: 23_000,
        change_weight: 1300,
        dead_up: 15,
        cooldown: 130,
        trigger: 800,
        burst: 200,
        ..BALANCED
    },
};

/// Missing memory is evicted rather than slowed down.
const MEMORY: Tunings = Tunings {
    savings: Tuning { overrun_weight: 12_000, ..CPU.savings },
    balanced: Tuning { overrun_weight: 20_000, ..BALANCED },
    safe: Tuning { overrun_weight: 50_000, ..CPU.safe },
};

/// A size that is the limit too: use above it is a kill, so a raise leaves much room and stays a while, and a resize has to
/// pay for itself over hours.
const LIMIT: Tuning = Tuning {
    overrun_weight: 240_000,
    exceed_weight: 0,
    change_weight: 20_000,
    switch: 5,
    dead_down: 80,
    dead_up: 40,
    cooldown: 60,
    settle: 100,
    trigger: 1000,
    burst: 600,
};

const MEMORY_LIMIT: Tunings = Tunings {
    savings: Tuning { overrun_weight: 100_000, burst: 300, ..LIMIT },
    balanced: LIMIT,
    safe: Tuning { overrun_weight: 1_000_000, ..LIMIT },
};
