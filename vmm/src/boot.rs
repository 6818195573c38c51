//! Loads a kernel and its initial RAM disk into guest memory and writes what the boot protocol asks for around them.

use std::{
    fs::File,
    io::{self, Seek},
};

use linux_loader::loader::{KernelLoader, bzimage::BzImage, elf::Elf};

use crate::{
    arch::current::{boot_params, layout, mptable, start},
    memory::{Address, Bytes, GuestAddress, GuestMemory},
};

/// The offset of a bzImage's 64-bit entry from where it is loaded (Linux x86 boot protocol, "64-bit boot protocol").
const BZIMAGE_ENTRY: u64 = 0x200;
/// `xloadflags`: the kernel has that entry.
const XLF_KERNEL_64: u16 = 1;
const PAGE: u64 = 4096;

/// An opened kernel image.
#[derive(Debug)]
pub enum Kernel {
    /// An ELF executable for x86-64.
    Elf(File),
    /// A compressed image with its own loader.
    BzImage(File),
}

/// An opened initial RAM disk.
#[derive(Debug)]
pub struct Initrd {
    /// The archive.
    pub file: File,
    /// Its length in bytes.
    pub length: u64,
}

/// Why a guest could not be put into memory.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The loader refuses the image.
    #[error("the kernel cannot be loaded")]
    Load(#[source] linux_loader::loader::Error),
    /// A bzImage of another time or architecture.
    #[error("the kernel is a bzImage without a 64-bit entry; use a 64-bit kernel")]
    NoLongMode,
    /// The kernel and what it needs do not fit.
    #[error(
        "the kernel needs memory up to {needed} MiB, the machine has {available} MiB; give it more memory"
    )]
    KernelTooLarge {
        /// What the kernel needs, in MiB.
        needed: u64,
        /// What there is below the device gap, in MiB.
        available: u64,
    },
    /// The kernel's addresses are beyond what the boot page tables map.
    #[error(
        "the kernel is to be loaded up to {0:#x}, beyond the first GiB; build it with its usual CONFIG_PHYSICAL_START"
    )]
    KernelTooHigh(u64),
    /// The entry point is not in what was loaded.
    #[error(
        "the kernel's entry point {0:#x} lies outside its segments; the file is damaged or no kernel"
    )]
    EntryOutside(u64),
    /// The initial RAM disk does not fit behind the kernel.
    #[error(
        "the initial RAM disk of {length} bytes does not fit into memory behind the kernel; give the machine more memory"
    )]
    InitrdTooLarge {
        /// Its length in bytes.
        length: u64,
    },
    /// The initial RAM disk could not be read.
    #[error("cannot read the initial RAM disk")]
    InitrdRead(#[source] vm_memory::GuestMemoryError),
    /// The command line is longer than a kernel takes.
    #[error("the kernel's command line has {0} bytes, at most {max} are possible; shorten \"cmdline\"", max = layout::CMDLINE_MAX - 1)]
    CmdlineTooLong(usize),
    /// The host's random number generator.
    #[error("cannot get a random seed for the guest")]
    Seed(#[source] io::Error),
    /// A table could not be written.
    #[error("cannot write the boot tables into guest memory")]
    Tables(#[from] vm_memory::GuestMemoryError),
}

/// Loads everything; returns the kernel's entry point.
///
/// # Errors
/// [`BootError`].
pub fn load(
    memory: &GuestMemory,
    kernel: &mut Kernel,
    initrd: Option<&mut Initrd>,
    cmdline: &str,
    vcpus: u8,
) -> Result<u64, BootError> {
    if cmdline.len() >= layout::CMDLINE_MAX {
        return Err(BootError::CmdlineTooLong(cmdline.len()));
    }
    let high = Some(layout::HIGH_MEMORY);
    let loaded = match kernel {
        Kernel::Elf(file) => Elf::load(memory, None, file, high),
        Kernel::BzImage(file) => BzImage::load(memory, None, file, high),
    }
    .map_err(BootError::Load)?;
    let mut end = loaded.kernel_end;
    let mut entry = loaded.kernel_load.raw_value();
    let mut initrd_limit = layout::GAP_START;
    if let Some(header) = loaded.setup_header {
        if header.xloadflags & XLF_KERNEL_64 == 0 {
            return Err(BootError::NoLongMode);
        }
        entry += BZIMAGE_ENTRY;
        // It unpacks itself from its preferred address on.
        end = end.max(header.pref_address.saturating_add(u64::from(header.init_size)));
        initrd_limit = u64::from(header.initrd_addr_max).saturating_add(1);
    }
    if !(layout::HIGH_MEMORY.raw_value()..end).contains(&entry) {
        return Err(BootError::EntryOutside(entry));
    }
    let available = boot_params::low_memory_end(memory).raw_value();
    if end > available {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        return Err(BootError::KernelTooLarge { needed: mib(end), available: mib(available) });
    }
    if end > layout::IDENTITY_MAPPED {
        return Err(BootError::KernelTooHigh(end));
    }
    let initrd = match initrd {
        Some(initrd) => Some(load_initrd(memory, initrd, end, available.min(initrd_limit))?),
        None => None,
    };
    memory.write_slice(cmdline.as_bytes(), layout::CMDLINE)?;
    memory.write_obj(0u8, layout::CMDLINE.unchecked_add(cmdline.len() as u64))?;
    #[expect(clippy::cast_possible_truncation, reason = "bounded by CMDLINE_MAX above")]
    let cmdline_length = cmdline.len() as u32;
    let seed = random().map_err(BootError::Seed)?;
    let input =
        boot_params::BootInput { header: loaded.setup_header, cmdline_length, initrd, seed };
    boot_params::write(memory, &input)?;
    mptable::write(memory, vcpus)?;
    start::write_tables(memory)?;
    Ok(entry)
}

/// From the host's generator.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the buffer is ours and has the length that is said.
    let length = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    if usize::try_from(length) == Ok(N) { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

/// Puts the initial RAM disk as high as it can be between `above` and `below`; returns its address and length.
fn load_initrd(
    memory: &GuestMemory,
    initrd: &mut Initrd,
    above: u64,
    below: u64,
) -> Result<(u32, u32), BootError> {
    let length = initrd.length;
    let too_large = || BootError::InitrdTooLarge { length };
    let address = below.checked_sub(length).ok_or_else(too_large)? / PAGE * PAGE;
    if address < above {
        return Err(too_large());
    }
    let place = (
        u32::try_from(address).map_err(|_| too_large())?,
        u32::try_from(length).map_err(|_| too_large())?,
    );
    initrd
        .file
        .rewind()
        .map_err(|error| BootError::InitrdRead(vm_memory::GuestMemoryError::IOError(error)))?;
    memory
        .read_exact_volatile_from(GuestAddress(address), &mut initrd.file, place.1 as usize)
        .map_err(BootError::InitrdRead)?;
    Ok(place)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// An ELF executable with one segment of `code` at `address`, entered at its start.
    fn elf(address: u64, code: &[u8], memory_size: u64) -> Vec<u8> {
        let mut elf = Vec::new();
        elf.extend(b"\x7fELF\x02\x01\x01");
        elf.resize(16, 0);
        elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        for value in [address, 64, 0] {
            elf.extend(value.to_le_bytes());
        }
        elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
        for value in [120, address, address, code.len() as u64, memory_size, 4096] {
            elf.extend(value.to_le_bytes());
        }
        elf.extend(code);
        elf
    }

    fn memory() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap()
    }

    #[test]
    fn an_elf_kernel_goes_to_its_physical_address() {
        let memory = memory();
        let mut kernel = Kernel::Elf(file(&elf(0x100_0000, b"kernel", 0x1000)));
        let mut initrd = Initrd { file: file(b"archive"), length: 7 };
        let entry = load(&memory, &mut kernel, Some(&mut initrd), "quiet", 1).unwrap();
        assert_eq!(entry, 0x100_0000);
        let mut code = [0; 6];
        memory.read_slice(&mut code, GuestAddress(0x100_0000)).unwrap();
        assert_eq!(&code, b"kernel");
        let mut cmdline = [0xff; 6];
        memory.read_slice(&mut cmdline, layout::CMDLINE).unwrap();
        assert_eq!(&cmdline, b"quiet\0");
        let mut archive = [0; 7];
        memory.read_slice(&mut archive, GuestAddress((64 << 20) - 4096)).unwrap();
        assert_eq!(&archive, b"archive");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_size() {
        let memory = memory();
        let mut kernel = Kernel::Elf(file(&elf(0x100_0000, b"kernel", 80 << 20)));
        let error = load(&memory, &mut kernel, None, "", 1).unwrap_err();
        assert!(
            matches!(error, BootError::KernelTooLarge { needed: 96, available: 64 }),
            "{error}"
        );
        let mut kernel = Kernel::Elf(file(&elf(0x100_0000, b"kernel", 0x1000)));
        let mut initrd = Initrd { file: file(b""), length: 60 << 20 };
        let error = load(&memory, &mut kernel, Some(&mut initrd), "", 1).unwrap_err();
        assert!(matches!(error, BootError::InitrdTooLarge { .. }), "{error}");
        let error = load(&memory, &mut kernel, None, &"x".repeat(2048), 1).unwrap_err();
        assert!(matches!(error, BootError::CmdlineTooLong(2048)), "{error}");
    }

    #[test]
    fn a_bzimage_starts_at_its_64_bit_entry() {
        let mut image = vec![0; 2048];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        image[0x211] = 1;
        image[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
        image[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
        image[0x236] = 1;
        image[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
        image[0x260..0x264].copy_from_slice(&0x100_0000u32.to_le_bytes());
        image[1024..].fill(0x77);
        let memory = memory();
        let mut kernel = Kernel::BzImage(file(&image));
        assert_eq!(load(&memory, &mut kernel, None, "", 1).unwrap(), 0x10_0200);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x10_0000)).unwrap(), 0x77);
        image[0x236] = 0;
        let error = load(&memory, &mut Kernel::BzImage(file(&image)), None, "", 1).unwrap_err();
        assert!(matches!(error, BootError::NoLongMode), "{error}");
        image[0x236] = 1;
        image[0x260..0x264].copy_from_slice(&0x700_0000u32.to_le_bytes());
        let error = load(&memory, &mut Kernel::BzImage(file(&image)), None, "", 1).unwrap_err();
        assert!(matches!(error, BootError::KernelTooLarge { .. }), "{error}");
    }
}
