//! The things that a share's root holds, by name: those that are mounted below it, and those that came later as descriptors.

use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, StatVfsMountFlags, StatxAttributes, StatxFlags},
    io::Errno,
};

use super::nodes::open_name;

/// More than this cannot be given while the machine runs; each is an open file.
const MOST_GIVEN: usize = 512;

/// What may be done through one of them.
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct Access {
    /// Nothing is changed through it.
    pub(in super::super) read_only: bool,
    /// Its own directory stays as it is, and has nothing but directories.
    pub(in super::super) sealed: bool,
}

/// One of them. The nodes below it know it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) access: Access,
    /// The root of its mount; absent: it is mounted below the share's root.
    given: Option<OwnedFd>,
    gone: AtomicBool,
}

impl Entry {
    /// It was taken out.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// It came later.
    pub(super) fn is_given(&self) -> bool {
        self.given.is_some()
    }
}

/// Why an entry cannot come or go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Refusal {
    /// There is one of this name.
    Taken,
    /// There is none of this name, or it is mounted for good.
    Missing,
    /// It cannot be used.
    Unfit(String),
}

/// All of them.
#[derive(Debug)]
pub(super) struct Entries(RwLock<HashMap<Vec<u8>, Arc<Entry>>>);

impl Entries {
    /// Those that are mounted, by name.
    pub(super) fn mounted(names: impl IntoIterator<Item = (Vec<u8>, Access)>) -> Self {
        let entry = |access| Arc::new(Entry { access, given: None, gone: false.into() });
        Self(RwLock::new(names.into_iter().map(|(name, access)| (name, entry(access))).collect()))
    }

    /// The one of this name.
    pub(super) fn get(&self, name: &CStr) -> Option<Arc<Entry>> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(name.to_bytes()).cloned()
    }

    /// A descriptor that names the one of this name; `root`: the share's.
    pub(super) fn open(root: impl AsFd, name: &CStr, entry: &Entry) -> Result<OwnedFd, Errno> {
        match &entry.given {
            Some(given) => Ok(rustix::io::fcntl_dupfd_cloexec(given, 0)?),
            None => open_name(root, name),
        }
    }

    /// Those that can be written, with their names.
    pub(super) fn writable(&self) -> Vec<(CString, Arc<Entry>)> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let writable = entries.iter().filter(|(_, entry)| !entry.access.read_only);
        let named = |(name, entry): (&Vec<u8>, &Arc<Entry>)| {
            Some((CString::new(name.as_slice()).ok()?, entry.clone()))
        };
        writable.filter_map(named).collect()
    }

    /// One more, the root of a mount, which is read-only if nothing is to be changed through it.
    pub(super) fn give(&self, name: &[u8], access: Access, file: OwnedFd) -> Result<(), Refusal> {
        let unfit = |why: String| Refusal::Unfit(why);
        let facts = rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
            .map_err(|errno| unfit(format!("cannot look at its descriptor: {errno}")))?;
        // A mount of its own keeps its files apart from those of other entries.
        if !facts.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Err(unfit("its descriptor is not the root of a mount (open_tree)".into()));
        }
        let kind = u32::from(facts.stx_mode) & libc::S_IFMT;
        if !matches!(kind, libc::S_IFDIR | libc::S_IFREG) {
            return Err(unfit("it is neither a directory nor a regular file".into()));
        }
        if access.read_only {
            let mounted = rustix::fs::fstatvfs(&file)
                .map_err(|errno| unfit(format!("cannot look at its mount: {errno}")))?;
            if !mounted.f_flag.contains(StatVfsMountFlags::RDONLY) {
                return Err(unfit("it is to be read-only, and its mount is not".into()));
            }
        }
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if entries.contains_key(name) {
            return Err(Refusal::Taken);
        }
        if entries.values().filter(|entry| entry.is_given()).count() >= MOST_GIVEN {
            return Err(unfit(format!("{MOST_GIVEN} entries were given already")));
        }
        let entry = Entry { access, given: Some(file), gone: AtomicBool::new(false) };
        entries.insert(name.to_owned(), Arc::new(entry));
        Ok(())
    }

    /// Takes one out that was given.
    pub(super) fn take(&self, name: &[u8]) -> Result<Arc<Entry>, Refusal> {
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !entries.get(name).is_some_and(|entry| entry.is_given()) {
            return Err(Refusal::Missing);
        }
        let entry = entries.remove(name).ok_or(Refusal::Missing)?;
        entry.gone.store(true, Ordering::SeqCst);
        Ok(entry)
    }
}
