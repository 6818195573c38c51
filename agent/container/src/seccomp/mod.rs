//! Compiles an OCI seccomp profile. The call's number is found by a binary search over ranges with the same outcome, not by
//! comparing with one name after the other: the kernel runs the filter once for every system call that exists when it is
//! installed, so a short path is what makes installing it cheap.

mod bpf;
mod rule;
mod syscalls;
mod syscalls_i386;

use std::collections::BTreeMap;

use bpf::{Jump, MAX_INSTRUCTIONS};
use libc::sock_filter;
use rule::Conditional;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use syscalls::Abi;

use crate::{
    error::Error,
    spec::{Action, Flag, Seccomp},
    sys,
};

/// `AUDIT_ARCH_X86_64` (linux/audit.h).
const ARCH_X86_64: u32 = 0xc000_003e;
/// `AUDIT_ARCH_I386`.
const ARCH_I386: u32 = 0x4000_0003;
/// Architectures that a profile can name without an effect here: no call of theirs can be made on this machine, or, of
/// x32, which few kernels have, every one fails with `ENOSYS`.
const OTHERS: [&str; 18] = [
    "SCMP_ARCH_X32",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_LOONGARCH64",
];
/// The bit that marks a call of the x32 ABI (`__X32_SYSCALL_BIT`).
const X32_BIT: u32 = 0x4000_0000;
const ENOSYS: u32 = 38;

/// A compiled filter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Filter {
    #[serde(with = "bpf::program")]
    program: Vec<sock_filter>,
    flags: libc::c_ulong,
}

/// What happens to calls with one number.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    conditions: Vec<Conditional>,
    otherwise: u32,
}

impl Filter {
    /// Compiles a profile for 64-bit x86 and, when it names that, for 32-bit programs. As with libseccomp: names that are
    /// unknown here are left out; calls of other architectures kill the thread; calls newer than every one that the
    /// profile names fail with `ENOSYS` when the default is another error, so that programs fall back to an older call.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the kernel or this engine has no such filter.
    pub(crate) fn compile(profile: &Seccomp) -> Result<Self, Error> {
        let mut with_i386 = false;
        for (at, name) in profile.architectures.iter().enumerate() {
            match name.as_str() {
                "SCMP_ARCH_X86_64" => {}
                "SCMP_ARCH_X86" => with_i386 = true,
                name if OTHERS.contains(&name) => {}
                name => {
                    let field = format!("linux.seccomp.architectures[{at}]");
                    return Err(Error::invalid(field, name, "no architecture has this name"));
                }
            }
        }
        let native = calls(profile, Abi::X86_64)?;
        let i386 = if with_i386 { Some(calls(profile, Abi::I386)?) } else { None };
        let kill = bpf::ret(libc::SECCOMP_RET_KILL_THREAD);
        let otherwise = match i386 {
            Some(calls) => {
                let mut code = vec![bpf::jump(Jump::Equal, ARCH_I386, 1, 0), kill];
                code.push(bpf::load(bpf::NUMBER));
                code.extend(calls);
                code
            }
            None => vec![kill],
        };
        let skip = u32::try_from(1 + X32.len() + native.len()).unwrap_or(u32::MAX);
        let mut program = vec![
            bpf::load(bpf::ARCH),
            bpf::jump(Jump::Equal, ARCH_X86_64, 1, 0),
            bpf::skip(skip),
            bpf::load(bpf::NUMBER),
        ];
        program.extend(X32.iter().map(|make| make()));
        program.extend(native);
        program.extend(otherwise);
        if program.len() > MAX_INSTRUCTIONS {
            return Err(Error::invalid(
                "linux.seccomp of this many instructions",
                program.len(),
                "the kernel takes 4096; use fewer rules with arguments",
            ));
        }
        Ok(Self { program, flags: flags(&profile.flags)? })
    }

    /// Puts this process and its children under the filter.
    pub(crate) fn install(&self) -> Result<(), Errno> {
        sys::set_seccomp_filter(&self.program, self.flags)
    }
}

fn action(action: Action, errno: Option<u16>) -> Result<u32, Error> {
    let data = u32::from(errno.unwrap_or(1));
    Ok(match action {
        Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::Trap => libc::SECCOMP_RET_TRAP,
        Action::Errno => libc::SECCOMP_RET_ERRNO | data,
        Action::Trace => libc::SECCOMP_RET_TRACE | data,
        Action::Log => libc::SECCOMP_RET_LOG,
        Action::Allow => libc::SECCOMP_RET_ALLOW,
        Action::Notify => {
            return Err(Error::invalid(
                "linux.seccomp action",
                "SCMP_ACT_NOTIFY",
                "no supervisor can be reached from inside a sandbox",
            ));
        }
    })
}

fn flags(flags: &[Flag]) -> Result<libc::c_ulong, Error> {
    let mut bits = 0;
    for flag in flags {
        bits |= match flag {
            // One thread is all there is before execve.
            Flag::Tsync => 0,
            Flag::Log => libc::SECCOMP_FILTER_FLAG_LOG,
            Flag::SpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            Flag::WaitKillableRecv => {
                return Err(Error::invalid(
                    "linux.seccomp flag",
                    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
                    "it needs SCMP_ACT_NOTIFY, which is not supported",
                ));
            }
        };
    }
    Ok(bits)
}

/// Calls of the x32 ABI fail as if the kernel did not have it.
const X32: [fn() -> sock_filter; 2] = [
    || bpf::jump(Jump::GreaterOrEqual, X32_BIT, 0, 1),
    || bpf::ret(libc::SECCOMP_RET_ERRNO | ENOSYS),
];

/// Instructions that decide by the number of a call, which they find loaded.
fn calls(profile: &Seccomp, abi: Abi) -> Result<Vec<sock_filter>, Error> {
    let default = action(profile.default_action, profile.default_errno_ret)?;
    let mut outcomes: BTreeMap<u32, Outcome> = BTreeMap::new();
    let mut newest = None;
    for rule in &profile.syscalls {
        let act = action(rule.action, rule.errno_ret)?;
        let conditions = rule::conditionals(rule, act)?;
        for name in &rule.names {
            let Some(number) = syscalls::number(abi, name) else { continue };
            newest = newest.max(Some(number));
            if act == default {
                continue;
            }
            let outcome = outcomes
                .entry(number)
                .or_insert_with(|| Outcome { conditions: Vec::new(), otherwise: default });
            if rule.args.is_empty() {
                *outcome = Outcome { conditions: Vec::new(), otherwise: act };
            } else if outcome.otherwise == default {
                outcome.conditions.extend(conditions.iter().cloned());
            }
        }
    }
    let unknown = match profile.default_action {
        Action::Errno => libc::SECCOMP_RET_ERRNO | ENOSYS,
        _ => default,
    };
    Ok(tree(&match newest {
        Some(newest) => ranges(&outcomes, default, newest, unknown),
        None => vec![(0, Outcome { conditions: Vec::new(), otherwise: default })],
    }))
}

/// The outcomes as ranges that begin at a number and end before the next one; neighbours differ.
fn ranges(
    outcomes: &BTreeMap<u32, Outcome>,
    default: u32,
    newest: u32,
    unknown: u32,
) -> Vec<(u32, Outcome)> {
    let plain = |otherwise| Outcome { conditions: Vec::new(), otherwise };
    let mut ranges: Vec<(u32, Outcome)> = Vec::new();
    let mut push = |start: u32, outcome: Outcome| {
        if ranges.last().is_none_or(|(_, last)| *last != outcome) {
            ranges.push((start, outcome));
        }
    };
    let mut next = 0;
    for (&number, outcome) in outcomes {
        if number > next {
            push(next, plain(default));
        }
        push(number, outcome.clone());
        next = number + 1;
    }
    if next <= newest {
        push(next, plain(default));
    }
    push(newest + 1, plain(unknown));
    ranges
}

fn tree(ranges: &[(u32, Outcome)]) -> Vec<sock_filter> {
    let middle = ranges.len() / 2;
    let (Some((pivot, _)), true) = (ranges.get(middle), ranges.len() > 1) else {
        return ranges.first().map_or_else(Vec::new, |(_, outcome)| leaf(outcome));
    };
    let left = tree(&ranges[..middle]);
    let right = tree(&ranges[middle..]);
    let mut code = Vec::with_capacity(2 + left.len() + right.len());
    if let Ok(distance) = u8::try_from(left.len()) {
        code.push(bpf::jump(Jump::GreaterOrEqual, *pivot, distance, 0));
    } else {
        code.push(bpf::jump(Jump::GreaterOrEqual, *pivot, 0, 1));
        code.push(bpf::skip(u32::try_from(left.len()).unwrap_or(u32::MAX)));
    }
    code.extend(left);
    code.extend(right);
    code
}

fn leaf(outcome: &Outcome) -> Vec<sock_filter> {
    let mut code: Vec<_> = outcome.conditions.iter().flat_map(Conditional::code).collect();
    code.push(bpf::ret(outcome.otherwise));
    code
}

#[cfg(test)]
mod tests;
