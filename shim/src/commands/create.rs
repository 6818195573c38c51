//! `bulkhead create`, and the first half of `bulkhead run`: from an image's name to a container that can be started.

use std::path::{Path, PathBuf};

use bulkhead_rootfs::{Image, Source, Store, writable};
use jiff::Timestamp;

use super::{
    CommandError,
    context::{Context, say},
};
use crate::{
    cli::{ContainerArgs, CreateArgs},
    cni::{self, Wish},
    container::{
        Definition, Place,
        id::short,
        spec::{self, Wishes},
        state::{Machine, Process},
        user::{self, User},
    },
    progress::Bars,
    settings::{Isolation, LogLimits},
    size::MemorySize,
    stdio::{signals, window_size},
    template::Tenant,
};

/// The smallest machine, in MiB.
const MIN_MEMORY: u64 = 64;
/// The most CPUs of a microVM.
const MAX_VCPUS: f64 = 8.0;
/// `/etc/passwd` and `/etc/group` are read up to this size.
const MAX_USER_FILE: u64 = 1 << 20;

/// Makes a container and prints its id.
pub(super) fn create(args: &CreateArgs) -> Result<u8, CommandError> {
    let context = Context::open()?;
    let place = make(&context, &args.container, Made { by_run: false, attached: false })?;
    say(&place.id)?;
    Ok(0)
}

/// What a container is made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    /// It is started at once, and goes if it cannot be.
    pub(super) by_run: bool,
    /// Its standard input, if it has one, is that of the command which makes it.
    pub(super) attached: bool,
}

/// Makes a container.
pub(super) fn make(
    context: &Context,
    args: &ContainerArgs,
    made: Made,
) -> Result<Place, CommandError> {
    let isolation = args.isolation.unwrap_or(context.settings.isolation);
    let machine = machine(context, args, isolation)?;
    let log = log_limits(context.settings.log, &args.log_opt)?;
    let network = network(context, args)?;
    let store = context.store()?;
    let image = find_image(&store, &args.image)?;
    let draft = context.registry.draft(&context.registry.guard()?, args.name.as_deref())?;
    let short_id = short(&draft.id);
    let namespace = context.registry.namespace(&draft.id);
    let files = match &network {
        Some(_) => files(context, args, isolation, &image, &draft.id),
        None => Vec::new(),
    };
    let spec = spec::build(
        &image.config,
        &Wishes {
            entrypoint: args.entrypoint.as_deref(),
            command: &args.command,
            env: &args.env,
            workdir: args.workdir.as_deref(),
            user: resolve_user(&image, args.user.as_deref())?,
            terminal: args.tty,
            console_size: window_size().map(|size| (size.rows, size.columns)),
            hostname: args.hostname.as_deref().unwrap_or(short_id),
            read_only: args.read_only,
            tmpfs: &args.tmpfs,
            volumes: &args.volume,
            isolation,
            cgroup: &format!("/bulkhead/{}", draft.id),
            memory: container_limit(args, isolation, &machine),
            cpus: args.cpus.or((isolation == Isolation::Vm).then_some(1.0)),
            pids: args.pids_limit,
            cap_add: &args.cap_add,
            cap_drop: &args.cap_drop,
            network: network.as_ref().map(|_| namespace.as_path()),
            files: &files,
        },
    )?;
    let program = spec.process().as_ref().and_then(|process| process.args().clone());
    let definition = Definition {
        id: draft.id.clone(),
        name: args.name.clone().unwrap_or_else(|| short_id.to_owned()),
        created: Timestamp::now(),
        image: image.id.to_string(),
        image_name: args.image.clone(),
        isolation,
        command: program.unwrap_or_default(),
        terminal: args.tty,
        interactive: args.interactive,
        stdin_once: args.interactive && made.attached,
        stop_signal: stop_signal(args, &image)?,
        auto_remove: args.rm,
        maker: made.by_run.then(Process::own),
        read_only: args.read_only,
        log,
        machine,
        network,
    };
    draft.write_config(&spec)?;
    if isolation == Isolation::Vm && !args.read_only {
        writable::create(&store, &draft.file("writable.ext4"), args.disk_size.0)?;
    }
    Ok(context.registry.publish(&context.registry.guard()?, draft, &definition)?)
}

/// The network that is asked for, which there is.
fn network(context: &Context, args: &ContainerArgs) -> Result<Option<Wish>, CommandError> {
    let config_dir = args.cni_config_dir.as_deref();
    let Some(wish) = Wish::of(args.network.as_deref(), &args.publish, config_dir)? else {
        return Ok(None);
    };
    if !rustix::process::geteuid().is_root() {
        return Err(CommandError::Usage(
            "--network and -p need root; --network none does not".into(),
        ));
    }
    wish.check(&context.settings.network)?;
    Ok(Some(wish))
}

/// The files in `/etc` of a container with a network: where they will be, and where it sees them. What the user mounts stays what it is.
fn files(
    context: &Context,
    args: &ContainerArgs,
    isolation: Isolation,
    image: &Image,
    id: &str,
) -> Vec<(PathBuf, String)> {
    let targets = args.volume.iter().map(|volume| volume.split(':').nth(1));
    let temporary = args.tmpfs.iter().map(|tmpfs| tmpfs.split(':').next());
    let mounted: Vec<&str> = targets.chain(temporary).flatten().collect();
    // Without a writable layer a microVM has no place for a file that the image does not have.
    let bare = isolation == Isolation::Vm && args.read_only;
    let at = |name: &str| (context.registry.file(id, name), format!("/etc/{name}"));
    cni::NAMES
        .map(at)
        .into_iter()
        .filter(|(_, path)| {
            let taken = mounted.iter().any(|target| {
                let target = target.trim_end_matches('/');
                target == "/etc" || target == path
            });
            let has = || matches!(image.read_file(path, MAX_USER_FILE), Ok(Some(_)));
            !taken && (!bare || has())
        })
        .collect()
}

/// The image of a name, an id or a source; that is imported.
pub(crate) fn find_image(store: &Store, reference: &str) -> Result<Image, CommandError> {
    if reference.starts_with("oci:") || reference.starts_with("docker-archive:") {
        let source = Source::parse(reference)?;
        return Ok(store.import(&source, None, &Bars::for_stderr())?);
    }
    Ok(store.get(reference)?)
}

fn stop_signal(args: &ContainerArgs, image: &Image) -> Result<i32, CommandError> {
    let of_image =
        image.config.config().as_ref().and_then(|config| config.stop_signal().as_deref());
    let text = args.stop_signal.as_deref().or(of_image).unwrap_or("SIGTERM");
    signals::number(text).ok_or_else(|| {
        CommandError::Usage(format!("{text:?} is not a signal's name or number (--stop-signal)"))
    })
}

/// The user of these words, or of the image's, as the image knows him.
pub(crate) fn resolve_user(image: &Image, wanted: Option<&str>) -> Result<User, CommandError> {
    let file = |path: &str| -> Result<String, CommandError> {
        let bytes = image.read_file(path, MAX_USER_FILE)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let of_image = image.config.config().as_ref().and_then(|config| config.user().as_deref());
    let name = wanted.or(of_image).unwrap_or_default();
    Ok(user::resolve(name, &file("/etc/passwd")?, &file("/etc/group")?)?)
}

fn machine(
    context: &Context,
    args: &ContainerArgs,
    isolation: Isolation,
) -> Result<Machine, CommandError> {
    if isolation == Isolation::Host {
        let given = [
            ("--kernel", args.kernel.is_some()),
            ("--console-log", args.console_log.is_some()),
            ("--template", args.template.is_some()),
            ("--tenant", args.tenant.is_some()),
        ];
        if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
            return Err(CommandError::Usage(format!(
                "{flag} is for a microVM; leave it out with --isolation host"
            )));
        }
        if !rustix::process::geteuid().is_root() {
            return Err(CommandError::Usage(
                "--isolation host needs root; the isolation vm does not".into(),
            ));
        }
        return Ok(Machine::default());
    }
    if let Some(tenant) = &args.tenant {
        Tenant::new(Some(tenant))?;
    }
    let memory_mib = machine_memory(args.memory.unwrap_or(context.settings.memory))?;
    let vcpus = machine_cpus(args.cpus)?;
    let absolute = |path: &Option<PathBuf>| {
        path.as_deref().and_then(|path: &Path| std::path::absolute(path).ok())
    };
    Ok(Machine {
        memory_mib,
        vcpus,
        kernel: absolute(&args.kernel),
        console_log: absolute(&args.console_log),
        template: args.template,
        tenant: args.tenant.clone(),
    })
}

/// A microVM's memory in MiB.
pub(super) fn machine_memory(size: MemorySize) -> Result<u64, CommandError> {
    let memory_mib = size.mib();
    if memory_mib < MIN_MEMORY {
        return Err(CommandError::Usage(format!(
            "--memory {size} is too small: a microVM needs {MIN_MEMORY}m or more"
        )));
    }
    Ok(memory_mib)
}

/// A microVM's processors, for a container that may use so many.
pub(super) fn machine_cpus(cpus: Option<f64>) -> Result<u8, CommandError> {
    let cpus = cpus.unwrap_or(1.0);
    if cpus > MAX_VCPUS {
        return Err(CommandError::Usage(format!(
            "--cpus {cpus} is too many: a microVM has {MAX_VCPUS} at most"
        )));
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0.01 to 8, which was checked"
    )]
    Ok(cpus.ceil() as u8)
}

/// The container's own limit, in bytes.
fn container_limit(args: &ContainerArgs, isolation: Isolation, machine: &Machine) -> Option<u64> {
    match isolation {
        Isolation::Vm => Some(guest_memory(machine.memory_mib) << 20),
        Isolation::Host => args.memory.map(|size| size.0),
    }
}

/// What the guest's kernel and agent leave of a machine's memory, in MiB: they keep 16 MiB, and a thirty-second for page structures and tables.
pub(super) fn guest_memory(machine_mib: u64) -> u64 {
    machine_mib.saturating_sub(machine_mib / 32 + 16)
}

fn log_limits(defaults: LogLimits, options: &[String]) -> Result<LogLimits, CommandError> {
    let mut limits = defaults;
    for option in options {
        let bad = || {
            CommandError::Usage(format!(
                "--log-opt {option}: max-size=SIZE or max-file=N is needed, each at least 1"
            ))
        };
        match option.split_once('=').ok_or_else(bad)? {
            ("max-size", size) => limits.max_size = size.parse().map_err(|_| bad())?,
            ("max-file", count) => limits.max_file = count.parse().map_err(|_| bad())?,
            _ => return Err(bad()),
        }
        if limits.max_size == MemorySize(0) || limits.max_file == 0 {
            return Err(bad());
        }
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_options_are_dockers() {
        let limits = |options: &[&str]| {
            let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
            log_limits(LogLimits::default(), &options)
        };
        let set = limits(&["max-size=10k", "max-file=3"]).unwrap();
        assert_eq!(set, LogLimits { max_size: MemorySize(10 << 10), max_file: 3 });
        assert_eq!(limits(&[]).unwrap(), LogLimits::default());
        for bad in ["max-size", "max-size=0", "max-file=0", "max-file=x", "tag=x"] {
            assert!(limits(&[bad]).is_err(), "{bad}");
        }
    }
}
