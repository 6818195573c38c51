//! What the program says of itself.

use std::{
    io::{self, Write},
    path::Path,
};

use containerd_shim_protos::{
    protobuf::{Message, MessageField, well_known_types::any::Any},
    types::introspection::{RuntimeInfo, RuntimeVersion},
};

use crate::refusal::{Refusal, cannot};

/// How containerd names the features of a runtime (OCI runtime-spec, features.md) as JSON in a message.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Answers containerd's question for the runtime (`-info`), in its message. The kubelet learns of the features that its pods may have.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn info(program: &Path) -> Result<(), Refusal> {
    let bytes = message(program).write_to_bytes().map_err(cannot("write the answer"))?;
    io::stdout().write_all(&bytes).map_err(cannot("write the answer"))
}

fn message(program: &Path) -> RuntimeInfo {
    let version =
        RuntimeVersion { version: env!("CARGO_PKG_VERSION").into(), ..RuntimeVersion::default() };
    let features = Any {
        type_url: FEATURES.into(),
        value: bulkhead::oci::features().to_string().into_bytes(),
        ..Any::default()
    };
    RuntimeInfo {
        name: name(program),
        version: MessageField::some(version),
        features: MessageField::some(features),
        ..RuntimeInfo::default()
    }
}

/// Prints the version.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn version() -> Result<(), Refusal> {
    let version = env!("CARGO_PKG_VERSION");
    writeln!(io::stdout(), "containerd-shim-bulkhead-v2 version {version}")
        .map_err(cannot("write the answer"))
}

/// containerd's name of the runtime whose program this is.
fn name(program: &Path) -> String {
    let file = program.file_name().unwrap_or_default().to_string_lossy();
    let runtime = file.strip_prefix("containerd-shim-").unwrap_or("bulkhead-v2");
    format!("io.containerd.{}", runtime.replace("-v2", ".v2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_features_are_told() {
        let told = message(Path::new("shim"));
        assert!(told.features.type_url.ends_with("/features/Features"), "{told}");
        let features: serde_json::Value = serde_json::from_slice(&told.features.value).unwrap();
        assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        assert_eq!(told.version.version, env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn a_runtime_has_its_programs_name() {
        for (program, expected) in [
            ("/usr/bin/containerd-shim-bulkhead-v2", "io.containerd.bulkhead.v2"),
            ("containerd-shim-bulkhead-host-v2", "io.containerd.bulkhead-host.v2"),
            ("shim", "io.containerd.bulkhead.v2"),
        ] {
            assert_eq!(name(Path::new(program)), expected);
        }
    }
}
