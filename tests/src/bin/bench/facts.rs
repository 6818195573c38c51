//! What machine the figures are from.

use std::{fs, path::Path, process::Command};

pub(crate) fn facts() -> Vec<(&'static str, String)> {
    let name = rustix::system::uname();
    vec![
        ("date", first_line(Command::new("date").arg("-u").arg("+%Y-%m-%d %H:%M UTC"))),
        ("cpu", cpu()),
        ("memory", memory()),
        (
            "host kernel",
            format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy()),
        ),
        ("kvm", kvm().to_owned()),
        ("qemu", first_line(Command::new(super::peers::QEMU).arg("--version"))),
    ]
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = text.lines().filter(|line| line.starts_with("processor")).count();
    format!("{} x {}", count, model.map_or("unknown", |(_, model)| model))
}

fn memory() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0);
    format!("{} MiB", kib >> 10)
}

/// True where the guest's kernel is interpreted.
pub(crate) fn software_kvm() -> bool {
    !["kvm_intel", "kvm_amd"].iter().any(|module| Path::new("/sys/module").join(module).exists())
}

fn kvm() -> &'static str {
    match (Path::new("/dev/kvm").exists(), software_kvm()) {
        (false, _) => "none",
        (true, true) => "software (guest kernel interpreted)",
        (true, false) => "hardware",
    }
}

/// The first line that a command prints, or that there is none.
pub(crate) fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or("not there").to_owned()
}
