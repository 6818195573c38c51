//! The same kernel and the same disks under `bulkhead-vmm` and under QEMU's `microvm`, in turns.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
};

use bulkhead_tests::harness::binary;
use serde_json::{Value, json};

use super::{
    Reason,
    facts::software_kvm,
    guest::{Boot, Guest, MEMORY, follow},
    report::{Report, Unit},
};

/// Debian's package qemu-system-x86.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

pub(crate) fn compare(report: &mut Report, runs: u8) {
    let guest = match Guest::make() {
        Ok(guest) => guest,
        Err(reason) => return report.fail("start to first output, bulkhead-vmm", &reason),
    };
    let (mut ours, mut theirs) = (Vec::new(), Ok(Vec::new()));
    for _ in 0..runs {
        match bulkhead(&guest) {
            Ok(boot) => ours.push(boot),
            Err(reason) => return report.fail("start to first output, bulkhead-vmm", &reason),
        }
        if let (Ok(boots), Some(last)) = (&mut theirs, ours.last()) {
            match qemu(&guest, &last.words) {
                Ok(boot) => boots.push(boot),
                Err(reason) => theirs = Err(reason),
            }
        }
    }
    let how = if software_kvm() {
        "same kernel, disk and words, noxsave for both (QEMU does not complete what KVM cannot interpret)"
    } else {
        "same kernel, disk and words"
    };
    show(report, "bulkhead-vmm", &ours, how);
    match theirs {
        Ok(boots) => show(report, "QEMU microvm", &boots, "the same, in turns with bulkhead-vmm"),
        Err(reason) => {
            report.note("start to first output, QEMU microvm", &format!("QEMU could not: {reason}"))
        }
    }
}

fn show(report: &mut Report, who: &str, boots: &[Boot], how: &str) {
    let each = |get: fn(&Boot) -> f64| boots.iter().map(get).collect::<Vec<_>>();
    let figure = |what: &str| format!("{what}, {who}");
    let first = each(|boot| boot.first_output);
    let clock = format!(
        "process start to the first process's line on the serial console, host clock; {how}"
    );
    report.add(&figure("start to first output"), Unit::Seconds, &first, &clock);
    let instructions: Vec<f64> = boots.iter().filter_map(|boot| boot.instructions).collect();
    if !instructions.is_empty() && software_kvm() {
        let how = format!("insn_emulation at that moment; {how}");
        report.add(
            &figure("guest-kernel instructions to first output"),
            Unit::Instructions,
            &instructions,
            &how,
        );
    }
    let how_memory = format!("Rss of all mappings but the guest's {MEMORY} MiB at that moment");
    report.add(
        &figure("resident memory beyond guest memory"),
        Unit::Kib,
        &each(|boot| boot.vmm_kib),
        &how_memory,
    );
    let how_read = "4 MiB in the guest, 64 KiB at a time through its page cache";
    let inside = each(|boot| boot.read_inside);
    report.add(&figure("block read by the guest's clock"), Unit::Rate, &inside, how_read);
    let outside = each(|boot| boot.read_outside);
    report.add(&figure("block read by the host's clock"), Unit::Rate, &outside, how_read);
}

fn bulkhead(guest: &Guest) -> Result<Boot, Reason> {
    let noxsave = if software_kvm() { " noxsave" } else { "" };
    let config = json!({
        "kernel": guest.kernel,
        "memory_mib": MEMORY,
        "serial": "stdout",
        "cmdline": format!("quiet root=/dev/vda rootfstype=erofs ro init=/bench-init{noxsave}"),
        "disks": [
            {"id": "root", "files": [guest.root], "read_only": true},
            {"id": "disk", "files": [guest.disk], "read_only": true},
        ],
    });
    let (file, control) = (guest.path("vm.json"), guest.path("vm.sock"));
    fs::write(&file, config.to_string()).map_err(|error| format!("{}: {error}", file.display()))?;
    let _ = fs::remove_file(&control);
    let mut command = Command::new(binary("bulkhead-vmm"));
    command.arg("--config").arg(&file).arg("--control").arg(&control);
    piped(&mut command);
    follow(command, || {
        let answer = ask(&control, &[json!({"id": 1, "kind": "counters"})]).ok()?;
        find_number(&answer, "instructions")
    })
}

fn qemu(guest: &Guest, words: &str) -> Result<Boot, Reason> {
    // Each VMM says itself where its devices are.
    let words: Vec<_> =
        words.split(' ').filter(|word| !word.starts_with("virtio_mmio.device=")).collect();
    let monitor = guest.path("qmp.sock");
    let _ = fs::remove_file(&monitor);
    let drive = |id: &str, file: &Path| {
        format!("id={id},file={},format=raw,if=none,readonly=on", file.display())
    };
    let mut command = Command::new(QEMU);
    command
        .args(["-M", "microvm,x-option-roms=off,rtc=off,acpi=off,pit=off,pic=off,isa-serial=on"])
        .args([
            "-enable-kvm",
            "-cpu",
            "host,-arch-capabilities",
            "-smp",
            "1",
            "-m",
            &MEMORY.to_string(),
        ])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
        ])
        .arg("-kernel")
        .arg(&guest.kernel)
        .args(["-append", &words.join(" ")])
        .args(["-drive", &drive("root", &guest.root), "-device", "virtio-blk-device,drive=root"])
        .args(["-drive", &drive("disk", &guest.disk), "-device", "virtio-blk-device,drive=disk"])
        .args(["-qmp", &format!("unix:{},server=on,wait=off", monitor.display())]);
    piped(&mut command);
    follow(command, || {
        let wanted = json!({"target": "vcpu", "providers": [{"provider": "kvm", "names": ["insn_emulation"]}]});
        let answer = ask(
            &monitor,
            &[
                json!({"execute": "qmp_capabilities"}),
                json!({"execute": "query-stats", "arguments": wanted}),
            ],
        );
        find_number(&answer.ok()?, "value")
    })
}

fn piped(command: &mut Command) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
}

/// Sends requests, a line each, to a VMM's control socket; the answer to the last, which is the first line that has a number in it.
pub(crate) fn ask(socket: &Path, requests: &[Value]) -> std::io::Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    for request in requests {
        stream.write_all(format!("{request}\n").as_bytes())?;
    }
    let mut last = Value::Null;
    for line in BufReader::new(stream).lines() {
        last = serde_json::from_str(&line?).unwrap_or_default();
        if find_number(&last, "value").or_else(|| find_number(&last, "instructions")).is_some() {
            break;
        }
    }
    Ok(last)
}

/// The first number under this key, however deep.
pub(crate) fn find_number(value: &Value, key: &str) -> Option<f64> {
    match value {
        Value::Object(fields) => fields
            .get(key)
            .and_then(Value::as_f64)
            .or_else(|| fields.values().find_map(|value| find_number(value, key))),
        Value::Array(items) => items.iter().find_map(|value| find_number(value, key)),
        _ => None,
    }
}
