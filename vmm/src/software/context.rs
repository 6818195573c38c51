//! One failed instruction and the vCPU that met it: registers, operands, and the ways on.

use iced_x86::{Instruction, Mnemonic, Register};
use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;

use super::{
    operand::Operand,
    paging::{Access, Fault, Paging},
    registers,
};
use crate::{kvm::KvmError, memory::GuestMemory};

const XSAVE_ALIGNMENT: u64 = 64;

/// One instruction and the registers that it sees.
pub(super) struct Context<'a> {
    pub(super) vcpu: &'a VcpuFd,
    pub(super) memory: &'a GuestMemory,
    pub(super) paging: Paging,
    pub(super) regs: kvm_regs,
    pub(super) sregs: kvm_sregs,
    pub(super) instruction: Instruction,
}

impl Context<'_> {
    /// Continues at `rip`. KVM_SET_REGS also withdraws the #UD that KVM has queued for the failed instruction.
    pub(super) fn finish(&mut self, rip: u64) -> Result<(), KvmError> {
        self.regs.rip = rip;
        self.vcpu.set_regs(&self.regs).map_err(KvmError::call("KVM_SET_REGS"))
    }

    pub(super) fn inject(&self, vector: u8, error_code: Option<u32>) -> Result<(), KvmError> {
        let mut events =
            self.vcpu.get_vcpu_events().map_err(KvmError::call("KVM_GET_VCPU_EVENTS"))?;
        events.exception.injected = 1;
        events.exception.nr = vector;
        events.exception.has_error_code = u8::from(error_code.is_some());
        events.exception.error_code = error_code.unwrap_or(0);
        self.vcpu.set_vcpu_events(&events).map_err(KvmError::call("KVM_SET_VCPU_EVENTS"))
    }

    /// The linear address of the memory operand `index`.
    pub(super) fn address(&self, index: u32) -> Result<u64, Failure> {
        registers::address(&self.instruction, index, &self.regs, &self.sregs)
            .ok_or(Failure::Fault(Fault::Protection))
    }

    pub(super) fn operand(
        &self,
        address: u64,
        length: usize,
        access: Access,
    ) -> Result<Operand<'_>, Failure> {
        Ok(Operand::new(self.memory, &self.paging, address, length, access)?)
    }

    /// The XSAVE area that is operand 0.
    pub(super) fn area(&self, length: usize, access: Access) -> Result<Operand<'_>, Failure> {
        let address = self.address(0)?;
        if address % XSAVE_ALIGNMENT != 0 {
            return Err(Fault::Protection.into());
        }
        self.operand(address, length, access)
    }

    /// The state components that EDX:EAX asks for and XCR0 has, and XCR0.
    pub(super) fn components(&self) -> Result<(u64, u64), Failure> {
        let xcrs = self.vcpu.get_xcrs().map_err(KvmError::call("KVM_GET_XCRS"))?;
        let xcr0 = xcrs.xcrs.iter().find(|xcr| xcr.xcr == 0).map_or(0, |xcr| xcr.value);
        let asked = (self.regs.rdx << 32) | (self.regs.rax & 0xffff_ffff);
        Ok((asked & xcr0, xcr0))
    }

    pub(super) fn is_wide(&self) -> bool {
        matches!(
            self.instruction.mnemonic(),
            Mnemonic::Xsave64 | Mnemonic::Xsaveopt64 | Mnemonic::Xsavec64 | Mnemonic::Xrstor64
        )
    }

    pub(super) fn register(&self, register: Register) -> Option<u64> {
        registers::value(&self.regs, &self.sregs, register)
    }
}

/// Why an instruction was not completed.
pub(super) enum Failure {
    Fault(Fault),
    Kvm(KvmError),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Failure::Fault(fault)
    }
}

impl From<KvmError> for Failure {
    fn from(error: KvmError) -> Self {
        Failure::Kvm(error)
    }
}
