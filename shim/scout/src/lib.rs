//! What the scout, a program inside a container, and the bench that runs it say to each other: one JSON object a line.

mod attempts;
mod order;
mod report;

pub use attempts::{ATTEMPTS, Attempt, Scope};
pub use order::{Done, FILE, Order};
pub use report::{
    Cgroups, Clocks, Devices, Handle, Hints, Kernel, Keys, Mounts, Outcome, Processes, Processors,
    REPORT_VERSION, Report, Symbols,
};

/// What the bench writes when the workload is to run.
pub const GO: &str = "go";
/// What the scout writes when it has run.
pub const DONE: &str = "done";
