//! KVM's own statistics of a vCPU (Linux Documentation/virt/kvm/api.rst, 4.133, `KVM_GET_STATS_FD`): one figure of them,
//! `insn_emulation`, the instructions that KVM interpreted.

use std::{
    fs::File,
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::fs::FileExt,
    },
};

use kvm_bindings::KVMIO;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::{ioctl::ioctl, ioctl_io_nr};

ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

const NAME: &[u8] = b"insn_emulation";
const HEADER_LENGTH: usize = 24;
/// A descriptor's length without its name.
const DESCRIPTOR_LENGTH: usize = 16;
/// More than any kernel has; what is beyond is not looked at.
const MAX_DESCRIPTORS: u32 = 1024;
const MAX_NAME: u32 = 256;

/// Counts the instructions that KVM interpreted, over some vCPUs.
#[derive(Debug, Default)]
pub struct Instructions {
    /// For each vCPU its statistics and the figure's place there.
    sources: Vec<(File, u64)>,
}

impl Instructions {
    /// Adds a vCPU. A host without the statistics counts as 0.
    pub fn add(&mut self, vcpu: &VcpuFd) {
        // SAFETY: the descriptor is a vCPU's and the call has no argument.
        let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
        if fd < 0 {
            return;
        }
        // SAFETY: KVM has just made this descriptor for us alone.
        let file = unsafe { File::from_raw_fd(fd) };
        if let Some(place) = find(|buffer, offset| file.read_exact_at(buffer, offset).ok()) {
            self.sources.push((file, place));
        }
    }

    /// The sum now.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.sources
            .iter()
            .filter_map(|(file, place)| {
                let mut value = [0; 8];
                file.read_exact_at(&mut value, *place).ok()?;
                Some(u64::from_le_bytes(value))
            })
            .sum()
    }

    /// Whether every one of `vcpus` is counted.
    #[must_use]
    pub fn covers(&self, vcpus: usize) -> bool {
        self.sources.len() == vcpus
    }

    /// The descriptors that this holds.
    pub fn descriptors(&self) -> impl Iterator<Item = i32> {
        self.sources.iter().map(|(file, _)| file.as_raw_fd())
    }
}

/// Finds the figure's offset in a statistics file that `read` reads.
fn find(read: impl Fn(&mut [u8], u64) -> Option<()>) -> Option<u64> {
    let mut header = [0; HEADER_LENGTH];
    read(&mut header, 0)?;
    let (name_size, count) = (word(&header, 4)?, word(&header, 8)?);
    let (descriptors, data) = (u64::from(word(&header, 16)?), u64::from(word(&header, 20)?));
    if name_size > MAX_NAME {
        return None;
    }
    let length = DESCRIPTOR_LENGTH + name_size as usize;
    let mut table = vec![0; length * count.min(MAX_DESCRIPTORS) as usize];
    read(&mut table, descriptors)?;
    let descriptor = table.chunks_exact(length).find(|descriptor| {
        let name = descriptor.get(DESCRIPTOR_LENGTH..).unwrap_or_default();
        name.split(|&byte| byte == 0).next() == Some(NAME)
    })?;
    Some(data + u64::from(word(descriptor, 8)?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(names: &[&str]) -> Vec<u8> {
        let count = u32::try_from(names.len()).unwrap();
        let mut bytes = Vec::new();
        for value in [0, 24, count, 0, 24, 24 + count * (16 + 24)] {
            bytes.extend(value.to_le_bytes());
        }
        for (index, name) in (0u32..).zip(names) {
            bytes.extend([0; 8]);
            bytes.extend((index * 8).to_le_bytes());
            bytes.extend([0; 4]);
            let mut padded = name.as_bytes().to_vec();
            padded.resize(24, 0);
            bytes.extend(padded);
        }
        bytes
    }

    fn look(bytes: &[u8]) -> Option<u64> {
        find(|buffer, offset| {
            let offset = usize::try_from(offset).unwrap();
            buffer.copy_from_slice(bytes.get(offset..)?.get(..buffer.len())?);
            Some(())
        })
    }

    #[test]
    fn the_figure_is_found_by_its_whole_name() {
        let bytes = file(&["exits", "insn_emulation_fail", "insn_emulation"]);
        assert_eq!(look(&bytes), Some(24 + 3 * 40 + 16));
    }

    #[test]
    fn a_file_without_the_figure_or_cut_short_has_none() {
        assert_eq!(look(&file(&["exits"])), None);
        let bytes = file(&["exits", "insn_emulation"]);
        assert_eq!(look(&bytes[..60]), None);
        assert_eq!(look(&[]), None);
    }
}
