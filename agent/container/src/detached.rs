//! Containers that outlive their maker.

use std::os::fd::OwnedFd;

use crate::{
    builder::{Builder, Made},
    cgroup::Cgroup,
    container::Process,
    error::Error,
    launch::{Launched, Pending},
    mount::Root,
    procfs,
    record::Record,
    spec::Spec,
};

/// A new container whose first process waits. Unless [`Detached::commit`] is called, that ends with its maker.
#[derive(Debug)]
pub struct Detached {
    /// What other processes need to know of the container.
    pub record: Record,
    /// The first process, a child of this one.
    pub process: Process,
    /// The terminal's master, when it has one.
    pub console: Option<OwnedFd>,
    /// A line for each property that could not be had.
    pub warnings: Vec<String>,
    pending: Pending,
}

impl Builder<'_> {
    /// Makes a container up to the point where its first process waits to be started by any process
    /// ([`Record::start`]). `gate` is a listening socket of type `SOCK_SEQPACKET`, bound where the one who starts it will
    /// look. Runs `prestart` and `createRuntime` hooks in this process, `createContainer` and, when it is started,
    /// `startContainer` ones in the container's first one.
    ///
    /// # Errors
    /// All kinds of [`Error`]; nothing is left behind then.
    pub fn detached(
        self,
        id: &str,
        spec: &Spec,
        root: Root,
        gate: OwnedFd,
    ) -> Result<Detached, Error> {
        let Made { launched, facts, cgroup, warnings, .. } =
            self.make(id, spec, root, Some(gate))?;
        let Launched { process, pending, console } = launched;
        match procfs::born(process.pid()) {
            Ok(born) => {
                // One that was killed since has a start time that no later process has.
                let start_time = born.map_or(0, |born| born.start_time);
                let record = Record::new(id, process.pid(), start_time, facts, cgroup);
                Ok(Detached { record, process, console, warnings, pending })
            }
            Err(error) => {
                process.end();
                // The first error is what matters.
                let _ = cgroup.as_ref().map(Cgroup::remove);
                Err(error)
            }
        }
    }
}

impl Detached {
    /// Lets the first process live on without its maker. To be called when the record is where others find it.
    ///
    /// # Errors
    /// [`Error::System`] when the process has ended.
    pub fn commit(self) -> Result<(Process, Option<OwnedFd>), Error> {
        self.pending.commit()?;
        Ok((self.process, self.console))
    }
}
