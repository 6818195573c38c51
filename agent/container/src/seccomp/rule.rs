//! Conditions on the arguments of a system call: 64-bit comparisons out of the filter machine's 32-bit ones.

use libc::sock_filter;

use super::bpf::{self, Jump};
use crate::{
    error::Error,
    spec::{Arg, Operator, SyscallRule},
};

/// An action and the conditions that must all hold for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conditional {
    args: Vec<Arg>,
    action: u32,
}

/// The conditions of a rule: all together, or, when two of them name the same argument, one after the other
/// (as runc hands them to libseccomp).
///
/// # Errors
/// [`Error::Invalid`] for an argument that no system call has.
pub(crate) fn conditionals(rule: &SyscallRule, action: u32) -> Result<Vec<Conditional>, Error> {
    let mut seen = [false; 6];
    let mut repeated = false;
    for arg in &rule.args {
        let Some(seen) = seen.get_mut(usize::from(arg.index)) else {
            return Err(Error::invalid(
                "linux.seccomp argument index",
                arg.index,
                "a system call has arguments 0 to 5",
            ));
        };
        repeated |= std::mem::replace(seen, true);
    }
    Ok(if repeated {
        rule.args.iter().map(|arg| Conditional { args: vec![*arg], action }).collect()
    } else {
        vec![Conditional { args: rule.args.clone(), action }]
    })
}

impl Conditional {
    /// Instructions that return the action when the conditions hold, and else go on after their end.
    pub(crate) fn code(&self) -> Vec<sock_filter> {
        let mut code = vec![bpf::ret(self.action)];
        for arg in self.args.iter().rev() {
            let mut check = check(arg, code.len());
            check.append(&mut code);
            code = check;
        }
        code
    }
}

/// Instructions that go on when the condition holds and else skip the `rest` that follow.
fn check(arg: &Arg, rest: usize) -> Vec<sock_filter> {
    let (low, high) = bpf::argument(arg.index);
    let (value_low, value_high) = halves(arg.value);
    // Six conditions have at most 42 instructions, so that a distance always fits.
    let far = |extra: usize| u8::try_from(rest + extra).unwrap_or(u8::MAX);
    match arg.op {
        Operator::Equal => vec![
            bpf::load(high),
            bpf::jump(Jump::Equal, value_high, 0, far(2)),
            bpf::load(low),
            bpf::jump(Jump::Equal, value_low, 0, far(0)),
        ],
        Operator::NotEqual => vec![
            bpf::load(high),
            bpf::jump(Jump::Equal, value_high, 0, 2),
            bpf::load(low),
            bpf::jump(Jump::Equal, value_low, far(0), 0),
        ],
        Operator::Greater => ordered(arg, Jump::Greater, true, rest),
        Operator::GreaterOrEqual => ordered(arg, Jump::GreaterOrEqual, true, rest),
        Operator::Less => ordered(arg, Jump::GreaterOrEqual, false, rest),
        Operator::LessOrEqual => ordered(arg, Jump::Greater, false, rest),
        Operator::MaskedEqual => {
            let (wanted_low, wanted_high) = halves(arg.value_two);
            vec![
                bpf::load(high),
                bpf::and(value_high),
                bpf::jump(Jump::Equal, wanted_high, 0, far(3)),
                bpf::load(low),
                bpf::and(value_low),
                bpf::jump(Jump::Equal, wanted_low, 0, far(0)),
            ]
        }
    }
}

/// `argument <jump> value` must be `wanted`.
fn ordered(arg: &Arg, jump: Jump, wanted: bool, rest: usize) -> Vec<sock_filter> {
    let (low, high) = bpf::argument(arg.index);
    let (value_low, value_high) = halves(arg.value);
    let fail = |extra: usize| u8::try_from(rest + extra).unwrap_or(u8::MAX);
    let to = |holds: bool, extra: u8| if holds { extra } else { fail(usize::from(extra)) };
    vec![
        bpf::load(high),
        bpf::jump(Jump::Greater, value_high, to(wanted, 3), 0),
        bpf::jump(Jump::Equal, value_high, 0, to(!wanted, 2)),
        bpf::load(low),
        bpf::jump(jump, value_low, to(wanted, 0), to(!wanted, 0)),
    ]
}

#[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}
