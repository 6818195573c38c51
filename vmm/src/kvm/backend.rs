//! Finds out, once, what kind of KVM this is: does the processor execute a guest's kernel, or does KVM interpret it?
//! A tiny guest answers: it executes in long mode, ring 0, what both kinds do differently.

use std::path::Path;

use kvm_ioctls::VcpuExit;

use super::{Host, Instructions, KvmError, Vm};
use crate::{
    api::Backend,
    arch::current::start,
    memory::{self, Bytes, GuestAddress},
    software,
};

const PROBE_MEMORY: usize = 0x1_0000;
const PROBE_CODE: GuestAddress = GuestAddress(0xd000);
/// Enough that the odd instruction that KVM interprets on hardware too (a skipped one, on some AMD processors) cannot reach it.
const PROBE_NOPS: u8 = 32;
const NOP: u8 = 0x90;
const FWAIT: u8 = 0x9b;
const HLT: u8 = 0xf4;

/// What kind of KVM this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// The processor executes the guest's kernel.
    Hardware,
    /// KVM's emulator interprets the guest's kernel; [`crate::software`] holds what follows from it.
    Software,
}

/// What the configuration says, or else what a probe guest shows.
///
/// # Errors
/// [`KvmError::Undetected`] when the probe guest does what neither kind does; [`KvmError::Call`] and others when it cannot be made.
pub fn detect(host: &Host, wanted: Backend) -> Result<Detected, KvmError> {
    match wanted {
        Backend::Hardware => Ok(Detected::Hardware),
        Backend::Software => Ok(Detected::Software),
        Backend::Auto => probe(host),
    }
}

fn probe(host: &Host) -> Result<Detected, KvmError> {
    let undetected = |why: &str| KvmError::Undetected(format!("{why}; modules: {}", modules()));
    let memory = memory::allocate(&[(GuestAddress(0), PROBE_MEMORY)])
        .map_err(|_| undetected("no memory for the probe guest"))?;
    let mut code = vec![NOP; usize::from(PROBE_NOPS)];
    code.extend([FWAIT, HLT]);
    start::write_tables(&memory)
        .and_then(|()| memory.write_slice(&code, PROBE_CODE))
        .map_err(|_| undetected("the probe guest does not fit into its memory"))?;
    // Without an interrupt controller in KVM a HLT comes back as an exit.
    let vm = Vm::new(host, memory)?;
    let mut vcpu = vm.add_vcpu(0)?;
    let mut instructions = Instructions::default();
    instructions.add(&vcpu);
    start::enter_long_mode(&vcpu, PROBE_CODE.0)?;
    let outcome = match vcpu.run().map_err(KvmError::call("KVM_RUN"))? {
        VcpuExit::Hlt => Ok(()),
        VcpuExit::InternalError => Err(None),
        other => Err(Some(format!("{other:?}"))),
    };
    let interpreted = instructions.total() >= u64::from(PROBE_NOPS);
    match outcome {
        Ok(()) if !interpreted => Ok(Detected::Hardware),
        Ok(()) => Ok(Detected::Software),
        Err(None) if software::emulation_failed(&mut vcpu) => Ok(Detected::Software),
        Err(None) => Err(undetected("the probe guest ended with an internal error")),
        Err(Some(exit)) => Err(undetected(&format!("the probe guest ended with {exit}"))),
    }
}

/// The KVM modules that are loaded, for a person who reads the error.
fn modules() -> String {
    let known = ["kvm_intel", "kvm_amd", "kvm_pvm"];
    let loaded: Vec<_> =
        known.into_iter().filter(|name| Path::new("/sys/module").join(name).exists()).collect();
    if loaded.is_empty() {
        "none of kvm_intel, kvm_amd, kvm_pvm".to_owned()
    } else {
        loaded.join(", ")
    }
}
