//! What the program says of itself.

use std::{
    io::{self, Write},
    path::Path,
};

use containerd_shim_protos::{
    protobuf::{Message, MessageField},
    types::introspection::{RuntimeInfo, RuntimeVersion},
};

use crate::refusal::{Refusal, cannot};

/// Answers containerd's question for the runtime (`-info`), in its message.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn info(program: &Path) -> Result<(), Refusal> {
    let version =
        RuntimeVersion { version: env!("CARGO_PKG_VERSION").into(), ..RuntimeVersion::default() };
    let info = RuntimeInfo {
        name: name(program),
        version: MessageField::some(version),
        ..RuntimeInfo::default()
    };
    let bytes = info.write_to_bytes().map_err(cannot("write the answer"))?;
    io::stdout().write_all(&bytes).map_err(cannot("write the answer"))
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
