//! The writable layer: it takes writes, it has an end, and it goes with the container.

use super::host_with_busybox;

#[test]
fn a_full_disk_is_an_error_of_the_program_and_of_nobody_else() {
    let Some(host) = host_with_busybox() else { return };
    let script = r#"
head -c 100000 /dev/urandom > /tmp/before; sum=$(md5sum < /tmp/before)
i=0; while [ $i -lt 64 ] && fallocate -l 8388608 /tmp/large-$i 2>/dev/null; do i=$((i + 1)); done
echo taken $i
fallocate -l 1073741824 /tmp/huge; echo huge $?
i=0; while [ $i -lt 400 ] && head -c 65536 /dev/zero > /tmp/rest-$i; do i=$((i + 1)); done 2>/tmp/error || true
echo rest $i
dd if=/dev/zero of=/tmp/last bs=64k count=64 2>&1 | grep -c 'No space left' | sed 's/^/last /'
[ "$sum" = "$(md5sum < /tmp/before)" ] && echo before same
rm /tmp/large-* /tmp/rest-* /tmp/last
head -c 100000 /tmp/before > /tmp/after && cmp /tmp/before /tmp/after && echo after works
df -k / | tail -n 1 | sed 's/^/df /'
"#;
    let outcome =
        host.boot(&["run", "--rm", "--disk-size", "64m", "busybox", "sh", "-c", script]).wait();
    outcome.assert_code(0);
    assert!(outcome.value("taken").parse::<u32>().unwrap() <= 8, "{outcome}");
    assert_ne!(outcome.value("huge"), "0", "{outcome}");
    assert!(outcome.value("rest").parse::<u32>().unwrap() < 400, "{outcome}");
    assert_eq!(outcome.value("last"), "1", "{outcome}");
    assert_eq!(outcome.value("before"), "same", "{outcome}");
    assert_eq!(outcome.value("after"), "works", "{outcome}");
    host.assert_nothing_left();
}

#[test]
fn what_is_written_changes_no_image() {
    let Some(host) = host_with_busybox() else { return };
    let script = r#"
echo changed > /zoo/kept; rm /zoo/one-byte; rm -r /zoo/crowd; mkdir /zoo/crowd; echo new > /zoo/crowd/new
mv /zoo/a-block /zoo/moved; chmod 700 /zoo/empty; ln /zoo/many-blocks /zoo/third-link
echo kept $(cat /zoo/kept) crowd $(ls /zoo/crowd) moved $(wc -c < /zoo/moved) gone $(ls /zoo/one-byte 2>/dev/null | wc -l)
"#;
    let run = |script: &str| host.boot(&["run", "--rm", "busybox", "sh", "-c", script]).wait();
    let first = run(script);
    first.assert_clean();
    assert_eq!(first.value("kept"), "changed crowd new moved 4096 gone 0");
    let second =
        run("echo kept $(cat /zoo/kept) crowd $(ls /zoo/crowd | wc -l) one $(cat /zoo/one-byte)");
    second.assert_clean();
    assert_eq!(second.value("kept"), "only below crowd 400 one 1");
    host.assert_nothing_left();
}
