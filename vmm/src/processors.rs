//! Makes a machine's virtual CPUs: in the state in which a kernel is entered, or in the one in which they were saved.

use crate::{
    arch::current::{cpuid, start, state::VcpuState},
    kvm::{Detected, ExtendedState, Host, Instructions, KvmError, Vm},
    software::{Assistant, XsaveLayout},
    vcpu::Vcpu,
};

/// All of a machine.
pub struct Processors {
    /// In the order of their numbers.
    pub vcpus: Vec<Vcpu>,
    /// What KVM interprets for them.
    pub instructions: Instructions,
}

/// Makes `count` of them; the first will execute the instruction at `entry`, the others wait for it to start them.
///
/// # Errors
/// [`KvmError`].
pub fn boot(
    host: &Host,
    kind: Detected,
    vm: &Vm,
    count: u8,
    entry: u64,
) -> Result<Processors, KvmError> {
    let template = cpuid::Template::of_host(host.kvm())?;
    let mut instructions = Instructions::default();
    let mut vcpus = Vec::new();
    for id in 0..count {
        let fd = vm.add_vcpu(id)?;
        template.apply(&fd, id, count)?;
        start::set_msrs(&fd)?;
        start::set_lapic(&fd)?;
        if id == 0 {
            start::enter_long_mode(&fd, entry)?;
        }
        let assistant = match kind {
            Detected::Hardware => None,
            Detected::Software => {
                instructions.add(&fd);
                let layout = XsaveLayout::new(template.entries());
                Some(Assistant::new(layout, vm.xsave_size())?)
            }
        };
        vcpus.push(Vcpu::new(id, fd, assistant));
    }
    Ok(Processors { vcpus, instructions })
}

/// Makes those of `saved`.
///
/// # Errors
/// [`KvmError`].
pub fn restore(kind: Detected, vm: &Vm, saved: &[VcpuState]) -> Result<Processors, KvmError> {
    let mut extended = ExtendedState::new(vm.xsave_size())?;
    let mut instructions = Instructions::default();
    let mut vcpus = Vec::new();
    for (id, state) in (0u8..).zip(saved) {
        let fd = vm.add_vcpu(id)?;
        state.restore(&fd, kind, &mut extended)?;
        let assistant = match kind {
            Detected::Hardware => None,
            Detected::Software => {
                instructions.add(&fd);
                Some(Assistant::new(XsaveLayout::new(state.cpuid()), vm.xsave_size())?)
            }
        };
        vcpus.push(Vcpu::new(id, fd, assistant));
    }
    Ok(Processors { vcpus, instructions })
}
