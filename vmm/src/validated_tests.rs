//! Tests of what a configuration is refused for, and with which words.

use super::*;

fn config(kernel: &Path) -> VmConfig {
    serde_json::from_value(serde_json::json!({ "kernel": kernel, "memory_mib": 128 })).unwrap()
}

fn write(directory: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn elf(machine: u16, segment_end: u64) -> Vec<u8> {
    let mut bytes = vec![0; 128];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    bytes[32] = 64;
    bytes[56] = 1;
    bytes[64] = 1;
    bytes[64 + 32..64 + 40].copy_from_slice(&segment_end.to_le_bytes());
    bytes
}

#[test]
fn a_whole_kernel_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let kernel = write(&directory, "vmlinux", &elf(62, 128));
    let validated = Validated::new(config(&kernel)).unwrap();
    assert!(matches!(validated.origin, Origin::Boot { kernel: Kernel::Elf(_), initrd: None }));
    assert_eq!(validated.memory, 128 << 20);
    assert_eq!(validated.shape.vcpus, 1);
}

#[test]
fn kernels_that_are_none_are_named_with_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes, word) in [
        ("text", b"hello".to_vec(), "neither"),
        ("empty", Vec::new(), "neither"),
        ("arm", elf(183, 128), "machine 183"),
        ("short", elf(62, 4096), "truncated"),
        ("header", b"\x7fELF\x02\x01".to_vec(), "truncated"),
    ] {
        let path = write(&directory, name, &bytes);
        let error = Validated::new(config(&path)).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains(path.to_str().unwrap()), "{error}");
    }
    let missing = directory.path().join("missing");
    let error = Validated::new(config(&missing)).unwrap_err().to_string();
    assert!(error.contains(missing.to_str().unwrap()), "{error}");
    let error = Validated::new(config(directory.path())).unwrap_err().to_string();
    assert!(error.contains("cannot open"), "{error}");
}

#[test]
fn numbers_out_of_range_are_refused_with_the_range() {
    let directory = tempfile::tempdir().unwrap();
    let good = config(&write(&directory, "vmlinux", &elf(62, 128)));
    let refused = |change: fn(&mut VmConfig)| {
        let mut config = good.clone();
        change(&mut config);
        Validated::new(config).unwrap_err().to_string()
    };
    assert!(refused(|c| c.vcpus = 0).contains("1 to 8"));
    assert!(refused(|c| c.vcpus = 9).contains("is 9"));
    assert!(refused(|c| c.memory_mib = 63).contains("at least 64"));
    assert!(refused(|c| c.memory_mib = u64::MAX).contains("the host has"));
    assert!(refused(|c| c.cmdline = "a\nb".to_owned()).contains("cmdline"));
    assert!(refused(|c| c.vsock = Some(Vsock { cid: 2, path: "/x".into() })).contains("cid"));
    assert!(refused(|c| c.disks = vec![disk("")]).contains("disk id"));
    assert!(refused(|c| c.disks = vec![disk("123456789012345678901")]).contains("20"));
    assert!(refused(|c| c.disks = vec![disk("a"); 18]).contains("at most 17"));
    let with_balloon = refused(|c| {
        c.balloon = true;
        c.disks = vec![disk("a"); 17];
    });
    assert!(with_balloon.contains("at most 16"), "{with_balloon}");
}

fn disk(id: &str) -> Disk {
    Disk { id: id.to_owned(), files: Vec::new(), read_only: true }
}
