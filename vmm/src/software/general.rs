//! Instructions on general-purpose registers and memory: POPCNT and CMPXCHG16B (Intel SDM volume 2).

use std::arch::asm;

use iced_x86::OpKind;
use kvm_bindings::kvm_regs;

use super::{
    assist::Outcome,
    context::{Context, Failure},
    paging::{Access, Fault},
    registers,
};
use crate::memory::GuestMemoryTrait;

const RFLAGS_ZF: u64 = 1 << 6;
/// CF, PF, AF, ZF, SF and OF.
const RFLAGS_ARITHMETIC: u64 = 0x8d5;

impl Context<'_> {
    pub(super) fn compare_exchange_pair(&mut self) -> Result<Outcome, Failure> {
        let address = self.address(0)?;
        if address % 16 != 0 {
            return Err(Fault::Protection.into());
        }
        if !is_x86_feature_detected!("cmpxchg16b") {
            return Ok(Outcome::Unknown);
        }
        let lost = Fault::NoMemory { physical: u64::MAX };
        let operand = self.operand(address, 16, Access::Write)?;
        let physical = operand.first().ok_or(lost)?;
        let slice = self
            .memory
            .get_slice(physical, 16)
            .map_err(|_| Fault::NoMemory { physical: physical.0 })?;
        let guard = slice.ptr_guard_mut();
        // SAFETY: the processor has the instruction; the pointer is to 16 bytes of guest memory, aligned because its page and
        // its offset in the page are; other vCPUs access them at the same time only as the guest's own atomics do.
        let swapped = unsafe { compare_exchange(guard.as_ptr(), &mut self.regs) };
        if swapped {
            self.regs.rflags |= RFLAGS_ZF;
        } else {
            self.regs.rflags &= !RFLAGS_ZF;
        }
        Ok(Outcome::Done)
    }

    pub(super) fn population_count(&mut self) -> Result<Outcome, Failure> {
        let target = self.instruction.op0_register();
        let source = if self.instruction.op1_kind() == OpKind::Memory {
            let length = target.size();
            let mut bytes = [0; 8];
            let Some(value) = bytes.get_mut(..length) else { return Ok(Outcome::Unknown) };
            self.operand(self.address(1)?, length, Access::Read)?.read(0, value)?;
            u64::from_le_bytes(bytes)
        } else {
            let Some(value) = self.register(self.instruction.op1_register()) else {
                return Ok(Outcome::Unknown);
            };
            value
        };
        if !registers::set(&mut self.regs, target, u64::from(source.count_ones())) {
            return Ok(Outcome::Unknown);
        }
        self.regs.rflags &= !RFLAGS_ARITHMETIC;
        if source == 0 {
            self.regs.rflags |= RFLAGS_ZF;
        }
        Ok(Outcome::Done)
    }
}

/// LOCK CMPXCHG16B on `target` with the guest's registers; whether it swapped. The compiler's own 128-bit compare-exchange
/// wants the feature switched on for the whole program.
///
/// # Safety
/// The processor has the instruction; `target` is valid for 16 bytes, aligned to 16, and accessed only atomically meanwhile.
unsafe fn compare_exchange(target: *mut u8, regs: &mut kvm_regs) -> bool {
    let swapped: u8;
    // SAFETY: the caller's promise. RBX, which the compiler keeps for itself, is put back.
    unsafe {
        asm!(
            "xchg rsi, rbx",
            "lock cmpxchg16b [rdi]",
            "sete r8b",
            "mov rbx, rsi",
            in("rdi") target,
            inout("rsi") regs.rbx => _,
            in("rcx") regs.rcx,
            inout("rax") regs.rax,
            inout("rdx") regs.rdx,
            out("r8b") swapped,
            options(nostack)
        );
    }
    swapped != 0
}
