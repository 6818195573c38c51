//! The guest of a template and its clones: what is kept from the one for the others, and what a clone must have of its own
//! before anything else happens in it.

use std::os::fd::{AsRawFd, OwnedFd};

use bulkhead_container::{Platform, Spare, spec::Spec};
use bulkhead_protocol::{Awaken, Failure, MAX_EXPECTED, Prepare, Reply};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    process::Pid,
    time::{ClockId, Timespec},
};

use crate::{
    answer::{Answer, failure, invalid, system},
    link::Link,
    shares::Shares,
};

/// Bytes of a seed and of a nonce.
const SEED: usize = 64;
const NONCE: usize = 16;
/// A clock that is off by less stays.
const TOLERANCE_NS: u64 = 1_000_000;

/// What a template's agent has ready for its clones.
#[derive(Debug, Default)]
pub(crate) struct Template {
    nonce: Option<String>,
    /// `/dev/urandom`, which a clone then need not open.
    random: Option<OwnedFd>,
    /// A process for the first container that asks for what was expected.
    spare: Option<Spare>,
}

impl Template {
    /// Gets ready.
    pub(crate) fn prepare(
        &mut self,
        link: &Link,
        platform: &Platform,
        shares: &mut Shares,
        prepare: Prepare<Spec>,
    ) -> Answer {
        only_in_a_guest(link)?;
        let Prepare { nonce, specs, shares: tags } = prepare;
        if digits::<NONCE>(&nonce).is_none() {
            return Err(invalid(format!("{nonce:?} is no nonce; 32 hexadecimal digits are")));
        }
        if specs.len() > MAX_EXPECTED {
            let count = specs.len();
            return Err(invalid(format!(
                "{count} containers are expected; at most {MAX_EXPECTED} can be"
            )));
        }
        self.random = Some(open_random()?);
        if !specs.is_empty() {
            shares.announce()?;
            shares.mount(&tags)?;
            self.spare = None;
            self.spare = Spare::make(platform, &specs).map_err(failure)?;
        }
        self.nonce = Some(nonce);
        Ok(Reply::Done)
    }

    /// The process that was made ahead.
    pub(crate) fn spare(&mut self) -> Option<&mut Spare> {
        self.spare.as_mut()
    }

    /// Ends the process that was made ahead.
    pub(crate) fn forget(&mut self) {
        self.spare = None;
    }

    /// Forgets the process that was made ahead when it is the one that has ended.
    pub(crate) fn exited(&mut self, pid: Pid) {
        self.spare.take_if(|spare| spare.pid() == Some(pid));
    }

    /// Makes a clone differ from all others of its template. Nothing may have asked the kernel for random bytes before.
    pub(crate) fn awaken(&self, link: &Link, awaken: &Awaken) -> Answer {
        only_in_a_guest(link)?;
        let Some(seed) = digits::<SEED>(&awaken.seed) else {
            return Err(invalid("the seed is not 128 hexadecimal digits".to_owned()));
        };
        let opened = if self.random.is_none() { Some(open_random()?) } else { None };
        if let Some(random) = self.random.as_ref().or(opened.as_ref()) {
            reseed(random, &seed).map_err(|errno| {
                system(format!("cannot reseed the random number generator: {errno}"))
            })?;
        }
        set_clock(awaken.realtime_ns)
            .map_err(|errno| system(format!("cannot set the clock: {errno}")))?;
        Ok(Reply::Awake { nonce: self.nonce.clone() })
    }
}

/// A host's generator and clock are not the agent's, and a host process is no template.
fn only_in_a_guest(link: &Link) -> Result<(), Failure> {
    match link {
        Link::Vsock => Ok(()),
        Link::Unix(_) => Err(invalid("only a guest is prepared and awakened".to_owned())),
    }
}

fn open_random() -> Result<OwnedFd, Failure> {
    rustix::fs::open("/dev/urandom", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| system(format!("cannot open /dev/urandom: {errno}")))
}

/// `struct rand_pool_info` of linux/random.h, with a seed.
#[repr(C)]
struct PoolInfo {
    entropy_bits: i32,
    length: i32,
    seed: [u8; SEED],
}

/// Mixes the seed in, credits it, and has every generator that was made from the old state made anew (random(4)).
fn reseed(random: &OwnedFd, seed: &[u8; SEED]) -> Result<(), Errno> {
    /// `RNDADDENTROPY` and `RNDRESEEDCRNG`.
    const ADD: libc::Ioctl = 0x4008_5203;
    const RESEED: libc::Ioctl = 0x5207;
    const LENGTH: i32 = 64;
    let info = PoolInfo { entropy_bits: LENGTH * 8, length: LENGTH, seed: *seed };
    // SAFETY: the kernel reads the structure, which says how long it is.
    check(unsafe { libc::ioctl(random.as_raw_fd(), ADD, std::ptr::from_ref(&info)) })?;
    // SAFETY: takes no pointer.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RESEED) })
}

fn check(result: libc::c_int) -> Result<(), Errno> {
    if result < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(())
}

/// Sets the wall clock unless it is right.
fn set_clock(realtime_ns: u64) -> Result<(), Errno> {
    const SECOND: u64 = 1_000_000_000;
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    let now = number(now.tv_sec).saturating_mul(SECOND).saturating_add(number(now.tv_nsec));
    if now.abs_diff(realtime_ns) <= TOLERANCE_NS {
        return Ok(());
    }
    let part = |value: u64| i64::try_from(value).map_err(|_| Errno::INVAL);
    let (tv_sec, tv_nsec) = (part(realtime_ns / SECOND)?, part(realtime_ns % SECOND)?);
    rustix::time::clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec })
}

/// The bytes that a text of twice as many hexadecimal digits stands for.
fn digits<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let pairs: &[[u8; 2]; BYTES] = pairs.try_into().ok()?;
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_of_one_length() {
        assert_eq!(digits::<2>("0aFf"), Some([10, 255]));
        for bad in ["", "0af", "0aff0", "0afff0", "+aff", "0agf", "0a\u{e9}"] {
            assert_eq!(digits::<2>(bad), None, "{bad}");
        }
    }
}
