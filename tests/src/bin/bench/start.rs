//! The start of a container with `bulkhead run`, in guest-kernel instructions and seconds; what it is made of, in bytes; and
//! what the VMM needs beside the guest's memory.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use bulkhead_tests::{
    harness::{binary, guest_kernel},
    image::{Name, cached},
};
use serde_json::Value;

use super::{
    Reason,
    facts::software_kvm,
    proc::vmm_of,
    report::{Report, Unit},
};

const AGENT_ENTRY: &str = "agent's first instruction";
const PROGRAM_ENTRY: &str = "program's first instruction";
const FIRST_OUTPUT: &str = "first output";

/// One start.
struct Start {
    steps: Value,
    vmm_kib: f64,
}

pub(crate) fn measure(report: &mut Report, runs: u8) {
    sizes(report);
    let starts: Result<Vec<Start>, Reason> = (0..runs).map(|_| start()).collect();
    let starts = match starts {
        Ok(starts) => starts,
        Err(reason) => return report.fail("start of a container", &reason),
    };
    let step = |name: &str, field: &str| -> Vec<f64> {
        let find = |start: &Start| {
            let steps = start.steps.as_array()?;
            steps.iter().find(|step| step["step"] == name)?[field].as_f64()
        };
        starts.iter().filter_map(find).collect()
    };
    let (agent, program) = (step(AGENT_ENTRY, "instructions"), step(PROGRAM_ENTRY, "instructions"));
    let rest: Vec<_> = agent.iter().zip(&program).map(|(agent, program)| program - agent).collect();
    if software_kvm() {
        let how = "KVM's insn_emulation of all vCPUs at the guest kernel's own mark, `bulkhead run --timeline=json`";
        report.add(
            "guest-kernel instructions, kernel entry to agent's first instruction",
            Unit::Instructions,
            &agent,
            how,
        );
        report.add(
            "guest-kernel instructions, from there to the container's first instruction",
            Unit::Instructions,
            &rest,
            how,
        );
    } else {
        report.note("guest-kernel instructions", "KVM counts them only where it interprets them");
    }
    let seconds: Vec<_> = step(FIRST_OUTPUT, "ms").iter().map(|ms| ms / 1000.0).collect();
    let how = "`bulkhead run busybox` to the container's first output, host clock";
    report.add("start of a container to first output", Unit::Seconds, &seconds, how);
    let memory: Vec<_> = starts.iter().map(|start| start.vmm_kib).collect();
    let how = "Rss of bulkhead-vmm's mappings but the guest's memory, /proc/PID/smaps, while the container runs";
    report.add("VMM resident memory beyond guest memory", Unit::Kib, &memory, how);
}

fn sizes(report: &mut Report) {
    let initrd = binary("bulkhead-initrd.cpio");
    for (figure, path) in [
        ("guest kernel", guest_kernel()),
        ("guest root image", initrd.clone()),
        ("bulkhead-vmm", binary("bulkhead-vmm")),
        ("bulkhead", binary("bulkhead")),
    ] {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match fs::metadata(&path) {
            #[allow(clippy::cast_precision_loss, reason = "files are small")]
            Ok(metadata) => {
                let how = format!("the file {name}");
                report.add(&format!("size, {figure}"), Unit::Bytes, &[metadata.len() as f64], &how);
            }
            Err(error) => report.fail(&format!("size, {figure}"), &format!("{name}: {error}")),
        }
    }
    match fs::read(&initrd).ok().and_then(|archive| agent_size(&archive)) {
        Some(size) => {
            report.add("size, agent", Unit::Bytes, &[size], "/init in the guest root image")
        }
        None => report.fail("size, agent", "there is no /init in the guest root image"),
    }
}

/// The size of `init` in a cpio archive (cpio(5), "newc": 6 bytes of magic, 13 numbers of 8 hexadecimal digits, the name).
fn agent_size(archive: &[u8]) -> Option<f64> {
    let mut at = 0;
    loop {
        let header = archive.get(at..at + 110)?;
        let number = |index: usize| {
            let digits = header.get(6 + 8 * index..14 + 8 * index)?;
            usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        };
        let (size, name_size) = (number(6)?, number(11)?);
        let name = archive.get(at + 110..at + 110 + name_size)?;
        if matches!(name, b"init\0" | b"./init\0") {
            #[allow(clippy::cast_precision_loss, reason = "an agent is small")]
            return Some(size as f64);
        }
        if name == b"TRAILER!!!\0" {
            return None;
        }
        let data = (at + 110 + name_size).next_multiple_of(4);
        at = (data + size).next_multiple_of(4);
    }
}

fn start() -> Result<Start, Reason> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let layout = cached(Name::Busybox).map_err(|error| error.to_string())?;
    let bulkhead = |arguments: &[&str]| {
        let mut command = Command::new(binary("bulkhead"));
        command
            .args(arguments)
            .env("BULKHEAD_DATA", directory.path().join("data"))
            .env("BULKHEAD_RUN", directory.path().join("run"))
            .env("BULKHEAD_TEMPLATE", "never")
            .env("BULKHEAD_KERNEL", guest_kernel());
        command
    };
    let source = format!("oci:{}", layout.display());
    let imported = bulkhead(&["image", "import", "--quiet", "--name", "busybox", &source]).output();
    let imported = imported.map_err(|error| format!("bulkhead: {error}"))?;
    if !imported.status.success() {
        return Err(String::from_utf8_lossy(&imported.stderr).trim().to_owned());
    }
    let script = "echo first; read line";
    let mut run =
        bulkhead(&["run", "--rm", "-i", "--timeline=json", "busybox", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("bulkhead: {error}"))?;
    let mut line = String::new();
    if let Some(stdout) = run.stdout.take() {
        // What went wrong is on standard error.
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    let vmm_kib = vmm_of(run.id()).and_then(resident_beyond_guest).ok();
    drop(run.stdin.take());
    let output = run.wait_with_output().map_err(|error| format!("bulkhead: {error}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.lines().last().unwrap_or_default();
    if line != "first\n" {
        return Err(format!("the container did not run: {last}"));
    }
    let steps =
        serde_json::from_str(last).map_err(|error| format!("the timeline {last}: {error}"))?;
    let vmm_kib = vmm_kib.ok_or("the VMM's memory could not be read")?;
    Ok(Start { steps, vmm_kib })
}

/// KiB resident in a VMM's mappings, but for guest memory: what is writable, at least 32 MiB large, and no file of the program's.
pub(crate) fn resident_beyond_guest(pid: u32) -> Result<f64, Reason> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    Ok(beyond_guest(&text))
}

fn beyond_guest(smaps: &str) -> f64 {
    let (mut total, mut guest) = (0.0, false);
    for line in smaps.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["Size:", kib, "kB"] => {
                guest = guest && kib.parse::<u64>().is_ok_and(|kib| kib >= 32 << 10)
            }
            ["Rss:", kib, "kB"] if !guest => total += kib.parse::<f64>().unwrap_or(0.0),
            [range, rights, ..] if range.contains('-') && rights.len() == 4 => {
                guest = rights.starts_with("rw")
            }
            _ => {}
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_found_in_an_archive() {
        let member = |name: &str, data: &[u8]| {
            let mut bytes = b"070701".to_vec();
            for field in [0, 0, 0, 0, 0, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0] {
                bytes.extend(format!("{field:08x}").into_bytes());
            }
            bytes.extend(name.as_bytes());
            bytes.push(0);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(data);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let end = member("TRAILER!!!", b"");
        let archive =
            [member("dev/console", b""), member("init", &[7; 1001]), end.clone()].concat();
        assert_eq!(agent_size(&archive), Some(1001.0));
        assert_eq!(agent_size(&end), None);
        assert_eq!(agent_size(b"no archive"), None);
    }

    #[test]
    fn guest_memory_is_not_counted() {
        let smaps = "\
            55d0-55d1 r-xp 00000000 08:01 1 /usr/bin/vmm\nSize: 900 kB\nRss: 700 kB\n\
            7f00-7f80 rw-s 00000000 00:01 2 /memfd:guest (deleted)\nSize: 262144 kB\nRss: 30000 kB\n\
            7f90-7f91 rw-p 00000000 00:00 0 [heap]\nSize: 200 kB\nRss: 100 kB\nVmFlags: rd wr\n\
            7fa0-7fb0 r--p 00000000 08:01 3 /lib/libc.so\nSize: 40000 kB\nRss: 50 kB\n";
        assert!((beyond_guest(smaps) - 850.0).abs() < f64::EPSILON);
    }
}
