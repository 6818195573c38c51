//! The VMM's jail: what is left of the host when the first instruction of a guest runs.
//!
//! Everything that the machine needs is open by then. [`enter`] puts the process into namespaces of its own (mounts, network, System V
//! IPC, host name), onto a root directory that holds the shares and the directory of the vsock sockets and nothing else, and takes its
//! capabilities away: all of them, or all but those of a file server when something is shared. There is no `/proc` and nothing can be written but
//! through the shares.
//!
//! It must be called while the process has one thread: threads keep the namespaces and capabilities that they began with.

mod mounts;
mod rights;

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
    thread::UnshareFlags,
};

use self::mounts::Root;
use crate::api::Share;

/// Descriptors that the machine needs besides those of the shares: two for each vsock connection, and those of its devices.
const OTHER_FILES: usize = 2500;
/// Directory in the jail in which each share has one.
const SHARES: &str = "shares";
/// Directory in the jail of the vsock device's sockets.
const VSOCK: &str = "vsock";
/// Directory in the jail of the control socket.
const CONTROL: &str = "control";

/// Why there is no jail.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// Namespaces cannot be made, and something is shared.
    #[error(
        "share {tag}: a file server needs a jail, and this process may not make one ({why}); run as root, or share nothing"
    )]
    Shares {
        /// The share.
        tag: String,
        /// What failed.
        why: String,
    },
    /// A thing to share.
    #[error("share {tag}: cannot share {path}")]
    Entry {
        /// The share.
        tag: String,
        /// The thing.
        path: PathBuf,
        /// Why.
        source: Errno,
    },
    /// A directory of sockets.
    #[error("cannot take {path} into the jail")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: Errno,
    },
    /// A step of the making.
    #[error("cannot make the jail: {0} failed")]
    Step(&'static str, #[source] Errno),
}

/// What the jail is to hold.
#[derive(Debug, Default)]
pub struct Contents<'a> {
    /// The shares.
    pub shares: &'a [Share],
    /// They may get entries later.
    pub exchange: bool,
    /// The directory of the vsock device's sockets.
    pub vsock: Option<&'a Path>,
    /// The directory of the control socket, in which the socket will be removed at the end.
    pub control: Option<&'a Path>,
}

/// The jail from inside.
#[derive(Debug, Default)]
pub struct Jail {
    /// The shares' directories, in their order; `O_PATH` descriptors.
    pub shares: Vec<OwnedFd>,
    /// Where the directory of the vsock device's sockets is now, if it moved.
    pub vsock: Option<PathBuf>,
    /// Where the control socket's directory is now, if it moved.
    pub control: Option<PathBuf>,
    /// How many descriptors each share may use.
    pub files: usize,
    /// Why there are no namespaces, where there are none.
    pub without: Option<String>,
}

/// Shuts the process in.
///
/// # Errors
/// [`JailError`]. Where namespaces cannot be made and nothing is shared there is none: [`Jail::without`] says why.
pub fn enter(contents: &Contents<'_>) -> Result<Jail, JailError> {
    // A share that is empty gives nothing of the host: it takes no rights.
    let served = contents.shares.iter().find(|share| !share.entries.is_empty());
    let jail = match own_namespaces() {
        Ok(Owner::Host) => shut_in(contents)?,
        Ok(Owner::User) => match served {
            Some(share) => {
                let why = "it is not root".to_owned();
                return Err(JailError::Shares { tag: share.tag.clone(), why });
            }
            None => shut_in(contents)?,
        },
        Err(why) => match contents.shares.first() {
            Some(share) => return Err(JailError::Shares { tag: share.tag.clone(), why }),
            None => Jail { without: Some(why), ..Jail::default() },
        },
    };
    let serves = served.is_some() || contents.exchange && !contents.shares.is_empty();
    rights::limit_resources(serves).map_err(step("prlimit"))?;
    rights::cut_capabilities(serves).map_err(step("capset"))?;
    let files = rights::open_files().saturating_sub(OTHER_FILES) / contents.shares.len().max(1);
    Ok(Jail { files, ..jail })
}

/// Whose user namespace the process is in.
enum Owner {
    /// That of the process that started it.
    Host,
    /// One of its own, in which it is the only user.
    User,
}

fn own_namespaces() -> Result<Owner, String> {
    let flags =
        UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    // SAFETY: file descriptors stay shared, and there is no other thread.
    if unsafe { rustix::thread::unshare_unsafe(flags) }.is_ok() {
        return Ok(Owner::Host);
    }
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    // SAFETY: as above.
    unsafe { rustix::thread::unshare_unsafe(flags | UnshareFlags::NEWUSER) }
        .map_err(|error| format!("user {}: unshare: {error}", uid.as_raw()))?;
    let map = |file: &str, text: String| {
        fs::write(file, text).map_err(|error: io::Error| format!("{file}: {error}"))
    };
    map("/proc/self/setgroups", "deny".to_owned())?;
    map("/proc/self/uid_map", format!("{0} {0} 1", uid.as_raw()))?;
    map("/proc/self/gid_map", format!("{0} {0} 1", gid.as_raw()))?;
    Ok(Owner::User)
}

fn shut_in(contents: &Contents<'_>) -> Result<Jail, JailError> {
    mounts::stop_propagation().map_err(step("mount"))?;
    let entries = contents.shares.iter().map(|share| share.entries.len() + 1).sum::<usize>();
    let root = Root::new(entries + 8).map_err(step("fsmount"))?;
    root.make_directory(SHARES).map_err(step("mkdir"))?;
    let mut shares = Vec::new();
    for share in contents.shares {
        let place = format!("{SHARES}/{}", share.tag);
        root.make_directory(&place).map_err(step("mkdir"))?;
        for entry in &share.entries {
            let access = if entry.read_only { mounts::Access::Read } else { mounts::Access::Write };
            // The owner has resolved the path: a link in it was put there since.
            let resolve = ResolveFlags::NO_SYMLINKS;
            let place = format!("{place}/{}", entry.name);
            root.bind(&entry.path, resolve, &place, access).map_err(|source| JailError::Entry {
                tag: share.tag.clone(),
                path: entry.path.clone(),
                source,
            })?;
        }
        shares.push(place);
    }
    let directory = |path: Option<&Path>, place: &'static str, access| {
        let Some(path) = path else { return Ok(None) };
        root.bind(path, ResolveFlags::empty(), place, access)
            .map_err(|source| JailError::Directory { path: path.to_owned(), source })?;
        Ok(Some(Path::new("/").join(place)))
    };
    // A socket can be connected to whatever the mount's access. The other files in its directory are not the machine's to write.
    let vsock = directory(contents.vsock, VSOCK, mounts::Access::Read)?;
    let control = directory(contents.control, CONTROL, mounts::Access::Write)?;
    root.enter().map_err(step("pivot_root"))?;
    let shares = shares
        .iter()
        .map(|place| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, place.as_str(), flags, Mode::empty())
        })
        .collect::<Result<_, _>>()
        .map_err(step("open"))?;
    Ok(Jail { shares, vsock, control, ..Jail::default() })
}

fn step(what: &'static str) -> impl Fn(Errno) -> JailError {
    move |source| JailError::Step(what, source)
}
