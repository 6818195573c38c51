//! A program that takes a container's output (containerd, `runtime/v2/logging`): it has the two outputs as its descriptors 3 and 4, and
//! closes 5, or writes to it, when it is ready.

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe::{OpenOptions, Receiver},
    sync::oneshot,
    task::JoinHandle,
};

use super::output::Output;
use crate::{
    exits::{Exit, Exits},
    log,
    refusal::{Refusal, cannot},
};

/// How long it may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that are thrown away at once.
const CHUNK: usize = 16 << 10;
/// Descriptors below are the program's to be.
const ABOVE: RawFd = 16;

/// What is done when the program has ended and its container has not: nobody would read what that writes.
#[derive(Debug)]
pub(super) struct Unread(JoinHandle<()>);

impl Drop for Unread {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts the program that `url` names: `binary:///path?name=value&…`, where each name and value is an argument.
///
/// # Errors
/// It cannot be started, or is not ready in time.
pub(super) async fn start(
    url: &str,
    id: &str,
    namespace: &str,
    exits: &Arc<Exits>,
) -> Result<Output, Refusal> {
    let (program, arguments) = words(url)?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(cannot("make a pipe"));
    let ((out, stdout), (err, stderr), (ready, tell)) = (pipe()?, pipe()?, pipe()?);
    let kept = [&out, &err].map(OwnedFd::try_clone);
    let high =
        |fd: OwnedFd| rustix::io::fcntl_dupfd_cloexec(&fd, ABOVE).map_err(cannot("make a pipe"));
    let ends = [high(out)?, high(err)?, high(tell)?];
    let numbers = ends.each_ref().map(AsRawFd::as_raw_fd);
    let mut command = Command::new(&program);
    command
        .args(arguments)
        .env("CONTAINER_ID", id)
        .env("CONTAINER_NAMESPACE", namespace)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: the child makes only system calls; the descriptors are open in it and lie above those that it gets.
    unsafe { command.pre_exec(move || hand_over(numbers)) };
    // It ends by itself when the outputs do, and is then reaped with all others.
    let making = exits.making();
    let child = command.spawn().map_err(cannot(format_args!("start the logger {program}")))?;
    let ended = exits.of(child.id().cast_signed());
    drop((ends, making));
    let [out, err] = kept.map(|kept| kept.map_err(cannot("use a pipe")));
    let unread = Unread(tokio::spawn(throw_away(program.clone(), ended, [out?, err?])));
    let mut ready = Receiver::from_owned_fd(ready).map_err(cannot("use a pipe"))?;
    let mut byte = [0];
    match tokio::time::timeout(PATIENCE, ready.read(&mut byte)).await {
        Ok(Ok(_)) => Ok(Output {
            stdout: Some(stdout),
            stderr: Some(stderr),
            unread: Some(unread),
            ..Output::default()
        }),
        Ok(Err(error)) => Err(cannot(format_args!("hear the logger {program}"))(error)),
        Err(_) => Err(Refusal::failed(format!(
            "the logger {program} was not ready within {} s",
            PATIENCE.as_secs()
        ))),
    }
}

/// Reads what a program that has failed does not read any more, and says so the first time. One that ended well may have left another behind.
async fn throw_away(program: String, ended: oneshot::Receiver<Exit>, outputs: [OwnedFd; 2]) {
    let code = match ended.await {
        Ok(Exit { code, .. }) if code != 0 => code,
        _ => return std::future::pending().await,
    };
    let told = AtomicBool::new(false);
    let read = async |output: &OwnedFd| {
        // Opened anew: the mode of this one is also that of others'.
        let name = format!("/proc/self/fd/{}", output.as_raw_fd());
        let Ok(mut output) = OpenOptions::new().open_receiver(name) else { return };
        let mut chunk = vec![0; CHUNK];
        while let Ok(1..) = output.read(&mut chunk).await {
            if !told.swap(true, Ordering::Relaxed) {
                log::warn(format_args!(
                    "the logger {program} ended with code {code}; the container's output is lost"
                ));
            }
        }
    };
    tokio::join!(read(&outputs[0]), read(&outputs[1]));
}

/// Makes the three the descriptors 3, 4 and 5, which the program inherits.
fn hand_over(numbers: [RawFd; 3]) -> io::Result<()> {
    for (wanted, number) in (3..).zip(numbers) {
        // SAFETY: takes no pointers; what was open under the number is nobody's in the child.
        if unsafe { libc::dup2(number, wanted) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn words(url: &str) -> Result<(String, Vec<String>), Refusal> {
    let bad = || Refusal::invalid(format!("{url}: binary:///path?name=value is wanted"));
    let rest = url.strip_prefix("binary://").ok_or_else(bad)?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let program = plain(path).filter(|path| path.starts_with('/')).ok_or_else(bad)?;
    let mut arguments = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        arguments.push(plain(&name.replace('+', " ")).ok_or_else(bad)?);
        arguments.push(plain(&value.replace('+', " ")).ok_or_else(bad)?);
    }
    Ok((program, arguments))
}

/// Without the percent signs of a URL; none: it is not text then.
fn plain(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(plain).ok()
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::Write,
        os::unix::fs::PermissionsExt,
    };

    use super::*;

    #[test]
    fn words_are_the_urls() {
        let (program, arguments) = words("binary:///usr/bin/log?path=%2Ftmp%2Fa+b&flag").unwrap();
        assert_eq!(program, "/usr/bin/log");
        assert_eq!(arguments, ["path", "/tmp/a b", "flag", ""]);
        for bad in ["binary://log", "binary:///x%zz", "binary:///x%f"] {
            assert!(words(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_program_gets_both_outputs() {
        let dir = tempfile::tempdir().unwrap();
        let (program, log) = (dir.path().join("logger"), dir.path().join("log"));
        let script = format!(
            "#!/bin/sh\nexec 5>&-\n{{ cat <&3; cat <&4; echo $CONTAINER_NAMESPACE/$CONTAINER_ID; }} >{0}.new\nmv {0}.new {0}\n",
            log.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let url = format!("binary://{}", program.display());
        let exits = Arc::default();
        let output = start(&url, "c", "n", &exits).await.unwrap();
        File::from(output.stdout.unwrap()).write_all(b"out ").unwrap();
        File::from(output.stderr.unwrap()).write_all(b"err ").unwrap();
        while !log.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(fs::read_to_string(&log).unwrap(), "out err n/c\n");
        assert!(start("binary:///does/not/exist", "c", "n", &exits).await.is_err());
    }

    #[tokio::test]
    async fn nobody_waits_for_a_program_that_has_failed() {
        let (out, written) = io::pipe().unwrap();
        let (err, _written) = io::pipe().unwrap();
        let (tell, ended) = oneshot::channel();
        let reading = tokio::spawn(throw_away("logger".into(), ended, [out.into(), err.into()]));
        tell.send(Exit { code: 3, at: std::time::SystemTime::now() }).unwrap();
        // More than a pipe holds.
        let write = move || (&written).write_all(&vec![b'x'; 1 << 20]);
        tokio::task::spawn_blocking(write).await.unwrap().unwrap();
        reading.abort();
    }
}
