//! A container in a network namespace with a veth, whose scout follows orders.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::wire::Wire;
use crate::{
    bench::{
        BenchError,
        isolation::profile::{self, Names, Profile},
        isolation::visit::bundle,
        orders::Follower,
        runtime::{Runtime, Slot},
        stage::Stage,
        talk::Talk,
    },
    settings::Isolation,
};

/// A running container. Its runtime removes it when this is dropped before its end.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) scout: Follower,
    runtime: Runtime,
    slot: Slot,
    pid: Pid,
    /// The namespace is there for the removal too.
    _wire: Wire,
}

impl Container {
    /// Starts it.
    ///
    /// # Errors
    /// [`BenchError`]; what is left of it goes with the stage.
    pub(super) fn start(
        stage: &Stage,
        runtime: Runtime,
        isolation: Isolation,
        scout: &Path,
    ) -> Result<Self, BenchError> {
        let wire = Wire::make()?;
        let id = format!("bench-{}-{}", std::process::id(), runtime.key);
        let cgroup = format!("/bulkhead-{id}");
        let names = Names { work: &stage.file(""), scout, word: "io", cgroup: &cgroup };
        let mut config = profile::config(&stage.image, &names, isolation, Profile::Default)?;
        enter(&mut config, &wire.path());
        let slot = Slot { bundle: stage.file(&runtime.key), id };
        bundle(&slot.bundle, &config)?;
        let (talk, input, output) = Talk::new(isolation.name(), runtime.limit)?;
        let (pid, _) = runtime.create_with(&slot, input, output)?;
        let scout = Follower {
            isolation,
            talk,
            pid: pid.as_raw_pid(),
            state: runtime.root.join(&slot.id),
            errors: slot.bundle.join("errors"),
        };
        let mut container = Self { scout, runtime, slot, pid, _wire: wire };
        container.runtime.verb("start", &container.slot, &[])?;
        container.scout.greet()?;
        Ok(container)
    }

    /// Lets it end.
    ///
    /// # Errors
    /// It did not end well.
    pub(super) fn end(mut self) -> Result<(), BenchError> {
        self.scout.talk.close();
        let ended = self.runtime.wait(self.pid, "the scout's end");
        if ended.is_err() {
            // It may have ended by itself.
            let _ = kill_process(self.pid, Signal::KILL);
        }
        ended?;
        self.runtime.verb("delete", &self.slot, &[]).map(drop)
    }
}

/// Puts the container into a network namespace that is there.
fn enter(config: &mut Value, namespace: &Path) {
    if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "network", "path": namespace }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_one_network() {
        for namespaces in
            [json!([{ "type": "pid" }]), json!([{ "type": "network" }, { "type": "pid" }])]
        {
            let mut config = json!({ "linux": { "namespaces": namespaces } });
            enter(&mut config, Path::new("/n"));
            let expected = json!([{ "type": "pid" }, { "type": "network", "path": "/n" }]);
            assert_eq!(config["linux"]["namespaces"], expected);
        }
    }
}
