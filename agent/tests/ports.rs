//! Connections to ports of a container's loopback addresses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

#[allow(dead_code)]
mod support;

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsFd,
    thread,
};

use bulkhead_protocol::{Call, Connect, Failure, FailureKind, Message, Reply, Stdio, Token};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;
use support::{Agent, can_run, spec};

/// Both ways at once, more than all buffers on the way hold.
const MUCH: usize = 24 << 20;

/// An agent with a container that has a network of its own, and sockets in that which listen at these addresses.
fn container<const N: usize>(addresses: [&'static str; N]) -> (Agent, [TcpListener; N]) {
    let mut agent = Agent::start();
    let root = agent.root("root");
    let mut spec = spec(&["sleep", "100000"]);
    spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "network"}));
    let Reply::Process { pid, .. } = agent.create("c", spec, &root, Stdio::default()).unwrap()
    else {
        panic!("no process")
    };
    agent.start_container("c").unwrap();
    let body = move || {
        let namespace = File::open(format!("/proc/{pid}/ns/net")).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        addresses.map(|address| TcpListener::bind(address).unwrap())
    };
    (agent, thread::spawn(body).join().unwrap())
}

fn connect(agent: &mut Agent, v6: bool, port: u16, stream: Token) -> Result<Reply, Failure> {
    let container = agent.id("c");
    agent.call(Call::Connect(Connect { container, v6, port, stream }))
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

/// Sends bytes that tell where they are, and their end.
fn send(mut to: impl Write) {
    for chunk in 0..MUCH >> 16 {
        to.write_all(&[u8::try_from(chunk % 251).unwrap(); 1 << 16]).unwrap();
    }
}

fn receive(mut from: impl Read) {
    let mut chunk = vec![0; 1 << 16];
    for number in 0..MUCH >> 16 {
        from.read_exact(&mut chunk).unwrap();
        assert!(chunk.iter().all(|byte| usize::from(*byte) == number % 251), "chunk {number}");
    }
    assert_eq!(from.read(&mut chunk).unwrap(), 0);
}

#[test]
fn a_connection_carries_all_both_ways_and_each_half_ends_by_itself() {
    if !can_run() {
        return;
    }
    let (mut agent, [listener]) = container(["127.0.0.1:0"]);
    connect(&mut agent, false, port(&listener), 100).unwrap();
    let mut stream = agent.stream(100);
    let (mut program, _) = listener.accept().unwrap();
    stream.write_all(b"question").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    program.read_to_string(&mut text).unwrap();
    assert_eq!(text, "question");
    program.write_all(b"answer").unwrap();
    drop(program);
    text.clear();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "answer");

    connect(&mut agent, false, port(&listener), 101).unwrap();
    let stream = agent.stream(101);
    let (program, _) = listener.accept().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| receive(&program));
        scope.spawn(|| receive(&stream));
        scope.spawn(|| {
            send(&program);
            program.shutdown(Shutdown::Write).unwrap();
        });
        send(&stream);
        stream.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(agent.shutdown(), Some(0));
}

#[test]
fn the_program_is_found_at_either_address() {
    if !can_run() {
        return;
    }
    let (mut agent, listeners) = container(["127.0.0.1:0", "[::1]:0"]);
    for (number, (listener, v6)) in
        (200..).zip(listeners.iter().flat_map(|one| [(one, false), (one, true)]))
    {
        connect(&mut agent, v6, port(listener), number).unwrap();
        agent.stream(number).write_all(b"x").unwrap();
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }
    let [free, _] = listeners.each_ref().map(port);
    for listener in &listeners {
        // A child of another test has it, too, until it runs its program: closing it would not end it at once.
        rustix::net::shutdown(listener, rustix::net::Shutdown::Both).unwrap();
    }
    for v6 in [false, true] {
        connect(&mut agent, v6, free, 300).unwrap();
        let refused = agent.message();
        assert!(matches!(refused, Message::Refused { stream: 300 }), "{refused:?}");
    }
    assert_eq!(connect(&mut agent, false, 0, 301).unwrap_err().kind, FailureKind::Invalid);
    agent.kill("c", 9, true).unwrap();
    agent.wait("c", None);
    assert_eq!(connect(&mut agent, false, 80, 302).unwrap_err().kind, FailureKind::State);
    agent.delete("c").unwrap();
    assert_eq!(connect(&mut agent, false, 80, 303).unwrap_err().kind, FailureKind::State);
}

/// Neither side waits for one that is gone.
#[test]
fn an_end_of_either_side_is_the_others() {
    if !can_run() {
        return;
    }
    let (mut agent, [listener]) = container(["127.0.0.1:0"]);
    connect(&mut agent, false, port(&listener), 100).unwrap();
    let stream = agent.stream(100);
    let (program, _) = listener.accept().unwrap();
    drop(stream);
    ends(&program);

    connect(&mut agent, false, port(&listener), 101).unwrap();
    let mut stream = agent.stream(101);
    let (program, _) = listener.accept().unwrap();
    stream.write_all(b"what it never reads").unwrap();
    while program.peek(&mut [0; 64]).unwrap() == 0 {}
    drop(program);
    let error = loop {
        if let Err(error) = stream.write_all(&[0; 1 << 16]) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

/// A program reads to the end, and then cannot write for long.
fn ends(mut program: &TcpStream) {
    assert_eq!(program.read(&mut [0; 64]).unwrap(), 0);
    while program.write_all(&[0; 1 << 16]).is_ok() {}
}
