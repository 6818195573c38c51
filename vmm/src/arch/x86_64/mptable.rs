//! The MP table (Intel MultiProcessor Specification 1.4): which processors and interrupt lines there are, for a guest without ACPI.
//! Interrupt line N of the ISA bus is pin N of the one I/O APIC.

use super::layout;
use crate::memory::{Address, Bytes, GuestMemory};

const IO_APIC_PINS: u8 = 24;
const APIC_VERSION: u8 = 0x14;
const SPEC_1_4: u8 = 4;
const ENTRY_PROCESSOR: u8 = 0;
const ENTRY_BUS: u8 = 1;
const ENTRY_IO_APIC: u8 = 2;
const ENTRY_IO_INTERRUPT: u8 = 3;
const ENTRY_LOCAL_INTERRUPT: u8 = 4;
const INTERRUPT_INT: u8 = 0;
const INTERRUPT_NMI: u8 = 1;
const INTERRUPT_EXTINT: u8 = 3;
const ALL_LOCAL_APICS: u8 = 0xff;
/// An FPU and an APIC on the chip.
const PROCESSOR_FEATURES: u32 = 0x201;
const PROCESSOR_SIGNATURE: u32 = 0x600;
const POINTER_LENGTH: usize = 16;
const HEADER_LENGTH: usize = 44;

/// Writes the table for `processors` vCPUs, whose local APIC ids are 0, 1, ….
///
/// # Errors
/// Those of guest memory, which has no such address.
pub fn write(memory: &GuestMemory, processors: u8) -> Result<(), vm_memory::GuestMemoryError> {
    memory.write_slice(&table(processors), layout::MP_TABLE)
}

fn table(processors: u8) -> Vec<u8> {
    let mut entries = Vec::with_capacity(layout::MP_TABLE_MAX);
    let mut count: u16 = 0;
    let mut add = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    for id in 0..processors {
        let flags = 1 | if id == 0 { 2 } else { 0 };
        let mut entry = [0; 20];
        entry[..4].copy_from_slice(&[ENTRY_PROCESSOR, id, APIC_VERSION, flags]);
        entry[4..8].copy_from_slice(&PROCESSOR_SIGNATURE.to_le_bytes());
        entry[8..12].copy_from_slice(&PROCESSOR_FEATURES.to_le_bytes());
        add(&entry);
    }
    add(&[ENTRY_BUS, 0, b'I', b'S', b'A', b' ', b' ', b' ']);
    let io_apic_id = processors + 1;
    let [a, b, c, d] = layout::IO_APIC.to_le_bytes();
    add(&[ENTRY_IO_APIC, io_apic_id, APIC_VERSION, 1, a, b, c, d]);
    for line in 0..IO_APIC_PINS {
        add(&[ENTRY_IO_INTERRUPT, INTERRUPT_INT, 0, 0, 0, line, io_apic_id, line]);
    }
    add(&[ENTRY_LOCAL_INTERRUPT, INTERRUPT_EXTINT, 0, 0, 0, 0, 0, 0]);
    add(&[ENTRY_LOCAL_INTERRUPT, INTERRUPT_NMI, 0, 0, 0, 0, ALL_LOCAL_APICS, 1]);

    let mut table = Vec::with_capacity(layout::MP_TABLE_MAX);
    #[expect(clippy::cast_possible_truncation, reason = "the layout keeps it below 1 MiB")]
    let header = (layout::MP_TABLE.raw_value() as u32 + 16).to_le_bytes();
    table.extend_from_slice(b"_MP_");
    table.extend_from_slice(&header);
    table.extend_from_slice(&[1, SPEC_1_4, 0, 0, 0, 0, 0, 0]);
    table[10] = checksum(&table);

    #[expect(clippy::cast_possible_truncation, reason = "eight processors take 420 bytes")]
    let length = (HEADER_LENGTH + entries.len()) as u16;
    table.extend_from_slice(b"PCMP");
    table.extend_from_slice(&length.to_le_bytes());
    table.extend_from_slice(&[SPEC_1_4, 0]);
    table.extend_from_slice(b"BULKHEADMICROVM     ");
    table.extend_from_slice(&[0; 6]);
    table.extend_from_slice(&count.to_le_bytes());
    table.extend_from_slice(&layout::LOCAL_APIC.to_le_bytes());
    table.extend_from_slice(&[0; 4]);
    table.extend_from_slice(&entries);
    table[POINTER_LENGTH + 7] = checksum(&table[POINTER_LENGTH..]);
    table
}

/// The byte that makes the sum of `bytes` and itself 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn checksums_lengths_and_counts_hold_for_every_number_of_processors() {
        for processors in 1..=8u8 {
            let table = table(processors);
            assert!(table.len() <= layout::MP_TABLE_MAX);
            assert_eq!(sum(&table[..POINTER_LENGTH]), 0);
            assert_eq!(sum(&table[POINTER_LENGTH..]), 0);
            let header = &table[POINTER_LENGTH..];
            assert_eq!(usize::from(u16::from_le_bytes([header[4], header[5]])), header.len());
            let count = u16::from_le_bytes([header[34], header[35]]);
            assert_eq!(count, u16::from(processors) + 2 + 24 + 2);
            let mut at = HEADER_LENGTH;
            for _ in 0..count {
                at += if header[at] == ENTRY_PROCESSOR { 20 } else { 8 };
            }
            assert_eq!(at, header.len());
        }
    }
}
