//! How much memory this process holds, the guest's and its own apart (proc(5), `/proc/self/smaps`).

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Seek},
    sync::{Mutex, PoisonError},
};

/// Resident memory in KiB.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Of the guest's memory.
    pub guest_kib: u64,
    /// Of the guest's memory, the pages that no file holds.
    pub guest_private_kib: u64,
    /// Of everything else.
    pub own_kib: u64,
}

/// The open file, which a process in its jail could not open any more.
#[derive(Debug)]
pub struct Gauge(Mutex<File>);

impl Gauge {
    /// Opens it.
    ///
    /// # Errors
    /// That of the file.
    pub fn open() -> io::Result<Self> {
        Ok(Self(Mutex::new(File::open("/proc/self/smaps")?)))
    }

    /// Measures. `guest` is what [`crate::memory::host_ranges`] says.
    ///
    /// # Errors
    /// That of the file.
    pub fn measure(&self, guest: &[(usize, usize)]) -> io::Result<Resident> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.rewind()?;
        sum(BufReader::new(&*file), guest)
    }
}

fn sum(smaps: impl BufRead, guest: &[(usize, usize)]) -> io::Result<Resident> {
    let mut resident = Resident::default();
    let mut of_guest = false;
    for line in smaps.lines() {
        let line = line?;
        if let Some(rest) = line.strip_prefix("Rss:") {
            let sum: &mut u64 =
                if of_guest { &mut resident.guest_kib } else { &mut resident.own_kib };
            *sum += kib(rest);
        } else if let Some(rest) = line.strip_prefix("Anonymous:") {
            if of_guest {
                resident.guest_private_kib += kib(rest);
            }
        } else if let Some(start) = mapping_start(&line) {
            of_guest = guest.iter().any(|&(base, length)| (base..base + length).contains(&start));
        }
    }
    Ok(resident)
}

/// The number of ` 8 kB`.
fn kib(rest: &str) -> u64 {
    rest.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The first address of a mapping's first line, `start-end permissions …`.
fn mapping_start(line: &str) -> Option<usize> {
    let (range, _) = line.split_once(' ')?;
    let (start, _) = range.split_once('-')?;
    usize::from_str_radix(start, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_mappings_are_told_from_the_others() {
        let smaps = "1000-2000 r-xp 00000000 00:00 1 /program\nSize: 4 kB\nRss: 4 kB\n\
            7000-9000 rw-p 00000000 00:00 0\nRss: 8 kB\nAnonymous: 4 kB\n\
            9000-a000 rw-p 00000000 00:00 0 [stack]\nRss: 2 kB\n";
        let resident = sum(smaps.as_bytes(), &[(0x7000, 0x2000)]).unwrap();
        assert_eq!(resident, Resident { guest_kib: 8, guest_private_kib: 4, own_kib: 6 });
    }

    #[test]
    fn this_process_has_memory_of_its_own() {
        let gauge = Gauge::open().unwrap();
        let first = gauge.measure(&[]).unwrap().own_kib;
        assert!(first > 0 && gauge.measure(&[]).unwrap().own_kib >= first / 2);
    }
}
