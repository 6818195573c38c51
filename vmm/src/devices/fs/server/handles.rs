//! Files and directories that the guest has open.

use std::{
    collections::{HashMap, HashSet},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;

use super::Node;

/// An open file or directory.
#[derive(Debug)]
pub(super) struct Handle {
    node: u64,
    file: OwnedFd,
    /// Held while a directory's entries are read from a position.
    pub(super) reading: Mutex<()>,
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<u64, Arc<Handle>>,
    last: u64,
}

/// All handles of a share.
#[derive(Debug)]
pub(super) struct Handles {
    table: Mutex<Table>,
    limit: usize,
}

impl Handles {
    pub(super) fn new(limit: usize) -> Self {
        Self { table: Mutex::default(), limit }
    }

    /// Keeps `file`, which is that of the node, for the guest, and says by which number.
    pub(super) fn add(&self, node: &Node, file: OwnedFd) -> Result<u64, Errno> {
        let mut table = self.table();
        // Whoever takes an entry out looks through the table after that.
        if node.is_gone() {
            return Err(Errno::STALE);
        }
        if table.open.len() >= self.limit {
            return Err(Errno::NFILE);
        }
        table.last += 1;
        let id = table.last;
        let handle = Handle { node: node.id, file, reading: Mutex::new(()) };
        table.open.insert(id, Arc::new(handle));
        Ok(id)
    }

    /// The handle of a number, which must be one of this node.
    pub(super) fn get(&self, id: u64, node: u64) -> Result<Arc<Handle>, Errno> {
        let table = self.table();
        let handle = table.open.get(&id).filter(|handle| handle.node == node);
        handle.cloned().ok_or(Errno::BADF)
    }

    /// The guest closed it.
    pub(super) fn remove(&self, id: u64, node: u64) -> Result<(), Errno> {
        let mut table = self.table();
        if table.open.get(&id).is_none_or(|handle| handle.node != node) {
            return Err(Errno::BADF);
        }
        let closed = table.open.remove(&id);
        drop(table);
        drop(closed);
        Ok(())
    }

    /// The guest closed all of them.
    pub(super) fn clear(&self) {
        let closed = std::mem::take(&mut self.table().open);
        drop(closed);
    }

    /// Closes those of these nodes.
    pub(super) fn drop_nodes(&self, nodes: &HashSet<u64>) {
        let closed: Vec<_> =
            self.table().open.extract_if(|_, handle| nodes.contains(&handle.node)).collect();
        drop(closed);
    }

    pub(super) fn count(&self) -> usize {
        self.table().open.len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
