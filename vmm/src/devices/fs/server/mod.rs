//! The file server of one share: FUSE requests in, answers out, on the host's files beneath the share's root and nowhere else.
//!
//! **Beneath.** A request names a node that the guest was told of and at most one component of a path, which is neither `..` nor followed
//! when it is a symbolic link; links are the guest's to follow, in its own tree. Only regular files and directories are ever opened:
//! a device, FIFO or socket is a name with attributes here, and what it does is the guest kernel's business.
//!
//! **Rights.** Permissions are checked by the guest's kernel, whose root could become any user anyway. The server makes files in the
//! name of the guest's user, and what the host refuses the server (a read-only mount, a quota) is refused to the guest.
//!
//! **Coherence.** The host's files are the truth. Writes go through at once; the guest's kernel may keep names and attributes for
//! as long as [`Server::new`] says and drops cached contents when size or modification time differ. Locks are the guest kernel's own: they hold among the guest's
//! processes and say nothing to the host.

mod attributes;
mod contents;
mod directory;
mod entries;
mod handles;
mod identity;
mod names;
mod nodes;
mod session;
mod set;
mod xattr;

use std::{ffi::CStr, os::fd::OwnedFd, sync::Arc, time::Duration};

use rustix::{fs::OFlags, io::Errno};

use self::{
    attributes::{Facts, Numbers, write_entry},
    entries::{Entries, Entry},
    handles::Handles,
    nodes::{Node, Nodes, full, open_name},
};
pub(super) use self::{
    entries::{Access, Refusal},
    identity::Identity,
};
use super::{
    protocol::{Body, Header, Opcode, ROOT},
    reopen::Reopen,
};
use crate::devices::virtio::Slices;

/// How long a guest may believe what never changes: the share's root and the names in it.
const FOREVER: Duration = Duration::from_secs(1 << 20);

/// One request while it is handled.
pub(super) struct Call<'a, 'm> {
    pub(super) header: Header,
    /// What follows the header; of a write, only its arguments.
    pub(super) body: Body<'a>,
    /// The whole request.
    pub(super) input: &'a Slices<'m>,
    /// Room for the answer with its header.
    pub(super) output: &'a Slices<'m>,
    /// The answer without its header.
    pub(super) answer: &'a mut Vec<u8>,
    pub(super) identity: &'a mut Identity,
}

/// What is to be said to the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// What is in [`Call::answer`].
    Answer,
    /// So many bytes, which are in [`Call::output`] behind the place of the header.
    Data(usize),
    /// Nothing.
    Silence,
}

/// A share's file server, used by several threads at once.
#[derive(Debug)]
pub(super) struct Server {
    nodes: Nodes,
    handles: Handles,
    numbers: Numbers,
    reopen: Arc<Reopen>,
    entries: Entries,
    /// How long the guest may believe names and attributes.
    valid: Duration,
}

impl Server {
    /// Serves `root`, an `O_PATH` descriptor of a directory, of whose entries those that are not in `entries` are not there; with each, what may be done through it.
    /// `files`: how many descriptors it may use.
    pub(super) fn new(
        root: OwnedFd,
        entries: impl IntoIterator<Item = (Vec<u8>, Access)>,
        valid: Duration,
        reopen: Arc<Reopen>,
        files: usize,
    ) -> Result<Self, Errno> {
        Ok(Self {
            // Twice as many are open when the guest holds files that have no name any more.
            nodes: Nodes::new(root, files / 4)?,
            handles: Handles::new(files / 2),
            numbers: Numbers::default(),
            reopen,
            entries: Entries::mounted(entries),
            valid,
        })
    }

    /// The directory in which a thread must stand to call [`Server::handle`].
    pub(super) fn reopen(&self) -> &Reopen {
        &self.reopen
    }

    /// One more entry, the root of a mount.
    pub(super) fn give(&self, name: &str, access: Access, file: OwnedFd) -> Result<(), Refusal> {
        self.entries.give(name.as_bytes(), access, file)
    }

    /// Takes an entry out that was given. Nothing of it stays open but what a request is using at this moment.
    pub(super) fn take(&self, name: &str) -> Result<(), Refusal> {
        let entry = self.entries.take(name.as_bytes())?;
        let nodes = self.nodes.drop_entry(&entry);
        self.handles.drop_nodes(&nodes);
        Ok(())
    }

    /// Does what is asked.
    pub(super) fn handle(&self, opcode: Opcode, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        match opcode {
            Opcode::Init => self.init(call),
            Opcode::Destroy => self.end_session(),
            Opcode::Lookup => self.lookup(call),
            Opcode::Forget => self.forget(call),
            Opcode::BatchForget => self.batch_forget(call),
            Opcode::Interrupt => Ok(Outcome::Silence),
            Opcode::GetAttr => self.get_attributes(call),
            Opcode::SetAttr => self.set_attributes(call),
            Opcode::ReadLink => self.read_link(call),
            Opcode::SymLink => self.make_link(call),
            Opcode::MkNod => self.make_node(call),
            Opcode::MkDir => self.make_directory(call),
            Opcode::Unlink => self.unlink(call, false),
            Opcode::RmDir => self.unlink(call, true),
            Opcode::Rename => self.rename(call, false),
            Opcode::Rename2 => self.rename(call, true),
            Opcode::Link => self.link(call),
            Opcode::Create => self.create(call),
            Opcode::TmpFile => self.create_unnamed(call),
            Opcode::Open => self.open(call, false),
            Opcode::OpenDir => self.open(call, true),
            Opcode::Release | Opcode::ReleaseDir => self.release(call),
            Opcode::Read => self.read(call),
            Opcode::Write => self.write(call),
            Opcode::Fsync | Opcode::FsyncDir => self.sync(call),
            Opcode::SyncFs => self.sync_file_systems(),
            Opcode::Fallocate => self.allocate(call),
            Opcode::Lseek => self.seek(call),
            Opcode::CopyFileRange => self.copy_range(call),
            Opcode::ReadDir => self.read_directory(call, false),
            Opcode::ReadDirPlus => self.read_directory(call, true),
            Opcode::StatFs => self.file_system(call),
            Opcode::SetXattr => self.set_xattr(call),
            Opcode::GetXattr => self.get_xattr(call),
            Opcode::ListXattr => self.list_xattrs(call),
            Opcode::RemoveXattr => self.remove_xattr(call),
        }
    }

    fn lookup(&self, call: &mut Call<'_, '_>) -> Result<Outcome, Errno> {
        let name = call.body.name()?;
        let parent = self.nodes.directory(call.header.node)?;
        self.tell(&parent, name, call.answer).map(|_| Outcome::Answer)
    }

    /// Finds an entry of a directory and tells the guest of it.
    fn tell(
        &self,
        parent: &Arc<Node>,
        name: &CStr,
        answer: &mut Vec<u8>,
    ) -> Result<Arc<Node>, Errno> {
        let entry = self.entry(parent, name).ok_or(Errno::NOENT)?;
        let directory = self.nodes.open(parent)?;
        let given = parent.id == ROOT && entry.is_given();
        let (file, place) = if given {
            // It has no name on the host.
            (Entries::open(&*directory, name, &entry)?, None)
        } else {
            (open_name(directory, name)?, Some((&**parent, name)))
        };
        let (node, facts) = self.nodes.remember(file, place, &entry)?;
        self.write_entry(parent, &node, &facts, answer);
        Ok(node)
    }

    /// The share's entry that `name` in a directory is or belongs to; `None`: the root has no such entry.
    fn entry(&self, parent: &Node, name: &CStr) -> Option<Arc<Entry>> {
        if parent.id == ROOT { self.entries.get(name) } else { parent.entry.clone() }
    }

    /// Tells the guest of a node that is an entry of `parent`.
    fn write_entry(&self, parent: &Node, node: &Node, facts: &Facts, answer: &mut Vec<u8>) {
        let valid = (self.valid(parent), self.valid);
        write_entry(node.id, facts, self.numbers.of(&node.key), valid, answer);
    }

    /// How long the guest may believe the attributes of a node, and of a directory also the names in it.
    fn valid(&self, node: &Node) -> Duration {
        if node.id == ROOT { FOREVER } else { self.valid }
    }

    fn number(&self, node: &Node) -> u64 {
        if node.id == ROOT { Numbers::root() } else { self.numbers.of(&node.key) }
    }

    /// The node's file, opened. Only regular files and directories are.
    fn open_node(&self, node: &Arc<Node>, flags: OFlags) -> Result<OwnedFd, Errno> {
        if !node.is_regular() && !node.is_directory() {
            return Err(Errno::NXIO);
        }
        self.reopen.open_as(self.nodes.open(node)?, flags).map_err(full)
    }
}
