//! Saves a machine that runs.

use std::sync::{Arc, Mutex};

use super::{Kind, SaveError, SavedMachine, Target};
use crate::{
    arch::current::state::{ChipState, MsrNumbers},
    devices::virtio,
    kvm::{Detected, ExtendedState, Host, KvmError},
    vcpu::{self, Shared, Vcpu},
};

/// Why a machine was not saved. It can go on.
#[derive(Debug, thiserror::Error)]
pub enum SaverError {
    /// The files.
    #[error(transparent)]
    Files(#[from] SaveError),
    /// A device.
    #[error(transparent)]
    Device(#[from] virtio::SaveError),
    /// KVM.
    #[error("the state of the processors cannot be saved")]
    Kvm(#[from] KvmError),
}

/// What it takes to save a machine, got before the process is shut in.
#[derive(Debug)]
pub struct Saver {
    target: Target,
    numbers: MsrNumbers,
    kind: Detected,
}

impl Saver {
    /// For a machine on `host`.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn new(target: Target, host: &Host, kind: Detected) -> Result<Self, KvmError> {
        Ok(Self { target, numbers: MsrNumbers::of_host(host.kvm())?, kind })
    }

    /// Saves the machine of `shared` and `vcpus`, which must be paused: the devices first, which may still raise interrupts and write to memory,
    /// then the processors and what they share, the memory at the end. The devices stand still after it; when it fails they go on.
    ///
    /// # Errors
    /// [`SaverError`].
    pub fn save(&mut self, shared: &Shared, vcpus: &[Arc<Mutex<Vcpu>>]) -> Result<(), SaverError> {
        self.target.check()?;
        let devices = shared.bus.save_devices()?;
        let saved = self.write(shared, vcpus, devices);
        if saved.is_err() {
            shared.bus.resume_devices();
        }
        saved
    }

    fn write(
        &mut self,
        shared: &Shared,
        vcpus: &[Arc<Mutex<Vcpu>>],
        devices: Vec<virtio::TransportState>,
    ) -> Result<(), SaverError> {
        let mut extended = ExtendedState::new(shared.vm.xsave_size())?;
        let states: Result<_, _> =
            vcpus.iter().map(|vcpu| vcpu::lock(vcpu).save(&self.numbers, &mut extended)).collect();
        let (vcpus, chips) = (states?, ChipState::save(shared.vm.fd())?);
        let (identity, kind) = (self.target.identity().clone(), Kind::from(self.kind));
        let serial = shared.bus.save_serial();
        let memory = shared.vm.memory();
        let all = |memory| SavedMachine { identity, kind, memory, vcpus, chips, serial, devices };
        Ok(self.target.write(memory, all)?)
    }
}
