//! Directories of the host in a guest: virtio-fs devices, each mounted once.

use std::collections::BTreeSet;

use bulkhead_protocol::{Failure, SHARES};
use rustix::{fs::Mode, io::Errno, mount::MountFlags};

use crate::{
    answer::{invalid, system},
    boot,
};

/// The longest tag (virtio 1.3, 5.11.4).
const MAX_TAG: usize = 36;
/// More devices than this a guest cannot have.
const MAX_SHARES: usize = 64;

/// Those that are mounted.
#[derive(Debug, Default)]
pub(crate) struct Shares(BTreeSet<String>);

impl Shares {
    /// Mounts those that are not mounted yet.
    pub(crate) fn mount(&mut self, tags: &[String]) -> Result<(), Failure> {
        for tag in tags {
            let valid = (1..=MAX_TAG).contains(&tag.len())
                && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
                && !matches!(tag.as_str(), "." | "..");
            if !valid {
                let why = "is no virtio-fs tag; 1 to 36 characters of [A-Za-z0-9_.-] are";
                return Err(invalid(format!("{tag:?} {why}")));
            }
            if !boot::is_guest() {
                let why = "only a guest has virtio-fs devices";
                return Err(invalid(format!("share {tag} cannot be mounted: {why}")));
            }
            if self.0.contains(tag) {
                continue;
            }
            if self.0.len() >= MAX_SHARES {
                return Err(invalid(format!("{MAX_SHARES} shares are mounted already")));
            }
            mount(tag).map_err(|errno| match errno {
                Errno::INVAL => {
                    invalid(format!("the guest has no virtio-fs device with the tag {tag}"))
                }
                errno => system(format!("cannot mount share {tag}: {errno}")),
            })?;
            self.0.insert(tag.clone());
        }
        Ok(())
    }
}

fn mount(tag: &str) -> Result<(), Errno> {
    let on = format!("{SHARES}/{tag}");
    for directory in [SHARES, &on] {
        match rustix::fs::mkdir(directory, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    rustix::mount::mount(tag, &*on, "virtiofs", MountFlags::empty(), None)
}
