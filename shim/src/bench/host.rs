//! The host's settings that matter to a bench.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use super::report::Fact;

/// What is not there.
const NONE: &str = "not there";

/// What machine this is and how it is set.
#[must_use]
pub fn facts() -> Vec<Fact> {
    let name = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let kernel = format!("{} {}", text(name.sysname()), text(name.release()));
    let thp = setting("/sys/kernel/mm/transparent_hugepage/enabled");
    [
        ("cpu", "CPU", cpu()),
        ("memory", "memory", memory()),
        ("kernel", "kernel", format!("{kernel} ({})", text(name.version()))),
        ("kvm", "KVM", kvm()),
        ("governor", "CPU governor", governor()),
        ("thp", "transparent huge pages", thp),
        ("cgroup", "cgroup", cgroup().into()),
        ("swap", "swap", swap()),
        ("clock", "clock source", read(CLOCK)),
        ("mitigations", "CPU mitigations", mitigations()),
        ("load", "load average at the beginning", load()),
        ("version", "bulkhead", env!("CARGO_PKG_VERSION").into()),
    ]
    .map(|(key, name, value)| Fact { key: key.into(), name: name.into(), value })
    .into()
}

const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// A fact about a program: the first line of what it says to `--version`.
#[must_use]
pub fn program(name: &str, path: &Path) -> Fact {
    let mut command = Command::new(path);
    let output = command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.map(|output| output.stdout).unwrap_or_default();
    let line = String::from_utf8_lossy(&output).lines().next().unwrap_or(NONE).to_owned();
    let value = format!("{line} ({})", path.display());
    Fact { key: format!("program-{name}"), name: format!("program of {name}"), value }
}

/// The first line of a file, or that there is none.
fn read(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().map_or_else(|| NONE.into(), |line| line.trim().to_owned())
}

/// What is in brackets in a file that lists what could be set: `always [madvise] never`.
fn setting(path: &str) -> String {
    let text = read(path);
    let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    chosen.map_or(text.clone(), |(chosen, _)| chosen.to_owned())
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = text.lines().filter(|line| line.starts_with("processor")).count();
    format!("{count} x {}", model.map_or("unknown", |(_, model)| model))
}

fn field(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Bytes of memory that the host has.
#[must_use]
pub fn total() -> u64 {
    field("/proc/meminfo", "MemTotal:").unwrap_or(0) << 10
}

/// Bytes of memory that processes can still get without swapping.
#[must_use]
pub fn available() -> u64 {
    field("/proc/meminfo", "MemAvailable:").unwrap_or(0) << 10
}

fn memory() -> String {
    format!("{} MiB, {} MiB available", total() >> 20, available() >> 20)
}

fn swap() -> String {
    match field("/proc/meminfo", "SwapTotal:").unwrap_or(0) >> 10 {
        0 => "none".into(),
        mib => format!("{mib} MiB"),
    }
}

/// True where the guest's kernel is interpreted: there is a KVM and neither vendor's module.
#[must_use]
pub fn software_kvm() -> bool {
    let modules = ["kvm_intel", "kvm_amd"].map(|name| Path::new("/sys/module").join(name));
    Path::new("/dev/kvm").exists() && !modules.iter().any(|module| module.exists())
}

fn kvm() -> String {
    if !Path::new("/dev/kvm").exists() {
        return "none".into();
    }
    let loaded = ["kvm_intel", "kvm_amd", "kvm_pvm"]
        .into_iter()
        .find(|name| Path::new("/sys/module").join(name).exists());
    let module = loaded.unwrap_or("an unknown module");
    if software_kvm() {
        return format!("software: the guest's kernel is interpreted ({module})");
    }
    format!("hardware ({module})")
}

fn governor() -> String {
    let mut governors: Vec<String> = fs::read_dir("/sys/devices/system/cpu/cpufreq")
        .into_iter()
        .flatten()
        .filter_map(|policy| fs::read_to_string(policy.ok()?.path().join("scaling_governor")).ok())
        .map(|text| text.trim().to_owned())
        .collect();
    governors.sort();
    governors.dedup();
    if governors.is_empty() { "the kernel has no say".into() } else { governors.join(", ") }
}

fn cgroup() -> &'static str {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match (mounts.contains(" - cgroup "), mounts.contains(" - cgroup2 ")) {
        (true, true) => "v1 with an empty tree of v2 (hybrid)",
        (true, false) => "v1",
        (false, true) => "v2",
        (false, false) => "none",
    }
}

fn mitigations() -> String {
    let words = read("/proc/cmdline");
    let set = words.split(' ').find_map(|word| word.strip_prefix("mitigations="));
    set.map_or_else(|| "the kernel's default".into(), str::to_owned)
}

fn load() -> String {
    read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_has_a_value() {
        let facts = facts();
        for key in ["cpu", "kernel", "kvm", "governor", "thp", "cgroup", "version"] {
            let fact = facts.iter().find(|fact| fact.key == key).unwrap();
            assert!(!fact.value.is_empty() && !fact.name.is_empty(), "{fact:?}");
        }
        assert!(facts.iter().all(|fact| !fact.value.contains('\n')));
    }

    #[test]
    fn the_chosen_setting_is_in_brackets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("enabled");
        fs::write(&path, "always [madvise] never\n").unwrap();
        assert_eq!(setting(path.to_str().unwrap()), "madvise");
        assert_eq!(setting("/no/such"), NONE);
    }
}
