//! The shim's own process: serves the task service until no container is left.

use std::{
    env,
    ffi::OsStr,
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use containerd_shim_protos::{
    shim_async::create_task,
    ttrpc::asynchronous::{Server, transport::Listener},
};
use rustix::process::{Pid, set_child_subreaper};

use crate::{
    address,
    args::Args,
    handover, log,
    refusal::{Refusal, cannot},
    service::Service,
    task::Shim,
};

/// The name of the service in the generated code, and that by which containerd before 2.0 calls the same one.
const SERVICE: &str = "containerd.task.v3.Task";
const SERVICE_BEFORE: &str = "containerd.task.v2.Task";
/// Where containerd hears events, when it does not say it: beside its own socket.
const EVENTS_SUFFIX: &str = ".ttrpc";
/// Threads that wait for guests and helpers.
const THREADS: usize = 64;
const STACK: usize = 256 << 10;
/// How long an idle one is kept.
const IDLE: Duration = Duration::from_secs(2);
/// Bytes beside which the listener comes.
const MAX_HANDED_OVER: u64 = 16;
/// How long containerd may take to hear the last events.
const LAST_EVENTS: Duration = Duration::from_secs(10);
/// How long the last answer may take to be written.
const LAST_ANSWER: Duration = Duration::from_millis(5);

/// Serves at the listener that comes over the socket that is this process's standard input. When none comes, whoever started this process was
/// killed, and containerd does not know of it.
///
/// # Errors
/// What it needs cannot be had.
pub(crate) fn serve(args: &Args, program: &OsStr) -> Result<(), Refusal> {
    args.check_names()?;
    let socket = take_socket()?;
    let bundle = env::current_dir().map_err(cannot("find the bundle"))?;
    log::open(&bundle, &args.id, args.debug);
    // The bundle of its first container may go before this process.
    env::set_current_dir("/").map_err(cannot("leave the bundle"))?;
    // Processes that helpers leave come here.
    set_child_subreaper(Some(Pid::INIT)).map_err(cannot("be a subreaper"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(THREADS)
        .thread_stack_size(STACK)
        .thread_keep_alive(IDLE)
        .build()
        .map_err(cannot("start the runtime"))?;
    let shim = Shim::new(&args.namespace, PathBuf::from(program))?;
    // The rest of the start takes about as long as all of the above.
    let Ok((_, Some(listener))) = handover::receive(&socket, MAX_HANDED_OVER) else {
        return address::abandon(&args.socket);
    };
    drop(socket);
    let listener = UnixListener::from(listener);
    let served = runtime.block_on(run(Arc::new(shim), listener, events_address(args)));
    if let Err(refusal) = &served {
        log::warn(refusal);
    }
    address::remove(&args.socket)?;
    runtime.shutdown_background();
    served
}

/// Standard input moves to where no process's streams are.
fn take_socket() -> Result<UnixStream, Refusal> {
    let socket = rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3)
        .map_err(cannot("use the socket"))?;
    let null = File::open("/dev/null").map_err(cannot("open /dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(cannot("use the socket"))?;
    Ok(OwnedFd::into(socket))
}

fn events_address(args: &Args) -> String {
    let named = env::var("TTRPC_ADDRESS").ok().filter(|address| !address.is_empty());
    let path = named.unwrap_or_else(|| format!("{}{EVENTS_SUFFIX}", args.address));
    if path.contains("://") { path } else { format!("unix://{path}") }
}

async fn run(shim: Arc<Shim>, listener: UnixListener, events: String) -> Result<(), Refusal> {
    let exits = tokio::spawn(Arc::clone(&shim.exits).serve());
    let delivery = tokio::spawn(Arc::clone(&shim.events).deliver(events));
    listener.set_nonblocking(true).map_err(cannot("use the socket"))?;
    let listener = Listener::try_from(listener).map_err(cannot("use the socket"))?;
    let services = || create_task(Arc::new(Service::new(Arc::clone(&shim))));
    // A service cannot be copied, so that it is made once for each name.
    let before = services().into_iter().map(|(name, service)| {
        (if name == SERVICE { SERVICE_BEFORE.to_owned() } else { name }, service)
    });
    let mut server = Server::new()
        .add_listener(listener)
        .register_service(services())
        .register_service(before.collect());
    server.start().await.map_err(cannot("serve"))?;
    tokio::select! {
        () = shim.over.notified() => {}
        ended = exits => ended.map_err(cannot("wait for processes"))??,
    }
    shim.events.flush(LAST_EVENTS).await;
    delivery.abort();
    tokio::time::sleep(LAST_ANSWER).await;
    Ok(())
}
