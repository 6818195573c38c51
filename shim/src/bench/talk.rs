//! A conversation with a program in a container, over its standard streams: lines, and bytes that were agreed upon. What comes from there is
//! not trusted: it is bounded in length and time.

use std::{
    fs::File,
    io::{self, Read, Write},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_setfl},
    pipe::{PipeFlags, pipe_with},
};

use super::{BenchError, process::check_interrupted};

/// The longest line.
const LINE: usize = 1 << 20;
/// How often it is looked whether the user wants no more.
const LOOK: Duration = Duration::from_millis(200);
const PIECE: usize = 64 << 10;

/// One end of a conversation.
#[derive(Debug)]
pub struct Talk {
    /// None: it was closed.
    input: Option<File>,
    output: File,
    heard: Vec<u8>,
    who: String,
    limit: Duration,
}

impl Talk {
    /// A conversation with `who`, that is the program which gets the two streams as its standard input and output. An answer may take as long as
    /// `limit`.
    ///
    /// # Errors
    /// The host refuses.
    pub fn new(who: &str, limit: Duration) -> Result<(Self, Stdio, Stdio), BenchError> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(BenchError::host("make a pipe"));
        let ((theirs, input), (output, answers)) = (pipe()?, pipe()?);
        for end in [&input, &output] {
            fcntl_setfl(end, OFlags::NONBLOCK).map_err(BenchError::host("set up a pipe"))?;
        }
        let who = who.to_owned();
        let talk = Self {
            input: Some(input.into()),
            output: output.into(),
            heard: Vec::new(),
            who,
            limit,
        };
        Ok((talk, theirs.into(), answers.into()))
    }

    /// Says a line.
    ///
    /// # Errors
    /// [`BenchError`]: it does not listen.
    pub fn say(&mut self, line: &str) -> Result<(), BenchError> {
        self.send(format!("{line}\n").as_bytes())
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// As [`Talk::say`].
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<(), BenchError> {
        let deadline = Instant::now() + self.limit;
        while !bytes.is_empty() {
            let Some(mut input) = self.input.as_ref() else {
                return Err(self.wrong("its input was closed"));
            };
            match input.write(bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(input, PollFlags::OUT, deadline)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(self.wrong("its program has ended too early")),
            }
        }
        Ok(())
    }

    /// The other side reads the end of its input.
    pub fn close(&mut self) {
        self.input = None;
    }

    /// Waits for a line.
    ///
    /// # Errors
    /// [`BenchError`]: none comes, or one that is too long or is not text.
    pub fn hear(&mut self) -> Result<String, BenchError> {
        let deadline = Instant::now() + self.limit;
        let mut looked = 0;
        loop {
            let new = self.heard.get(looked..).unwrap_or_default();
            if let Some(end) = new.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.heard.drain(..=looked + end).collect();
                line.pop();
                return String::from_utf8(line).map_err(|_| self.wrong("it wrote what is no text"));
            }
            looked = self.heard.len();
            if looked > LINE {
                return Err(self.wrong("it wrote a line without an end"));
            }
            self.fill(deadline)?;
        }
    }

    /// Waits for so many bytes, and drops them.
    ///
    /// # Errors
    /// [`BenchError`]: they do not come.
    pub fn drop_bytes(&mut self, mut count: u64) -> Result<(), BenchError> {
        let deadline = Instant::now() + self.limit;
        while count > 0 {
            let here = usize::try_from(count).unwrap_or(usize::MAX).min(self.heard.len());
            self.heard.drain(..here);
            count -= here as u64;
            if count > 0 {
                self.fill(deadline)?;
            }
        }
        Ok(())
    }

    fn fill(&mut self, deadline: Instant) -> Result<(), BenchError> {
        let mut piece = vec![0; PIECE];
        loop {
            match self.output.read(&mut piece) {
                Ok(0) => return Err(self.wrong("its program has ended too early")),
                Ok(count) => {
                    self.heard.extend(piece.get(..count).unwrap_or_default());
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(&self.output, PollFlags::IN, deadline)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(BenchError::host("read a pipe")(error)),
            }
        }
    }

    /// Waits for a moment in which something may be possible.
    fn wait(&self, file: &File, what: PollFlags, deadline: Instant) -> Result<(), BenchError> {
        check_interrupted()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let seconds = self.limit.as_secs();
            let runtime = self.who.clone();
            return Err(BenchError::Timeout { runtime, what: "its program's answer", seconds });
        }
        let pause =
            Timespec::try_from(left.min(LOOK)).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        match poll(&mut [PollFd::new(file, what)], Some(&pause)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(BenchError::host("wait for a pipe")(error)),
        }
    }

    fn wrong(&self, why: &str) -> BenchError {
        BenchError::Invalid { runtime: self.who.clone(), why: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn with(script: &str, limit: Duration) -> (Talk, std::process::Child) {
        let (talk, input, output) = Talk::new("the shell", limit).unwrap();
        let mut command = Command::new("sh");
        let child = command.args(["-c", script]).stdin(input).stdout(output).spawn().unwrap();
        (talk, child)
    }

    #[test]
    fn lines_and_bytes_pass_in_both_directions() {
        let script =
            "read x; echo \"$x $x\"; head -c 100000 /dev/zero; echo; echo end; cat >/dev/null";
        let (mut talk, mut child) = with(script, Duration::from_secs(60));
        talk.say("a").unwrap();
        assert_eq!(talk.hear().unwrap(), "a a");
        talk.drop_bytes(100_001).unwrap();
        assert_eq!(talk.hear().unwrap(), "end");
        talk.send(&vec![7; 1 << 20]).unwrap();
        drop(talk);
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn silence_noise_and_the_end_are_errors() {
        let long = Duration::from_secs(60);
        let (mut talk, mut child) = with("read x; exit 0", Duration::from_millis(50));
        assert!(talk.hear().unwrap_err().to_string().contains("took more than"));
        drop(talk);
        child.wait().unwrap();
        let (mut talk, mut child) = with("exec cat /dev/zero", long);
        assert!(talk.hear().unwrap_err().to_string().contains("without an end"));
        child.kill().unwrap();
        child.wait().unwrap();
        let (mut talk, mut child) = with("printf half", long);
        assert!(talk.hear().unwrap_err().to_string().contains("ended too early"));
        child.wait().unwrap();
    }
}
