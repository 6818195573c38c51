//! The commands' side: starts a keeper, or reaches one.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::fs::{Mode, OFlags};

use super::{
    KeeperError, SOCKET,
    frames::{Claimed, Failed, Frame, FromKeeper, Hello, ToKeeper},
};
use crate::{
    container::{Place, registry::Guard},
    settings::Settings,
};

/// A keeper that makes its container.
#[derive(Debug)]
pub struct Launched {
    /// The connection to it. What becomes of the start comes next.
    pub socket: UnixStream,
    /// Its pid.
    pub keeper: u32,
}

/// Starts a keeper for a container that has none. `guard` is held until the keeper has written its name into the container's state.
///
/// # Errors
/// A process or socket that cannot be made, or a keeper that ends at once; then the inner result says why.
pub fn launch(
    settings: &Settings,
    _guard: &Guard,
    place: &Place,
    hello: Hello,
) -> Result<Result<Launched, Failed>, KeeperError> {
    let (mut socket, theirs) = UnixStream::pair().map_err(KeeperError::io("make a socket"))?;
    ToKeeper::Hello(hello).send(&mut socket).map_err(KeeperError::io("be spoken to"))?;
    let mut command = Command::new(own_program());
    command.args(["keeper", &place.id]);
    settings.export(&mut command);
    command
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(KeeperError::io("be started"))?;
    drop(command);
    match FromKeeper::receive(&mut socket).map_err(KeeperError::io("be heard"))? {
        Some(FromKeeper::Claimed(Claimed { keeper })) => Ok(Ok(Launched { socket, keeper })),
        Some(FromKeeper::Failed(failed)) => Ok(Err(failed)),
        _ => {
            let message = "the container's keeper ended before it began".into();
            Ok(Err(Failed { code: 125, message }))
        }
    }
}

/// This program's file, also after it was replaced by a newer one.
pub(super) fn own_program() -> PathBuf {
    // Without /proc nothing works, and the error then names this path.
    let link = Path::new("/proc/self/exe");
    fs::read_link(link).ok().filter(|path| path.exists()).unwrap_or_else(|| link.into())
}

/// Attaches to a running keeper.
///
/// # Errors
/// No keeper listens.
pub fn connect(place: &Place, hello: Hello) -> io::Result<UnixStream> {
    let run = place.run().map_err(io::Error::other)?;
    let directory = open_directory(run)?;
    let mut socket = UnixStream::connect(socket_in(&directory))?;
    ToKeeper::Hello(hello).send(&mut socket)?;
    Ok(socket)
}

pub(super) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The socket's path by way of its open directory: an address has room for 107 bytes only.
pub(super) fn socket_in(directory: &OwnedFd) -> PathBuf {
    Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())).join(SOCKET)
}
