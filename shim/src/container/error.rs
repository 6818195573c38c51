//! Why a container cannot be made, found or removed.

use std::{io, path::PathBuf};

use crate::cni::CniError;

/// The error of this module.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file that makes no sense.
    #[error("{path} is damaged ({reason}); remove the container with `bulkhead rm -f`")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another container has the name.
    #[error(
        "the name {name:?} is already in use by container {id}; choose another one, or remove or rename that container"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        id: String,
    },
    /// Not a name.
    #[error(
        "{0:?} is not a container's name: 2 to 128 letters, digits and _.- are needed, the first a letter or digit"
    )]
    BadName(String),
    /// No container of that name or id.
    #[error("No such container: {0}")]
    NotFound(String),
    /// The start of several ids.
    #[error("Multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    /// A file system could not be mounted.
    #[error("cannot mount {what} on {path}: {source}")]
    Mount {
        /// What was to be mounted.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It runs where this process does not look.
    #[error("container {id} was started with BULKHEAD_RUN={run}, which is what reaches it")]
    Elsewhere {
        /// The container.
        id: String,
        /// Where its state is while it runs.
        run: PathBuf,
    },
    /// What is left of its network.
    #[error(
        "cannot give back what container {id} has of its network: {source}; `bulkhead rm -f` removes it all the same"
    )]
    Network {
        /// The container.
        id: String,
        /// Why not.
        source: Box<CniError>,
    },
    /// What is left of a container could not be removed.
    #[error("cannot remove what is left of container {id}: {reason}")]
    Remains {
        /// The container.
        id: String,
        /// Why not.
        reason: String,
    },
}

impl ContainerError {
    pub(super) fn io<'a>(
        action: &'static str,
        path: &'a std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { action, path: path.into(), source }
    }
}
