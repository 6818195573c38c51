//! A session against an agent that is played by the test.

use std::{os::unix::net::UnixStream, sync::mpsc, thread};

use bulkhead_protocol::{
    Failure, FrameError, MAX_TO_AGENT, Ready, Request, Root, Stdio, read_frame, write_frame,
};
use serde_json::json;

use super::*;

fn plan(boot_timeout: Duration) -> Plan {
    Plan {
        create: Create {
            container: "c".into(),
            spec: json!({ "ociVersion": "1.2.0" }),
            root: Root::Directory { path: "/".into() },
            stdio: Stdio { main: Some(1), stdin: false, stderr: None },
            shares: Vec::new(),
        },
        interactive: false,
        terminal: false,
        stop_signal: SIGTERM,
        boot_timeout,
    }
}

/// Runs a session whose agent does what `agent` says.
fn run(
    agent: impl FnOnce(UnixStream, Sender<Event>) + Send + 'static,
) -> Result<Outcome, SessionError> {
    let (to_events, events) = mpsc::channel();
    let (ours, theirs) = UnixStream::pair().unwrap();
    to_events.send(Event::AgentConnected(ours)).unwrap();
    let to_agent = to_events.clone();
    let played = thread::spawn(move || agent(theirs, to_agent));
    let plan = plan(Duration::from_secs(20));
    let mut timeline = Timeline::begin(0);
    let outcome = Session::new(&plan, &mut timeline, events, to_events).run();
    played.join().unwrap();
    outcome
}

fn ready(agent: &mut UnixStream, version: u32) {
    write_frame(agent, &Message::Ready(Ready { version, kernel: "6.1".into() })).unwrap();
}

fn request(agent: &mut UnixStream) -> Request {
    read_frame(agent, MAX_TO_AGENT).unwrap()
}

fn reply(agent: &mut UnixStream, seq: u64, result: Result<Reply, Failure>) {
    write_frame(agent, &Message::Reply { seq, result }).unwrap();
}

fn start(agent: &mut UnixStream) {
    ready(agent, VERSION);
    for _ in 0..2 {
        let seq = request(agent).seq;
        reply(agent, seq, Ok(Reply::Done));
    }
}

fn exited(agent: &mut UnixStream, status: ExitStatus) {
    let target = Target { container: "c".into(), exec: None };
    write_frame(
        agent,
        &Message::Exited(Exited { target, status, oom_killed: false, written: [0, 0] }),
    )
    .unwrap();
}

#[test]
fn the_exit_code_comes_after_the_last_output() {
    let outcome = run(|mut agent, events| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        events.send(Event::Stream(1, ours)).unwrap();
        start(&mut agent);
        exited(&mut agent, ExitStatus::Code(7));
        // As long as the stream is open the session lives, and with it its end of this connection.
        agent.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(matches!(read_frame::<Request>(&mut agent, MAX_TO_AGENT), Err(FrameError::Io(_))));
        drop(theirs);
    });
    assert_eq!(outcome.unwrap().status, ExitStatus::Code(7));
}

#[test]
fn an_agent_of_another_version_is_refused() {
    let error = run(|mut agent, _| ready(&mut agent, VERSION + 1)).unwrap_err();
    assert!(matches!(error, SessionError::Version { .. }), "{error}");
}

#[test]
fn a_refusal_keeps_its_kind_and_loses_its_control_characters() {
    let error = run(|mut agent, _| {
        ready(&mut agent, VERSION);
        let seq = request(&mut agent).seq;
        request(&mut agent);
        let failure =
            Failure { kind: FailureKind::ProgramNotFound, message: "no\x1b[2J program\n".into() };
        reply(&mut agent, seq, Err(failure));
    });
    match error.unwrap_err() {
        SessionError::Refused { kind, message } => {
            assert_eq!((kind, message.as_str()), (FailureKind::ProgramNotFound, "no [2J program "));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_machine_that_ends_early_is_an_error() {
    let error = run(|mut agent, events| {
        start(&mut agent);
        events.send(Event::Vmm(FromVmm::Ended(End::Panic))).unwrap();
    });
    assert!(matches!(error, Err(SessionError::Ended(why)) if why.contains("panicked")));
}

#[test]
fn garbage_from_the_agent_is_an_error() {
    let error = run(|mut agent, _| {
        std::io::Write::write_all(&mut agent, &[0xff; 64]).unwrap();
    });
    assert!(matches!(error, Err(SessionError::Agent(_))));
}

#[test]
fn a_silent_guest_is_given_up() {
    let plan = plan(Duration::from_millis(10));
    let mut timeline = Timeline::begin(0);
    let (to_events, events) = mpsc::channel();
    let error = Session::new(&plan, &mut timeline, events, to_events).run();
    assert!(matches!(error, Err(SessionError::Timeout(_))));
}

#[test]
fn signals_are_forwarded_and_the_third_one_kills() {
    let outcome = run(|mut agent, events| {
        start(&mut agent);
        for want in [SIGTERM, SIGINT, SIGKILL] {
            let signal = if want == SIGKILL { SIGTERM } else { want };
            events.send(Event::Signal(signal)).unwrap();
            match request(&mut agent).call {
                Call::Kill { signal, .. } => assert_eq!(signal, want),
                other => panic!("{other:?}"),
            }
        }
        exited(&mut agent, ExitStatus::Signal(9));
    });
    assert_eq!(outcome.unwrap().status.shell_code(), 137);
}

#[test]
fn a_guest_that_answers_nothing_can_be_given_up() {
    let error = run(|mut agent, events| {
        ready(&mut agent, VERSION);
        request(&mut agent);
        request(&mut agent);
        for _ in 0..=INSIST {
            events.send(Event::Signal(SIGINT)).unwrap();
        }
        while read_frame::<Request>(&mut agent, MAX_TO_AGENT).is_ok() {}
    });
    assert!(matches!(error, Err(SessionError::Signal(SIGINT))));
}

#[test]
fn a_signal_before_the_start_ends_the_session() {
    let error = run(|agent, events| {
        events.send(Event::Signal(SIGINT)).unwrap();
        drop(agent);
    });
    let error = error.unwrap_err();
    assert!(matches!(error, SessionError::Signal(SIGINT)), "{error}");
}

#[test]
fn a_guests_words_cannot_drive_the_terminal() {
    assert_eq!(printable("a\x1b[2Jb\nc"), "a [2Jb c");
    assert_eq!(printable(&"x".repeat(5000)).len(), 1000);
}
