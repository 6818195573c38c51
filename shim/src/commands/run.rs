//! `bulkhead run`: from an image's name to its program's exit code.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    path::PathBuf,
    sync::mpsc,
};

use bulkhead_protocol::{Create, Lower, Root, Stdio, Upper};
use bulkhead_rootfs::{Image, Source, Store, writable};

use super::CommandError;
use crate::{
    cli::{RunArgs, TimelineFormat},
    container::{
        directory::{Directory, Registry},
        spec::{self, Wishes},
        user,
    },
    progress::Bars,
    sandbox::{Machine, Vm},
    session::{Outcome, Plan, Session},
    settings::Settings,
    stdio::{signals, window_size},
    timeline::{Step, Timeline},
};

/// The smallest machine, in MiB.
const MIN_MEMORY: u64 = 64;
/// The streams' tokens: a guest has one container, whose process has two streams.
const MAIN_STREAM: u64 = 1;
const ERROR_STREAM: u64 = 2;
/// `/etc/passwd` and `/etc/group` are read up to this size.
const MAX_USER_FILE: u64 = 1 << 20;

/// Runs a program of an image; the exit code is for this process.
///
/// # Errors
/// [`CommandError`] when it is not the program that failed.
pub fn run(args: &RunArgs, started: u64) -> Result<u8, CommandError> {
    let mut timeline = Timeline::begin(started);
    let memory_mib = args.memory.mib();
    if memory_mib < MIN_MEMORY {
        return Err(usage(format!(
            "--memory {memory_mib} MiB is too small: a microVM needs {MIN_MEMORY}m or more"
        )));
    }
    if args.tty && args.interactive && !rustix::termios::isatty(io::stdin().as_fd()) {
        return Err(usage("-t with -i: standard input is not a terminal; leave -t out".into()));
    }
    let settings = Settings::load()?;
    let registry = Registry::open(&settings.run, &settings.data)?;
    let store = Store::open(&settings.data)?;
    let image = find_image(&store, &args.image)?;
    let stop_signal = stop_signal(args, &image)?;

    let (to_events, events) = mpsc::channel();
    signals::listen(to_events.clone())?;
    let directory = registry.create(args.name.as_deref(), &image.id.to_string())?;
    let plan = plan(args, &settings, &image, &directory, stop_signal)?;
    let writable = if args.read_only {
        None
    } else {
        writable::create(&store, &directory.writable(), args.disk_size.0)?;
        Some(directory.writable())
    };
    timeline.pass(Step::Prepared);

    let machine = machine(args, &settings, &image, &directory, writable)?;
    let vm = Vm::start(&machine, &to_events)?;
    timeline.pass(Step::VmmSpawned);
    let outcome = Session::new(&plan, &mut timeline, events, to_events).run();
    drop(vm);
    drop(directory);
    let outcome = outcome?;
    // With standard error closed the exit code has to do.
    let _ = report(&mut io::stderr(), &outcome, memory_mib)
        .and_then(|()| show(&mut io::stderr(), &timeline, args.timeline));
    Ok(outcome.status.shell_code())
}

fn find_image(store: &Store, reference: &str) -> Result<Image, CommandError> {
    if reference.starts_with("oci:") || reference.starts_with("docker-archive:") {
        let source = Source::parse(reference)?;
        return Ok(store.import(&source, None, &Bars::for_stderr())?);
    }
    Ok(store.get(reference)?)
}

fn stop_signal(args: &RunArgs, image: &Image) -> Result<i32, CommandError> {
    let of_image =
        image.config.config().as_ref().and_then(|config| config.stop_signal().as_deref());
    let text = args.stop_signal.as_deref().or(of_image).unwrap_or("SIGTERM");
    signals::number(text)
        .ok_or_else(|| usage(format!("{text:?} is not a signal's name or number (--stop-signal)")))
}

fn plan(
    args: &RunArgs,
    settings: &Settings,
    image: &Image,
    directory: &Directory,
    stop_signal: i32,
) -> Result<Plan, CommandError> {
    let file = |path: &str| -> Result<String, CommandError> {
        let bytes = image.read_file(path, MAX_USER_FILE)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let of_image = image.config.config().as_ref().and_then(|config| config.user().as_deref());
    let name = args.user.as_deref().or(of_image).unwrap_or_default();
    let user = user::resolve(name, &file("/etc/passwd")?, &file("/etc/group")?)?;
    let state = directory.state();
    let hostname = args.hostname.as_deref().unwrap_or(&state.id[..12]);
    let spec = spec::build(
        &image.config,
        &Wishes {
            entrypoint: args.entrypoint.as_deref(),
            command: &args.command,
            env: &args.env,
            workdir: args.workdir.as_deref(),
            user,
            terminal: args.tty,
            console_size: window_size().map(|size| (size.rows, size.columns)),
            hostname,
            read_only: args.read_only,
            tmpfs: &args.tmpfs,
            memory: container_memory(args.memory.mib()) << 20,
            cpus: args.cpus,
        },
    )?;
    let lower = Lower::Erofs { device: "/dev/vda".into() };
    // A read-only root gets its mount points in memory before the agent mounts it read-only.
    let upper =
        if args.read_only { Upper::Tmpfs } else { Upper::Ext4 { device: "/dev/vdb".into() } };
    let create = Create {
        container: state.id.clone(),
        spec: serde_json::to_value(spec).map_err(spec::SpecError::from)?,
        root: Root::Layers { lower, upper },
        stdio: Stdio {
            main: Some(MAIN_STREAM),
            stdin: args.interactive,
            stderr: (!args.tty).then_some(ERROR_STREAM),
        },
        shares: Vec::new(),
    };
    Ok(Plan {
        create,
        interactive: args.interactive,
        terminal: args.tty,
        stop_signal,
        boot_timeout: settings.boot_timeout,
    })
}

fn machine(
    args: &RunArgs,
    settings: &Settings,
    image: &Image,
    directory: &Directory,
    writable: Option<PathBuf>,
) -> Result<Machine, CommandError> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0.01 to 8 by the command line"
    )]
    let vcpus = args.cpus.ceil() as u8;
    Ok(Machine {
        vmm: settings.vmm()?,
        kernel: args.kernel.clone().map_or_else(|| settings.kernel(), Ok)?,
        initrd: settings.initrd()?,
        vcpus,
        memory_mib: args.memory.mib(),
        image: image.disk_files(),
        writable,
        console_log: args.console_log.clone(),
        backend: settings.backend,
        vsock: directory.vsock(),
        log: directory.vmm_log(),
    })
}

/// What the guest's kernel and agent leave of a machine's memory, in MiB: they keep 16 MiB, and a thirty-second for page structures and tables.
fn container_memory(machine_mib: u64) -> u64 {
    machine_mib - machine_mib / 32 - 16
}

/// Says what an exit code alone does not.
fn report(to: &mut impl Write, outcome: &Outcome, memory_mib: u64) -> io::Result<()> {
    if outcome.oom_killed && outcome.status.shell_code() == 137 {
        let limit = container_memory(memory_mib);
        writeln!(
            to,
            "bulkhead: out of memory: the container reached its {limit} MiB (--memory {memory_mib}m)"
        )?;
    }
    Ok(())
}

fn show(
    to: &mut impl Write,
    timeline: &Timeline,
    format: Option<TimelineFormat>,
) -> io::Result<()> {
    match format {
        None => Ok(()),
        Some(TimelineFormat::Table) => timeline.write_table(to),
        Some(TimelineFormat::Json) => writeln!(to, "{}", timeline.json()),
    }
}

fn usage(message: String) -> CommandError {
    CommandError::Usage(message)
}
