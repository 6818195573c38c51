//! Why a container could not be made or changed. The kinds are those that a user's exit code depends on.

use std::{borrow::Cow, fmt::Display};

use rustix::io::Errno;

/// Why a call failed. Its text is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The specification asks for what cannot be.
    #[error("{what} {value:?}: {why}")]
    Invalid {
        /// The property, by its path in `config.json`.
        what: Cow<'static, str>,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: Cow<'static, str>,
    },
    /// The kernel refused.
    #[error("cannot {action} {what}: {errno}")]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        what: String,
        /// The kernel's reason.
        errno: Errno,
    },
    /// The program is not in the root.
    #[error("{program}: {why}")]
    ProgramNotFound {
        /// The program, as the specification names it.
        program: String,
        /// Where it was looked for.
        why: &'static str,
    },
    /// The program cannot be executed.
    #[error("{program}: {why}")]
    ProgramNotExecutable {
        /// The program, as the specification names it.
        program: String,
        /// Why.
        why: String,
    },
    /// The container is not in the state that the call needs.
    #[error("container {container} {why}")]
    State {
        /// The container's id.
        container: String,
        /// What it is not.
        why: &'static str,
    },
    /// A hook could not be run, failed, or took too long.
    #[error("hooks.{which}[{number}] {path:?}: {why}")]
    Hook {
        /// The list that it is in.
        which: &'static str,
        /// Its place there.
        number: usize,
        /// Its program.
        path: String,
        /// What happened.
        why: String,
    },
    /// What the new process met on its way to its program.
    #[error("{message}")]
    Child {
        /// The kind of its error.
        kind: Kind,
        /// The error's text.
        message: String,
    },
}

/// Kinds of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The program is not in the root.
    ProgramNotFound,
    /// The program cannot be executed.
    ProgramNotExecutable,
    /// The container is not in the state that the call needs.
    State,
    /// The specification asks for what cannot be.
    Invalid,
    /// The kernel refused.
    System,
}

impl Kind {
    const ALL: [Kind; 5] = [
        Kind::ProgramNotFound,
        Kind::ProgramNotExecutable,
        Kind::State,
        Kind::Invalid,
        Kind::System,
    ];

    pub(crate) fn to_byte(self) -> u8 {
        self as u8
    }

    /// An unknown byte counts as [`Kind::System`].
    pub(crate) fn from_byte(byte: u8) -> Self {
        Self::ALL.into_iter().find(|kind| kind.to_byte() == byte).unwrap_or(Kind::System)
    }
}

impl Error {
    /// The error's kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Error::Invalid { .. } => Kind::Invalid,
            Error::System { .. } | Error::Hook { .. } => Kind::System,
            Error::ProgramNotFound { .. } => Kind::ProgramNotFound,
            Error::ProgramNotExecutable { .. } => Kind::ProgramNotExecutable,
            Error::State { .. } => Kind::State,
            Error::Child { kind, .. } => *kind,
        }
    }

    pub(crate) fn invalid(
        what: impl Into<Cow<'static, str>>,
        value: impl Display,
        why: impl Into<Cow<'static, str>>,
    ) -> Self {
        Error::Invalid { what: what.into(), value: value.to_string(), why: why.into() }
    }

    pub(crate) fn state(container: &str, why: &'static str) -> Self {
        Error::State { container: container.to_owned(), why }
    }
}

/// Adds what was tried to the kernel's reason: `.map_err(at("open", path))`.
pub(crate) fn at(action: &'static str, what: impl Display) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::System { action, what: what.to_string(), errno }
}
