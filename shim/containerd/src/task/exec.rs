//! `Exec`: one more process, which begins with its `Start`.

use std::sync::{Arc, atomic::Ordering};

use containerd_shim_protos::{api::ExecProcessRequest, events::task::TaskExecAdded};
use serde_json::{Value, json};

use super::{Phase, Process, Shim};
use crate::{refusal::Refusal, stdio::Names};

impl Shim {
    /// Notes a process that is to join a container.
    pub(crate) fn exec(self: &Arc<Self>, asked: ExecProcessRequest) -> Result<(), Refusal> {
        let container = self.container(&asked.id)?;
        if asked.exec_id.is_empty() {
            return Err(Refusal::invalid("exec_id \"\": a name is wanted"));
        }
        if container.init.phase() == Phase::Stopped {
            return Err(Refusal::state("cannot exec in a stopped container"));
        }
        if container.paused.load(Ordering::Relaxed) {
            return Err(Refusal::state("cannot exec in a paused container"));
        }
        let bytes = asked.spec.as_ref().map_or(&[][..], |spec| &spec.value);
        let mut spec: Value = serde_json::from_slice(bytes)
            .map_err(|error| Refusal::invalid(format!("spec: {error}")))?;
        if !spec.is_object() {
            return Err(Refusal::invalid("spec: a process is wanted"));
        }
        spec["terminal"] = json!(asked.terminal);
        let names = Names {
            stdin: asked.stdin,
            stdout: asked.stdout,
            stderr: asked.stderr,
            terminal: asked.terminal,
        };
        container.add(Process::new(&asked.id, &asked.exec_id, names), spec)?;
        self.events.send(&TaskExecAdded {
            container_id: asked.id,
            exec_id: asked.exec_id,
            ..TaskExecAdded::default()
        });
        Ok(())
    }
}
