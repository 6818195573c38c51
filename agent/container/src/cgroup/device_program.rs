//! Device rules as an eBPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`. For every kind of access the last rule that
//! names the device wins, as with the device lists of cgroup v1; what no rule names is denied.

use crate::{
    error::Error,
    spec::{DeviceRule, DeviceType},
};

/// `struct bpf_insn`: code, destination and source register, offset, immediate.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const ALL_ACCESS: i32 = MKNOD | READ | WRITE;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// Registers: the result, the context, a scratch one, and the context's parts.
const R0: u8 = 0;
const CONTEXT: u8 = 1;
const SCRATCH: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Devices that every container may use, as runc's `AllowedDevices`: any node may be made; these may be opened.
const DEFAULTS: [(DeviceType, Option<i64>, Option<i64>, &str); 11] = [
    (DeviceType::Character, None, None, "m"),
    (DeviceType::Block, None, None, "m"),
    (DeviceType::Character, Some(1), Some(3), "rwm"),
    (DeviceType::Character, Some(1), Some(5), "rwm"),
    (DeviceType::Character, Some(1), Some(7), "rwm"),
    (DeviceType::Character, Some(1), Some(8), "rwm"),
    (DeviceType::Character, Some(1), Some(9), "rwm"),
    (DeviceType::Character, Some(5), Some(0), "rwm"),
    (DeviceType::Character, Some(5), Some(1), "rwm"),
    (DeviceType::Character, Some(5), Some(2), "rwm"),
    (DeviceType::Character, Some(136), None, "rwm"),
];

/// The program for these rules and the default ones; `None` when everything is allowed.
pub(super) fn compile(rules: &[DeviceRule]) -> Result<Option<Vec<Instruction>>, Error> {
    if rules.last().is_some_and(allows_everything) {
        return Ok(None);
    }
    let mut program = prologue();
    for (kind, major, minor, access) in DEFAULTS.iter().rev() {
        block(&mut program, true, *kind, *major, *minor, parse_access(access)?)?;
    }
    for rule in rules.iter().rev() {
        let access = match rule.access.as_deref() {
            None | Some("") => ALL_ACCESS,
            Some(text) => parse_access(text)?,
        };
        let number = |number: Option<i64>| number.filter(|number| *number >= 0);
        let kind = rule.kind.unwrap_or(DeviceType::All);
        block(&mut program, rule.allow, kind, number(rule.major), number(rule.minor), access)?;
    }
    program.extend([set(R0, 0), exit()]);
    Ok(Some(program))
}

fn allows_everything(rule: &DeviceRule) -> bool {
    rule.allow
        && matches!(rule.kind, None | Some(DeviceType::All))
        && rule.major.is_none_or(|major| major < 0)
        && rule.minor.is_none_or(|minor| minor < 0)
        && rule.access.as_deref().is_none_or(|text| {
            text.is_empty() || ["r", "w", "m"].iter().all(|letter| text.contains(letter))
        })
}

fn parse_access(text: &str) -> Result<i32, Error> {
    text.bytes().try_fold(0, |bits, letter| match letter {
        b'r' => Ok(bits | READ),
        b'w' => Ok(bits | WRITE),
        b'm' => Ok(bits | MKNOD),
        _ => Err(Error::invalid(
            "linux.resources.devices.access",
            text,
            "some of the letters rwm are wanted",
        )),
    })
}

fn prologue() -> Vec<Instruction> {
    vec![
        // struct bpf_cgroup_dev_ctx: access << 16 | type, major, minor.
        load(TYPE, 0),
        load(MAJOR, 4),
        load(MINOR, 8),
        instruction(0xbc, ACCESS, TYPE, 0, 0),
        instruction(0x74, ACCESS, 0, 0, 16),
        instruction(0x54, TYPE, 0, 0, 0xffff),
    ]
}

/// One rule: falls through to the next when it does not decide.
fn block(
    program: &mut Vec<Instruction>,
    allow: bool,
    kind: DeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: i32,
) -> Result<(), Error> {
    let mut body = Vec::new();
    if allow {
        // What this rule allows need not be asked for any more.
        body.push(instruction(0x54, ACCESS, 0, 0, !access));
        body.push(instruction(0x55, ACCESS, 0, 2, 0));
        body.extend([set(R0, 1), exit()]);
    } else {
        body.push(instruction(0xbc, SCRATCH, ACCESS, 0, 0));
        body.push(instruction(0x54, SCRATCH, 0, 0, access));
        body.push(instruction(0x15, SCRATCH, 0, 2, 0));
        body.extend([set(R0, 0), exit()]);
    }
    let kind = match kind {
        DeviceType::All => None,
        DeviceType::Block => Some(1),
        DeviceType::Character => Some(2),
        DeviceType::Fifo => return Ok(()),
    };
    for (register, wanted) in [(MINOR, minor), (MAJOR, major), (TYPE, kind)] {
        if let Some(wanted) = wanted {
            let wanted = u32::try_from(wanted).map_err(|_| {
                Error::invalid("linux.resources.devices number", wanted, "32 bits are wanted")
            })?;
            // A body has at most 8 instructions.
            let past = i16::try_from(body.len()).unwrap_or(i16::MAX);
            body.insert(0, instruction(0x56, register, 0, past, wanted.cast_signed()));
        }
    }
    program.append(&mut body);
    Ok(())
}

/// `BPF_LDX | BPF_MEM | BPF_W` from the context.
fn load(register: u8, offset: i16) -> Instruction {
    instruction(0x61, register, CONTEXT, offset, 0)
}

/// `BPF_ALU64 | BPF_MOV | BPF_K`.
fn set(register: u8, value: i32) -> Instruction {
    instruction(0xb7, register, 0, 0, value)
}

fn exit() -> Instruction {
    instruction(0x95, 0, 0, 0, 0)
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset, immediate }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small interpreter of the instructions above.
    fn allowed(program: &[Instruction], kind: u32, access: i32, major: u32, minor: u32) -> bool {
        let context = [access.cast_unsigned() << 16 | kind, major, minor];
        let mut r = [0_u32; 6];
        let mut at = 0;
        loop {
            let i = program[at];
            at += 1;
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let value = i.immediate.cast_unsigned();
            let skip = usize::try_from(i.offset).unwrap();
            match i.code {
                0x61 => r[to] = context[skip / 4],
                0xb7 => r[to] = value,
                0xbc => r[to] = r[from],
                0x54 => r[to] &= value,
                0x74 => r[to] >>= value,
                0x15 if r[to] == value => at += skip,
                0x55 | 0x56 if r[to] != value => at += skip,
                0x15 | 0x55 | 0x56 => {}
                0x95 => return r[0] == 1,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    fn rules(json: &str) -> Vec<DeviceRule> {
        serde_json::from_str(json).unwrap()
    }

    const CHARACTER: u32 = 2;
    const BLOCK: u32 = 1;

    #[test]
    fn the_default_devices_and_no_others() {
        let program = compile(&rules(r#"[{"allow": false, "access": "rwm"}]"#)).unwrap().unwrap();
        assert!(allowed(&program, CHARACTER, READ | WRITE, 1, 3));
        assert!(allowed(&program, CHARACTER, READ | WRITE, 136, 7));
        assert!(allowed(&program, BLOCK, MKNOD, 8, 0));
        assert!(!allowed(&program, BLOCK, READ, 8, 0));
        assert!(!allowed(&program, BLOCK, MKNOD | READ, 8, 0));
        assert!(!allowed(&program, CHARACTER, READ, 1, 1));
    }

    #[test]
    fn the_last_rule_wins_for_each_kind_of_access() {
        let program = compile(&rules(
            r#"[{"allow": true, "access": "rwm"}, {"allow": false, "type": "b", "major": 8, "access": "w"},
                {"allow": true, "type": "b", "major": 8, "minor": 1, "access": "w"}]"#,
        ))
        .unwrap()
        .unwrap();
        assert!(allowed(&program, BLOCK, READ, 8, 0));
        assert!(!allowed(&program, BLOCK, WRITE, 8, 0));
        assert!(!allowed(&program, BLOCK, READ | WRITE, 8, 0));
        assert!(allowed(&program, BLOCK, READ | WRITE, 8, 1));
        assert!(allowed(&program, BLOCK, READ | WRITE, 9, 0));
    }

    #[test]
    fn two_rules_add_up() {
        let program = compile(&rules(
            r#"[{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "access": "r"},
                {"allow": true, "type": "c", "major": 10, "access": "w"}]"#,
        ))
        .unwrap()
        .unwrap();
        assert!(allowed(&program, CHARACTER, READ | WRITE, 10, 200));
    }

    #[test]
    fn everything_needs_no_program() {
        assert!(
            compile(&rules(r#"[{"allow": true, "type": "a", "access": "rwm"}]"#))
                .unwrap()
                .is_none()
        );
        assert!(compile(&rules(r#"[{"allow": true, "access": "x"}]"#)).is_err());
    }
}
