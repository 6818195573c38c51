//! What a runtime must not leave behind: processes, mounts, cgroups, files of state.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

/// Everything of the test in `directory` with the mark `mark` in its cgroups' names, one line each; `root` is the runtime's.
pub(super) fn all(directory: &Path, mark: &str, root: &Path) -> Vec<String> {
    let mut found: Vec<String> =
        cgroups(mark).iter().map(|path| format!("cgroup {}", path.display())).collect();
    found.extend(mounts(directory).into_iter().map(|line| format!("mount {line}")));
    let mut processes = own_processes(directory, mark);
    processes.extend(processes_in_mounts(directory));
    processes.sort_unstable();
    processes.dedup();
    found.extend(processes.into_iter().map(|pid| format!("process {}", describe(pid))));
    found.extend(files(root).iter().map(|path| format!("file {}", path.display())));
    found
}

/// Cgroups, in all hierarchies, whose name has the mark.
pub(super) fn cgroups(mark: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(path) = pending.pop() {
        for item in fs::read_dir(&path).into_iter().flatten().flatten() {
            if item.file_type().is_ok_and(|kind| kind.is_dir()) {
                if item
                    .file_name()
                    .as_bytes()
                    .windows(mark.len())
                    .any(|part| part == mark.as_bytes())
                {
                    found.push(item.path());
                }
                pending.push(item.path());
            }
        }
    }
    found
}

/// Mounts of this process's namespace that have the directory in them.
fn mounts(directory: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let name = directory.display().to_string();
    text.lines().filter(|line| line.contains(&name)).map(str::to_owned).collect()
}

/// The test's own processes: those that were started with its settings or are in its cgroups. Only these may be killed: what
/// merely sees a mount of the test's may be anybody's.
pub(super) fn own_processes(directory: &Path, mark: &str) -> Vec<u32> {
    let setting = [b"BULKHEAD_TEST=", directory.as_os_str().as_bytes(), b"\0"].concat();
    let group = format!(":/{mark}-");
    all_pids()
        .filter(|pid| has(*pid, "environ", &setting) || has(*pid, "cgroup", group.as_bytes()))
        .filter(|pid| !is_zombie(*pid))
        .collect()
}

/// Processes that hold on to a mount of the test's in a mount namespace that is not this process's.
fn processes_in_mounts(directory: &Path) -> Vec<u32> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let (own, name) = (namespace(std::process::id()), directory.as_os_str().as_bytes());
    all_pids()
        .filter(|pid| namespace(*pid) != own && has(*pid, "mountinfo", name) && !is_zombie(*pid))
        .collect()
}

/// Every process but this one.
fn all_pids() -> impl Iterator<Item = u32> {
    let items = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = items.filter_map(|item| item.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id() && *pid != 1)
}

/// Whether a file of a process has these bytes.
fn has(pid: u32, file: &str, part: &[u8]) -> bool {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    bytes.windows(part.len()).any(|window| window == part)
}

/// Unmounts what is mounted in the test's directory in this process's namespace, the last mount first. False when something is
/// still mounted there: then nothing below may be removed, for it may be a file of the host's.
pub(super) fn unmount(directory: &Path) -> bool {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let points = text.lines().rev().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    for point in points.filter(|point| point.starts_with(directory)) {
        // What cannot be unmounted is reported with what is left.
        let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
    }
    mounts(directory).is_empty()
}

/// Ended, and waits for its parent to ask; also what is gone.
pub(super) fn is_zombie(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

fn describe(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {}", String::from_utf8_lossy(&words).replace('\0', " "))
}

/// Everything below the runtime's root but locks and empty directories that containers share.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        for item in fs::read_dir(&path).into_iter().flatten().flatten() {
            let path = item.path();
            let is_directory = item.file_type().is_ok_and(|kind| kind.is_dir());
            if is_directory {
                pending.push(path);
            } else if !path.file_name().is_some_and(|name| name.as_bytes().ends_with(b"lock")) {
                found.push(path);
            }
        }
    }
    found
}

/// Runtimes were seen to change it: with a container's `/dev/null` bound over it, or an owner given through a stream.
#[track_caller]
pub(super) fn assert_dev_null() {
    let null = fs::metadata("/dev/null").expect("/dev/null");
    let seen = (null.uid(), null.gid(), null.mode() & 0o7777, null.rdev());
    assert_eq!(seen, (0, 0, 0o666, rustix::fs::makedev(1, 3)), "the host's /dev/null was changed");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mount in this namespace shows in the mountinfo of every process of the host.
    #[test]
    fn a_mount_of_the_hosts_makes_no_process_the_tests_own() {
        let directory = tempfile::Builder::new().prefix("bulkhead-oci-").tempdir().unwrap();
        let mark = directory.path().file_name().unwrap().display().to_string();
        let point = directory.path().join("point");
        fs::create_dir(&point).unwrap();
        if rustix::mount::mount_bind(&point, &point).is_err() {
            eprintln!("SKIPPED: this test needs the right to mount");
            return;
        }
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .env("BULKHEAD_TEST", directory.path())
            .spawn()
            .unwrap();
        // The kernel lets whoever spawned it go on before it has the environment of its program.
        while fs::read(format!("/proc/{}/environ", child.id())).unwrap().is_empty() {
            std::thread::yield_now();
        }
        let (own, all) = (
            own_processes(directory.path(), &mark),
            all(directory.path(), &mark, &directory.path().join("root")),
        );
        unmount(directory.path());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(own, [child.id()]);
        assert_eq!(all.len(), 2, "the mount and the process: {all:?}");
        assert!(mounts(directory.path()).is_empty());
    }
}
