//! The files that a machine is booted from.

use std::{fs::File, io::Read, os::unix::fs::FileExt, path::Path};

use super::{ConfigError, open};
use crate::{
    boot::{Initrd, Kernel},
    snapshot::FileIdentity,
};

const ELF_MAGIC: &[u8] = b"\x7fELF";
const ELF_CLASS_64_LITTLE: [u8; 2] = [2, 1];
const ELF_MACHINE_X86_64: u16 = 62;
const ELF_HEADER: usize = 64;
const ELF_PROGRAM_HEADER: usize = 56;
const ELF_LOAD: u32 = 1;
const BZIMAGE_MAGIC: (usize, &[u8]) = (0x202, b"HdrS");

/// Opens an initial RAM disk.
pub(super) fn open_initrd(path: &Path) -> Result<(Initrd, FileIdentity), ConfigError> {
    let (file, identity) = open("initial RAM disk", path)?;
    Ok((Initrd { file, length: identity.length() }, identity))
}

/// Opens a kernel and looks whether it is one, for this architecture and whole.
pub(super) fn open_kernel(path: &Path) -> Result<(Kernel, FileIdentity), ConfigError> {
    let (mut file, identity) = open("kernel", path)?;
    let length = identity.length();
    let refuse = |why: String| ConfigError::Kernel { path: path.to_owned(), why };
    let mut head = Vec::new();
    let (magic_at, magic) = BZIMAGE_MAGIC;
    (&mut file)
        .take((magic_at + magic.len()) as u64)
        .read_to_end(&mut head)
        .map_err(|source| ConfigError::Open { what: "kernel", path: path.to_owned(), source })?;
    if head.starts_with(ELF_MAGIC) {
        check_elf(&head, &file, length).map_err(refuse)?;
        return Ok((Kernel::Elf(file), identity));
    }
    if head.get(magic_at..) == Some(magic) {
        return Ok((Kernel::BzImage(file), identity));
    }
    Err(refuse("is neither an ELF vmlinux nor a bzImage; name the kernel's image".to_owned()))
}

/// Is it for this architecture, and are all its segments there?
fn check_elf(head: &[u8], file: &File, length: u64) -> Result<(), String> {
    let half =
        |at: usize| head.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes);
    let short = || format!("is truncated: it has only {length} bytes; get or build it again");
    if head.len() < ELF_HEADER {
        return Err(short());
    }
    if head.get(4..6) != Some(&ELF_CLASS_64_LITTLE) {
        return Err("is not a 64-bit little-endian ELF file; use an x86-64 vmlinux".to_owned());
    }
    let machine = half(18).unwrap_or(0);
    if machine != ELF_MACHINE_X86_64 {
        return Err(format!("is for ELF machine {machine}, not for x86-64 ({ELF_MACHINE_X86_64})"));
    }
    let table = quad(head, 32).unwrap_or(0);
    let mut header = [0; ELF_PROGRAM_HEADER];
    let mut loads = 0;
    for index in 0..u64::from(half(56).unwrap_or(0)) {
        let at = table.saturating_add(index * ELF_PROGRAM_HEADER as u64);
        file.read_exact_at(&mut header, at).map_err(|_| short())?;
        if header.first_chunk::<4>().copied().map(u32::from_le_bytes) != Some(ELF_LOAD) {
            continue;
        }
        loads += 1;
        let (offset, size) = (quad(&header, 8).unwrap_or(0), quad(&header, 32).unwrap_or(0));
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(short());
        }
    }
    if loads == 0 {
        return Err("has nothing to load; name the kernel's vmlinux".to_owned());
    }
    Ok(())
}

fn quad(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}
