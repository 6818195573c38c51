//! `/proc/self/fd`, through which a descriptor that only names a file (`O_PATH`) becomes one that reads it, whatever the file is
//! called by now. It is a mount of its own without a place in any tree: nothing else of `/proc` can be reached from it.

use std::{
    ffi::CStr,
    io::Write,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags},
    io::Errno,
    mount::OpenTreeFlags,
    thread::UnshareFlags,
};

const PATH: &CStr = c"/proc/self/fd";

/// This process's descriptors as files.
#[derive(Debug)]
pub struct Reopen(OwnedFd);

impl Reopen {
    /// Opens the directory. Without the right to mount it is the one in `/proc`.
    ///
    /// # Errors
    /// That of the system call; there is no `/proc`.
    pub fn open() -> Result<Self, Errno> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(CWD, PATH, flags);
        let plain = |_| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, PATH, flags, Mode::empty())
        };
        tree.or_else(plain).map(Self)
    }

    /// The file of `file`, opened with `flags`.
    pub(super) fn open_as(&self, file: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        let name = DescriptorName::of(&file);
        rustix::fs::openat(&self.0, name.as_c_str(), flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// A second name for the file of `file`.
    pub(super) fn link(
        &self,
        file: impl AsFd,
        directory: impl AsFd,
        name: &CStr,
    ) -> Result<(), Errno> {
        let from = DescriptorName::of(&file);
        rustix::fs::linkat(&self.0, from.as_c_str(), directory, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Gives the calling thread a working directory of its own, this one: calls that take only a path then take a descriptor's
    /// [`DescriptorName`]. The thread's umask is its own from then on too.
    pub(super) fn work_here(&self) -> Result<(), Errno> {
        // SAFETY: only the working directory and the umask are unshared, which no other thread expects to share.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS)? };
        rustix::process::fchdir(&self.0)
    }
}

impl AsFd for Reopen {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The number of an open descriptor as a name in `/proc/self/fd`.
pub(super) struct DescriptorName<'a> {
    name: [u8; 12],
    _open: PhantomData<BorrowedFd<'a>>,
}

impl<'a> DescriptorName<'a> {
    pub(super) fn of(file: &'a impl AsFd) -> Self {
        let mut name = [0; 12];
        // A descriptor has at most ten digits: the twelfth byte stays zero.
        let _ = write!(&mut name[..11], "{}", file.as_fd().as_raw_fd());
        Self { name, _open: PhantomData }
    }

    pub(super) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.name).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_has_a_name() {
        let file = std::fs::File::open("/").unwrap();
        let name = DescriptorName::of(&file);
        let number = file.as_raw_fd().to_string();
        assert_eq!(name.as_c_str().to_str().unwrap(), number);
    }
}
