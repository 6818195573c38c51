use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Docker's.
fn usual() -> Value {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "process": {"args": ["sh"], "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"]}},
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "mode=0620"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["ro", "nosuid"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "mode=1777", "size=65536k"]),
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/sys"],
        },
    })
}

/// The same without a cgroup namespace, and with other paths hidden.
fn expected() -> [Value; 3] {
    let [mut without, mut other] = [usual(), usual()];
    remove(&mut without, "namespaces", 4);
    other["linux"]["maskedPaths"] = json!(["/proc/kcore", "/sys/firmware"]);
    other["mounts"][0]["options"] = json!([]);
    [usual(), without, other]
}

fn remove(spec: &mut Value, list: &str, at: usize) {
    spec["linux"][list].as_array_mut().unwrap().remove(at);
}

fn parse(spec: &Value) -> (Spec, Linux, Mounts) {
    let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
    let linux = spec.linux.clone().unwrap();
    let mounts = Mounts::new(&spec.mounts, "/bundle", false).unwrap();
    (spec, linux, mounts)
}

fn made() -> Vec<Tree> {
    let mut made: Vec<Tree> = Vec::new();
    for spec in expected() {
        let (spec, linux, _) = parse(&spec);
        let new = Expected::new(&spec, &linux, &made.iter().collect::<Vec<_>>()).unwrap();
        let trees = new.into_iter().flat_map(|expected| expected.trees);
        for tree in trees {
            if !made.contains(&tree) {
                made.push(tree);
            }
        }
    }
    made
}

/// The trees that this one gets, by the places of their mounts, and what is still to be hidden.
fn chosen(spec: &Value) -> (Vec<Vec<usize>>, [Vec<String>; 2]) {
    let (_, linux, mounts) = parse(spec);
    let made = made();
    let made: Vec<_> = made.iter().collect();
    let chosen = choose(&mounts, &linux, &made);
    let rest = rest(&linux, made_of(&chosen, &made).collect::<Vec<_>>().into_iter());
    (chosen.into_iter().map(|chosen| chosen.places).collect(), rest)
}

#[test]
fn what_was_expected_gets_all_of_it() {
    let none = [Vec::new(), Vec::new()];
    assert_eq!(made().len(), 5);
    let all = vec![vec![0], vec![1, 2, 5], vec![3, 4]];
    let [usual, without, other] = expected();
    assert_eq!(chosen(&usual), (all.clone(), none.clone()));
    assert_eq!(chosen(&without), (vec![vec![0], vec![1, 2, 5], vec![3]], none.clone()));
    assert_eq!(chosen(&other), (all.clone(), none.clone()));
    // The order of mounts that have nothing to do with each other does not matter, nor does that of paths.
    let mut turned = usual.clone();
    turned["mounts"].as_array_mut().unwrap().swap(2, 5);
    turned["linux"]["maskedPaths"].as_array_mut().unwrap().reverse();
    assert_eq!(chosen(&turned), (vec![vec![0], vec![1, 5, 2], vec![3, 4]], none));
    // More is hidden: that is still to do.
    let mut more = usual;
    more["linux"]["maskedPaths"].as_array_mut().unwrap().push(json!("/proc/interrupts"));
    assert_eq!(chosen(&more), (all, [Vec::new(), vec!["/proc/interrupts".to_owned()]]));
}

#[test]
fn a_tree_that_hides_too_much_or_in_the_wrong_place_is_not_taken() {
    for (list, paths, left) in [
        ("maskedPaths", json!(["/proc/kcore", "/sys/firmware"]), vec![vec![1, 2, 5], vec![3, 4]]),
        ("readonlyPaths", json!(["/proc/bus"]), vec![vec![1, 2, 5], vec![3, 4]]),
        (
            "maskedPaths",
            json!(["/proc/acpi", "/proc/kcore", "/proc/sys/kernel", "/sys/firmware"]),
            vec![vec![1, 2, 5], vec![3, 4]],
        ),
        (
            "maskedPaths",
            json!(["/proc/acpi", "/proc/kcore", "/sys", "/sys/firmware"]),
            vec![vec![0], vec![1, 2, 5]],
        ),
    ] {
        let mut spec = usual();
        spec["linux"][list] = paths;
        assert_eq!(chosen(&spec).0, left, "{spec}");
    }
    // Without the null device that its files are hidden with, none of them.
    let mut spec = usual();
    spec["linux"]["devices"] = json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}]);
    assert_eq!(chosen(&spec).0, Vec::<Vec<usize>>::new());
}

#[test]
fn a_process_is_for_containers_with_its_namespaces() {
    let of = |spec: &Value| Likeness::of(&parse(spec).1);
    let own = of(&usual()).unwrap();
    assert_eq!(of(&expected()[1]), Some(own));
    for at in 0..4 {
        let mut less = usual();
        remove(&mut less, "namespaces", at);
        assert_ne!(of(&less), of(&usual()), "{less}");
    }
    for namespace in [
        json!({"type": "user"}),
        json!({"type": "time"}),
        json!({"type": "network"}),
        json!({"type": "network", "path": "/proc/1/ns/net"}),
    ] {
        let mut more = usual();
        more["linux"]["namespaces"].as_array_mut().unwrap().push(namespace);
        assert_ne!(of(&more), of(&usual()), "{more}");
    }
    let mut joined = usual();
    joined["linux"]["namespaces"][2]["path"] = json!("/proc/1/ns/ipc");
    assert_eq!(of(&joined), None);
    let mut shared = usual();
    shared["linux"]["rootfsPropagation"] = json!("rshared");
    assert_eq!(of(&shared), None);
}

/// All of a mount that a container can see, by where it is.
fn view(mount: &Value) -> (String, [Value; 2], BTreeSet<String>) {
    let mut seen = BTreeSet::new();
    for word in mount["options"].as_array().into_iter().flatten() {
        let word = word.as_str().unwrap().to_owned();
        match word.as_str() {
            "rw" => drop(seen.remove("ro")),
            "exec" => drop(seen.remove("noexec")),
            "relatime" => {}
            _ => drop(seen.insert(word)),
        }
    }
    let destination = mount["destination"].as_str().unwrap().trim_end_matches('/').to_owned();
    // Control groups come from nowhere.
    let source = if mount["type"] == "cgroup" { Value::Null } else { mount["source"].clone() };
    (destination, [mount["type"].clone(), source], seen)
}

fn words() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "ro",
        "rw",
        "nosuid",
        "exec",
        "relatime",
        "noatime",
        "rprivate",
        "mode=700",
        "size=1m",
        "tmpcopyup",
        "hidepid=2",
        "rro",
        "remount",
        "bind",
    ])
}

fn paths() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "/proc",
        "/proc/",
        "/proc/sys",
        "/proc/sys/net",
        "/proc/kcore",
        "/proc/x",
        "/sys",
        "/sys/fs/cgroup",
        "/sys/firmware",
        "/dev",
        "/dev/shm",
        "/dev/null",
        "/dev/pts/x",
        "/dev/x",
        "/data",
    ])
}

/// One way in which a specification can differ.
fn change(spec: &mut Value, (what, at, path, word): (u8, usize, &str, &str)) {
    let mounts = spec["mounts"].as_array_mut().unwrap();
    let index = at % mounts.len().max(1);
    let push = |list: &mut Value, value: Value| {
        list.as_array_mut().unwrap().push(value);
    };
    match what {
        0 => push(&mut mounts[index]["options"], json!(word)),
        1 if mounts.len() > 1 => drop(mounts.remove(index)),
        2 => mounts[index]["destination"] = json!(path),
        3 => mounts[index]["type"] = json!("tmpfs"),
        4 => mounts[index]["source"] = json!("other"),
        5 => mounts.insert(
            index,
            json!({"destination": path, "source": "/srv", "options": ["bind", word]}),
        ),
        6 => mounts.swap(0, index),
        7 => mounts[index]["options"] = json!([]),
        8 => push(&mut spec["linux"]["maskedPaths"], json!(path)),
        9 => push(&mut spec["linux"]["readonlyPaths"], json!(path)),
        10 => {
            let list = spec["linux"]["maskedPaths"].as_array_mut().unwrap();
            list.retain(|masked| masked != path);
        }
        11 => spec["linux"]["readonlyPaths"] = json!([path]),
        12 => {
            spec["linux"]["devices"] = json!([{"path": path, "type": "c", "major": 1, "minor": 3}])
        }
        13 => {
            let list = spec["linux"]["namespaces"].as_array_mut().unwrap();
            list.retain(|namespace| namespace["type"] != "cgroup");
        }
        _ => {}
    }
}

proptest! {
    /// Whatever a specification is like, what its container gets ahead and what is still to do are together what it wants.
    #[test]
    fn a_container_gets_what_it_wants(
        changes in prop::collection::vec((0..14_u8, any::<prop::sample::Index>(), paths(), words()), 0..4),
    ) {
        let mut spec = usual();
        for (what, at, path, word) in changes {
            change(&mut spec, (what, at.index(64), path, word));
        }
        let parsed: Spec = serde_json::from_value(spec.clone()).unwrap();
        let linux = parsed.linux.clone().unwrap();
        // What cannot be is refused before anything is chosen.
        let Ok(mounts) = Mounts::new(&parsed.mounts, "/bundle", false) else { return Ok(()) };
        let made = made();
        let made: Vec<_> = made.iter().collect();
        let chosen = choose(&mounts, &linux, &made);
        let trees: Vec<_> = made_of(&chosen, &made).collect();
        prop_assert_eq!(trees.len(), chosen.len());
        // Every mount in a tree is one that was wanted, in all that can be seen of it, and every one of a tree is wanted.
        let known: Vec<_> = expected().iter().flat_map(|spec| spec["mounts"].as_array().unwrap().iter().map(view).collect::<Vec<_>>()).collect();
        let mut places = BTreeSet::new();
        for (chosen, tree) in chosen.iter().zip(&trees) {
            let wanted: BTreeMap<_, _> = chosen.places.iter().map(|at| {
                let (on, kind, options) = view(&spec["mounts"][at]);
                (on, (kind, options))
            }).collect();
            prop_assert_eq!(wanted.len(), chosen.places.len());
            prop_assert_eq!(wanted.keys().next().map(String::as_str), Some(tree.destination()));
            for (on, (kind, options)) in wanted {
                prop_assert!(known.contains(&(on, kind, options)));
            }
            // None twice, and nothing that is mounted before the tree is covered by it.
            let outer = *chosen.places.first().unwrap();
            for at in &chosen.places {
                prop_assert!(*at >= outer && places.insert(*at));
            }
        }
        // A mount that is made later does not come to lie under what was made ahead, or over the other mounts of a tree.
        let all: Vec<_> = parsed.mounts.iter().map(|mount| mount.destination.trim_end_matches('/').to_owned()).collect();
        let inside = |one: &str, other: &str| one == other || one.starts_with(&format!("{other}/"));
        for (at, later) in all.iter().enumerate().filter(|(at, _)| !places.contains(at)) {
            for chosen in &chosen {
                for (number, place) in chosen.places.iter().enumerate() {
                    if number == 0 {
                        prop_assert!(at > *place || !inside(later, &all[*place]));
                        prop_assert!(later != &all[*place]);
                    } else {
                        let related = inside(later, &all[*place]) || inside(&all[*place], later);
                        prop_assert!(at > *place || !related || at < chosen.places[0]);
                    }
                }
            }
        }
        // All that was to be hidden is, in the way that was wanted, and nothing else.
        let list = |paths: &[String]| paths.iter().cloned().collect::<BTreeSet<_>>();
        let [rest_read_only, rest_masked] = rest(&linux, trees.iter().copied());
        for (wanted, rest, here) in [
            (&linux.readonly_paths, rest_read_only, Tree::read_only as fn(&Tree) -> &BTreeSet<String>),
            (&linux.masked_paths, rest_masked, Tree::masked),
        ] {
            let mut hidden = list(&rest);
            hidden.extend(trees.iter().flat_map(|tree| here(tree)).cloned());
            prop_assert_eq!(hidden, list(wanted));
        }
        // Nodes are those of this container.
        for nodes in trees.iter().filter_map(|tree| tree.nodes()) {
            prop_assert!(nodes == linux.devices);
        }
    }
}
