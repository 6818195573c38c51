//! `Create`: a container up to the point where its process waits to be started.

use std::{path::PathBuf, sync::Arc};

use bulkhead::sandbox::Mount;
use containerd_shim_protos::{
    api::CreateTaskRequest,
    events::task::{TaskCreate, TaskIO},
    protobuf::MessageField,
};

use super::{Container, Process, Shim};
use crate::{
    helper::{Call, Create, Made, Request},
    options::Options,
    refusal::{Kind, Refusal},
    root::{self, Note},
    stdio::{self, Console, Names, Opened},
};

impl Shim {
    /// Makes a container; its process's number.
    pub(crate) async fn create(self: &Arc<Self>, asked: CreateTaskRequest) -> Result<u32, Refusal> {
        if !asked.checkpoint.is_empty() {
            return Err(Refusal::unsupported(
                "a container cannot be made of a checkpoint yet: its memory cannot be restored",
            ));
        }
        if self.containers().contains_key(&asked.id) {
            return Err(Refusal::exists(format!("container {} is here", asked.id)));
        }
        let options = Options::of(asked.options.as_ref(), &self.program)?;
        let root = options.root(&self.namespace);
        let names = Names {
            stdin: asked.stdin.clone(),
            stdout: asked.stdout.clone(),
            stderr: asked.stderr.clone(),
            terminal: asked.terminal,
        };
        let opened = stdio::open(&names, &asked.id, &self.namespace, &self.exits).await?;
        let bundle = PathBuf::from(&asked.bundle);
        let mounts: Vec<_> = asked.rootfs.iter().map(mount).collect();
        root::prepare(&bundle, &Note { root: root.clone() }, &mounts)?;
        let request = Request {
            root: root.clone(),
            id: asked.id.clone(),
            call: Call::Create(Create {
                bundle: bundle.clone(),
                mounts,
                choice: options.choice,
                no_pivot: options.no_pivot,
                no_new_keyring: options.no_new_keyring,
                systemd_cgroup: options.systemd_cgroup,
                owner: self.helpers.owner(),
            }),
        };
        let init = Process::new(&asked.id, "", names);
        let gate = Arc::clone(&init.gate);
        let _gate = gate.lock().await;
        if let Err(refusal) = self.make(&init, &request, opened).await {
            if refusal.kind == Kind::Half {
                self.clear(&root, &asked.id, &bundle).await;
            }
            return Err(refusal);
        }
        let container = Arc::new(Container::new(&asked.id, bundle, root, Arc::clone(&init)));
        self.containers().insert(asked.id.clone(), container);
        self.events.send(&created(&asked, init.pid()));
        Ok(init.pid())
    }

    /// Has a process made, and watches it.
    ///
    /// # Errors
    /// What the helper says.
    pub(super) async fn make(
        self: &Arc<Self>,
        process: &Arc<Process>,
        request: &Request,
        opened: Opened,
    ) -> Result<(), Refusal> {
        let Opened { streams, held, terminal } = opened;
        let Made { pid, ends, master } = self.helpers.make(request, streams).await?;
        let console = match (master, terminal) {
            (Some(master), Some(ends)) => Console::join(master, ends).map(Some),
            _ => Ok(None),
        };
        let (console, failed) = match console {
            Ok(console) => (console, None),
            Err(refusal) => (None, Some(refusal)),
        };
        process.is_there(pid, held, console);
        process.watch(self, ends);
        match failed {
            None => Ok(()),
            Some(refusal) => {
                // Nobody could use it. It may have ended.
                let _ = process.signal(libc::SIGKILL);
                Err(Refusal::half(refusal.message))
            }
        }
    }
}

fn mount(mount: &containerd_shim_protos::api::Mount) -> Mount {
    Mount {
        kind: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

fn created(asked: &CreateTaskRequest, pid: u32) -> TaskCreate {
    let io = TaskIO {
        stdin: asked.stdin.clone(),
        stdout: asked.stdout.clone(),
        stderr: asked.stderr.clone(),
        terminal: asked.terminal,
        ..TaskIO::default()
    };
    TaskCreate {
        container_id: asked.id.clone(),
        bundle: asked.bundle.clone(),
        rootfs: asked.rootfs.clone(),
        io: MessageField::some(io),
        checkpoint: asked.checkpoint.clone(),
        pid,
        ..TaskCreate::default()
    }
}
