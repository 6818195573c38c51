//! The streams of a new process: the pipes or the terminal on its side, connections to the monitor on the other.

use std::{os::fd::OwnedFd, rc::Rc};

use bulkhead_container::Stdio as Ends;
use bulkhead_protocol::{STREAM_PORT, Stdio, Token};
use rustix::{
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};

use crate::{link::Link, relay::Relay};

/// Relays that begin once the process is there.
#[derive(Debug)]
pub(crate) enum Prepared {
    /// Between pipes and connections: the main one, and standard error's.
    Pipes([Option<Relay>; 2]),
    /// Between a terminal, which the process opens, and a connection.
    Terminal(Option<(OwnedFd, Token)>),
}

/// Opens connections, which are on their way while the process is made, and the process's ends.
///
/// # Errors
/// When the monitor cannot be reached or no pipe can be had.
pub(crate) fn prepare(
    link: &Link,
    stdio: &Stdio,
    terminal: bool,
) -> Result<(Ends, Prepared), Errno> {
    let connect = |token: Token| Ok::<_, Errno>((link.connect(STREAM_PORT)?, token));
    let main = stdio.main.map(connect).transpose()?;
    if terminal {
        return Ok((Ends::Terminal, Prepared::Terminal(main)));
    }
    let mut ends = [None, None, None];
    let mut relays = [None, None];
    if let Some((socket, token)) = main {
        let input = if stdio.stdin {
            let (reader, writer) = pipe()?;
            rustix::io::ioctl_fionbio(&writer, true)?;
            ends[0] = Some(reader);
            Some(Rc::new(writer))
        } else {
            None
        };
        relays[0] = Some(Relay::new(socket, token, input, Some(output(&mut ends[1])?)));
    }
    if let Some((socket, token)) = stdio.stderr.map(connect).transpose()? {
        relays[1] = Some(Relay::new(socket, token, None, Some(output(&mut ends[2])?)));
    }
    Ok((Ends::Files(ends), Prepared::Pipes(relays)))
}

/// A pipe that the process writes; returns the end that the agent reads.
fn output(end: &mut Option<OwnedFd>) -> Result<Rc<OwnedFd>, Errno> {
    let (reader, writer) = pipe()?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    *end = Some(writer);
    Ok(Rc::new(reader))
}

/// The process's end blocks, as programs expect; each end has its own mode.
fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    pipe_with(PipeFlags::CLOEXEC)
}
