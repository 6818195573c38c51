//! Classic BPF (Documentation/networking/filter.rst) in the few forms that a filter of system calls needs.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET,
    BPF_W, sock_filter,
};

/// The most instructions that the kernel takes (`BPF_MAXINSNS`).
pub(crate) const MAX_INSTRUCTIONS: usize = 4096;

/// `offsetof(struct seccomp_data, nr)`, seccomp(2).
pub(crate) const NUMBER: u32 = 0;
/// `offsetof(struct seccomp_data, arch)`.
pub(crate) const ARCH: u32 = 4;

/// The offsets of the low and the high half of an argument, on a little-endian machine.
pub(crate) fn argument(index: u8) -> (u32, u32) {
    let low = 16 + 8 * u32::from(index);
    (low, low + 4)
}

/// Conditional jumps.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Jump {
    Equal,
    GreaterOrEqual,
    Greater,
}

pub(crate) fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset)
}

pub(crate) fn and(mask: u32) -> sock_filter {
    instruction(BPF_ALU | BPF_AND | BPF_K, 0, 0, mask)
}

pub(crate) fn ret(value: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, 0, 0, value)
}

pub(crate) fn skip(count: u32) -> sock_filter {
    instruction(BPF_JMP | BPF_JA, 0, 0, count)
}

pub(crate) fn jump(kind: Jump, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    let kind = match kind {
        Jump::Equal => BPF_JEQ,
        Jump::GreaterOrEqual => BPF_JGE,
        Jump::Greater => BPF_JGT,
    };
    instruction(BPF_JMP | BPF_K | kind, if_true, if_false, value)
}

#[expect(clippy::cast_possible_truncation, reason = "operation codes have 8 bits")]
fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// A program as numbers: code, jumps and operand of each instruction.
pub(super) mod program {
    use libc::sock_filter;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        program: &[sock_filter],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(program.iter().map(|i| (i.code, i.jt, i.jf, i.k)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<sock_filter>, D::Error> {
        let numbers = Vec::<(u16, u8, u8, u32)>::deserialize(deserializer)?;
        Ok(numbers.into_iter().map(|(code, jt, jf, k)| sock_filter { code, jt, jf, k }).collect())
    }
}
