//! A virtual machine as KVM knows it: its memory, interrupt controllers, and the wires between devices and KVM.

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::{Host, KvmError};
use crate::{
    arch::current::layout,
    memory::{Address, GuestMemory, GuestMemoryRegion, GuestMemoryTrait},
};

/// A virtual machine and its memory, which lives as long as KVM may touch it.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    memory: GuestMemory,
}

impl Vm {
    /// Makes a machine with `memory` and without processors or devices.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn new(host: &Host, memory: GuestMemory) -> Result<Self, KvmError> {
        let fd = host.kvm().create_vm().map_err(KvmError::call("KVM_CREATE_VM"))?;
        for (slot, region) in (0u32..).zip(memory.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
                flags: 0,
            };
            // SAFETY: the range is a mapping that `memory` owns; this object keeps it until the machine's descriptor is
            // closed, and every vCPU keeps this object.
            unsafe { fd.set_user_memory_region(region) }
                .map_err(KvmError::call("KVM_SET_USER_MEMORY_REGION"))?;
        }
        fd.set_tss_address(layout::KVM_TSS).map_err(KvmError::call("KVM_SET_TSS_ADDR"))?;
        fd.set_identity_map_address(layout::KVM_IDENTITY_MAP)
            .map_err(KvmError::call("KVM_SET_IDENTITY_MAP_ADDR"))?;
        Ok(Self { fd, memory })
    }

    /// Adds the interrupt controllers and the timer; before the first vCPU.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn add_interrupt_controllers(&self) -> Result<(), KvmError> {
        self.fd.create_irq_chip().map_err(KvmError::call("KVM_CREATE_IRQCHIP"))?;
        let config = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..kvm_pit_config::default() };
        self.fd.create_pit2(config).map_err(KvmError::call("KVM_CREATE_PIT2"))
    }

    /// Adds a vCPU.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn add_vcpu(&self, id: u8) -> Result<VcpuFd, KvmError> {
        self.fd.create_vcpu(u64::from(id)).map_err(KvmError::call("KVM_CREATE_VCPU"))
    }

    /// Lets `event` pulse interrupt line `line`.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn connect_interrupt(&self, event: &EventFd, line: u32) -> Result<(), KvmError> {
        self.fd.register_irqfd(event, line).map_err(KvmError::call("KVM_IRQFD"))
    }

    /// Lets a guest's 32-bit write of `value` at `address` signal `event` without leaving KVM.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn connect_doorbell(
        &self,
        event: &EventFd,
        address: u64,
        value: u32,
    ) -> Result<(), KvmError> {
        self.fd
            .register_ioevent(event, &IoEventAddress::Mmio(address), value)
            .map_err(KvmError::call("KVM_IOEVENTFD"))
    }

    /// The size in bytes of a vCPU's whole extended state (`KVM_CAP_XSAVE2`), at least the 4096 of `KVM_GET_XSAVE`.
    #[must_use]
    pub fn xsave_size(&self) -> usize {
        usize::try_from(self.fd.check_extension_int(Cap::Xsave2)).unwrap_or(0).max(4096)
    }

    /// The machine for calls of its own.
    #[must_use]
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// The machine's memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }
}
