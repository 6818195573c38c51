//! Extended attributes. What the host refuses the server (`trusted.*` needs more than its capabilities) is refused to the guest.

use std::{
    ffi::{CStr, c_char, c_void},
    ptr,
};

use rustix::io::Errno;

use super::{
    super::{
        protocol::{Answer, SETXATTR_KILL_SGID},
        reopen::DescriptorName,
    },
    Call, Outcome, Server,
    identity::WithoutSetId,
    set::last_error,
};

/// The longest value, and the longest list of names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX_VALUE: usize = 64 << 10;

impl Server {
    /// `FUSE_SETXATTR`, in the form with flags of its own (`FUSE_SETXATTR_EXT`).
    pub(super) fn set_xattr(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let (size, flags, how) = (call.body.u32()?, call.body.u32()?, call.body.u32()?);
        call.body.u32()?;
        let name = call.body.string()?;
        let value = call.body.bytes(size as usize)?;
        let flags = i32::try_from(flags).map_err(|_| Errno::INVAL)?;
        let node = self.nodes.get(call.header.node)?;
        node.writable()?;
        let file = self.nodes.open(&node)?;
        let place = DescriptorName::of(&file);
        let _without = WithoutSetId::when(how & SETXATTR_KILL_SGID != 0)?;
        // SAFETY: the strings are zero-terminated and the value is of the length that is said; they are only read.
        let done = unsafe {
            libc::setxattr(
                place.as_c_str().as_ptr(),
                name.as_ptr(),
                value.as_ptr().cast(),
                value.len(),
                flags,
            )
        };
        if done == 0 { Ok(Outcome::Answer) } else { Err(last_error()) }
    }

    pub(super) fn remove_xattr(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let name = call.body.string()?;
        let node = self.nodes.get(call.header.node)?;
        node.writable()?;
        let file = self.nodes.open(&node)?;
        let place = DescriptorName::of(&file);
        // SAFETY: the strings are zero-terminated.
        let done = unsafe { libc::removexattr(place.as_c_str().as_ptr(), name.as_ptr()) };
        if done == 0 { Ok(Outcome::Answer) } else { Err(last_error()) }
    }

    pub(super) fn get_xattr(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let size = call.body.u32()?;
        call.body.u32()?;
        let name = call.body.string()?;
        self.query(call, size, |place, buffer, length| {
            // SAFETY: the strings are zero-terminated and the buffer is of the length that is said.
            unsafe { libc::getxattr(place, name.as_ptr(), buffer, length) }
        })
    }

    pub(super) fn list_xattrs(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let size = call.body.u32()?;
        self.query(call, size, |place, buffer, length| {
            // SAFETY: as above.
            unsafe { libc::listxattr(place, buffer.cast::<c_char>(), length) }
        })
    }

    /// Answers with `size` bytes at most of what `ask` writes, or with how many there are when `size` is 0.
    fn query(
        &self,
        call: &mut Call<'_, '_>,
        size: u32,
        ask: impl FnOnce(*const c_char, *mut c_void, usize) -> isize,
    ) -> Result<Outcome, Errno> {
        let node = self.nodes.get(call.header.node)?;
        let file = self.nodes.open(&node)?;
        let place = DescriptorName::of(&file);
        let place: &CStr = place.as_c_str();
        let length = (size as usize).min(MAX_VALUE);
        call.answer.resize(length, 0);
        let buffer =
            if length == 0 { ptr::null_mut() } else { call.answer.as_mut_ptr().cast::<c_void>() };
        let got = usize::try_from(ask(place.as_ptr(), buffer, length)).map_err(|_| last_error())?;
        if length == 0 {
            call.answer.u32(u32::try_from(got).map_err(|_| Errno::RANGE)?);
            call.answer.u32(0);
        } else {
            call.answer.truncate(got);
        }
        Ok(Outcome::Answer)
    }
}
