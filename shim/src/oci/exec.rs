//! `exec`: one more process in a container.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    Context, OciError, Parsed, create::check_terminal, descriptors::Descriptors, foreground,
    signals::Signals,
};
use crate::{
    lifecycle::{Container, LifecycleError, send_console, write_pid_file},
    sandbox::{self, Config, Exec, Spawned},
};

/// The capability sets that `--cap` adds to; the ambient one would need the inheritable one, which runc leaves alone.
const SETS: [&str; 3] = ["bounding", "effective", "permitted"];

pub(super) fn exec(context: &Context<'_>, parsed: &Parsed) -> Result<u8, OciError> {
    run(context, parsed).map_err(|error| OciError::Exec(error.to_string()))
}

fn run(context: &Context<'_>, parsed: &Parsed) -> Result<u8, OciError> {
    let mut container = context.container(parsed)?;
    sandbox::keep_from_containers(container.isolation())?;
    let descriptors = Descriptors::of(parsed)?;
    let mut process = process(&container, parsed)?;
    extend(&mut process, "env", descriptors.environment().into_iter().map(Value::from));
    let terminal = process["terminal"].as_bool().unwrap_or(false);
    let detach = parsed.has("detach");
    let console_socket = parsed.some("console-socket").map(Path::new);
    check_terminal(terminal, detach, console_socket)?;
    let exec =
        Exec { process: &process, preserve_fds: descriptors.count, cgroup: parsed.some("cgroup") };
    let program = process["args"][0].as_str().unwrap_or_default();
    let failed = |error| OciError::Refused(format!("cannot wait for the process: {error}"));
    // Before the process can say anything: whoever hears it may signal this one at once.
    let signals = if detach { None } else { Some(Signals::block().map_err(failed)?) };
    let mut spawned = container
        .exec(&exec, parsed.has("ignore-paused"))
        .map_err(|error| OciError::Refused(error.of_process(program)))?;
    if let Err(error) = hand_over(parsed, &mut spawned, console_socket) {
        // Nobody has got it.
        let _ = rustix::process::kill_process(spawned.pid, rustix::process::Signal::KILL);
        return Err(error.into());
    }
    let Some(signals) = signals else { return Ok(0) };
    let Spawned { pid, master } = spawned;
    let forward = |signal| {
        // It is not reaped before this loop ends, so that nobody else has its number; SIGKILL and SIGSTOP cannot come.
        if let Some(signal) = rustix::process::Signal::from_named_raw(signal) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    };
    foreground::wait(pid, master, &signals, forward).map_err(failed)
}

fn hand_over(
    parsed: &Parsed,
    spawned: &mut Spawned,
    console_socket: Option<&Path>,
) -> Result<(), LifecycleError> {
    if let Some(socket) = console_socket
        && let Some(master) = spawned.master.take()
    {
        send_console(socket, &master)?;
    }
    match parsed.some("pid-file") {
        Some(path) => write_pid_file(Path::new(path), spawned.pid),
        None => Ok(()),
    }
}

/// From a file, or the container's own with what the flags say.
fn process(container: &Container, parsed: &Parsed) -> Result<Value, OciError> {
    if let Some(path) = parsed.some("process") {
        return Ok(Config::read_json(Path::new(path))?);
    }
    let args = parsed.arguments.get(1..).unwrap_or_default();
    if args.is_empty() {
        return Err(OciError::Refused("process args cannot be empty".into()));
    }
    let mut process = container.config()?.value()?["process"].take();
    process["args"] = json!(args);
    process["terminal"] = json!(parsed.has("tty"));
    // Its size is that of the container's own terminal.
    process["consoleSize"].take();
    let text = [("cwd", "cwd"), ("process-label", "selinuxLabel"), ("apparmor", "apparmorProfile")];
    for (flag, property) in text {
        if let Some(value) = parsed.some(flag) {
            process[property] = json!(value);
        }
    }
    if let Some(value) = parsed.one("no-new-privs") {
        process["noNewPrivileges"] = json!(value != "false" && parsed.has("no-new-privs"));
    }
    for cap in parsed.all("cap") {
        if process["capabilities"].is_null() {
            process["capabilities"] = json!({});
        }
        SETS.iter().for_each(|set| extend(&mut process["capabilities"], set, [json!(cap)]));
    }
    extend(&mut process, "env", parsed.all("env").map(Value::from));
    user(&mut process, parsed)?;
    Ok(process)
}

fn user(process: &mut Value, parsed: &Parsed) -> Result<(), OciError> {
    if process["user"].is_null() {
        process["user"] = json!({"uid": 0, "gid": 0});
    }
    let user = &mut process["user"];
    let number = |text: &str, what: &str| {
        text.parse::<u32>()
            .map(Value::from)
            .map_err(|_| OciError::Refused(format!("parsing {text} as int for {what} failed")))
    };
    if let Some(wanted) = parsed.some("user") {
        let (uid, gid) = wanted.split_once(':').map_or((wanted, None), |(u, g)| (u, Some(g)));
        user["uid"] = number(uid, "uid")?;
        if let Some(gid) = gid {
            user["gid"] = number(gid, "gid")?;
        }
    }
    for gids in parsed.all("additional-gids") {
        for gid in gids.split(',') {
            let gid = number(gid.trim(), "additional-gids")?;
            extend(user, "additionalGids", [gid]);
        }
    }
    Ok(())
}

/// Adds to a list of an object; what is not one becomes one.
fn extend(object: &mut Value, name: &str, more: impl IntoIterator<Item = Value>) {
    let value = &mut object[name];
    if !value.is_array() {
        *value = json!([]);
    }
    if let Some(list) = value.as_array_mut() {
        list.extend(more);
    }
}
