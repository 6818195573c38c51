//! A container as the people's command line has it: what it is made of, what became of it, and where that is kept.

pub mod id;
pub mod registry;
pub mod root;
pub mod seccomp;
pub mod spec;
pub mod state;
pub mod user;

mod error;
mod files;

pub use error::ContainerError;
pub use registry::{Place, Registry};
pub use root::RootError;
pub use state::{Definition, State, Status};
