//! `Delete`: the end of a process that has stopped, and of a container with its first one.

use std::{sync::Arc, time::SystemTime};

use containerd_shim_protos::{
    api::DeleteResponse, events::task::TaskDelete, protobuf::MessageField,
};

use super::{Container, Phase, Process, Shim};
use crate::{
    exits::Exit,
    helper::{Call, Request},
    refusal::{Kind, Refusal},
    root,
};

impl Shim {
    /// Removes a process, and with a container's first one the container.
    pub(crate) async fn delete(
        self: &Arc<Self>,
        id: &str,
        exec: &str,
    ) -> Result<DeleteResponse, Refusal> {
        let container = self.container(id)?;
        let _removal = container.removal.lock().await;
        // Somebody may have removed it meanwhile.
        let process = self.process(id, exec)?;
        if process.phase() == Phase::Running {
            return Err(Refusal::state("cannot delete a running process"));
        }
        let exit =
            if exec.is_empty() { self.delete_container(&container).await? } else { process.exit() };
        let exit = exit.unwrap_or(Exit { code: 0, at: SystemTime::now() });
        let pid = process.pid();
        forget(&process);
        if exec.is_empty() {
            self.containers().remove(id);
            self.events.send(&TaskDelete {
                container_id: id.into(),
                pid,
                exit_status: exit.code,
                exited_at: MessageField::some(exit.at.into()),
                ..TaskDelete::default()
            });
        } else {
            container.remove(exec);
        }
        Ok(DeleteResponse {
            pid,
            exit_status: exit.code,
            exited_at: MessageField::some(exit.at.into()),
            ..DeleteResponse::default()
        })
    }

    async fn delete_container(&self, container: &Container) -> Result<Option<Exit>, Refusal> {
        let request = Request {
            root: container.root.clone(),
            id: container.id.clone(),
            call: Call::Delete { force: false },
        };
        match self.helpers.do_it(&request).await {
            // Somebody else was faster.
            Err(refusal) if refusal.kind != Kind::NotFound => return Err(refusal),
            _ => {}
        }
        root::unmount(&container.bundle)?;
        // A container that was never started ends with this.
        Ok(Some(container.init.wait().await))
    }
}

/// Nothing more is copied or kept for it.
fn forget(process: &Arc<Process>) {
    let mut state = process.state();
    state.console = None;
    state.held = crate::stdio::Held::default();
}
