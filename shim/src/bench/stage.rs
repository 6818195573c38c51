//! What a bench runs its containers on: an image's root, the directories, and the runtimes beside each other.

use std::{fs, path::PathBuf, time::Duration};

use bulkhead_rootfs::{Image, Store};
use rustix::mount::{UnmountFlags, unmount};

use super::{
    BenchError, host, process,
    report::Fact,
    runtime::{Kind, Runtime, Slot},
    work::Work,
};
use crate::{commands::create::find_image, settings::Settings};

/// The store, and the image of this name in it.
///
/// # Errors
/// [`BenchError`]: there is none.
pub fn image_of(settings: &Settings, name: &str) -> Result<(Store, Image), BenchError> {
    let store = Store::open(&settings.data).map_err(|error| Box::new(error.into()))?;
    let image = find_image(&store, name).map_err(Box::new)?;
    Ok((store, image))
}

/// What Bulkhead makes of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// A microVM that boots
    Cold,
    /// A microVM cloned of a template
    Clone,
    /// A plain container on this host's kernel
    Host,
}

/// Another runtime with runc's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// What it is called here.
    pub name: String,
    /// The program.
    pub path: PathBuf,
}

impl std::str::FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or("NAME=PATH is needed")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return Err(format!("{name:?}: a name has letters, digits, dots and dashes"));
        }
        if ["cold", "clone", "host"].contains(&name) {
            return Err(format!("{name:?} is a mode of bulkhead's own"));
        }
        let path = find_program(path).ok_or_else(|| format!("{path}: there is no such program"))?;
        Ok(Self { name: name.into(), path })
    }
}

/// A program by its path, or by its name in the PATH.
fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return std::path::absolute(name).ok().filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// The place where containers are measured.
#[derive(Debug)]
pub struct Stage {
    /// The image.
    pub image: Image,
    work: Work,
    limit: Duration,
    oci: PathBuf,
}

impl Stage {
    /// Makes it. This process must have one thread.
    ///
    /// # Errors
    /// No root, no image, or a host that cannot.
    pub fn open(image: &str, limit: Duration) -> Result<Self, BenchError> {
        if !rustix::process::geteuid().is_root() {
            let why = "a bench mounts its image and runs plain containers, too: it needs root";
            return Err(BenchError::Usage(why.into()));
        }
        let settings = Settings::load()?;
        let (stamp, oci) = (settings.stamp()?, runtime_program()?);
        let (store, image) = image_of(&settings, image)?;
        process::prepare()?;
        let work = Work::new(&settings)?;
        work.mount(&image, &store, &stamp)?;
        Ok(Self { image, work, limit, oci })
    }

    /// A place for one container at a time, whose program is the stamp's with these words.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn slot(&self, name: &str, words: &[String]) -> Result<Slot, BenchError> {
        let bundle = self.work.bundle(name, &self.image, words)?;
        Ok(Slot { bundle, id: format!("bench-{}-{name}", std::process::id()) })
    }

    /// A path among the bench's files, which go with it; the empty name is the directory, where the image's root is.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.work.file(name)
    }

    /// Bulkhead in one of its modes.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn own(&mut self, mode: Mode) -> Result<Runtime, BenchError> {
        let templates = self.work.file("templates");
        let (key, name, kind, words): (_, _, _, &[&str]) = match mode {
            Mode::Cold => {
                let words = &["--isolation", "vm", "--template", "never"];
                ("cold", "vm, cold", Kind::Cold, words)
            }
            Mode::Clone => {
                let kind = Kind::Clone { templates };
                ("clone", "vm, clone", kind, &["--isolation", "vm", "--template", "require"])
            }
            Mode::Host => ("host", "host", Kind::Plain, &["--isolation", "host"]),
        };
        self.runtime(key, name, kind, self.oci.clone(), words)
    }

    /// Another runtime.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn peer(&mut self, peer: &Peer) -> Result<Runtime, BenchError> {
        self.runtime(&peer.name, &peer.name, Kind::Plain, peer.path.clone(), &[])
    }

    fn runtime(
        &mut self,
        key: &str,
        name: &str,
        kind: Kind,
        program: PathBuf,
        words: &[&str],
    ) -> Result<Runtime, BenchError> {
        let root = self.work.state(key);
        let mut arguments: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        arguments.extend(["--root".into(), root.to_string_lossy().into_owned()]);
        let (key, name, limit) = (key.to_owned(), name.to_owned(), self.limit);
        let runtime = Runtime { key, name, kind, program, arguments, root, limit };
        self.work.watch(runtime.remover())?;
        Ok(runtime)
    }

    /// The programs that are measured.
    #[must_use]
    pub fn facts(&self, runtimes: &[Runtime]) -> Vec<Fact> {
        let mut facts = host::facts();
        facts.extend(runtimes.iter().map(|runtime| host::program(&runtime.key, &runtime.program)));
        let name = self.image.names.first().cloned().unwrap_or_else(|| self.image.id.to_string());
        let value = format!("{name} ({})", self.image.id);
        facts.push(Fact { key: "image".into(), name: "image".into(), value });
        facts
    }
}

/// `bulkhead-oci`, beside this program.
fn runtime_program() -> Result<PathBuf, BenchError> {
    let own = std::env::current_exe().map_err(BenchError::host("find this program's file"))?;
    let path = own.with_file_name("bulkhead-oci");
    match fs::metadata(&path) {
        Ok(_) => Ok(path),
        Err(source) => Err(BenchError::Program { what: "bulkhead's runtime".into(), path, source }),
    }
}

/// Hides the empty tree of cgroup v2 of a host that has version 1, too, from this process and its children: crun 1.8 refuses such a host. Returns whether
/// there was one. This process has mounts of its own already.
///
/// # Errors
/// The host refuses.
pub fn leave_hybrid() -> Result<bool, BenchError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo");
    let mounts = mounts.map_err(BenchError::host("read /proc/self/mountinfo"))?;
    if !mounts.contains(" - cgroup ") {
        return Ok(false);
    }
    let mut left = false;
    for line in mounts.lines().filter(|line| line.contains(" - cgroup2 ")) {
        let Some(place) = line.split(' ').nth(4) else { continue };
        unmount(place, UnmountFlags::DETACH)
            .map_err(BenchError::host(format!("unmount {place} for this bench only")))?;
        left = true;
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_peer_has_a_name_and_a_program() {
        let peer: Peer = "shell=sh".parse().unwrap();
        assert!(peer.name == "shell" && peer.path.ends_with("sh") && peer.path.is_absolute());
        assert_eq!("x=/bin/sh".parse::<Peer>().unwrap().path, Path::new("/bin/sh"));
        for (text, why) in [
            ("runc", "NAME=PATH"),
            ("=sh", "a name has"),
            ("../x=sh", "a name has"),
            (".x=sh", "a name has"),
            ("host=sh", "a mode"),
            ("x=/no/such/program", "no such program"),
            ("x=/", "no such program"),
        ] {
            let error = text.parse::<Peer>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
