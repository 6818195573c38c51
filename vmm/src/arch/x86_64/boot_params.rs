//! The zero page that a Linux kernel is started with: memory map, command line, initial RAM disk
//! (Linux Documentation/arch/x86/boot.rst and zero-page.rst).

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};

use super::layout;
use crate::memory::{
    Address, Bytes, GuestAddress, GuestMemory, GuestMemoryRegion, GuestMemoryTrait,
};

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
/// `hdr.boot_flag`, `hdr.header` ("HdrS") and `hdr.type_of_loader` ("undefined").
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
const LOADER_UNDEFINED: u8 = 0xff;
const KERNEL_ALIGNMENT: u32 = 0x100_0000;
/// `struct setup_data`: next (8 bytes), type (4), length (4), data; and the type that carries a seed.
const SETUP_RNG_SEED: u32 = 9;
const SEED_LENGTH: u32 = 32;

/// What the zero page says besides the memory map.
#[derive(Debug)]
pub struct BootInput {
    /// The header of a bzImage; an ELF kernel has none.
    pub header: Option<setup_header>,
    /// The command line's length in bytes, without its NUL.
    pub cmdline_length: u32,
    /// Where the initial RAM disk lies and its length in bytes.
    pub initrd: Option<(u32, u32)>,
    /// What the kernel's random number generator starts with; the kernel wipes it once taken.
    pub seed: [u8; SEED_LENGTH as usize],
}

/// Writes the zero page to [`layout::ZERO_PAGE`].
///
/// # Errors
/// Those of guest memory, which has no such address.
pub fn write(memory: &GuestMemory, input: &BootInput) -> Result<(), vm_memory::GuestMemoryError> {
    let hdr = input.header.unwrap_or(setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        kernel_alignment: KERNEL_ALIGNMENT,
        ..setup_header::default()
    });
    let mut params = boot_params { hdr, ..boot_params::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    #[expect(clippy::cast_possible_truncation, reason = "the layout keeps it below 4 GiB")]
    let cmdline = layout::CMDLINE.raw_value() as u32;
    params.hdr.cmd_line_ptr = cmdline;
    params.hdr.cmdline_size = input.cmdline_length;
    if let Some((address, length)) = input.initrd {
        params.hdr.ramdisk_image = address;
        params.hdr.ramdisk_size = length;
    }
    memory.write_obj(0u64, layout::RANDOM_SEED)?;
    memory.write_obj(SETUP_RNG_SEED, layout::RANDOM_SEED.unchecked_add(8))?;
    memory.write_obj(SEED_LENGTH, layout::RANDOM_SEED.unchecked_add(12))?;
    memory.write_slice(&input.seed, layout::RANDOM_SEED.unchecked_add(16))?;
    params.hdr.setup_data = layout::RANDOM_SEED.raw_value();
    let map = memory_map(memory);
    for (slot, entry) in params.e820_table.iter_mut().zip(&map) {
        *slot = *entry;
    }
    params.e820_entries = u8::try_from(map.len()).unwrap_or(u8::MAX);
    memory.write_obj(params, layout::ZERO_PAGE)
}

/// The end of the memory below the device gap.
#[must_use]
pub fn low_memory_end(memory: &GuestMemory) -> GuestAddress {
    memory
        .iter()
        .next()
        .map_or(GuestAddress(0), |region| region.start_addr().unchecked_add(region.len()))
}

fn memory_map(memory: &GuestMemory) -> Vec<boot_e820_entry> {
    let entry = |addr: u64, end: u64, type_: u32| boot_e820_entry { addr, size: end - addr, type_ };
    let (base_end, high) = (layout::MP_TABLE.raw_value(), layout::HIGH_MEMORY.raw_value());
    let mut map = vec![entry(0, base_end, E820_RAM), entry(base_end, high, E820_RESERVED)];
    for region in memory.iter() {
        let start = region.start_addr().raw_value().max(high);
        let end = region.start_addr().raw_value() + region.len();
        map.push(entry(start, end, E820_RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_map_covers_all_memory_but_the_legacy_hole() {
        let memory = GuestMemory::from_ranges(&[
            (GuestAddress(0), 64 << 20),
            (GuestAddress(layout::GAP_END), 1 << 20),
        ])
        .unwrap();
        let map: Vec<_> =
            memory_map(&memory).iter().map(|e| ({ e.addr }, { e.size }, { e.type_ })).collect();
        assert_eq!(
            map,
            [
                (0, 0x9fc00, 1),
                (0x9fc00, 0x60400, 2),
                (0x10_0000, (64 << 20) - 0x10_0000, 1),
                (1 << 32, 1 << 20, 1)
            ]
        );
        assert_eq!(low_memory_end(&memory), GuestAddress(64 << 20));
    }

    #[test]
    fn the_zero_page_names_command_line_and_initrd() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap();
        let input = BootInput {
            header: None,
            cmdline_length: 5,
            initrd: Some((0x300_0000, 0x1234)),
            seed: [7; 32],
        };
        write(&memory, &input).unwrap();
        let params: boot_params = memory.read_obj(layout::ZERO_PAGE).unwrap();
        assert_eq!({ params.hdr.header }, HEADER_MAGIC);
        assert_eq!({ params.hdr.cmd_line_ptr }, 0x20000);
        assert_eq!({ params.hdr.ramdisk_image }, 0x300_0000);
        assert_eq!({ params.hdr.ramdisk_size }, 0x1234);
        assert_eq!(params.e820_entries, 3);
        assert_eq!({ params.hdr.setup_data }, 0x1_f000);
        let mut seed = [0; 48];
        memory.read_slice(&mut seed, layout::RANDOM_SEED).unwrap();
        assert_eq!(seed[8..16], [9, 0, 0, 0, 32, 0, 0, 0]);
        assert_eq!(seed[16..], [7; 32]);
    }
}
