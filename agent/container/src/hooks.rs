//! Runs hooks (config.md, "POSIX-platform Hooks"; runtime.md, "Lifecycle"): programs that get the container's state on
//! their standard input and must end well, in time.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{PipeReader, Read, Seek, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::MemfdFlags,
    io::Errno,
    process::{Pid, PidfdFlags},
};
use serde::Serialize;

use crate::{
    error::Error,
    spec::{Hook, Spec},
};

/// What is kept of a hook's output for the error that it ends with.
const MAX_OUTPUT: usize = 4096;

/// A container's state as hooks and users get it (runtime.md, "State"), without what changes.
#[derive(Debug, Clone, Default, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    oci_version: String,
    id: String,
    bundle: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Full<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

impl State {
    /// Of container `id`, whose bundle has this absolute path.
    #[must_use]
    pub fn new(id: &str, bundle: &str, spec: &Spec) -> Self {
        Self {
            oci_version: spec.oci_version.clone(),
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            annotations: spec.annotations.clone(),
        }
    }

    pub(crate) fn bundle(&self) -> &str {
        &self.bundle
    }

    /// The state as JSON. `status` is one of the specification's words; `pid` is absent when there is no process.
    #[must_use]
    pub fn json(&self, status: &str, pid: Option<i32>) -> Vec<u8> {
        let State { oci_version, id, bundle, annotations } = self;
        // Strings and numbers can always be written.
        serde_json::to_vec(&Full { oci_version, id, status, pid, bundle, annotations })
            .unwrap_or_default()
    }
}

/// Runs hooks in order, in this process's namespaces, with `state` on their standard input. `which` is their list's name
/// in the specification. The first one that fails ends it.
///
/// # Errors
/// [`Error::Hook`] when one cannot be run, fails, or takes too long; it has ended then.
pub fn run(hooks: &[Hook], state: &[u8], which: &'static str) -> Result<(), Error> {
    run_with(hooks, state, which, None)
}

/// Runs hooks in order as [`run`] does, but all of them, and returns what went wrong.
#[must_use]
pub fn run_all(hooks: &[Hook], state: &[u8], which: &'static str) -> Vec<Error> {
    (0..).zip(hooks).filter_map(|(at, hook)| one(hook, at, state, which, None).err()).collect()
}

/// `environment`: what hooks without one of their own get; `None`: this process's.
pub(crate) fn run_with(
    hooks: &[Hook],
    state: &[u8],
    which: &'static str,
    environment: Option<&[String]>,
) -> Result<(), Error> {
    (0..).zip(hooks).try_for_each(|(at, hook)| one(hook, at, state, which, environment))
}

/// Finds what is wrong with hooks before one is run. `here`: their paths are this process's.
///
/// # Errors
/// [`Error::Invalid`].
pub(crate) fn check(hooks: &[Hook], which: &'static str, here: bool) -> Result<(), Error> {
    for (number, hook) in hooks.iter().enumerate() {
        let wrong = |field: &str, value: &str, why: &'static str| {
            Err(Error::invalid(format!("hooks.{which}[{number}].{field}"), value, why))
        };
        if !hook.path.starts_with('/') {
            return wrong("path", &hook.path, "an absolute path is wanted");
        }
        if here && !Path::new(&hook.path).is_file() {
            return wrong("path", &hook.path, "there is no such program");
        }
        if let Some(timeout @ ..=0) = hook.timeout {
            return wrong("timeout", &timeout.to_string(), "more than 0 seconds are wanted");
        }
        let strings = hook.args.iter().chain(hook.env.iter().flatten()).chain([&hook.path]);
        if let Some(bad) = strings.into_iter().find(|text| text.contains('\0')) {
            return wrong("args or env", bad, "it holds a zero byte");
        }
    }
    Ok(())
}

fn one(
    hook: &Hook,
    number: usize,
    state: &[u8],
    which: &'static str,
    environment: Option<&[String]>,
) -> Result<(), Error> {
    let failed = |why: String| Error::Hook { which, number, path: hook.path.clone(), why };
    let (child, output) =
        spawn(hook, state, environment).map_err(|error| failed(error.to_string()))?;
    let timeout = hook.timeout.and_then(|seconds| u64::try_from(seconds).ok());
    let deadline = timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    match wait(child, output, deadline).map_err(|error| failed(error.to_string()))? {
        End::Well => Ok(()),
        End::Late => Err(failed(format!(
            "it was killed because it took longer than {} s",
            timeout.unwrap_or_default()
        ))),
        End::Badly(status, output) => {
            let text = String::from_utf8_lossy(&output);
            let text = text.trim().replace('\n', " | ");
            let colon = if text.is_empty() { "" } else { ": " };
            Err(failed(format!("{status}{colon}{text}")))
        }
    }
}

enum End {
    Well,
    Badly(std::process::ExitStatus, Vec<u8>),
    Late,
}

fn spawn(
    hook: &Hook,
    state: &[u8],
    environment: Option<&[String]>,
) -> std::io::Result<(Child, PipeReader)> {
    // A file, not a pipe: a hook that does not read it holds nobody up.
    let mut input = File::from(rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC)?);
    input.write_all(state)?;
    input.rewind()?;
    let (output, theirs) = std::io::pipe()?;
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    let environment = hook.env.as_deref().or(environment);
    if let Some(entries) = environment {
        command.env_clear();
        command.envs(entries.iter().filter_map(|entry| entry.split_once('=')));
    }
    let child =
        command.stdin(input).stdout(theirs.try_clone()?).stderr(Stdio::from(theirs)).spawn()?;
    Ok((child, output))
}

/// Takes the output until the hook has ended; processes that it leaves behind are not waited for.
fn wait(
    mut child: Child,
    mut output: PipeReader,
    deadline: Option<Instant>,
) -> std::io::Result<End> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let mut kept = Vec::new();
    let mut open = true;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            child.kill()?;
            child.wait()?;
            return Ok(End::Late);
        }
        let timeout = left.map(Timespec::try_from).and_then(Result::ok);
        let wanted = if open { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = [
            PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN),
            PollFd::new(&output, wanted),
        ];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Err(Errno::INTR) => continue,
            ready => ready?,
        };
        let (ended, said) = (!fds[0].revents().is_empty(), fds[1].revents());
        if open && !said.is_empty() {
            let mut chunk = [0; MAX_OUTPUT];
            let count = output.read(&mut chunk)?;
            open = count != 0;
            let room = MAX_OUTPUT - kept.len();
            kept.extend_from_slice(chunk.get(..count.min(room)).unwrap_or_default());
        } else if ended {
            let status = child.wait()?;
            return Ok(if status.success() { End::Well } else { End::Badly(status, kept) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            ..Hook::default()
        }
    }

    #[test]
    fn they_get_the_state_and_their_environment() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let mut hook =
            shell(&format!("{{ cat; echo; echo $0 $A ${{B-none}}; }} > {}", out.display()));
        hook.args[0] = "sh".into();
        hook.env = Some(vec!["A=a=b".into()]);
        let spec = Spec { oci_version: "1.2.0".into(), ..Spec::default() };
        let state = State::new("c", "/b", &spec).json("creating", Some(7));
        run(&[hook], &state, "prestart").unwrap();
        assert_eq!(
            std::fs::read_to_string(out).unwrap(),
            "{\"ociVersion\":\"1.2.0\",\"id\":\"c\",\"status\":\"creating\",\"pid\":7,\"bundle\":\"/b\"}\nsh a=b none\n"
        );
    }

    #[test]
    fn the_first_failure_ends_it_unless_all_are_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let touch = |name: &str| shell(&format!("touch {}", dir.path().join(name).display()));
        let hooks = [touch("a"), shell("echo out; echo bad >&2; exit 3"), touch("b")];
        let error = run(&hooks, b"{}", "createRuntime").unwrap_err().to_string();
        assert!(error.contains("hooks.createRuntime[1]") && error.contains("out | bad"), "{error}");
        assert!(dir.path().join("a").exists() && !dir.path().join("b").exists());
        assert_eq!(run_all(&hooks, b"{}", "poststop").len(), 1);
        assert!(dir.path().join("b").exists());
        let missing = Hook { path: "/no/such".into(), ..Hook::default() };
        assert!(run(&[missing], b"", "poststart").unwrap_err().to_string().contains("/no/such"));
    }

    #[test]
    fn one_that_takes_too_long_is_killed() {
        let mut hook = shell("exec sleep 1000");
        hook.timeout = Some(1);
        let error = run(&[hook], b"{}", "prestart").unwrap_err().to_string();
        assert!(error.contains("longer than 1 s"), "{error}");
    }

    #[test]
    fn what_cannot_be_run_is_found_early() {
        for (path, timeout, here, fine) in [
            ("bin/sh", None, true, false),
            ("", None, true, false),
            ("/no/such", None, true, false),
            ("/no/such", None, false, true),
            ("/bin/sh", Some(0), true, false),
            ("/bin/sh", Some(1), true, true),
        ] {
            let hook = Hook { path: path.into(), timeout, ..Hook::default() };
            let checked = check(&[hook], "prestart", here);
            assert_eq!(checked.is_ok(), fine, "{path} {timeout:?}: {checked:?}");
        }
    }
}
