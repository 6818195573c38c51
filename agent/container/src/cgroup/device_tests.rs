//! Runs device programs in a small interpreter of eBPF.

use super::*;

fn allows(program: &[Instruction], kind: u32, access: Access, major: u32, minor: u32) -> bool {
    let context = [u32::from(access) << 16 | kind, major, minor];
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
            0x4c => r[to] |= r[from],
            0x64 => r[to] <<= value,
            0x74 => r[to] >>= value,
            0x16 if r[to] == value => at += skip,
            0x46 if r[to] & value != 0 => at += skip,
            0x56 if r[to] != value => at += skip,
            0x16 | 0x46 | 0x56 => {}
            0x95 => return r[0] == 1,
            code => panic!("instruction {code:#x}"),
        }
    }
}

fn rules(json: &str) -> Vec<DeviceRule> {
    serde_json::from_str(json).unwrap()
}

fn program(json: &str) -> Vec<Instruction> {
    compile(&rules(json)).unwrap().unwrap()
}

const CHARACTER: u32 = 2;
const BLOCK: u32 = 1;

#[test]
fn the_default_devices_and_no_others() {
    let program = program(r#"[{"allow": false, "access": "rwm"}]"#);
    assert!(allows(&program, CHARACTER, READ | WRITE, 1, 3));
    assert!(allows(&program, CHARACTER, READ | WRITE, 136, 7));
    assert!(allows(&program, BLOCK, MKNOD, 8, 0));
    assert!(!allows(&program, BLOCK, READ, 8, 0));
    assert!(!allows(&program, BLOCK, MKNOD | READ, 8, 0));
    assert!(!allows(&program, CHARACTER, READ, 1, 1));
}

#[test]
fn the_last_rule_wins_for_each_kind_of_access() {
    let program = program(
        r#"[{"allow": true, "access": "rwm"}, {"allow": false, "type": "b", "major": 8, "access": "w"},
            {"allow": true, "type": "b", "major": 8, "minor": 1, "access": "w"}]"#,
    );
    assert!(allows(&program, BLOCK, READ, 8, 0));
    assert!(!allows(&program, BLOCK, WRITE, 8, 0));
    assert!(!allows(&program, BLOCK, READ | WRITE, 8, 0));
    assert!(allows(&program, BLOCK, READ | WRITE, 8, 1));
    assert!(allows(&program, BLOCK, READ | WRITE, 9, 0));
}

/// Every program against the rules themselves, over the devices that they name and others.
#[test]
fn programs_do_what_the_rules_say() {
    for json in [
        "[]",
        r#"[{"allow": true, "type": "c", "major": 10, "access": "r"}, {"allow": true, "type": "c", "major": 10, "access": "w"}]"#,
        r#"[{"allow": true, "minor": 5, "access": "r"}, {"allow": false, "type": "c", "major": 10, "minor": 5},
            {"allow": true, "type": "b", "major": 10, "access": "rw"}]"#,
        r#"[{"allow": true}, {"allow": false, "type": "c", "minor": 3}, {"allow": false, "type": "c", "major": 10, "access": "m"}]"#,
        r#"[{"allow": true, "type": "c", "major": 4095, "minor": 1048575}, {"allow": false, "type": "b", "minor": 0}]"#,
    ] {
        let wanted = rules(json);
        let program = compile(&wanted).unwrap().unwrap();
        for (kind, number) in [(DeviceType::Block, BLOCK), (DeviceType::Character, CHARACTER)] {
            let by_rule = of_kind(&wanted, kind).unwrap();
            for major in [0, 1, 5, 8, 10, 136, 4095] {
                for minor in [0, 1, 2, 3, 5, 9, 1_048_575] {
                    let access = allowed(&by_rule, Some(major), Some(minor));
                    for asked in 1..=ALL_ACCESS {
                        assert_eq!(
                            allows(&program, number, asked, major, minor),
                            asked & !access == 0,
                            "{kind:?} {major}:{minor} {asked} by {json}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn everything_needs_no_program() {
    let open = rules(r#"[{"allow": false}, {"allow": true, "type": "a", "access": "rwm"}]"#);
    assert!(compile(&open).unwrap().is_none());
}

#[test]
fn what_cannot_be_is_refused() {
    assert!(compile(&rules(r#"[{"allow": true, "access": "x"}]"#)).is_err());
    assert!(compile(&rules(r#"[{"allow": true, "major": 4096}]"#)).is_err());
    let many = vec![rules(r#"[{"allow": true, "minor": 1}]"#)[0].clone(); MAX_RULES + 1];
    assert!(compile(&many).is_err());
}
