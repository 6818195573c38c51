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
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
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
        // With its container or the machine.
        Answer::Exited { .. } => {
            return Err(SandboxError::State("the container ended before the process began".into()));
        }
        other => return Err(SandboxError::Failed(format!("the monitor answered {other:?}"))),
    }
    client.wait_for_ever().map_err(failed("wait for the monitor"))?;
    let streams = client.take_fds();
    let keep = process::numbers(streams.iter().map(AsFd::as_fd).chain([client.socket()]));
    let pid = process::fork(slave, &keep, move || {
        let mut proxy =
            Proxy { client, wanted, ended: None, gone: true, oom_killed: false, at_end: None };
        proxy.run(streams).unwrap_or(LOST)
    })
    .map_err(failed("make the process's proxy"))?;
    Ok(Spawned { pid, master })
}

impl Wanted {
    pub(super) fn here(terminal: bool) -> Self {
        use rustix::stdio::{stderr, stdin, stdout};
        if terminal {
            return Self { stdin: true, stdout: true, stderr: false };
        }
        Self { stdin: !is_null(stdin()), stdout: !is_null(stdout()), stderr: !is_null(stderr()) }
    }
}

/// What stands for a process of a guest, or for a container that has joined a pod.
pub(super) struct Proxy {
    client: Client,
    wanted: Wanted,
    /// The exit code, and what was written by then.
    ended: Option<(u8, [u64; 2])>,
    /// Nothing is left of it in the guest, of a process from the beginning.
    gone: bool,
    oom_killed: bool,
    /// Called when it is gone, though its last output may not be taken yet.
    at_end: Option<AtEnd>,
}

/// With the exit code, and whether the container's memory limit had killed one of its processes.
pub(super) type AtEnd = Box<dyn FnOnce(u8, bool)>;

impl Proxy {
    /// For a container.
    pub(super) fn of_member(client: Client, wanted: Wanted, at_end: AtEnd) -> Self {
        let at_end = Some(at_end);
        Self { client, wanted, ended: None, gone: false, oom_killed: false, at_end }
    }

    /// Copies the streams and forwards signals until it has ended; returns its code.
    pub(super) fn run(&mut self, streams: Vec<OwnedFd>) -> io::Result<u8> {
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
            if let (Some((code, _)), true) = (self.ended, self.gone)
                && let Some(at_end) = self.at_end.take()
            {
                at_end(code, self.oom_killed);
            }
            match self.ended {
                Some((code, written)) if self.gone && relays.drained(written, QUIET) => {
                    return Ok(code);
                }
                _ => {}
            }
            let ended = self.ended.is_some();
            let mut sources = [
                PollFd::from_borrowed_fd(relays.wake(), PollFlags::IN),
                PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.client.socket(), PollFlags::IN),
            ];
            // After that the monitor has nothing more to say.
            let count = if ended && self.gone { 2 } else { 3 };
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
                if !ended && self.ended.is_some() {
                    relays.expect_rest();
                }
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
            Ok(Answer::Gone { oom_killed }) => {
                self.gone = true;
                self.oom_killed = oom_killed;
                self.ended.get_or_insert((LOST, [u64::MAX; 2]));
            }
            Ok(_) => {}
            // The container has ended, and with it this process; or the pod has, and with it this container.
            Err(_) => {
                self.gone = true;
                self.ended.get_or_insert((LOST, [u64::MAX; 2]));
            }
        }
    }
}
