//! The program: from the command line to the exit code.

use std::{
    error::Error,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use event_manager::SubscriberOps;

use crate::{
    api::{End, MAX_LINE, Mark, RequestKind, Response, VmConfig},
    cli::Cli,
    control::{
        Clients, ListenError, Listener, Owner, OwnerError, Signals, Supervisor, block_signals,
    },
    machine::{Events, Machine, MachineError},
    notices::Notices,
    opened::{OpenError, Opened},
    validated::{ConfigError, Validated},
};

/// Why no machine ran. The chain of sources says why.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Owner(#[from] OwnerError),
    #[error("cannot read the configuration {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the configuration {0} is larger than {MAX_LINE} bytes")]
    TooLarge(PathBuf),
    #[error("the configuration {path} is wrong")]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot make the event loop")]
    Events(#[source] event_manager::Error),
    #[error("cannot prepare the process")]
    Process(#[source] io::Error),
}

/// Runs one machine. `started`: when `main` began, CLOCK_MONOTONIC in nanoseconds.
#[must_use]
pub fn run(cli: &Cli, started: u64) -> ExitCode {
    let mut owner = None;
    let end = run_machine(cli, started, &mut owner).unwrap_or_else(|error| {
        let end = End::Failed(chain(&error));
        if let Some(owner) = &mut owner {
            owner.finish(&end);
        }
        end
    });
    if !matches!(end, End::PowerOff | End::Stopped) {
        eprintln!("bulkhead-vmm: {end}");
    }
    ExitCode::from(end.exit_code())
}

fn run_machine(cli: &Cli, started: u64, owner: &mut Option<Owner>) -> Result<End, RunError> {
    let config = match (cli.owner_fd, &cli.config) {
        (Some(fd), _) => owner.insert(Owner::adopt(fd)?).configuration()?,
        (None, Some(path)) => read_config(path)?,
        (None, None) => read_config(Path::new("-"))?,
    };
    let config = Validated::new(config)?;
    reserve_descriptors();
    block_signals().map_err(RunError::Process)?;
    let notices = Arc::new(Notices::new().map_err(RunError::Process)?);
    notices.mark(Mark::ProcessStarted, started, 0);
    let mut events = Events::new().map_err(RunError::Events)?;
    let signals = Signals::new(Arc::clone(&notices)).map_err(RunError::Process)?;
    events.add_subscriber(Arc::new(Mutex::new(signals)));
    let mut opened = Opened::open(&config)?;
    let mut listener = cli.control.as_deref().map(Listener::bind).transpose()?;
    let mut jail = opened.enter_jail(&config, cli.control.as_deref().map(Listener::directory))?;
    if let (Some(listener), Some(directory)) = (&mut listener, jail.control.take()) {
        listener.moved_to(&directory);
    }
    if let Some(why) = &jail.without {
        eprintln!("bulkhead-vmm: the machine runs without a jail: {why}");
    }
    let shares = opened.serve_shares(&config, jail)?;
    let machine = Machine::start(config, opened, shares, &mut events, Arc::clone(&notices))?;
    let machine = Arc::new(machine);
    if let Some(listener) = listener {
        let clients = Clients::new(listener, Arc::clone(&machine), Arc::clone(&notices));
        events.add_subscriber(Arc::new(Mutex::new(clients)));
    }
    if let Some(owner) = owner {
        owner.set_nonblocking().map_err(RunError::Process)?;
    }
    let watch = cli.timeline.then_some(print_mark as fn(Mark, u64, u64));
    let supervisor =
        Supervisor::new(Arc::clone(&machine), Arc::clone(&notices), owner.take(), watch);
    let supervisor = Arc::new(Mutex::new(supervisor));
    events.add_subscriber(Arc::clone(&supervisor) as _);

    let end = loop {
        if let Some(end) = notices.ended() {
            break end;
        }
        if let Err(error) = events.run() {
            notices.end(End::Failed(format!("the event loop failed: {error}")));
        }
    };
    machine.stop();
    // Before KVM takes its time to free the machine.
    supervisor.lock().unwrap_or_else(PoisonError::into_inner).finish(&end);
    if cli.timeline {
        print_counters(&machine);
    }
    Ok(end)
}

/// Makes the table of descriptors large enough for a machine while the process has one thread: a table that several threads share grows only after
/// all processors have been waited for, which takes 10 ms.
fn reserve_descriptors() {
    const DESCRIPTORS: i32 = 256;
    // Where there may be no such number the table stays as it is.
    let _ = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), DESCRIPTORS - 1);
}

fn read_config(path: &Path) -> Result<VmConfig, RunError> {
    let read = |from: &mut dyn Read| {
        let mut text = Vec::new();
        from.take(MAX_LINE as u64 + 1).read_to_end(&mut text).map(|_| text)
    };
    let text = if path == Path::new("-") {
        read(&mut io::stdin())
    } else {
        File::open(path).and_then(|mut file| read(&mut file))
    }
    .map_err(|source| RunError::Read { path: path.to_owned(), source })?;
    if text.len() > MAX_LINE {
        return Err(RunError::TooLarge(path.to_owned()));
    }
    serde_json::from_slice(&text)
        .map_err(|source| RunError::Parse { path: path.to_owned(), source })
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

fn print_mark(mark: Mark, monotonic_ns: u64, instructions: u64) {
    let seconds = std::time::Duration::from_nanos(monotonic_ns).as_secs_f64();
    eprintln!("bulkhead-vmm: {seconds:.4} s: {mark:?}, {instructions} guest-kernel instructions");
}

fn print_counters(machine: &Machine) {
    match machine.serve(RequestKind::Counters, Vec::new()) {
        Ok(Response::Counters(counters)) => eprintln!("bulkhead-vmm: {counters:?}"),
        Ok(Response::Done) => {}
        Err(why) => eprintln!("bulkhead-vmm: {why}"),
    }
}
