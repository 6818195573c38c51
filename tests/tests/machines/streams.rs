//! Standard input, output and error.

use bulkhead_tests::{
    harness::{Host, layout_with_probe},
    image::Name,
};

use super::host_with_busybox;

#[test]
fn ten_mib_of_standard_input_come_back_unharmed() {
    let Some(host) = host_with_busybox() else { return };
    let mut state = 1u64;
    let input: Vec<u8> = (0..10 << 20)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        })
        .collect();
    let mut cat = host.boot(&["run", "--rm", "-i", "busybox", "cat"]);
    cat.feed(input.clone());
    let outcome = cat.wait();
    outcome.assert_code(0);
    assert_eq!(outcome.error_text(), "");
    assert_eq!(outcome.stdout.len(), input.len());
    assert!(outcome.stdout == input, "the bytes are not the same");
    host.assert_nothing_left();
}

#[test]
fn output_and_error_are_two_streams_and_input_ends_when_it_is_closed() {
    let Some(host) = host_with_busybox() else { return };
    let script = "echo to-output; echo to-error >&2; while read line; do echo got $line; done; echo end-of-input; \
                  head -c 300000 /dev/zero | tr '\\0' e >&2";
    let mut shell = host.boot(&["run", "--rm", "-i", "busybox", "sh", "-c", script]);
    shell.wait_for("to-output\n");
    shell.write(b"one\n");
    shell.wait_for("got one\n");
    shell.write(b"two\n");
    shell.wait_for("got two\n");
    shell.close_stdin();
    let outcome = shell.wait();
    outcome.assert_code(0);
    assert_eq!(outcome.text(), "to-output\ngot one\ngot two\nend-of-input\n");
    let error = outcome.error_text();
    assert!(error.starts_with("to-error\n") && error.len() == 9 + 300_000, "{} bytes", error.len());
    host.assert_nothing_left();
}

#[test]
fn without_i_the_input_is_empty_and_python_runs() {
    let Some(host) = Host::with_kvm() else { return };
    host.import("python", &layout_with_probe(Name::Python));
    let program = "import sys, os, hashlib\n\
                   print('input', len(sys.stdin.read()))\n\
                   print('sum', sum(n * n for n in range(1000)))\n\
                   print('hash', hashlib.sha256(b'bulkhead').hexdigest())\n\
                   print('pid', os.getpid())\n\
                   os.makedirs('/var/tmp/a/b'); open('/var/tmp/a/b/c', 'w').write('written')\n\
                   print('file', open('/var/tmp/a/b/c').read())\n\
                   sys.exit(42)";
    let mut python = host.boot(&["run", "--rm", "python", "python3", "-c", program]);
    python.feed(b"this must not arrive".to_vec());
    let outcome = python.wait();
    outcome.assert_code(42);
    assert_eq!(outcome.value("input"), "0");
    assert_eq!(outcome.value("sum"), "332833500");
    assert_eq!(
        outcome.value("hash"),
        bulkhead_tests::image::digest_of(b"bulkhead").replace("sha256:", "")
    );
    assert_eq!(outcome.value("pid"), "1");
    assert_eq!(outcome.value("file"), "written");
    host.assert_nothing_left();
}
