//! Makes templates, and looks into their clones.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::json;

use super::Place;

/// What no two machines may have in common.
const UNLIKE: [&str; 11] = [
    "getrandom",
    "getrandom_random",
    "dev_urandom",
    "dev_random",
    "boot_id",
    "uuid",
    "at_random",
    "hash_key",
    "stack",
    "mapping",
    "hostname",
];

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

#[test]
fn two_askers_make_one_template_and_their_clones_are_unlike() {
    let Some(place) = Place::empty() else { return };
    let run = |name: &'static str| {
        let words = ["run", "--template", "require", "--tenant", "one", "--name", name];
        place.command(&[&words[..], &["busybox", "/probe", "unique"]].concat())
    };
    let before = now_ms();
    let both = [place.host.start_command(run("one")), place.host.start_command(run("two"))];
    let mut outcomes: Vec<_> = both.into_iter().map(|running| running.wait()).collect();
    outcomes.push(place.host.boot_command(run("three")).wait());
    let after = now_ms();
    let clones: Vec<BTreeMap<String, String>> = outcomes
        .iter()
        .map(|outcome| {
            outcome.assert_clean();
            let text = outcome.text();
            let pairs = text.lines().filter_map(|line| line.split_once('='));
            pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        })
        .collect();
    for key in UNLIKE {
        let mut values: Vec<_> = clones.iter().map(|clone| &clone[key]).collect();
        values.sort();
        values.dedup();
        assert_eq!(values.len(), clones.len(), "{key}: {clones:?}");
    }
    for clone in &clones {
        let time: u64 = clone["time_ms"].parse().unwrap();
        assert!((before..=after).contains(&time), "{time} is not in {before}..={after}");
    }
    let [template] = place.list().try_into().unwrap();
    assert_eq!(template["tenant"], json!({ "key": "one" }));
    assert_eq!((&template["state"], &template["vcpus"]), (&json!("ready"), &json!(1)));
    let key = template["key"].as_str().unwrap();
    assert_eq!(place.names(), [key.to_owned(), format!("{key}.lock")]);
    println!("{template}");
    // The containers start again as clones; another tenant has no part in that.
    let again = place.run(&["start", "-a", "one"]);
    assert!(again.assert_code(0).text().contains("boot_id="), "{again}");
    assert_eq!(place.list().len(), 1);
    place.run(&["rm", "one", "two", "three"]).assert_code(0);
    place.host.assert_nothing_left();
}

#[test]
fn a_full_disk_is_told_of_and_the_container_runs() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: this test needs root to mount a small file system");
        return;
    }
    let Some(place) = Place::empty() else { return };
    let script = "mkdir -p \"$BULKHEAD_TEMPLATES\"; \
                  mount -t tmpfs -o size=2m,mode=700 none \"$BULKHEAD_TEMPLATES\"; code=0; \
                  \"$@\" run --rm busybox echo through || code=$?; \
                  ls -A \"$BULKHEAD_TEMPLATES\"; \
                  \"$@\" template create || code=$code$?; \
                  ls -A \"$BULKHEAD_TEMPLATES\"; exit $code";
    let bulkhead = place.command(&[]);
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script, "sh"]);
    command.arg(bulkhead.get_program());
    command.envs(bulkhead.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let outcome = place.host.boot_command(command).wait();
    outcome.assert_code(1);
    let text = outcome.text();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("through"), "{outcome}");
    // Why there is none, and the lock: nothing of the template.
    assert!(lines.all(|line| line.ends_with(".failed") || line.ends_with(".lock")), "{outcome}");
    let errors = outcome.error_text();
    let said: Vec<_> = errors.lines().collect();
    assert_eq!(said.len(), 2, "{outcome}");
    assert!(said[0].contains("boots and is no clone"), "{outcome}");
    assert!(said.iter().all(|line| line.contains("No space left")), "{outcome}");
    place.host.assert_nothing_left();
}
