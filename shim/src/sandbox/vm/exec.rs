//! One more process in a container: a proxy, which is a child of the caller and stands for it. It copies the streams,
//! forwards signals and the terminal's size, and ends with the process's code; when it is killed, so is the process.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use bulkhead_protocol::ExitStatus;
use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};
use serde_json::Value;

use super::{
    SandboxError, Spawned,
    client::{Client, gone},
    create::{failed, refusal},
};
use crate::{
    monitor::{
        message::{Answer, Ask},
        process::{self, LOST},
        relay::{Relays, is_null},
        signals, terminal,
    },
    sandbox::config,
};

/// After the process's end, how long the guest may send nothing of what the process wrote.
const QUIET: Duration = Duration::from_secs(30);
/// How often it is looked whether all of that has come.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// Which of the standard streams are joined to the process's.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

/// Starts the process and waits until its program is executed.
pub(super) fn exec(mut client: Client, process: &Value) -> Result<Spawned, SandboxError> {
    // The agent would say the same, without the field's name.
    let _: bulkhead_container::spec::Process = config::from_value(process, "process")?;
    let mut process = process.clone();
    let has_terminal = process.get("terminal").and_then(Value::as_bool).unwrap_or(false);
    let (master, slave) = if has_terminal {
        let (master, slave) = terminal::open(&process).map_err(failed("make a terminal"))?;
        (Some(master), Some(slave))
    } else {
        (None, None)
    };
    if let Value::Object(process) = &mut process {
        // They are the host's.
        process.remove("apparmorProfile");
        process.remove("selinuxLabel");
    }
    let wanted = Wanted::here(has_terminal);
    let streams = [wanted.stdin, wanted.stdout, wanted.stderr];
    client.send(&Ask::Exec { process, streams }).map_err(gone)?;
    match client.answer().map_err(gone)? {
        Answer::Started => {}
        Answer::Failed(failure) => return Err(refusal(failure)),
        other => return Err(SandboxError::Failed(format!("the monitor answered {other:?}"))),
    }
    client.wait_for_ever().map_err(failed("wait for the monitor"))?;
    let streams = client.take_fds();
    let keep = process::numbers(streams.iter().map(AsFd::as_fd).chain([client.socket()]));
    let pid = process::fork(slave, &keep, move || {
        let mut proxy = Proxy { client, wanted, ended: None };
        proxy.run(streams).unwrap_or(LOST)
    })
    .map_err(failed("make the process's proxy"))?;
    Ok(Spawned { pid, master })
}

impl Wanted {
    fn here(terminal: bool) -> Self {
        use rustix::stdio::{stderr, stdin, stdout};
        if terminal {
            return Self { stdin: true, stdout: true, stderr: false };
        }
        Self { stdin: !is_null(stdin()), stdout: !is_null(stdout()), stderr: !is_null(stderr()) }
    }
}

struct Proxy {
    client: Client,
    wanted: Wanted,
    /// The exit code, and what was written by then.
    ended: Option<(u8, [u64; 2])>,
}

impl Proxy {
    fn run(&mut self, streams: Vec<OwnedFd>) -> io::Result<u8> {
        let mut relays = Relays::new()?;
        let mut streams = streams.into_iter().map(UnixStream::from);
        let has_main = self.wanted.stdin || self.wanted.stdout;
        if let Some(main) = has_main.then(|| streams.next()).flatten() {
            if self.wanted.stdin {
                relays.input(main.try_clone()?)?;
            }
            relays.output(0, main, rustix::stdio::stdout())?;
        }
        if let Some(error) = self.wanted.stderr.then(|| streams.next()).flatten() {
            relays.output(1, error, rustix::stdio::stderr())?;
        }
        let signals = signals::descriptor()?;
        loop {
            match self.ended {
                Some((code, written)) if relays.drained(written, QUIET) => return Ok(code),
                _ => {}
            }
            let ended = self.ended.is_some();
            let mut sources = [
                PollFd::from_borrowed_fd(relays.wake(), PollFlags::IN),
                PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.client.socket(), PollFlags::IN),
            ];
            // After the process's end the monitor has nothing more to say.
            let count = if ended { 2 } else { 3 };
            let sources = sources.get_mut(..count).unwrap_or_default();
            match poll(sources, ended.then_some(&LOOK)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let heard = sources.get(2).is_some_and(|source| !source.revents().is_empty());
            relays.clear();
            while let Some(signal) = signals::next(&signals) {
                self.forward(signal);
            }
            if heard {
                self.hear();
            }
        }
    }

    fn forward(&mut self, signal: i32) {
        let ask = match signal {
            libc::SIGWINCH => match terminal::size(rustix::stdio::stdin()) {
                Some(size) => Ask::Resize(size),
                None => return,
            },
            _ => Ask::Signal(signal),
        };
        // A monitor that is gone is noticed where it is heard.
        let _ = self.client.send(&ask);
    }

    fn hear(&mut self) {
        match self.client.answer() {
            Ok(Answer::Exited { status, written }) => {
                self.ended = Some((status.shell_code(), written));
            }
            Ok(_) => {}
            // The container has ended, and with it this process.
            Err(_) => self.ended = Some((ExitStatus::Signal(9).shell_code(), [u64::MAX; 2])),
        }
    }
}
