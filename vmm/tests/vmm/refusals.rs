//! What is refused before a machine exists: one line that names the thing, exit code 1.

use std::{
    fs::{self, File},
    process::{Command, Output, Stdio},
};

use crate::guest::{Guest, guest, kvm, program, run_with_config, succeed};

guest!(never_run, succeed!());

fn assert_one_line(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("bulkhead-vmm: ") && text.lines().count() == 1, "{text}");
    for word in words {
        assert!(text.contains(word), "{word} in {text}");
    }
}

#[test]
fn wrong_configurations_get_one_line_that_names_what_is_wrong() {
    let guest = Guest::new(never_run());
    let kernel = guest.path("kernel");
    let kernel = kernel.display();
    let text = guest.path("text");
    fs::write(&text, "not a kernel").unwrap();
    let cut = guest.path("cut");
    let whole = fs::read(guest.path("kernel")).unwrap();
    fs::write(&cut, &whole[..whole.len() - 1]).unwrap();
    for (config, words) in [
        ("".to_owned(), vec!["configuration", "-"]),
        ("{".to_owned(), vec!["configuration", "line 1"]),
        (format!(r#"{{"kernel": "{kernel}"}}"#), vec!["memory_mib"]),
        (
            format!(r#"{{"kernel": "{kernel}", "memory_mib": 64, "cpus": 2}}"#),
            vec!["cpus", "vcpus"],
        ),
        (format!(r#"{{"kernel": "{kernel}", "memory_mib": 64, "vcpus": 9}}"#), vec!["9", "1 to 8"]),
        (format!(r#"{{"kernel": "{kernel}", "memory_mib": 64, "vcpus": 0}}"#), vec!["0", "1 to 8"]),
        (format!(r#"{{"kernel": "{kernel}", "memory_mib": 8}}"#), vec!["8", "at least 64"]),
        (
            format!(r#"{{"kernel": "{kernel}", "memory_mib": 99999999999}}"#),
            vec!["99999999999", "the host has"],
        ),
        (
            r#"{"kernel": "/nonexistent/vmlinux", "memory_mib": 64}"#.to_owned(),
            vec!["/nonexistent/vmlinux", "No such file"],
        ),
        (
            format!(r#"{{"kernel": "{}", "memory_mib": 64}}"#, text.display()),
            vec!["text", "neither an ELF"],
        ),
        (
            format!(r#"{{"kernel": "{}", "memory_mib": 64}}"#, cut.display()),
            vec!["cut", "truncated"],
        ),
        (
            format!(r#"{{"kernel": "{kernel}", "memory_mib": 64, "initrd": "/nonexistent/cpio"}}"#),
            vec!["/nonexistent/cpio"],
        ),
    ] {
        assert_one_line(&run_with_config(&config), &words);
    }
}

#[test]
fn what_only_the_making_of_the_machine_finds_is_named_too() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(never_run());
    let kernel = guest.path("kernel");
    let kernel = kernel.display();
    fs::write(guest.path("odd"), [0; 700]).unwrap();
    let disk = |file: &str| {
        let path = guest.path(file);
        let disk =
            format!(r#"{{"id": "a", "files": ["{0}", "{0}"], "read_only": true}}"#, path.display());
        format!(r#"{{"kernel": "{kernel}", "memory_mib": 64, "disks": [{disk}]}}"#)
    };
    let mut compressed = vec![0; 2048];
    compressed[0x202..0x206].copy_from_slice(b"HdrS");
    fs::write(guest.path("bzImage"), compressed).unwrap();
    let compressed = guest.path("bzImage");
    let compressed = compressed.display();
    let console = r#""serial": {"file": "/nonexistent/console"}"#;
    let big = File::create(guest.path("big")).unwrap();
    big.set_len(80 << 20).unwrap();
    let initrd = guest.path("big");
    let initrd = initrd.display();
    for (config, words) in [
        (
            format!(r#"{{"kernel": "{compressed}", "memory_mib": 64, "backend": "software"}}"#),
            vec!["bzImage", "use the ELF vmlinux"],
        ),
        (disk("missing"), vec!["missing"]),
        (disk("odd"), vec!["odd", "512"]),
        (
            format!(r#"{{"kernel": "{kernel}", "memory_mib": 64, {console}}}"#),
            vec!["/nonexistent/console"],
        ),
        (
            format!(r#"{{"kernel": "{kernel}", "memory_mib": 64, "initrd": "{initrd}"}}"#),
            vec!["initial RAM disk", "more memory"],
        ),
        (
            format!(
                r#"{{"kernel": "{kernel}", "memory_mib": 64, "cmdline": "{}"}}"#,
                "x".repeat(3000)
            ),
            vec!["command line", "shorten"],
        ),
    ] {
        assert_one_line(&run_with_config(&config), &words);
    }
}

#[test]
fn an_existing_control_socket_is_not_taken_over() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(never_run());
    fs::write(guest.path("config"), serde_json::to_vec(&guest.config()).unwrap()).unwrap();
    fs::write(guest.path("control"), "").unwrap();
    let output = Command::new(program())
        .arg("--config")
        .arg(guest.path("config"))
        .arg("--control")
        .arg(guest.path("control"))
        .output()
        .unwrap();
    assert_one_line(&output, &["control", "exists already"]);
    assert!(guest.path("control").exists());
}

#[test]
fn usage_errors_are_not_mistaken_for_a_guests_end() {
    for arguments in [&[][..], &["--config"], &["--owner-fd", "x"], &["--colour"]] {
        let output = Command::new(program()).args(arguments).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
    let output = Command::new(program()).args(["--owner-fd", "0"]).stdin(Stdio::null()).output();
    assert_one_line(&output.unwrap(), &["descriptor 0", "--config"]);
}

#[test]
fn help_and_version_are_for_people() {
    let run = |argument| Command::new(program()).arg(argument).output().unwrap();
    let help = run("--help");
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).unwrap();
    for word in ["CONFIGURATION", "memory_mib", "EXIT STATUS", "EXAMPLES", "--control"] {
        assert!(text.contains(word), "{word}");
    }
    let version = String::from_utf8(run("--version").stdout).unwrap();
    assert_eq!(version.trim(), concat!("bulkhead-vmm ", env!("CARGO_PKG_VERSION")));
}
