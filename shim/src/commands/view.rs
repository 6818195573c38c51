//! A container as `ps` and `inspect` show it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{CommandError, context::Context, table::ago};
use crate::{
    cni::{self, Record},
    container::{Definition, Place, State, Status, id::short},
    logs,
};

/// All that is known of a container.
#[derive(Debug)]
pub(super) struct View {
    pub(super) place: Place,
    pub(super) definition: Definition,
    pub(super) state: State,
    pub(super) paused: bool,
    /// The network that it has now.
    network: Option<cni::View>,
}

impl View {
    pub(super) fn of(context: &Context, place: Place) -> Result<Self, CommandError> {
        let definition = place.definition()?;
        let state = context.settled(&place)?;
        let paused = state.status == Status::Running && context.is_paused(&place);
        // One that cannot be read is said by whoever would remove it.
        let record = definition.network.as_ref().and_then(|_| Record::read(place.data()).ok()?);
        let network = record.map(|record| record.view());
        Ok(Self { place, definition, state, paused, network })
    }

    /// The ports that lead to it now, as `docker ps` has them.
    pub(super) fn ports(&self) -> String {
        match (&self.network, &self.definition.network) {
            (Some(_), Some(wish)) => {
                wish.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            }
            _ => String::new(),
        }
    }

    /// `NetworkSettings`.
    fn network(&self) -> Value {
        match (&self.network, &self.definition.network) {
            (Some(network), Some(wish)) => network.json(&wish.name, &wish.ports),
            _ => json!({ "SandboxKey": "", "IPAddress": "", "Networks": {}, "Ports": {} }),
        }
    }

    /// One word, as docker has it.
    pub(super) fn status(&self) -> &'static str {
        match self.state.status {
            Status::Created => "created",
            Status::Starting => "starting",
            Status::Running if self.paused => "paused",
            Status::Running => "running",
            Status::Exited => "exited",
        }
    }

    /// A few words, as `docker ps` has them.
    pub(super) fn status_text(&self, now: Timestamp) -> String {
        let since = |time: Option<Timestamp>| ago(time.unwrap_or(now), now);
        match self.state.status {
            Status::Created => "Created".into(),
            Status::Starting => "Starting".into(),
            Status::Running => {
                let paused = if self.paused { " (Paused)" } else { "" };
                format!("Up {}{paused}", since(self.state.started))
            }
            Status::Exited => {
                let code = self.state.exit_code.unwrap_or(0);
                format!("Exited ({code}) {} ago", since(self.state.finished))
            }
        }
    }

    /// The row of `ps --json`.
    pub(super) fn summary(&self, now: Timestamp) -> Value {
        json!({
            "id": self.place.id,
            "name": self.definition.name,
            "image": self.definition.image_name,
            "image_id": self.definition.image,
            "command": self.definition.command,
            "created": self.definition.created,
            "isolation": self.definition.isolation,
            "status": self.status(),
            "status_text": self.status_text(now),
            "exit_code": self.state.exit_code,
            "pid": self.state.pid,
            "started": self.state.started,
            "finished": self.state.finished,
            "network": self.definition.network.as_ref().map_or("none", |wish| &wish.name),
            "addresses": self.network.as_ref().map(cni::View::addresses).unwrap_or_default(),
            "ports": self.ports(),
        })
    }

    /// What `inspect` shows, with docker's names where docker has the thing.
    pub(super) fn whole(&self) -> Result<Value, CommandError> {
        let (definition, state) = (&self.definition, &self.state);
        let config = self.place.config()?;
        let process = config.get("process").cloned().unwrap_or_default();
        let field = |name: &str| process.get(name).cloned().unwrap_or_default();
        let mut words = definition.command.iter();
        Ok(json!({
            "Id": self.place.id,
            "Created": definition.created,
            "Path": words.next(),
            "Args": words.collect::<Vec<_>>(),
            "State": {
                "Status": self.status(),
                "Running": state.status == Status::Running,
                "Paused": self.paused,
                "OOMKilled": state.oom_killed,
                "Pid": state.pid.unwrap_or(0),
                "ExitCode": state.exit_code.unwrap_or(0),
                "Error": state.error.as_deref().unwrap_or_default(),
                "StartedAt": state.started,
                "FinishedAt": state.finished,
                "KeeperPid": state.keeper.as_ref().map(|keeper| keeper.pid),
                "Warnings": state.warnings,
            },
            "Image": definition.image,
            "Name": definition.name,
            "Isolation": definition.isolation,
            "LogPath": logs::file(self.place.data(), 0),
            "Config": {
                "Hostname": config.get("hostname"),
                "Image": definition.image_name,
                "Env": field("env"),
                "User": field("user"),
                "WorkingDir": field("cwd"),
                "Tty": definition.terminal,
                "OpenStdin": definition.interactive,
                "StdinOnce": definition.stdin_once,
                "StopSignal": definition.stop_signal,
            },
            "HostConfig": {
                "AutoRemove": definition.auto_remove,
                "ReadonlyRootfs": definition.read_only,
                "LogConfig": definition.log,
                "Machine": definition.machine,
                "NetworkMode": definition.network.as_ref().map_or("none", |wish| &wish.name),
                "PortBindings": cni::bindings(definition.network.as_ref().map_or(&[], |wish| &wish.ports)),
            },
            "NetworkSettings": self.network(),
            "Mounts": config.get("mounts"),
            "Bundle": self.place.data(),
        }))
    }

    /// The id for people.
    pub(super) fn short_id(&self) -> &str {
        short(&self.place.id)
    }
}
