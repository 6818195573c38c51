//! `Delete`: the end of a process that has stopped, and of a container with its first one.

use std::{path::Path, sync::Arc, time::SystemTime};

use bulkhead::lifecycle;
use containerd_shim_protos::{
    api::DeleteResponse, events::task::TaskDelete, protobuf::MessageField,
};

use super::{Container, Phase, Process, Shim};
use crate::{
    exits::Exit,
    helper::{Call, Request},
    log,
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
        // As at its start, hooks are a helper's.
        let delete = |container: lifecycle::Container| match container.has_poststop() {
            true => Ok(None),
            false => container.delete(false).map(Some),
        };
        let deleted = match container.with(delete).await {
            Ok(None) => {
                let request = Request {
                    root: container.root.clone(),
                    id: container.id.clone(),
                    call: Call::Delete { force: false },
                };
                self.helpers.do_it(&request).await
            }
            Ok(Some(warnings)) => {
                warnings.iter().for_each(log::warn);
                Ok(())
            }
            Err(refusal) => Err(refusal),
        };
        match deleted {
            // Somebody else was faster.
            Err(refusal) if refusal.kind != Kind::NotFound => return Err(refusal),
            _ => {}
        }
        root::unmount(&container.bundle)?;
        // A container that was never started ends with this.
        Ok(Some(container.init.wait().await))
    }

    /// Removes what was made of a container before that failed half way.
    pub(super) async fn clear(&self, root: &Path, id: &str, bundle: &Path) {
        let call = Call::Delete { force: true };
        let request = Request { root: root.to_owned(), id: id.to_owned(), call };
        let cleared = self.helpers.do_it(&request).await.and_then(|()| root::unmount(bundle));
        if let Err(refusal) = cleared {
            log::warn(format_args!("{id} was not made, and something is left of it: {refusal}"));
        }
    }
}

/// Nothing more is copied or kept for it.
fn forget(process: &Arc<Process>) {
    let mut state = process.state();
    state.console = None;
    state.held = crate::stdio::Held::default();
}
