//! Makes an OCI runtime specification from an image's configuration and the user's flags, with docker's defaults.

use std::path::{Path, PathBuf};

use oci_spec::{
    image::ImageConfiguration,
    runtime::{Process, Spec},
};
use serde_json::{Value, json};

use super::{seccomp, user::User};
use crate::settings::Isolation;

/// Why no specification can be made.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Neither the image nor the user says what to run.
    #[error("the image names no program to run; give one after the image")]
    NoCommand,
    /// A `--tmpfs` that is none.
    #[error("--tmpfs {0}: an absolute directory is needed, then perhaps :size=…,mode=…")]
    Tmpfs(String),
    /// `-w` or the image's working directory is relative.
    #[error("the working directory {0:?} is not absolute")]
    Workdir(String),
    /// An `-e` without a name.
    #[error("-e {0}: a name, or NAME=VALUE, is needed")]
    Environment(String),
    /// A `-v` that is none.
    #[error(
        "-v {0}: HOST:DIR or HOST:DIR:ro is needed, with two absolute paths of which the first exists (named volumes are not supported)"
    )]
    Volume(String),
    /// A capability that is none.
    #[error("{0:?} is not a capability's name")]
    Capability(String),
    /// An inner contradiction of the flags and the specification's rules.
    #[error("no OCI specification can be made of these flags: {0}")]
    Build(#[from] serde_json::Error),
}

/// What the user asked for, beside the image.
#[derive(Debug, Default)]
pub struct Wishes<'a> {
    /// Replaces the image's entry point.
    pub entrypoint: Option<&'a str>,
    /// Replaces the image's command.
    pub command: &'a [String],
    /// `NAME=VALUE`, or `NAME` to take over from this process.
    pub env: &'a [String],
    /// Replaces the image's working directory.
    pub workdir: Option<&'a str>,
    /// The resolved user.
    pub user: User,
    /// The program gets a terminal.
    pub terminal: bool,
    /// Rows and columns of the terminal.
    pub console_size: Option<(u16, u16)>,
    /// The host name.
    pub hostname: &'a str,
    /// No write to the root.
    pub read_only: bool,
    /// `DIR[:OPTIONS]`.
    pub tmpfs: &'a [String],
    /// `HOST:DIR[:ro]`.
    pub volumes: &'a [String],
    /// What separates the container from this host.
    pub isolation: Isolation,
    /// The path of its cgroup.
    pub cgroup: &'a str,
    /// Limit in bytes of the container's memory.
    pub memory: Option<u64>,
    /// Limit of its CPUs' time.
    pub cpus: Option<f64>,
    /// Limit of its processes and threads.
    pub pids: Option<i64>,
    /// Capabilities beyond the default ones, or `ALL`.
    pub cap_add: &'a [String],
    /// Default capabilities that it does without, or `ALL`.
    pub cap_drop: &'a [String],
    /// Its network namespace; absent: a new one, or none of the host's for a microVM.
    pub network: Option<&'a Path>,
    /// Files of this host, and where the container reads them.
    pub files: &'a [(PathBuf, String)],
}

/// Capabilities that docker gives by default.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Paths that docker masks by default; runc and containerd do, too.
pub(crate) const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// Paths that are read-only in the same.
pub(crate) const READ_ONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Length of the CPU bandwidth period, in microseconds (cgroup v2, `cpu.max`).
const CPU_PERIOD: u32 = 100_000;

/// Makes the specification.
///
/// # Errors
/// [`SpecError`].
pub fn build(image: &ImageConfiguration, wishes: &Wishes<'_>) -> Result<Spec, SpecError> {
    let mut mounts = default_mounts();
    for tmpfs in wishes.tmpfs {
        mounts.push(tmpfs_mount(tmpfs)?);
    }
    for volume in wishes.volumes {
        mounts.push(bind_mount(volume)?);
    }
    for (file, destination) in wishes.files {
        mounts.push(json!({
            "destination": destination, "type": "bind", "source": file,
            "options": ["rbind", "rprivate", "ro", "nosuid", "noexec", "nodev"],
        }));
    }
    let namespaces = ["pid", "mount", "ipc", "uts", "cgroup"];
    let mut namespaces = namespaces.map(|kind| json!({ "type": kind })).to_vec();
    let mut linux = json!({
        "cgroupsPath": wishes.cgroup,
        "maskedPaths": MASKED,
        "readonlyPaths": READ_ONLY,
        "resources": resources(wishes),
    });
    // In a microVM the container owns the guest's network, and the kernel is its own.
    if wishes.isolation == Isolation::Host {
        linux["seccomp"] = seccomp::filter();
    }
    match wishes.network {
        Some(path) => namespaces.push(json!({ "type": "network", "path": path })),
        None if wishes.isolation == Isolation::Host => {
            namespaces.push(json!({ "type": "network" }))
        }
        None => {}
    }
    linux["namespaces"] = namespaces.into();
    let spec = json!({
        "ociVersion": "1.2.0",
        "hostname": wishes.hostname,
        "root": { "path": "rootfs", "readonly": wishes.read_only },
        "process": process(image, wishes)?,
        "mounts": mounts,
        "linux": linux,
    });
    Ok(serde_json::from_value(spec)?)
}

fn resources(wishes: &Wishes<'_>) -> Value {
    let mut resources = json!({ "devices": devices() });
    if let Some(limit) = wishes.memory {
        resources["memory"] = json!({ "limit": limit });
    }
    if let Some(cpus) = wishes.cpus {
        #[allow(clippy::cast_possible_truncation, reason = "at most 8192 CPUs by the command line")]
        let quota = (cpus * f64::from(CPU_PERIOD)) as i64;
        resources["cpu"] = json!({ "quota": quota, "period": CPU_PERIOD });
    }
    if let Some(limit) = wishes.pids {
        resources["pids"] = json!({ "limit": limit });
    }
    resources
}

/// Nothing but nodes may be made of any device, and those that every container has may be used.
fn devices() -> Value {
    json!([
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "c", "access": "m" },
        { "allow": true, "type": "b", "access": "m" },
        { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" },
        { "allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm" },
        { "allow": true, "type": "c", "major": 1, "minor": 7, "access": "rwm" },
        { "allow": true, "type": "c", "major": 1, "minor": 8, "access": "rwm" },
        { "allow": true, "type": "c", "major": 1, "minor": 9, "access": "rwm" },
        { "allow": true, "type": "c", "major": 5, "minor": 0, "access": "rwm" },
        { "allow": true, "type": "c", "major": 5, "minor": 2, "access": "rwm" },
        { "allow": true, "type": "c", "major": 136, "access": "rwm" },
    ])
}

fn process(image: &ImageConfiguration, wishes: &Wishes<'_>) -> Result<Process, SpecError> {
    let config = image.config().as_ref();
    let list =
        |field: Option<&Option<Vec<String>>>| field.and_then(Clone::clone).unwrap_or_default();
    let mut args = match wishes.entrypoint {
        Some("") => Vec::new(),
        Some(program) => vec![program.to_owned()],
        None => list(config.map(|config| config.entrypoint())),
    };
    if wishes.command.is_empty() && wishes.entrypoint.is_none() {
        args.extend(list(config.map(|config| config.cmd())));
    } else {
        args.extend_from_slice(wishes.command);
    }
    if args.first().is_none_or(String::is_empty) {
        return Err(SpecError::NoCommand);
    }
    let cwd = wishes
        .workdir
        .or_else(|| config.and_then(|config| config.working_dir().as_deref()))
        .filter(|dir| !dir.is_empty())
        .unwrap_or("/");
    if !cwd.starts_with('/') {
        return Err(SpecError::Workdir(cwd.into()));
    }
    let env = environment(list(config.map(|config| config.env())), wishes)?;
    let mut process = json!({
        "terminal": wishes.terminal,
        "user": {
            "uid": wishes.user.uid,
            "gid": wishes.user.gid,
            "additionalGids": wishes.user.additional_gids,
        },
        "args": args,
        "env": env,
        "cwd": cwd,
        "capabilities": capabilities(wishes)?,
    });
    if let (true, Some((rows, columns))) = (wishes.terminal, wishes.console_size) {
        process["consoleSize"] = json!({ "height": rows, "width": columns });
    }
    Ok(serde_json::from_value(process)?)
}

fn capabilities(wishes: &Wishes<'_>) -> Result<Value, SpecError> {
    let mut all: Vec<String> = bulkhead_container::capabilities().collect();
    all.sort_unstable();
    let named = |names: &[String]| -> Result<Vec<&String>, SpecError> {
        let mut found = Vec::new();
        for name in names {
            let upper = name.to_ascii_uppercase();
            let long = format!("CAP_{}", upper.strip_prefix("CAP_").unwrap_or(&upper));
            match all.iter().find(|known| **known == long) {
                Some(known) => found.push(known),
                None if upper == "ALL" => found.extend(&all),
                None => return Err(SpecError::Capability(name.clone())),
            }
        }
        Ok(found)
    };
    let (added, dropped) = (named(wishes.cap_add)?, named(wishes.cap_drop)?);
    let all_dropped = dropped.len() >= all.len();
    let given: Vec<_> = all
        .iter()
        .filter(|name| match all_dropped {
            true => added.contains(name),
            false => {
                (CAPABILITIES.contains(&name.as_str()) || added.contains(name))
                    && !dropped.contains(name)
            }
        })
        .collect();
    // Only root keeps capabilities over execve(2), as with docker.
    Ok(match wishes.user.uid {
        0 => json!({ "bounding": given, "effective": given, "permitted": given }),
        _ => json!({ "bounding": given }),
    })
}

fn environment(image: Vec<String>, wishes: &Wishes<'_>) -> Result<Vec<String>, SpecError> {
    // With a home said here, the agent need not look for it on the guest's disk.
    let home = wishes.user.home.as_deref().unwrap_or("/");
    let mut env = vec![
        DEFAULT_PATH.to_owned(),
        format!("HOSTNAME={}", wishes.hostname),
        format!("HOME={home}"),
    ];
    if wishes.terminal {
        env.push("TERM=xterm".into());
    }
    image
        .into_iter()
        .filter(|variable| variable.contains('='))
        .for_each(|variable| set_variable(&mut env, variable));
    set_wishes(&mut env, wishes.env)?;
    Ok(env)
}

/// Sets `NAME=VALUE`, in the place of one of that name.
pub fn set_variable(env: &mut Vec<String>, variable: String) {
    let name = variable.split('=').next().unwrap_or_default();
    match env.iter_mut().find(|known| known.split('=').next() == Some(name)) {
        Some(known) => *known = variable,
        None => env.push(variable),
    }
}

/// Sets what the user gave with `-e`: `NAME=VALUE`, or `NAME` to take over from this process.
///
/// # Errors
/// [`SpecError::Environment`].
pub fn set_wishes(env: &mut Vec<String>, wishes: &[String]) -> Result<(), SpecError> {
    for wish in wishes {
        match wish.split_once('=') {
            Some(("", _)) => return Err(SpecError::Environment(wish.clone())),
            Some(_) => set_variable(env, wish.clone()),
            None if wish.is_empty() => return Err(SpecError::Environment(wish.clone())),
            None => {
                if let Ok(value) = std::env::var(wish) {
                    set_variable(env, format!("{wish}={value}"));
                }
            }
        }
    }
    Ok(())
}

fn default_mounts() -> Vec<Value> {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        json!({
            "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        }),
    ]
}

fn tmpfs_mount(text: &str) -> Result<Value, SpecError> {
    let (destination, options) = text.split_once(':').unwrap_or((text, ""));
    if !destination.starts_with('/') || destination == "/" {
        return Err(SpecError::Tmpfs(text.into()));
    }
    let given = options.split(',').filter(|option| !option.is_empty());
    let options: Vec<&str> = ["nosuid", "nodev", "noexec"].into_iter().chain(given).collect();
    Ok(
        json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options }),
    )
}

/// `HOST:DIR[:ro|rw]`.
fn bind_mount(text: &str) -> Result<Value, SpecError> {
    let bad = || SpecError::Volume(text.into());
    let mut parts = text.split(':');
    let (Some(source), Some(destination)) = (parts.next(), parts.next()) else { return Err(bad()) };
    let access = match (parts.next(), parts.next()) {
        (None | Some("rw"), None) => "rw",
        (Some("ro"), None) => "ro",
        _ => return Err(bad()),
    };
    let good = source.starts_with('/') && destination.starts_with('/') && destination != "/";
    if !good || !std::path::Path::new(source).exists() {
        return Err(bad());
    }
    Ok(
        json!({ "destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", access] }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(config: Value) -> ImageConfiguration {
        serde_json::from_value(json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": [] }, "history": [],
        }))
        .unwrap()
    }

    fn args(image: &ImageConfiguration, wishes: &Wishes<'_>) -> Vec<String> {
        build(image, wishes).unwrap().process().as_ref().unwrap().args().clone().unwrap()
    }

    #[test]
    fn entry_point_and_command_combine_as_docker_does() {
        let image = image(json!({ "Entrypoint": ["/init"], "Cmd": ["serve"] }));
        let given = ["x".to_owned()];
        assert_eq!(args(&image, &Wishes::default()), ["/init", "serve"]);
        assert_eq!(args(&image, &Wishes { command: &given, ..Wishes::default() }), ["/init", "x"]);
        assert_eq!(args(&image, &Wishes { entrypoint: Some("/sh"), ..Wishes::default() }), ["/sh"]);
        let both = Wishes { entrypoint: Some("/sh"), command: &given, ..Wishes::default() };
        assert_eq!(args(&image, &both), ["/sh", "x"]);
        let none = Wishes { entrypoint: Some(""), ..Wishes::default() };
        assert!(matches!(build(&image, &none), Err(SpecError::NoCommand)));
    }

    #[test]
    fn the_environment_is_layered_by_name() {
        let image = image(json!({ "Cmd": ["x"], "Env": ["PATH=/opt", "A=1"] }));
        let env = ["A=2".to_owned(), "B=".to_owned(), "SURELY_NOT_SET_HERE".to_owned()];
        let wishes = Wishes { env: &env, hostname: "h", terminal: true, ..Wishes::default() };
        let spec = build(&image, &wishes).unwrap();
        let got = spec.process().as_ref().unwrap().env().clone().unwrap();
        assert_eq!(got, ["PATH=/opt", "HOSTNAME=h", "HOME=/", "TERM=xterm", "A=2", "B="]);
        let bad = ["=x".to_owned()];
        assert!(matches!(
            build(&image, &Wishes { env: &bad, ..Wishes::default() }),
            Err(SpecError::Environment(_))
        ));
    }

    #[test]
    fn flags_reach_the_specification() {
        let image = image(json!({ "Cmd": ["x"], "WorkingDir": "/srv" }));
        let tmpfs = ["/run:size=1m,exec".to_owned()];
        let wishes = Wishes {
            tmpfs: &tmpfs,
            read_only: true,
            memory: Some(7),
            cpus: Some(1.5),
            ..Wishes::default()
        };
        let spec = build(&image, &wishes).unwrap();
        assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
        assert_eq!(spec.process().as_ref().unwrap().cwd().to_str(), Some("/srv"));
        let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
        assert_eq!(resources.memory().unwrap().limit(), Some(7));
        assert_eq!(resources.cpu().as_ref().unwrap().quota(), Some(150_000));
        let mount = spec.mounts().as_ref().unwrap().last().unwrap().clone();
        assert_eq!(mount.destination().to_str(), Some("/run"));
        assert_eq!(
            mount.options().clone().unwrap(),
            ["nosuid", "nodev", "noexec", "size=1m", "exec"]
        );
        for bad in ["run", "/", ":size=1m"] {
            let tmpfs = [bad.to_owned()];
            let wishes = Wishes { tmpfs: &tmpfs, ..Wishes::default() };
            assert!(matches!(build(&image, &wishes), Err(SpecError::Tmpfs(_))), "{bad}");
        }
        let wishes = Wishes { workdir: Some("srv"), ..Wishes::default() };
        assert!(matches!(build(&image, &wishes), Err(SpecError::Workdir(_))));
    }

    #[test]
    fn only_root_gets_effective_capabilities() {
        let image = image(json!({ "Cmd": ["x"] }));
        let user = User { uid: 7, ..User::default() };
        let spec = build(&image, &Wishes { user, ..Wishes::default() }).unwrap();
        let caps = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
        assert!(caps.effective().as_ref().is_none_or(|set| set.is_empty()));
        assert_eq!(caps.bounding().as_ref().unwrap().len(), 14);
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let bounding = |add: &[&str], drop: &[&str]| {
            let owned =
                |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            let (add, drop) = (owned(add), owned(drop));
            let wishes = Wishes { cap_add: &add, cap_drop: &drop, ..Wishes::default() };
            let set = capabilities(&wishes)?["bounding"].clone();
            Ok::<_, SpecError>(serde_json::from_value::<Vec<String>>(set)?)
        };
        assert_eq!(bounding(&[], &["ALL"]).unwrap(), [""; 0]);
        assert_eq!(bounding(&["net_admin"], &["all"]).unwrap(), ["CAP_NET_ADMIN"]);
        assert_eq!(bounding(&["ALL"], &[]).unwrap().len(), 41);
        assert_eq!(bounding(&[], &["CAP_CHOWN", "KILL"]).unwrap().len(), 12);
        assert!(matches!(bounding(&["FLY"], &[]), Err(SpecError::Capability(_))));
    }

    #[test]
    fn volumes_are_directories_of_this_host() {
        let mount = bind_mount("/proc:/data:ro").unwrap();
        assert_eq!(
            (mount["source"].as_str(), mount["options"][2].as_str()),
            (Some("/proc"), Some("ro"))
        );
        assert_eq!(bind_mount("/proc:/data").unwrap()["options"][2], "rw");
        for bad in [
            "",
            "/proc",
            "name:/data",
            "/proc:data",
            "/proc:/",
            "/proc:/d:x",
            "/proc:/d:ro:z",
            "/no/such:/d",
        ] {
            assert!(matches!(bind_mount(bad), Err(SpecError::Volume(_))), "{bad}");
        }
    }

    #[test]
    fn a_network_is_a_namespace_and_its_files() {
        let image = image(json!({ "Cmd": ["x"] }));
        let files = [(PathBuf::from("/data/hosts"), "/etc/hosts".to_owned())];
        for isolation in [Isolation::Vm, Isolation::Host] {
            let network = Some(Path::new("/run/ns"));
            let wishes = Wishes { isolation, network, files: &files, ..Wishes::default() };
            let spec = serde_json::to_value(build(&image, &wishes).unwrap()).unwrap();
            let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
            let of = |namespace: &&Value| namespace["type"] == "network";
            let networks: Vec<_> = namespaces.iter().filter(of).collect();
            assert_eq!(networks, [&json!({ "type": "network", "path": "/run/ns" })]);
            let mount = spec["mounts"].as_array().unwrap().last().unwrap();
            assert_eq!(
                (&mount["source"], &mount["destination"]),
                (&json!("/data/hosts"), &json!("/etc/hosts"))
            );
            assert!(mount["options"].as_array().unwrap().contains(&json!("ro")));
        }
    }

    #[test]
    fn only_a_container_on_this_hosts_kernel_is_filtered() {
        let image = image(json!({ "Cmd": ["x"] }));
        for (isolation, filtered) in [(Isolation::Vm, false), (Isolation::Host, true)] {
            let spec = build(&image, &Wishes { isolation, ..Wishes::default() }).unwrap();
            let linux = spec.linux().as_ref().unwrap();
            assert_eq!(linux.seccomp().is_some(), filtered);
            assert_eq!(linux.namespaces().as_ref().unwrap().len(), if filtered { 6 } else { 5 });
        }
    }
}
