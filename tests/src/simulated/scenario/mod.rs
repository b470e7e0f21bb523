//! Scenarios: a file says what runs, what goes wrong and what must hold; the player makes it happen.
//!
//! ```text
//! value   times, shares, amounts as files write them        file     the file, and what is wrong with it
//! faults  faults as files write them                        expect   what must hold, judged by what is seen
//! tracker when expectations are decided                     objects  API objects for what the file says
//! report  what a run showed                                 coordinator  a real one, in this process
//! ```

pub mod coordinator;
pub mod expect;
pub mod faults;
pub mod file;
pub mod objects;
pub mod report;
pub mod tracker;
pub mod value;

pub use file::Scenario;
pub use report::Report;
