//! Every file of an image is in the container as it was in the layers: name, kind, mode, owner, size, time, content,
//! hard links and extended attributes.

use std::collections::BTreeMap;

use bulkhead_probe::FileLine;
use bulkhead_tests::{
    harness::{Host, Outcome, layout_with_probe},
    image::{Image, Name, tree_of},
};

/// Compares what `probe tree /` printed with what the image stands for. The root directory is the one of what is laid
/// over the image: its time is the container's.
#[track_caller]
fn assert_tree(outcome: &Outcome, image: &Image) {
    outcome.assert_clean();
    let text = outcome.text();
    let (mounts, lines): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with("mount "));
    let mounts: Vec<&str> = mounts.iter().map(|line| &line["mount ".len()..]).collect();
    let under_mount = |path: &str| {
        mounts.iter().any(|mount| {
            path.strip_prefix(mount).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    let keyed = |line: &str| {
        let path = line.split(' ').next().unwrap_or_default().to_owned();
        let mut line = line.to_owned();
        if path == "/" {
            // Path, kind, mode and owner.
            line = line.split(' ').take(4).collect::<Vec<_>>().join(" ");
        }
        (path, line)
    };
    let inside: BTreeMap<_, _> = lines.iter().map(|line| keyed(line)).collect();
    let outside: BTreeMap<_, _> = tree_of(image)
        .unwrap()
        .iter()
        .map(|line: &FileLine| keyed(&line.to_string()))
        .filter(|(path, _)| !under_mount(path))
        .collect();
    let mut differences = Vec::new();
    for path in inside.keys().chain(outside.keys().filter(|path| !inside.contains_key(*path))) {
        if inside.get(path) != outside.get(path) {
            differences.push(format!(
                "inside  {:?}\noutside {:?}",
                inside.get(path),
                outside.get(path)
            ));
        }
    }
    let shown = differences.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(
        differences.is_empty(),
        "{} files of {} differ:\n{shown}",
        differences.len(),
        outside.len()
    );
    assert!(outside.len() > 300, "only {} files were compared", outside.len());
}

fn compare(name: Name, flags: &[&str]) {
    let Some(host) = Host::with_kvm() else { return };
    let layout = layout_with_probe(name);
    let image = Image::read_layout(&layout).unwrap();
    let source = format!("oci:{}", layout.display());
    let command = [&["run", "--rm"], flags, &[source.as_str(), "/probe", "tree", "/"]].concat();
    let outcome = host.boot(&command).wait();
    assert_tree(&outcome, &image);
    host.assert_nothing_left();
}

#[test]
fn every_kind_of_file_is_the_same_inside() {
    compare(Name::Busybox, &[]);
}

#[test]
fn every_kind_of_file_is_the_same_inside_a_read_only_container() {
    compare(Name::Busybox, &["--read-only"]);
}

#[test]
fn all_of_debian_and_python_is_the_same_inside() {
    compare(Name::Python, &["--read-only"]);
}
