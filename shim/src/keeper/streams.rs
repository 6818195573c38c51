//! The container's standard streams, and the keeper's ends of them.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    termios::{Winsize, tcsetwinsize},
};

use crate::logs::Stream;

/// The keeper's ends.
#[derive(Debug)]
pub(super) struct Streams {
    /// What is read from: standard output and standard error, or the terminal.
    pub(super) sources: Vec<Source>,
    /// What standard input is written to; the terminal's own is kept open by its source.
    pub(super) input: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

/// Something that the container writes to.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) stream: Stream,
    pub(super) fd: OwnedFd,
    /// Nothing will come from it any more.
    pub(super) ended: bool,
}

/// The container's ends, which become the standard streams of this process while the container is made.
#[derive(Debug)]
pub(super) struct Ends {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Streams {
    /// Pipes; with a terminal, the container's ends are nothing until [`Streams::set_terminal`].
    pub(super) fn make(terminal: bool, interactive: bool) -> io::Result<(Self, Ends)> {
        let nothing = || -> io::Result<OwnedFd> {
            Ok(File::options().read(true).write(true).open("/dev/null")?.into())
        };
        if terminal {
            let ends = Ends { stdin: nothing()?, stdout: nothing()?, stderr: nothing()? };
            return Ok((Self { sources: Vec::new(), input: None, terminal: None }, ends));
        }
        let (out, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (err, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stdin, input) = if interactive {
            let (stdin, input) = pipe_with(PipeFlags::CLOEXEC)?;
            do_not_block(&input)?;
            (stdin, Some(input))
        } else {
            (nothing()?, None)
        };
        for fd in [&out, &err] {
            do_not_block(fd)?;
        }
        let sources = vec![
            Source { stream: Stream::Stdout, fd: out, ended: false },
            Source { stream: Stream::Stderr, fd: err, ended: false },
        ];
        Ok((Self { sources, input, terminal: None }, Ends { stdin, stdout, stderr }))
    }

    /// Takes the master of the container's terminal.
    pub(super) fn set_terminal(&mut self, master: OwnedFd, interactive: bool) -> io::Result<()> {
        do_not_block(&master)?;
        if interactive {
            self.input = Some(master.try_clone()?);
        }
        self.terminal = Some(master.try_clone()?);
        self.sources = vec![Source { stream: Stream::Stdout, fd: master, ended: false }];
        Ok(())
    }

    /// Sets the size of the container's terminal, if it has one.
    pub(super) fn resize(&self, rows: u16, columns: u16) {
        if let Some(terminal) = &self.terminal {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            // The terminal may have ended with its program.
            let _ = tcsetwinsize(terminal, size);
        }
    }
}

impl Ends {
    /// Makes them this process's standard streams.
    pub(super) fn enter(self) -> io::Result<()> {
        rustix::stdio::dup2_stdin(&self.stdin)?;
        rustix::stdio::dup2_stdout(&self.stdout)?;
        rustix::stdio::dup2_stderr(&self.stderr)?;
        Ok(())
    }

    /// Makes nothing of this process's standard streams again, so that the container's end when the container does.
    pub(super) fn leave() -> io::Result<()> {
        let nothing = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&nothing)?;
        rustix::stdio::dup2_stdout(&nothing)?;
        rustix::stdio::dup2_stderr(&nothing)?;
        Ok(())
    }
}

pub(super) fn do_not_block(fd: impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(fd.as_fd())?;
    Ok(fcntl_setfl(fd.as_fd(), flags | OFlags::NONBLOCK)?)
}

/// What a read(2) of a container's stream came to.
pub(super) enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// Nothing any more.
    End,
}

/// Reads from a source.
pub(super) fn read(source: &Source, buffer: &mut [u8]) -> Read {
    match rustix::io::read(&source.fd, buffer) {
        Ok(0) => Read::End,
        Ok(length) => Read::Bytes(length),
        Err(Errno::AGAIN | Errno::INTR) => Read::Nothing,
        // A terminal that no process has open any more fails instead of ending.
        Err(_) => Read::End,
    }
}
