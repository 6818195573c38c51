//! What processes hold of the host's memory (proc(5), `/proc/PID/smaps` and `smaps_rollup`).

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
};

/// A mapping of a VMM that is at least so big is the guest's memory: no machine has less than 64 MiB, and nothing else of it is so big.
const GUEST: u64 = 64 << 20;

/// What a container's processes hold. All in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Proportional set size: what several processes share is divided among them.
    pub pss: u64,
    /// Of that, the VMM's, the guest's memory included.
    pub vmm: u64,
    /// Of that, the monitor's, or the plain container's.
    pub first: u64,
    /// What these processes wrote and share with nobody: what would come free without them.
    pub private: u64,
    /// Of the guest's memory, what it touched, be it that others of its template have it too.
    pub guest_touched: u64,
    /// Of the guest's memory, what is its own.
    pub guest_private: u64,
}

impl Memory {
    /// That of `first`, which stands for a container, and of all its descendants. A process that ends meanwhile holds nothing.
    #[must_use]
    pub fn of(first: i32, processes: &Processes) -> Self {
        let mut memory = Self { first: proportional(first).0, ..Self::default() };
        for pid in [first].into_iter().chain(processes.below(first)) {
            let (pss, private) = proportional(pid);
            memory.pss += pss;
            memory.private += private;
            if name(pid) == "bulkhead-vmm" {
                memory.vmm += pss;
                let file = fs::File::open(format!("/proc/{pid}/smaps"));
                let (touched, own) = file.map_or((0, 0), |file| guest(BufReader::new(file)));
                memory.guest_touched += touched;
                memory.guest_private += own;
            }
        }
        memory
    }
}

/// The host's processes at one moment.
#[derive(Debug)]
pub struct Processes {
    /// Those that each has begun, or adopted.
    children: BTreeMap<i32, Vec<i32>>,
}

impl Processes {
    /// Looks at all of them once.
    #[must_use]
    pub fn now() -> Self {
        let mut children = BTreeMap::<i32, Vec<i32>>::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some((pid, parent)) = pid.and_then(|pid| Some((pid, parent(pid)?))) {
                children.entry(parent).or_default().push(pid);
            }
        }
        Self { children }
    }

    /// The processes below one, in no order.
    #[must_use]
    pub fn below(&self, of: i32) -> Vec<i32> {
        let mut found = vec![of];
        let mut next = 0;
        while let Some(above) = found.get(next) {
            found.extend(self.children.get(above).into_iter().flatten().filter(|pid| **pid != of));
            next += 1;
        }
        found.remove(0);
        found
    }
}

/// The processes below one now, in no order.
#[must_use]
pub fn descendants(of: i32) -> Vec<i32> {
    Processes::now().below(of)
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // A name in parentheses may hold anything; then the state, then the parent.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// Proportional and private bytes of a process.
fn proportional(pid: i32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let sum = |name: &str| text.lines().filter_map(|line| line.strip_prefix(name)).map(bytes).sum();
    (sum("Pss:"), sum("Private_Dirty:"))
}

/// Touched and own bytes of the mappings that are a guest's memory.
fn guest(smaps: impl BufRead) -> (u64, u64) {
    let (mut touched, mut own) = (0, 0);
    let (mut of_guest, mut shared) = (false, false);
    for line in smaps.lines().map_while(Result::ok) {
        if let Some((size, flags)) = mapping(&line) {
            of_guest = size >= GUEST && flags.starts_with("rw");
            shared = flags.ends_with('s');
        } else if of_guest && let Some(rest) = line.strip_prefix("Rss:") {
            touched += bytes(rest);
            own += if shared { bytes(rest) } else { 0 };
        } else if of_guest
            && !shared
            && let Some(rest) = line.strip_prefix("Anonymous:")
        {
            own += bytes(rest);
        }
    }
    (touched, own)
}

/// Size and flags of a mapping, from the line that begins its entry: `7f01-7f02 rw-p 00000000 00:00 0 [name]`.
fn mapping(line: &str) -> Option<(u64, &str)> {
    let mut words = line.split(' ');
    let (from, to) = words.next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some((address(to)?.checked_sub(address(from)?)?, words.next()?))
}

/// `   12 kB` in bytes.
fn bytes(text: &str) -> u64 {
    let number = text.split_whitespace().next().and_then(|number| number.parse().ok());
    number.unwrap_or(0_u64) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_memory_is_what_is_big() {
        let smaps = "1000-2000 rw-p 00000000 00:00 1 /program\nRss: 4 kB\nAnonymous: 4 kB\n\
            7f0000000000-7f0010000000 rw-p 00000000 00:00 7 /t/memory\nSize: 262144 kB\nRss: 900 kB\nAnonymous: 100 kB\n\
            7f1000000000-7f1010000000 ---p 00000000 00:00 0\nRss: 0 kB\n\
            7f2000000000-7f2010000000 rw-s 00000000 00:00 7 /memfd\nRss: 50 kB\nAnonymous: 0 kB\n";
        assert_eq!(guest(smaps.as_bytes()), (950 << 10, 150 << 10));
    }

    #[test]
    fn this_process_has_memory_and_a_descendant() {
        let script = "sleep 1000 & wait";
        let mut child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let own = rustix::process::getpid().as_raw_pid();
        while descendants(pid).is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let below = descendants(own);
        assert!(below.contains(&pid) && below.contains(&descendants(pid)[0]), "{below:?}");
        let memory = Memory::of(pid, &Processes::now());
        assert!(memory.pss > memory.first && memory.first > 0 && memory.private > 0, "{memory:?}");
        assert_eq!((memory.vmm, memory.guest_touched), (0, 0));
        for pid in descendants(pid).into_iter().chain([pid]) {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        child.wait().unwrap();
    }
}
