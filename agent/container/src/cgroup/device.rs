//! Loads a device program and attaches it to a group (bpf(2), `BPF_CGROUP_DEVICE`).

use std::os::fd::BorrowedFd;

use super::device_program;
use crate::{
    ebpf::{Instruction, Program, Purpose},
    error::{Error, at},
    spec::DeviceRule,
};

/// Rules for devices that the kernel has checked, for any group of version 2; absent when they allow all.
#[derive(Debug)]
pub(crate) struct DeviceFilter(Option<(Program, Vec<Instruction>)>);

impl DeviceFilter {
    /// # Errors
    /// [`Error::Invalid`] for a rule that cannot be, [`Error::System`].
    pub(crate) fn load(rules: &[DeviceRule]) -> Result<Self, Error> {
        let load = |instructions: Vec<Instruction>| {
            Program::load(Purpose::Devices, &instructions)
                .map_err(at("load", "the filter of linux.resources.devices"))
                .map(|program| (program, instructions))
        };
        device_program::compile(rules)?.map(load).transpose().map(Self)
    }

    /// These rules are the same ones to the kernel.
    pub(crate) fn is_of(&self, rules: &[DeviceRule]) -> bool {
        let own = self.0.as_ref().map(|(_, instructions)| instructions);
        device_program::compile(rules).is_ok_and(|compiled| compiled.as_ref() == own)
    }

    /// Restricts a group to the devices that the rules allow.
    pub(super) fn attach(&self, cgroup: BorrowedFd<'_>) -> Result<(), Error> {
        let Some((program, _)) = &self.0 else { return Ok(()) };
        program.attach(cgroup).map_err(at("attach", "the filter of linux.resources.devices"))
    }
}
