//! The kernel's command line: what every guest needs, what this machine's devices and KVM need, then the user's words.

use crate::{
    arch::current::layout,
    bus::{Bus, PVPANIC_PORT},
    kvm::Detected,
    software,
};

/// `reboot=k`: reset through the keyboard controller, which ends the machine. `panic=-1`: do so at once after a panic.
/// `no_timer_check`, `tsc=reliable`: what they check holds on KVM.
const BASE: &str = "reboot=k panic=-1 no_timer_check tsc=reliable";
/// With a serial console: everything on it.
const WITH_SERIAL: &str = "console=ttyS0";
/// Without: no message is formatted for nobody, no port is probed.
const WITHOUT_SERIAL: &str = "quiet 8250.nr_uarts=0";

/// Composes it for a machine with `virtio` devices.
#[must_use]
pub fn compose(kvm: Detected, serial: bool, virtio: usize, user: &str) -> String {
    let mut words = vec![BASE.to_owned(), format!("bulkhead.port={PVPANIC_PORT:#x}")];
    words.push(if serial { WITH_SERIAL } else { WITHOUT_SERIAL }.to_owned());
    if kvm == Detected::Software {
        words.push(software::CMDLINE.to_owned());
    }
    words.extend((layout::VIRTIO_FIRST_IRQ..).zip(0..virtio).map(|(line, number)| {
        // drivers/virtio/virtio_mmio.c: <size>@<base>:<irq>
        let (size, base) = (layout::VIRTIO_WINDOW >> 10, Bus::virtio_address(number));
        format!("virtio_mmio.device={size}K@{base:#x}:{line}")
    }));
    if !user.is_empty() {
        words.push(user.to_owned());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_gets_no_quirks_and_each_device_its_place() {
        let line = compose(Detected::Hardware, false, 2, "init=/agent");
        assert!(!line.contains("clearcpuid"), "{line}");
        assert!(line.contains(" quiet "), "{line}");
        assert!(line.contains("bulkhead.port=0x505"), "{line}");
        assert!(
            line.ends_with(
                "virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6 init=/agent"
            ),
            "{line}"
        );
    }

    #[test]
    fn a_serial_console_shows_everything() {
        let line = compose(Detected::Software, true, 0, "");
        assert!(line.contains("console=ttyS0") && !line.contains("quiet"), "{line}");
        assert!(line.contains("clearcpuid=popcnt,cx16"), "{line}");
    }

    #[test]
    fn every_device_that_there_can_be_fits() {
        let line = compose(Detected::Software, true, layout::VIRTIO_MAX, "");
        assert!(line.len() < layout::CMDLINE_MAX * 3 / 4, "{}", line.len());
    }
}
