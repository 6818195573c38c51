//! A command on a terminal of its own, as a user at a keyboard has it.

use std::{
    fs::File,
    io::Write,
    ops::{Deref, DerefMut},
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use super::running::Collected;

/// A command and the keyboard's side of its terminal. Dropping it closes the terminal and kills the command.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    master: Master,
    _slot: Option<File>,
}

/// The keyboard's and screen's side of a terminal.
#[derive(Debug)]
pub struct Master {
    file: File,
    screen: Arc<Collected>,
    seen: usize,
}

impl Master {
    /// Collects what comes to the screen from now on.
    pub(super) fn new(file: File) -> Self {
        let (screen, _) = Collected::reading(file.try_clone().expect("a descriptor can be copied"));
        Self { file, screen, seen: 0 }
    }

    /// Gives the terminal another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.file, size).expect("a terminal has a size");
    }

    /// Types.
    pub fn type_keys(&mut self, keys: &str) {
        self.file.write_all(keys.as_bytes()).expect("a terminal takes keys");
    }

    /// Waits until `text` is on the screen, after what was waited for before.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        self.seen = self.screen.wait_for(text, self.seen);
    }

    /// All that came to the screen.
    #[must_use]
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.bytes()).into_owned()
    }
}

impl Terminal {
    /// Starts a command that needs no processor of its own for a machine, or has one.
    #[must_use]
    pub fn of(command: &Command, rows: u16, columns: u16) -> Self {
        Self::start(command, rows, columns, None)
    }

    pub(super) fn start(command: &Command, rows: u16, columns: u16, slot: Option<File>) -> Self {
        let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("there are pseudo-terminals");
        grantpt(&main).and_then(|()| unlockpt(&main)).expect("the pseudo-terminal is ours");
        let name = ptsname(&main, Vec::new()).expect("a pseudo-terminal has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let side: OwnedFd =
            rustix::fs::open(name.as_c_str(), flags, Mode::empty()).expect("it can be opened");
        // setsid makes the terminal the command's own, so that closing it hangs the command up.
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        session.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let copy = || side.try_clone().expect("a descriptor can be copied");
        let child = session.stdin(copy()).stdout(copy()).stderr(copy()).spawn();
        let child = child.expect("setsid is installed");
        drop(session);
        drop(side);
        let terminal = Self { child, master: Master::new(File::from(main)), _slot: slot };
        terminal.resize(rows, columns);
        terminal
    }

    /// The command's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the command's end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(600);
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "it hangs:\n{}", self.screen());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Deref for Terminal {
    type Target = Master;

    fn deref(&self) -> &Master {
        &self.master
    }
}

impl DerefMut for Terminal {
    fn deref_mut(&mut self) -> &mut Master {
        &mut self.master
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
