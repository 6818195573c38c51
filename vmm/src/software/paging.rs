//! The guest's page tables, walked as the processor would for a ring-0 access in long mode (Intel SDM volume 3, 4.5 to 4.8).
//! `KVM_TRANSLATE` is not enough: it does not tell a read from a write, and a kernel that saves vector registers into a
//! process's copy-on-write stack must get its page fault.

use std::sync::atomic::{AtomicU64, Ordering};

use kvm_bindings::{kvm_regs, kvm_sregs};

use crate::memory::{GuestAddress, GuestMemory, GuestMemoryTrait, VolatileMemory};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

const CR0_WP: u64 = 1 << 16;
const CR4_LA57: u64 = 1 << 12;
const CR4_SMAP: u64 = 1 << 21;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_AC: u64 = 1 << 18;

const FAULT_PROTECTION: u32 = 1 << 0;
const FAULT_WRITE: u32 = 1 << 1;

/// What an access wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Why an address has no translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A page fault for the guest.
    Page { address: u64, error_code: u32 },
    /// A general protection fault for the guest.
    Protection,
    /// The tables or the page lie where there is no memory: nothing that an assist can do.
    NoMemory { physical: u64 },
}

/// The registers that decide a translation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paging {
    cr3: u64,
    levels: u32,
    write_protect: bool,
    no_user_pages: bool,
}

impl Paging {
    /// Those of a vCPU; `None` outside long mode.
    pub(super) fn of(regs: &kvm_regs, sregs: &kvm_sregs) -> Option<Self> {
        (sregs.efer & EFER_LMA != 0).then_some(Self {
            cr3: sregs.cr3 & FRAME,
            levels: if sregs.cr4 & CR4_LA57 != 0 { 5 } else { 4 },
            write_protect: sregs.cr0 & CR0_WP != 0,
            no_user_pages: sregs.cr4 & CR4_SMAP != 0 && regs.rflags & RFLAGS_AC == 0,
        })
    }

    /// The guest-physical address of `address`; marks what it passes accessed, and the page dirty for a write.
    pub(super) fn translate(
        &self,
        memory: &GuestMemory,
        address: u64,
        access: Access,
    ) -> Result<GuestAddress, Fault> {
        let unused = 64 - (12 + 9 * self.levels);
        if ((address << unused).cast_signed() >> unused).cast_unsigned() != address {
            return Err(Fault::Protection);
        }
        let write = if access == Access::Write { FAULT_WRITE } else { 0 };
        let fault = |bits: u32| Fault::Page { address, error_code: bits | write };
        let (mut table, mut rights) = (self.cr3, WRITABLE | USER);
        for level in (0..self.levels).rev() {
            let shift = 12 + 9 * level;
            let at = table + 8 * ((address >> shift) & 0x1ff);
            let slice = memory
                .get_slice(GuestAddress(at), 8)
                .map_err(|_| Fault::NoMemory { physical: at })?;
            let slot = slice
                .get_atomic_ref::<AtomicU64>(0)
                .map_err(|_| Fault::NoMemory { physical: at })?;
            let entry = slot.load(Ordering::Relaxed);
            if entry & PRESENT == 0 {
                return Err(fault(0));
            }
            rights &= entry;
            let last = level == 0 || (level <= 2 && entry & LARGE != 0);
            if !last {
                mark(slot, entry, ACCESSED);
                table = entry & FRAME;
                continue;
            }
            let forbidden = access == Access::Write && self.write_protect && rights & WRITABLE == 0;
            if forbidden || (self.no_user_pages && rights & USER != 0) {
                return Err(fault(FAULT_PROTECTION));
            }
            mark(slot, entry, ACCESSED | if write != 0 { DIRTY } else { 0 });
            let offset = (1u64 << shift) - 1;
            return Ok(GuestAddress((entry & FRAME & !offset) | (address & offset)));
        }
        Err(fault(0))
    }
}

fn mark(slot: &AtomicU64, entry: u64, bits: u64) {
    if entry & bits != bits {
        slot.fetch_or(bits, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Bytes;

    const PAGING: Paging =
        Paging { cr3: 0x1000, levels: 4, write_protect: true, no_user_pages: false };

    /// Maps 0x40_0000 read-only to 0x5000 with a small page, and 0x60_0000 writable with a large one.
    fn memory() -> GuestMemory {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x80_0000)]).unwrap();
        let put = |at: u64, entry: u64| memory.write_obj(entry, GuestAddress(at)).unwrap();
        put(0x1000, 0x2000 | PRESENT | WRITABLE | USER);
        put(0x2000, 0x3000 | PRESENT | WRITABLE | USER);
        put(0x3000 + 2 * 8, 0x4000 | PRESENT | WRITABLE | USER);
        put(0x3000 + 3 * 8, 0x60_0000 | PRESENT | WRITABLE | LARGE);
        put(0x4000, 0x5000 | PRESENT | USER);
        memory
    }

    #[test]
    fn pages_are_found_and_marked_accessed_and_dirty() {
        let memory = memory();
        let at = |address, access| PAGING.translate(&memory, address, access);
        assert_eq!(at(0x40_0123, Access::Read), Ok(GuestAddress(0x5123)));
        assert_eq!(at(0x60_1234, Access::Write), Ok(GuestAddress(0x60_1234)));
        let entry: u64 = memory.read_obj(GuestAddress(0x4000)).unwrap();
        assert_eq!(entry & (ACCESSED | DIRTY), ACCESSED);
        let entry: u64 = memory.read_obj(GuestAddress(0x3018)).unwrap();
        assert_eq!(entry & (ACCESSED | DIRTY), ACCESSED | DIRTY);
    }

    #[test]
    fn a_write_to_a_read_only_page_is_a_protection_fault() {
        let memory = memory();
        assert_eq!(
            PAGING.translate(&memory, 0x40_0000, Access::Write),
            Err(Fault::Page { address: 0x40_0000, error_code: 3 })
        );
        let relaxed = Paging { write_protect: false, ..PAGING };
        assert_eq!(relaxed.translate(&memory, 0x40_0000, Access::Write), Ok(GuestAddress(0x5000)));
    }

    #[test]
    fn user_pages_are_refused_under_smap() {
        let memory = memory();
        let smap = Paging { no_user_pages: true, ..PAGING };
        assert_eq!(
            smap.translate(&memory, 0x40_0000, Access::Read),
            Err(Fault::Page { address: 0x40_0000, error_code: 1 })
        );
        assert!(smap.translate(&memory, 0x60_0000, Access::Read).is_ok());
    }

    #[test]
    fn absent_and_impossible_addresses_fault() {
        let memory = memory();
        assert_eq!(
            PAGING.translate(&memory, 0x40_1000, Access::Write),
            Err(Fault::Page { address: 0x40_1000, error_code: 2 })
        );
        assert_eq!(
            PAGING.translate(&memory, 0x0000_8000_0000_0000, Access::Read),
            Err(Fault::Protection)
        );
        let lost = Paging { cr3: 0x8000_0000, ..PAGING };
        assert_eq!(
            lost.translate(&memory, 0, Access::Read),
            Err(Fault::NoMemory { physical: 0x8000_0000 })
        );
    }
}
