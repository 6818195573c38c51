//! Finds what is wrong with a specification before anything is made of it. Each error names the property by its path in
//! `config.json`.

use std::path::Path;

use crate::{
    error::Error,
    hooks,
    identity::Identity,
    mount::Mounts,
    namespace::Namespaces,
    program::Program,
    seccomp::Filter,
    spec::{Hooks, Linux, Spec},
    sysctl::Sysctls,
};

/// Where the container will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// On this host.
    Host,
    /// In a guest, alone with its kernel.
    Guest,
}

/// Checks a specification as far as that can be done without making anything.
///
/// # Errors
/// [`Error::Invalid`] for the first property that cannot be had.
pub fn check(spec: &Spec, target: Target) -> Result<(), Error> {
    if !spec.oci_version.starts_with("1.") {
        let why =
            if spec.oci_version.is_empty() { "it is missing" } else { "1.0 to 1.2 are known" };
        return Err(Error::invalid("ociVersion", &spec.oci_version, why));
    }
    let Some(root) = &spec.root else {
        return Err(Error::invalid("root", "null", "config.json must have it"));
    };
    if root.path.is_empty() || root.path.contains('\0') {
        return Err(Error::invalid("root.path", &root.path, "a directory is wanted"));
    }
    let Some(process) = &spec.process else {
        return Err(Error::invalid("process", "null", "config.json must have it"));
    };
    Program::new(process)?;
    Identity::new(process, None, rustix::thread::CapabilitySet::all())?;
    let fallback = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&fallback);
    let namespaces = Namespaces::new(linux)?;
    if target == Target::Host {
        namespaces.check_paths()?;
    }
    Mounts::new(&spec.mounts, "", false)?;
    Sysctls::new(&linux.sysctl, &namespaces, target == Target::Guest)?;
    linux.seccomp.as_ref().map(Filter::compile).transpose()?;
    spec.hooks.as_ref().map_or(Ok(()), check_hooks)
}

fn check_hooks(hooks: &Hooks) -> Result<(), Error> {
    let Hooks { prestart, create_runtime, create_container, start_container, poststart, poststop } =
        hooks;
    for (hooks, which, here) in [
        (prestart, "prestart", true),
        (create_runtime, "createRuntime", true),
        (create_container, "createContainer", true),
        (start_container, "startContainer", false),
        (poststart, "poststart", true),
        (poststop, "poststop", true),
    ] {
        hooks::check(hooks, which, here)?;
    }
    Ok(())
}

/// The directory `root.path`, below the bundle unless it is absolute.
///
/// # Errors
/// [`Error::Invalid`] when it is not a directory.
pub fn root_directory(spec: &Spec, bundle: &Path) -> Result<std::path::PathBuf, Error> {
    let path = spec.root.as_ref().map(|root| root.path.as_str()).unwrap_or_default();
    let full = bundle.join(path);
    let wrong = |why| Error::invalid("root.path", path, why);
    // The kernel wants to see the place itself, not a link to it.
    let full = full.canonicalize().map_err(|_| wrong("there is no such directory"))?;
    if full.is_dir() { Ok(full) } else { Err(wrong("it is not a directory")) }
}
