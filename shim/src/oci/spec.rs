//! `spec`: a configuration to begin with.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write},
    path::Path,
};

use serde_json::{Value, json};

use super::{OciError, Parsed, output};

const FULL: &str = include_str!("spec.json");

pub(super) fn spec(parsed: &Parsed) -> Result<u8, OciError> {
    let text = if parsed.has("rootless") { rootless()? } else { FULL.to_owned() };
    let path = Path::new(parsed.some("bundle").unwrap_or(".")).join("config.json");
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(OciError::Refused("File config.json exists. Remove it first".into()));
        }
        Err(error) => return Err(failed(&path, &error)),
    };
    file.write_all(text.as_bytes()).map_err(|error| failed(&path, &error))?;
    Ok(0)
}

fn failed(path: &Path, error: &std::io::Error) -> OciError {
    OciError::Refused(format!("cannot write {}: {error}", path.display()))
}

/// For a user who has one id, no network of his own to make, and no cgroups.
fn rootless() -> Result<String, OciError> {
    let broken = |error| OciError::Refused(format!("the configuration of this program: {error}"));
    let mut spec: Value = serde_json::from_str(FULL).map_err(broken)?;
    let map = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    let linux = &mut spec["linux"];
    linux["uidMappings"] = map(rustix::process::geteuid().as_raw());
    linux["gidMappings"] = map(rustix::process::getegid().as_raw());
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        for mount in mounts {
            if mount["destination"] == "/sys" {
                mount["type"] = json!("none");
                mount["source"] = json!("/sys");
                mount["options"] = json!(["rbind", "nosuid", "noexec", "nodev", "ro"]);
            }
            if let Some(options) = mount["options"].as_array_mut() {
                options.retain(|option| option != "gid=5");
            }
        }
    }
    Ok(output::pretty(&spec, "\t") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Config;

    #[test]
    fn both_are_configurations() {
        for text in [FULL.to_owned(), rootless().unwrap()] {
            let config = Config::parse(text.into_bytes(), "config.json").unwrap();
            assert_eq!(config.spec().process.as_ref().unwrap().args, ["sh"]);
            bulkhead_container::check(config.spec(), bulkhead_container::Target::Host).unwrap();
        }
    }
}
