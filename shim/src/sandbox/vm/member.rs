//! A container that joins a pod's microVM: a child of its maker that stands for it, as the monitor does for the sandbox. It opens what the container needs of the host,
//! has the pod's monitor make it, copies its streams, and ends with its code when nothing of it is left in the machine.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    time::{Duration, Instant},
};

use bulkhead_protocol::{ExitStatus, Failure};
use bulkhead_rootfs::snapshot::Upper;
use bulkhead_vmm::api::mount_of;
use rustix::event::{PollFd, PollFlags, poll};

use super::{
    ENDED, Ended, Record, SandboxError,
    client::{Client, gone},
    exec::{Proxy, Wanted},
    record::Pod,
    rewrite::{BINDS_TAG, Owners},
};
use crate::monitor::{
    LOST, Place, chain, log,
    message::{Answer, Ask, Join, JoinDisk, JoinEntry, Outcome},
    plan::Plan,
    signals, state_directory, system, tell, view, write,
};

/// How long the pod's guest may take to make it.
const PATIENCE: Duration = Duration::from_secs(300);

/// Asks whether the pod's machine has disks for the container.
///
/// # Errors
/// [`SandboxError::Mounts`]: not now.
pub(super) fn find_room(plan: &Plan, pod: &Pod) -> Result<(), SandboxError> {
    let wanted = plan.machine.disks.iter().map(JoinDisk::of).collect();
    let mut client = reach(pod).map_err(SandboxError::Failed)?;
    client.send(&Ask::Room(wanted)).map_err(gone)?;
    match client.answer().map_err(gone)? {
        Answer::Done(_) => Ok(()),
        Answer::Failed(failure) => Err(SandboxError::Mounts(failure.message)),
        other => Err(SandboxError::Failed(strange(&other))),
    }
}

fn reach(pod: &Pod) -> Result<Client, String> {
    Client::connect(&pod.directory, PATIENCE)
        .map_err(|error| format!("the pod's monitor cannot be reached: {error}"))
}

fn strange(answer: &Answer) -> String {
    format!("the pod's monitor answered {answer:?}")
}

/// Makes the container and stands for it; returns its exit code. `caller` is the writing end of a pipe, which carries the [`Outcome`].
pub(super) fn run(plan: &Plan, pod: &Pod, caller: OwnedFd) -> u8 {
    let mut place = Place::default();
    match make(plan, pod, &mut place, &caller) {
        Ok(Made { mut proxy, streams, record }) => {
            let record = Box::new(record);
            tell(caller, &Outcome::Created { record, warnings: Vec::new(), unfit: false });
            proxy.run(streams).unwrap_or(LOST)
        }
        Err(failure) => {
            place.leave(plan);
            tell(caller, &Outcome::Failed(failure));
            LOST
        }
    }
}

/// A container that waits for its start.
struct Made {
    proxy: Proxy,
    streams: Vec<OwnedFd>,
    record: Record,
}

fn make(plan: &Plan, pod: &Pod, place: &mut Place, caller: &OwnedFd) -> Result<Made, Failure> {
    let files = state_directory(plan)?;
    let (join, fds) = wish(plan)?;
    let record = place.seat(plan, &files)?;
    Place::hooks(plan)?;
    for note in &plan.notes {
        log(&files, note);
    }
    let wanted =
        Wanted { stdin: join.streams[0], stdout: join.streams[1], stderr: join.streams[2] };
    let failed = |error: SandboxError| system(error.to_string());
    let mut client = reach(pod).map_err(system)?;
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    client.send_with(&Ask::Join(Box::new(join)), &borrowed).map_err(|error| failed(gone(error)))?;
    drop(fds);
    wait(&client, caller)?;
    match client.answer().map_err(|error| failed(gone(error)))? {
        Answer::Started => {}
        Answer::Failed(failure) => return Err(failure),
        other => return Err(system(strange(&other))),
    }
    client.wait_for_ever().map_err(|error| system(format!("cannot wait for the pod: {error}")))?;
    let streams = client.take_fds();
    let upper = plan.upper.as_deref().map(Upper::open).transpose();
    let upper = upper.map_err(|error| system(chain(&error)))?;
    view::enter(plan).map_err(|fault| fault.failure())?;
    let at_end = Box::new(move |code, oom_killed| {
        // Nothing of the guest writes to it any more.
        if let Some(Err(error)) = upper.map(|upper| upper.settle()) {
            log(&files, &chain(&error));
        }
        write(&files, ENDED, &Ended { status: ExitStatus::Code(code), oom_killed });
    });
    Ok(Made { proxy: Proxy::of_member(client, wanted, at_end), streams, record })
}

/// Waits until the pod's monitor has an answer. Whoever wanted the container may go away meanwhile, or a signal may end this.
fn wait(client: &Client, caller: &OwnedFd) -> Result<(), Failure> {
    let signals = signals::descriptor().map_err(|error| system(format!("signals: {error}")))?;
    let until = Instant::now() + PATIENCE;
    loop {
        let mut sources = [
            PollFd::from_borrowed_fd(client.socket(), PollFlags::IN),
            PollFd::from_borrowed_fd(caller.as_fd(), PollFlags::empty()),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        let left = until.saturating_duration_since(Instant::now());
        let left = rustix::time::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut sources, Some(&left)) {
            Ok(0) => return Err(system("the pod's guest does not make the container")),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(system(format!("cannot wait for the pod: {errno}"))),
        }
        let ready = sources.map(|source| !source.revents().is_empty());
        if ready[0] {
            return Ok(());
        }
        if ready[1] {
            return Err(system("the process that asked for the container is gone"));
        }
        while let Some(signal) = signals::next(&signals) {
            if !matches!(signal, libc::SIGCONT | libc::SIGWINCH) {
                return Err(system(format!("signal {signal} ended this before the program ended")));
            }
        }
    }
}

/// What the pod's monitor is asked for, and the descriptors that go along.
fn wish(plan: &Plan) -> Result<(Join, Vec<OwnedFd>), Failure> {
    let mut fds: Vec<OwnedFd> = Vec::new();
    let mut disks = Vec::new();
    for disk in &plan.machine.disks {
        for path in &disk.files {
            let mut options = File::options();
            // A FIFO must not make this wait.
            options.read(true).write(!disk.read_only).custom_flags(libc::O_NONBLOCK);
            fds.push(options.open(path).map_err(cannot("open", path))?.into());
        }
        disks.push(JoinDisk::of(disk));
    }
    let mut entries = Vec::new();
    for share in &plan.machine.shares {
        for entry in &share.entries {
            let mount = mount_of(&entry.path, entry.read_only);
            let mount = mount.map_err(io::Error::from).map_err(cannot("share", &entry.path))?;
            let owners = plan.owners.get(&entry.name).filter(|_| share.tag == BINDS_TAG);
            if let Some(Owners { uids, gids, whole }) = owners {
                let name = entry.path.to_string_lossy();
                bulkhead_container::map_owners(mount.as_fd(), &name, *whole, uids, gids)
                    .map_err(|error| system(error.to_string()))?;
            }
            fds.push(mount);
            entries.push(JoinEntry {
                share: share.tag.clone(),
                name: entry.name.clone(),
                read_only: entry.read_only,
                sealed: entry.sealed,
            });
        }
    }
    let Wanted { stdin, stdout, stderr } = Wanted::here(plan.terminal);
    let join = Join {
        container: plan.id.clone(),
        bundle: plan.bundle.clone(),
        spec: plan.guest.clone(),
        root: plan.root.clone(),
        disks,
        entries,
        shared: plan.shared.clone(),
        memory: plan.memory.clone(),
        streams: [stdin, stdout, stderr],
        terminal: plan.terminal,
    };
    Ok((join, fds))
}

fn cannot<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Failure + 'a {
    move |error| system(format!("cannot {what} {}: {error}", path.display()))
}
