//! What ends the agent, as against what fails a request.

use bulkhead_container as container;
use bulkhead_protocol::FrameError;
use rustix::io::Errno;

/// Why the agent cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The system refused what the agent cannot do without.
    #[error("cannot {action}: {errno}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The kernel's reason.
        errno: Errno,
    },
    /// The container engine cannot work here.
    #[error(transparent)]
    Container(#[from] container::Error),
    /// The monitor does not keep to the protocol.
    #[error("the monitor sent what is no request: {0}")]
    Protocol(#[from] FrameError),
}

/// Adds what was tried: `.map_err(to("make an epoll instance"))`.
pub(crate) fn to(action: &'static str) -> impl FnOnce(Errno) -> Fault {
    move |errno| Fault::System { action, errno }
}
