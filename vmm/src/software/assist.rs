//! Completes an instruction of the guest's kernel that KVM's emulator does not know: decodes it, does what the processor
//! would, and moves RIP on, or gives the guest the exception that the processor would.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use kvm_ioctls::VcpuFd;

use super::{
    context::{Context, Failure},
    operand::{self, Operand},
    paging::{Access, Fault, Paging},
    xsave::{self, Layout, Save},
};
use crate::{
    kvm::{ExtendedState, KvmError},
    memory::GuestMemory,
};

const LONGEST_INSTRUCTION: usize = 15;
const VECTOR_BREAKPOINT: u8 = 3;
const VECTOR_UNDEFINED: u8 = 6;
const VECTOR_PROTECTION: u8 = 13;
const VECTOR_PAGE_FAULT: u8 = 14;

/// Why an instruction could not be completed: the machine cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AssistError {
    /// An instruction that this does not know either.
    #[error(
        "the guest's kernel executed an instruction that this software KVM cannot interpret: {bytes} at {rip:#x}; hide the feature from the kernel with clearcpuid="
    )]
    Unknown {
        /// The bytes at RIP, in hexadecimal.
        bytes: String,
        /// The instruction's linear address.
        rip: u64,
    },
    /// The guest is not in the mode that its kernel runs in.
    #[error(
        "the guest met an instruction that this software KVM cannot interpret outside long mode, at {0:#x}"
    )]
    NotLongMode(u64),
    /// The operand or the page tables lie where the guest has no memory.
    #[error(
        "the operand of the instruction at {rip:#x} lies outside the guest's memory, at {physical:#x}"
    )]
    NoMemory {
        /// The instruction's linear address.
        rip: u64,
        /// The guest-physical address.
        physical: u64,
    },
    /// A KVM call failed.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// What became of an instruction.
pub(super) enum Outcome {
    /// Done; go on behind it.
    Done,
    /// Go on behind it with an exception.
    Trap(u8),
    /// Go on at it with an exception.
    Exception(u8),
    /// Not one that this knows.
    Unknown,
}

/// Completes instructions for one vCPU.
#[derive(Debug)]
pub struct Assistant {
    layout: Layout,
    state: ExtendedState,
}

impl Assistant {
    /// For a vCPU whose extended state has `xsave_size` bytes ([`crate::kvm::Vm::xsave_size`]).
    ///
    /// # Errors
    /// [`KvmError::Call`] when there is no memory for that.
    pub fn new(layout: Layout, xsave_size: usize) -> Result<Self, KvmError> {
        Ok(Self { layout, state: ExtendedState::new(xsave_size)? })
    }

    /// Completes the instruction at RIP.
    ///
    /// # Errors
    /// [`AssistError`]: the machine cannot go on.
    pub fn complete(&mut self, vcpu: &VcpuFd, memory: &GuestMemory) -> Result<(), AssistError> {
        let regs = vcpu.get_regs().map_err(KvmError::call("KVM_GET_REGS"))?;
        let sregs = vcpu.get_sregs().map_err(KvmError::call("KVM_GET_SREGS"))?;
        let rip = regs.rip;
        let paging = Paging::of(&regs, &sregs).ok_or(AssistError::NotLongMode(rip))?;
        let mut code = [0; LONGEST_INSTRUCTION];
        let fetched = fetch(memory, &paging, rip, &mut code);
        let bitness = if sregs.cs.l != 0 { 64 } else { 32 };
        let bytes = &code[..fetched];
        let instruction = Decoder::with_ip(bitness, bytes, rip, DecoderOptions::NONE).decode();
        let mut context = Context { vcpu, memory, paging, regs, sregs, instruction };
        match self.execute(&mut context) {
            Ok(Outcome::Done) => context.finish(instruction.next_ip())?,
            Ok(Outcome::Trap(vector)) => {
                context.finish(instruction.next_ip())?;
                context.inject(vector, None)?;
            }
            Ok(Outcome::Exception(vector)) => {
                context.finish(rip)?;
                context.inject(vector, None)?;
            }
            Ok(Outcome::Unknown) => {
                return Err(AssistError::Unknown { bytes: hexadecimal(bytes), rip });
            }
            Err(Failure::Fault(Fault::Page { address, error_code })) => {
                context.finish(rip)?;
                context.sregs.cr2 = address;
                vcpu.set_sregs(&context.sregs).map_err(KvmError::call("KVM_SET_SREGS"))?;
                context.inject(VECTOR_PAGE_FAULT, Some(error_code))?;
            }
            Err(Failure::Fault(Fault::Protection)) => {
                context.finish(rip)?;
                context.inject(VECTOR_PROTECTION, Some(0))?;
            }
            Err(Failure::Fault(Fault::NoMemory { physical })) => {
                return Err(AssistError::NoMemory { rip, physical });
            }
            Err(Failure::Kvm(error)) => return Err(error.into()),
        }
        Ok(())
    }

    fn execute(&mut self, context: &mut Context<'_>) -> Result<Outcome, Failure> {
        match context.instruction.mnemonic() {
            Mnemonic::Xsave | Mnemonic::Xsave64 => self.save(context, Save::Plain),
            Mnemonic::Xsaveopt | Mnemonic::Xsaveopt64 => self.save(context, Save::Optimized),
            Mnemonic::Xsavec | Mnemonic::Xsavec64 => self.save(context, Save::Compacted),
            Mnemonic::Xrstor | Mnemonic::Xrstor64 => self.restore(context),
            Mnemonic::Cmpxchg16b => context.compare_exchange_pair(),
            Mnemonic::Popcnt => context.population_count(),
            // It waits for x87 exceptions; a kernel runs with all of them masked.
            Mnemonic::Wait => Ok(Outcome::Done),
            Mnemonic::Int3 => Ok(Outcome::Trap(VECTOR_BREAKPOINT)),
            // A kernel's BUG() and WARN().
            Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 => {
                Ok(Outcome::Exception(VECTOR_UNDEFINED))
            }
            _ => Ok(Outcome::Unknown),
        }
    }

    fn save(&mut self, context: &Context<'_>, how: Save) -> Result<Outcome, Failure> {
        let (mask, _) = context.components()?;
        let wide = context.is_wide();
        let compacted = (how == Save::Compacted).then_some(mask);
        let length = self.layout.length(mask, compacted);
        let mut area = context.area(length, Access::Write)?;
        self.state.load(context.vcpu)?;
        self.layout.save(how, mask, wide, self.state.image(), &mut area)?;
        Ok(Outcome::Done)
    }

    fn restore(&mut self, context: &Context<'_>) -> Result<Outcome, Failure> {
        let (mask, xcr0) = context.components()?;
        let head = context.area(xsave::MINIMUM, Access::Read)?;
        let compacted = self.layout.form(xcr0, &head)?;
        let area = context.area(self.layout.length(mask, compacted), Access::Read)?;
        self.state.load(context.vcpu)?;
        let image = self.state.image_mut();
        self.layout.restore(mask, compacted, context.is_wide(), &area, image)?;
        self.state.store(context.vcpu)?;
        Ok(Outcome::Done)
    }
}

/// Reads up to an instruction's bytes at `rip`; fewer when the next page is absent.
fn fetch(memory: &GuestMemory, paging: &Paging, rip: u64, code: &mut [u8]) -> usize {
    let first = code.len().min(operand::to_page_end(rip));
    let mut fetched = 0;
    for (start, end) in [(0, first), (first, code.len())] {
        let Some(part) = code.get_mut(start..end).filter(|part| !part.is_empty()) else { continue };
        let at = rip.wrapping_add(start as u64);
        let read = Operand::new(memory, paging, at, part.len(), Access::Read)
            .and_then(|operand| operand.read(0, part));
        if read.is_err() {
            break;
        }
        fetched = end;
    }
    fetched
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
