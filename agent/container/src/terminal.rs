//! Pseudo terminals, out of the container's own devpts (pts(4)).

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, Uid},
    mount::{MoveMountFlags, OpenTreeFlags},
    pty::OpenptFlags,
    termios::Winsize,
};

use crate::{
    error::{Error, at},
    path::{self, PointKind},
};

/// `DEVPTS_SUPER_MAGIC`, linux/magic.h.
const DEVPTS: i64 = 0x1cd1;
const PTMX: &str = "/dev/pts/ptmx";
const CONSOLE: &str = "/dev/console";

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// Sets the size of the terminal whose master this is.
///
/// # Errors
/// [`Error::System`].
pub fn resize(master: impl AsFd, size: Size) -> Result<(), Error> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(master, size).map_err(at("set the size of", "the terminal"))
}

/// Opens a terminal in the container that this process is in, makes it its controlling one and its standard streams, and
/// returns its master. `console`: it also becomes `/dev/console`.
pub(crate) fn open(uid: Uid, size: Option<Size>, console: bool) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS;
    let master = rustix::fs::openat2(CWD, PTMX, flags, Mode::empty(), resolve)
        .map_err(at("open a terminal (a mount of type devpts on /dev/pts is wanted):", PTMX))?;
    let stat = rustix::fs::fstatfs(&master).map_err(at("look at", PTMX))?;
    if stat.f_type != DEVPTS {
        return Err(Error::invalid(
            "process.terminal needs a devpts, but there is",
            PTMX,
            "another file",
        ));
    }
    rustix::pty::unlockpt(&master).map_err(at("unlock", "the terminal"))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)
        .map_err(at("open", "the terminal's other side"))?;
    if let Some(size) = size {
        resize(&master, size)?;
    }
    rustix::fs::fchown(&slave, Some(uid), None).map_err(at("give away", "the terminal"))?;
    if console {
        mount_console(&slave)?;
    }
    rustix::process::ioctl_tiocsctty(&slave).map_err(at("take", "the terminal"))?;
    rustix::stdio::dup2_stdin(&slave)
        .and_then(|()| rustix::stdio::dup2_stdout(&slave))
        .and_then(|()| rustix::stdio::dup2_stderr(&slave))
        .map_err(at("make standard streams of", "the terminal"))?;
    Ok(master)
}

fn mount_console(slave: &OwnedFd) -> Result<(), Error> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(slave, "", flags).map_err(at("open", "the terminal"))?;
    // Not through a link: the image may have one there.
    path::make(CONSOLE, PointKind::File).map_err(at("make", CONSOLE))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", CWD, CONSOLE, flags)
        .map_err(at("mount the terminal on", CONSOLE))
}
