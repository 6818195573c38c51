//! Processes that joined the container: each belongs to a client, which gets its streams and its exit status.

use std::{collections::BTreeMap, os::unix::net::UnixStream};

use bulkhead_protocol::{ExitStatus, Stdio, Token};

use super::clients::ClientId;

/// Tokens below are the container's own.
const FIRST_TOKEN: Token = 16;

/// All of them, by the names that the agent knows.
#[derive(Debug, Default)]
pub(super) struct Execs {
    execs: BTreeMap<String, Exec>,
    made: u64,
}

/// One.
#[derive(Debug)]
pub(super) struct Exec {
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
    /// Plans one: its name and its streams.
    pub(super) fn add(
        &mut self,
        client: ClientId,
        [stdin, stdout, stderr]: [bool; 3],
        terminal: bool,
    ) -> (String, Stdio) {
        self.made += 1;
        let first = FIRST_TOKEN + 2 * self.made;
        let name = format!("exec{}", self.made);
        let main = (terminal || stdin || stdout).then_some(first);
        let error = (!terminal && stderr).then_some(first + 1);
        let streams = [main, error].map(|token| token.map(|token| (token, None)));
        let exec = Exec { client, streams, started: false, told: false, exited: None };
        self.execs.insert(name.clone(), exec);
        (name, Stdio { main, stdin: terminal || stdin, stderr: error })
    }

    /// A stream came; false when it is nobody's.
    pub(super) fn stream(&mut self, token: Token, stream: UnixStream) -> Option<String> {
        let (name, place) = self.execs.iter_mut().find_map(|(name, exec)| {
            let place = exec.streams.iter_mut().flatten().find(|(known, _)| *known == token)?;
            Some((name, &mut place.1))
        })?;
        if place.is_none() {
            *place = Some(stream);
        }
        Some(name.clone())
    }

    /// The agent has started it.
    pub(super) fn started(&mut self, name: &str) {
        if let Some(exec) = self.execs.get_mut(name) {
            exec.started = true;
        }
    }

    /// It ended.
    pub(super) fn exited(&mut self, name: &str, status: ExitStatus, written: [u64; 2]) {
        if let Some(exec) = self.execs.get_mut(name) {
            exec.exited = Some((status, written));
        }
    }

    /// What is to be done for it now; to be asked until it is nothing.
    pub(super) fn step(&mut self, name: &str) -> Step {
        let Some(exec) = self.execs.get_mut(name) else { return Step::Wait };
        let complete = exec.streams.iter().flatten().all(|(_, stream)| stream.is_some());
        if exec.started && complete && !exec.told {
            exec.told = true;
            let streams = exec.streams.iter_mut().flatten().filter_map(|(_, stream)| stream.take());
            return Step::Started(exec.client, streams.collect());
        }
        match exec.exited {
            Some((status, written)) if exec.told => {
                let client = exec.client;
                self.execs.remove(name);
                Step::Exited(client, status, written)
            }
            _ => Step::Wait,
        }
    }

    /// It was not started; its client.
    pub(super) fn remove(&mut self, name: &str) -> Option<ClientId> {
        self.execs.remove(name).map(|exec| exec.client)
    }

    /// The clients of all that have not ended, because everything does.
    pub(super) fn take_all(&mut self) -> Vec<ClientId> {
        std::mem::take(&mut self.execs).into_values().map(|exec| exec.client).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_starts_with_its_streams_and_ends_after_it() {
        let mut execs = Execs::default();
        let (name, stdio) = execs.add(7, [true; 3], false);
        let (main, error) = (stdio.main.unwrap(), stdio.stderr.unwrap());
        execs.started(&name);
        execs.exited(&name, ExitStatus::Code(3), [1, 2]);
        let stream = || UnixStream::pair().unwrap().0;
        assert_eq!(execs.stream(main, stream()).as_ref(), Some(&name));
        assert!(matches!(execs.step(&name), Step::Wait));
        assert_eq!(execs.stream(error + 1, stream()), None);
        assert_eq!(execs.stream(error, stream()).as_ref(), Some(&name));
        assert!(matches!(execs.step(&name), Step::Started(7, streams) if streams.len() == 2));
        assert!(matches!(execs.step(&name), Step::Exited(7, ExitStatus::Code(3), [1, 2])));
        assert!(matches!(execs.step(&name), Step::Wait));
    }

    #[test]
    fn only_wanted_streams_are_made() {
        let mut execs = Execs::default();
        let stdio = |execs: &mut Execs, streams, terminal| {
            let stdio = execs.add(1, streams, terminal).1;
            (stdio.main.is_some(), stdio.stdin, stdio.stderr.is_some())
        };
        assert_eq!(stdio(&mut execs, [false; 3], false), (false, false, false));
        assert_eq!(stdio(&mut execs, [false; 3], true), (true, true, false));
        assert_eq!(stdio(&mut execs, [false, true, true], false), (true, false, true));
        assert_eq!(execs.take_all(), [1, 1, 1]);
    }
}
