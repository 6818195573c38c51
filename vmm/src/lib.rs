//! A minimal KVM virtual machine monitor: boots one Linux guest, serves its virtio devices, and says how it ended.
//! It knows nothing of containers, images or OCI.
//!
//! From input to a running machine, each place its own: [`api`] and [`cli`] are what others say; [`validated`] is what a machine
//! can be made from and [`opened`] holds its files; [`machine`] assembles it from [`kvm`]'s objects, [`arch`]'s tables, the [`devices`] and the [`boot`] of the
//! kernel; [`jail`] shuts the process in before the guest's first instruction; [`vcpu`] runs the guest and [`control`] listens to
//! whoever may steer it; [`snapshot`] is a machine at rest in two files, and how another goes on from them; [`software`] holds all that a KVM without
//! hardware virtualization needs.

pub mod api;
#[cfg(feature = "machine")]
pub mod arch;
#[cfg(feature = "machine")]
pub mod assembly;
#[cfg(feature = "machine")]
pub mod boot;
#[cfg(feature = "machine")]
pub mod bus;
#[cfg(feature = "machine")]
pub mod cli;
#[cfg(feature = "machine")]
pub mod cmdline;
#[cfg(feature = "machine")]
pub mod control;
#[cfg(feature = "machine")]
pub mod devices;
#[cfg(feature = "machine")]
pub mod gate;
#[cfg(feature = "machine")]
pub mod jail;
#[cfg(feature = "machine")]
pub mod kvm;
#[cfg(feature = "machine")]
pub mod machine;
#[cfg(feature = "machine")]
pub mod memory;
#[cfg(feature = "machine")]
pub mod notices;
#[cfg(feature = "machine")]
pub mod opened;
#[cfg(feature = "machine")]
pub mod processors;
#[cfg(feature = "machine")]
pub mod program;
#[cfg(feature = "machine")]
pub mod resident;
#[cfg(feature = "machine")]
pub mod serial;
#[cfg(feature = "machine")]
pub mod snapshot;
#[cfg(feature = "machine")]
pub mod software;
#[cfg(feature = "machine")]
pub mod validated;
#[cfg(feature = "machine")]
pub mod vcpu;
