//! Makes a container: plans it, and forks its monitor, which does it.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use bulkhead_container::{Target, check, hooks};
use bulkhead_protocol::{Failure, FailureKind};
use bulkhead_vmm::api::{SerialOutput, VmConfig, Vsock};
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, WaitOptions, waitpid},
    rand::{GetRandomFlags, getrandom},
};
use serde_json::Value;

use super::{
    Create, Record, SandboxError, Spawned,
    admission::Admission,
    member,
    pod::{self, Place},
    remains,
    rewrite::{self, RewriteError, Role, SNAPSHOT_NAME, ThisHost},
    root::Media,
    shape,
    template::{self, Found},
};
use crate::{
    monitor::{self, VSOCK_DIRECTORY, VSOCK_NAME, message::Outcome, plan::Plan, process, terminal},
    sandbox::Root,
    settings::Settings,
    template::slots,
    timeline,
};

/// The guest's vsock context id; each VMM has a context of its own, so that all guests can have the same.
pub(crate) const GUEST_CID: u32 = 3;
/// A report is a record or an error of one line.
const MAX_REPORT: u64 = 1 << 20;

/// Makes a container and waits until it is there.
///
/// # Errors
/// [`SandboxError`]; nothing is left then.
pub(in crate::sandbox) fn create(
    create: &Create<'_>,
) -> Result<(Record, Spawned, Vec<String>), SandboxError> {
    let requested = timeline::now();
    if create.preserve_fds > 0 {
        return Err(no_descriptors(create.preserve_fds));
    }
    if create.systemd_cgroup {
        let why = "--systemd-cgroup: cgroups are made in the file system here, not by systemd; leave it out";
        return Err(SandboxError::Unsupported(why.into()));
    }
    let settings = Settings::load().map_err(|error| SandboxError::Failed(error.to_string()))?;
    let mut plan = plan(create, &settings, requested)?;
    let pod = plan.pod.clone();
    if let (Some(pod), Root::Mounts(_)) = (&pod, &create.root) {
        // Before anything is made: the caller can have the mounts as a directory instead.
        member::find_room(&plan, pod)?;
    }
    let Found { source, plan: template, warning } = match pod {
        None => template::find(&settings, &create.template, &plan.machine, &plan.vmm)?,
        // Its machine is there.
        Some(_) => Found::default(),
    };
    plan.template = template;
    let process = plan.host.get("process").unwrap_or(&Value::Null);
    let (master, slave) = if plan.terminal {
        let (master, slave) = terminal::open(process).map_err(failed("make a terminal"))?;
        (Some(master), Some(slave))
    } else {
        (None, None)
    };
    let (reports, report) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("make a pipe"))?;
    plan.owner = create
        .owner
        .map(|owner| owner.try_clone_to_owned())
        .transpose()
        .map_err(failed("keep the owner's pipe"))?;
    let owner = plan.owner.as_ref().map(AsFd::as_fd);
    let keep = process::numbers([report.as_fd()].into_iter().chain(owner));
    let pid = process::fork(slave, &keep, move || match pod {
        None => monitor::run(&plan, report),
        Some(pod) => member::run(&plan, &pod, report),
    })
    .map_err(failed("make the monitor"))?;
    match hear(reports) {
        Some(Outcome::Created { record, warnings, unfit }) => {
            if let Some(source) = source.filter(|_| unfit) {
                source.discard();
            }
            let warnings = warning.into_iter().chain(warnings).collect();
            Ok((*record, Spawned { pid, master }, warnings))
        }
        Some(Outcome::Failed(failure)) => {
            reap(pid);
            Err(refusal(failure))
        }
        None => {
            reap(pid);
            clean_up(create.dir)?;
            Err(SandboxError::Failed("the container's monitor was killed".into()))
        }
    }
}

pub(super) fn no_descriptors(count: u32) -> SandboxError {
    SandboxError::Unsupported(format!(
        "--preserve-fds {count}: open files of the host cannot be handed into a microVM (with --isolation host they can)"
    ))
}

/// Waits for the monitor's report; `None` when it ended without one.
fn hear(reports: OwnedFd) -> Option<Outcome> {
    let mut text = Vec::new();
    File::from(reports).take(MAX_REPORT).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn reap(pid: Pid) {
    // It is a child of this process, and was not waited for.
    while matches!(waitpid(Some(pid), WaitOptions::empty()), Err(rustix::io::Errno::INTR)) {}
}

/// Removes what a monitor left that could not do it itself.
fn clean_up(dir: &Path) -> Result<(), SandboxError> {
    match remains(dir)? {
        Some(record) => super::container::remove(&record, dir),
        None => Ok(()),
    }
}

/// The agent's or the monitor's refusal in the caller's words.
pub(super) fn refusal(Failure { kind, message }: Failure) -> SandboxError {
    match kind {
        FailureKind::ProgramNotFound => SandboxError::ProgramNotFound(message),
        FailureKind::ProgramNotExecutable => SandboxError::ProgramNotExecutable(message),
        FailureKind::State => SandboxError::State(message),
        FailureKind::Invalid => SandboxError::Invalid(message),
        FailureKind::System => SandboxError::Failed(message),
    }
}

pub(super) fn failed<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> SandboxError {
    move |error| SandboxError::Failed(format!("cannot {what}: {error}"))
}

impl From<RewriteError> for SandboxError {
    fn from(error: RewriteError) -> Self {
        match error {
            RewriteError::Unsupported { .. } => SandboxError::Unsupported(error.to_string()),
            _ => SandboxError::Invalid(error.to_string()),
        }
    }
}

fn plan(create: &Create<'_>, settings: &Settings, requested: u64) -> Result<Plan, SandboxError> {
    let directory = std::path::absolute(create.dir).map_err(failed("find the state directory"))?;
    let spec = create.config.spec();
    check(spec, Target::Guest)?;
    let host = create.config.value()?;
    let place = pod::place(&spec.annotations)?;
    let pod = match place {
        Place::Member(sandbox) => Some(pod::find(sandbox, &directory, create.id)?),
        Place::None | Place::Sandbox => None,
    };
    let mark = mark()?;
    let role = match place {
        Place::None => Role::Alone,
        Place::Sandbox => Role::Sandbox,
        Place::Member(_) => Role::Member(&mark),
    };
    let Media { root, disks, directory: shared, snapshot, read_only, upper, machine: options } =
        Media::find(create, spec, role, settings)?;
    let mut guest = rewrite::rewrite(&host, create.bundle, shared.as_deref(), role, &ThisHost)?;
    if read_only {
        guest.keep_root()?;
    }
    if let Some(snapshot) = snapshot {
        let name = role.name(SNAPSHOT_NAME);
        let mut share = rewrite::root_share(&name, &snapshot, false, &ThisHost)?;
        // The snapshotter keeps its own files beside the two directories.
        share.entries.iter_mut().for_each(|entry| entry.sealed = true);
        guest.shares.insert(0, share);
    }
    let missing = |error: crate::settings::SettingsError| SandboxError::Failed(error.to_string());
    let writes = disks.iter().any(|disk| !disk.read_only) || !guest.shares.is_empty();
    // Those that join may write, too.
    let sync = writes || place == Place::Sandbox;
    let pods = (place == Place::Sandbox).then(|| pod::limits(&spec.annotations));
    let sized = pods.as_ref().unwrap_or(&host);
    let mut machine = VmConfig {
        kernel: options.kernel.map_or_else(|| settings.kernel(), Ok).map_err(missing)?,
        initrd: Some(settings.initrd().map_err(missing)?),
        cmdline: String::new(),
        vcpus: options.vcpus.unwrap_or_else(|| shape::vcpus(sized)),
        memory_mib: options
            .memory_mib
            .unwrap_or_else(|| shape::memory_mib(sized, settings.memory.mib(), host_memory_mib())),
        disks,
        vsock: Some(Vsock {
            cid: GUEST_CID,
            path: directory.join(VSOCK_DIRECTORY).join(VSOCK_NAME),
        }),
        shares: guest.shares,
        nics: Vec::new(),
        serial: options.console_log.map(SerialOutput::File),
        backend: settings.backend,
        balloon: true,
        exchange: false,
        snapshot: None,
        restore: None,
    };
    if place == Place::Sandbox {
        slots::open_to_members(&mut machine);
    }
    Ok(Plan {
        id: create.id.to_owned(),
        bundle: create.bundle.to_string_lossy().into_owned(),
        directory,
        hooks: spec.hooks.clone().unwrap_or_default(),
        state: hooks::State::new(create.id, &create.bundle.to_string_lossy(), spec),
        terminal: host.pointer("/process/terminal").and_then(Value::as_bool).unwrap_or(false),
        oom_score: oom_score(&host),
        host,
        guest: guest.spec,
        root,
        upper,
        pod,
        owners: guest.owners,
        shared: guest.shared,
        memory: guest.memory,
        vmm: settings.vmm().map_err(missing)?,
        machine,
        template: None,
        network: guest.network,
        sync,
        admission: Admission::of(settings),
        boot_timeout: settings.boot_timeout,
        requested,
        notes: guest.notes,
        owner: None,
    })
}

/// A name that nothing in any machine's shares has had before.
fn mark() -> Result<String, SandboxError> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(failed("get random bytes"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// As of the process that the host would see without a machine.
fn oom_score(host: &Value) -> i32 {
    let asked = host.pointer("/process/oomScoreAdj").and_then(Value::as_i64);
    asked.and_then(|score| i32::try_from(score).ok()).unwrap_or(monitor::oom::USUAL)
}

fn host_memory_mib() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit)) >> 20
}
