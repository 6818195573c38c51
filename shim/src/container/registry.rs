//! All containers of this host, or of this user's directories.
//!
//! ```text
//! <data>/containers/<id>/     container.json   what it is made of
//!                             config.json      its OCI configuration; the directory is its bundle
//!                             state.json       what became of it; its keeper writes it as long as it lives
//!                             container.log*   what it wrote
//!                             network.json     what it has of a network, while it has one; hosts, hostname, resolv.conf are those of such a container
//!                             writable.ext4    its writable layer (vm), or upper/ and work/ (host)
//!                             rootfs/          where its root is mounted (host), in its keeper's mount namespace
//! <run>/containers/lock       held by whoever makes, starts, renames or removes one, and while leftovers are swept
//! <run>/containers/<id>/      keeper.sock
//! <run>/networks/             the network namespaces of those that have one
//! <run>/oci/                  the state of those that live, as the OCI lifecycle keeps it
//! ```
//!
//! A container appears in `<data>/containers` by one rename from `.new-<id>`, whose `lock` its maker holds, and goes by one to `.old-<id>`.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};

use super::{
    ContainerError, Definition, State, Status,
    files::{lock_file, make_directory, read_json, remove_directory, subdirectories, write_json},
    id::{check_name, new_id, short},
};
use crate::{
    cni::{self, Port, Record},
    lifecycle::{LifecycleError, StateRoot},
    settings::Settings,
};

/// A file that is there to be removed when there is no room.
const RESERVE: &str = ".reserve";
/// Its size: several times that of a state.
const RESERVE_SIZE: usize = 32 << 10;
/// How a container whose keeper was killed ended.
const KILLED: u8 = 137;

/// The containers.
#[derive(Debug, Clone)]
pub struct Registry {
    run: PathBuf,
    data: PathBuf,
    oci: PathBuf,
}

/// Keeps others from making, starting, renaming or removing containers until it is dropped.
#[derive(Debug)]
pub struct Guard {
    _lock: File,
}

/// A container that is being made. It is gone when this is dropped before [`Registry::publish`].
#[derive(Debug)]
pub struct Draft {
    /// Its id.
    pub id: String,
    directory: PathBuf,
    _lock: File,
}

/// A container's directories.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its id.
    pub id: String,
    run: PathBuf,
    data: PathBuf,
}

impl Registry {
    /// Opens it; the directories are made when they are not there.
    ///
    /// # Errors
    /// [`ContainerError::Io`].
    pub fn open(settings: &Settings) -> Result<Self, ContainerError> {
        let registry = Self {
            run: settings.run.join("containers"),
            data: settings.data.join("containers"),
            oci: settings.run.join("oci"),
        };
        make_directory(&registry.run)?;
        make_directory(&registry.data)?;
        Ok(registry)
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// [`ContainerError::Io`].
    pub fn guard(&self) -> Result<Guard, ContainerError> {
        let lock = lock_file(&self.run)?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| ContainerError::io("lock", &self.run)(error.into()))?;
        Ok(Guard { _lock: lock })
    }

    /// The OCI lifecycle's state of this registry's containers.
    #[must_use]
    pub fn lifecycle(&self) -> StateRoot {
        StateRoot::open(&self.oci)
    }

    /// Begins a container: a directory for its files.
    ///
    /// # Errors
    /// [`ContainerError`].
    pub fn draft(&self, guard: &Guard, name: Option<&str>) -> Result<Draft, ContainerError> {
        if let Some(name) = name {
            check_name(name)?;
            self.check_free(guard, name, None)?;
        }
        let id = new_id()?;
        let directory = self.data.join(format!(".new-{id}"));
        make_directory(&directory)?;
        let lock = lock_file(&directory)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| ContainerError::io("lock", &directory)(error.into()))?;
        Ok(Draft { id, directory, _lock: lock })
    }

    /// Lets a container appear.
    ///
    /// # Errors
    /// [`ContainerError`], with nothing left.
    pub fn publish(
        &self,
        guard: &Guard,
        draft: Draft,
        definition: &Definition,
    ) -> Result<Place, ContainerError> {
        self.check_free(guard, &definition.name, None)?;
        write_json(&draft.directory.join("container.json"), definition)?;
        write_json(&draft.directory.join("state.json"), &State::default())?;
        let place = self.place(&draft.id);
        let lock = draft.directory.join("lock");
        fs::remove_file(&lock).map_err(ContainerError::io("remove", &lock))?;
        fs::rename(&draft.directory, &place.data)
            .map_err(ContainerError::io("make", &place.data))?;
        Ok(place)
    }

    fn check_free(
        &self,
        _guard: &Guard,
        name: &str,
        but: Option<&str>,
    ) -> Result<(), ContainerError> {
        for place in self.places()? {
            // One that is damaged is to be removed; it keeps no name.
            let Ok(other) = place.definition() else { continue };
            if (other.name == name || other.id == name) && Some(other.id.as_str()) != but {
                return Err(ContainerError::NameTaken { name: name.into(), id: other.id });
            }
        }
        Ok(())
    }

    fn place(&self, id: &str) -> Place {
        Place { id: id.into(), run: self.run.join(id), data: self.data.join(id) }
    }

    /// All containers.
    ///
    /// # Errors
    /// [`ContainerError::Io`].
    pub fn places(&self) -> Result<Vec<Place>, ContainerError> {
        let found = subdirectories(&self.data)?;
        let ids = found.into_iter().map(|(name, _)| name).filter(|name| !name.starts_with('.'));
        Ok(ids
            .map(|id| self.place(&id))
            .filter(|place| place.file("container.json").exists())
            .collect())
    }

    /// The container that a name, an id or the start of one means.
    ///
    /// # Errors
    /// None, or several.
    pub fn find(&self, reference: &str) -> Result<Place, ContainerError> {
        let mut matches = Vec::new();
        for place in self.places()? {
            if place.id == reference {
                return Ok(place);
            }
            match place.definition() {
                Ok(definition) if definition.name == reference => return Ok(place),
                // A container that is removed just now, or that is damaged, is found by its id only.
                _ if !reference.is_empty() && place.id.starts_with(reference) => {
                    matches.push(place)
                }
                _ => {}
            }
        }
        match matches.len() {
            0 => Err(ContainerError::NotFound(reference.into())),
            1 => Ok(matches.remove(0)),
            _ => Err(ContainerError::Ambiguous(reference.into())),
        }
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// [`ContainerError`].
    pub fn rename(&self, guard: &Guard, place: &Place, name: &str) -> Result<(), ContainerError> {
        check_name(name)?;
        self.check_free(guard, name, Some(&place.id))?;
        let definition = Definition { name: name.into(), ..place.definition()? };
        write_json(&place.file("container.json"), &definition)
    }

    /// Puts right what killed processes left: containers whose keeper is gone have ended, those that were never finished go. Returns what could not be
    /// put right, a line for each container.
    ///
    /// # Errors
    /// [`ContainerError::Io`].
    pub fn sweep(&self, guard: &Guard) -> Result<Vec<String>, ContainerError> {
        for (name, path) in subdirectories(&self.data)? {
            let unfinished = name.starts_with(".new-")
                && lock_file(&path).is_ok_and(|lock| {
                    flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
                });
            if unfinished || name.starts_with(".old-") {
                remove_directory(&path)?;
            }
        }
        for (name, path) in subdirectories(&self.run)? {
            if !self.data.join(name).exists() {
                remove_directory(&path)?;
            }
        }
        let mut trouble = Vec::new();
        for place in self.places()? {
            if let Err(error) = self.settle(guard, &place) {
                trouble.push(error.to_string());
            }
        }
        Ok(trouble)
    }

    /// If the container's keeper was killed: ends what is left of the container and says so in its state.
    ///
    /// # Errors
    /// [`ContainerError`].
    pub fn settle(&self, guard: &Guard, place: &Place) -> Result<State, ContainerError> {
        let state = place.state()?;
        if state.status == Status::Created {
            let maker = place.definition()?.maker;
            // One whose network could not be given back stays for whoever can do it.
            if maker.is_some_and(|maker| !maker.is_alive()) && state.error.is_none() {
                self.remove(guard, place)?;
            }
            return Ok(state);
        }
        if !state.is_active() || state.is_kept() {
            return Ok(state);
        }
        let left = match self.clear(&place.id) {
            Err(error @ ContainerError::Network { .. }) => Some(error),
            cleared => cleared.map(|()| None)?,
        };
        let definition = place.definition()?;
        let ran = state.status == Status::Running;
        if left.is_none() && (definition.auto_remove || (!ran && definition.maker.is_some())) {
            self.remove(guard, place)?;
        }
        let why = |text: &str| match &left {
            None => text.to_owned(),
            Some(error) => format!("{text}; {error}"),
        };
        let settled = match ran {
            true => State {
                status: Status::Exited,
                exit_code: Some(KILLED),
                error: Some(why("its keeper was killed, and the container with it")),
                finished: Some(Timestamp::now()),
                keeper: None,
                pid: None,
                ..state
            },
            false => State {
                status: if state.finished.is_some() { Status::Exited } else { Status::Created },
                error: Some(why("its keeper was killed before its program ran")),
                keeper: None,
                pid: None,
                ..state
            },
        };
        if place.data.exists() {
            place.write_state(&settled)?;
        }
        Ok(settled)
    }

    /// Ends and removes what the OCI lifecycle has of a container, and then gives back what it has of its network.
    ///
    /// # Errors
    /// [`ContainerError::Remains`], or [`ContainerError::Network`] when only that could not be done.
    pub fn clear(&self, id: &str) -> Result<(), ContainerError> {
        let root = self.lifecycle();
        let cleared = match root.get(id) {
            Ok(container) => container.delete(true).map(drop),
            Err(LifecycleError::Damaged { .. }) => root.discard(id).map(drop),
            Err(error) => Err(error),
        };
        match cleared {
            Ok(()) | Err(LifecycleError::NotFound) => {}
            Err(error) => {
                return Err(ContainerError::Remains { id: id.into(), reason: error.to_string() });
            }
        }
        cni::detach(&self.data.join(id)).map_err(|source| ContainerError::Network {
            id: short(id).into(),
            source: source.into(),
        })
    }

    /// Forgets a container's network, whose plugins do not take back what they gave.
    ///
    /// # Errors
    /// [`ContainerError::Network`].
    pub fn abandon_network(&self, id: &str) -> Result<(), ContainerError> {
        cni::abandon(&self.data.join(id), &self.namespace(id)).map_err(|source| {
            ContainerError::Network { id: short(id).into(), source: source.into() }
        })
    }

    /// The directory of the state of running containers, by a name that means the same for other processes.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        let run = self.run.parent().unwrap_or(&self.run);
        fs::canonicalize(run).unwrap_or_else(|_| absolute(run.into()))
    }

    /// Makes sure that what runs of a container can be reached from here.
    ///
    /// # Errors
    /// [`ContainerError::Elsewhere`]: it runs, and was started with another [`Registry::run`].
    pub fn check_reach(&self, place: &Place, state: &State) -> Result<(), ContainerError> {
        let Some(run) = state.run.as_ref().filter(|_| state.is_active()) else { return Ok(()) };
        let own = self.run();
        // One directory may have several names.
        let id = |path: &Path| fs::metadata(path).ok().map(|data| (data.dev(), data.ino()));
        if *run == own || id(run).is_some_and(|found| Some(found) == id(&own)) {
            return Ok(());
        }
        Err(ContainerError::Elsewhere { id: short(&place.id).into(), run: run.clone() })
    }

    /// Where a container's network namespace is, while it has one.
    #[must_use]
    pub fn namespace(&self, id: &str) -> PathBuf {
        absolute(cni::path(self.run.parent().unwrap_or(&self.run), id))
    }

    /// Where a file of the container with this id is, or will be.
    #[must_use]
    pub fn file(&self, id: &str, name: &str) -> PathBuf {
        absolute(self.data.join(id).join(name))
    }

    /// The name of another container that publishes this port now.
    #[must_use]
    pub fn publisher(&self, _guard: &Guard, port: &Port, but: &str) -> Option<String> {
        let others = self.places().unwrap_or_default().into_iter().filter(|place| place.id != but);
        let has = |place: &Place| matches!(Record::read(place.data()), Ok(Some(record)) if record.has(port));
        others.into_iter().find(has).map(|place| {
            place.definition().map_or_else(|_| place.id.clone(), |definition| definition.name)
        })
    }

    /// Removes a container that does not run.
    ///
    /// # Errors
    /// [`ContainerError::Io`].
    pub fn remove(&self, _guard: &Guard, place: &Place) -> Result<(), ContainerError> {
        let old = self.data.join(format!(".old-{}", place.id));
        match fs::rename(&place.data, &old) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(ContainerError::io("remove", &place.data)(error));
            }
            _ => {}
        }
        remove_directory(&place.run)?;
        remove_directory(&old)
    }
}

/// For others than this process, which may be in another directory.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

impl Draft {
    /// A file of the container that will be.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes its OCI configuration.
    ///
    /// # Errors
    /// [`ContainerError::Io`].
    pub fn write_config(&self, config: &impl serde::Serialize) -> Result<(), ContainerError> {
        write_json(&self.file("config.json"), config)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After it was published there is nothing of this name; what cannot be removed now is swept later.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Place {
    /// The directory that outlives the container's runs; also its bundle.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The directory of its keeper's socket, made if it is not there.
    ///
    /// # Errors
    /// [`ContainerError::Io`].
    pub fn run(&self) -> Result<&Path, ContainerError> {
        make_directory(&self.run)?;
        Ok(&self.run)
    }

    /// A file in [`Place::data`].
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.data.join(name)
    }

    /// What the container is made of.
    ///
    /// # Errors
    /// A file that is damaged or gone.
    pub fn definition(&self) -> Result<Definition, ContainerError> {
        read_json(&self.file("container.json"))?
            .ok_or_else(|| ContainerError::NotFound(self.id.clone()))
    }

    /// What became of it.
    ///
    /// # Errors
    /// A file that is damaged or gone.
    pub fn state(&self) -> Result<State, ContainerError> {
        read_json(&self.file("state.json"))?
            .ok_or_else(|| ContainerError::NotFound(self.id.clone()))
    }

    /// Writes down what became of it. Only its keeper may, or who holds the guard while it has none.
    ///
    /// # Errors
    /// [`ContainerError::Io`].
    pub fn write_state(&self, state: &State) -> Result<(), ContainerError> {
        let path = self.file("state.json");
        write_json(&path, state).or_else(|error| {
            // On a disk that is full, perhaps of this container's log, how it ended must still find room.
            fs::remove_file(self.file(RESERVE)).map_err(|_| error)?;
            write_json(&path, state)
        })
    }

    /// Sets some room aside for [`Place::write_state`].
    ///
    /// # Errors
    /// A full disk, for one.
    pub fn reserve(&self) -> Result<(), ContainerError> {
        let path = self.file(RESERVE);
        fs::write(&path, [0; RESERVE_SIZE]).map_err(ContainerError::io("write", &path))
    }

    /// Its OCI configuration.
    ///
    /// # Errors
    /// A file that is damaged or gone.
    pub fn config(&self) -> Result<serde_json::Value, ContainerError> {
        read_json(&self.file("config.json"))?
            .ok_or_else(|| ContainerError::NotFound(self.id.clone()))
    }
}
