//! Waits for a container's end.

use std::{
    io,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use super::{CommandError, context::Context};
use crate::{
    container::{ContainerError, Place, State},
    keeper::{
        connect,
        frames::{Frame, FromKeeper, Hello},
    },
};

/// A keeper that does not listen yet, or not any more, is looked for again after this time.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until a container has ended and what goes with its end has gone; its exit code, or 0 for one that never ran. `None` at the deadline.
pub(super) fn wait_for_end(
    context: &Context,
    place: &Place,
    deadline: Option<Instant>,
) -> Result<Option<u8>, CommandError> {
    let mut last = None;
    loop {
        let state = match context.reached(place) {
            Ok(state) => state,
            // It went with its end.
            Err(CommandError::Container(ContainerError::NotFound(_))) if last.is_some() => {
                return Ok(last);
            }
            Err(error) => return Err(error),
        };
        if !state.is_active() || state.keeper.is_none() {
            return Ok(Some(code(&state)));
        }
        last = Some(code(&state));
        match connect(place, Hello::default()) {
            Ok(socket) => match hear_end(socket, deadline) {
                Ok(Some(code)) => return Ok(Some(code)),
                Ok(None) => {}
                Err(_) => return Ok(None),
            },
            Err(_) => std::thread::sleep(PAUSE),
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(None);
        }
    }
}

fn code(state: &State) -> u8 {
    state.exit_code.unwrap_or(0)
}

/// The exit code that the keeper tells; `None` if it was killed; an error at the deadline.
fn hear_end(mut socket: UnixStream, deadline: Option<Instant>) -> io::Result<Option<u8>> {
    loop {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            socket.set_read_timeout(Some(left))?;
        }
        match FromKeeper::receive(&mut socket) {
            Ok(Some(FromKeeper::Ended(ended))) => return Ok(Some(ended.code)),
            Ok(Some(_)) => {}
            Ok(None) => return Ok(None),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                return Err(error);
            }
            Err(_) => return Ok(None),
        }
    }
}
