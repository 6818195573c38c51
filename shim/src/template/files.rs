//! A template's directory: what is in it, and whether that is what it should be.
//!
//! ```text
//! template.json   what it is, and the sums of the next two
//! state, memory   the machine, as the VMM wrote it
//! verified        on which boot of this host, and as which files, those two were last read and found whole
//! used            its modification time is that of the last use
//! ```

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use bulkhead_protocol::Ready;
use jiff::Timestamp;
use rustix::fs::{OFlags, Timespec, Timestamps, UTIME_NOW, futimens};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Key, Shape, TemplateError,
    checksum::{Sum, sum},
};
use crate::files::{NEW, replace, replace_durably};

pub(super) const STATE: &str = "state";
pub(super) const MEMORY: &str = "memory";
const METADATA: &str = "template.json";
const VERIFIED: &str = "verified";
const USED: &str = "used";
/// The longest of these JSON files.
const MAX_JSON: u64 = 64 << 10;
/// The longest file with a machine's state.
const MAX_STATE: u64 = 64 << 20;

/// The most that a file with a machine's memory has beyond it.
const MAX_MARK: u64 = 4096;

/// What `template.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    key: Key,
    /// What it is a template of.
    pub shape: Shape,
    /// What its agent keeps in memory: who knows it is a clone.
    pub nonce: String,
    /// What its agent said of itself when it had booted.
    pub ready: Ready,
    /// When it was made.
    pub made: Timestamp,
    /// How long its making took, in milliseconds.
    pub took_ms: u64,
    /// Guest-kernel instructions of its boot and preparation, where KVM counts them.
    pub instructions: u64,
    state: Sum,
    memory: Sum,
}

/// What the making of a template brought.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) nonce: String,
    pub(super) ready: Ready,
    pub(super) took_ms: u64,
    pub(super) instructions: u64,
}

/// Which files were read and found whole, and when.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Verified {
    boot: String,
    state: Stamp,
    memory: Stamp,
}

/// A file whose contents nobody can have changed in the ordinary way.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// Why a template cannot be used.
#[derive(Debug)]
pub(super) enum Flaw {
    /// It is not there.
    Missing,
    /// It is not what it should be; one line.
    Damaged(String),
    /// Somebody else could have written it.
    Foreign(TemplateError),
}

impl Flaw {
    fn damaged(what: &str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Damaged(format!("{what}: {error}"))
    }
}

/// Notes of what a draft holds, behind which it is complete and on the disk.
pub(super) fn seal(
    directory: &Path,
    key: &Key,
    shape: &Shape,
    made: Made,
) -> Result<(), TemplateError> {
    let read = |name: &str| {
        let path = directory.join(name);
        let file = File::open(&path).map_err(TemplateError::io("open", &path))?;
        let sum = sum(&file).map_err(TemplateError::io("read", &path))?;
        file.sync_all().map_err(TemplateError::io("write", &path))?;
        Ok::<_, TemplateError>((file, sum))
    };
    let (state_file, state) = read(STATE)?;
    let (memory_file, memory) = read(MEMORY)?;
    let Made { nonce, ready, took_ms, instructions } = made;
    let metadata = Metadata {
        key: key.clone(),
        shape: shape.clone(),
        nonce,
        ready,
        made: Timestamp::now(),
        took_ms,
        instructions,
        state,
        memory,
    };
    check_sizes(&metadata).map_err(TemplateError::Making)?;
    let path = directory.join(METADATA);
    replace_durably(&path, &metadata).map_err(TemplateError::io("write", &path))?;
    remember(directory, &state_file, &memory_file);
    touch(directory);
    let opened = File::open(directory).and_then(|directory| directory.sync_all());
    opened.map_err(TemplateError::io("write", directory))
}

/// Reads what a template says of itself, and looks whether its files are there and as long as they should be.
pub(super) fn look(directory: &Path, key: &Key) -> Result<Metadata, Flaw> {
    match fs::symlink_metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Flaw::Missing),
        Err(error) => return Err(Flaw::damaged("its directory")(error)),
        Ok(found) => own(directory, &found, found.is_dir()).map_err(Flaw::Foreign)?,
    }
    let metadata: Metadata = read_json(&directory.join(METADATA)).map_err(|error| {
        let error = match error.kind() {
            io::ErrorKind::NotFound => "it is not there".into(),
            _ => error.to_string(),
        };
        Flaw::Damaged(format!("{METADATA}: {error}"))
    })?;
    if metadata.key != *key || metadata.shape.key().ok().as_ref() != Some(key) {
        return Err(Flaw::Damaged(format!("{METADATA} is that of another machine")));
    }
    check_sizes(&metadata).map_err(Flaw::Damaged)?;
    for (name, sum) in [(STATE, &metadata.state), (MEMORY, &metadata.memory)] {
        let path = directory.join(name);
        let found = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Flaw::Damaged(format!("its {name} is not there")));
            }
            found => found.map_err(Flaw::damaged(name))?,
        };
        own(&path, &found, found.is_file()).map_err(Flaw::Foreign)?;
        if found.len() != sum.size {
            let length = found.len();
            let why = format!("its {name} has {length} bytes instead of {}", sum.size);
            return Err(Flaw::Damaged(why));
        }
    }
    Ok(metadata)
}

/// Reads all of the two files, unless that was done since the host booted, and compares their sums.
pub(super) fn verify(directory: &Path, metadata: &Metadata) -> Result<(), Flaw> {
    let open = |name: &str| {
        let mut options = File::options();
        let opened = options.read(true).custom_flags(libc::O_NOFOLLOW).open(directory.join(name));
        opened.map_err(Flaw::damaged(name))
    };
    let (state, memory) = (open(STATE)?, open(MEMORY)?);
    let now = verified(&state, &memory).map_err(Flaw::damaged(MEMORY))?;
    if read_json::<Verified>(&directory.join(VERIFIED)).is_ok_and(|known| known == now) {
        return Ok(());
    }
    for (name, file, wanted) in
        [(STATE, &state, metadata.state), (MEMORY, &memory, metadata.memory)]
    {
        if sum(file).map_err(Flaw::damaged(name))? != wanted {
            return Err(Flaw::Damaged(format!("its {name} has another checksum")));
        }
    }
    remember(directory, &state, &memory);
    Ok(())
}

/// Notes that both files are whole. Without the note the next one looks again.
fn remember(directory: &Path, state: &File, memory: &File) {
    if let Ok(verified) = verified(state, memory) {
        // What killed processes began to note.
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let begun = entries
            .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(NEW.as_bytes()));
        begun.for_each(|entry| drop(fs::remove_file(entry.path())));
        let _ = replace(&directory.join(VERIFIED), &verified);
    }
}

fn verified(state: &File, memory: &File) -> io::Result<Verified> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(Verified {
        boot: boot.trim_end().to_owned(),
        state: Stamp::of(state)?,
        memory: Stamp::of(memory)?,
    })
}

/// Notes a use.
pub(super) fn touch(directory: &Path) {
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).mode(0o600);
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    // A use that is not noted makes it go a little earlier.
    let _ = file
        .open(directory.join(USED))
        .map(|file| futimens(file, &Timestamps { last_access: now, last_modification: now }));
}

/// When it was last used.
pub(super) fn used(directory: &Path) -> Option<Timestamp> {
    let modified = fs::metadata(directory.join(USED)).and_then(|found| found.modified()).ok()?;
    Timestamp::try_from(modified).ok()
}

/// What it takes on the disk, in bytes.
pub(super) fn disk_use(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|found| found.blocks() * 512).sum()
}

/// A file or directory that nobody else could have written. `kind`: it is what it should be.
pub(super) fn own(path: &Path, found: &fs::Metadata, kind: bool) -> Result<(), TemplateError> {
    let uid = rustix::process::geteuid().as_raw();
    let why = match () {
        () if !kind => "it is something else than it should be".to_owned(),
        () if found.uid() != uid => format!("it belongs to user {} and not to {uid}", found.uid()),
        () if found.mode() & 0o022 != 0 => {
            format!("others may write it (mode {:o})", found.mode() & 0o777)
        }
        () => return Ok(()),
    };
    Err(TemplateError::Foreign { path: path.into(), why })
}

fn check_sizes(metadata: &Metadata) -> Result<(), String> {
    let (size, mib) = (metadata.memory.size, metadata.shape.memory_mib);
    // The VMM's mark is behind the memory.
    let beyond = mib.checked_mul(1 << 20).and_then(|memory| size.checked_sub(memory));
    if beyond.is_none_or(|beyond| beyond > MAX_MARK) {
        return Err(format!("its memory has {size} bytes and the machine {mib} MiB"));
    }
    if metadata.state.size > MAX_STATE {
        let size = metadata.state.size;
        return Err(format!("its state has {size} bytes, which is over the limit of {MAX_STATE}"));
    }
    Ok(())
}

/// Reads a JSON file of bounded size.
pub(super) fn read_json<T: DeserializeOwned>(path: &PathBuf) -> io::Result<T> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or(libc::O_NOFOLLOW);
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let mut text = Vec::new();
    file.take(MAX_JSON + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_JSON {
        return Err(io::Error::other(format!("it is longer than {MAX_JSON} bytes")));
    }
    Ok(serde_json::from_slice(&text)?)
}
