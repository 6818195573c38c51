//! The directories of a running bench: bundles and the image's root below the data directory, the runtimes' state below the run directory. They go with it;
//! what a killed bench left, the next one removes.

use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use bulkhead_rootfs::{Image, Store};
use rustix::{
    fs::{FlockOperation, flock},
    mount::{UnmountFlags, unmount},
    process::Pid,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{BenchError, process};
use crate::{
    commands::create::resolve_user,
    container::{
        root,
        spec::{self, Wishes},
    },
    settings::{Isolation, Settings},
};

/// What the names of its directories begin with.
const PREFIX: &str = "bench-";
/// The file that is locked as long as the bench lives.
const LOCK: &str = "lock";
/// The file with the runtimes that were used.
const RUNTIMES: &str = "runtimes.json";
/// Where the stamp's program is in the root.
const STAMP: &str = ".bulkhead-stamp";
/// The last version of the specification that crun 1.8 and runc 1.1 know.
const SPEC_VERSION: &str = "1.0.2";
/// How long removing a container may take that nobody wants.
const REMOVAL: Duration = Duration::from_secs(30);

/// The command line of a runtime up to its verb.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remover {
    /// The program.
    pub program: PathBuf,
    /// What stands before the verb.
    pub arguments: Vec<String>,
    /// The directory in which it keeps state: an entry for each container.
    pub root: PathBuf,
}

/// The directories. Dropping this removes all containers of these runtimes and the directories.
#[derive(Debug)]
pub struct Work {
    /// Bundles and roots.
    data: PathBuf,
    /// State of runtimes.
    run: PathBuf,
    removers: Vec<Remover>,
    _lock: File,
}

impl Work {
    /// Makes them, and removes those of benches that were killed.
    ///
    /// # Errors
    /// The host refuses.
    pub fn new(settings: &Settings) -> Result<Self, BenchError> {
        for parent in [&settings.data, &settings.run] {
            make(parent)?;
        }
        sweep(&settings.data, &settings.run);
        let name = format!("{PREFIX}{}", std::process::id());
        let (data, run) = (settings.data.join(&name), settings.run.join(&name));
        for path in [&data, &run] {
            make(path)?;
        }
        let lock = File::create(data.join(LOCK)).map_err(BenchError::host("make a lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(BenchError::host("lock the bench's directory"))?;
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        Ok(Self { data: absolute(data), run: absolute(run), removers: Vec::new(), _lock: lock })
    }

    /// A path among the files.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.data.join(name)
    }

    /// The state directory for a runtime of this name.
    #[must_use]
    pub fn state(&self, name: &str) -> PathBuf {
        self.run.join(name)
    }

    /// From now on the containers of this runtime are removed at the end.
    ///
    /// # Errors
    /// The host refuses.
    pub fn watch(&mut self, remover: Remover) -> Result<(), BenchError> {
        self.removers.push(remover);
        let text = serde_json::to_vec(&self.removers).map_err(std::io::Error::from);
        text.and_then(|text| fs::write(self.data.join(RUNTIMES), text))
            .map_err(BenchError::host("write the bench's files"))
    }

    /// Mounts the image where only this process, which must have one thread, and its children see it, with the stamp's program in it. Every container of
    /// the bench has this root.
    ///
    /// # Errors
    /// An image or host that cannot.
    pub fn mount(&self, image: &Image, store: &Store, stamp: &Path) -> Result<(), BenchError> {
        let rootfs = root::mount(image, store, &self.data)?;
        // The root of an image may be closed to its own user.
        let copied = fs::copy(stamp, rootfs.join(STAMP)).and_then(|_| {
            fs::set_permissions(rootfs.join(STAMP), fs::Permissions::from_mode(0o755))
        });
        copied.map_err(BenchError::host(format!("copy {} into the root", stamp.display())))
    }

    /// Makes the bundle of this name, whose container is in a cgroup of its own. `words` is what the stamp's program gets.
    ///
    /// # Errors
    /// An image that cannot be used, or a host that refuses.
    pub fn bundle(
        &self,
        name: &str,
        image: &Image,
        words: &[String],
    ) -> Result<PathBuf, BenchError> {
        let path = self.data.join(name);
        make(&path)?;
        let wishes = Wishes {
            entrypoint: Some(&format!("/{STAMP}")),
            command: words,
            user: resolve_user(image, None).map_err(Box::new)?,
            hostname: "bench",
            isolation: Isolation::Host,
            cgroup: &format!("/bulkhead-{PREFIX}{}-{name}", std::process::id()),
            ..Wishes::default()
        };
        let spec = spec::build(&image.config, &wishes)
            .and_then(|spec| Ok(serde_json::to_value(spec)?))
            .map_err(|error| Box::new(error.into()))?;
        let config = for_all(spec, &self.data.join(root::ROOTFS));
        fs::write(path.join("config.json"), config.to_string())
            .map_err(BenchError::host(format!("write {}/config.json", path.display())))?;
        Ok(path)
    }
}

/// What every runtime takes, and what runc's and crun's `spec` write: no filter of system calls, which would be loaded by some and
/// not by others.
fn for_all(mut spec: Value, rootfs: &Path) -> Value {
    spec["ociVersion"] = json!(SPEC_VERSION);
    spec["root"]["path"] = json!(rootfs);
    if let Some(linux) = spec.get_mut("linux").and_then(Value::as_object_mut) {
        linux.remove("seccomp");
    }
    spec
}

impl Drop for Work {
    fn drop(&mut self) {
        remove_containers(&self.removers);
        process::kill_rest();
        for name in [root::ROOTFS, "lower"] {
            // It may never have been mounted.
            let _ = unmount(self.data.join(name), UnmountFlags::DETACH);
        }
        // What cannot be removed now, the next bench removes.
        let _ = fs::remove_dir_all(&self.run);
        let _ = fs::remove_dir_all(&self.data);
    }
}

fn make(path: &Path) -> Result<(), BenchError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(BenchError::host(format!("make {}", path.display())))
}

fn remove_containers(removers: &[Remover]) {
    for remover in removers {
        let containers = fs::read_dir(&remover.root).into_iter().flatten();
        for id in containers.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
            let mut command = Command::new(&remover.program);
            command.args(&remover.arguments).args(["delete", "--force", &id]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let Ok(child) = command.spawn() else { continue };
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            // A second signal does not make it faster: the container goes, too.
            let _ = pid.map(|pid| process::wait_for(pid, REMOVAL));
        }
    }
}

/// Removes what benches left that were killed: nobody holds their locks.
fn sweep(data: &Path, run: &Path) {
    for entry in fs::read_dir(data).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let text = fs::read(entry.path().join(RUNTIMES)).unwrap_or_default();
        remove_containers(&serde_json::from_slice::<Vec<Remover>>(&text).unwrap_or_default());
        let _ = fs::remove_dir_all(run.join(&name));
        let _ = fs::remove_dir_all(entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_bench_is_swept_with_its_containers() {
        let dir = tempfile::tempdir().unwrap();
        let (data, run) = (dir.path().join("data"), dir.path().join("run"));
        for path in ["bench-1", "bench-2", "other"] {
            fs::create_dir_all(data.join(path)).unwrap();
            fs::create_dir_all(run.join(path).join("peer/box")).unwrap();
        }
        let remover = |name: &str| Remover {
            program: "sh".into(),
            arguments: vec!["-c".into(), format!("touch {}", dir.path().join(name).display())],
            root: run.join(name).join("peer"),
        };
        for name in ["bench-1", "bench-2"] {
            let text = serde_json::to_vec(&[remover(name)]).unwrap();
            fs::write(data.join(name).join(RUNTIMES), text).unwrap();
            fs::write(data.join(name).join(LOCK), "").unwrap();
        }
        let lock = File::open(data.join("bench-2").join(LOCK)).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        sweep(&data, &run);
        let gone = |path: &str| !data.join(path).exists() && !run.join(path).exists();
        assert!(gone("bench-1") && !gone("bench-2") && !gone("other"));
        assert!(dir.path().join("bench-1").exists() && !dir.path().join("bench-2").exists());
    }

    #[test]
    fn all_runtimes_can_read_the_specification() {
        let spec = json!({ "ociVersion": "1.2.0", "root": { "path": "rootfs" }, "linux": { "seccomp": {}, "x": 1 } });
        let expected =
            json!({ "ociVersion": "1.0.2", "root": { "path": "/r" }, "linux": { "x": 1 } });
        assert_eq!(for_all(spec, Path::new("/r")), expected);
    }
}
