//! Why a monitor cannot go on.

use std::{fmt::Display, io};

use bulkhead_protocol::{Failure, FailureKind, VERSION};
use bulkhead_vmm::api::ClientError;

use crate::{network::NetworkError, sandbox::vm::admission::AdmissionError, text};

/// The exit code of a container whose machine or agent was lost, as if SIGKILL had ended it.
pub(super) use super::process::LOST;

/// Why.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The guest did not answer in time.
    #[error(
        "the guest did not answer within {0} s; see its console with --console-log FILE, or set BULKHEAD_BOOT_TIMEOUT"
    )]
    Timeout(u64),
    /// The machine ended too early.
    #[error("the microVM ended before its program did: {0}")]
    Ended(String),
    /// The agent cannot be understood or reached.
    #[error("the guest's agent failed: {0}")]
    Agent(String),
    /// The agent is of another version.
    #[error(
        "the guest's agent speaks version {0} of the protocol, this program {VERSION}; build both anew"
    )]
    Version(u32),
    /// The agent could not make the container.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// The process that wanted the container is gone.
    #[error("the process that asked for the container is gone")]
    CallerGone,
    /// The container's owner, without whom it is not to go on, is gone.
    #[error("the process that owned the container is gone")]
    OwnerGone,
    /// A signal came before the container was there.
    #[error("signal {0} ended this before the program ended")]
    Signal(i32),
    /// The container was killed and its guest does not say that it ended.
    #[error("the guest did not end the container after it was killed")]
    Unkillable,
    /// Only a clone was wanted.
    #[error(
        "the clone of template {key} failed: {why} (`bulkhead template rm {key}` makes room for another one; --template auto boots instead)"
    )]
    Clone {
        /// The template.
        key: String,
        /// Why.
        why: String,
    },
    /// The VMM could not be started.
    #[error("{}", chain(.0))]
    Vmm(#[from] ClientError),
    /// There is no memory for the machine.
    #[error(transparent)]
    Memory(#[from] AdmissionError),
    /// The container's network cannot be the guest's.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The host's network, its control groups, or a hook.
    #[error(transparent)]
    Place(bulkhead_container::Error),
    /// The host refused something.
    #[error("cannot {what}: {why}")]
    System {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
}

impl Fault {
    /// For the caller's caller.
    pub(crate) fn failure(&self) -> Failure {
        match self {
            Fault::Refused(failure) => failure.clone(),
            Fault::Place(error) if error.kind() == bulkhead_container::Kind::Invalid => {
                Failure { kind: FailureKind::Invalid, message: error.to_string() }
            }
            other => Failure { kind: FailureKind::System, message: other.to_string() },
        }
    }
}

/// What was tried, as the beginning of an error.
pub(super) fn to<E: Display>(what: impl Into<String>) -> impl FnOnce(E) -> Fault {
    move |error| Fault::System { what: what.into(), why: error.to_string() }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Fault::System { what: "wait for events".into(), why: error.to_string() }
    }
}

/// An error and what caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// The most characters of what came out of a guest that are shown.
const MOST_SHOWN: usize = 1000;

/// What came out of a guest, fit for a terminal: a line that is not too long, without control characters.
pub(crate) fn printable(text: &str) -> String {
    text::printable(&text::cut(text, MOST_SHOWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_words_cannot_drive_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a [2Jb c");
        assert_eq!(printable(&"x".repeat(5000)).chars().count(), MOST_SHOWN);
    }

    #[test]
    fn a_refusal_keeps_its_kind() {
        let failure = Failure { kind: FailureKind::ProgramNotFound, message: "no x".into() };
        assert_eq!(Fault::Refused(failure).failure().kind, FailureKind::ProgramNotFound);
        assert_eq!(Fault::CallerGone.failure().kind, FailureKind::System);
    }
}
