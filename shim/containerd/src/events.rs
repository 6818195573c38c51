//! What happens to containers, told to containerd in its order. What it cannot hear because it is away waits for it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use containerd_shim_protos::{
    events::task::{
        TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM, TaskPaused,
        TaskResumed, TaskStart,
    },
    protobuf::{Message, MessageField, well_known_types::any::Any},
    shim::{event::Envelope, events::ForwardRequest},
    shim_async::{Client, EventsClient},
    topics,
    ttrpc::context,
};
use tokio::sync::Notify;

use crate::log;

/// Events that wait for containerd; then the oldest are lost.
const MOST_WAITING: usize = 2048;
/// How long containerd may take to hear one.
const PATIENCE: Duration = Duration::from_secs(5);
/// After what time it is tried again: the first time, and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// An event that containerd knows.
pub(crate) trait Event: Message {
    /// What it is called.
    const TOPIC: &'static str;
}

macro_rules! topics {
    ($($event:ty => $topic:ident),* $(,)?) => {
        $(impl Event for $event {
            const TOPIC: &'static str = topics::$topic;
        })*
    };
}

topics! {
    TaskCreate => TASK_CREATE_EVENT_TOPIC,
    TaskStart => TASK_START_EVENT_TOPIC,
    TaskExit => TASK_EXIT_EVENT_TOPIC,
    TaskDelete => TASK_DELETE_EVENT_TOPIC,
    TaskExecAdded => TASK_EXEC_ADDED_EVENT_TOPIC,
    TaskExecStarted => TASK_EXEC_STARTED_EVENT_TOPIC,
    TaskOOM => TASK_OOM_EVENT_TOPIC,
    TaskPaused => TASK_PAUSED_EVENT_TOPIC,
    TaskResumed => TASK_RESUMED_EVENT_TOPIC,
}

/// Those that wait.
#[derive(Debug)]
pub(crate) struct Events {
    namespace: String,
    queue: Mutex<Queue>,
    news: Notify,
    quiet: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Envelope>,
    /// So many have left it.
    gone: u64,
}

impl Events {
    /// Of containers of this namespace.
    pub(crate) fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            queue: Mutex::default(),
            news: Notify::new(),
            quiet: Notify::new(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells one, sooner or later.
    pub(crate) fn send<E: Event>(&self, event: &E) {
        let value = match event.write_to_bytes() {
            Ok(value) => value,
            // Nothing of it is required.
            Err(error) => return log::warn(format_args!("{}: {error}", E::TOPIC)),
        };
        let name = format!("containerd.events.{}", E::NAME);
        let envelope = Envelope {
            timestamp: MessageField::some(SystemTime::now().into()),
            namespace: self.namespace.clone(),
            topic: E::TOPIC.into(),
            event: MessageField::some(Any { type_url: name, value, ..Any::default() }),
            ..Envelope::default()
        };
        let mut queue = self.queue();
        if queue.waiting.len() == MOST_WAITING {
            queue.waiting.pop_front();
            queue.gone += 1;
            log::warn(format_args!("containerd is away, and an event of {MOST_WAITING} is lost"));
        }
        queue.waiting.push_back(envelope);
        drop(queue);
        self.news.notify_one();
    }

    /// Delivers them at containerd's socket for events, for ever.
    pub(crate) async fn deliver(self: Arc<Self>, address: String) {
        let mut client = None;
        let mut pause = AGAIN.0;
        loop {
            let next = {
                let queue = self.queue();
                queue.waiting.front().cloned().map(|envelope| (queue.gone, envelope))
            };
            let Some((number, envelope)) = next else {
                self.quiet.notify_waiters();
                self.news.notified().await;
                continue;
            };
            if forward(&mut client, &address, envelope).await {
                pause = AGAIN.0;
                let mut queue = self.queue();
                // It may have been pushed out meanwhile.
                if queue.gone == number {
                    queue.waiting.pop_front();
                    queue.gone += 1;
                }
            } else {
                client = None;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(AGAIN.1);
            }
        }
    }

    /// Waits until all are delivered, but not for ever.
    pub(crate) async fn flush(&self, patience: Duration) {
        let all = async {
            loop {
                let quiet = self.quiet.notified();
                if self.queue().waiting.is_empty() {
                    return;
                }
                quiet.await;
            }
        };
        let _ = tokio::time::timeout(patience, all).await;
    }
}

/// Whether containerd has heard it.
async fn forward(client: &mut Option<EventsClient>, address: &str, envelope: Envelope) -> bool {
    let topic = envelope.topic.clone();
    let told = async {
        let connected = match client {
            Some(client) => client,
            None => client.insert(EventsClient::new(Client::connect(address).await?)),
        };
        let request =
            ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() };
        let patience = i64::try_from(PATIENCE.as_nanos()).unwrap_or(i64::MAX);
        connected.forward(context::with_timeout(patience), &request).await
    };
    match tokio::time::timeout(PATIENCE, told).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            log::debug(format_args!("{topic} is told again later: {error}"));
            false
        }
        Err(_) => false,
    }
}
