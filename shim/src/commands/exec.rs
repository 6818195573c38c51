//! `bulkhead exec`.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid},
    termios::{Winsize, tcsetwinsize},
};
use serde_json::{Value, json};
use signal_hook::consts::SIGWINCH;

use super::{
    CommandError,
    context::{Context, not_running},
    create::resolve_user,
};
use crate::{
    cli::ExecArgs,
    container::{Definition, Place, Status, spec},
    lifecycle::LifecycleError,
    sandbox::{Exec, Spawned},
    settings::Isolation,
    stdio::{RawMode, signals, window_size},
};

/// How long a terminal's last bytes may take after its program's end.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs another program in a running container.
pub(super) fn exec(args: &ExecArgs) -> Result<u8, CommandError> {
    if args.tty && args.interactive && !rustix::termios::isatty(io::stdin().as_fd()) {
        let message = "-t with -i: standard input is not a terminal; leave -t out";
        return Err(CommandError::Usage(message.into()));
    }
    let context = Context::open()?;
    let place = context.find(&args.container)?;
    if context.settled(&place)?.status != Status::Running {
        return Err(not_running(&place));
    }
    let definition = place.definition()?;
    if definition.isolation == Isolation::Host {
        // The container must not be able to write to the program that joins it. May begin this process anew.
        bulkhead_container::run_from_read_only()
            .map_err(|error| CommandError::Exec(LifecycleError::from(error)))?;
    }
    let process = process(&context, &place, &definition, args)?;
    let mut container = context.live(&place, &args.container)?;
    let streams = Streams::prepare(args)?;
    let made = container.exec(&Exec { process: &process, preserve_fds: 0, cgroup: None }, false);
    let spawned = match made {
        Ok(spawned) => spawned,
        Err(error) => {
            streams.restore()?;
            return Err(match error {
                LifecycleError::ExecPaused => CommandError::State(format!(
                    "Container {} is paused, unpause the container before exec",
                    args.container
                )),
                LifecycleError::ExecStopped | LifecycleError::NotFound => not_running(&place),
                error => CommandError::Exec(error),
            });
        }
    };
    if args.detach {
        return Ok(0);
    }
    join(spawned, args)
}

/// This process's standard error, kept aside while the program's is in its place.
struct Streams {
    stderr: OwnedFd,
}

impl Streams {
    /// The program inherits this process's standard streams, or nothing in their place.
    fn prepare(args: &ExecArgs) -> Result<Self, CommandError> {
        let prepare = || -> io::Result<Self> {
            let stderr = rustix::io::fcntl_dupfd_cloexec(io::stderr().as_fd(), 3)?;
            if args.tty {
                return Ok(Self { stderr });
            }
            let nothing = File::options().read(true).write(true).open("/dev/null")?;
            if !args.interactive {
                rustix::stdio::dup2_stdin(&nothing)?;
            }
            if args.detach {
                rustix::stdio::dup2_stdout(&nothing)?;
                rustix::stdio::dup2_stderr(&nothing)?;
            }
            Ok(Self { stderr })
        };
        prepare().map_err(|source| CommandError::File {
            what: "cannot pass the standard streams on".into(),
            source,
        })
    }

    fn restore(&self) -> Result<(), CommandError> {
        rustix::stdio::dup2_stderr(&self.stderr).map_err(|error| CommandError::Output(error.into()))
    }
}

/// The process that is asked for (OCI runtime-spec, config.md, "Process"): the container's own, but for what the user says.
fn process(
    context: &Context,
    place: &Place,
    definition: &Definition,
    args: &ExecArgs,
) -> Result<Value, CommandError> {
    let config = place.config()?;
    let mut process = config.get("process").cloned().unwrap_or_else(|| json!({}));
    process["args"] = json!(args.command);
    process["terminal"] = json!(args.tty);
    if let Some(fields) = process.as_object_mut() {
        fields.remove("consoleSize");
    }
    if let (true, Some(size)) = (args.tty, window_size()) {
        process["consoleSize"] = json!({ "height": size.rows, "width": size.columns });
    }
    let own = process["env"].as_array().cloned().unwrap_or_default();
    let mut env: Vec<String> =
        own.iter().filter_map(|variable| Some(variable.as_str()?.to_owned())).collect();
    if args.tty && !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    if let Some(dir) = &args.workdir {
        if !dir.starts_with('/') {
            return Err(spec::SpecError::Workdir(dir.clone()).into());
        }
        process["cwd"] = json!(dir);
    }
    if let Some(wanted) = &args.user {
        let image = context.store()?.get(&definition.image)?;
        let user = resolve_user(&image, Some(wanted))?;
        process["user"] = json!({
            "uid": user.uid,
            "gid": user.gid,
            "additionalGids": user.additional_gids,
        });
        let bounding = process["capabilities"]["bounding"].clone();
        process["capabilities"] = match user.uid {
            0 => json!({ "bounding": bounding, "effective": bounding, "permitted": bounding }),
            _ => json!({ "bounding": bounding }),
        };
        spec::set_variable(&mut env, format!("HOME={}", user.home.as_deref().unwrap_or("/")));
    }
    spec::set_wishes(&mut env, &args.env)?;
    process["env"] = json!(env);
    Ok(process)
}

/// Waits for the program's end; its terminal is this process's own until then.
fn join(spawned: Spawned, args: &ExecArgs) -> Result<u8, CommandError> {
    let Spawned { pid, master } = spawned;
    let copy = |master: &OwnedFd| master.try_clone().map_err(CommandError::Output);
    let raw = if args.tty && args.interactive { RawMode::enter()? } else { None };
    let resized = master.as_ref().map(copy).transpose()?;
    signals::listen(move |signal| {
        hear(signal, pid, resized.as_ref());
        true
    })?;
    let mut output = None;
    if let Some(master) = &master {
        let (from, to) = (copy(master)?, copy(master)?);
        if args.interactive {
            thread::spawn(move || pump(io::stdin().as_fd(), to.as_fd()));
        }
        output = Some(thread::spawn(move || pump(from.as_fd(), io::stdout().as_fd())));
    }
    let code = wait_for(pid)?;
    if let Some(output) = output {
        let deadline = Instant::now() + DRAIN;
        // A process that the program left may keep the terminal open.
        while !output.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
    drop(raw);
    Ok(code)
}

fn hear(signal: i32, pid: Pid, terminal: Option<&OwnedFd>) {
    if signal != SIGWINCH {
        if let Some(signal) = Signal::from_named_raw(signal) {
            // It may have ended already.
            let _ = kill_process(pid, signal);
        }
        return;
    }
    if let (Some(terminal), Some(size)) = (terminal, window_size()) {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        let _ = tcsetwinsize(terminal, size);
    }
}

/// Copies until either side takes or gives no more.
fn pump(from: impl AsFd, to: impl AsFd) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = match rustix::io::read(&from, &mut buffer[..]) {
            Ok(0) => return,
            Ok(length) => length,
            Err(Errno::INTR) => continue,
            Err(_) => return,
        };
        let mut rest = buffer.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            match rustix::io::write(&to, rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// Waits for the end of a child; its exit code, or 128 and the number of the signal that ended it.
pub(super) fn wait_for(pid: Pid) -> Result<u8, CommandError> {
    loop {
        match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                let code = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => u8::try_from(code).ok(),
                    (None, Some(signal)) => u8::try_from(128 + signal).ok(),
                    (None, None) => None,
                };
                return Ok(code.unwrap_or(u8::MAX));
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(CommandError::Output(error.into())),
        }
    }
}
