//! Finds what is wrong with a specification before anything is made of it. Each error names the property by its path in
//! `config.json`.

use std::path::Path;

use rustix::thread::CapabilitySet;

use crate::{
    affinity::Affinity,
    cgroup,
    error::Error,
    hooks,
    identity::Identity,
    lsm,
    mount::{self, Mounts},
    namespace::Namespaces,
    path, personality,
    program::Program,
    seccomp::Filter,
    spec::{DeviceType, Hooks, Linux, NamespaceType, Process, Spec},
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
    Identity::new(process, None, CapabilitySet::all())?;
    Affinity::new(process.exec_cpu_affinity.as_ref())?;
    check_process(process)?;
    let fallback = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&fallback);
    let namespaces = Namespaces::new(linux)?;
    if target == Target::Host {
        namespaces.check_paths()?;
        lsm::check(process, linux.mount_label.as_deref())?;
    }
    check_name("hostname", spec.hostname.as_deref(), &namespaces)?;
    check_name("domainname", spec.domainname.as_deref(), &namespaces)?;
    Mounts::new(&spec.mounts, "", false)?;
    Sysctls::new(&linux.sysctl, &namespaces, target == Target::Guest)?;
    linux.seccomp.as_ref().map(Filter::compile).transpose()?;
    check_linux(linux)?;
    spec.hooks.as_ref().map_or(Ok(()), check_hooks)
}

fn check_process(process: &Process) -> Result<(), Error> {
    if let Some(score) = process.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
        return Err(Error::invalid("process.oomScoreAdj", score, "-1000 to 1000 are wanted"));
    }
    if let Some(umask) = process.user.umask.filter(|umask| *umask > 0o777) {
        let why = "permission bits, at most 511 (0777), are wanted";
        return Err(Error::invalid("process.user.umask", umask, why));
    }
    Ok(())
}

/// As long as the kernel takes it (uname(2)).
const MAX_NAME: usize = 64;

pub(crate) fn check_name(
    field: &'static str,
    name: Option<&str>,
    namespaces: &Namespaces,
) -> Result<(), Error> {
    match name {
        None | Some("") => Ok(()),
        Some(name) if !namespaces.has(NamespaceType::Uts) => {
            Err(Error::invalid(field, name, "it needs a uts namespace in linux.namespaces"))
        }
        Some(name) if name.len() > MAX_NAME || name.contains('\0') => {
            Err(Error::invalid(field, name, "at most 64 bytes, none of them zero, are wanted"))
        }
        Some(_) => Ok(()),
    }
}

fn check_linux(linux: &Linux) -> Result<(), Error> {
    linux.personality.as_ref().map(personality::parse).transpose()?;
    if let Some(name) = linux.rootfs_propagation.as_deref().filter(|name| !name.is_empty())
        && mount::propagation(name).is_none()
    {
        let why = "shared, slave, private or unbindable is wanted";
        return Err(Error::invalid("linux.rootfsPropagation", name, why));
    }
    if linux.intel_rdt.is_some() {
        let why = "resctrl is not supported; leave it out";
        return Err(Error::invalid("linux.intelRdt", "{}", why));
    }
    for (list, paths) in
        [("maskedPaths", &linux.masked_paths), ("readonlyPaths", &linux.readonly_paths)]
    {
        for (number, path) in paths.iter().enumerate() {
            if !path.starts_with('/') || path.contains('\0') || path::climbs_out(path) {
                let why = "an absolute path below the root is wanted";
                return Err(Error::invalid(format!("linux.{list}[{number}]"), path, why));
            }
        }
    }
    for (number, device) in linux.devices.iter().enumerate() {
        let wrong = |field: &str, value: &str, why: &'static str| {
            Err(Error::invalid(format!("linux.devices[{number}].{field}"), value, why))
        };
        let path = &device.path;
        if !path.starts_with('/') || path.contains('\0') || path::climbs_out(path) {
            return wrong("path", path, "an absolute path below the root is wanted");
        }
        if device.kind == DeviceType::All {
            return wrong("type", "a", "b, c, u or p is wanted");
        }
        if let Some(mode) = device.file_mode.filter(|mode| mode & !0o7777 & !0o170_000 != 0) {
            return wrong("fileMode", &mode.to_string(), "permission bits are wanted");
        }
    }
    linux
        .resources
        .as_ref()
        .map_or(Ok(()), |resources| cgroup::limits_anything(resources).map(drop))
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
