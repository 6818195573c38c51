//! Why a container's network cannot be a microVM's.

use std::fmt::Display;

use bulkhead_protocol::network;

/// Why.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Two microVMs in one namespace.
    #[error(
        "the network namespace belongs to the microVM of container {container} (its tap {tap}); a network of a microVM's can be shared in a pod only (or with --isolation host)"
    )]
    Taken {
        /// Its tap.
        tap: String,
        /// The container.
        container: String,
    },
    /// It came when the machine was there.
    #[error(
        "the network interface {0} has come after the container was created: a microVM has those that are there by then (docker 28 and later, and podman with --userns or --uidmap, set them up afterwards; with --isolation host it can)"
    )]
    Late(String),
    /// It is more than is handed over.
    #[error("the container's network: {0}")]
    Unfit(#[from] network::NetworkError),
    /// The kernel refused something.
    #[error("cannot {what}: {why}")]
    System {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
}

/// What was tried, as the beginning of an error.
pub(super) fn failed<E: Display>(what: impl Into<String>) -> impl FnOnce(E) -> NetworkError {
    move |why| NetworkError::System { what: what.into(), why: why.to_string() }
}

/// Of a question to the kernel.
impl From<rustix::io::Errno> for NetworkError {
    fn from(errno: rustix::io::Errno) -> Self {
        failed("read the network of the container")(errno)
    }
}
