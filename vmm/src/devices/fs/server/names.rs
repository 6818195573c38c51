//! Names: making, moving and removing them.

use std::{
    ffi::CStr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, RenameFlags},
    io::Errno,
};

use super::{Call, Node, Outcome, Server, nodes::PathFd, open_name};

/// The longest target of a symbolic link (`PATH_MAX`).
const MAX_TARGET: usize = 4096;

impl Server {
    /// `FUSE_MKNOD`: a regular file, a FIFO, a socket, or a device's node. The host's rules say who may make which.
    pub(super) fn make_node(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let (mode, device, umask) = (call.body.u32()?, call.body.u32()?, call.body.u32()?);
        call.body.u32()?;
        let name = call.body.name()?;
        let (parent, directory) = self.writable_directory(call.header.node)?;
        let kind = FileType::from_raw_mode(mode);
        if matches!(kind, FileType::Directory | FileType::Symlink | FileType::Unknown) {
            return Err(Errno::INVAL);
        }
        {
            let _user = call.identity.assume(call.header.uid, call.header.gid, umask)?;
            let mode = Mode::from_raw_mode(mode & 0o7777);
            rustix::fs::mknodat(&*directory, name, kind, mode, device.into())?;
        }
        self.tell(&parent, name, call.answer)?;
        Ok(Outcome::Answer)
    }

    pub(super) fn make_directory(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let (mode, umask) = (call.body.u32()?, call.body.u32()?);
        let name = call.body.name()?;
        let (parent, directory) = self.writable_directory(call.header.node)?;
        {
            let _user = call.identity.assume(call.header.uid, call.header.gid, umask)?;
            rustix::fs::mkdirat(&*directory, name, Mode::from_raw_mode(mode & 0o7777))?;
        }
        self.tell(&parent, name, call.answer)?;
        Ok(Outcome::Answer)
    }

    /// `FUSE_SYMLINK`. The target is data: nothing on the host follows it.
    pub(super) fn make_link(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let name = call.body.name()?;
        let target = call.body.string()?;
        let (parent, directory) = self.writable_directory(call.header.node)?;
        {
            let _user = call.identity.assume(call.header.uid, call.header.gid, 0)?;
            rustix::fs::symlinkat(target, &*directory, name)?;
        }
        self.tell(&parent, name, call.answer)?;
        Ok(Outcome::Answer)
    }

    pub(super) fn read_link(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let node = self.nodes.get(call.header.node)?;
        let file = self.nodes.open(&node)?;
        call.answer.resize(MAX_TARGET, 0);
        let length = rustix::fs::readlinkat_raw(&*file, c"", &mut call.answer[..])?;
        call.answer.truncate(length);
        Ok(Outcome::Answer)
    }

    /// `FUSE_LINK`: a second name for a node. The header names the directory.
    pub(super) fn link(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let node = self.nodes.get(call.body.u64()?)?;
        let name = call.body.name()?;
        let (parent, directory) = self.writable_directory(call.header.node)?;
        node.writable()?;
        self.reopen.link(&*self.nodes.open(&node)?, &*directory, name)?;
        self.tell(&parent, name, call.answer)?;
        Ok(Outcome::Answer)
    }

    pub(super) fn unlink(
        &self,
        call: &mut Call<'_, '_>,
        directory: bool,
    ) -> Result<Outcome, Errno> {
        let name = call.body.name()?;
        let (_, parent) = self.writable_directory(call.header.node)?;
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let victim = self.known(&parent, name);
        rustix::fs::unlinkat(&*parent, name, flags)?;
        if let Some((node, file)) = victim {
            self.nodes.unnamed(&node, file);
        }
        Ok(Outcome::Answer)
    }

    /// `FUSE_RENAME`, and `FUSE_RENAME2` with its flags.
    pub(super) fn rename(
        &self,
        call: &mut Call<'_, '_>,
        with_flags: bool,
    ) -> Result<Outcome, Errno> {
        let target = call.body.u64()?;
        let mut flags = RenameFlags::empty();
        if with_flags {
            flags = RenameFlags::from_bits(call.body.u32()?).ok_or(Errno::INVAL)?;
            call.body.u32()?;
        }
        let (old, new) = (call.body.name()?, call.body.name()?);
        let (from, old_directory) = self.writable_directory(call.header.node)?;
        let (to, new_directory) = self.writable_directory(target)?;
        let moved = self.known(&old_directory, old);
        let replaced = self.known(&new_directory, new);
        rustix::fs::renameat_with(&*old_directory, old, &*new_directory, new, flags)?;
        let same = match (&moved, &replaced) {
            (Some((moved, _)), Some((replaced, _))) => moved.id == replaced.id,
            _ => false,
        };
        if let Some((node, _)) = &moved
            && !same
        {
            self.nodes.moved(node, &to, new);
        }
        match replaced {
            Some(_) if same => {}
            Some((node, _)) if flags.contains(RenameFlags::EXCHANGE) => {
                self.nodes.moved(&node, &from, old);
            }
            Some((node, file)) => self.nodes.unnamed(&node, file),
            None => {}
        }
        Ok(Outcome::Answer)
    }

    /// A directory in which names may be made and removed.
    pub(super) fn writable_directory(&self, id: u64) -> Result<(Arc<Node>, Arc<PathFd>), Errno> {
        let node = self.nodes.directory(id)?;
        node.writable()?;
        let file = self.nodes.open(&node)?;
        Ok((node, file))
    }

    /// The node that an entry of a directory is, if the guest knows it, and a descriptor of it.
    fn known(&self, directory: impl AsFd, name: &CStr) -> Option<(Arc<Node>, OwnedFd)> {
        let file = open_name(directory, name).ok()?;
        let node = self.nodes.of_file(&file).ok()??;
        Some((node, file))
    }
}
