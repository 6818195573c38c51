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
/// With a balloon: free memory is reported in blocks of 512 KiB (an order of pages) and more, while 32 of these are free. With Linux's
/// own order it would be 4 MiB, which a small machine seldom has in one piece, and nothing while less than 128 MiB are free.
const WITH_BALLOON: &str = "page_reporting.page_reporting_order=7";

/// What the words depend on.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// What kind of KVM runs the machine.
    pub kvm: Detected,
    /// It has a serial port.
    pub serial: bool,
    /// It has a balloon.
    pub balloon: bool,
    /// How many virtio devices it has.
    pub virtio: usize,
}

/// Composes it; `user` are the owner's words.
#[must_use]
pub fn compose(Words { kvm, serial, balloon, virtio }: Words, user: &str) -> String {
    let mut words = vec![BASE.to_owned(), format!("bulkhead.port={PVPANIC_PORT:#x}")];
    words.push(if serial { WITH_SERIAL } else { WITHOUT_SERIAL }.to_owned());
    if kvm == Detected::Software {
        words.push(software::CMDLINE.to_owned());
    }
    if balloon {
        words.push(WITH_BALLOON.to_owned());
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

    const WORDS: Words =
        Words { kvm: Detected::Hardware, serial: false, balloon: false, virtio: 0 };

    #[test]
    fn hardware_gets_no_quirks_and_each_device_its_place() {
        let line = compose(Words { virtio: 2, ..WORDS }, "init=/agent");
        assert!(!line.contains("clearcpuid") && !line.contains("page_reporting"), "{line}");
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
        let line = compose(Words { kvm: Detected::Software, serial: true, ..WORDS }, "");
        assert!(line.contains("console=ttyS0") && !line.contains("quiet"), "{line}");
        assert!(line.contains("clearcpuid=popcnt,cx16"), "{line}");
    }

    #[test]
    fn every_device_that_there_can_be_fits() {
        let all = Words {
            kvm: Detected::Software,
            serial: true,
            balloon: true,
            virtio: layout::VIRTIO_MAX,
        };
        let line = compose(all, "");
        assert!(line.len() < layout::CMDLINE_MAX * 3 / 4, "{}", line.len());
    }
}
