//! Attributes: `FUSE_GETATTR` and `FUSE_SETATTR`.

use std::{os::fd::AsFd, sync::Arc};

use rustix::{
    fs::{AtFlags, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT},
    io::Errno,
    process::{Gid, Uid},
};

use super::{
    super::{
        protocol::{Answer, GETATTR_FH, set},
        reopen::DescriptorName,
    },
    Call, Node, Outcome, Server,
    attributes::Facts,
    handles::Handle,
    identity::WithoutSetId,
};

impl Server {
    pub(super) fn get_attributes(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let flags = call.body.u32()?;
        call.body.u32()?;
        let handle = call.body.u64()?;
        let node = self.nodes.get(call.header.node)?;
        let handle = (flags & GETATTR_FH != 0).then(|| self.handles.get(handle, node.id));
        self.tell_attributes(&node, handle.transpose()?.as_deref(), call.answer)
    }

    fn tell_attributes(
        &self,
        node: &Arc<Node>,
        handle: Option<&Handle>,
        answer: &mut Vec<u8>,
    ) -> Result<Outcome, Errno> {
        let facts = match handle {
            Some(handle) => Facts::of(handle)?,
            None => Facts::of(self.nodes.open(node)?)?,
        };
        let valid = self.valid(node);
        answer.u64(valid.as_secs());
        answer.u32(valid.subsec_nanos());
        answer.u32(0);
        facts.write(self.number(node), answer);
        Ok(Outcome::Answer)
    }

    /// `struct fuse_setattr_in`. The host's kernel takes set-uid bits and file capabilities away where a change of owner does.
    pub(super) fn set_attributes(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let body = &mut call.body;
        let valid = body.u32()?;
        body.u32()?;
        let (handle, size, _lock_owner) = (body.u64()?, body.u64()?, body.u64()?);
        let (access, modification, _change) = (body.u64()?, body.u64()?, body.u64()?);
        let (access_ns, modification_ns, _change_ns) = (body.u32()?, body.u32()?, body.u32()?);
        let mode = body.u32()?;
        body.u32()?;
        let (uid, gid) = (body.u32()?, body.u32()?);

        let node = self.nodes.get(call.header.node)?;
        node.writable()?;
        let handle = (valid & set::FH != 0).then(|| self.handles.get(handle, node.id));
        let handle = handle.transpose()?;
        let file = self.nodes.open(&node)?;
        let name = DescriptorName::of(&file);
        let here = self.reopen.as_fd();
        if valid & set::MODE != 0 {
            let mode = Mode::from_raw_mode(mode & 0o7777);
            rustix::fs::chmodat(here, name.as_c_str(), mode, AtFlags::empty())?;
        }
        if valid & (set::UID | set::GID) != 0 {
            let wanted = |flag, id: u32| -> Result<Option<u32>, Errno> {
                // All ones would mean "as it is".
                if valid & flag != 0 && id == u32::MAX {
                    return Err(Errno::INVAL);
                }
                Ok((valid & flag != 0).then_some(id))
            };
            let uid = wanted(set::UID, uid)?.map(Uid::from_raw);
            let gid = wanted(set::GID, gid)?.map(Gid::from_raw);
            rustix::fs::chownat(&*file, c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if valid & set::SIZE != 0 {
            let _without = WithoutSetId::when(valid & set::KILL_SUIDGID != 0)?;
            let size = i64::try_from(size).map_err(|_| Errno::FBIG)?.cast_unsigned();
            match &handle {
                Some(handle) => rustix::fs::ftruncate(handle, size)?,
                None => truncate(&name, size)?,
            }
        }
        if valid & (set::ATIME | set::MTIME) != 0 {
            let time = |flag, now, seconds: u64, nanoseconds: u32| {
                let tv_nsec = match valid {
                    valid if valid & flag == 0 => UTIME_OMIT,
                    valid if valid & now != 0 => UTIME_NOW,
                    _ => nanoseconds.into(),
                };
                Timespec { tv_sec: seconds.cast_signed(), tv_nsec }
            };
            let times = Timestamps {
                last_access: time(set::ATIME, set::ATIME_NOW, access, access_ns),
                last_modification: time(set::MTIME, set::MTIME_NOW, modification, modification_ns),
            };
            rustix::fs::utimensat(here, name.as_c_str(), &times, AtFlags::empty())?;
        }
        self.tell_attributes(&node, handle.as_deref(), call.answer)
    }
}

/// truncate(2) of a descriptor that only names its file. It refuses what is not a regular file.
fn truncate(name: &DescriptorName<'_>, size: u64) -> Result<(), Errno> {
    // SAFETY: the path is a zero-terminated string; the thread's working directory is the one in which it means the descriptor.
    let done = unsafe { libc::truncate(name.as_c_str().as_ptr(), size.cast_signed()) };
    if done == 0 { Ok(()) } else { Err(last_error()) }
}

/// The error of the C library's last call in this thread.
pub(super) fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
