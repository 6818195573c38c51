//! `bulkhead logs`.

use std::io::{self, Write};

use jiff::Timestamp;

use super::{
    CommandError,
    context::{Context, warn},
};
use crate::{
    cli::LogsArgs,
    container::{ContainerError, Place, Status},
    logs::{Entry, Follow, Next, Pass, Selection, Stream, last_lines, open_all, parse_time},
};

/// Shows what a container wrote.
pub(super) fn logs(args: &LogsArgs) -> Result<u8, CommandError> {
    let context = Context::open()?;
    let place = context.find(&args.container)?;
    let selection = Selection {
        since: time("--since", args.since.as_deref())?,
        until: time("--until", args.until.as_deref())?,
    };
    let mut printer = Printer::new(args.timestamps);
    let shown = match args.follow {
        true => follow(&context, &place, &selection, args.tail.0, &mut printer),
        false => show(&place, &selection, args.tail.0, &mut printer),
    };
    match shown {
        // Whoever read this has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        Err(source) => {
            Err(CommandError::File { what: format!("the log of {}", args.container), source })
        }
        Ok(()) => {
            printer.say_damage();
            Ok(0)
        }
    }
}

fn time(flag: &str, text: Option<&str>) -> Result<Option<Timestamp>, CommandError> {
    let Some(text) = text else { return Ok(None) };
    let read = parse_time(text, Timestamp::now());
    read.map(Some).ok_or_else(|| {
        CommandError::Usage(format!(
            "{flag} {text}: 2026-01-02T03:04:05Z, seconds since 1970, or how long ago (10m) is needed"
        ))
    })
}

fn show(
    place: &Place,
    selection: &Selection,
    tail: Option<usize>,
    printer: &mut Printer,
) -> io::Result<()> {
    let files = open_all(place.data())?;
    if let Some(count) = tail {
        let end = last_lines(files, selection, count)?;
        printer.damaged += end.damaged;
        end.entries.iter().try_for_each(|entry| printer.print(entry))?;
        return printer.flush();
    }
    let mut pass = Pass::new(files);
    while let Some(entry) = pass.next_entry()? {
        if selection.is_over(entry.time) {
            break;
        }
        if selection.shows(&entry) {
            printer.print(&entry)?;
        }
    }
    printer.damaged += pass.damaged;
    printer.flush()
}

fn follow(
    context: &Context,
    place: &Place,
    selection: &Selection,
    tail: Option<usize>,
    printer: &mut Printer,
) -> io::Result<()> {
    let mut files = open_all(place.data())?;
    if let Some(count) = tail {
        let end = last_lines(files, selection, count)?;
        printer.damaged += end.damaged;
        end.entries.iter().try_for_each(|entry| printer.print(entry))?;
        files = end.newest.into_iter().collect();
    }
    let mut follow = Follow::new(place.data(), files)?;
    let mut over = false;
    loop {
        match follow.next_entry()? {
            Next::Entry(entry) if selection.is_over(entry.time) => break,
            Next::Entry(entry) if selection.shows(&entry) => printer.print(&entry)?,
            Next::Entry(_) => {}
            Next::Nothing if over => break,
            Next::Nothing => {
                printer.flush()?;
                // What was written before the end is read after it is known.
                over = has_ended(context, place) || selection.is_over(Timestamp::now());
                if !over {
                    follow.wait()?;
                }
            }
        }
    }
    if follow.overtaken {
        warn("the log was put aside faster than it was read; a part of it is missing here");
    }
    printer.damaged += follow.damaged;
    printer.flush()
}

fn has_ended(context: &Context, place: &Place) -> bool {
    match context.settled(place) {
        Ok(state) => !matches!(state.status, Status::Starting | Status::Running),
        Err(CommandError::Container(ContainerError::NotFound(_))) => true,
        // It may be better at the next look.
        Err(_) => false,
    }
}

/// Writes entries to the stream that they came from.
#[derive(Debug)]
struct Printer {
    timestamps: bool,
    /// Whether standard output's and standard error's next byte begins a line.
    fresh: [bool; 2],
    out: io::BufWriter<io::Stdout>,
    damaged: u64,
}

impl Printer {
    fn new(timestamps: bool) -> Self {
        Self { timestamps, fresh: [true; 2], out: io::BufWriter::new(io::stdout()), damaged: 0 }
    }

    fn print(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        if entry.stream == Stream::Stdout {
            return write(&mut self.out, entry, self.timestamps, &mut self.fresh[0]);
        }
        // In the order in which they were written, if both go to the same place.
        self.out.flush()?;
        let mut error = io::stderr().lock();
        if entry.stream == Stream::Keeper {
            error.write_all(b"bulkhead: ")?;
        }
        write(&mut error, entry, self.timestamps, &mut self.fresh[1])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn say_damage(&self) {
        if self.damaged > 0 {
            warn(&format!("{} damaged lines of the log were left out", self.damaged));
        }
    }
}

fn write(
    to: &mut impl Write,
    entry: &Entry<'_>,
    timestamps: bool,
    fresh: &mut bool,
) -> io::Result<()> {
    if timestamps && *fresh {
        write!(to, "{:.9} ", entry.time)?;
    }
    *fresh = entry.ends_line();
    to.write_all(&entry.bytes)
}
