//! The keeper's process, from its start to its end.

use std::{
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use jiff::Timestamp;

use super::{
    KeeperError,
    clients::Client,
    frames::{Claimed, Ended, Failed, Frame, FromKeeper, Hello, Started, ToKeeper},
    make::make,
    serve::Serve,
};
use crate::{
    container::{ContainerError, Definition, Place, Registry, State, Status, state::Process},
    lifecycle::LifecycleError,
    sandbox::vm::lost,
    settings::{Isolation, Settings},
    timeline::{self, Step, Timeline},
};

/// A container's files and what is known of it, as its keeper has them.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) registry: Registry,
    pub(super) place: Place,
    pub(super) definition: Definition,
    pub(super) state: State,
    pub(super) timeline: Timeline,
}

/// Keeps the container `id`. Standard input is the socket of the command that wants it; what becomes of the container is told there, and
/// written into its state.
///
/// # Errors
/// [`KeeperError`] for what could not be told.
pub fn keep(id: &str) -> Result<(), KeeperError> {
    let hidden = hide(id);
    let mut socket = take_socket()?;
    let hello = match ToKeeper::receive(&mut socket) {
        Ok(Some(ToKeeper::Hello(hello))) => hello,
        // Whoever wanted the container is gone already.
        _ => return Ok(()),
    };
    match hidden.and_then(|()| claim(id)) {
        Ok((settings, kept)) => run(&settings, kept, socket, hello),
        Err(error) => {
            let failed = Failed { code: 125, message: error.to_string() };
            let _ = FromKeeper::Failed(failed).send(&mut socket);
            Err(error)
        }
    }
}

/// A container on this host's kernel is made by a program that it cannot write to. May begin this process anew, with the same socket.
fn hide(id: &str) -> Result<(), KeeperError> {
    let registry = Registry::open(&Settings::load()?)?;
    if registry.find(id)?.definition()?.isolation == Isolation::Host {
        bulkhead_container::run_from_read_only().map_err(LifecycleError::from)?;
    }
    Ok(())
}

/// Standard input moves to where the container's streams are not.
fn take_socket() -> Result<UnixStream, KeeperError> {
    let socket = rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3)
        .map_err(KeeperError::io("use its socket"))?;
    let nothing = File::open("/dev/null").map_err(KeeperError::io("open /dev/null"))?;
    rustix::stdio::dup2_stdin(&nothing).map_err(KeeperError::io("close a socket"))?;
    Ok(OwnedFd::into(socket))
}

fn claim(id: &str) -> Result<(Settings, Kept), KeeperError> {
    let settings = Settings::load()?;
    let registry = Registry::open(&settings)?;
    let place = registry.find(id)?;
    let definition = place.definition()?;
    let state = State {
        status: Status::Starting,
        keeper: Some(Process::own()),
        run: Some(registry.run()),
        error: None,
        warnings: Vec::new(),
        ..place.state()?
    };
    place.write_state(&state)?;
    let timeline = Timeline::begin(timeline::now());
    Ok((settings, Kept { registry, place, definition, state, timeline }))
}

fn run(
    settings: &Settings,
    mut kept: Kept,
    mut socket: UnixStream,
    hello: Hello,
) -> Result<(), KeeperError> {
    // Nobody may be there to hear it, which is no reason to stop.
    let _ = FromKeeper::Claimed(Claimed { keeper: std::process::id() }).send(&mut socket);
    let Kept { registry, place, definition, timeline, .. } = &mut kept;
    let note = |text: &str| {
        // As above.
        let _ = FromKeeper::Note(text.to_owned()).send(&mut &socket);
    };
    let made = make(settings, registry, place, definition, timeline, &note);
    let running = match made {
        Ok(running) => running,
        Err(error) => {
            let failed = Failed { code: error.exit_code(), message: error.to_string() };
            let ended = kept.abandon(&failed.message);
            let _ = FromKeeper::Failed(failed).send(&mut socket);
            return ended;
        }
    };
    kept.state = State {
        status: Status::Running,
        pid: Some(running.pid.as_raw_nonzero().get()),
        started: Some(Timestamp::now()),
        finished: None,
        exit_code: None,
        oom_killed: false,
        warnings: running.warnings.clone(),
        ..kept.state
    };
    kept.place.write_state(&kept.state)?;
    let mut client = Client::primary(socket, hello).map_err(KeeperError::io("use its socket"))?;
    for warning in &running.warnings {
        client.send(&FromKeeper::Warning(warning.clone()));
    }
    client.send(&FromKeeper::Started(Started { timeline: kept.timeline.records() }));
    Serve::new(kept, running, client).run()
}

impl Kept {
    /// The container was not made. What there is of it goes; whether the container itself does is for its maker to have said.
    fn abandon(&mut self, why: &str) -> Result<(), KeeperError> {
        let left = match self.registry.clear(&self.place.id) {
            Err(error @ ContainerError::Network { .. }) => Some(error),
            cleared => cleared.map(|()| None)?,
        };
        let goes = self.definition.maker.is_some() && self.state.started.is_none()
            || self.definition.auto_remove;
        if goes && left.is_none() {
            let guard = self.registry.guard()?;
            return Ok(self.registry.remove(&guard, &self.place)?);
        }
        let status = if self.state.finished.is_some() { Status::Exited } else { Status::Created };
        self.state = State {
            status,
            keeper: None,
            pid: None,
            error: Some(match left {
                None => why.into(),
                Some(left) => format!("{why}; {left}"),
            }),
            ..std::mem::take(&mut self.state)
        };
        Ok(self.place.write_state(&self.state)?)
    }

    /// The container's process has ended with this code: what goes with that goes, and how it ended is written down.
    pub(super) fn finish(&mut self, code: u8) -> Ended {
        self.timeline.pass(Step::Ended);
        let root = self.registry.lifecycle();
        let oom_killed = root.get(&self.place.id).and_then(|container| container.oom_killed());
        let directory = root.directory(&self.place.id);
        let records = std::fs::read(directory.join("timeline.json")).ok();
        let records = records.and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(records) = records {
            self.timeline.merge(&records);
        }
        let lost = match self.definition.isolation {
            Isolation::Vm => lost(&directory),
            Isolation::Host => None,
        };
        let cleared = self.registry.clear(&self.place.id);
        self.state = State {
            status: Status::Exited,
            keeper: None,
            pid: None,
            exit_code: Some(code),
            oom_killed: oom_killed.unwrap_or(false),
            error: lost.clone().or(cleared.as_ref().err().map(ToString::to_string)),
            finished: Some(Timestamp::now()),
            ..std::mem::take(&mut self.state)
        };
        let left = matches!(cleared, Err(ContainerError::Network { .. }));
        let kept = if self.definition.auto_remove && !left {
            self.registry.guard().and_then(|guard| self.registry.remove(&guard, &self.place))
        } else {
            self.place.write_state(&self.state)
        };
        Ended {
            code,
            oom_killed: self.state.oom_killed,
            lost: lost.is_some(),
            error: self.state.error.clone().or(kept.err().map(|error| error.to_string())),
            timeline: self.timeline.records(),
        }
    }
}
