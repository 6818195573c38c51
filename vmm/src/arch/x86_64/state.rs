//! The state of a machine in KVM while it stands still: each vCPU's, the interrupt controllers', the timer's and the clock's
//! (Linux Documentation/virt/kvm/api.rst). What is read and written in which order matters; the order is told where it is.

use kvm_bindings::{
    CpuId, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, kvm_clock_data,
    kvm_cpuid_entry2, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry,
    kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

use crate::kvm::{Detected, ExtendedState, KvmError};

const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];
/// More than a vCPU has.
const MAX_CPUID_ENTRIES: usize = 256;

/// Fewer than KVM takes in one call.
const MSRS_AT_ONCE: usize = 128;
const MSR_TSC: u32 = 0x10;
const MSR_TSC_ADJUST: u32 = 0x3b;
const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// Asks KVM to write the time of day into guest memory, once; what was written is in the memory already.
const MSR_KVM_WALL_CLOCK: [u32; 2] = [0x11, 0x4b56_4d00];
/// The same register as 0x4b564d01 by its old number.
const MSR_KVM_SYSTEM_TIME_OLD: u32 = 0x12;

/// One vCPU.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VcpuState {
    cpuid: Vec<kvm_cpuid_entry2>,
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    /// The XSAVE area.
    extended: Vec<u8>,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    /// Indices and values.
    msrs: Vec<(u32, u64)>,
    events: kvm_vcpu_events,
}

/// What the vCPUs share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChipState {
    interrupts: [kvm_irqchip; 3],
    timer: kvm_pit_state2,
    /// The guest's time since its boot, in nanoseconds.
    clock: u64,
}

/// The numbers of the model-specific registers that a machine's state has.
#[derive(Debug)]
pub struct MsrNumbers(Vec<u32>);

impl MsrNumbers {
    /// Asks KVM.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn of_host(kvm: &Kvm) -> Result<Self, KvmError> {
        let list = kvm.get_msr_index_list().map_err(KvmError::call("KVM_GET_MSR_INDEX_LIST"))?;
        let wanted = |number: &u32| {
            !MSR_KVM_WALL_CLOCK.contains(number) && *number != MSR_KVM_SYSTEM_TIME_OLD
        };
        Ok(Self(list.as_slice().iter().copied().filter(wanted).collect()))
    }

    /// Reads them; KVM lists some that a vCPU does not have.
    fn read(&self, vcpu: &VcpuFd) -> Result<Vec<(u32, u64)>, KvmError> {
        let mut values = Vec::with_capacity(self.0.len());
        let mut rest = self.0.as_slice();
        while !rest.is_empty() {
            let some = rest.iter().take(MSRS_AT_ONCE);
            let mut msrs = entries(some.map(|&number| (number, 0)))?;
            let read = vcpu.get_msrs(&mut msrs).map_err(KvmError::call("KVM_GET_MSRS"))?;
            let got = msrs.as_slice().get(..read).unwrap_or_default();
            values.extend(got.iter().map(|entry| (entry.index, entry.data)));
            // The one behind the last that was read cannot be.
            let skipped = usize::from(read < msrs.as_slice().len());
            rest = rest.get(read + skipped..).unwrap_or_default();
        }
        Ok(values)
    }
}

impl VcpuState {
    /// Reads a vCPU that does not run. Its last exit must have been completed, which KVM does when it is run once more.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn save(
        vcpu: &VcpuFd,
        numbers: &MsrNumbers,
        extended: &mut ExtendedState,
    ) -> Result<Self, KvmError> {
        // First: it takes what the local APIC has pending for the processor's start.
        let mp_state = vcpu.get_mp_state().map_err(KvmError::call("KVM_GET_MP_STATE"))?;
        let regs = vcpu.get_regs().map_err(KvmError::call("KVM_GET_REGS"))?;
        let sregs = vcpu.get_sregs().map_err(KvmError::call("KVM_GET_SREGS"))?;
        extended.load(vcpu)?;
        let cpuid = vcpu.get_cpuid2(MAX_CPUID_ENTRIES).map_err(KvmError::call("KVM_GET_CPUID2"))?;
        Ok(Self {
            cpuid: cpuid.as_slice().to_vec(),
            mp_state,
            regs,
            sregs,
            extended: extended.image().to_vec(),
            xcrs: vcpu.get_xcrs().map_err(KvmError::call("KVM_GET_XCRS"))?,
            debug: vcpu.get_debug_regs().map_err(KvmError::call("KVM_GET_DEBUGREGS"))?,
            lapic: vcpu.get_lapic().map_err(KvmError::call("KVM_GET_LAPIC"))?,
            msrs: numbers.read(vcpu)?,
            events: vcpu.get_vcpu_events().map_err(KvmError::call("KVM_GET_VCPU_EVENTS"))?,
        })
    }

    /// What the vCPU was told of its processor.
    #[must_use]
    pub fn cpuid(&self) -> &[kvm_cpuid_entry2] {
        &self.cpuid
    }

    /// Gives a new vCPU this state.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn restore(
        &self,
        vcpu: &VcpuFd,
        kind: Detected,
        extended: &mut ExtendedState,
    ) -> Result<(), KvmError> {
        // First: it says what of the rest a vCPU can have.
        let cpuid = CpuId::from_entries(&self.cpuid).map_err(|_| KvmError::Call {
            call: "KVM_SET_CPUID2",
            source: vmm_sys_util::errno::Error::new(libc::E2BIG),
        })?;
        vcpu.set_cpuid2(&cpuid).map_err(KvmError::call("KVM_SET_CPUID2"))?;
        vcpu.set_mp_state(self.mp_state).map_err(KvmError::call("KVM_SET_MP_STATE"))?;
        vcpu.set_regs(&self.regs).map_err(KvmError::call("KVM_SET_REGS"))?;
        vcpu.set_sregs(&self.sregs).map_err(KvmError::call("KVM_SET_SREGS"))?;
        // Before the extended state, of which it says which parts there are.
        vcpu.set_xcrs(&self.xcrs).map_err(KvmError::call("KVM_SET_XCRS"))?;
        let (saved, here) = (self.extended.len(), extended.image().len());
        if saved != here {
            return Err(KvmError::Extended { saved, here });
        }
        extended.image_mut().copy_from_slice(&self.extended);
        extended.store(vcpu)?;
        vcpu.set_debug_regs(&self.debug).map_err(KvmError::call("KVM_SET_DEBUGREGS"))?;
        // Behind the special registers, which have the local APIC's address and mode; before the deadline of its timer.
        vcpu.set_lapic(&self.lapic).map_err(KvmError::call("KVM_SET_LAPIC"))?;
        self.restore_msrs(vcpu, kind)?;
        // Behind the registers, whose setting withdraws an exception.
        vcpu.set_vcpu_events(&self.events).map_err(KvmError::call("KVM_SET_VCPU_EVENTS"))
    }

    fn restore_msrs(&self, vcpu: &VcpuFd, kind: Detected) -> Result<(), KvmError> {
        let of =
            |number: u32| self.msrs.iter().find(|(it, _)| *it == number).map(|(_, value)| *value);
        // A software KVM shows the guest the host's counter, which nobody can set.
        let fixed = |number: u32| {
            number == MSR_TSC_DEADLINE
                || kind == Detected::Software && matches!(number, MSR_TSC | MSR_TSC_ADJUST)
        };
        write_msrs(vcpu, self.msrs.iter().copied().filter(|(number, _)| !fixed(*number)))?;
        let (Some(saved), Some(deadline)) = (of(MSR_TSC), of(MSR_TSC_DEADLINE)) else {
            return Ok(());
        };
        if deadline == 0 {
            return Ok(());
        }
        // The timer goes off after the time that was left, whatever the counter is now.
        let now = read_msr(vcpu, MSR_TSC)?.unwrap_or(saved);
        let deadline = deadline.wrapping_sub(saved).wrapping_add(now).max(1);
        write_msrs(vcpu, [(MSR_TSC_DEADLINE, deadline)])
    }
}

impl ChipState {
    /// Reads the machine, whose vCPUs do not run.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn save(vm: &VmFd) -> Result<Self, KvmError> {
        let clock = vm.get_clock().map_err(KvmError::call("KVM_GET_CLOCK"))?.clock;
        let mut interrupts = CHIPS.map(|chip_id| kvm_irqchip { chip_id, ..kvm_irqchip::default() });
        for chip in &mut interrupts {
            vm.get_irqchip(chip).map_err(KvmError::call("KVM_GET_IRQCHIP"))?;
        }
        let timer = vm.get_pit2().map_err(KvmError::call("KVM_GET_PIT2"))?;
        Ok(Self { interrupts, timer, clock })
    }

    /// Gives a new machine the interrupt controllers and the timer. After its vCPUs, to which they may deliver at once; before
    /// anything raises an interrupt.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn restore(&self, vm: &VmFd) -> Result<(), KvmError> {
        for chip in &self.interrupts {
            vm.set_irqchip(chip).map_err(KvmError::call("KVM_SET_IRQCHIP"))?;
        }
        vm.set_pit2(&self.timer).map_err(KvmError::call("KVM_SET_PIT2"))
    }

    /// Lets the guest's clock go on from where it was. The last thing before its vCPUs run.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn restore_clock(&self, vm: &VmFd) -> Result<(), KvmError> {
        // Without KVM_CLOCK_REALTIME: the guest did not live through the time between.
        let clock = kvm_clock_data { clock: self.clock, ..kvm_clock_data::default() };
        vm.set_clock(&clock).map_err(KvmError::call("KVM_SET_CLOCK"))
    }
}

fn write_msrs(vcpu: &VcpuFd, values: impl IntoIterator<Item = (u32, u64)>) -> Result<(), KvmError> {
    let values: Vec<_> = values.into_iter().collect();
    let mut rest = values.as_slice();
    while !rest.is_empty() {
        let msrs = entries(rest.iter().take(MSRS_AT_ONCE).copied())?;
        let set = vcpu.set_msrs(&msrs).map_err(KvmError::call("KVM_SET_MSRS"))?;
        let refused = msrs.as_slice().get(set);
        if let Some(entry) = refused
            && read_msr(vcpu, entry.index)? != Some(entry.data)
        {
            return Err(KvmError::Msr(entry.index));
        }
        // One that cannot be written, and has this value.
        rest = rest.get(set + usize::from(refused.is_some())..).unwrap_or_default();
    }
    Ok(())
}

fn read_msr(vcpu: &VcpuFd, number: u32) -> Result<Option<u64>, KvmError> {
    let mut msrs = entries([(number, 0)])?;
    let read = vcpu.get_msrs(&mut msrs).map_err(KvmError::call("KVM_GET_MSRS"))?;
    Ok(msrs.as_slice().get(..read).and_then(|read| read.first()).map(|entry| entry.data))
}

fn entries(values: impl IntoIterator<Item = (u32, u64)>) -> Result<Msrs, KvmError> {
    let entries: Vec<_> = values
        .into_iter()
        .map(|(index, data)| kvm_msr_entry { index, data, ..kvm_msr_entry::default() })
        .collect();
    Msrs::from_entries(&entries).map_err(|_| KvmError::Call {
        call: "KVM_SET_MSRS",
        source: vmm_sys_util::errno::Error::new(libc::E2BIG),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use kvm_bindings::kvm_xcr;

    use super::*;

    /// One vCPU, with every part of its state, and what vCPUs share.
    pub(crate) fn sample() -> (VcpuState, ChipState) {
        let vcpu = VcpuState {
            cpuid: vec![kvm_cpuid_entry2 { function: 1, eax: 2, ..kvm_cpuid_entry2::default() }],
            mp_state: kvm_mp_state { mp_state: 3 },
            regs: kvm_regs { rip: 0xffff_ffff_8100_0000, ..kvm_regs::default() },
            sregs: kvm_sregs { cr3: 0x1000, ..kvm_sregs::default() },
            extended: vec![7; 4096],
            xcrs: kvm_xcrs { nr_xcrs: 1, xcrs: [kvm_xcr::default(); 16], ..kvm_xcrs::default() },
            debug: kvm_debugregs { dr7: 0x400, ..kvm_debugregs::default() },
            lapic: kvm_lapic_state { regs: [1; 1024] },
            msrs: vec![(MSR_TSC, 5), (MSR_TSC_DEADLINE, 6)],
            events: kvm_vcpu_events { flags: 1, ..kvm_vcpu_events::default() },
        };
        let interrupts = CHIPS.map(|chip_id| kvm_irqchip { chip_id, ..kvm_irqchip::default() });
        (vcpu, ChipState { interrupts, timer: kvm_pit_state2::default(), clock: 1 << 40 })
    }
}
