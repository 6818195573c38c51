//! The files that the guest knows, by the numbers that it was told for them. A number leads to nothing that was not looked up
//! through the share.
//!
//! A node is found again on the host by an `O_PATH` descriptor. There may be fewer descriptors than files that a guest remembers,
//! so those of the nodes that were not used lately are closed; such a node is opened again by its last known name in its parent
//! directory and must then be the same file (device, inode, mount, time of birth), else the guest is told `ESTALE`.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ffi::{CStr, CString},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::{
    super::protocol::ROOT,
    attributes::{Facts, Key},
    entries::Entry,
};

/// The most nodes. A guest's kernel needs about a KiB for each that it remembers.
const MAX_NODES: usize = 1 << 20;
/// The most closed directories above a node that are opened again for it.
const MAX_DEPTH: usize = 4096;
/// How many nodes are looked at to find one whose descriptor can be closed.
const EVICTION_SCAN: usize = 64;

/// How a file is named without being opened.
const NAME_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A descriptor of the node's file.
#[derive(Debug)]
pub(super) struct PathFd {
    file: OwnedFd,
    open: Arc<AtomicUsize>,
}

impl AsFd for PathFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for PathFd {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A file that the guest knows.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) key: Key,
    /// The bits of the mode that say what it is; they never change.
    pub(super) kind: u32,
    /// The entry of the share that it belongs to; the root belongs to none.
    pub(super) entry: Option<Arc<Entry>>,
    /// It is the directory of a sealed entry.
    sealed: bool,
    born: (i64, u32),
    /// Where it can be found; nowhere for the root and for what has lost its name, which keep their descriptors.
    place: Mutex<Option<(u64, CString)>>,
    file: Mutex<Option<Arc<PathFd>>>,
    /// Used since its descriptor was last considered for closing.
    used: AtomicBool,
}

impl Node {
    pub(super) fn is_directory(&self) -> bool {
        self.kind == libc::S_IFDIR
    }

    pub(super) fn is_regular(&self) -> bool {
        self.kind == libc::S_IFREG
    }

    /// The host refuses changes, and so does this server where a mount that came later would not.
    pub(super) fn writable(&self) -> Result<(), Errno> {
        if self.sealed || self.entry.as_ref().is_none_or(|entry| entry.access.read_only) {
            return Err(Errno::ROFS);
        }
        Ok(())
    }

    /// The entry that it belongs to was taken out.
    pub(super) fn is_gone(&self) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.is_gone())
    }

    fn place(&self) -> MutexGuard<'_, Option<(u64, CString)>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self) -> MutexGuard<'_, Option<Arc<PathFd>>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Known {
    node: Arc<Node>,
    /// How often the guest was told of it and has not forgotten.
    lookups: u64,
}

#[derive(Debug)]
struct Table {
    by_id: HashMap<u64, Known>,
    by_key: HashMap<Key, u64>,
    next: u64,
}

/// All nodes of a share.
#[derive(Debug)]
pub(super) struct Nodes {
    table: Mutex<Table>,
    /// Nodes with an open descriptor, in the order in which they are considered for closing it.
    clock: Mutex<VecDeque<Weak<Node>>>,
    open: Arc<AtomicUsize>,
    /// Open descriptors that are wanted; a few more are allowed when none can be closed.
    wanted: usize,
}

impl Nodes {
    /// Only the root, whose entries nobody changes.
    pub(super) fn new(root: OwnedFd, wanted: usize) -> Result<Self, Errno> {
        let open = Arc::new(AtomicUsize::new(1));
        let facts = Facts::of(&root)?;
        let node = Node {
            id: ROOT,
            key: facts.key(),
            kind: facts.kind(),
            entry: None,
            sealed: false,
            born: facts.born(),
            place: Mutex::new(None),
            file: Mutex::new(Some(Arc::new(PathFd { file: root, open: open.clone() }))),
            used: AtomicBool::new(true),
        };
        let mut table = Table { by_id: HashMap::new(), by_key: HashMap::new(), next: ROOT + 1 };
        table.by_key.insert(node.key, ROOT);
        table.by_id.insert(ROOT, Known { node: Arc::new(node), lookups: 1 });
        Ok(Self { table: Mutex::new(table), clock: Mutex::default(), open, wanted })
    }

    /// The node of a number that the guest was told.
    pub(super) fn get(&self, id: u64) -> Result<Arc<Node>, Errno> {
        self.table().by_id.get(&id).map(|known| known.node.clone()).ok_or(Errno::BADF)
    }

    /// A directory's node.
    pub(super) fn directory(&self, id: u64) -> Result<Arc<Node>, Errno> {
        let node = self.get(id)?;
        if node.is_directory() { Ok(node) } else { Err(Errno::NOTDIR) }
    }

    /// Takes note that the guest is told of the file `file`, which `name` in `parent` is; `None`: it has no name. The node, and
    /// what it is like.
    pub(super) fn remember(
        &self,
        file: OwnedFd,
        place: Option<(&Node, &CStr)>,
        entry: &Arc<Entry>,
    ) -> Result<(Arc<Node>, Facts), Errno> {
        let facts = Facts::of(&file)?;
        let key = facts.key();
        let is_directory = facts.kind() == libc::S_IFDIR;
        if !is_directory && place.is_some_and(|(parent, _)| parent.sealed) {
            return Err(Errno::NOENT);
        }
        // An entry's directory is found in the root, or has no name.
        let top = is_directory && place.is_none_or(|(parent, _)| parent.id == ROOT);
        let place = place.map(|(parent, name)| (parent.id, name.to_owned()));
        let mut table = self.table();
        // Whoever takes an entry out looks through the table after that.
        if entry.is_gone() {
            return Err(Errno::STALE);
        }
        let id = table.by_key.get(&key).copied();
        if let Some(known) = id.and_then(|id| table.by_id.get_mut(&id))
            && known.node.born == facts.born()
        {
            known.lookups = known.lookups.saturating_add(1);
            let node = known.node.clone();
            drop(table);
            if node.id != ROOT && place.is_some() {
                *node.place() = place;
            }
            if let Err(error) = self.lend(&node, file) {
                self.forget(node.id, 1);
                return Err(error);
            }
            return Ok((node, facts));
        }
        if table.by_id.len() >= MAX_NODES {
            return Err(Errno::NFILE);
        }
        let id = table.next;
        table.next += 1;
        let node = Arc::new(Node {
            id,
            key,
            kind: facts.kind(),
            entry: Some(entry.clone()),
            sealed: top && entry.access.sealed,
            born: facts.born(),
            place: Mutex::new(place),
            file: Mutex::new(None),
            used: AtomicBool::new(true),
        });
        table.by_key.insert(key, id);
        table.by_id.insert(id, Known { node: node.clone(), lookups: 1 });
        drop(table);
        if let Err(error) = self.lend(&node, file) {
            self.forget(id, 1);
            return Err(error);
        }
        Ok((node, facts))
    }

    /// The node of the file `file`, if the guest knows it.
    pub(super) fn of_file(&self, file: impl AsFd) -> Result<Option<Arc<Node>>, Errno> {
        let facts = Facts::of(file)?;
        let table = self.table();
        let id = table.by_key.get(&facts.key());
        let known = id.and_then(|id| table.by_id.get(id));
        Ok(known.map(|known| known.node.clone()).filter(|node| node.born == facts.born()))
    }

    /// The node's file is now called so.
    pub(super) fn moved(&self, node: &Node, parent: &Node, name: &CStr) {
        if node.id != ROOT {
            *node.place() = Some((parent.id, name.to_owned()));
        }
    }

    /// The node's file has lost the name by which it was found: it keeps the descriptor `file`.
    pub(super) fn unnamed(&self, node: &Arc<Node>, file: OwnedFd) {
        *node.place() = None;
        // Without room for it the node is stale from now on.
        let _ = self.lend(node, file);
    }

    /// The guest forgets so many of the times that it was told of a node.
    pub(super) fn forget(&self, id: u64, lookups: u64) {
        if id == ROOT {
            return;
        }
        let mut table = self.table();
        let Some(known) = table.by_id.get_mut(&id) else { return };
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups == 0
            && let Some(known) = table.by_id.remove(&id)
            && table.by_key.get(&known.node.key) == Some(&id)
        {
            table.by_key.remove(&known.node.key);
        }
    }

    /// The guest forgets everything but the root.
    pub(super) fn forget_all(&self) {
        let mut table = self.table();
        table.by_id.retain(|id, _| *id == ROOT);
        table.by_key.retain(|_, id| *id == ROOT);
    }

    /// Forgets the nodes of an entry that is gone, and says which they were.
    pub(super) fn drop_entry(&self, entry: &Arc<Entry>) -> HashSet<u64> {
        let mut table = self.table();
        let of = |node: &Node| node.entry.as_ref().is_some_and(|other| Arc::ptr_eq(other, entry));
        let dropped: Vec<Known> =
            table.by_id.extract_if(|_, known| of(&known.node)).map(|(_, known)| known).collect();
        let ids: HashSet<_> = dropped.iter().map(|known| known.node.id).collect();
        table.by_key.retain(|_, id| !ids.contains(id));
        drop(table);
        ids
    }

    /// How many nodes besides the root the guest knows.
    pub(super) fn count(&self) -> usize {
        self.table().by_id.len() - 1
    }

    /// The node's descriptor, opened again if it was closed.
    pub(super) fn open(&self, node: &Arc<Node>) -> Result<Arc<PathFd>, Errno> {
        node.used.store(true, Ordering::Relaxed);
        let mut closed = Vec::new();
        let mut node = node.clone();
        let mut file = loop {
            if let Some(file) = &*node.file() {
                break file.clone();
            }
            let parent = match &*node.place() {
                Some((parent, _)) if closed.len() < MAX_DEPTH => *parent,
                _ => return Err(Errno::STALE),
            };
            closed.push(node);
            node = self.get(parent).map_err(|_| Errno::STALE)?;
        };
        for node in closed.into_iter().rev() {
            let Some((_, name)) = node.place().clone() else { return Err(Errno::STALE) };
            let found = open_name(&file, &name).map_err(stale)?;
            let facts = Facts::of(&found)?;
            if (facts.key(), facts.born()) != (node.key, node.born) {
                return Err(Errno::STALE);
            }
            file = self.lend(&node, found)?;
        }
        Ok(file)
    }

    /// Gives the node the descriptor `file`, unless it has one.
    fn lend(&self, node: &Arc<Node>, file: OwnedFd) -> Result<Arc<PathFd>, Errno> {
        let lent = {
            let mut slot = node.file();
            if let Some(file) = &*slot {
                return Ok(file.clone());
            }
            if self.open.fetch_add(1, Ordering::Relaxed) >= 2 * self.wanted {
                self.open.fetch_sub(1, Ordering::Relaxed);
                return Err(Errno::NFILE);
            }
            slot.insert(Arc::new(PathFd { file, open: self.open.clone() })).clone()
        };
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.push_back(Arc::downgrade(node));
        if clock.len() > 4 * self.wanted {
            clock.retain(|node| node.upgrade().is_some_and(|node| node.file().is_some()));
        }
        for _ in 0..EVICTION_SCAN {
            if self.open.load(Ordering::Relaxed) <= self.wanted {
                break;
            }
            let Some(candidate) = clock.pop_front() else { break };
            let Some(considered) = candidate.upgrade() else { continue };
            let keeps = considered.place().is_none();
            if keeps || considered.used.swap(false, Ordering::Relaxed) {
                clock.push_back(candidate);
            } else {
                let closed = considered.file().take();
                drop(closed);
            }
        }
        Ok(lent)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names the entry `name` of a directory, without following it.
pub(super) fn open_name(directory: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(directory, name, NAME_ONLY, Mode::empty()).map_err(full)
}

/// What stands between the guest and its file is this process's limit, not the guest's.
pub(super) fn full(error: Errno) -> Errno {
    if error == Errno::MFILE { Errno::NFILE } else { error }
}

fn stale(error: Errno) -> Errno {
    match error {
        Errno::NOENT | Errno::NOTDIR => Errno::STALE,
        other => other,
    }
}
