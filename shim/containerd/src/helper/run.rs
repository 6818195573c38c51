//! The helper's side: one request, one answer, with the library's calls.

use std::{
    fs::File,
    io::{Read, Seek},
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
};

use bulkhead::{
    lifecycle::{Container, CreateOptions, LifecycleError, StateRoot},
    sandbox::{self, Config, Exec, Isolation, Root, SandboxError, Spawned, Wish, vm},
};
use rustix::io::FdFlags;
use serde_json::Value;

use super::{Answer, Call, Create, MAX_REQUEST, Request};
use crate::{
    args::Args,
    handover,
    refusal::{Refusal, cannot},
    root,
};

/// Does what the request says.
///
/// # Errors
/// Only what could not be answered.
pub(crate) fn run(args: &Args) -> Result<(), Refusal> {
    let [Some(request), Some(socket)] = args.helper.map(|number| number.and_then(take)) else {
        return Err(Refusal::invalid("helper: -request and -answer are wanted"));
    };
    let file = File::from(request);
    let mut done = read(&file).and_then(|request| serve(&request, [file.as_fd(), socket.as_fd()]));
    let master = done.as_mut().ok().and_then(|done| done.master.take());
    let answer = match done {
        Ok(Done { pid, warnings, .. }) => Answer::Done { pid, warnings },
        Err(refusal) => Answer::Refused(refusal),
    };
    let text = serde_json::to_vec(&answer).map_err(cannot("answer"))?;
    let master = master.as_ref().map(AsFd::as_fd);
    handover::send(&socket.into(), &text, master).map_err(cannot("answer"))
}

/// What was made.
#[derive(Debug, Default)]
struct Done {
    pid: Option<i32>,
    master: Option<OwnedFd>,
    warnings: Vec<String>,
}

impl Done {
    fn spawned(Spawned { pid, master }: Spawned, warnings: Vec<String>) -> Self {
        Self { pid: Some(pid.as_raw_nonzero().get()), master, warnings }
    }
}

/// A descriptor that the shim has left open for this process; none: it is not open.
fn take(number: i32) -> Option<OwnedFd> {
    if number < 3 {
        return None;
    }
    // SAFETY: it is only asked whether it is open; the number is in the range of descriptors.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(fd).ok()?;
    // SAFETY: it is open, and the shim has made it for this process, where nothing else knows its number.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Reads the request, from the start: this program may have done so before it was executed anew.
fn read(mut file: &File) -> Result<Request, Refusal> {
    let mut text = Vec::new();
    file.rewind()
        .and_then(|()| file.take(MAX_REQUEST).read_to_end(&mut text))
        .map_err(cannot("read the request"))?;
    serde_json::from_slice(&text).map_err(cannot("read the request"))
}

/// `own`: descriptors that are this process's alone.
fn serve(request: &Request, own: [BorrowedFd<'_>; 2]) -> Result<Done, Refusal> {
    let root = StateRoot::open(&request.root);
    match &request.call {
        Call::Create(create) => make(&root, request, create, own),
        Call::Exec(process) => exec(root.get(&request.id)?, process, own),
        Call::Start => Ok(Done { warnings: start(root.get(&request.id)?)?, ..Done::default() }),
        Call::Delete { force } => delete(&root, &request.id, *force),
    }
}

/// Sees to it that containers cannot write to this program, for which it may be executed anew, and do not get its descriptors.
fn keep_apart(isolation: Isolation, own: [BorrowedFd<'_>; 2]) -> Result<(), Refusal> {
    sandbox::keep_from_containers(isolation)?;
    own.into_iter().try_for_each(close_on_exec)
}

fn close_on_exec(fd: BorrowedFd<'_>) -> Result<(), Refusal> {
    rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).map_err(cannot("set a descriptor's flags"))
}

fn make(
    root: &StateRoot,
    request: &Request,
    create: &Create,
    own: [BorrowedFd<'_>; 2],
) -> Result<Done, Refusal> {
    let config = Config::read(&create.bundle.join("config.json"))?;
    let isolation = create.choice.isolation(&config)?;
    keep_apart(isolation, own)?;
    let (mode, tenant) = match isolation {
        Isolation::Host => (None, None),
        Isolation::Vm => (create.choice.template(&config)?, create.choice.tenant(&config)?),
    };
    let owner = take(create.owner).ok_or_else(|| Refusal::invalid("the owner's pipe is closed"))?;
    close_on_exec(owner.as_fd())?;
    let from = |source| {
        root.create(&CreateOptions {
            id: &request.id,
            bundle: &create.bundle,
            config: &config,
            isolation,
            root: source,
            console_socket: None,
            pid_file: None,
            preserve_fds: 0,
            no_pivot: create.no_pivot,
            no_new_keyring: create.no_new_keyring,
            systemd_cgroup: create.systemd_cgroup,
            template: Wish { mode, tenant: tenant.as_deref(), ..Wish::default() },
            owner: Some(owner.as_fd()),
        })
    };
    let disks = isolation == Isolation::Vm && vm::takes(&create.mounts);
    let tried = disks.then(|| from(Root::Mounts(create.mounts.clone())));
    let made = match tried {
        None | Some(Err(LifecycleError::Sandbox(SandboxError::Mounts(_)))) => {
            alive(owner.as_fd())?;
            root::mount(&create.bundle, &create.mounts)?;
            from(Root::Bundle)
        }
        Some(made) => made,
    };
    match made {
        Ok((container, spawned)) => Ok(Done::spawned(spawned, container.warnings().to_vec())),
        Err(error) => {
            // The first error is what matters.
            let _ = root::unmount(&create.bundle);
            Err(of_process(error, &program(&config)))
        }
    }
}

/// Whether the shim lives; when it does not, containerd has removed what there was, and nothing new is made.
fn alive(owner: BorrowedFd<'_>) -> Result<(), Refusal> {
    match sandbox::has_hung_up(owner) {
        true => Err(LifecycleError::Abandoned.into()),
        false => Ok(()),
    }
}

fn exec(
    mut container: Container,
    process: &Value,
    own: [BorrowedFd<'_>; 2],
) -> Result<Done, Refusal> {
    keep_apart(container.isolation(), own)?;
    let exec = Exec { process, preserve_fds: 0, cgroup: None };
    let program = process["args"][0].as_str().unwrap_or_default();
    let spawned = container.exec(&exec, false).map_err(|error| of_process(error, program))?;
    Ok(Done::spawned(spawned, Vec::new()))
}

/// Lets a container's process execute its program; what its hooks failed at.
///
/// # Errors
/// What execve(2) says, in the words that containerd's clients look for.
pub(crate) fn start(mut container: Container) -> Result<Vec<String>, Refusal> {
    container.start().map_err(|error| {
        let program = container.config().map(|config| program(&config)).unwrap_or_default();
        of_process(error, &program)
    })
}

fn delete(root: &StateRoot, id: &str, force: bool) -> Result<Done, Refusal> {
    match root.get(id).and_then(|container| container.delete(force)) {
        Ok(warnings) => Ok(Done { warnings, ..Done::default() }),
        Err(LifecycleError::NotFound | LifecycleError::Damaged { .. }) if force => {
            // What is damaged, or was hardly begun.
            root.discard(id)?;
            Ok(Done::default())
        }
        Err(error) => Err(error.into()),
    }
}

fn program(config: &Config) -> String {
    let process = config.spec().process.as_ref();
    process.and_then(|process| process.args.first()).cloned().unwrap_or_default()
}

/// In the words that containerd's clients look for.
fn of_process(error: LifecycleError, program: &str) -> Refusal {
    let message = error.of_process(program);
    Refusal::from(error).in_words(message)
}
