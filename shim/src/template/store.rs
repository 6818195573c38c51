//! All templates of a directory: found, made once however many ask at once, counted, removed.
//!
//! ```text
//! <directory>/<key>/         a template (see files)
//! <directory>/<key>.lock     held by its maker or remover, or by all who start clones of it
//! <directory>/<key>.failed   why it could not be made lately
//! <directory>/.new-<key>/    one that is being made; `.old-<key>`: one that goes; `.new-<key>.`…: a file of the above that is written
//! ```
//!
//! A template appears and goes by one rename. Whatever killed processes left is removed by the next that makes one.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Key, Metadata, Shape, TemplateError, Templates,
    files::{self, Flaw, Made},
    lock::Lock,
};
use crate::files::{NEW, replace};

/// How long the making of a template is not tried again after it failed.
const FAILED_FOR: Duration = Duration::from_secs(600);
/// How long a wait for another process may be before it is told of.
const SILENCE: Duration = Duration::from_secs(1);
/// The shortest and longest pauses between looks at a lock.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
const OLD: &str = ".old-";

/// The templates of a directory.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    max: usize,
}

/// A template that is not removed before this is dropped.
#[derive(Debug)]
pub struct Held {
    /// Its name.
    pub key: Key,
    /// The directory of its files.
    pub directory: PathBuf,
    /// What it is.
    pub metadata: Metadata,
    _lock: Lock,
}

impl Held {
    /// The processors' and devices' state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.join(files::STATE)
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> PathBuf {
        self.directory.join(files::MEMORY)
    }
}

/// A template as a list shows it.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub key: Key,
    /// What it is, or why it is of no use.
    pub metadata: Result<Metadata, String>,
    /// A start of now could use it: kernel, agent, VMM and host are still those that it was made with.
    pub current: bool,
    /// When it was used last.
    pub used: Option<Timestamp>,
    /// Bytes on the disk.
    pub disk: u64,
}

/// Why a template could not be made.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Failure {
    /// Seconds since 1970.
    at: u64,
    why: String,
}

impl Store {
    /// Opens it; the directory is made when it is not there.
    ///
    /// # Errors
    /// A directory that cannot be made, or that others may write.
    pub fn open(settings: &Templates) -> Result<Self, TemplateError> {
        let directory = std::path::absolute(&settings.directory)
            .map_err(TemplateError::io("find", &settings.directory))?;
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&directory);
        made.map_err(TemplateError::io("make", &directory))?;
        let found = fs::metadata(&directory).map_err(TemplateError::io("look at", &directory))?;
        files::own(&directory, &found, found.is_dir())?;
        Ok(Self { directory, max: usize::try_from(settings.max.get()).unwrap_or(usize::MAX) })
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.directory.join(key.as_str())
    }

    fn lock_path(&self, key: &Key) -> PathBuf {
        self.directory.join(format!("{key}.lock"))
    }

    fn failure_path(&self, key: &Key) -> PathBuf {
        self.directory.join(format!("{key}.failed"))
    }

    fn lock(&self, key: &Key, alone: bool) -> Result<Option<Lock>, TemplateError> {
        let path = self.lock_path(key);
        Lock::acquire(&path, alone).map_err(TemplateError::io("lock", &path))
    }

    /// The template of this shape: found, or made by `make` in a directory that is empty. `waiting` is called once when
    /// another process makes it and that takes a moment; it may take `patience`.
    ///
    /// # Errors
    /// [`TemplateError`]: there is none.
    pub(super) fn obtain(
        &self,
        shape: &Shape,
        patience: Duration,
        waiting: &mut dyn FnMut(),
        make: &mut dyn FnMut(&Path) -> Result<Made, TemplateError>,
    ) -> Result<Held, TemplateError> {
        let key = shape.key()?;
        let begun = Instant::now();
        let (mut pause, mut told) = (PAUSES.0, false);
        loop {
            if self.path(&key).exists() {
                if let Some(lock) = self.lock(&key, false)? {
                    match self.take(&key, lock)? {
                        Some(held) => return Ok(held),
                        None => continue,
                    }
                }
            } else if let Some(lock) = self.lock(&key, true)? {
                // Somebody may have made it, or failed to, just now.
                if !self.path(&key).exists() {
                    self.recently_failed(&key)?;
                    self.make(&key, shape, make)?;
                }
                drop(lock);
                continue;
            }
            let waited = begun.elapsed();
            if waited > patience {
                return Err(TemplateError::Waited(waited.as_secs()));
            }
            if waited > SILENCE && !told {
                told = true;
                waiting();
            }
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Uses what is there; `None` when it has just gone.
    fn take(&self, key: &Key, lock: Lock) -> Result<Option<Held>, TemplateError> {
        let directory = self.path(key);
        let looked = files::look(&directory, key)
            .and_then(|metadata| files::verify(&directory, &metadata).map(|()| metadata));
        match looked {
            Ok(metadata) => {
                files::touch(&directory);
                Ok(Some(Held { key: key.clone(), directory, metadata, _lock: lock }))
            }
            Err(Flaw::Missing) => Ok(None),
            Err(Flaw::Foreign(error)) => Err(error),
            Err(Flaw::Damaged(why)) => {
                drop(lock);
                self.discard(key);
                Err(TemplateError::Damaged { key: key.clone(), why })
            }
        }
    }

    /// Makes a template, under its lock.
    fn make(
        &self,
        key: &Key,
        shape: &Shape,
        make: &mut dyn FnMut(&Path) -> Result<Made, TemplateError>,
    ) -> Result<(), TemplateError> {
        self.sweep(Some(key));
        let draft = self.directory.join(format!("{NEW}{key}"));
        let made = DirBuilder::new().mode(0o700).create(&draft);
        let made = made.map_err(TemplateError::io("make", &draft)).and_then(|()| {
            let made = make(&draft)?;
            files::seal(&draft, key, shape, made)?;
            let path = self.path(key);
            fs::rename(&draft, &path).map_err(TemplateError::io("make", &path))?;
            // It is there; whether it outlasts a loss of power is not worth a failure.
            let _ = fs::File::open(&self.directory).and_then(|directory| directory.sync_all());
            Ok(())
        });
        if let Err(error) = made {
            // What cannot be removed now, the next maker removes.
            let _ = fs::remove_dir_all(&draft);
            if matches!(error, TemplateError::NoMemory(_)) {
                return Err(error);
            }
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let why = error.to_string();
            let why = why.strip_prefix("cannot make a template: ").unwrap_or(&why).to_owned();
            // Without the note the next start tries again.
            let _ = replace(&self.failure_path(key), &Failure { at, why });
            return Err(error);
        }
        let _ = fs::remove_file(self.failure_path(key));
        self.evict(key);
        Ok(())
    }

    fn recently_failed(&self, key: &Key) -> Result<(), TemplateError> {
        let Ok(failure) = files::read_json::<Failure>(&self.failure_path(key)) else {
            return Ok(());
        };
        let at = UNIX_EPOCH + Duration::from_secs(failure.at);
        match SystemTime::now().duration_since(at) {
            Ok(ago) if ago < FAILED_FOR => {
                Err(TemplateError::Failed { ago: ago.as_secs(), why: failure.why })
            }
            _ => Ok(()),
        }
    }

    /// Forgets that the making of a template failed.
    pub fn forgive(&self, key: &Key) {
        let _ = fs::remove_file(self.failure_path(key));
    }

    /// Removes a template that is of no use, unless somebody starts clones of it.
    pub(crate) fn discard(&self, key: &Key) {
        if let Ok(Some(lock)) = self.lock(key, true) {
            self.remove_under(key, lock);
        }
    }

    /// Removes a template, after the starts that use it.
    ///
    /// # Errors
    /// [`TemplateError::Waited`], or what could not be removed.
    pub fn remove(&self, key: &Key, patience: Duration) -> Result<(), TemplateError> {
        let begun = Instant::now();
        loop {
            if let Some(lock) = self.lock(key, true)? {
                self.remove_under(key, lock);
                let path = self.path(key);
                return match path.exists() {
                    true => Err(TemplateError::io("remove", &path)(io::Error::other("it stays"))),
                    false => Ok(()),
                };
            }
            if begun.elapsed() > patience {
                return Err(TemplateError::Waited(begun.elapsed().as_secs()));
            }
            thread::sleep(PAUSES.1);
        }
    }

    fn remove_under(&self, key: &Key, lock: Lock) {
        let old = self.directory.join(format!("{OLD}{key}"));
        let _ = fs::remove_dir_all(&old);
        // Half of a template is never seen.
        let _ = fs::rename(self.path(key), &old);
        let _ = fs::remove_dir_all(&old);
        self.forgive(key);
        lock.remove(&self.lock_path(key));
    }

    /// Removes what killed processes left. `own`: the caller holds the lock of this one.
    fn sweep(&self, own: Option<&Key>) {
        for (name, path) in self.names() {
            let rest = name.strip_prefix(NEW).or_else(|| name.strip_prefix(OLD));
            // A file has more of a name after its key.
            let key = rest.and_then(|rest| rest.split('.').next()).and_then(Key::parse);
            let Some(key) = key else { continue };
            let remove = || fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
            if own == Some(&key) {
                let _ = remove();
            } else if let Ok(Some(_lock)) = self.lock(&key, true) {
                let _ = remove();
            }
        }
    }

    /// Removes the least recently used ones beyond the limit, but not `but`, nor one that is in use.
    fn evict(&self, but: &Key) {
        let mut keys: Vec<_> =
            self.keys().into_iter().map(|key| (files::used(&self.path(&key)), key)).collect();
        keys.sort();
        let mut surplus = keys.len().saturating_sub(self.max);
        for (_, key) in keys {
            if surplus == 0 {
                return;
            }
            if key == *but {
                continue;
            }
            if let Ok(Some(lock)) = self.lock(&key, true) {
                self.remove_under(&key, lock);
                surplus -= 1;
            }
        }
    }

    fn names(&self) -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
            .collect()
    }

    fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<_> =
            self.names().iter().filter_map(|(name, _)| Key::parse(name)).collect();
        keys.sort();
        keys
    }

    /// All templates.
    #[must_use]
    pub fn list(&self) -> Vec<Entry> {
        let entry = |key: Key| {
            let path = self.path(&key);
            let metadata = match files::look(&path, &key) {
                Ok(metadata) => Ok(metadata),
                Err(Flaw::Missing) => return None,
                Err(Flaw::Damaged(why)) => Err(why),
                Err(Flaw::Foreign(error)) => Err(error.to_string()),
            };
            let current = metadata.as_ref().is_ok_and(|metadata| metadata.shape.is_current());
            let (used, disk) = (files::used(&path), files::disk_use(&path));
            Some(Entry { key, metadata, current, used, disk })
        };
        self.keys().into_iter().filter_map(entry).collect()
    }

    /// The template whose key begins so.
    ///
    /// # Errors
    /// [`TemplateError::Unknown`] or [`TemplateError::Ambiguous`].
    pub fn find(&self, beginning: &str) -> Result<Key, TemplateError> {
        let keys = self.keys().into_iter();
        let mut found = keys.filter(|key| key.as_str().starts_with(beginning));
        match (found.next(), found.next()) {
            (Some(key), None) if !beginning.is_empty() => Ok(key),
            (Some(_), Some(_)) => Err(TemplateError::Ambiguous(beginning.into())),
            _ => Err(TemplateError::Unknown(beginning.into())),
        }
    }

    /// Removes those that no start of now could use, what killed processes left, and the memory of failures; with `all`
    /// every template. Returns the keys of those that went.
    #[must_use]
    pub fn prune(&self, all: bool) -> Vec<Key> {
        self.sweep(None);
        let mut gone = Vec::new();
        for Entry { key, current, .. } in self.list() {
            if (all || !current)
                && let Ok(Some(lock)) = self.lock(&key, true)
            {
                self.remove_under(&key, lock);
                gone.push(key);
            }
        }
        for (name, path) in self.names() {
            let failed = name.strip_suffix(".failed").and_then(Key::parse);
            if failed.is_some() {
                let _ = fs::remove_file(&path);
            }
            let locked = name.strip_suffix(".lock").and_then(Key::parse);
            if let Some(key) = locked.filter(|key| !self.path(key).exists())
                && let Ok(Some(lock)) = self.lock(&key, true)
            {
                lock.remove(&path);
            }
        }
        gone
    }
}
