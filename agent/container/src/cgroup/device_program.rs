//! Device rules as an eBPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`. For every kind of access the last rule that
//! names the device wins, as with the device lists of cgroup v1; what no rule names is denied. All of that is resolved
//! here: the program finds the device and has one mask for it. A rule after the other, which is simpler, takes the
//! kernel's verifier ten times as long.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ebpf::Instruction,
    error::Error,
    spec::{DeviceRule, DeviceType},
};

/// What a process may do with a device: some of the three bits.
pub(super) type Access = u8;

pub(super) const MKNOD: Access = 1;
pub(super) const READ: Access = 2;
pub(super) const WRITE: Access = 4;
pub(super) const ALL_ACCESS: Access = MKNOD | READ | WRITE;

/// More rules, or more devices that they name, are refused.
const MAX_RULES: usize = 1024;

/// Registers: the result, the context, and what is taken out of it.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const DEVICE: u8 = 4;
const MINOR: u8 = 5;

/// A device's number as the kernel keeps it: 12 bits of major, 20 of minor.
const MINOR_BITS: u32 = 20;

/// A rule for one kind of devices.
#[derive(Debug, Clone, Copy)]
struct Rule {
    allow: bool,
    major: Option<u32>,
    minor: Option<u32>,
    access: Access,
}

/// Devices that every container may use, as runc's `AllowedDevices`: any node may be made; these may be opened.
const DEFAULT_CHARACTER: [(u32, Option<u32>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// The program for these rules and the default ones; `None` when everything is allowed.
pub(super) fn compile(rules: &[DeviceRule]) -> Result<Option<Vec<Instruction>>, Error> {
    let [block, character] = tables(rules)?;
    if block.is_open() && character.is_open() {
        return Ok(None);
    }
    let mut program = prologue();
    let block = block.code();
    let past = i16::try_from(block.len()).map_err(|_| too_many(block.len()))?;
    // Block devices have type 1, character devices 2.
    program.push(instruction(0x56, TYPE, 0, past, 1));
    program.extend(block);
    program.extend(character.code());
    Ok(Some(program))
}

/// What these rules and the default ones allow with block and with character devices.
pub(super) fn tables(rules: &[DeviceRule]) -> Result<[Table; 2], Error> {
    Ok([
        table(&of_kind(rules, DeviceType::Block)?)?,
        table(&of_kind(rules, DeviceType::Character)?)?,
    ])
}

/// The rules that are about one kind of devices, in order, and the default ones.
fn of_kind(rules: &[DeviceRule], kind: DeviceType) -> Result<Vec<Rule>, Error> {
    if rules.len() > MAX_RULES {
        return Err(too_many(rules.len()));
    }
    let mut all = Vec::with_capacity(rules.len() + 10);
    for rule in rules {
        let access = match rule.access.as_deref() {
            None | Some("") => ALL_ACCESS,
            Some(text) => parse_access(text)?,
        };
        if matches!(rule.kind, None | Some(DeviceType::All)) || rule.kind == Some(kind) {
            let major = number(rule.major, 32 - MINOR_BITS)?;
            let minor = number(rule.minor, MINOR_BITS)?;
            all.push(Rule { allow: rule.allow, major, minor, access });
        }
    }
    all.push(Rule { allow: true, major: None, minor: None, access: MKNOD });
    if kind == DeviceType::Character {
        all.extend(DEFAULT_CHARACTER.map(|(major, minor)| Rule {
            allow: true,
            major: Some(major),
            minor,
            access: ALL_ACCESS,
        }));
    }
    Ok(all)
}

fn number(number: Option<i64>, bits: u32) -> Result<Option<u32>, Error> {
    match number {
        Some(number) if number >= 0 => match u32::try_from(number) {
            Ok(small) if small < 1 << bits => Ok(Some(small)),
            _ => Err(Error::invalid(
                "linux.resources.devices number",
                number,
                "majors are under 4096 and minors under 1048576",
            )),
        },
        _ => Ok(None),
    }
}

fn parse_access(text: &str) -> Result<Access, Error> {
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

fn too_many(count: usize) -> Error {
    Error::invalid("linux.resources.devices of this many rules or devices", count, "1024 are taken")
}

/// What is allowed with the devices of one kind, from the most to the least specific.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) devices: BTreeMap<(u32, u32), Access>,
    pub(super) majors: BTreeMap<u32, Access>,
    pub(super) minors: BTreeMap<u32, Access>,
    pub(super) others: Access,
}

/// What the rules allow with a device; `None` is a number that no rule names.
fn allowed(rules: &[Rule], major: Option<u32>, minor: Option<u32>) -> Access {
    let names = |wanted: Option<u32>, number| wanted.is_none() || wanted == number;
    rules.iter().filter(|rule| names(rule.major, major) && names(rule.minor, minor)).fold(
        0,
        |access, rule| if rule.allow { access | rule.access } else { access & !rule.access },
    )
}

fn table(rules: &[Rule]) -> Result<Table, Error> {
    let majors: BTreeSet<_> = rules.iter().filter_map(|rule| rule.major).collect();
    let minors: BTreeSet<_> =
        rules.iter().filter(|rule| rule.major.is_none()).filter_map(|rule| rule.minor).collect();
    let mut devices: BTreeSet<_> =
        rules.iter().filter_map(|rule| rule.major.zip(rule.minor)).collect();
    if devices.len() + majors.len().saturating_mul(minors.len()) > MAX_RULES {
        return Err(too_many(devices.len() + majors.len().saturating_mul(minors.len())));
    }
    devices.extend(majors.iter().flat_map(|major| minors.iter().map(|minor| (*major, *minor))));
    let others = allowed(rules, None, None);
    let majors: BTreeMap<_, _> = majors
        .into_iter()
        .map(|major| (major, allowed(rules, Some(major), None)))
        // Without rules for minors of all majors, what is not found is one of the others.
        .filter(|(_, access)| *access != others || !minors.is_empty())
        .collect();
    let devices = devices
        .into_iter()
        .map(|(major, minor)| ((major, minor), allowed(rules, Some(major), Some(minor))))
        .filter(|((major, _), access)| access != majors.get(major).unwrap_or(&others))
        .collect();
    let minors =
        minors.into_iter().map(|minor| (minor, allowed(rules, None, Some(minor)))).collect();
    Ok(Table { devices, majors, minors, others })
}

impl Table {
    /// Everything is allowed.
    fn is_open(&self) -> bool {
        let all = [&self.majors, &self.minors].into_iter().flat_map(BTreeMap::values);
        all.chain(self.devices.values()).chain([&self.others]).all(|access| *access == ALL_ACCESS)
    }

    /// Compares the device with those of the table and goes to the end that its access has.
    fn code(&self) -> Vec<Instruction> {
        let mut tests = Vec::new();
        for ((major, minor), access) in &self.devices {
            tests.push((DEVICE, major << MINOR_BITS | minor, *access));
        }
        let by_major = tests.len();
        for (major, access) in &self.majors {
            tests.push((DEVICE, *major, *access));
        }
        for (minor, access) in &self.minors {
            tests.push((MINOR, *minor, *access));
        }
        let mut ends = vec![self.others];
        for (.., access) in &tests {
            if !ends.contains(access) {
                ends.push(*access);
            }
        }
        let bodies: Vec<_> = ends.iter().map(|access| end(*access)).collect();
        let shift = usize::from(!self.majors.is_empty());
        let mut code = Vec::new();
        for (at, (register, value, access)) in tests.iter().enumerate() {
            if at == by_major && shift == 1 {
                // From here on the major alone.
                code.push(instruction(0x74, DEVICE, 0, 0, MINOR_BITS.cast_signed()));
            }
            let shifted = usize::from(at < by_major) * shift;
            let which = ends.iter().position(|end| end == access).unwrap_or(0);
            let before: usize = bodies.iter().take(which).map(Vec::len).sum();
            let distance = tests.len() - at - 1 + shifted + before;
            // A table has at most 2048 entries and 8 ends.
            let distance = i16::try_from(distance).unwrap_or(i16::MAX);
            code.push(instruction(0x16, *register, 0, distance, value.cast_signed()));
        }
        code.extend(bodies.concat());
        code
    }
}

/// Allows when nothing but this access is asked for.
fn end(access: Access) -> Vec<Instruction> {
    match access {
        0 => vec![set(RESULT, 0), exit()],
        ALL_ACCESS => vec![set(RESULT, 1), exit()],
        access => vec![
            set(RESULT, 0),
            instruction(0x46, ACCESS, 0, 1, i32::from(ALL_ACCESS & !access)),
            set(RESULT, 1),
            exit(),
        ],
    }
}

fn prologue() -> Vec<Instruction> {
    vec![
        // struct bpf_cgroup_dev_ctx: access << 16 | type, major, minor.
        instruction(0x61, TYPE, CONTEXT, 0, 0),
        instruction(0x61, DEVICE, CONTEXT, 4, 0),
        instruction(0x61, MINOR, CONTEXT, 8, 0),
        // Access out of the upper half, type out of the lower one.
        instruction(0xbc, ACCESS, TYPE, 0, 0),
        instruction(0x74, ACCESS, 0, 0, 16),
        instruction(0x54, TYPE, 0, 0, 0xffff),
        // Major and minor together.
        instruction(0x64, DEVICE, 0, 0, MINOR_BITS.cast_signed()),
        instruction(0x4c, DEVICE, MINOR, 0, 0),
    ]
}

/// `BPF_ALU64 | BPF_MOV | BPF_K`.
fn set(register: u8, value: i32) -> Instruction {
    instruction(0xb7, register, 0, 0, value)
}

fn exit() -> Instruction {
    instruction(0x95, 0, 0, 0, 0)
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction::new(code, to, from, offset, immediate)
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
