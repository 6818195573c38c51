//! A terminal: what the program sees of it, its size, its keys.

use super::host_with_busybox;

#[test]
fn a_program_with_a_terminal_sees_its_size_its_changes_and_its_keys() {
    let Some(host) = host_with_busybox() else { return };
    let script = "tty; /probe terminal; trap 'echo interrupted; exit 7' INT; echo ready; while true; do sleep 0.2; done";
    let mut terminal =
        host.boot_on_terminal(&["run", "--rm", "-it", "busybox", "sh", "-c", script], 33, 111);
    terminal.wait_for("/dev/");
    terminal.wait_for("terminals true true true");
    terminal.wait_for("size 33 111");
    terminal.resize(44, 122);
    terminal.wait_for("size 44 122");
    terminal.type_keys("a line\r");
    terminal.wait_for("line \"a line\"");
    terminal.wait_for("ready");
    // Ctrl-C is for the program inside, not for the command line.
    terminal.type_keys("\x03");
    terminal.wait_for("interrupted");
    assert_eq!(terminal.wait().code(), Some(7), "{}", terminal.screen());
    let screen = terminal.screen();
    assert!(
        screen.contains("a line\r\n"),
        "keys are echoed once, lines end as on a terminal: {screen:?}"
    );
    assert_eq!(screen.matches("a line").count(), 2, "{screen:?}");
    host.assert_nothing_left();
}

#[test]
fn a_terminal_that_is_asked_for_and_is_none_is_refused() {
    let Some(host) = host_with_busybox() else { return };
    host.run(&["run", "--rm", "-it", "busybox", "true"]).assert_refused(125, &["terminal"]);
    host.assert_nothing_left();
}
