//! A terminal of the host that stands for one of the guest: raw here, because the guest's cooks.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use bulkhead_protocol::WindowSize;
use rustix::{
    pty::OpenptFlags,
    termios::{OptionalActions, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize},
};
use serde_json::Value;

/// Makes a pair: the master, for who asked for a terminal, and the slave, for the process that stands for the container's.
///
/// # Errors
/// When the host has none to give.
pub(crate) fn open(process: &Value) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    let mut raw = tcgetattr(&slave)?;
    raw.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &raw)?;
    if let Some(WindowSize { rows, columns }) = first_size(process) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size)?;
    }
    Ok((master, slave))
}

/// `process.consoleSize`.
fn first_size(process: &Value) -> Option<WindowSize> {
    let of = |key: &str| {
        process.get("consoleSize")?.get(key)?.as_u64().and_then(|n| u16::try_from(n).ok())
    };
    Some(WindowSize { rows: of("height")?, columns: of("width")? })
}

/// The size of a terminal that has one.
pub(crate) fn size(terminal: impl AsFd) -> Option<WindowSize> {
    let size = tcgetwinsize(terminal).ok()?;
    (size.ws_row > 0 && size.ws_col > 0)
        .then_some(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_terminal_is_raw_and_has_its_first_size() {
        let (master, slave) = open(&json!({ "consoleSize": { "height": 7, "width": 9 } })).unwrap();
        assert_eq!(size(&slave), Some(WindowSize { rows: 7, columns: 9 }));
        rustix::io::write(&slave, b"a\nb").unwrap();
        let mut got = [0; 8];
        assert_eq!(rustix::io::read(&master, &mut got).unwrap(), 3);
        assert_eq!(&got[..3], b"a\nb");
        assert_eq!(size(open(&json!({})).unwrap().1), None);
    }
}
