//! This program as another process: the one that makes a container, or joins it, and waits for it as conmon does.

use std::{
    fs,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::Path,
    process::ExitCode,
    thread,
};

use bulkhead::sandbox::{
    Config, Create, Exec, Isolation, MachineOptions, Root, Spawned, Wish, create, open,
};
use rustix::process::{WaitOptions, waitpid};
use serde_json::Value;

use crate::running::load;

/// The exit code of a helper whose call was refused; the reason is in `error`.
pub(crate) const REFUSED: u8 = 99;

/// Runs as a helper when the words say so.
pub(crate) fn run(words: &[String]) -> Option<ExitCode> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["helper-create", id, dir, bundle] => {
            Some(helper(Path::new(dir), || make(id, Path::new(dir), Path::new(bundle))))
        }
        ["helper-exec", dir, process] => Some(helper(Path::new(dir), || {
            let record = load(Path::new(dir));
            let process: Value = serde_json::from_str(process).unwrap();
            let exec = Exec { process: &process, preserve_fds: 0, cgroup: None };
            open(&record, Path::new(dir)).and_then(|sandbox| sandbox.exec(&exec))
        })),
        _ => None,
    }
}

fn make(id: &str, dir: &Path, bundle: &Path) -> Result<Spawned, bulkhead::sandbox::SandboxError> {
    let config = Config::read(&bundle.join("config.json"))?;
    let image = bundle.join("image.erofs");
    let mounts = fs::read(bundle.join("mounts.json"));
    let root = if let Ok(mounts) = mounts {
        Root::Mounts(serde_json::from_slice(&mounts).unwrap())
    } else if image.exists() {
        Root::Layers { image: vec![image], writable: None, machine: MachineOptions::default() }
    } else {
        Root::Bundle
    };
    let created = create(
        Isolation::Vm,
        &Create {
            id,
            dir,
            bundle,
            config: &config,
            root,
            preserve_fds: 0,
            no_pivot: false,
            no_new_keyring: false,
            systemd_cgroup: false,
            template: Wish::default(),
            owner: None,
        },
    )?;
    fs::write(dir.join("record.new"), serde_json::to_vec(&created.record).unwrap()).unwrap();
    fs::rename(dir.join("record.new"), dir.join("record")).unwrap();
    created.process.commit()
}

/// Waits for the process and ends with its code; a terminal is joined to the standard streams.
fn helper(
    dir: &Path,
    make: impl FnOnce() -> Result<Spawned, bulkhead::sandbox::SandboxError>,
) -> ExitCode {
    match make() {
        Ok(Spawned { pid, master }) => {
            let terminal = master.map(join);
            let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
            if let Some(terminal) = terminal {
                terminal.join().unwrap();
            }
            let code =
                status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap());
            ExitCode::from(u8::try_from(code).unwrap())
        }
        Err(error) => {
            fs::write(dir.join("error"), format!("{error:?}")).unwrap();
            ExitCode::from(REFUSED)
        }
    }
}

/// Copies between a terminal and the standard streams. A line `SIZE rows columns` on standard input sets its size.
fn join(master: OwnedFd) -> thread::JoinHandle<()> {
    let mut reader = fs::File::from(master.try_clone().unwrap());
    let mut writer = fs::File::from(master);
    thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let line = line.unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            if let ["SIZE", rows, columns] = words.as_slice() {
                let size = rustix::termios::Winsize {
                    ws_row: rows.parse().unwrap(),
                    ws_col: columns.parse().unwrap(),
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                };
                rustix::termios::tcsetwinsize(&writer, size).unwrap();
            } else {
                writer.write_all(format!("{line}\n").as_bytes()).unwrap();
            }
        }
    });
    thread::spawn(move || {
        let mut chunk = [0; 4096];
        // A terminal without its other side says EIO.
        while let Ok(length @ 1..) = reader.read(&mut chunk) {
            std::io::stdout().write_all(&chunk[..length]).unwrap();
            std::io::stdout().flush().unwrap();
        }
    })
}
