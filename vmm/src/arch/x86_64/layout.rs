//! The map of guest-physical memory and interrupt lines. All addresses are guest-physical and in bytes.

use crate::memory::GuestAddress;

/// The boot GDT (Linux x86 boot protocol, 64-bit entry: flat segments `__BOOT_CS` and `__BOOT_DS`).
pub const GDT: GuestAddress = GuestAddress(0x500);
/// The zero page, `struct boot_params`.
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// The first stack ends here; the kernel replaces it at once.
pub const STACK_TOP: u64 = 0x8ff0;
/// The boot page tables: one page each of PML4, PDPT and PD, that map [`IDENTITY_MAPPED`] bytes one to one.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// What the boot page tables map; the kernel image, zero page and command line must lie below.
pub const IDENTITY_MAPPED: u64 = 1 << 30;
/// The random seed that the kernel starts its generator with.
pub const RANDOM_SEED: GuestAddress = GuestAddress(0x1_f000);
/// The kernel's command line.
pub const CMDLINE: GuestAddress = GuestAddress(0x20000);
/// The longest command line with its NUL, in bytes (`COMMAND_LINE_SIZE` of Linux on x86).
pub const CMDLINE_MAX: usize = 2048;
/// The MP table, in the last KiB of base memory, where the MP specification 1.4, section 4, has it looked for.
pub const MP_TABLE: GuestAddress = GuestAddress(0x9fc00);
/// The bytes there are for the MP table.
pub const MP_TABLE_MAX: usize = 0x400;
/// Memory above the legacy hole; a kernel is loaded at or above it.
pub const HIGH_MEMORY: GuestAddress = GuestAddress(0x10_0000);
/// The gap for devices below 4 GiB begins here; memory goes on at [`GAP_END`].
pub const GAP_START: u64 = 0xd000_0000;
/// The end of the gap.
pub const GAP_END: u64 = 1 << 32;

/// The first virtio device's registers; each has [`VIRTIO_WINDOW`] bytes.
pub const VIRTIO_BASE: u64 = GAP_START;
/// The bytes of one virtio device's registers.
pub const VIRTIO_WINDOW: u64 = 0x1000;
/// The first interrupt line of a virtio device.
pub const VIRTIO_FIRST_IRQ: u32 = 5;
/// How many virtio devices there can be: one interrupt line each, up to the I/O APIC's 24th.
pub const VIRTIO_MAX: usize = 19;
/// The serial port's interrupt line.
pub const SERIAL_IRQ: u32 = 4;

/// The I/O APIC's registers.
pub const IO_APIC: u32 = 0xfec0_0000;
/// The local APICs' registers.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM needs for itself on Intel (`KVM_SET_TSS_ADDR`).
pub const KVM_TSS: usize = 0xfffb_d000;
/// One more (`KVM_SET_IDENTITY_MAP_ADDR`).
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// Where `bytes` of memory lie: below the gap, and what does not fit there from 4 GiB up.
#[must_use]
pub fn memory_ranges(bytes: usize) -> Vec<(GuestAddress, usize)> {
    let low = bytes.min(usize::try_from(GAP_START).unwrap_or(usize::MAX));
    let mut ranges = vec![(GuestAddress(0), low)];
    if bytes > low {
        ranges.push((GuestAddress(GAP_END), bytes - low));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn memory_below_the_gap_is_one_range() {
        assert_eq!(memory_ranges(64 * MIB), [(GuestAddress(0), 64 * MIB)]);
        assert_eq!(memory_ranges(3328 * MIB), [(GuestAddress(0), 3328 * MIB)]);
    }

    #[test]
    fn memory_over_the_gap_goes_on_at_four_gib() {
        assert_eq!(
            memory_ranges(8192 * MIB),
            [(GuestAddress(0), 3328 * MIB), (GuestAddress(1 << 32), 4864 * MIB)]
        );
    }
}
