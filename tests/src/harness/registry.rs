//! A registry of the test's own: Debian's `docker-registry`, on a free port of 127.0.0.1.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Starting takes less, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A registry that runs.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    log: PathBuf,
    address: String,
}

impl Registry {
    /// Starts one with its storage and its log in a directory, which it makes.
    #[must_use]
    pub fn start(directory: &Path) -> Self {
        fs::create_dir(directory).unwrap();
        let (file, log) = (directory.join("registry.yml"), directory.join("log"));
        let storage = directory.join("storage").display().to_string();
        // JSON is YAML, too.
        let settings = serde_json::json!({
            "version": 0.1, "http": { "addr": "127.0.0.1:0" },
            "storage": { "filesystem": { "rootdirectory": storage } },
        });
        fs::write(&file, settings.to_string()).unwrap();
        let output = File::create(&log).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .expect("the package docker-registry is installed");
        let mut registry = Self { process, log, address: String::new() };
        let deadline = Instant::now() + PATIENCE;
        while registry.address.is_empty() {
            assert!(Instant::now() < deadline, "no registry: {}", registry.logged());
            thread::sleep(Duration::from_millis(20));
            let log = registry.logged();
            let found = log.split_once("listening on ").and_then(|(_, rest)| rest.split_once('"'));
            if let Some((address, _)) = found {
                registry.address = address.to_owned();
            }
        }
        registry
    }

    /// The name of an image in it.
    #[must_use]
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    /// What it has logged so far.
    #[must_use]
    pub fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How many blobs of an image it was asked for.
    #[must_use]
    pub fn blobs_read(&self, image: &str) -> usize {
        let path = format!("http.request.uri=\"/v2/{image}/blobs/sha256:");
        let log = self.logged();
        let reads = log.lines().filter(|line| line.contains("http.request.method=GET"));
        reads.filter(|line| line.contains(&path) && line.contains("response completed")).count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It holds nothing that is worth an end in good order.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
