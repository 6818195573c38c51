//! containerd's task service: each request is checked here and done in [`crate::task`].

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use bulkhead::sandbox::{Isolation, changes};
use containerd_shim_protos::{
    api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
        CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
        PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
        ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
        StatsResponse, Status, UpdateTaskRequest, WaitRequest, WaitResponse,
    },
    events::task::{TaskPaused, TaskResumed},
    protobuf::{EnumOrUnknown, Message, MessageField, well_known_types::any::Any},
    shim::oci::ProcessDetails,
    shim_async::Task,
    ttrpc::{self, r#async::TtrpcContext},
};

use crate::{
    log, metrics,
    refusal::{Refusal, cannot},
    task::{Phase, Shim},
};

/// The service.
#[derive(Debug)]
pub(crate) struct Service(Arc<Shim>);

impl Service {
    /// Of a shim.
    pub(crate) fn new(shim: Arc<Shim>) -> Self {
        Self(shim)
    }

    /// Does something to its end, also when the client goes before it: half of it would help nobody.
    async fn to_its_end<T: Send + 'static, F>(
        &self,
        what: &'static str,
        body: impl FnOnce(Arc<Shim>) -> F,
    ) -> ttrpc::Result<T>
    where
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let done = tokio::spawn(body(Arc::clone(&self.0))).await;
        let done = done.map_err(cannot(what)).and_then(|done| done);
        if let Err(refusal) = &done {
            log::debug(format_args!("{what}: {refusal}"));
        }
        Ok(done?)
    }
}

#[async_trait]
impl Task for Service {
    async fn create(
        &self,
        _: &TtrpcContext,
        asked: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let create = |shim: Arc<Shim>| async move { shim.create(asked).await };
        let pid = self.to_its_end("create", create).await?;
        Ok(CreateTaskResponse { pid, ..CreateTaskResponse::default() })
    }

    async fn start(&self, _: &TtrpcContext, asked: StartRequest) -> ttrpc::Result<StartResponse> {
        let start = |shim: Arc<Shim>| async move { shim.start(&asked.id, &asked.exec_id).await };
        let pid = self.to_its_end("start", start).await?;
        Ok(StartResponse { pid, ..StartResponse::default() })
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        asked: DeleteRequest,
    ) -> ttrpc::Result<DeleteResponse> {
        let delete = |shim: Arc<Shim>| async move { shim.delete(&asked.id, &asked.exec_id).await };
        self.to_its_end("delete", delete).await
    }

    async fn exec(&self, _: &TtrpcContext, asked: ExecProcessRequest) -> ttrpc::Result<Empty> {
        self.0.exec(asked)?;
        Ok(Empty::default())
    }

    async fn state(&self, _: &TtrpcContext, asked: StateRequest) -> ttrpc::Result<StateResponse> {
        let container = self.0.container(&asked.id)?;
        let process = container.process(&asked.exec_id)?;
        let status = match process.phase() {
            Phase::Created => Status::CREATED,
            Phase::Running if container.paused.load(Ordering::Relaxed) => Status::PAUSED,
            Phase::Running => Status::RUNNING,
            Phase::Stopped => Status::STOPPED,
        };
        let exit = process.exit();
        Ok(StateResponse {
            id: asked.id,
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: process.pid(),
            status: EnumOrUnknown::new(status),
            stdin: process.names.stdin.clone(),
            stdout: process.names.stdout.clone(),
            stderr: process.names.stderr.clone(),
            terminal: process.names.terminal,
            exit_status: exit.map_or(0, |exit| exit.code),
            exited_at: exit.map(|exit| exit.at.into()).into(),
            exec_id: asked.exec_id,
            ..StateResponse::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, asked: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let container = self.0.container(&asked.id)?;
        let listed = container.with(|container| {
            // Of a guest's processes this host knows only those that stand for them.
            let host = container.isolation() == Isolation::Host;
            if host { container.processes() } else { Ok(Vec::new()) }
        });
        let mut pids: Vec<u32> =
            listed.await?.into_iter().filter_map(|process| process.host_pid).collect();
        let joined = container.joined();
        let living = joined.iter().filter(|process| process.phase() != Phase::Stopped);
        // The first process is among them until the task is deleted: containerd 1.7 and later, when it starts, ends a shim without
        // processes as a leaked one, and with it how the program ended.
        let living = living.chain([&container.init]);
        pids.extend(living.map(|process| process.pid()).filter(|pid| *pid != 0));
        pids.sort_unstable();
        pids.dedup();
        let processes = pids.into_iter().map(|pid| {
            let exec = joined.iter().find(|process| process.pid() == pid);
            let info = exec.and_then(|process| details(&process.exec));
            ProcessInfo { pid, info: info.into(), ..ProcessInfo::default() }
        });
        Ok(PidsResponse { processes: processes.collect(), ..PidsResponse::default() })
    }

    async fn pause(&self, _: &TtrpcContext, asked: PauseRequest) -> ttrpc::Result<Empty> {
        let pause = |shim: Arc<Shim>| async move {
            let container = shim.container(&asked.id)?;
            if container.init.phase() == Phase::Created {
                return Err(Refusal::state("cannot pause a container that is not started"));
            }
            container.with(|mut container| container.pause()).await?;
            container.paused.store(true, Ordering::Relaxed);
            shim.events.send(&TaskPaused { container_id: asked.id, ..TaskPaused::default() });
            Ok(Empty::default())
        };
        self.to_its_end("pause", pause).await
    }

    async fn resume(&self, _: &TtrpcContext, asked: ResumeRequest) -> ttrpc::Result<Empty> {
        let resume = |shim: Arc<Shim>| async move {
            let container = shim.container(&asked.id)?;
            container.with(|mut container| container.resume()).await?;
            container.paused.store(false, Ordering::Relaxed);
            shim.events.send(&TaskResumed { container_id: asked.id, ..TaskResumed::default() });
            Ok(Empty::default())
        };
        self.to_its_end("resume", resume).await
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        asked: CheckpointTaskRequest,
    ) -> ttrpc::Result<Empty> {
        self.0.container(&asked.id)?;
        let why = "checkpoint is not supported yet: a container's memory cannot be saved";
        Err(Refusal::unsupported(why).into())
    }

    async fn kill(&self, _: &TtrpcContext, asked: KillRequest) -> ttrpc::Result<Empty> {
        let kill = |shim: Arc<Shim>| async move {
            shim.kill(&asked.id, &asked.exec_id, asked.signal, asked.all).await
        };
        self.to_its_end("kill", kill).await?;
        Ok(Empty::default())
    }

    async fn resize_pty(&self, _: &TtrpcContext, asked: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let process = self.0.process(&asked.id, &asked.exec_id)?;
        let size = |value: u32, what: &str| {
            u16::try_from(value)
                .map_err(|_| Refusal::invalid(format!("{what} {value}: at most 65535 is wanted")))
        };
        let (columns, rows) = (size(asked.width, "width")?, size(asked.height, "height")?);
        // Without a terminal there is nothing to do, as with runc.
        if let Some(console) = &process.state().console {
            console.resize(columns, rows)?;
        }
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, asked: CloseIORequest) -> ttrpc::Result<Empty> {
        let process = self.0.process(&asked.id, &asked.exec_id)?;
        if asked.stdin {
            process.state().held.close_stdin();
        }
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, asked: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let container = self.0.container(&asked.id)?;
        let bytes = asked.resources.as_ref().map_or(&[][..], |resources| &resources.value);
        let resources = serde_json::from_slice(bytes)
            .map_err(|error| Refusal::invalid(format!("resources: {error}")))?;
        let resources = changes(resources);
        let warnings = container.with(move |mut container| container.update(&resources)).await?;
        warnings.iter().for_each(log::warn);
        Ok(Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, asked: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let process = self.0.process(&asked.id, &asked.exec_id)?;
        let exit = process.wait().await;
        Ok(WaitResponse {
            exit_status: exit.code,
            exited_at: MessageField::some(exit.at.into()),
            ..WaitResponse::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, asked: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let container = self.0.container(&asked.id)?;
        let stats = container.with(|container| container.stats()).await?;
        let stats = MessageField::some(metrics::any(&stats)?);
        Ok(StatsResponse { stats, ..StatsResponse::default() })
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        asked: ConnectRequest,
    ) -> ttrpc::Result<ConnectResponse> {
        let task_pid = self.0.container(&asked.id).map_or(0, |container| container.init.pid());
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: env!("CARGO_PKG_VERSION").into(),
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        // A pod's shim goes with its last container.
        if self.0.is_empty() {
            self.0.over.notify_one();
        }
        Ok(Empty::default())
    }
}

/// Which exec a process is.
fn details(exec: &str) -> Option<Any> {
    let details = ProcessDetails { exec_id: exec.into(), ..ProcessDetails::default() };
    let value = details.write_to_bytes().ok()?;
    Some(Any { type_url: "containerd.runc.v1.ProcessDetails".into(), value, ..Any::default() })
}
