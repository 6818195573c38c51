//! What cannot run says so in one line and leaves nothing.

use std::{fs, process::Command};

use bulkhead_tests::{
    harness::{Host, available_kib, binary, guest_kernel, kvm_missing},
    image::{Compression, Config, Entry, Image, Layer},
};

use super::host_with_busybox;

/// An image that is quick to import, for runs that come to nothing.
fn tiny(host: &Host) -> String {
    let entries = [Entry::file("program", "#!/none\n").mode(0o755)];
    let config = Config { cmd: vec!["/program".into()], ..Config::default() };
    host.source("tiny", &Image { layers: vec![Layer::new(&entries, Compression::None)], config })
}

/// Runs `script` in a mount namespace of its own, where what it mounts is seen by nobody else.
fn in_mount_namespace(host: &Host, script: &str, arguments: &[&str]) -> Command {
    let inner = host.command(arguments);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script, "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

#[test]
fn a_host_without_kvm_is_told_so() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: this test needs root to hide /dev/kvm");
        return;
    }
    let host = Host::new();
    let source = tiny(&host);
    // A /dev with everything but kvm.
    let hide = "mkdir -p \"$BULKHEAD_RUN.dev\"; mount -t tmpfs none \"$BULKHEAD_RUN.dev\"; \
                for d in null zero urandom random tty full; do cp -a /dev/$d \"$BULKHEAD_RUN.dev/\"; done; \
                mount --bind \"$BULKHEAD_RUN.dev\" /dev; exec \"$@\"";
    let outcome =
        host.boot_command(in_mount_namespace(&host, hide, &["run", "--rm", &source])).wait();
    outcome.assert_refused(125, &["/dev/kvm"]);
    host.assert_nothing_left();
}

#[test]
fn a_user_without_permission_is_told_so() {
    if kvm_missing() || !rustix::process::geteuid().is_root() {
        return;
    }
    let host = Host::new();
    let source = tiny(&host);
    // The programs and the host's directory where another user reaches them.
    let public = host.path("bin");
    fs::create_dir(&public).unwrap();
    for name in ["bulkhead", "bulkhead-vmm", "bulkhead-initrd.cpio"] {
        fs::copy(binary(name), public.join(name)).unwrap();
    }
    fs::copy(guest_kernel(), public.join("vmlinux")).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode;
    fs::set_permissions(host.path(""), open(0o777)).unwrap();
    let script = "chmod 600 \"$BULKHEAD_RUN.kvm\"; mount --bind \"$BULKHEAD_RUN.kvm\" /dev/kvm; \
                  export BULKHEAD_KERNEL=$(dirname \"$BULKHEAD_RUN\")/bin/vmlinux; shift; \
                  exec setpriv --reuid 65534 --regid 65534 --clear-groups $(dirname \"$BULKHEAD_RUN\")/bin/bulkhead \"$@\"";
    let made =
        Command::new("cp").args(["-a", "/dev/kvm"]).arg(host.path("run.kvm")).status().unwrap();
    assert!(made.success());
    let outcome =
        host.boot_command(in_mount_namespace(&host, script, &["run", "--rm", &source])).wait();
    outcome.assert_refused(125, &["/dev/kvm", "permission"]);
    host.assert_nothing_left();
}

#[test]
fn a_kernel_that_is_missing_or_none_is_named() {
    let Some(host) = Host::with_kvm() else { return };
    let source = tiny(&host);
    host.run(&["run", "--rm", "--kernel", "/no/such/kernel", &source])
        .assert_refused(125, &["/no/such/kernel"]);
    host.assert_nothing_left();
    let good = fs::read(guest_kernel()).unwrap();
    let mut no_entry = good.clone();
    no_entry[24..32].fill(0xff);
    let mut no_segments = good.clone();
    no_segments[32..40].fill(0xff);
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("text", b"this is no kernel\n".repeat(1000)),
        ("cut-in-its-headers", good[..100].to_vec()),
        ("cut-in-half", good[..good.len() / 2].to_vec()),
        ("entry-nowhere", no_entry),
        ("segments-nowhere", no_segments),
    ] {
        let kernel = host.path(name);
        fs::write(&kernel, bytes).unwrap();
        let outcome =
            host.boot(&["run", "--rm", "--kernel", kernel.to_str().unwrap(), &source]).wait();
        outcome.assert_refused(125, &[name]);
        host.assert_nothing_left();
    }
    host.run(&["run", "--rm", "--kernel", "/", &source]).assert_code(125);
    host.assert_nothing_left();
}

#[test]
fn parts_of_the_installation_that_are_missing_are_named() {
    let Some(host) = Host::with_kvm() else { return };
    let source = tiny(&host);
    for (variable, path) in [
        ("BULKHEAD_INITRD", "/no/such/initrd"),
        ("BULKHEAD_VMM", "/no/such/vmm"),
        ("BULKHEAD_KERNEL", "/no/such/vmlinux"),
    ] {
        let mut command = host.command(&["run", "--rm", &source]);
        command.env(variable, path);
        host.boot_command(command).wait().assert_refused(125, &[path]);
        host.assert_nothing_left();
    }
}

#[test]
fn flags_that_cannot_be_are_refused() {
    let host = Host::new();
    let source = tiny(&host);
    for (flags, names) in [
        (["--memory", "32m"].as_slice(), ["memory", "64"]),
        (&["--memory", "1000000g"], ["memory", ""]),
        (&["--cpus", "0"], ["cpus", ""]),
        (&["--cpus", "9"], ["cpus", "8"]),
        (&["--user", "nobody-knows"], ["nobody-knows", "passwd"]),
        (&["--workdir", "relative"], ["relative", "absolute"]),
        (&["--tmpfs", "relative"], ["tmpfs", "relative"]),
        (&["--name", "a/b"], ["a/b", "name"]),
        (&["--stop-signal", "SIGNONE"], ["SIGNONE", ""]),
        (&["-e", "=x"], ["=x", ""]),
        (&["--no-such-flag"], ["no-such-flag", ""]),
    ] {
        let command = [&["run", "--rm"], flags, &[source.as_str()]].concat();
        let outcome = host.boot(&command).wait();
        outcome.assert_code(125);
        assert_eq!(outcome.text(), "", "{outcome}");
        for name in names {
            assert!(outcome.error_text().contains(name), "it does not say {name:?}: {outcome}");
        }
        host.assert_nothing_left();
    }
}

#[test]
fn an_image_that_is_not_there_is_named() {
    let host = Host::new();
    for image in ["no-such-image", "oci:/no/such/layout", "docker-archive:/no/such/file"] {
        host.run(&["run", "--rm", image])
            .assert_refused(125, &[image.split_once(':').map_or(image, |parts| parts.1)]);
        host.assert_nothing_left();
    }
    let none = Image {
        layers: vec![Layer::new(&[Entry::directory("d")], Compression::Gzip)],
        ..Image::default()
    };
    let source = host.source("no-command", &none);
    host.run(&["run", "--rm", &source]).assert_refused(125, &["no program"]);
    host.assert_nothing_left();
}

/// An ELF executable for the 64-bit entry whose only instruction jumps to itself.
fn kernel_that_spins() -> Vec<u8> {
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let entry: u64 = 0x20_0000;
    elf.extend(2u16.to_le_bytes()); // ET_EXEC
    elf.extend(62u16.to_le_bytes()); // EM_X86_64
    elf.extend(1u32.to_le_bytes());
    elf.extend(entry.to_le_bytes());
    elf.extend(64u64.to_le_bytes()); // program headers follow this header
    elf.extend(0u64.to_le_bytes());
    elf.extend(0u32.to_le_bytes());
    for field in [64u16, 56, 1, 0, 0, 0] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend(1u32.to_le_bytes()); // PT_LOAD
    elf.extend(5u32.to_le_bytes());
    for field in [4096, entry, entry, 2, 4096, 4096] {
        elf.extend(field.to_le_bytes());
    }
    elf.resize(4096, 0);
    elf.extend([0xeb, 0xfe]); // jmp .
    elf
}

#[test]
fn a_guest_that_never_answers_is_given_up() {
    let Some(host) = Host::with_kvm() else { return };
    let source = tiny(&host);
    let kernel = host.path("spinning-kernel");
    fs::write(&kernel, kernel_that_spins()).unwrap();
    let mut command = host.command(&["run", "--rm", "--kernel", kernel.to_str().unwrap(), &source]);
    command.env("BULKHEAD_BOOT_TIMEOUT", "5");
    host.boot_command(command).wait().assert_refused(125, &["5 s", "BULKHEAD_BOOT_TIMEOUT"]);
    host.assert_nothing_left();
}

#[test]
fn a_guest_with_a_broken_agent_is_given_up() {
    let Some(host) = Host::with_kvm() else { return };
    let source = tiny(&host);
    let initrd = host.path("no-initrd");
    fs::write(&initrd, b"this is no archive").unwrap();
    let mut command = host.command(&["run", "--rm", &source]);
    command.env("BULKHEAD_INITRD", &initrd);
    host.boot_command(command).wait().assert_refused(125, &["guest"]);
    host.assert_nothing_left();
}

#[test]
fn a_name_that_runs_is_taken_until_its_container_ends() {
    let Some(host) = host_with_busybox() else { return };
    let mut first = host.boot(&["run", "--rm", "-i", "--name", "taken", "busybox", "cat"]);
    first.write(b"running\n");
    first.wait_for("running");
    host.run(&["run", "--rm", "--name", "taken", "busybox", "true"])
        .assert_refused(125, &["taken"]);
    host.run(&["image", "rm", "busybox"]).assert_refused(125, &["busybox", "in use"]);
    first.close_stdin();
    first.wait().assert_code(0);
    host.assert_nothing_left();
    host.run(&["image", "rm", "busybox"]).assert_clean();
}

#[test]
fn a_machine_for_which_there_is_no_memory_is_refused_and_the_others_go_on() {
    let Some(host) = host_with_busybox() else { return };
    let available = available_kib();
    // Room for one, with much to spare either way, as this host does other things meanwhile.
    let command = |arguments: &[&str]| {
        let mut command = host.command(arguments);
        command
            .env("BULKHEAD_ADMISSION", "whole")
            .env("BULKHEAD_ADMISSION_START", format!("{}k", available / 100 * 45))
            .env("BULKHEAD_ADMISSION_RESERVE", format!("{}k", available / 100 * 30));
        command
    };
    let mut first = host.boot_command(command(&["run", "--rm", "-i", "busybox", "cat"]));
    first.write(b"running\n");
    first.wait_for("running");
    let vmm = host.vmms();
    let second = host.run_command(command(&["run", "--rm", "busybox", "true"]));
    second.assert_refused(125, &["too little memory for another microVM", "[admission]"]);
    assert_eq!(host.vmms(), vmm);
    first.write(b"untouched\n");
    first.wait_for("untouched");
    first.close_stdin();
    first.wait().assert_code(0);
    host.assert_nothing_left();
}
