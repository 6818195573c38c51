//! The life of containers, whatever isolates them: what `bulkhead-oci` and `bulkhead` have in common.
//!
//! ```text
//! (absent) --create--> creating --made--> created --start--> running <--pause, resume--> paused
//!                         |                  |                  |
//!                         +--maker killed----+--its end---------+--> stopped --delete--> (absent)
//! ```
//!
//! Each container has a directory below the state root. Its lock is flock(2) on the directory itself; the state file in
//! it is replaced by rename(2), so that readers need no lock. The file says what cannot change and how the sandbox is
//! reached; what the container does at the moment comes from the sandbox.

mod console;
mod container;
mod create;
mod directory;
mod error;
mod pid_file;
mod root;
mod state;
pub(crate) mod time;

pub use console::send as send_console;
pub use container::Container;
pub use create::CreateOptions;
pub use error::LifecycleError;
pub use pid_file::write as write_pid_file;
pub use root::{Listed, StateRoot};
pub use state::OciState;
