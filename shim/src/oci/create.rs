//! `create` and `run`: containers from bundles.

use std::path::{Path, PathBuf};

use super::{
    Context, OciError, Parsed, context::id, descriptors::Descriptors, foreground, signals::Signals,
};
use crate::{
    lifecycle::{Container, CreateOptions, LifecycleError},
    sandbox::{self, Config, ConfigError, Isolation, Root, Spawned, Wish},
    session::note,
    template,
};

const CONFIG: &str = "config.json";

pub(super) fn create(context: &Context<'_>, parsed: &Parsed) -> Result<u8, OciError> {
    make(context, parsed, true).map_err(failed("create"))?;
    Ok(0)
}

pub(super) fn run(context: &Context<'_>, parsed: &Parsed) -> Result<u8, OciError> {
    run_it(context, parsed).map_err(failed("run"))
}

fn failed(verb: &'static str) -> impl FnOnce(OciError) -> OciError {
    move |error| OciError::Create { verb, message: error.to_string() }
}

fn run_it(context: &Context<'_>, parsed: &Parsed) -> Result<u8, OciError> {
    let detach = parsed.has("detach");
    let (mut container, spawned, program) = make(context, parsed, detach)?;
    let signals = if detach { None } else { Some(Signals::block().map_err(signals_failed)?) };
    match container.start() {
        Ok(warnings) => context.warn(&warnings),
        Err(error) => {
            let message = error.of_process(&program);
            // The first error is what matters.
            let _ = container.delete(true);
            return Err(OciError::Refused(message));
        }
    }
    let Some(signals) = signals else { return Ok(0) };
    let Spawned { pid, master } = spawned;
    let code = foreground::wait(pid, master, &signals, |signal| {
        // It may have ended by now.
        let _ = container.kill(signal, false);
    })
    .map_err(signals_failed)?;
    if !parsed.has("keep") {
        match container.delete(true) {
            Ok(warnings) => context.warn(&warnings),
            // Somebody else was faster.
            Err(LifecycleError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(code)
}

fn signals_failed(error: std::io::Error) -> OciError {
    OciError::Refused(format!("cannot wait for the container: {error}"))
}

fn make(
    context: &Context<'_>,
    parsed: &Parsed,
    detach: bool,
) -> Result<(Container, Spawned, String), OciError> {
    let id = id(parsed);
    let bundle = PathBuf::from(parsed.some("bundle").unwrap_or("."));
    let descriptors = Descriptors::of(parsed)?;
    let config = read(&bundle)?.with_environment(&descriptors.environment())?;
    let process = config.spec().process.as_ref();
    let console_socket = parsed.some("console-socket").map(Path::new);
    check_terminal(process.is_some_and(|process| process.terminal), detach, console_socket)?;
    let isolation = context.choice.isolation(&config)?;
    context.debug(&format!("container {id}: isolation {isolation}, bundle {}", bundle.display()));
    sandbox::keep_from_containers(isolation)?;
    let (mode, tenant) = match isolation {
        Isolation::Host => (None, None),
        Isolation::Vm => (context.choice.template(&config)?, context.choice.tenant(&config)?),
    };
    let tell = |step: template::Step| step.note().into_iter().for_each(|text| note(&text));
    let options = CreateOptions {
        id,
        bundle: &bundle,
        config: &config,
        isolation,
        root: Root::Bundle,
        console_socket,
        pid_file: parsed.some("pid-file").map(Path::new),
        preserve_fds: descriptors.count,
        no_pivot: parsed.has("no-pivot"),
        no_new_keyring: parsed.has("no-new-keyring"),
        systemd_cgroup: context.systemd_cgroup,
        template: Wish { mode, tenant: tenant.as_deref(), tell: &tell },
        owner: None,
    };
    let program = process.and_then(|process| process.args.first()).cloned().unwrap_or_default();
    match context.root.create(&options) {
        Ok((container, spawned)) => {
            context.warn(container.warnings());
            Ok((container, spawned, program))
        }
        Err(error) => Err(OciError::Refused(error.of_process(&program))),
    }
}

fn read(bundle: &Path) -> Result<Config, OciError> {
    match Config::read(&bundle.join(CONFIG)) {
        Err(ConfigError::Missing(_)) if !bundle.is_dir() => {
            let why = "no such file or directory";
            Err(OciError::Refused(format!("chdir {}: {why}", bundle.display())))
        }
        read => Ok(read?),
    }
}

/// Somebody must have the terminal, and nobody can have one that is not there.
pub(super) fn check_terminal(
    terminal: bool,
    detach: bool,
    console_socket: Option<&Path>,
) -> Result<(), OciError> {
    let why = match (terminal, detach, console_socket) {
        (true, true, None) => {
            "cannot allocate tty if bulkhead-oci will detach without setting console socket"
        }
        (false, _, Some(_)) | (_, false, Some(_)) => {
            "cannot use console socket if bulkhead-oci will not detach or allocate tty"
        }
        _ => return Ok(()),
    };
    Err(OciError::Refused(why.into()))
}
