//! What a container of the bench may do: as `bulkhead run` has it, and with every privilege that can be given.

use std::{fs, path::Path};

use bulkhead_rootfs::Image;
use serde_json::{Value, json};

use crate::{
    bench::BenchError,
    container::{
        root::ROOTFS,
        spec::{self, Wishes},
    },
    settings::Isolation,
};

/// What a container may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// What `bulkhead run` allows
    Default,
    /// All capabilities, every device, no filter of system calls, nothing masked or read-only
    Privileged,
}

/// The scout's file in a container: a bind mount, as containers have some of them.
const SCOUT: &str = "/.bulkhead-scout";
/// The last version of the specification that crun 1.8 and runc 1.1 know.
const SPEC_VERSION: &str = "1.0.2";

/// A container's place and name.
#[derive(Debug)]
pub(in crate::bench) struct Names<'a> {
    /// The directory with the image's root.
    pub(in crate::bench) work: &'a Path,
    /// The scout's file on the host.
    pub(in crate::bench) scout: &'a Path,
    /// What the scout is to do.
    pub(in crate::bench) word: &'a str,
    /// Its cgroup.
    pub(in crate::bench) cgroup: &'a str,
}

/// The configuration of a container in which the scout does something as root.
///
/// # Errors
/// An image that cannot be used.
pub(in crate::bench) fn config(
    image: &Image,
    names: &Names<'_>,
    isolation: Isolation,
    profile: Profile,
) -> Result<Value, BenchError> {
    let words = [names.word.to_owned()];
    let rights = match profile {
        Profile::Default => Vec::new(),
        Profile::Privileged if isolation == Isolation::Vm => vec!["ALL".to_owned()],
        Profile::Privileged => own_capabilities(),
    };
    let wishes = Wishes {
        entrypoint: Some(SCOUT),
        command: &words,
        workdir: Some("/"),
        hostname: "bench",
        isolation,
        cgroup: names.cgroup,
        cap_add: &rights,
        ..Wishes::default()
    };
    let made = spec::build(&image.config, &wishes);
    let mut config = made
        .and_then(|spec| Ok(serde_json::to_value(spec)?))
        .map_err(|error| Box::new(error.into()))?;
    config["ociVersion"] = json!(SPEC_VERSION);
    config["root"]["path"] = json!(names.work.join(ROOTFS));
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.push(json!({
            "destination": SCOUT, "type": "bind", "source": names.scout, "options": ["bind", "ro"],
        }));
    }
    if profile == Profile::Privileged {
        privilege(&mut config);
    }
    Ok(config)
}

/// Takes away what keeps a container from its kernel.
fn privilege(config: &mut Value) {
    if let Some(linux) = config["linux"].as_object_mut() {
        for name in ["seccomp", "maskedPaths", "readonlyPaths"] {
            linux.remove(name);
        }
        linux["resources"]["devices"] = json!([{ "allow": true, "access": "rwm" }]);
    }
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        let kernels = matches!(mount["type"].as_str(), Some("sysfs" | "cgroup"));
        for option in mount["options"].as_array_mut().into_iter().flatten() {
            if kernels && option == "ro" {
                *option = json!("rw");
            }
        }
    }
}

/// A runtime cannot give what it does not have.
fn own_capabilities() -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    // They come in the order of their numbers.
    let all = bulkhead_container::capabilities().enumerate();
    all.filter(|(number, _)| mask >> number & 1 == 1).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_leave_nothing_in_the_way() {
        let mut config = json!({
            "linux": { "seccomp": {}, "maskedPaths": ["/proc/keys"], "readonlyPaths": [], "resources": { "devices": [] } },
            "mounts": [
                { "type": "sysfs", "options": ["nosuid", "ro"] },
                { "type": "bind", "options": ["bind", "ro"] },
            ],
        });
        privilege(&mut config);
        let expected = json!({
            "linux": { "resources": { "devices": [{ "allow": true, "access": "rwm" }] } },
            "mounts": [
                { "type": "sysfs", "options": ["nosuid", "rw"] },
                { "type": "bind", "options": ["bind", "ro"] },
            ],
        });
        assert_eq!(config, expected);
    }

    #[test]
    fn capabilities_are_this_process_s() {
        let own = own_capabilities();
        assert!(own.len() <= 41 && own.iter().all(|name| name.starts_with("CAP_")));
        if rustix::process::geteuid().is_root() {
            assert!(own.contains(&"CAP_CHOWN".to_owned()), "{own:?}");
        }
    }
}
