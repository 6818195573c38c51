//! A process of a container: the container's first, or one that joined it.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use containerd_shim_protos::{events::task::TaskExit, protobuf::MessageField};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::{oneshot, watch};

use super::Shim;
use crate::{
    exits::Exit,
    refusal::{Refusal, cannot},
    stdio::{Console, Held, Names},
};

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its program has not begun.
    Created,
    /// Its program runs.
    Running,
    /// It has ended.
    Stopped,
}

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    /// The container.
    pub(crate) container: String,
    /// Its own name; empty for the container's first.
    pub(crate) exec: String,
    /// Its streams.
    pub(crate) names: Names,
    /// Held by who changes it.
    pub(crate) gate: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
    exited: watch::Sender<Option<Exit>>,
}

/// What changes of it.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    /// Its number on this host, or that of the process that stands for it; 0: it is not there yet.
    pub(crate) pid: i32,
    /// The same, never to be mistaken for a later one.
    pidfd: Option<OwnedFd>,
    pub(crate) held: Held,
    pub(crate) console: Option<Console>,
    /// Its code where the process that stands for it did not live to say it.
    pub(crate) code: Option<u32>,
}

impl Process {
    /// One that is not there yet.
    pub(crate) fn new(container: &str, exec: &str, names: Names) -> Arc<Self> {
        let state = State {
            phase: Phase::Created,
            pid: 0,
            pidfd: None,
            held: Held::default(),
            console: None,
            code: None,
        };
        Arc::new(Self {
            container: container.to_owned(),
            exec: exec.to_owned(),
            names,
            gate: Arc::default(),
            state: Mutex::new(state),
            exited: watch::Sender::new(None),
        })
    }

    /// For a moment, never while something is waited for.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it does.
    pub(crate) fn phase(&self) -> Phase {
        self.state().phase
    }

    /// How it ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.exited.borrow()
    }

    /// Waits for its end.
    pub(crate) async fn wait(&self) -> Exit {
        let mut exited = self.exited.subscribe();
        loop {
            if let Some(exit) = *exited.borrow_and_update() {
                return exit;
            }
            // The other end is this process's own.
            if exited.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Its number is known. It is not reaped before `ends` is asked for, so that nobody else has the number.
    pub(crate) fn is_there(&self, pid: i32, held: Held, console: Option<Console>) {
        let pidfd = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let mut state = self.state();
        state.pid = pid;
        state.pidfd = pidfd;
        state.held = held;
        state.console = console;
    }

    /// Sends a signal to the process of this host.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn signal(&self, signal: i32) -> Result<(), Refusal> {
        let named = Signal::from_named_raw(signal)
            .ok_or_else(|| Refusal::invalid(format!("signal {signal}: there is no such signal")))?;
        let state = self.state();
        let pidfd = state.pidfd.as_ref().ok_or_else(ended)?;
        match pidfd_send_signal(pidfd, named) {
            Err(rustix::io::Errno::SRCH) => Err(ended()),
            sent => sent.map_err(cannot(format_args!("send signal {signal}"))),
        }
    }

    /// Waits for its end, and tells it to containerd and to who waits.
    pub(crate) fn watch(self: &Arc<Self>, shim: &Arc<Shim>, ends: oneshot::Receiver<Exit>) {
        let (process, shim) = (Arc::clone(self), Arc::clone(shim));
        tokio::spawn(async move {
            // The sender goes with the whole process only.
            let Ok(exit) = ends.await else { return };
            let unwritten = process.state().held.unwritten();
            unwritten.flush().await;
            let _gate = process.gate.lock().await;
            let exit = process.ended(exit);
            if process.exec.is_empty() {
                shim.note_oom(&process.container).await;
            }
            shim.events.send(&process.exit_event(exit));
            process.exited.send_replace(Some(exit));
        });
    }

    fn ended(&self, exit: Exit) -> Exit {
        let mut state = self.state();
        state.phase = Phase::Stopped;
        state.pidfd = None;
        state.held.close_stdin();
        Exit { code: state.code.unwrap_or(exit.code), ..exit }
    }

    fn exit_event(&self, exit: Exit) -> TaskExit {
        let id = if self.exec.is_empty() { &self.container } else { &self.exec };
        TaskExit {
            container_id: self.container.clone(),
            id: id.clone(),
            pid: number(self.state().pid),
            exit_status: exit.code,
            exited_at: MessageField::some(exit.at.into()),
            ..TaskExit::default()
        }
    }

    /// Its number, as containerd writes it.
    pub(crate) fn pid(&self) -> u32 {
        number(self.state().pid)
    }
}

fn number(pid: i32) -> u32 {
    u32::try_from(pid).unwrap_or(0)
}

/// In the words that containerd's clients look for.
pub(super) fn ended() -> Refusal {
    Refusal::not_found("process already finished")
}
