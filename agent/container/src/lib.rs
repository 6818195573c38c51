//! Makes containers from OCI runtime specifications: namespaces, control group, mounts, identity, program.
//!
//! [`Builder::init`] makes a container whose first process waits; [`Container::start`] lets it execute its program;
//! [`Builder::exec`] adds a process. The caller reaps the processes and tells [`Container::stopped`].
//! [`Builder::detached`] makes one that outlives its maker, and a [`Record`] by which any process starts, signals, joins and
//! removes it. The engine uses the system calls of Linux 6.1 and knows nothing of virtual machines or of who asks.

mod affinity;
mod builder;
mod capability;
mod cgroup;
mod check;
mod child;
mod clone;
mod container;
mod descriptors;
mod detached;
pub mod ebpf;
mod error;
mod gate;
pub mod hooks;
mod identity;
mod idmap;
mod launch;
mod likeness;
mod lsm;
mod mount;
mod namespace;
mod network;
mod own_program;
mod passwd;
mod path;
mod personality;
mod procfs;
mod program;
mod record;
mod report;
mod rlimit;
mod scheduling;
mod seccomp;
mod spare;
pub mod spec;
mod sys;
mod sysctl;
mod terminal;

pub use builder::{Builder, Created, Joined, Platform, Stdio};
pub use capability::capabilities;
pub use cgroup::{Cgroup, CgroupRecord, Cgroups, Headroom, OomEvents, Placed, Version};
pub use check::{Target, check, root_directory};
pub use container::{Container, Process};
pub use detached::Detached;
pub use error::{Error, Kind};
pub use mount::{Lower, Root, Upper, map_owners, mount, mount_mapped};
pub use network::loopback_up;
pub use own_program::run_from_read_only;
pub use procfs::{Born, born};
pub use record::Record;
pub use spare::Spare;
pub use terminal::{Size, resize};
