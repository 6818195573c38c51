//! x86-64: where things lie in guest memory, the tables a kernel expects from its boot loader, and a vCPU's first state.

pub mod boot_params;
pub mod cpuid;
pub mod layout;
pub mod mptable;
pub mod start;
pub mod state;
