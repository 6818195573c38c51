//! `Kill`: a signal for a process, or for all of a container.

use std::{sync::Arc, time::Duration};

use bulkhead::lifecycle::LifecycleError;

use super::{Container, Phase, Shim, process::ended};
use crate::refusal::{Kind, Refusal};

/// The highest signal (signal(7)).
const MAX: u32 = 64;
/// How long the output of a killed container is kept for a reader who does not come.
const UNREAD: Duration = Duration::from_secs(10);

impl Shim {
    /// Sends the signal.
    pub(crate) async fn kill(
        self: &Arc<Self>,
        id: &str,
        exec: &str,
        signal: u32,
        all: bool,
    ) -> Result<(), Refusal> {
        let container = self.container(id)?;
        let process = container.process(exec)?;
        let number = i32::try_from(signal).ok().filter(|_| (1..=MAX).contains(&signal));
        let number = number
            .ok_or_else(|| Refusal::invalid(format!("signal {signal}: there is no such signal")))?;
        match process.phase() {
            Phase::Stopped => return Err(ended()),
            Phase::Created if !exec.is_empty() => {
                return Err(Refusal::state(format!("process {exec} is not started")));
            }
            Phase::Created | Phase::Running => {}
        }
        if !exec.is_empty() {
            return process.signal(number);
        }
        match container.with(move |mut container| container.kill(number, all)).await {
            Ok(()) => {
                if number == libc::SIGKILL {
                    tokio::spawn(async move {
                        let ended = container.init.wait();
                        if tokio::time::timeout(UNREAD, ended).await.is_err() {
                            // It may live on: then nothing waits to be read.
                            let _ = abandon_output(&container).await;
                        }
                    });
                }
                Ok(())
            }
            // Its program has ended, and its last output waits for a reader; who kills it does not.
            Err(refusal) if refusal.kind == Kind::State && number == libc::SIGKILL => {
                match abandon_output(&container).await? {
                    true => Ok(()),
                    false => Err(ended()),
                }
            }
            Err(refusal) if matches!(refusal.kind, Kind::State | Kind::NotFound) => Err(ended()),
            Err(refusal) => Err(refusal),
        }
    }
}

/// Ends what only waits for a reader of an ended program's output. Whether something did.
async fn abandon_output(container: &Container) -> Result<bool, Refusal> {
    // Before it ends by that: the process that stands for it cannot say its code then.
    let init = Arc::clone(&container.init);
    let code = container
        .with(move |container| {
            let code = container.abandon_output()?;
            if let Some(code) = code {
                init.state().code = Some(code.into());
            }
            Ok::<_, LifecycleError>(code)
        })
        .await?;
    Ok(code.is_some())
}
