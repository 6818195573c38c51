//! Terminals of the container and of processes that join it.

use std::{
    io::{Read, Write},
    process::Child,
};

use bulkhead::sandbox::Status;
use serde_json::{Value, json};

use crate::{
    bundle::{Bundle, process},
    running::Maker,
};

fn expect(child: &mut Child, text: &str) {
    let mut seen = String::new();
    let out = child.stdout.as_mut().unwrap();
    let mut byte = [0];
    while !seen.ends_with(text) {
        assert_eq!(out.read(&mut byte).unwrap(), 1, "{text:?} in {seen:?}");
        seen.push(char::from(byte[0]));
    }
}

fn say(child: &mut Child, line: &str) {
    child.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn on_terminal(mut process: Value) -> Value {
    process["terminal"] = json!(true);
    process["consoleSize"] = json!({ "height": 11, "width": 44 });
    process
}

/// One terminal's life: its first size, a line that comes back, a change of its size, the end of input.
fn talk(child: &mut Child) {
    expect(child, "11 44\r\n");
    say(child, "hello");
    expect(child, "hello\r\n");
    expect(child, "heard hello\r\n");
    say(child, "SIZE 20 70");
    expect(child, "changed 20 70\r\n");
    say(child, "\u{4}");
}

/// A shell that waits misses no signal, where one that reads can.
const SCRIPT: &str = "exec 3<&0; trap 'echo changed $(stty size)' WINCH; stty size; \
    { while read -r line; do echo heard $line; done; } <&3 & \
    while kill -0 $! 2>/dev/null; do wait $!; done; exit 4";

pub(crate) fn terminals_have_sizes() {
    let bundle = Bundle::new(&["sh", "-c", SCRIPT])
        .with(|config| config["process"] = on_terminal(config["process"].clone()));
    let mut maker = Maker::create(&bundle, "bulkhead-test-terminal");
    maker.with(|sandbox| sandbox.start()).unwrap();
    let mut child = maker.exec(&on_terminal(process(&["sh", "-c", SCRIPT])));
    talk(&mut child);
    assert_eq!(child.wait().unwrap().code(), Some(4));
    assert_eq!(maker.status(), Status::Running);
    talk(&mut maker.child);
    assert_eq!(maker.child.wait().unwrap().code(), Some(4));
    maker.with(|sandbox| sandbox.remove()).unwrap();
}
