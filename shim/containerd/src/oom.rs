//! Processes that are killed for want of memory.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
};

use bulkhead::lifecycle::StateRoot;
use containerd_shim_protos::events::task::TaskOOM;

use crate::{
    log,
    task::{Container, Shim},
};

/// The thread only waits.
const STACK: usize = 128 << 10;

/// Tells each time that a running container's memory limit kills something, in a thread that ends with the container.
pub(crate) fn watch(shim: &Arc<Shim>, container: &Arc<Container>) {
    let (shim, container) = (Arc::clone(shim), Arc::clone(container));
    let wait = move || {
        let found = StateRoot::open(&container.root).get(&container.id);
        match found.and_then(|found| found.oom_events()) {
            Ok(events) => {
                for _ in events.take_while(Result::is_ok) {
                    tell(&shim, &container);
                }
            }
            // It has ended already, or cannot be watched; then its end says it.
            Err(error) => log::debug(format_args!("memory is not watched: {error}")),
        }
    };
    let thread = thread::Builder::new().name("memory".into()).stack_size(STACK).spawn(wait);
    if let Err(error) = thread {
        log::warn(format_args!("memory is not watched: {error}"));
    }
}

fn tell(shim: &Shim, container: &Container) {
    container.oom_told.store(true, Ordering::Relaxed);
    shim.events.send(&TaskOOM { container_id: container.id.clone(), ..TaskOOM::default() });
}

impl Shim {
    /// Tells what was not, because it ended the container.
    pub(crate) async fn note_oom(&self, id: &str) {
        let Ok(container) = self.container(id) else { return };
        let killed = container.with(|container| container.oom_killed()).await;
        if killed.unwrap_or(false) && !container.oom_told.load(Ordering::Relaxed) {
            tell(self, &container);
        }
    }
}
