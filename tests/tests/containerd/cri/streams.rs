//! What `kubectl exec`, `attach` and `port-forward` do, as the kubelet hands it on: the plugin's streaming server.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{
    channels::{DATA, ERROR, RESIZE, STATUS, STDERR, STDIN, STDOUT},
    messages::{Attach, Exec},
    pod::Pod,
};

/// A program that is asked for its terminal's size until it is that of [`SIZE`].
const SIZED: &str = "until stty size | grep '37 91'; do sleep 0.1; done 2>/dev/null";
const SIZE: &[u8] = br#"{"Width":91,"Height":37}"#;
/// More than the buffers on the way from one end to the other hold at first.
const MUCH: usize = 128 << 10;

/// A command in a container: its three streams and its exit code, and a terminal with a size.
pub(super) fn of_a_command(pod: &Pod<'_>, container: &str) {
    let exec = |script: &str, tty: bool| {
        let command = ["sh", "-c", script].map(String::from).into();
        let container = container.to_owned();
        let (stdin, stdout, stderr) = (true, true, !tty);
        pod.streams("Exec", Exec { container, command, tty, stdin, stdout, stderr })
    };
    let mut pipes = exec("read line; echo got $line; echo problem >&2; exit 7", false);
    pipes.send(STDIN, b"typed\n");
    pipes.wait();
    assert_eq!(
        (pipes.text(STDOUT).as_str(), pipes.text(STDERR).as_str()),
        ("got typed\n", "problem\n")
    );
    let status: serde_json::Value = serde_json::from_slice(pipes.heard(STATUS)).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "7", "{status}");

    let mut terminal = exec(&format!("tty; {SIZED}; read line; echo got $line"), true);
    terminal.wait_for(STDOUT, "/dev/pts/");
    terminal.send(RESIZE, SIZE);
    terminal.wait_for(STDOUT, "37 91");
    terminal.send(STDIN, b"typed\r");
    terminal.wait_for(STDOUT, "got typed\r\n");
    terminal.wait();
    assert!(terminal.text(STATUS).contains("Success"), "{}", terminal.text(STATUS));
}

/// The program of a container with pipes: ends with 3 when it is told to.
pub(super) const HEARS: &str = "echo one here; trap 'exit 3' TERM; touch /ready; while read line; do echo heard $line; echo aside >&2; done";

/// The program of a container with a terminal.
pub(super) fn looks() -> String {
    format!("read line; {SIZED}; echo got $line; exec sleep 100000")
}

/// Containers with standard input, to which one may attach, go away, and come back: one that [`HEARS`] and one that [`looks`].
pub(super) fn of_containers(pod: &Pod<'_>, hears: &str, looks: &str) {
    let attach = |container: &str, tty: bool| {
        let container = container.to_owned();
        let (stdin, stdout, stderr) = (true, true, !tty);
        pod.streams("Attach", Attach { container, stdin, tty, stdout, stderr })
    };
    for word in ["this", "that"] {
        let mut streams = attach(hears, false);
        streams.send(STDIN, format!("{word}\n").as_bytes());
        streams.wait_for(STDOUT, &format!("heard {word}\n"));
        streams.wait_for(STDERR, "aside\n");
    }
    let mut streams = attach(looks, true);
    streams.send(STDIN, b"typed\r");
    streams.send(RESIZE, SIZE);
    streams.wait_for(STDOUT, "got typed\r\n");
}

/// A program that says at port 9000 what it hears.
pub(super) const ECHO: &str = "(nc -ll -p 9000 -e cat > /dev/null 2>&1 &)";

/// Connections to a program, an [`ECHO`] that may still begin, on the pod's loopback addresses: from the pod's network namespace on the host, and by the
/// plugin, which connects from there.
pub(super) fn to_ports(pod: &Pod<'_>) {
    let connect = |address: &'static str| {
        let pid = pod.pid();
        let body = move || {
            let namespace = File::open(format!("/proc/{pid}/ns/net")).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(b"question")?;
            stream.shutdown(Shutdown::Write)?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        };
        thread::spawn(body).join().unwrap()
    };
    pod.until("the port to answer", || connect("127.0.0.1:9000").is_ok());
    for address in ["127.0.0.1:9000", "[::1]:9000"] {
        assert_eq!(connect(address).unwrap(), "question", "{address}");
    }
    for address in ["127.0.0.1:9999", "[::1]:9999"] {
        connect(address).unwrap_err();
    }
    let mut streams = [pod.forward(9000), pod.forward(9000)];
    // Both channels begin with the port's number.
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.send(DATA, format!("question {number}").as_bytes());
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.wait_for(DATA, &format!("question {number}"));
    }
    let [mut stream, other] = streams;
    drop(other);
    let before = stream.heard(DATA).len();
    for _ in 0..MUCH >> 12 {
        stream.send(DATA, &[b'x'; 1 << 12]);
    }
    stream.wait_for_bytes(DATA, before + MUCH);
    assert!(stream.heard(DATA).iter().skip(before).all(|byte| *byte == b'x'));
    drop(stream);
    // The error's text is behind the port's number.
    let mut refused = pod.forward(9999);
    refused.send(DATA, b"anybody?");
    refused.wait_for_bytes(ERROR, 3);
}
