//! A session against a keeper that is played by the test.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::keeper::frames::Started;

fn run(
    starting: Option<u32>,
    keeper: impl FnOnce(UnixStream) + Send + 'static,
) -> Result<Outcome, SessionError> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let played = thread::spawn(move || keeper(theirs));
    let mut timeline = Timeline::begin(0);
    let plan = Plan { interactive: false, terminal: false, starting, forward_signals: false };
    let outcome = Session::new(plan, ours, &mut timeline).unwrap().run();
    played.join().unwrap();
    outcome
}

fn ended(code: u8) -> FromKeeper {
    FromKeeper::Ended(Ended {
        code,
        oom_killed: false,
        lost: false,
        error: None,
        timeline: json!([]),
    })
}

#[test]
fn the_exit_code_is_what_the_keeper_says() {
    let outcome = run(None, |mut socket| {
        FromKeeper::Warning("a full disk".into()).send(&mut socket).unwrap();
        ended(42).send(&mut socket).unwrap();
    });
    assert!(matches!(outcome, Ok(Outcome::Ended(Ended { code: 42, .. }))));
}

#[test]
fn a_start_that_fails_says_why() {
    let outcome = run(Some(u32::MAX), |mut socket| {
        let failed = Failed { code: 127, message: "no such program".into() };
        FromKeeper::Failed(failed).send(&mut socket).unwrap();
    });
    match outcome {
        Err(SessionError::Failed(failed)) => assert_eq!(failed.code, 127),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_keeper_that_is_killed_is_noticed() {
    assert!(matches!(run(None, drop), Err(SessionError::Lost)));
    let garbage = run(None, |mut socket| socket.write_all(b"?????????").unwrap());
    assert!(matches!(garbage, Err(SessionError::Lost)));
}

/// A user who types when he sees the prompt types into a terminal that is raw by then.
#[test]
fn output_is_shown_when_the_terminal_is_the_programs() {
    for starting in [None, Some(u32::MAX)] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut timeline = Timeline::begin(0);
        let plan = Plan { interactive: false, terminal: false, starting, forward_signals: false };
        let mut session = Session::new(plan, ours, &mut timeline).unwrap();
        if starting.is_some() {
            FromKeeper::Started(Started { timeline: json!([]) }).send(&mut theirs).unwrap();
            let event = session.events.recv().unwrap();
            assert!(matches!(event, Event::Keeper(FromKeeper::Started(_))), "{event:?}");
        }
        FromKeeper::Output(Vec::new()).send(&mut theirs).unwrap();
        thread::sleep(Duration::from_millis(50));
        assert!(session.events.try_recv().is_err(), "{starting:?}");
        assert!(session.begin().unwrap().is_none());
        let event = session.events.recv().unwrap();
        assert!(matches!(event, Event::FirstOutput(_)), "{event:?}");
    }
}
