//! What a command must not leave behind: processes, state, writable layers, half-made files of the store.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// What a killed command's other half has to notice it and go.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fails when anything of a container is left of the host in `directory`, after some time to go.
#[track_caller]
pub(super) fn assert_none(directory: &Path) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let processes = processes(directory, OsStr::new(""));
        let files = files(directory);
        if processes.is_empty() && files.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "left behind: processes {:?}, files {files:?}",
            processes.iter().map(|pid| describe(*pid)).collect::<Vec<_>>()
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// The processes that were started with this host's settings and whose program's name ends so.
pub(super) fn processes(directory: &Path, program: &OsStr) -> Vec<u32> {
    let mark = [b"BULKHEAD_RUN=", directory.as_os_str().as_bytes()].concat();
    let pids = fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(|item| item.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let name = words.split(|byte| *byte == 0).next().unwrap_or_default();
        contains(&environment, &mark) && name.ends_with(program.as_bytes())
    })
    .collect()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn describe(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {}", String::from_utf8_lossy(&words).replace('\0', " "))
}

/// Files of containers in the state and the store, and files of the store that are not finished.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for part in ["run", "data/containers"] {
        found.extend(all_below(&directory.join(part)).into_iter().filter(|path| {
            let name = path.file_name().unwrap_or_default();
            let up = path.parent().and_then(Path::file_name).unwrap_or_default();
            // The directories, the lock that all commands share, and the promises to the dead stay.
            !path.is_dir() && name != "lock" && up != "admission"
                || path.parent().is_some_and(|up| up.ends_with("containers") && path.is_dir())
        }));
    }
    found.extend(all_below(&directory.join("data")).into_iter().filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("bench-")
            || name.starts_with(".tmp")
            || name.ends_with(".tmp")
            || name.ends_with(".part")
    }));
    found
}

fn all_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(path) = pending.pop() {
        for item in fs::read_dir(&path).into_iter().flatten().flatten() {
            if item.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(item.path());
            }
            found.push(item.path());
        }
    }
    found
}
