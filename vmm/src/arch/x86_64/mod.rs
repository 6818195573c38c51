//! x86-64: where things lie in guest memory, the tables a kernel expects from its boot loader, a vCPU's first state and the one that it
//! is saved in, and what makes one processor another.

pub mod boot_params;
pub mod cpuid;
pub mod layout;
pub mod mptable;
pub mod processor;
pub mod start;
pub mod state;
