//! What the CPUID instruction tells a guest: what KVM supports, with this machine's own topology (one package, one thread a core).
//! Leaf numbers are those of the Intel SDM, volume 2, CPUID, and AMD's APM, volume 3, appendix E.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm, VcpuFd};

use crate::kvm::KvmError;

const ECX1_MONITOR: u32 = 1 << 3;
const ECX1_TSC_DEADLINE: u32 = 1 << 24;
const ECX1_HYPERVISOR: u32 = 1 << 31;
const EDX1_HTT: u32 = 1 << 28;
const ECX6_ENERGY_BIAS: u32 = 1 << 3;
const LEVEL_SMT: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// What the host supports, before a vCPU's own numbers are filled in.
#[derive(Debug)]
pub struct Template {
    supported: CpuId,
    tsc_deadline: bool,
}

impl Template {
    /// Asks KVM.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn of_host(kvm: &Kvm) -> Result<Self, KvmError> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::call("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(Self { supported, tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer) })
    }

    /// The entries as KVM gave them.
    #[must_use]
    pub fn entries(&self) -> &[kvm_cpuid_entry2] {
        self.supported.as_slice()
    }

    /// Gives vCPU `id` of `count` its CPUID.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn apply(&self, vcpu: &VcpuFd, id: u8, count: u8) -> Result<(), KvmError> {
        let mut cpuid = self.supported.clone();
        for entry in cpuid.as_mut_slice() {
            specialize(entry, u32::from(id), u32::from(count), self.tsc_deadline);
        }
        vcpu.set_cpuid2(&cpuid).map_err(KvmError::call("KVM_SET_CPUID2"))
    }
}

fn specialize(entry: &mut kvm_cpuid_entry2, id: u32, count: u32, tsc_deadline: bool) {
    // The bits of an APIC id that tell the cores of the package apart.
    let core_bits = u32::BITS - (count - 1).leading_zeros();
    match entry.function {
        0x1 => {
            entry.ebx = (entry.ebx & 0xffff) | (id << 24) | (count << 16);
            entry.ecx = (entry.ecx & !ECX1_MONITOR) | ECX1_HYPERVISOR;
            if tsc_deadline {
                entry.ecx |= ECX1_TSC_DEADLINE;
            }
            entry.edx = if count > 1 { entry.edx | EDX1_HTT } else { entry.edx & !EDX1_HTT };
        }
        // Caches: levels 1 and 2 belong to a core, level 3 to the package.
        0x4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
            let sharing = if (entry.eax >> 5) & 0x7 >= 3 { count - 1 } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | (sharing << 14);
            if entry.function == 0x4 {
                entry.eax |= (count - 1) << 26;
            }
        }
        0x6 => entry.ecx &= !ECX6_ENERGY_BIAS,
        // No performance counters.
        0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        0xb | 0x1f => {
            (entry.eax, entry.ebx, entry.ecx) = match entry.index {
                0 => (0, 1, LEVEL_SMT << 8),
                1 => (core_bits, count, (LEVEL_CORE << 8) | 1),
                index => (0, 0, index),
            };
            entry.edx = id;
        }
        0x8000_0008 => entry.ecx = (entry.ecx & !0xf0ff) | (core_bits << 12) | (count - 1),
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, eax: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax,
            ebx: 0xffff_ffff,
            ecx: 0xffff_ffff,
            edx: 0xffff_ffff,
            ..kvm_cpuid_entry2::default()
        }
    }

    #[test]
    fn every_vcpu_has_its_own_apic_id_and_the_package_all_of_them() {
        let mut one = entry(1, 0, 0);
        specialize(&mut one, 3, 4, true);
        assert_eq!(one.ebx >> 16, 0x0304);
        assert_ne!(one.ecx & ECX1_HYPERVISOR, 0);
        assert_eq!(one.ecx & ECX1_MONITOR, 0);
        let mut cores = entry(0xb, 1, 0);
        specialize(&mut cores, 3, 4, true);
        assert_eq!((cores.eax, cores.ebx, cores.edx), (2, 4, 3));
    }

    #[test]
    fn one_vcpu_is_no_multiprocessor() {
        let mut one = entry(1, 0, 0);
        specialize(&mut one, 0, 1, false);
        assert_eq!(one.edx & EDX1_HTT, 0);
        let mut cores = entry(0xb, 1, 0);
        specialize(&mut cores, 0, 1, false);
        assert_eq!((cores.eax, cores.ebx), (0, 1));
    }

    #[test]
    fn only_the_last_level_cache_is_shared() {
        let mut first = entry(4, 0, (1 << 5) | 1);
        specialize(&mut first, 0, 8, false);
        assert_eq!((first.eax >> 14) & 0xfff, 0);
        let mut last = entry(4, 3, (3 << 5) | 3);
        specialize(&mut last, 0, 8, false);
        assert_eq!((last.eax >> 14) & 0xfff, 7);
        assert_eq!(last.eax >> 26, 7);
    }
}
