//! A process's terminal: its master, and what is copied between it and a client's pipes.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::{io::Errno, termios::Winsize};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::JoinHandle,
};

use crate::refusal::{Refusal, cannot};

/// Bytes that are copied at once, and that wait for a reader.
const CHUNK: usize = 16 << 10;

/// A terminal.
#[derive(Debug)]
pub(crate) struct Console {
    master: Arc<OwnedFd>,
    copying: Vec<JoinHandle<()>>,
}

impl Console {
    /// Joins it to the client's ends.
    ///
    /// # Errors
    /// A descriptor that cannot be waited for.
    pub(crate) fn join(
        master: OwnedFd,
        (stdin, stdout): (OwnedFd, OwnedFd),
    ) -> Result<Self, Refusal> {
        let master = Arc::new(master);
        let copying = [copy(&stdin, &*master), copy(&*master, &stdout)];
        let copying = copying.into_iter().collect::<Result<Vec<_>, _>>();
        Ok(Self { master, copying: copying.map_err(cannot("use a terminal"))? })
    }

    /// Sets its size.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Result<(), Refusal> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&*self.master, size).map_err(cannot("resize a terminal"))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.copying.iter().for_each(JoinHandle::abort);
    }
}

/// Copies until either side ends.
fn copy(from: impl AsFd, to: impl AsFd) -> io::Result<JoinHandle<()>> {
    let (from, to) = (Side::new(from)?, Side::new(to)?);
    Ok(tokio::spawn(async move {
        let mut chunk = vec![0; CHUNK];
        // The other side of a terminal that is closed says EIO; both are the end.
        while let Ok(length @ 1..) = from.read(&mut chunk).await {
            if to.write_all(chunk.get(..length).unwrap_or_default()).await.is_err() {
                return;
            }
        }
    }))
}

/// A descriptor that is never waited in. A file is always ready, and cannot be asked.
#[derive(Debug)]
enum Side {
    Waits(AsyncFd<OwnedFd>),
    Ready(OwnedFd),
}

impl Side {
    fn new(fd: impl AsFd) -> io::Result<Self> {
        let fd = fd.as_fd().try_clone_to_owned()?;
        rustix::io::ioctl_fionbio(&fd, true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        // SAFETY: the descriptor is the new object's own, and is closed with it.
        match unsafe { AsyncFd::register_with_interest(fd, interest) } {
            Ok(waits) => Ok(Self::Waits(waits)),
            Err(failed) => match failed.into_parts() {
                (fd, error) if Errno::from_io_error(&error) == Some(Errno::PERM) => {
                    Ok(Self::Ready(fd))
                }
                (_, error) => Err(error),
            },
        }
    }

    async fn read(&self, chunk: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Waits(fd) => {
                fd.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *chunk)?)).await
            }
            Self::Ready(fd) => Ok(rustix::io::read(fd, chunk)?),
        }
    }

    async fn write_all(&self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            let written = match self {
                Self::Waits(fd) => {
                    fd.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, rest)?)).await?
                }
                Self::Ready(fd) => rustix::io::write(fd, rest)?,
            };
            rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}
