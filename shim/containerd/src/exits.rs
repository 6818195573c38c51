//! The ends of this process's children, and of those that become its children because it is a subreaper: it is told of a container's
//! process by the helper that made it, and that may have ended by then.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use rustix::{
    io::Errno,
    process::{WaitOptions, WaitStatus},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::refusal::{Refusal, cannot};

/// Ends of children that nobody asked for yet, while somebody may; the oldest are forgotten first.
const MOST_UNCLAIMED: usize = 4096;

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exit {
    /// Its code; 128 and the signal's number when a signal ended it.
    pub(crate) code: u32,
    /// When.
    pub(crate) at: SystemTime,
}

/// Who waits for whom.
#[derive(Debug, Default)]
pub(crate) struct Exits(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    waiting: HashMap<i32, oneshot::Sender<Exit>>,
    unclaimed: VecDeque<(i32, Exit)>,
    making: usize,
}

/// As long as it lives, ends of children that nobody waits for are kept.
#[derive(Debug)]
pub(crate) struct Making(Arc<Exits>);

impl Drop for Making {
    fn drop(&mut self) {
        let mut book = self.0.book();
        book.making -= 1;
        if book.making == 0 {
            book.unclaimed.clear();
        }
    }
}

impl Exits {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Children are being made, whose numbers will be known later.
    pub(crate) fn making(self: &Arc<Self>) -> Making {
        self.book().making += 1;
        Making(Arc::clone(self))
    }

    /// Waits for a child that was made under a [`Making`].
    pub(crate) fn of(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (tell, told) = oneshot::channel();
        let mut book = self.book();
        if let Some(at) = book.unclaimed.iter().position(|(ended, _)| *ended == pid) {
            if let Some((_, exit)) = book.unclaimed.remove(at) {
                // The other end is in this function.
                let _ = tell.send(exit);
            }
        } else {
            book.waiting.insert(pid, tell);
        }
        told
    }

    fn ended(&self, pid: i32, exit: Exit) {
        let mut book = self.book();
        if let Some(waiting) = book.waiting.remove(&pid) {
            // Who asked may have lost interest.
            let _ = waiting.send(exit);
        } else if book.making > 0 {
            if book.unclaimed.len() == MOST_UNCLAIMED {
                book.unclaimed.pop_front();
            }
            book.unclaimed.push_back((pid, exit));
        }
    }

    /// Waits for all children, for ever.
    ///
    /// # Errors
    /// The signal cannot be had.
    pub(crate) async fn serve(self: Arc<Self>) -> Result<(), Refusal> {
        let mut ends = signal(SignalKind::child()).map_err(cannot("wait for processes"))?;
        loop {
            self.reap();
            ends.recv().await;
        }
    }

    fn reap(&self) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let exit = Exit { code: code(status), at: SystemTime::now() };
                    self.ended(pid.as_raw_nonzero().get(), exit);
                }
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}

fn code(status: WaitStatus) -> u32 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    u32::try_from(code).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: u32) -> Exit {
        Exit { code, at: SystemTime::now() }
    }

    #[test]
    fn an_end_is_told_before_and_after_it_is_asked_for() {
        let exits = Arc::new(Exits::default());
        let making = exits.making();
        exits.ended(7, exit(3));
        assert_eq!(exits.of(7).try_recv().unwrap().code, 3);
        let mut later = exits.of(8);
        assert!(later.try_recv().is_err());
        exits.ended(8, exit(4));
        assert_eq!(later.try_recv().unwrap().code, 4);
        drop(making);
    }

    #[test]
    fn strangers_are_forgotten() {
        let exits = Arc::new(Exits::default());
        exits.ended(7, exit(3));
        assert!(exits.of(7).try_recv().is_err());
        let making = exits.making();
        for pid in 100..101 + i32::try_from(MOST_UNCLAIMED).unwrap() {
            exits.ended(pid, exit(0));
        }
        assert_eq!(exits.book().unclaimed.len(), MOST_UNCLAIMED);
        assert!(exits.of(100).try_recv().is_err());
        assert!(exits.of(101).try_recv().is_ok());
        drop(making);
        assert!(exits.book().unclaimed.is_empty());
    }
}
