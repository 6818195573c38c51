//! Clones in the place of boots: made once, unlike each other, and never a reason for a container not to run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod bundles;
mod damaged;
mod engines;
mod killed;
mod made;
mod storm;
mod verbs;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use bulkhead_tests::{
    harness::{Host, Outcome, layout_with_probe, templates},
    image::Name,
};

/// A host with the busybox image and a directory of templates for this test alone.
struct Place {
    host: Host,
    directory: PathBuf,
}

impl Place {
    /// `None`, after saying so, where this machine has no KVM.
    fn empty() -> Option<Self> {
        let host = Host::with_kvm()?;
        host.import("busybox", &layout_with_probe(Name::Busybox));
        let directory = host.path("templates");
        Some(Self { host, directory })
    }

    /// The same with copies of the usual machine's template, which need no boot.
    fn with_template() -> Option<Self> {
        let place = Self::empty()?;
        let key = usual();
        fs::create_dir(&place.directory).unwrap();
        let copied = Command::new("cp")
            .args(["-a", "--sparse=always"])
            .arg(templates().join(&key))
            .arg(&place.directory)
            .status()
            .unwrap();
        assert!(copied.success());
        Some(place)
    }

    /// `bulkhead` with the test's templates.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(arguments);
        command.env("BULKHEAD_TEMPLATES", &self.directory);
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        self.host.boot_command(self.command(arguments)).wait()
    }

    /// What `template ls` says.
    fn list(&self) -> Vec<serde_json::Value> {
        let listed = self.run(&["template", "ls", "--json"]);
        listed.assert_code(0);
        serde_json::from_str(&listed.text()).unwrap()
    }

    /// The names in the directory of templates.
    fn names(&self) -> Vec<String> {
        names(&self.directory)
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The key of the usual machine's template, which all tests share.
fn usual() -> String {
    let host = Host::with_kvm().unwrap();
    let made = host.run(&["template", "create", "--quiet"]);
    made.assert_code(0);
    made.text().trim().to_owned()
}
