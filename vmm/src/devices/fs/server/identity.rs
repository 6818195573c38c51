//! On whose behalf a thread touches files: a new file belongs to the guest's user who makes it, and a write by one who may not
//! keep set-uid bits takes them away. Whether a user may do a thing at all is the guest kernel's to decide, since the guest's root could
//! become any user; the host's rights of the server stay as they are.

use std::marker::PhantomData;

use rustix::{
    fs::Mode,
    io::Errno,
    thread::{CapabilitiesSecureBits, CapabilitySet},
};

use super::super::reopen::Reopen;

/// What a thread that serves files has of its own: identity, umask and working directory. It stays in its thread.
#[derive(Debug)]
pub(in super::super) struct Identity {
    uid: u32,
    gid: u32,
    umask: u32,
    /// Not to be sent to another thread.
    _thread: PhantomData<*const ()>,
}

/// The calling thread acts for another user until this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct AsUser {
    own: Option<(u32, u32)>,
}

/// The calling thread lacks CAP_FSETID until this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct WithoutSetId(Option<CapabilitySet>);

impl Identity {
    /// Prepares the calling thread.
    pub(in super::super) fn prepare(reopen: &Reopen) -> Result<Self, Errno> {
        reopen.work_here()?;
        rustix::process::umask(Mode::empty());
        // A change of user must not cost the thread its capabilities. In a jail the bits are set and locked already; without
        // the right to set them a user's files are made with that user's rights on the host, which is never more.
        let bits = rustix::thread::capabilities_secure_bits()?;
        let _ = rustix::thread::set_capabilities_secure_bits(
            bits | CapabilitiesSecureBits::NO_SETUID_FIXUP,
        );
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Ok(Self { uid: uid.as_raw(), gid: gid.as_raw(), umask: 0, _thread: PhantomData })
    }

    /// What is made until the guard is dropped belongs to this user; `umask` applies where the directory has no default ACL.
    pub(super) fn assume(&mut self, uid: u32, gid: u32, umask: u32) -> Result<AsUser, Errno> {
        let umask = umask & 0o777;
        if umask != self.umask {
            rustix::process::umask(Mode::from_raw_mode(umask));
            self.umask = umask;
        }
        if (uid, gid) == (self.uid, self.gid) {
            return Ok(AsUser { own: None });
        }
        let guard = AsUser { own: Some((self.uid, self.gid)) };
        if set_file_ids(uid, gid) { Ok(guard) } else { Err(Errno::PERM) }
    }
}

impl Drop for AsUser {
    fn drop(&mut self) {
        if let Some((uid, gid)) = self.own {
            set_file_ids(uid, gid);
        }
    }
}

/// Whether the calling thread's file user and group are now these.
fn set_file_ids(uid: u32, gid: u32) -> bool {
    // SAFETY: these calls change only the calling thread's file user and group. The last two ask, by naming an impossible id.
    let now = unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        (libc::syscall(libc::SYS_setfsuid, -1), libc::syscall(libc::SYS_setfsgid, -1))
    };
    now == (uid.into(), gid.into())
}

impl WithoutSetId {
    /// Lays CAP_FSETID down if `wanted`.
    pub(super) fn when(wanted: bool) -> Result<Self, Errno> {
        if !wanted {
            return Ok(Self(None));
        }
        let sets = rustix::thread::capabilities(None)?;
        let mut without = sets;
        without.effective.remove(CapabilitySet::FSETID);
        rustix::thread::set_capabilities(None, without)?;
        Ok(Self(Some(sets.effective)))
    }
}

impl Drop for WithoutSetId {
    fn drop(&mut self) {
        if let Some(effective) = self.0
            && let Ok(mut sets) = rustix::thread::capabilities(None)
        {
            sets.effective = effective;
            // What is permitted can be made effective again.
            let _ = rustix::thread::set_capabilities(None, sets);
        }
    }
}
