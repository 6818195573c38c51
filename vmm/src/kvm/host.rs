//! Opens `/dev/kvm` and says in a user's words what is missing.

use std::{fs, io, os::unix::fs::MetadataExt};

use kvm_ioctls::{Cap, Kvm};
use vmm_sys_util::errno;

const DEVICE: &str = "/dev/kvm";
/// The only version there has been since Linux 2.6.22 (Linux Documentation/virt/kvm/api.rst, 4.1).
const API_VERSION: i32 = 12;
const NEEDED: [(Cap, &str); 10] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Why KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no device.
    #[error(
        "{DEVICE} does not exist: load KVM (`modprobe kvm_intel` or `modprobe kvm_amd`), or, inside a virtual machine or container, have its host give it"
    )]
    Missing,
    /// The device may not be opened.
    #[error("no permission to open {DEVICE} as {user}: {way_out}")]
    Permission {
        /// The user, by name and number.
        user: String,
        /// Who may, and what to do.
        way_out: String,
    },
    /// The device could not be opened for another reason.
    #[error("cannot open {DEVICE}")]
    Open(#[source] errno::Error),
    /// A KVM of another time.
    #[error("{DEVICE} speaks version {0} of the KVM interface, {API_VERSION} is needed")]
    Version(i32),
    /// A KVM that lacks something.
    #[error("{DEVICE} lacks {0}: a newer host kernel is needed")]
    Capability(&'static str),
    /// A system call failed.
    #[error("{call} failed")]
    Call {
        /// Its name.
        call: &'static str,
        /// Why.
        source: errno::Error,
    },
    /// A model-specific register that KVM does not take.
    #[error("KVM does not let model-specific register {0:#x} be set")]
    Msr(u32),
    /// The extended state of another processor or KVM.
    #[error(
        "the saved extended state of a virtual CPU has {saved} bytes, and here it has {here}; save the machine again"
    )]
    Extended {
        /// Of the saved one.
        saved: usize,
        /// Of this KVM's.
        here: usize,
    },
    /// The probe guest did what neither kind of KVM does.
    #[error(
        "cannot tell what kind of KVM this is ({0}); say \"backend\": \"hardware\" or \"software\" in the configuration"
    )]
    Undetected(String),
}

impl KvmError {
    /// For `map_err` after the ioctl `call`.
    pub fn call(call: &'static str) -> impl Fn(errno::Error) -> Self {
        move |source| KvmError::Call { call, source }
    }
}

/// The opened device.
#[derive(Debug)]
pub struct Host {
    kvm: Kvm,
}

impl Host {
    /// Opens and checks the device.
    ///
    /// # Errors
    /// [`KvmError`] says what is missing.
    pub fn open() -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(|source| match source.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Missing,
            libc::EACCES | libc::EPERM => permission(),
            _ => KvmError::Open(source),
        })?;
        let version = kvm.get_api_version();
        if version != API_VERSION {
            return Err(KvmError::Version(version));
        }
        for (capability, name) in NEEDED {
            if !kvm.check_extension(capability) {
                return Err(KvmError::Capability(name));
            }
        }
        Ok(Self { kvm })
    }

    /// The device for calls of its own.
    #[must_use]
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }
}

fn permission() -> KvmError {
    // SAFETY: geteuid has no arguments and cannot fail.
    let uid = unsafe { libc::geteuid() };
    let name = name_of("/etc/passwd", uid);
    let user = match &name {
        Some(name) => format!("user {name} ({uid})"),
        None => format!("user {uid}"),
    };
    let way_out = match fs::metadata(DEVICE) {
        Ok(device) if device.mode() & 0o060 == 0o060 => {
            let gid = device.gid();
            match (name_of("/etc/group", gid), name) {
                (Some(group), Some(name)) if gid != 0 => {
                    format!(
                        "its group is {group}; `usermod -aG {group} {name}` and log in again, or run as root"
                    )
                }
                _ => format!("it belongs to group {gid}; run as root or as a member"),
            }
        }
        Ok(device) => {
            let owner = name_of("/etc/passwd", device.uid())
                .unwrap_or_else(|| format!("number {}", device.uid()));
            format!("only user {owner} may; run as that user")
        }
        Err(_) => "run as root".to_owned(),
    };
    KvmError::Permission { user, way_out }
}

/// The name of a number in a file of passwd(5)'s or group(5)'s shape: `name:password:number:…`.
fn name_of(file: &str, number: u32) -> Option<String> {
    let text: io::Result<String> = fs::read_to_string(file);
    name_in(&text.ok()?, number)
}

fn name_in(text: &str, number: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_passwd_and_group() {
        let group = "root:x:0:\nkvm:x:106:alice,bob\n";
        assert_eq!(name_in(group, 106).as_deref(), Some("kvm"));
        assert_eq!(name_in(group, 0).as_deref(), Some("root"));
        assert_eq!(name_in(group, 7), None);
        assert_eq!(name_in("broken line\n", 7), None);
    }
}
