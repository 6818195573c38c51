//! `Start`: lets a process run its program.

use std::sync::Arc;

use bulkhead::lifecycle;
use containerd_shim_protos::events::task::{TaskExecStarted, TaskStart};

use super::{Container, Phase, Process, Shim};
use crate::{
    helper::{self, Call, Request},
    log, oom,
    refusal::Refusal,
    stdio,
};

impl Shim {
    /// Starts a process; its number.
    pub(crate) async fn start(self: &Arc<Self>, id: &str, exec: &str) -> Result<u32, Refusal> {
        let container = self.container(id)?;
        let process = container.process(exec)?;
        let gate = Arc::clone(&process.gate);
        let _gate = gate.lock().await;
        match process.phase() {
            Phase::Created => {}
            Phase::Running => return Err(Refusal::state("cannot start a running process")),
            Phase::Stopped => return Err(Refusal::state("cannot start a stopped process")),
        }
        if exec.is_empty() {
            self.start_container(&container).await?;
        } else {
            self.start_exec(&container, &process).await?;
        }
        // Its end is only noted by who has the gate.
        process.state().phase = Phase::Running;
        let pid = process.pid();
        if exec.is_empty() {
            let started = TaskStart { container_id: id.into(), pid, ..TaskStart::default() };
            self.events.send(&started);
            oom::watch(self, &container);
        } else {
            self.events.send(&TaskExecStarted {
                container_id: id.into(),
                exec_id: exec.into(),
                pid,
                ..TaskExecStarted::default()
            });
        }
        Ok(pid)
    }

    /// Hooks are children, whose ends this process's reaper would take: only a helper runs them.
    async fn start_container(&self, container: &Container) -> Result<(), Refusal> {
        let begin = |container: lifecycle::Container| match container.has_poststart() {
            true => Ok(None),
            false => helper::start(container).map(Some),
        };
        if let Some(warnings) = container.with(begin).await? {
            warnings.iter().for_each(log::warn);
            return Ok(());
        }
        let request =
            Request { root: container.root.clone(), id: container.id.clone(), call: Call::Start };
        self.helpers.do_it(&request).await
    }

    async fn start_exec(
        self: &Arc<Self>,
        container: &Container,
        process: &Arc<Process>,
    ) -> Result<(), Refusal> {
        let gone = || Refusal::not_found(format!("process {} is not here", process.exec));
        let spec = container.spec(&process.exec).ok_or_else(gone)?;
        let opened =
            stdio::open(&process.names, &container.id, &self.namespace, &self.exits).await?;
        let request = Request {
            root: container.root.clone(),
            id: container.id.clone(),
            call: Call::Exec(spec),
        };
        self.make(process, &request, opened).await
    }
}
