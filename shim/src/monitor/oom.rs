//! Who dies when the host has no memory left (proc(5), `/proc/self/oom_score_adj`).

use std::fs;

const SCORE: &str = "/proc/self/oom_score_adj";

/// Of a VMM whose container asks for none: a machine dies before the host's services, and of machines the largest. The monitor keeps its
/// own score: it holds little, and it says how its machine ended.
pub(crate) const USUAL: i32 = 500;

/// Runs `start`; the processes that it starts have this score. Where that is not allowed (a lower one than this process's, without
/// privileges) they have this process's.
pub(super) fn with_score<T>(score: i32, start: impl FnOnce() -> T) -> T {
    let before = fs::read_to_string(SCORE);
    let _ = fs::write(SCORE, score.to_string());
    let started = start();
    if let Ok(before) = before {
        let _ = fs::write(SCORE, before.trim());
    }
    started
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_what_is_started_has_the_score() {
        let own = fs::read_to_string(SCORE).unwrap();
        let higher = own.trim().parse::<i32>().unwrap().max(600) + 7;
        let mut cat = Command::new("cat");
        cat.arg(SCORE).stdout(Stdio::piped());
        let child = with_score(higher, || cat.spawn()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), higher.to_string());
        assert_eq!(fs::read_to_string(SCORE).unwrap(), own);
    }
}
