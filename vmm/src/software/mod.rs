//! All that follows from a KVM that interprets the guest's kernel instead of letting the processor execute it:
//! words for the kernel's command line, and the completion of instructions that KVM's emulator does not know ("assist").
//! Nothing here is used on hardware.

mod assist;
mod context;
mod general;
mod operand;
mod paging;
mod registers;
mod xsave;

use kvm_bindings::{KVM_EXIT_INTERNAL_ERROR, KVM_INTERNAL_ERROR_EMULATION};
use kvm_ioctls::VcpuFd;

pub use assist::{AssistError, Assistant};
pub use xsave::Layout as XsaveLayout;

/// `software_kvm` tells the guest's kernel to take a page fault at its system-call entry for the system call that it is.
/// `clearcpuid=` keeps it from using what the emulator does not know and the kernel can do without. The guest sees the host's
/// CPUID whatever the VMM says, so only its own command line can hide these. It also sees the host's time-stamp counter, which nobody can set: a
/// guest that goes on later, or on a host that was restarted, reads the time from KVM's clock, which can be.
pub const CMDLINE: &str = "software_kvm clocksource=kvm-clock clearcpuid=popcnt,cx16,smap,smep,rdrand,rdseed,fsgsbase,invpcid,pcid,erms,fsrm,rdpid,clwb,clflushopt,xsaves,xsavec,xsaveopt,xgetbv1";

/// Whether a vCPU's last exit says that the emulator met an instruction that it does not know.
pub fn emulation_failed(vcpu: &mut VcpuFd) -> bool {
    suberror(vcpu) == Some(KVM_INTERNAL_ERROR_EMULATION)
}

/// The kind of internal error of a vCPU's last exit; `None` when that was another exit.
pub fn suberror(vcpu: &mut VcpuFd) -> Option<u32> {
    let run = vcpu.get_kvm_run();
    if run.exit_reason != KVM_EXIT_INTERNAL_ERROR {
        return None;
    }
    // SAFETY: the exit reason says that KVM filled in this member of the union, and every bit pattern is a u32.
    Some(unsafe { run.__bindgen_anon_1.internal.suberror })
}
