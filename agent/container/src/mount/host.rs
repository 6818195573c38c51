//! A mount on the host, as mount(8) would make it: for whoever prepares a container's root before there is a container.

use std::{ffi::CString, os::fd::AsFd, path::Path};

use rustix::{
    fs::CWD,
    io::Errno,
    mount::{self, MoveMountFlags, move_mount},
};

use super::{
    make::open_tree,
    options::{Bind, Options},
};
use crate::{
    error::{Error, at},
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
        bind => attach(source, bind == Some(Bind::Recursive), &options, on),
    };
    mounted.map_err(|errno| at("mount", format!("{kind} {source} on {}", on.display()))(errno))
}

fn create(kind: &str, source: &str, options: &Options, on: &Path) -> Result<(), Errno> {
    let data = CString::new(options.data.as_str()).map_err(|_| Errno::INVAL)?;
    let data = (!options.data.is_empty()).then_some(data.as_c_str());
    mount::mount(source, on, kind, options.flags.mount(), data)
}

fn attach(source: &str, recursive: bool, options: &Options, on: &Path) -> Result<(), Errno> {
    let tree = open_tree(source, recursive)?;
    if let Some(attributes) = options.attributes() {
        sys::mount_setattr(tree.as_fd(), c"", false, &attributes)?;
    }
    move_mount(&tree, "", CWD, on, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}
