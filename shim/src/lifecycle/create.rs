//! The making of a container, step by step, so that a caller who is killed at any of them leaves what `delete` removes.

use std::{
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use bulkhead_container::{Target, spec::Hooks};

use super::{
    console,
    container::Container,
    directory::{CONFIG, Directory, STATE},
    error::{LifecycleError, at},
    pid_file,
    state::State,
    time,
};
use crate::sandbox::{self, Config, Create, Created, Isolation, Root, Spawned, Wish};

/// What a container is made of.
#[derive(Debug)]
pub struct CreateOptions<'a> {
    /// Its name.
    pub id: &'a str,
    /// Its bundle.
    pub bundle: &'a Path,
    /// Its configuration.
    pub config: &'a Config,
    /// What isolates it.
    pub isolation: Isolation,
    /// Where its root file system comes from.
    pub root: Root,
    /// A Unix socket that gets the master of its terminal; without it, the caller gets that.
    pub console_socket: Option<&'a Path>,
    /// A file that gets its process's number.
    pub pid_file: Option<&'a Path>,
    /// So many descriptors from 3 on go to its process.
    pub preserve_fds: u32,
    /// The root is entered without pivot_root(2).
    pub no_pivot: bool,
    /// Its process keeps the caller's session keyring.
    pub no_new_keyring: bool,
    /// `linux.cgroupsPath` has systemd's form.
    pub systemd_cgroup: bool,
    /// Whether its microVM is a clone, and of what.
    pub template: Wish<'a>,
    /// The reading end of a pipe whose other end is its owner's. When that is closed, nothing is made; a microVM ends when it closes later, and
    /// processes on the host's kernel do not.
    pub owner: Option<BorrowedFd<'a>>,
}

pub(super) fn create(
    root: &Path,
    options: &CreateOptions<'_>,
) -> Result<(Container, Spawned), LifecycleError> {
    let spec = options.config.spec();
    let bundle = absolute(options.bundle)?;
    let target = match options.isolation {
        Isolation::Host => Target::Host,
        Isolation::Vm => Target::Guest,
    };
    bulkhead_container::check(spec, target)?;
    let has = |pick: fn(&Hooks) -> bool| spec.hooks.as_ref().is_some_and(pick);
    let state = State {
        id: options.id.to_owned(),
        isolation: options.isolation,
        rootfs: bundle.join(spec.root.as_ref().map_or("", |root| &root.path)),
        bundle,
        created: time::now(),
        annotations: spec.annotations.clone(),
        cgroups_path: spec.linux.as_ref().and_then(|linux| linux.cgroups_path.clone()),
        poststart: has(|hooks| !hooks.poststart.is_empty()),
        poststop: has(|hooks| !hooks.poststop.is_empty()),
        sandbox: None,
    };
    let (directory, _guard) = Directory::claim(root, options.id)?;
    let written = directory
        .write(CONFIG, options.config.text().as_bytes())
        .and_then(|()| write(&directory, &state));
    let mut container = Container::new(directory, state);
    match written.and_then(|()| fill(&mut container, options)) {
        Ok(spawned) => Ok((container, spawned)),
        Err(error) => {
            // The first error is what matters; what cannot be removed now, `delete --force` finds.
            let _ = container.undo();
            Err(error)
        }
    }
}

fn fill(container: &mut Container, options: &CreateOptions<'_>) -> Result<Spawned, LifecycleError> {
    // Who removes what an owner that was killed has left does so under the lock that is held here: one that lives now finds all.
    if options.owner.is_some_and(sandbox::has_hung_up) {
        return Err(LifecycleError::Abandoned);
    }
    let made = sandbox::create(
        options.isolation,
        &Create {
            id: options.id,
            dir: container.directory().path(),
            bundle: container.bundle(),
            config: options.config,
            root: options.root.clone(),
            preserve_fds: options.preserve_fds,
            no_pivot: options.no_pivot,
            no_new_keyring: options.no_new_keyring,
            systemd_cgroup: options.systemd_cgroup,
            template: options.template,
            owner: options.owner,
        },
    )?;
    let Created { record, process, warnings } = made;
    container.set_warnings(warnings);
    container.set_sandbox(record);
    write(container.directory(), container.state_file())?;
    let mut spawned = process.commit()?;
    if let Some(socket) = options.console_socket
        && let Some(master) = spawned.master.take()
    {
        console::send(socket, &master)?;
    }
    if let Some(path) = options.pid_file {
        pid_file::write(path, spawned.pid)?;
    }
    Ok(spawned)
}

fn write(directory: &Directory, state: &State) -> Result<(), LifecycleError> {
    let path = || directory.path().join(STATE);
    let text = serde_json::to_vec(state).map_err(|error| {
        // Only a path that is not text cannot be written.
        at("write", path())(std::io::Error::other(error))
    })?;
    directory.replace(STATE, &text)
}

fn absolute(path: &Path) -> Result<PathBuf, LifecycleError> {
    std::fs::canonicalize(path).map_err(at("find the bundle", path))
}
