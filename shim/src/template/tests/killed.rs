//! SIGKILL of a maker at every step that changes something of the host: strace kills it at a system call.

use std::{collections::BTreeMap, fs, path::Path};

use super::{Place, helper_under, testing};
use crate::template::Shape;

/// Calls that change something of the host, or by which the maker and others agree.
const STEPS: &str = "openat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,fsync,fdatasync,ftruncate,write,pwrite64,flock,utimensat,linkat,fchmod";

/// The helper's calls of these, of the thread that makes most of them: a name and its how-manieth, from the first in the store on.
fn steps(log: &str, store: &str) -> Vec<(String, usize)> {
    let mut threads = BTreeMap::<&str, (Vec<_>, BTreeMap<&str, usize>)>::new();
    for line in log.lines() {
        let Some((thread, call)) = line.trim_start().split_once(char::is_whitespace) else {
            continue;
        };
        let Some((name, arguments)) = call.trim_start().split_once('(') else { continue };
        if !STEPS.split(',').any(|step| step == name) {
            continue;
        }
        let (steps, counts) = threads.entry(thread).or_default();
        let count = counts.entry(name).or_default();
        *count += 1;
        if !steps.is_empty() || arguments.contains(store) {
            steps.push((name.to_owned(), *count));
        }
    }
    threads.into_values().map(|(steps, _)| steps).max_by_key(Vec::len).unwrap_or_default()
}

fn strace(dir: &Path, options: &[String]) -> Vec<String> {
    let log = dir.join("log").display().to_string();
    let words = ["strace", "-f", "-qq", "-o"].map(str::to_owned).into_iter();
    words.chain([log]).chain(options.iter().cloned()).chain(["--".to_owned()]).collect()
}

fn kill_at_each_step(what: &str) {
    let place = Place::new(4);
    let dir = place.dir.path();
    fs::write(dir.join("shape"), serde_json::to_vec(&place.shape).unwrap()).unwrap();
    let helper = |options: &[String]| {
        let outcome = helper_under(&strace(dir, options), dir, what).output();
        outcome.expect("strace is installed (apt-get install strace)")
    };
    let traced = helper(&[format!("-etrace={STEPS}")]);
    assert!(traced.status.success(), "{}", String::from_utf8_lossy(&traced.stderr));
    let log = fs::read_to_string(dir.join("log")).unwrap();
    let steps = steps(&log, &dir.join("templates").display().to_string());
    assert!(steps.len() > 8, "{log}");
    place.store.forgive(&place.key());
    let mut made = 0;
    for (call, when) in steps {
        drop(place.store.prune(true));
        let at = format!("{what}, {call} {when}");
        let options =
            [format!("-etrace={call}"), format!("-einject={call}:signal=SIGKILL:when={when}")];
        helper(&options);
        // What is there is whole.
        for entry in place.store.list() {
            made += 1;
            assert!(entry.current && entry.metadata.is_ok(), "{at}: {entry:?}");
        }
        // Whoever asks next gets one, and nothing of the other is left, whether or not that was told of as a failure.
        place.store.forgive(&place.key());
        drop(place.obtain().unwrap_or_else(|error| panic!("{at}: {error}")));
        let another = place.obtain_shape(&place.tenant("another")).unwrap();
        let [key, other] = [place.key(), another.key.clone()];
        let mut names: Vec<_> = [&key, &other]
            .into_iter()
            .flat_map(|key| [key.to_string(), format!("{key}.lock")])
            .collect();
        names.sort();
        assert_eq!(place.names(), names, "{at}");
        let inside = fs::read_dir(dir.join("templates").join(key.as_str())).unwrap().flatten();
        let inside: Vec<_> = inside.map(|entry| entry.file_name()).collect();
        assert!(
            !inside.iter().any(|name| name.as_encoded_bytes().starts_with(b".new-")),
            "{at}: {inside:?}"
        );
    }
    // Some were killed after they had made one.
    assert_eq!(made > 0, what == "quick");
    let shape = Shape::of(&testing::machine(dir)).unwrap();
    drop(place.obtain_shape(&shape).unwrap());
}

#[test]
fn a_maker_may_be_killed_at_every_step() {
    kill_at_each_step("quick");
}

#[test]
fn one_that_fails_may_be_killed_at_every_step() {
    kill_at_each_step("fail");
}
