//! What the VMM answers: what the machine has counted, for clients that ask, and whether media came or went.

use bulkhead_protocol::Failure;
use bulkhead_vmm::api::Response;

use super::{
    clients::ClientId, contained::system, core::Monitor, fault::printable, message::Answer,
};

/// Clients that wait for counters; more are refused.
const MOST_WAITING: usize = 64;

impl Monitor<'_> {
    /// Asks the VMM; the answer comes with its messages.
    pub(super) fn count(&mut self, client: ClientId) -> Result<(), Failure> {
        if self.counting.len() >= MOST_WAITING {
            return Err(system(format!("{MOST_WAITING} others wait for the counters")));
        }
        let number = self.machine.counters().map_err(|error| system(error.to_string()))?;
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
            Ok(other) => Answer::Failed(system(format!("the VMM answered {other:?}"))),
            Err(why) => Answer::Failed(system(printable(&why))),
        };
        self.answer(client, &answer);
    }
}
