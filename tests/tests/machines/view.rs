//! What a container looks like from inside: docker's defaults, and what the flags and the image change.

use std::collections::BTreeMap;

use bulkhead_tests::{
    harness::{Host, Outcome, image_with_probe},
    image::Name,
};

use super::host_with_busybox;

/// The lines `KEY=VALUE` of the output.
fn values(outcome: &Outcome) -> BTreeMap<String, String> {
    let text = outcome.text();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
}

/// What root of a container may do (docker's fourteen capabilities as a set).
const DOCKERS_CAPABILITIES: &str = "00000000a80425fb";

const LOOK: &str = r#"
status() { sed -n "s/^$1:[[:space:]]*//p" /proc/self/status; }
can() { "$@" >/dev/null 2>&1 && echo yes || echo no; }
echo pid=$$
echo id=$(id)
echo effective=$(status CapEff)
echo permitted=$(status CapPrm)
echo bounding=$(status CapBnd)
echo inheritable=$(status CapInh)
echo ambient=$(status CapAmb)
echo new_privileges=$(status NoNewPrivs)
echo hostname=$(hostname)
echo path=$PATH
echo home=$HOME
echo directory=$(pwd)
echo processes=$(ls -d /proc/[0-9]* | wc -l)
echo root_line=$(awk '$2 == "/" { print $3 }' /proc/mounts | tail -n 1)
for m in proc sys dev dev/pts dev/shm dev/mqueue sys/fs/cgroup; do
  echo mount:$m=$(awk -v m=/$m '$2 == m { print $3, $4 }' /proc/mounts | tail -n 1)
done
echo devices=$(cd /dev; ls | tr '\n' ' ')
echo null=$(stat -c '%F %t:%T %a' /dev/null)
echo random=$(head -c 8 /dev/urandom | wc -c)
echo zero=$(head -c 8 /dev/zero | od -An -tx1)
echo full=$(can sh -c 'echo x > /dev/full')
echo fd=$(readlink /dev/fd) stdin=$(readlink /dev/stdin)
echo kcore_bytes=$(cat /proc/kcore 2>/dev/null | wc -c)
echo firmware=$(ls /sys/firmware 2>/dev/null | wc -l)
echo write_sysctl=$(can sh -c 'echo x > /proc/sys/kernel/hostname')
echo write_sysrq=$(can sh -c 'echo h > /proc/sysrq-trigger')
echo write_sys=$(can mkdir /sys/fs/cgroup/x)
echo mount_tmpfs=$(can mount -t tmpfs none /mnt)
echo set_hostname=$(can hostname other)
date -s @0 >/dev/null 2>&1
echo make_null=$(can mknod /tmp/null c 1 3)
echo read_made_null=$(can cat /tmp/null)
echo make_disk=$(can mknod /tmp/vda b 254 0)
echo read_disk=$(can head -c 1 /tmp/vda)
echo chown=$(can sh -c '> /tmp/f; chown 5:6 /tmp/f')
echo chroot=$(can chroot / true)
echo see_agent=$(can test -e /proc/1/root/init)
echo oom=$(cat /proc/self/oom_score_adj)
echo cgroup=$(cat /proc/self/cgroup)
echo memory_limit=$(cat /sys/fs/cgroup/memory.max)
echo cpu_limit=$(cat /sys/fs/cgroup/cpu.max)
echo loopback=$(cat /sys/class/net/lo/operstate 2>/dev/null)
echo kernel=$(uname -r)
ls /proc/1/fd > /tmp/descriptors
echo descriptors=$(cat /tmp/descriptors)
echo streams=$(ls -l /proc/1/fd | sed 's/.*->//')
echo date_year=$(date +%Y)
echo end=end
"#;

#[test]
fn a_container_looks_as_dockers_does() {
    let Some(host) = host_with_busybox() else { return };
    let outcome = host.boot(&["run", "--rm", "busybox", "sh", "-c", LOOK]).wait();
    outcome.assert_code(0);
    let seen = values(&outcome);
    let check = |key: &str, want: &str| {
        assert_eq!(seen.get(key).map(String::as_str), Some(want), "{key}: {outcome}")
    };
    check("end", "end");
    check("pid", "1");
    assert!(seen["id"].starts_with("uid=0(root) gid=0(root)"), "{outcome}");
    check("effective", DOCKERS_CAPABILITIES);
    check("permitted", DOCKERS_CAPABILITIES);
    check("bounding", DOCKERS_CAPABILITIES);
    check("inheritable", "0000000000000000");
    check("ambient", "0000000000000000");
    check("new_privileges", "0");
    assert_eq!(seen["hostname"].len(), 12, "{outcome}");
    check("path", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    check("home", "/root");
    check("directory", "/");
    assert!(seen["processes"].parse::<u32>().unwrap() <= 4, "{outcome}");
    check("root_line", "overlay");
    for (mount, kind, options) in [
        ("proc", "proc", ["nosuid", "nodev", "noexec"].as_slice()),
        ("sys", "sysfs", &["ro", "nosuid", "nodev", "noexec"]),
        ("dev", "tmpfs", &["nosuid"]),
        ("dev/pts", "devpts", &["nosuid", "noexec", "ptmxmode=666"]),
        ("dev/shm", "tmpfs", &["nosuid", "nodev", "noexec"]),
        ("dev/mqueue", "mqueue", &["nosuid", "nodev", "noexec"]),
        ("sys/fs/cgroup", "cgroup2", &["ro", "nosuid", "nodev", "noexec"]),
    ] {
        let line = &seen[&format!("mount:{mount}")];
        assert!(line.starts_with(&format!("{kind} ")), "{mount}: {line}");
        for option in options {
            assert!(
                line.split([' ', ',']).any(|word| word == *option),
                "{mount} without {option}: {line}"
            );
        }
    }
    for device in [
        "full", "null", "ptmx", "random", "tty", "urandom", "zero", "fd", "stdin", "stdout",
        "stderr",
    ] {
        assert!(
            seen["devices"].split(' ').any(|name| name == device),
            "no /dev/{device}: {outcome}"
        );
    }
    for device in ["vda", "vdb", "mem", "kmsg", "port"] {
        assert!(!seen["devices"].split(' ').any(|name| name == device), "/dev/{device}: {outcome}");
    }
    check("null", "character special file 1:3 666");
    check("random", "8");
    check("zero", "00 00 00 00 00 00 00 00");
    check("full", "no");
    assert!(seen["fd"].starts_with("/proc/self/fd stdin="), "{outcome}");
    check("kcore_bytes", "0");
    check("firmware", "0");
    for refused in [
        "write_sysctl",
        "write_sysrq",
        "write_sys",
        "mount_tmpfs",
        "set_hostname",
        "read_disk",
        "see_agent",
    ] {
        check(refused, "no");
    }
    for allowed in ["make_null", "read_made_null", "make_disk", "chown", "chroot"] {
        check(allowed, "yes");
    }
    check("cgroup", "0::/");
    // 256 MiB, less a thirty-second and 16 MiB.
    check("memory_limit", &(232u64 << 20).to_string());
    check("cpu_limit", "100000 100000");
    // 10 is the shell's own copy of its output, for the redirection.
    check("descriptors", "0 1 10 2");
    let host_kernel = rustix::system::uname();
    assert_ne!(
        seen["kernel"],
        host_kernel.release().to_string_lossy(),
        "the kernel is not the host's"
    );
    assert!(seen["date_year"].parse::<u32>().unwrap() >= 2026, "{outcome}");
    host.assert_nothing_left();
}

#[test]
fn flags_change_the_container() {
    let Some(host) = host_with_busybox() else { return };
    let script = r#"
echo id=$(id -u):$(id -g):$(id -G)
echo effective=$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status)
echo directory=$(pwd)
echo hostname=$(hostname)
echo given=$GIVEN
echo taken=$TAKEN_FROM_HERE
echo home=$HOME
echo scratch=$(awk '$2 == "/scratch" { print $3, $4 }' /proc/mounts)
echo root=$(awk '$2 == "/" { print $4 }' /proc/mounts | tail -n 1 | cut -d, -f1)
touch /file 2>/dev/null && echo write_root=yes || echo write_root=no
echo x > /scratch/file && echo write_scratch=yes || echo write_scratch=no
head -c 200000 /dev/zero > /scratch/large 2>/dev/null && echo fill_scratch=yes || echo fill_scratch=no
echo cpu=$(cat /sys/fs/cgroup/cpu.max) nproc=$(nproc)
echo memory=$(cat /sys/fs/cgroup/memory.max)
echo arguments="$0" "$@"
"#;
    let mut command = host.command(&[
        "run",
        "--read-only",
        "--tmpfs",
        "/scratch:size=64k,mode=1777",
        "-e",
        "GIVEN=a b=c",
        "-e",
        "TAKEN_FROM_HERE",
        "-w",
        "/new/directory",
        "-u",
        "guest",
        "--hostname",
        "a-host.example",
        "--memory",
        "128m",
        "--cpus",
        "0.5",
        "--name",
        "flags",
        "--rm",
        "busybox",
        "sh",
        "-c",
        script,
        "zero",
        "-x",
        "--",
        "two words",
    ]);
    command.env("TAKEN_FROM_HERE", "taken");
    let outcome = host.boot_command(command).wait();
    outcome.assert_code(0);
    let seen = values(&outcome);
    let check = |key: &str, want: &str| {
        assert_eq!(seen.get(key).map(String::as_str), Some(want), "{key}: {outcome}")
    };
    check("id", "1000:1000:1000 1001");
    check("effective", "0000000000000000");
    check("directory", "/new/directory");
    check("hostname", "a-host.example");
    check("given", "a b=c");
    check("taken", "taken");
    check("home", "/home/guest");
    assert!(
        seen["scratch"].starts_with("tmpfs ") && seen["scratch"].contains("size=64k"),
        "{outcome}"
    );
    check("root", "ro");
    check("write_root", "no");
    check("write_scratch", "yes");
    check("fill_scratch", "no");
    check("cpu", "50000 100000 nproc=1");
    check("memory", &(108u64 << 20).to_string());
    check("arguments", "zero -x -- two words");
    host.assert_nothing_left();
}

#[test]
fn an_images_own_configuration_is_honoured() {
    let Some(host) = Host::with_kvm() else { return };
    let mut image = image_with_probe(Name::Busybox);
    image.config.entrypoint = vec!["/bin/sh".into(), "-c".into()];
    image.config.cmd = vec![
        "echo id=$(id -u):$(id -g); echo directory=$(pwd); echo variable=$VARIABLE; echo path=$PATH; \
         trap 'echo got-usr1; exit 3' USR1; echo ready; while true; do sleep 0.2; done"
            .into(),
    ];
    image.config.env = vec!["VARIABLE=of the image".into(), "PATH=/bin:/usr/bin".into()];
    image.config.user = "1000:1001".into();
    image.config.working_dir = "/home".into();
    image.config.stop_signal = "SIGUSR1".into();
    let source = host.source("image", &image);
    let mut run = host.boot(&["run", "--rm", "-e", "VARIABLE=of the user", &source]);
    run.wait_for("ready");
    // A hang-up becomes the image's stop signal.
    run.signal(rustix::process::Signal::HUP);
    let outcome = run.wait();
    outcome.assert_code(3);
    let seen = values(&outcome);
    assert_eq!(seen["id"], "1000:1001");
    assert_eq!(seen["directory"], "/home");
    assert_eq!(seen["variable"], "of the user");
    assert_eq!(seen["path"], "/bin:/usr/bin");
    assert!(outcome.text().contains("got-usr1"), "{outcome}");

    let outcome =
        host.boot(&["run", "--rm", "--entrypoint", "/bin/echo", &source, "only", "this"]).wait();
    outcome.assert_clean();
    assert_eq!(outcome.text(), "only this\n");
    host.assert_nothing_left();
}
