//! The control socket: a Unix socket that several clients may connect to and send requests.

use std::{
    collections::HashMap,
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{
            fs::MetadataExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::io::Errno;

use super::{LineError, LineSocket, answer};
use crate::{
    api::{End, Request},
    machine::Machine,
    notices::Notices,
};

/// A request is much shorter.
const MAX_REQUEST: usize = 4096;
const MAX_CLIENTS: usize = 8;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Something is at its path.
    #[error(
        "the control socket {0} exists already; remove it when its machine is gone, or name another"
    )]
    Exists(PathBuf),
    /// It cannot be made.
    #[error("cannot listen at the control socket {path}")]
    Bind {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The listening socket; its path is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    /// Given up for a moment to turn a client away when there is no other descriptor to take it with: one that waits would keep the
    /// event loop awake.
    spare: Option<OwnedFd>,
    path: PathBuf,
    inode: Option<u64>,
}

/// The control socket and its clients.
pub struct Clients {
    listener: Listener,
    clients: HashMap<RawFd, LineSocket>,
    machine: Arc<Machine>,
    notices: Arc<Notices>,
}

impl Clients {
    /// Clients of this socket.
    #[must_use]
    pub fn new(listener: Listener, machine: Arc<Machine>, notices: Arc<Notices>) -> Self {
        Self { listener, clients: HashMap::new(), machine, notices }
    }

    fn accept(&mut self, ops: &mut EventOps<'_>) {
        let Some(stream) = self.listener.accept() else { return };
        if self.clients.len() >= MAX_CLIENTS {
            // Closed at once: its requests would wait for ever.
            return;
        }
        let socket = LineSocket::new(stream, MAX_REQUEST);
        if socket.set_nonblocking().is_ok()
            && ops.add(Events::new(&socket, socket.interest())).is_ok()
        {
            self.clients.insert(socket.as_raw_fd(), socket);
        }
    }

    fn serve(&mut self, fd: RawFd, events: EventSet) -> Result<EventSet, LineError> {
        let Some(socket) = self.clients.get_mut(&fd) else { return Err(LineError::Closed) };
        if events.contains(EventSet::OUT) {
            socket.flush()?;
        }
        if events.contains(EventSet::IN) {
            socket.fill()?;
        } else if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            return Err(LineError::Closed);
        }
        while let Some(request) = socket.next_message::<Request>()? {
            let answer = answer(&self.machine, request, socket);
            socket.send(&answer)?;
        }
        Ok(socket.interest())
    }
}

impl MutEventSubscriber for Clients {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let fd = events.fd();
        if fd == self.listener.socket.as_raw_fd() {
            return self.accept(ops);
        }
        let served = self.serve(fd, events.event_set());
        let kept = served.is_ok_and(|interest| ops.modify(Events::new_raw(fd, interest)).is_ok());
        if !kept {
            // Before the descriptor is closed and its number used again.
            let _ = ops.remove(Events::empty_raw(fd));
            self.clients.remove(&fd);
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(&self.listener.socket, EventSet::IN)) {
            self.notices.end(End::Failed(format!("cannot watch the control socket: {error}")));
        }
    }
}

impl Listener {
    /// Listens at `path`, for this user only.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let wrong = |source| ListenError::Bind { path: path.to_owned(), source };
        // SAFETY: umask only sets a number of the process, which has one thread that makes files now.
        let old = unsafe { libc::umask(0o177) };
        let bound = UnixListener::bind(path);
        // SAFETY: as above.
        unsafe { libc::umask(old) };
        let socket = bound.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::Exists(path.to_owned()),
            _ => wrong(source),
        })?;
        socket.set_nonblocking(true).map_err(wrong)?;
        let inode = fs::symlink_metadata(path).ok().map(|metadata| metadata.ino());
        let spare = socket.try_clone().ok().map(OwnedFd::from);
        Ok(Self { socket, spare, path: path.to_owned(), inode })
    }

    fn accept(&mut self) -> Option<UnixStream> {
        let accepted = self.socket.accept();
        let full = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
        if accepted.as_ref().is_err_and(|error| full.contains(&error.raw_os_error())) {
            self.spare = None;
            drop(self.socket.accept());
            self.spare = self.socket.try_clone().ok().map(OwnedFd::from);
        }
        accepted.ok().map(|(stream, _)| stream)
    }

    /// The directory of `path`.
    #[must_use]
    pub fn directory(path: &Path) -> &Path {
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// The socket's directory is at this path from now on.
    pub fn moved_to(&mut self, directory: &Path) {
        if let Some(name) = self.path.file_name() {
            self.path = directory.join(name);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let now = fs::symlink_metadata(&self.path).ok().map(|metadata| metadata.ino());
        if now.is_some() && now == self.inode {
            // It may have been removed meanwhile.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_socket_is_private_and_goes_with_its_machine() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Listener::bind(&path), Err(ListenError::Exists(_))));
        drop(listener);
        assert!(!path.exists());
    }
}
