//! `probe terminal`: says what kind of standard streams it has, then its size again whenever it changes, until a line comes in.

use std::{io, thread, time::Duration};

use rustix::termios::{isatty, tcgetwinsize};

pub(crate) fn describe() -> Result<(), String> {
    let streams = (isatty(io::stdin()), isatty(io::stdout()), isatty(io::stderr()));
    println!("terminals {} {} {}", streams.0, streams.1, streams.2);
    let size = || tcgetwinsize(io::stdout()).map(|size| (size.ws_row, size.ws_col));
    let mut last = size().map_err(|error| format!("the terminal's size: {error}"))?;
    println!("size {} {}", last.0, last.1);
    let reader = thread::spawn(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    while !reader.is_finished() {
        thread::sleep(Duration::from_millis(50));
        let now = size().map_err(|error| format!("the terminal's size: {error}"))?;
        if now != last {
            last = now;
            println!("size {} {}", last.0, last.1);
        }
    }
    match reader.join() {
        Ok(Ok(line)) => println!("line {:?}", line.trim_end()),
        _ => return Err("standard input could not be read".to_owned()),
    }
    Ok(())
}
