//! What the VMM answers: what the machine has counted, for clients that ask, and whether media came or went.

use bulkhead_protocol::{Failure, FailureKind};
use bulkhead_vmm::api::Response;

use super::{clients::ClientId, core::Monitor, fault::printable, message::Answer};

/// Clients that wait for counters; more are refused.
const MOST_WAITING: usize = 64;

impl Monitor<'_> {
    /// Asks the VMM; the answer comes with its messages.
    pub(super) fn count(&mut self, client: ClientId) -> Result<(), Failure> {
        if self.counting.len() >= MOST_WAITING {
            return Err(failure(format!("{MOST_WAITING} others wait for the counters")));
        }
        let number = self.machine.counters().map_err(|error| failure(error.to_string()))?;
        self.counting.insert(number, client);
        Ok(())
    }

    /// The VMM has answered a request.
    pub(super) fn vmm_answered(&mut self, number: u64, result: Result<Response, String>) {
        if let Some(container) = self.pod.asked(number) {
            return self.exchanged(&container, result.map(drop));
        }
        let Some(client) = self.counting.remove(&number) else { return };
        let answer = match result {
            Ok(Response::Counters(counters)) => Answer::Counters(counters),
            Ok(other) => Answer::Failed(failure(format!("the VMM answered {other:?}"))),
            Err(why) => Answer::Failed(failure(printable(&why))),
        };
        self.answer(client, &answer);
    }
}

fn failure(message: String) -> Failure {
    Failure { kind: FailureKind::System, message }
}
