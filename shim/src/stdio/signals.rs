//! Signals to this process, as events; and their names.

use std::{io, thread};

use signal_hook::{
    consts::{SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH},
    iterator::Signals,
    low_level::signal_name,
};

/// From now on, gives every signal that is forwarded to containers to `heard`, on a thread of its own, instead of letting it end this process. When `heard`
/// returns false, signals are given to nobody.
///
/// # Errors
/// That of sigaction(2).
pub fn listen(mut heard: impl FnMut(i32) -> bool + Send + 'static) -> io::Result<()> {
    let signals = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGCONT, SIGWINCH];
    let mut signals = Signals::new(signals)?;
    thread::spawn(move || {
        for signal in &mut signals {
            if !heard(signal) {
                return;
            }
        }
    });
    Ok(())
}

/// The number of a signal written as a number or a name with or without `SIG`; real-time signals as `RTMIN+n`.
#[must_use]
pub fn number(text: &str) -> Option<i32> {
    const RTMIN: i32 = 34;
    const RTMAX: i32 = 64;
    if let Ok(number) = text.parse() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = match name {
        "RTMIN" => Some(RTMIN),
        "RTMAX" => Some(RTMAX),
        _ => match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
            (Some(up), _) => up.parse::<i32>().ok().and_then(|n| RTMIN.checked_add(n)),
            (_, Some(down)) => down.parse::<i32>().ok().and_then(|n| RTMAX.checked_sub(n)),
            _ => None,
        },
    };
    real_time.filter(|number| (RTMIN..=RTMAX).contains(number)).or_else(|| {
        (1..RTMIN)
            .find(|&number| signal_name(number).and_then(|n| n.strip_prefix("SIG")) == Some(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_by_name_and_number() {
        for (text, want) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGTERM", 15),
            ("sigquit", 3),
            ("RTMIN+3", 37),
            ("SIGRTMAX", 64),
        ] {
            assert_eq!(number(text), Some(want), "{text}");
        }
        for bad in ["", "0", "65", "SIGNOPE", "RTMIN+99", "-3"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
