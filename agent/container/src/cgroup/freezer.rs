//! Stops all processes of a group and lets them go on: the freezer controller of version 1
//! (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst), `cgroup.freeze` of version 2.

use std::{
    os::fd::{AsFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::OFlags,
    io::Errno,
};

use super::{
    directory::{Directory, read, row, table},
    group::Cgroup,
};
use crate::error::{Error, at};

/// How long the processes may take to stop: one in an uninterruptible wait stops after it.
const PATIENCE: Duration = Duration::from_secs(10);
/// In version 1, a group that gets new processes all the time may never be quite frozen: it is let go now and then.
const TRIES_IN_A_ROW: u32 = 50;

impl Cgroup {
    /// Stops every process. They stay stopped, and so do those who join, until [`Cgroup::thaw`].
    ///
    /// # Errors
    /// [`Error::State`] when they do not stop within 10 seconds, and they go on then; [`Error::System`].
    pub fn freeze(&self) -> Result<(), Error> {
        let result = match (self.directory("freezer"), self.directory("")) {
            (Some(dir), _) => freeze_v1(dir),
            (None, Some(dir)) => freeze_v2(dir),
            (None, None) => return Err(self.no_freezer()),
        };
        match result {
            Ok(()) => Ok(()),
            Err(errno) => {
                // Half frozen is what nobody wants.
                let _ = self.thaw();
                Err(match errno {
                    Errno::TIMEDOUT => {
                        Error::state(self.id(), "has processes that cannot be stopped now")
                    }
                    errno => at("freeze the processes of container", self.id())(errno),
                })
            }
        }
    }

    /// Lets the processes go on.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn thaw(&self) -> Result<(), Error> {
        match (self.directory("freezer"), self.directory("")) {
            (Some(dir), _) => dir.write("freezer.state", "THAWED"),
            (None, Some(dir)) => dir.write("cgroup.freeze", "0"),
            (None, None) => return Err(self.no_freezer()),
        }
        .map_err(at("thaw the processes of container", self.id()))
    }

    /// The group is frozen, or on its way. False without a freezer, and when the group is gone.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        match (self.directory("freezer"), self.directory("")) {
            (Some(dir), _) => dir.read("freezer.state").is_ok_and(|state| state.trim() != "THAWED"),
            (None, Some(dir)) => dir.number("cgroup.freeze") == Some(1),
            (None, None) => false,
        }
    }

    fn no_freezer(&self) -> Error {
        Error::state(self.id(), "cannot be paused: this system has no cgroup freezer")
    }
}

fn freeze_v1(dir: &Directory) -> Result<(), Errno> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for _ in 0..TRIES_IN_A_ROW {
            // Written again, it takes in processes that came about since.
            dir.write("freezer.state", "FROZEN")?;
            if dir.read("freezer.state")?.trim() == "FROZEN" {
                return Ok(());
            }
            thread::sleep(Duration::from_micros(100));
        }
        if Instant::now() >= deadline {
            return Err(Errno::TIMEDOUT);
        }
        dir.write("freezer.state", "THAWED")?;
        thread::sleep(Duration::from_millis(10));
    }
}

fn freeze_v2(dir: &Directory) -> Result<(), Errno> {
    let events = dir.file("cgroup.events", OFlags::RDONLY)?;
    dir.write("cgroup.freeze", "1")?;
    let deadline = Instant::now() + PATIENCE;
    while !is_frozen(&events)? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::TIMEDOUT);
        }
        let left = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        let changed = PollFd::new(&events, PollFlags::PRI);
        match rustix::event::poll(&mut [changed], Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn is_frozen(events: &OwnedFd) -> Result<bool, Errno> {
    rustix::fs::seek(events, rustix::fs::SeekFrom::Start(0))?;
    let text = read(events.as_fd())?;
    let table = table(&text);
    Ok(row(&table, "frozen") == 1)
}
