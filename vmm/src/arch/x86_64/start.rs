//! The first state of a vCPU: 64-bit long mode at a kernel's entry for the first one, and what every one needs before it runs
//! (Linux x86 boot protocol, 64-bit entry; Intel SDM volume 3, 9.8.5).

use kvm_bindings::{Msrs, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use super::layout;
use crate::{
    kvm::KvmError,
    memory::{Address, Bytes, GuestMemory},
};

const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_RESERVED: u64 = 1 << 1;

const PTE_TABLE: u64 = 0x3;
const PTE_LARGE_PAGE: u64 = 0x83;
const LARGE_PAGE_SHIFT: u64 = 21;

/// Selectors and descriptors: null, 64-bit code (`__BOOT_CS` is entry 2 of Linux's own table but the protocol only asks for
/// flat segments), data, task state.
const GDT: [u64; 4] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x008f_8b00_0000_ffff];
/// The offset of the table's last byte.
const GDT_LIMIT: u16 = 8 * 4 - 1;
const IDT_OFFSET: u64 = 0x20;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, everything write-back.
const MTRR_WRITE_BACK: u64 = (1 << 11) | 6;

const APIC_LVT0: usize = 0x350;
const APIC_LVT1: usize = 0x360;
const APIC_MODE_EXTINT: u32 = 0x7 << 8;
const APIC_MODE_NMI: u32 = 0x4 << 8;

/// Writes the boot page tables and the GDT.
///
/// # Errors
/// Those of guest memory, which is too small for them.
pub fn write_tables(memory: &GuestMemory) -> Result<(), vm_memory::GuestMemoryError> {
    let pml4 = layout::PAGE_TABLES;
    let pdpt = pml4.unchecked_add(0x1000);
    let pd = pml4.unchecked_add(0x2000);
    memory.write_obj(pdpt.raw_value() | PTE_TABLE, pml4)?;
    memory.write_obj(pd.raw_value() | PTE_TABLE, pdpt)?;
    for index in 0..512u64 {
        let entry = (index << LARGE_PAGE_SHIFT) | PTE_LARGE_PAGE;
        memory.write_obj(entry, pd.unchecked_add(index * 8))?;
    }
    for (index, descriptor) in (0u64..).zip(GDT) {
        memory.write_obj(descriptor, layout::GDT.unchecked_add(index * 8))?;
    }
    Ok(())
}

/// Puts a vCPU into long mode at `entry`, with the zero page's address in RSI. The tables are those of [`write_tables`].
///
/// # Errors
/// [`KvmError::Call`].
pub fn enter_long_mode(vcpu: &VcpuFd, entry: u64) -> Result<(), KvmError> {
    let mut sregs = vcpu.get_sregs().map_err(KvmError::call("KVM_GET_SREGS"))?;
    let segment = |selector: u16, type_: u8| kvm_segment {
        limit: 0xf_ffff,
        selector,
        type_,
        present: 1,
        g: 1,
        ..kvm_segment::default()
    };
    let data = kvm_segment { s: 1, db: 1, ..segment(0x10, 3) };
    sregs.cs = kvm_segment { s: 1, l: 1, ..segment(0x08, 11) };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = segment(0x18, 11);
    sregs.gdt.base = layout::GDT.raw_value();
    sregs.gdt.limit = GDT_LIMIT;
    sregs.idt.base = layout::GDT.raw_value() + IDT_OFFSET;
    sregs.idt.limit = 7;
    sregs.cr0 |= CR0_PE | CR0_PG;
    sregs.cr3 = layout::PAGE_TABLES.raw_value();
    sregs.cr4 |= CR4_PAE;
    sregs.efer |= EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs).map_err(KvmError::call("KVM_SET_SREGS"))?;
    let regs = kvm_regs {
        rip: entry,
        rflags: RFLAGS_RESERVED,
        rsp: layout::STACK_TOP,
        rbp: layout::STACK_TOP,
        rsi: layout::ZERO_PAGE.raw_value(),
        ..kvm_regs::default()
    };
    vcpu.set_regs(&regs).map_err(KvmError::call("KVM_SET_REGS"))
}

/// Sets the model-specific registers that a firmware would have set.
///
/// # Errors
/// [`KvmError::Call`], or [`KvmError::Msr`] that names the register that KVM does not take.
pub fn set_msrs(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let values = [(MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING), (MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK)];
    let entries =
        values.map(|(index, data)| kvm_msr_entry { index, data, ..kvm_msr_entry::default() });
    let msrs = Msrs::from_entries(&entries).map_err(|_| KvmError::Msr(MSR_MISC_ENABLE))?;
    let set = vcpu.set_msrs(&msrs).map_err(KvmError::call("KVM_SET_MSRS"))?;
    match values.get(set) {
        None => Ok(()),
        Some(&(index, _)) => Err(KvmError::Msr(index)),
    }
}

/// Connects the local APIC's two pins: the 8259's interrupts to LINT0, the NMI to LINT1 (MP specification 1.4, 3.6.2.2).
///
/// # Errors
/// [`KvmError::Call`].
pub fn set_lapic(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let mut lapic = vcpu.get_lapic().map_err(KvmError::call("KVM_GET_LAPIC"))?;
    set_delivery_mode(&mut lapic, APIC_LVT0, APIC_MODE_EXTINT);
    set_delivery_mode(&mut lapic, APIC_LVT1, APIC_MODE_NMI);
    vcpu.set_lapic(&lapic).map_err(KvmError::call("KVM_SET_LAPIC"))
}

fn set_delivery_mode(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    for (slot, byte) in lapic.regs[register..].iter_mut().zip(mode.to_le_bytes()) {
        *slot = byte.cast_signed();
    }
}
