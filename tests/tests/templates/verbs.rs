//! `bulkhead template`, which needs no machine for most that it does.

use std::fs;

use super::{Place, usual};

#[test]
fn templates_are_listed_made_ahead_and_removed() {
    let Some(place) = Place::with_template() else { return };
    let key = usual();
    // It is there already.
    let made = place.run(&["template", "create"]);
    made.assert_clean();
    assert_eq!(made.text().trim(), key);
    let table = place.run(&["template", "ls"]);
    let text = table.assert_code(0).text();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("KEY ") && lines[1].starts_with(&key[..12]), "{table}");
    assert!(lines[1].contains("256 MiB") && lines[1].ends_with("ready"), "{table}");
    assert_eq!(place.run(&["template", "ls", "-q"]).text().trim(), key);
    let [template] = place.list().try_into().unwrap();
    assert!(template["instructions"].is_u64() && template["took_ms"].as_u64() > Some(0));
    // Of those that are not there it is said, and the others go.
    let gone = place.run(&["template", "rm", "nothing", &key[..8]]);
    gone.assert_code(1);
    assert!(gone.text().trim() == key && gone.error_text().contains("nothing"), "{gone}");
    assert_eq!(place.names(), Vec::<String>::new());
    assert_eq!(place.run(&["template", "ls", "--json"]).text().trim(), "[]");
    for (words, code) in [
        (&["template", "rm"][..], 125),
        (&["template", "create", "--memory", "1m"], 1),
        (&["template", "create", "--tenant", ""], 1),
        (&["template", "create", "--kernel", "/no/such/kernel"], 1),
        (&["run", "--template", "sometimes", "busybox"], 125),
        (&["run", "--isolation", "host", "--template", "auto", "busybox"], 125),
    ] {
        place.run(words).assert_code(code);
    }
}

#[test]
fn damaged_and_outdated_ones_are_pruned() {
    let Some(place) = Place::with_template() else { return };
    let key = usual();
    let whole = place.directory.join(&key);
    let other = place.directory.join("0".repeat(64));
    fs::rename(&whole, &other).unwrap();
    fs::create_dir(place.directory.join(format!(".new-{key}"))).unwrap();
    let table = place.run(&["template", "ls"]);
    assert!(table.text().contains("damaged: template.json is that of another machine"), "{table}");
    let pruned = place.run(&["template", "prune"]);
    pruned.assert_clean();
    assert_eq!(pruned.text().trim(), "0".repeat(64));
    assert_eq!(place.names(), Vec::<String>::new());
}
