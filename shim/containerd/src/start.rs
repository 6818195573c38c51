//! `start`: leaves a shim behind, and prints where it listens. A container of a pod gets the address of the pod's shim.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use containerd_shim_protos::protobuf::{Message, well_known_types::any::Any};

use crate::{
    address::{self, Socket},
    args::Args,
    handover,
    options::Options,
    refusal::{Refusal, at, cannot},
};

/// What the listener goes beside.
const HANDED_OVER: &[u8] = b"L";
/// The largest options.
const MAX_OPTIONS: u64 = 1 << 20;
/// The highest score (proc(5), `oom_score_adj`).
const MAX_SCORE: i32 = 1000;
const CGROUPS: &str = "/sys/fs/cgroup";

/// Starts a shim for the bundle in the working directory, unless its pod has one.
///
/// # Errors
/// What the shim needs cannot be had.
pub(crate) fn start(args: &Args, program: &OsStr) -> Result<(), Refusal> {
    args.check_names()?;
    let bundle = env::current_dir().map_err(cannot("find the bundle"))?;
    let options = options(program)?;
    let group = address::group(&bundle, &args.id)?;
    let path = address::path(&args.address, &args.namespace, &group);
    if address::is_served(&path) {
        return address::note(&bundle, &path).and_then(|()| print(&path));
    }
    // It ends by itself, and removes the socket, when this process does before it has handed over the listener.
    let (ours, theirs) = UnixStream::pair().map_err(cannot("make a socket"))?;
    let mut shim = spawn(args, program, &path, theirs)?;
    let settled = settle(&shim, &bundle, &path, &options, &ours);
    if !matches!(settled, Ok(Settled::Here)) {
        // Nobody knows of it. It may have ended.
        let _ = shim.kill().and_then(|()| shim.wait());
    }
    match settled {
        Ok(Settled::Here) => Ok(()),
        Ok(Settled::Elsewhere) => address::note(&bundle, &path).and_then(|()| print(&path)),
        Err(refusal) => {
            address::abandon(&path)?;
            Err(refusal)
        }
    }
}

/// Who serves the containers of the group.
enum Settled {
    /// The shim that was started.
    Here,
    /// One that another call has started meanwhile.
    Elsewhere,
}

fn spawn(args: &Args, program: &OsStr, path: &Path, stdin: UnixStream) -> Result<Child, Refusal> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(program)
        .args(["-namespace", &args.namespace, "-id", &args.id, "-address", &args.address])
        .arg("-socket")
        .arg(path)
        .args(args.debug.then_some("-debug"))
        .stdin(Stdio::from(OwnedFd::from(stdin)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    command.spawn().map_err(cannot("start the shim"))
}

/// Gives the shim its socket. That is the last that is done: it serves when containerd knows of it.
fn settle(
    shim: &Child,
    bundle: &Path,
    path: &Path,
    options: &Options,
    socket: &UnixStream,
) -> Result<Settled, Refusal> {
    let Socket::Fresh(listener) = address::listen(path)? else { return Ok(Settled::Elsewhere) };
    place(shim.id(), options)?;
    address::note(bundle, path)?;
    print(path)?;
    handover::send(socket, HANDED_OVER, Some(listener.as_fd()))
        .map_err(cannot("reach the shim"))?;
    Ok(Settled::Here)
}

/// What containerd reads.
fn print(path: &Path) -> Result<(), Refusal> {
    let mut out = io::stdout();
    write!(out, "{}", address::url(path))
        .and_then(|()| out.flush())
        .map_err(cannot("print the address"))
}

/// What containerd sends at standard input.
fn options(program: &OsStr) -> Result<Options, Refusal> {
    let mut bytes = Vec::new();
    io::stdin()
        .take(MAX_OPTIONS)
        .read_to_end(&mut bytes)
        .map_err(cannot("read the runtime's options"))?;
    let sent = Any::parse_from_bytes(&bytes)
        .map_err(|error| Refusal::invalid(format!("the runtime's options: {error}")))?;
    Options::of(Some(&sent), Path::new(program))
}

/// Puts the shim into the cgroup that the options name, and lets it die before containerd does when the host has no memory left.
fn place(pid: u32, options: &Options) -> Result<(), Refusal> {
    if !options.shim_cgroup.is_empty() {
        join(pid, options.shim_cgroup.trim_start_matches('/'))?;
    }
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    if let Ok(score) = own.trim().parse::<i32>() {
        let score = (score + 1).min(MAX_SCORE);
        let file = format!("/proc/{pid}/oom_score_adj");
        fs::write(&file, score.to_string()).map_err(at("write", Path::new(&file)))?;
    }
    Ok(())
}

/// In every hierarchy that has the group.
fn join(pid: u32, group: &str) -> Result<(), Refusal> {
    let hierarchies = fs::read_dir(CGROUPS).map_err(at("read", Path::new(CGROUPS)))?;
    let mut roots = vec![Path::new(CGROUPS).to_owned()];
    roots.extend(hierarchies.filter_map(|entry| Some(entry.ok()?.path())));
    let files = roots.into_iter().map(|root| root.join(group).join("cgroup.procs"));
    let mut files = files.filter(|file| file.exists()).peekable();
    if files.peek().is_none() {
        return Err(Refusal::invalid(format!("shim_cgroup {group}: there is no such cgroup")));
    }
    files.try_for_each(|file| fs::write(&file, pid.to_string()).map_err(at("write", &file)))
}
