//! Templates that cannot be used: `auto` boots and says so once, `require` refuses, and neither uses them.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use serde_json::Value;

use super::{Place, usual};

/// Changes a byte in the middle of the file's first page that is not empty.
fn flip(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    let mut page = [0; 4096];
    for at in (0..length).step_by(4096) {
        let read = file.read_at(&mut page, at).unwrap();
        if let Some(index) = page[..read].iter().position(|byte| *byte != 0) {
            file.write_all_at(&[page[index] ^ 0x10], at + index as u64).unwrap();
            return;
        }
    }
    panic!("{} is empty", path.display());
}

fn edit(directory: &Path, change: impl FnOnce(&mut Value)) {
    let path = directory.join("template.json");
    let mut json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

type Damage = fn(&Path);

#[test]
fn nothing_else_than_a_whole_template_is_used() {
    let Some(place) = Place::with_template() else { return };
    let key = usual();
    let whole = place.host.path("whole");
    let directory = place.directory.join(&key);
    fs::rename(&directory, &whole).unwrap();
    let cases: [(&str, Damage); 7] = [
        ("memory is not there", |dir| fs::remove_file(dir.join("memory")).unwrap()),
        ("state is not there", |dir| fs::remove_file(dir.join("state")).unwrap()),
        ("memory has 4096 bytes", |dir| {
            File::options().write(true).open(dir.join("memory")).unwrap().set_len(4096).unwrap();
        }),
        ("memory has another checksum", |dir| flip(&dir.join("memory"))),
        ("state has another checksum", |dir| flip(&dir.join("state"))),
        ("template.json", |dir| fs::write(dir.join("template.json"), "{").unwrap()),
        ("another machine", |dir| {
            edit(dir, |json| json["shape"]["host"]["cpu"] = serde_json::json!(["vendor_id: X"]));
        }),
    ];
    let copy = || {
        let copied = std::process::Command::new("cp")
            .args(["-a", "--sparse=always"])
            .args([&whole, &directory])
            .status();
        assert!(copied.unwrap().success());
    };
    for (word, damage) in cases {
        copy();
        damage(&directory);
        let outcome = place.run(&["run", "--rm", "--template", "require", "busybox", "true"]);
        outcome.assert_refused(125, &[word]);
        assert!(outcome.error_text().contains("--template auto"), "{outcome}");
        assert!(!directory.exists(), "{word}");
        place.host.assert_nothing_left();
    }
    copy();
    flip(&directory.join("memory"));
    let outcome = place.run(&["run", "--rm", "busybox", "echo", "through"]);
    assert_eq!(outcome.assert_code(0).text(), "through\n");
    let errors = outcome.error_text();
    assert_eq!(errors.lines().count(), 1, "{outcome}");
    assert!(errors.contains("is damaged") && errors.contains("boots"), "{outcome}");
    // A whole one, whose files are others than those that were verified, is used.
    copy();
    let outcome = place.run(&["run", "--rm", "--template", "require", "busybox", "echo", "clone"]);
    outcome.assert_clean();
    assert_eq!(outcome.text(), "clone\n");
    place.host.assert_nothing_left();
}

/// This program's sums are right, but the VMM knows better.
#[test]
fn what_the_vmm_refuses_boots_and_goes() {
    let Some(place) = Place::with_template() else { return };
    let key = usual();
    let directory = place.directory.join(&key);
    let text = fs::read(directory.join("template.json")).unwrap();
    let sums: Value = serde_json::from_slice(&text).unwrap();
    // The state of no machine, with the sum of a file of zeros.
    let size = sums["state"]["size"].as_u64().unwrap();
    let spoil = || {
        let state = File::create(directory.join("state")).unwrap();
        state.set_len(size).unwrap();
        edit(&directory, |json| json["state"]["crc"] = 0.into());
    };
    spoil();
    let outcome = place.run(&["run", "--rm", "--template", "require", "busybox", "true"]);
    outcome.assert_refused(125, &[&key[..12], "template rm", "--template auto"]);
    assert!(directory.exists());
    let outcome = place.run(&["run", "--rm", "busybox", "echo", "through"]);
    assert_eq!(outcome.assert_code(0).text(), "through\n");
    let errors = outcome.error_text();
    assert_eq!(errors.lines().count(), 1, "{outcome}");
    assert!(errors.contains(&key[..12]) && errors.contains("boots"), "{outcome}");
    assert!(!directory.exists(), "it was of no use");
    place.host.assert_nothing_left();
}

#[test]
fn what_can_be_no_clone_is_named_where_one_is_required() {
    let Some(place) = Place::with_template() else { return };
    let log = place.host.path("console");
    let words = ["run", "--rm", "--template", "require", "--console-log", log.to_str().unwrap()];
    let outcome = place.run(&[&words[..], &["busybox", "true"]].concat());
    outcome.assert_refused(125, &["--console-log", "--template auto"]);
    place.host.assert_nothing_left();
}
