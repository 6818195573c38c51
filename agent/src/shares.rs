//! Directories of the host in a guest: virtio-fs devices, each mounted once.

use std::collections::BTreeSet;

use bulkhead_protocol::{Failure, SHARES};
use rustix::{
    fs::Mode,
    io::Errno,
    mount::{MountFlags, MountPropagationFlags},
};

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
pub(crate) struct Shares {
    mounted: BTreeSet<String>,
    /// Processes that have been made ahead see those that are mounted later.
    announced: bool,
}

impl Shares {
    /// Has mount namespaces that are made from now on see what is mounted later.
    pub(crate) fn announce(&mut self) -> Result<(), Failure> {
        if self.announced {
            return Ok(());
        }
        let announce = || {
            make(SHARES)?;
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            rustix::mount::mount("tmpfs", SHARES, "tmpfs", flags, c"mode=700")?;
            rustix::mount::mount_change(SHARES, MountPropagationFlags::SHARED)
        };
        announce().map_err(|errno| system(format!("cannot share {SHARES}: {errno}")))?;
        self.announced = true;
        Ok(())
    }

    /// Mounts those that are not mounted yet.
    pub(crate) fn mount(&mut self, tags: &[String]) -> Result<(), Failure> {
        for tag in tags {
            check_name(tag, "virtio-fs tag")?;
            if !boot::is_guest() {
                let why = "only a guest has virtio-fs devices";
                return Err(invalid(format!("share {tag} cannot be mounted: {why}")));
            }
            if self.mounted.contains(tag) {
                continue;
            }
            if self.mounted.len() >= MAX_SHARES {
                return Err(invalid(format!("{MAX_SHARES} shares are mounted already")));
            }
            self.mount_one(tag).map_err(|errno| match errno {
                Errno::INVAL => {
                    invalid(format!("the guest has no virtio-fs device with the tag {tag}"))
                }
                errno => system(format!("cannot mount share {tag}: {errno}")),
            })?;
            self.mounted.insert(tag.clone());
        }
        Ok(())
    }

    fn mount_one(&self, tag: &str) -> Result<(), Errno> {
        let on = format!("{SHARES}/{tag}");
        make(SHARES)?;
        make(&on)?;
        rustix::mount::mount(tag, &*on, "virtiofs", MountFlags::empty(), None)?;
        if self.announced {
            // It has been announced; nothing in a container may be its peer.
            rustix::mount::mount_change(&*on, MountPropagationFlags::PRIVATE)?;
        }
        Ok(())
    }
}

/// Refuses what cannot be the name of a directory.
pub(crate) fn check_name(name: &str, what: &str) -> Result<(), Failure> {
    let valid = (1..=MAX_TAG).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        && !matches!(name, "." | "..");
    if !valid {
        let why = "1 to 36 characters of [A-Za-z0-9_.-] are";
        return Err(invalid(format!("{name:?} is no {what}; {why}")));
    }
    Ok(())
}

fn make(directory: &str) -> Result<(), Errno> {
    match rustix::fs::mkdir(directory, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}
