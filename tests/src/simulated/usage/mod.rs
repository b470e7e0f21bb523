//! What the containers of a simulated node use, and what the kernel makes of it. Pure: no file, no clock, no random
//! source; time is a number of periods.
//!
//! | file | subject |
//! |---|---|
//! | `demand` | what a program wants over time: shapes, their grammar, traces |
//! | `grammar` | the text of it: parsing with reasons, and printing |
//! | `trace` | recorded series from CSV files |
//! | `cpu` | CFS bandwidth: quota, backlog, throttling; CPUs shared by weight |
//! | `memory` | page cache, reclaim, OOM kill at `memory.max` |
//! | `pressure` | PSI totals and averages |
//! | `container` | all of it for one container |

pub mod container;
pub mod cpu;
pub mod demand;
pub mod grammar;
pub mod memory;
pub mod pressure;
pub mod trace;

pub use demand::{Amount, Demand, Usage};
pub use grammar::UsageError;
pub use trace::{Library, TraceError};

/// One CFS period, microseconds: the step of every model. `cpu.max` of the kubelet has the same.
pub const PERIOD_MICROS: u64 = 100_000;
