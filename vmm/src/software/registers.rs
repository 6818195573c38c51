//! Registers by the decoder's names, and the addresses that instructions make of them.

use iced_x86::{Instruction, Register};
use kvm_bindings::{kvm_regs, kvm_sregs};

/// The value of a general-purpose register (zero-extended), of RIP, or of a segment's base; `None` for others.
pub(super) fn value(regs: &kvm_regs, sregs: &kvm_sregs, register: Register) -> Option<u64> {
    let segment = match register {
        Register::CS | Register::DS | Register::ES | Register::SS => Some(0),
        Register::FS => Some(sregs.fs.base),
        Register::GS => Some(sregs.gs.base),
        _ => None,
    };
    if segment.is_some() {
        return segment;
    }
    let mut copy = *regs;
    let full = *slot(&mut copy, register)?;
    match register.size() {
        8 => Some(full),
        4 => Some(full & 0xffff_ffff),
        2 => Some(full & 0xffff),
        _ => None,
    }
}

/// The linear address of the memory operand `index`; `None` when it needs a register that a kernel does not address with.
pub(super) fn address(
    instruction: &Instruction,
    index: u32,
    regs: &kvm_regs,
    sregs: &kvm_sregs,
) -> Option<u64> {
    instruction.virtual_address(index, 0, |register, _, _| value(regs, sregs, register))
}

/// Writes a 16, 32 or 64-bit general-purpose register: 32 bits clear the upper half, 16 leave the rest (Intel SDM volume 1, 3.4.1.1).
/// False for any other register.
pub(super) fn set(regs: &mut kvm_regs, register: Register, value: u64) -> bool {
    let Some(full) = slot(regs, register) else { return false };
    *full = match register.size() {
        8 => value,
        4 => value & 0xffff_ffff,
        2 => (*full & !0xffff) | (value & 0xffff),
        _ => return false,
    };
    true
}

fn slot(regs: &mut kvm_regs, register: Register) -> Option<&mut u64> {
    Some(match register.full_register() {
        Register::RAX => &mut regs.rax,
        Register::RCX => &mut regs.rcx,
        Register::RDX => &mut regs.rdx,
        Register::RBX => &mut regs.rbx,
        Register::RSP => &mut regs.rsp,
        Register::RBP => &mut regs.rbp,
        Register::RSI => &mut regs.rsi,
        Register::RDI => &mut regs.rdi,
        Register::R8 => &mut regs.r8,
        Register::R9 => &mut regs.r9,
        Register::R10 => &mut regs.r10,
        Register::R11 => &mut regs.r11,
        Register::R12 => &mut regs.r12,
        Register::R13 => &mut regs.r13,
        Register::R14 => &mut regs.r14,
        Register::R15 => &mut regs.r15,
        Register::RIP => &mut regs.rip,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    #[test]
    fn effective_addresses_follow_every_addressing_form() {
        let regs = kvm_regs {
            rbx: 0x1000,
            rdi: 0xffff_8880_0000_0000,
            rsp: 0x2000,
            r13: 0x10,
            rcx: 0xffff_ffff_0000_0040,
            ..kvm_regs::default()
        };
        let mut sregs = kvm_sregs::default();
        sregs.gs.base = 0xffff_8881_0000_0000;
        let forms: [(&[u8], u64); 7] = [
            // xsave64 [rdi]
            (&[0x48, 0x0f, 0xae, 0x27], 0xffff_8880_0000_0000),
            // xsave64 [rdi+0x40]
            (&[0x48, 0x0f, 0xae, 0x67, 0x40], 0xffff_8880_0000_0040),
            // xrstor64 [rbx+r13*4-0x100]
            (&[0x4a, 0x0f, 0xae, 0xac, 0xab, 0x00, 0xff, 0xff, 0xff], 0xf40),
            // xrstor64 [rip+0x10], an instruction of 8 bytes at 0x7000
            (&[0x48, 0x0f, 0xae, 0x2d, 0x10, 0x00, 0x00, 0x00], 0x7018),
            // xsave [rsp]
            (&[0x0f, 0xae, 0x24, 0x24], 0x2000),
            // xsave gs:[0x80]
            (&[0x65, 0x0f, 0xae, 0x24, 0x25, 0x80, 0, 0, 0], 0xffff_8881_0000_0080),
            // xsave [ecx]: the address has 32 bits
            (&[0x67, 0x0f, 0xae, 0x21], 0x40),
        ];
        for (bytes, expected) in forms {
            let instruction = Decoder::with_ip(64, bytes, 0x7000, DecoderOptions::NONE).decode();
            assert_eq!(instruction.len(), bytes.len(), "{bytes:02x?}");
            let address = address(&instruction, 0, &regs, &sregs);
            assert_eq!(address, Some(expected), "{bytes:02x?}");
        }
    }

    #[test]
    fn parts_of_a_register_are_read_and_written_as_the_processor_does() {
        let mut regs = kvm_regs { rax: 0x1122_3344_5566_7788, r9: 5, ..kvm_regs::default() };
        let sregs = kvm_sregs::default();
        assert_eq!(value(&regs, &sregs, Register::EAX), Some(0x5566_7788));
        assert_eq!(value(&regs, &sregs, Register::AX), Some(0x7788));
        assert_eq!(value(&regs, &sregs, Register::R9), Some(5));
        assert_eq!(value(&regs, &sregs, Register::XMM0), None);
        assert!(set(&mut regs, Register::AX, 0xffff_0001));
        assert_eq!(regs.rax, 0x1122_3344_5566_0001);
        assert!(set(&mut regs, Register::EAX, 2));
        assert_eq!(regs.rax, 2);
        assert!(!set(&mut regs, Register::XMM1, 2));
    }
}
