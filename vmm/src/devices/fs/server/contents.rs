//! Contents: open files, their bytes, and what else is done through a handle.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{FallocateFlags, Mode, OFlags, SeekFrom},
    io::Errno,
};

use super::{
    super::protocol::{
        Answer, FSYNC_DATA, OPEN_KEEP_CACHE, OPEN_KILL_SUIDGID, OUT_HEADER, WRITE_CACHE, WRITE_IN,
        WRITE_KILL_SUIDGID,
    },
    Call, Node, Outcome, Server,
    identity::WithoutSetId,
    nodes::full,
    set::last_error,
};
use crate::devices::{
    fs::protocol::IN_HEADER,
    virtio::{IoVectors, Slices},
};

/// What a guest's flags may ask of the host. `O_DIRECT` passes the guest's cache by, not the host's; `O_APPEND` comes with each write.
const OPEN: OFlags = OFlags::RWMODE
    .union(OFlags::TRUNC)
    .union(OFlags::NOATIME)
    .union(OFlags::SYNC)
    .union(OFlags::DSYNC);
/// The most bytes of one `FUSE_COPY_FILE_RANGE`; the driver asks again for the rest.
const MAX_COPY: usize = 64 << 20;

impl Server {
    /// `FUSE_OPEN` and `FUSE_OPENDIR`.
    pub(super) fn open(&self, call: &mut Call<'_, '_>, directory: bool) -> Result<Outcome, Errno> {
        let (flags, how) = (call.body.u32()?, call.body.u32()?);
        let node = self.nodes.get(call.header.node)?;
        let file = if directory {
            self.open_node(&node, OFlags::RDONLY | OFlags::DIRECTORY)?
        } else {
            self.open_file(&node, flags, how)?
        };
        self.tell_handle(&node, file, call.answer)
    }

    fn open_file(&self, node: &Arc<Node>, flags: u32, how: u32) -> Result<OwnedFd, Errno> {
        let flags = OFlags::from_bits_truncate(flags) & OPEN;
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC) {
            node.writable()?;
        }
        if node.is_directory() {
            return Err(Errno::ISDIR);
        }
        let _without = WithoutSetId::when(how & OPEN_KILL_SUIDGID != 0)?;
        self.open_node(node, flags)
    }

    /// `struct fuse_open_out`.
    fn tell_handle(
        &self,
        node: &Node,
        file: OwnedFd,
        answer: &mut Vec<u8>,
    ) -> Result<Outcome, Errno> {
        answer.u64(self.handles.add(node, file)?);
        // The guest's kernel compares size and modification time when what it believes has run out, so that a program which
        // is executed again need not be read again. A share that is to be always fresh is read at each open.
        let keep = !self.valid.is_zero() && !node.is_directory();
        answer.u32(if keep { OPEN_KEEP_CACHE } else { 0 });
        answer.zeros(4);
        Ok(Outcome::Answer)
    }

    /// `FUSE_CREATE`: makes a regular file and opens it, or opens the one that is there.
    pub(super) fn create(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let (flags, mode) = (call.body.u32()?, call.body.u32()?);
        let (umask, how) = (call.body.u32()?, call.body.u32()?);
        let name = call.body.name()?;
        let (parent, directory) = self.writable_directory(call.header.node)?;
        let made = {
            let _user = call.identity.assume(call.header.uid, call.header.gid, umask)?;
            let flags = OFlags::from_bits_truncate(flags) & OPEN
                | OFlags::CREATE
                | OFlags::EXCL
                | OFlags::NOFOLLOW
                | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(mode & 0o7777);
            rustix::fs::openat(&*directory, name, flags, mode).map_err(full)
        };
        let exclusive = OFlags::from_bits_truncate(flags).contains(OFlags::EXCL);
        match made {
            Ok(file) => {
                let named = self.reopen.open_as(&file, OFlags::PATH).map_err(full)?;
                let entry = parent.entry.as_ref().ok_or(Errno::ROFS)?;
                let (node, facts) = self.nodes.remember(named, Some((&parent, name)), entry)?;
                self.write_entry(&parent, &node, &facts, call.answer);
                self.finish_open(&node, Ok(file), call.answer)
            }
            Err(Errno::EXIST) if !exclusive => {
                let node = self.tell(&parent, name, call.answer)?;
                let file = self.open_file(&node, flags, how);
                self.finish_open(&node, file, call.answer)
            }
            Err(error) => Err(error),
        }
    }

    /// `FUSE_TMPFILE`: a file without a name in this directory, opened.
    pub(super) fn create_unnamed(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let (flags, mode, umask) = (call.body.u32()?, call.body.u32()?, call.body.u32()?);
        let (parent, directory) = self.writable_directory(call.header.node)?;
        let file = {
            let _user = call.identity.assume(call.header.uid, call.header.gid, umask)?;
            let flags = OFlags::from_bits_truncate(flags);
            let flags = flags & (OPEN.difference(OFlags::TRUNC) | OFlags::EXCL)
                | OFlags::TMPFILE
                | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(mode & 0o7777);
            rustix::fs::openat(&*directory, c".", flags, mode).map_err(full)?
        };
        let named = self.reopen.open_as(&file, OFlags::PATH).map_err(full)?;
        let entry = parent.entry.as_ref().ok_or(Errno::ROFS)?;
        let (node, facts) = self.nodes.remember(named, None, entry)?;
        self.write_entry(&parent, &node, &facts, call.answer);
        self.finish_open(&node, Ok(file), call.answer)
    }

    /// Gives the handle of a node of which the guest was just told. It hears of neither when that fails.
    fn finish_open(
        &self,
        node: &Node,
        file: Result<OwnedFd, Errno>,
        answer: &mut Vec<u8>,
    ) -> Result<Outcome, Errno> {
        let told = file.and_then(|file| self.tell_handle(node, file, answer));
        if told.is_err() {
            self.nodes.forget(node.id, 1);
        }
        told
    }

    pub(super) fn release(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        self.handles.remove(call.body.u64()?, call.header.node)?;
        Ok(Outcome::Answer)
    }

    /// `FUSE_READ`, from the file into the guest's memory.
    pub(super) fn read(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let (handle, offset, size) = (call.body.u64()?, call.body.u64()?, call.body.u32()?);
        let handle = self.handles.get(handle, call.header.node)?;
        let done = transfer(call.output, OUT_HEADER, size as usize, |vectors, done| {
            let offset = offset_of(offset, done)?;
            // SAFETY: the vectors are pieces of guest memory that stay mapped as long as they live; no Rust reference to it exists.
            outcome(unsafe {
                libc::preadv(handle.as_fd().as_raw_fd(), vectors.as_ptr(), count(vectors), offset)
            })
        })?;
        Ok(Outcome::Data(done))
    }

    /// `FUSE_WRITE`, from the guest's memory into the file.
    pub(super) fn write(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let (handle, offset, size) = (call.body.u64()?, call.body.u64()?, call.body.u32()?);
        let how = call.body.u32()?;
        let _lock_owner = call.body.u64()?;
        let flags = OFlags::from_bits_truncate(call.body.u32()?);
        let handle = self.handles.get(handle, call.header.node)?;
        if call.input.len() - IN_HEADER - WRITE_IN < size as usize {
            return Err(Errno::INVAL);
        }
        let append = flags.contains(OFlags::APPEND) && how & WRITE_CACHE == 0;
        let write_flags = if append { libc::RWF_APPEND } else { 0 };
        let _without = WithoutSetId::when(how & WRITE_KILL_SUIDGID != 0)?;
        let at = IN_HEADER + WRITE_IN;
        let done = transfer(call.input, at, size as usize, |vectors, done| {
            let offset = offset_of(offset, done)?;
            // SAFETY: as for reading; the kernel only reads them.
            outcome(unsafe {
                libc::pwritev2(
                    handle.as_fd().as_raw_fd(),
                    vectors.as_ptr(),
                    count(vectors),
                    offset,
                    write_flags,
                )
            })
        })?;
        answer_size(done, call)
    }

    pub(super) fn sync(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let (handle, flags) = (call.body.u64()?, call.body.u32()?);
        let handle = self.handles.get(handle, call.header.node)?;
        if flags & FSYNC_DATA != 0 {
            rustix::fs::fdatasync(handle)?;
        } else {
            rustix::fs::fsync(handle)?;
        }
        Ok(Outcome::Answer)
    }

    pub(super) fn allocate(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let (handle, offset, length) = (call.body.u64()?, call.body.u64()?, call.body.u64()?);
        let flags = FallocateFlags::from_bits(call.body.u32()?).ok_or(Errno::OPNOTSUPP)?;
        let handle = self.handles.get(handle, call.header.node)?;
        rustix::fs::fallocate(handle, flags, offset, length)?;
        Ok(Outcome::Answer)
    }

    /// `FUSE_LSEEK`: the next data or the next hole.
    pub(super) fn seek(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let (handle, offset) = (call.body.u64()?, call.body.u64()?);
        let from = match i32::try_from(call.body.u32()?) {
            Ok(libc::SEEK_DATA) => SeekFrom::Data(offset),
            Ok(libc::SEEK_HOLE) => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        let handle = self.handles.get(handle, call.header.node)?;
        call.answer.u64(rustix::fs::seek(handle, from)?);
        Ok(Outcome::Answer)
    }

    pub(super) fn copy_range(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let (from, mut from_offset) = (call.body.u64()?, call.body.u64()?);
        let (to_node, to, mut to_offset) = (call.body.u64()?, call.body.u64()?, call.body.u64()?);
        let (length, flags) = (call.body.u64()?, call.body.u64()?);
        if flags != 0 {
            return Err(Errno::INVAL);
        }
        let from = self.handles.get(from, call.header.node)?;
        let to = self.handles.get(to, to_node)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(MAX_COPY);
        let done = rustix::fs::copy_file_range(
            from,
            Some(&mut from_offset),
            to,
            Some(&mut to_offset),
            length,
        )?;
        answer_size(done, call)
    }
}

/// `struct fuse_write_out`.
fn answer_size(size: usize, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
    call.answer.u32(u32::try_from(size).map_err(|_| Errno::OVERFLOW)?);
    call.answer.zeros(4);
    Ok(Outcome::Answer)
}

/// Moves up to `length` bytes of guest memory from `at` on with as many system calls as that takes; each is told how many bytes went before it.
/// Less, when a call moves less than it could; the error only when nothing was moved.
fn transfer(
    slices: &Slices<'_>,
    at: usize,
    length: usize,
    mut call: impl FnMut(&[libc::iovec], usize) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let mut pieces = slices.range(at, length);
    let mut done = 0;
    loop {
        let vectors = IoVectors::new(&mut pieces);
        if vectors.is_empty() {
            return Ok(done);
        }
        let moved = match rustix::io::retry_on_intr(|| call(vectors.as_slice(), done)) {
            Ok(moved) => moved,
            Err(error) if done == 0 => return Err(error),
            Err(_) => return Ok(done),
        };
        done += moved;
        if moved < vectors.len() {
            return Ok(done);
        }
    }
}

fn offset_of(offset: u64, done: usize) -> Result<libc::off_t, Errno> {
    offset.checked_add(done as u64).and_then(|at| at.try_into().ok()).ok_or(Errno::INVAL)
}

fn count(vectors: &[libc::iovec]) -> libc::c_int {
    // An array has at most 64 of them.
    libc::c_int::try_from(vectors.len()).unwrap_or(0)
}

/// What a system call of the C library's returned.
fn outcome(returned: isize) -> Result<usize, Errno> {
    usize::try_from(returned).map_err(|_| last_error())
}
