//! Where the programs under test are, whether this machine can run microVMs, and the probe, which is built on demand.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use rustix::fs::{Access, access};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace has a root")
}

/// A program or file that `make build` left in `target/release`, or in `$BULKHEAD_BIN_DIR`.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let directory = env::var_os("BULKHEAD_BIN_DIR")
        .map_or_else(|| root().join("target/release"), PathBuf::from);
    let path = directory.join(name);
    assert!(path.exists(), "{} is missing: run `make build` first", path.display());
    path
}

/// The guest kernel that the programs under test boot.
#[must_use]
pub fn guest_kernel() -> PathBuf {
    env::var_os("BULKHEAD_KERNEL").map_or_else(|| binary("vmlinux"), PathBuf::from)
}

/// True, after saying so, where there is no `/dev/kvm` that we may use and the test is to be skipped. With
/// `BULKHEAD_REQUIRE_KVM=1` it fails instead.
#[must_use]
pub fn kvm_missing() -> bool {
    if access("/dev/kvm", Access::READ_OK | Access::WRITE_OK).is_ok() {
        return false;
    }
    let required = env::var_os("BULKHEAD_REQUIRE_KVM").is_some_and(|value| value == "1");
    assert!(!required, "/dev/kvm is missing or may not be used, and BULKHEAD_REQUIRE_KVM=1");
    eprintln!("SKIPPED: this test needs /dev/kvm");
    true
}

/// Where the templates of the tests' microVMs are, so that few of them boot. The first call of a program makes that of the usual machine,
/// if none of the programs before it did.
#[must_use]
pub fn templates() -> &'static Path {
    static TEMPLATES: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATES.get_or_init(|| {
        let directory = env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root().join("target"), PathBuf::from)
            .join("tmp/templates");
        let made = Command::new(binary("bulkhead"))
            .args(["template", "create", "--quiet"])
            .env("BULKHEAD_TEMPLATES", &directory)
            .env("BULKHEAD_KERNEL", guest_kernel())
            .env("BULKHEAD_BOOT_TIMEOUT", "500")
            .output()
            .expect("bulkhead runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        directory
    })
}

/// The probe, a static program, built the first time.
#[must_use]
pub fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| {
        let target = "x86_64-unknown-linux-gnu";
        let directory = env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root().join("target"), PathBuf::from)
            .join("static");
        let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--locked", "--release", "-p", "bulkhead-probe"])
            .args(["--bin", "probe", "--target", target, "--target-dir"])
            .arg(&directory)
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .current_dir(root())
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the probe cannot be built: {status}");
        directory.join(target).join("release/probe")
    })
}
