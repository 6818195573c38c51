//! What the process may still do: capabilities, the ways to more of them, and limits.

use rustix::{
    io::Errno,
    process::{DumpableBehavior, Resource, Rlimit},
    thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets},
};

/// What a file server needs to make files for any user, keep their attributes as they are asked for, and reach all that is shared. Not
/// among them: CAP_DAC_READ_SEARCH, with which a file of the host could be opened by its number, and CAP_SYS_ADMIN.
const FILE_SERVER: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// Descriptors of a machine without shares: two for each of its vsock connections, and its devices'.
const FILES: u64 = 4096;

/// Leaves the capabilities of a file server or none, for good. Threads that are made later have what the caller has now.
pub(super) fn cut_capabilities(serves_files: bool) -> Result<(), Errno> {
    let wanted = if serves_files { FILE_SERVER } else { CapabilitySet::empty() };
    let present = rustix::thread::capabilities(None)?.permitted;
    let kept = present & wanted;
    if present.contains(CapabilitySet::SETPCAP) {
        drop_bounds(wanted);
        // A change of the file user, which a file server makes for each new file, costs no capability; being root gives none.
        let bits = CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_SETUID_FIXUP
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
        rustix::thread::set_capabilities_secure_bits(bits)?;
    }
    if present.contains(CapabilitySet::SETGID) {
        // Refused in a user namespace of the process's own, where it has its user's groups and no right over them.
        let _ = rustix::thread::set_thread_groups(&[]);
    }
    rustix::thread::clear_ambient_capability_set()?;
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

fn drop_bounds(kept: CapabilitySet) {
    for number in 0..u64::BITS {
        if kept.bits() >> number & 1 == 1 {
            continue;
        }
        // SAFETY: the call changes only what this process may gain; all arguments are numbers.
        let dropped =
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
        if dropped != 0 {
            // The kernel knows no capability of this number, nor of a higher one.
            return;
        }
    }
}

/// No core dumps, no message queues; descriptors: all that are allowed for a file server, few for others.
pub(super) fn limit_resources(serves_files: bool) -> Result<(), Errno> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none)?;
    rustix::process::setrlimit(Resource::Msgqueue, none)?;
    let allowed = rustix::process::getrlimit(Resource::Nofile).maximum;
    let files = if serves_files { allowed } else { Some(allowed.unwrap_or(FILES).min(FILES)) };
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files })
}

/// How many descriptors this process may have.
pub(super) fn open_files() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX).min(1 << 20)
}
