//! An instruction's operand in guest memory, wherever its pages lie.

use super::paging::{Access, Fault, Paging};
use crate::memory::{Bytes, GuestAddress, GuestMemory};

const PAGE: usize = 4096;

/// How many bytes there are from `address` to the end of its page.
pub(super) fn to_page_end(address: u64) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "only the low 12 bits are used")]
    let within = address as usize % PAGE;
    PAGE - within
}

/// A range of linear addresses, translated as a whole before any of it is touched.
#[derive(Debug)]
pub(super) struct Operand<'a> {
    memory: &'a GuestMemory,
    pages: Vec<(GuestAddress, usize)>,
}

impl<'a> Operand<'a> {
    /// Translates `length` bytes at `address`.
    pub(super) fn new(
        memory: &'a GuestMemory,
        paging: &Paging,
        address: u64,
        length: usize,
        access: Access,
    ) -> Result<Self, Fault> {
        let mut pages = Vec::with_capacity(length / PAGE + 2);
        let (mut at, mut left) = (address, length);
        while left > 0 {
            let here = left.min(to_page_end(at));
            pages.push((paging.translate(memory, at, access)?, here));
            at = at.wrapping_add(here as u64);
            left -= here;
        }
        Ok(Self { memory, pages })
    }

    /// The guest-physical address of the first byte.
    pub(super) fn first(&self) -> Option<GuestAddress> {
        self.pages.first().map(|&(address, _)| address)
    }

    /// Reads from `offset` on.
    pub(super) fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), Fault> {
        let mut rest = into;
        self.each(offset, rest.len(), |address, length| {
            let (here, later) = std::mem::take(&mut rest).split_at_mut(length);
            rest = later;
            self.memory.read_slice(here, address)
        })
    }

    /// Writes from `offset` on.
    pub(super) fn write(&self, offset: usize, from: &[u8]) -> Result<(), Fault> {
        let mut rest = from;
        self.each(offset, rest.len(), |address, length| {
            let (here, later) = rest.split_at(length);
            rest = later;
            self.memory.write_slice(here, address)
        })
    }

    /// Calls `act` for every run of contiguous bytes of `length` bytes at `offset`.
    fn each(
        &self,
        offset: usize,
        length: usize,
        mut act: impl FnMut(GuestAddress, usize) -> Result<(), vm_memory::GuestMemoryError>,
    ) -> Result<(), Fault> {
        let (mut skip, mut left) = (offset, length);
        for &(address, size) in &self.pages {
            if left == 0 {
                break;
            }
            if skip >= size {
                skip -= size;
                continue;
            }
            let here = left.min(size - skip);
            let start = GuestAddress(address.0 + skip as u64);
            act(start, here).map_err(|_| Fault::NoMemory { physical: start.0 })?;
            (skip, left) = (0, left - here);
        }
        if left == 0 { Ok(()) } else { Err(Fault::NoMemory { physical: u64::MAX }) }
    }
}

#[cfg(test)]
mod tests {
    use kvm_bindings::{kvm_regs, kvm_sregs};

    use super::*;

    /// Linear pages 0 and 1 are physical pages 6 and 5; page 2 is absent.
    fn machine() -> (GuestMemory, Paging) {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
        for (at, entry) in [
            (0x1000, 0x2003u64),
            (0x2000, 0x3003),
            (0x3000, 0x4003),
            (0x4000, 0x6003),
            (0x4008, 0x5003),
        ] {
            memory.write_obj(entry, GuestAddress(at)).unwrap();
        }
        let sregs = kvm_sregs { cr3: 0x1000, efer: 1 << 10, ..kvm_sregs::default() };
        (memory, Paging::of(&kvm_regs::default(), &sregs).unwrap())
    }

    #[test]
    fn an_operand_across_pages_is_one_run_of_bytes() {
        let (memory, paging) = machine();
        let operand = Operand::new(&memory, &paging, 0xffe, 8, Access::Write).unwrap();
        operand.write(0, b"abcdefgh").unwrap();
        operand.write(1, b"BC").unwrap();
        let mut first = [0; 2];
        memory.read_slice(&mut first, GuestAddress(0x6ffe)).unwrap();
        assert_eq!(&first, b"aB");
        let mut back = [0; 5];
        operand.read(1, &mut back).unwrap();
        assert_eq!(&back, b"BCdef");
        let mut second = [0; 6];
        memory.read_slice(&mut second, GuestAddress(0x5000)).unwrap();
        assert_eq!(&second, b"Cdefgh");
    }

    #[test]
    fn a_missing_second_page_faults_with_its_own_address() {
        let (memory, paging) = machine();
        let fault = Operand::new(&memory, &paging, 0x1ffe, 8, Access::Write).unwrap_err();
        assert_eq!(fault, Fault::Page { address: 0x2000, error_code: 2 });
    }

    #[test]
    fn nothing_beyond_the_operand_can_be_touched() {
        let (memory, paging) = machine();
        let operand = Operand::new(&memory, &paging, 0x10, 8, Access::Write).unwrap();
        assert!(operand.write(4, b"12345").is_err());
        assert!(operand.read(8, &mut [0]).is_err());
    }
}
