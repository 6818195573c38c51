//! A container whose scout follows orders, made with `bulkhead run` so that its image is a disk where it is one for everybody.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::steps::SHARE;
use crate::{
    bench::{BenchError, orders::Follower, talk::Talk},
    container::Registry,
    settings::{Isolation, Settings},
};

/// Where the scout's directory is in the container.
const PLACE: &str = "/.bulkhead";

/// A running container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) scout: Follower,
    child: Child,
    name: String,
    program: PathBuf,
}

/// What a container is made of.
#[derive(Debug)]
pub(super) struct Making<'a> {
    pub(super) settings: &'a Settings,
    pub(super) image: &'a str,
    /// The directory with the scout, as `scout`.
    pub(super) scout: &'a Path,
    /// The directory with one that is shared for each isolation.
    pub(super) share: &'a Path,
    /// The bench's own files.
    pub(super) files: &'a Path,
    pub(super) limit: Duration,
}

impl Container {
    /// Starts it.
    ///
    /// # Errors
    /// [`BenchError`].
    pub(super) fn start(making: &Making<'_>, isolation: Isolation) -> Result<Self, BenchError> {
        let name = format!("bench-io-{}-{isolation}", std::process::id());
        let program = std::env::current_exe().map_err(BenchError::host("find this program"))?;
        let errors = making.files.join(format!("errors-{isolation}"));
        let log = fs::File::create(&errors).map_err(BenchError::host("make a log"))?;
        let (talk, input, output) = Talk::new(isolation.name(), making.limit)?;
        let volume = |host: &Path, place: &str, mode: &str| {
            format!("--volume={}:{place}:{mode}", host.display())
        };
        // No step is to pay for what a clone takes over of its template when it first needs it.
        let own_boot: &[&str] = match isolation {
            Isolation::Vm => &["--template", "never"],
            Isolation::Host => &[],
        };
        let child = Command::new(&program)
            .args(["run", "--rm", "--interactive", "--name", &name])
            .args(["--isolation", isolation.name(), "--user", "0", "--workdir", "/"])
            .args(own_boot)
            .arg(volume(making.scout, PLACE, "ro"))
            .arg(volume(&making.share.join(isolation.name()), SHARE, "rw"))
            .args(["--entrypoint", &format!("{PLACE}/scout"), making.image, "io"])
            .stdin(input)
            .stdout(output)
            .stderr(log)
            // A terminal's Ctrl-C is for the bench to act on.
            .process_group(0)
            .spawn()
            .map_err(|source| BenchError::Program {
                what: "bulkhead".into(),
                path: program.clone(),
                source,
            })?;
        let pid = child.id().cast_signed();
        let scout = Follower { isolation, talk, pid, state: PathBuf::new(), errors };
        let mut container = Self { scout, child, name, program };
        // The first answer says that it runs.
        container.scout.greet()?;
        let registry = Registry::open(making.settings)?;
        let place = registry.find(&container.name)?;
        container.scout.state = registry.lifecycle().directory(&place.id);
        Ok(container)
    }

    /// Lets it end.
    ///
    /// # Errors
    /// It did not end well.
    pub(super) fn end(mut self) -> Result<(), BenchError> {
        self.scout.talk.close();
        let status = self.child.wait().map_err(BenchError::host("wait for bulkhead run"))?;
        if status.success() {
            Ok(())
        } else {
            Err(self.scout.invalid(format!("it ended with {status}")))
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // What cannot be removed so goes with its client, which has --rm.
        let mut command = Command::new(&self.program);
        command.args(["rm", "--force", &self.name]).stdin(Stdio::null());
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
