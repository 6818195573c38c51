//! Processes that belong to clients: those that joined a container, and the first ones of containers that joined a pod. Each client gets its
//! process's streams and its exit status.

use std::{collections::BTreeMap, os::unix::net::UnixStream};

use bulkhead_protocol::{ExitStatus, Stdio, Target, Token};

use super::clients::ClientId;

/// Tokens below are the machine's own container's.
const FIRST_TOKEN: Token = 16;

/// Names a process; never used twice.
pub(super) type ExecId = u64;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Execs {
    execs: BTreeMap<ExecId, Exec>,
    made: ExecId,
}

/// One.
#[derive(Debug)]
pub(super) struct Exec {
    /// What the agent calls it.
    target: Target,
    client: ClientId,
    /// Main and standard error: wanted, and once they are there, themselves.
    streams: [Option<(Token, Option<UnixStream>)>; 2],
    started: bool,
    told: bool,
    exited: Option<(ExitStatus, [u64; 2])>,
}

/// What is to be done for a process.
#[derive(Debug)]
pub(super) enum Step {
    /// Tell its client that it runs, with its streams.
    Started(ClientId, Vec<UnixStream>),
    /// Tell its client that it ended, and how much it had written.
    Exited(ClientId, ExitStatus, [u64; 2]),
    /// Nothing yet.
    Wait,
}

impl Execs {
    /// Plans one that joins `container`, or its first one: its streams.
    pub(super) fn add(
        &mut self,
        client: ClientId,
        container: &str,
        is_first: bool,
        [stdin, stdout, stderr]: [bool; 3],
        terminal: bool,
    ) -> (ExecId, Target, Stdio) {
        self.made += 1;
        let id = self.made;
        let first = FIRST_TOKEN + 2 * id;
        let name = (!is_first).then(|| format!("exec{id}"));
        let target = Target { container: container.to_owned(), exec: name };
        let main = (terminal || stdin || stdout).then_some(first);
        let error = (!terminal && stderr).then_some(first + 1);
        let streams = [main, error].map(|token| token.map(|token| (token, None)));
        let exec = Exec {
            target: target.clone(),
            client,
            streams,
            started: false,
            told: false,
            exited: None,
        };
        self.execs.insert(id, exec);
        (id, target, Stdio { main, stdin: terminal || stdin, stderr: error })
    }

    /// What the agent calls it.
    pub(super) fn target(&self, id: ExecId) -> Option<&Target> {
        self.execs.get(&id).map(|exec| &exec.target)
    }

    /// The one that the agent calls so.
    pub(super) fn find(&self, target: &Target) -> Option<ExecId> {
        self.execs.iter().find(|(_, exec)| exec.target == *target).map(|(id, _)| *id)
    }

    /// A stream came; `None` when it is nobody's.
    pub(super) fn stream(&mut self, token: Token, stream: UnixStream) -> Option<ExecId> {
        let (id, place) = self.execs.iter_mut().find_map(|(id, exec)| {
            let place = exec.streams.iter_mut().flatten().find(|(known, _)| *known == token)?;
            Some((*id, &mut place.1))
        })?;
        if place.is_none() {
            *place = Some(stream);
        }
        Some(id)
    }

    /// The agent has started it.
    pub(super) fn started(&mut self, id: ExecId) {
        if let Some(exec) = self.execs.get_mut(&id) {
            exec.started = true;
        }
    }

    /// It ended.
    pub(super) fn exited(&mut self, id: ExecId, status: ExitStatus, written: [u64; 2]) {
        if let Some(exec) = self.execs.get_mut(&id) {
            exec.exited = Some((status, written));
        }
    }

    /// What is to be done for it now; to be asked until it is nothing.
    pub(super) fn step(&mut self, id: ExecId) -> Step {
        let Some(exec) = self.execs.get_mut(&id) else { return Step::Wait };
        let complete = exec.streams.iter().flatten().all(|(_, stream)| stream.is_some());
        if exec.started && complete && !exec.told {
            exec.told = true;
            let streams = exec.streams.iter_mut().flatten().filter_map(|(_, stream)| stream.take());
            return Step::Started(exec.client, streams.collect());
        }
        match exec.exited {
            Some((status, written)) if exec.told => {
                let client = exec.client;
                self.execs.remove(&id);
                Step::Exited(client, status, written)
            }
            _ => Step::Wait,
        }
    }

    /// It was not started; its client.
    pub(super) fn remove(&mut self, id: ExecId) -> Option<ClientId> {
        self.execs.remove(&id).map(|exec| exec.client)
    }

    /// The clients of all of a container that have not ended, because it has; of all containers without one.
    pub(super) fn take_all(&mut self, container: Option<&str>) -> Vec<ClientId> {
        let of = |exec: &Exec| container.is_none_or(|id| exec.target.container == id);
        let clients = self.execs.values().filter(|exec| of(exec)).map(|exec| exec.client).collect();
        self.execs.retain(|_, exec| !of(exec));
        clients
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_starts_with_its_streams_and_ends_after_it() {
        let mut execs = Execs::default();
        let (id, target, stdio) = execs.add(7, "c", false, [true; 3], false);
        assert_eq!(execs.find(&target), Some(id));
        assert_eq!(execs.find(&Target { exec: None, ..target }), None);
        let (main, error) = (stdio.main.unwrap(), stdio.stderr.unwrap());
        execs.started(id);
        execs.exited(id, ExitStatus::Code(3), [1, 2]);
        let stream = || UnixStream::pair().unwrap().0;
        assert_eq!(execs.stream(main, stream()), Some(id));
        assert!(matches!(execs.step(id), Step::Wait));
        assert_eq!(execs.stream(error + 1, stream()), None);
        assert_eq!(execs.stream(error, stream()), Some(id));
        assert!(matches!(execs.step(id), Step::Started(7, streams) if streams.len() == 2));
        assert!(matches!(execs.step(id), Step::Exited(7, ExitStatus::Code(3), [1, 2])));
        assert!(matches!(execs.step(id), Step::Wait));
    }

    #[test]
    fn only_wanted_streams_are_made() {
        let mut execs = Execs::default();
        let stdio = |execs: &mut Execs, streams, terminal| {
            let stdio = execs.add(1, "c", true, streams, terminal).2;
            (stdio.main.is_some(), stdio.stdin, stdio.stderr.is_some())
        };
        assert_eq!(stdio(&mut execs, [false; 3], false), (false, false, false));
        assert_eq!(stdio(&mut execs, [false; 3], true), (true, true, false));
        assert_eq!(stdio(&mut execs, [false, true, true], false), (true, false, true));
        execs.add(2, "other", false, [true; 3], false);
        assert_eq!(execs.take_all(Some("c")), [1, 1, 1]);
        assert_eq!(execs.take_all(None), [2]);
    }
}
