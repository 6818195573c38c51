//! A mount on the host, as mount(8) would make it: for whoever prepares a container's root before there is a container.

use std::{
    ffi::CString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::CWD,
    io::Errno,
    mount::{self, MoveMountFlags, move_mount},
};

use super::{
    idmap,
    make::open_tree,
    options::{Bind, Options},
};
use crate::{
    error::{Error, at},
    idmap::Maps,
    spec::IdMapping,
    sys,
};

/// Mounts `source` on a directory. `kind`: a file system, or `bind`; `words`: options of mount(8).
///
/// # Errors
/// [`Error::System`]: what the kernel says, for instance to options that are longer than a page of memory.
pub fn mount(kind: &str, source: &str, words: &[String], on: &Path) -> Result<(), Error> {
    let options = Options::parse(words);
    let mounted = match options.bind {
        None if kind != "bind" => create(kind, source, &options, on),
        bind => open_tree(source, bind == Some(Bind::Recursive))
            .and_then(|tree| attach(&tree, &options, on)),
    };
    mounted.map_err(|errno| at("mount", format!("{kind} {source} on {}", on.display()))(errno))
}

/// Mounts the directory `source` on another one, without the mounts below it, and with other owners: those of its files that are ids inside of the maps
/// are the ids outside that belong to them (mount_setattr(2), "ID-mapped mounts"). `words` are a bind's options.
///
/// # Errors
/// [`Error::Invalid`] for maps that the kernel would refuse; [`Error::System`], for instance of a file system that knows no such mounts.
pub fn mount_mapped(
    source: &str,
    uids: &[IdMapping],
    gids: &[IdMapping],
    words: &[String],
    on: &Path,
) -> Result<(), Error> {
    let maps = Maps::new(uids, gids, &|list| format!("{list}map"))?;
    let tree = idmap::open(source, false, false, &maps)?;
    attach(&tree, &Options::parse(words), on)
        .map_err(|errno| at("mount", format!("{source} on {}", on.display()))(errno))
}

/// Gives a mount that is attached nowhere (open_tree(2)) other owners, as [`mount_mapped`] does; `whole`: also those below it. `source` is its name in errors.
///
/// # Errors
/// Those of [`mount_mapped`].
pub fn map_owners(
    mount: BorrowedFd<'_>,
    source: &str,
    whole: bool,
    uids: &[IdMapping],
    gids: &[IdMapping],
) -> Result<(), Error> {
    let maps = Maps::new(uids, gids, &|list| format!("{list}Mappings"))?;
    idmap::map(mount, source, whole, &maps)
}

fn create(kind: &str, source: &str, options: &Options, on: &Path) -> Result<(), Errno> {
    let data = CString::new(options.data.as_str()).map_err(|_| Errno::INVAL)?;
    let data = (!options.data.is_empty()).then_some(data.as_c_str());
    mount::mount(source, on, kind, options.flags.mount(), data)
}

fn attach(tree: &OwnedFd, options: &Options, on: &Path) -> Result<(), Errno> {
    if let Some(attributes) = options.attributes() {
        sys::mount_setattr(tree.as_fd(), c"", false, &attributes)?;
    }
    move_mount(tree, "", CWD, on, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}
