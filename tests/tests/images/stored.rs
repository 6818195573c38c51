//! Names, ids, removal, and that an import is all or nothing, whoever else imports or whatever kills it.

use std::{fs, thread, time::Duration};

use bulkhead_tests::{
    harness::{Host, layout_with_probe},
    image::{Entry, Name, cached},
};
use rustix::process::Signal;
use serde_json::Value;

use super::{assert_same_files, image, store_files};

fn small(text: &str) -> bulkhead_tests::image::Image {
    image(&[vec![Entry::file("file", text)]])
}

#[test]
fn an_image_is_listed_and_removed_by_name_and_by_id() {
    let host = Host::new();
    let source = host.source("one", &small("one"));
    let printed = host.run(&["image", "import", "--name", "first:1", &source]);
    let id = printed.assert_code(0).text().trim().to_owned();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{printed}");

    let listed: Value = serde_json::from_str(&host.run(&["image", "ls", "--json"]).text()).unwrap();
    assert_eq!(listed[0]["id"], *id);
    assert!(listed[0]["names"].to_string().contains("first:1"), "{listed}");
    assert_eq!(host.run(&["image", "ls", "-q"]).text().trim(), id);

    host.run(&["image", "rm", "first:1"]).assert_clean();
    assert_eq!(host.run(&["image", "ls", "-q"]).text(), "");
    host.run(&["image", "import", &source]).assert_code(0);
    host.run(&["image", "rm", &id]).assert_clean();
    assert_eq!(host.run(&["image", "ls", "-q"]).text(), "");
    host.run(&["image", "rm", "first:1"]).assert_refused(125, &["first:1"]);
}

#[test]
fn what_was_removed_takes_no_room_and_what_is_shared_stays() {
    let host = Host::new();
    host.run(&["image", "ls"]).assert_code(0);
    let empty = store_files(&host);
    let shared = vec![Entry::file("shared", vec![1; 50_000])];
    let one = image(&[shared.clone(), vec![Entry::file("one", "1")]]);
    let two = image(&[shared, vec![Entry::file("two", "2")]]);
    host.run(&["image", "import", "--name", "one", &host.source("one", &one)]).assert_code(0);
    let with_one = store_files(&host);
    host.run(&["image", "import", "--name", "two", &host.source("two", &two)]).assert_code(0);
    host.run(&["image", "rm", "two"]).assert_clean();
    assert_same_files(&with_one, &store_files(&host));
    host.run(&["image", "rm", "one"]).assert_clean();
    let mut left = store_files(&host);
    left.remove(&host.data().join("names.json"));
    assert_same_files(&empty, &left);
}

#[test]
fn a_name_moves_to_the_image_that_was_imported_last() {
    let host = Host::new();
    let old = host.run(&["image", "import", "--name", "n", &host.source("old", &small("old"))]);
    let new = host.run(&["image", "import", "--name", "n", &host.source("new", &small("new"))]);
    assert_ne!(old.assert_code(0).text(), new.assert_code(0).text());
    let listed: Value = serde_json::from_str(&host.run(&["image", "ls", "--json"]).text()).unwrap();
    let named: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .filter(|image| image["names"].to_string().contains("\"n"))
        .collect();
    assert_eq!(named.len(), 1, "{listed}");
    assert_eq!(named[0]["id"], new.text().trim());
}

#[test]
fn a_docker_archive_is_taken() {
    let host = Host::new();
    let file = host.path("image.tar");
    let busybox =
        bulkhead_tests::image::Image::read_layout(&cached(Name::Busybox).unwrap()).unwrap();
    busybox.write_docker_archive("example.org/busybox:1.35", &file).unwrap();
    host.run(&["image", "import", &format!("docker-archive:{}", file.display())]).assert_code(0);
    let listed = host.run(&["image", "ls"]).text();
    assert!(listed.contains("busybox:1.35"), "{listed}");
}

#[test]
fn the_same_image_imported_by_several_at_once_is_one_image() {
    let host = Host::new();
    let source = format!("oci:{}", cached(Name::Debian).unwrap().display());
    let outcomes: Vec<_> = thread::scope(|scope| {
        let import = || host.run(&["image", "import", "--name", "debian", &source]);
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(import)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for outcome in &outcomes {
        assert_eq!(outcome.assert_code(0).text(), outcomes[0].text());
    }
    assert_eq!(host.run(&["image", "ls", "-q"]).text().lines().count(), 1);
    host.assert_nothing_left();

    let alone = Host::new();
    alone.run(&["image", "import", "--name", "debian", &source]).assert_code(0);
    let relative = |host: &Host| -> Vec<_> {
        let files = store_files(host);
        files.iter().map(|path| path.strip_prefix(host.data()).unwrap().to_owned()).collect()
    };
    assert_eq!(relative(&host), relative(&alone));
    for path in relative(&host) {
        let same = fs::read(host.data().join(&path)).unwrap()
            == fs::read(alone.data().join(&path)).unwrap();
        assert!(same, "{} is not the same each time", path.display());
    }
}

#[test]
fn an_import_killed_at_any_time_leaves_nothing_that_the_next_command_keeps() {
    let host = Host::new();
    let source = format!("oci:{}", layout_with_probe(Name::Python).display());
    for delay in [1, 5, 10, 20, 40, 80, 160, 320] {
        let import = host.boot(&["image", "import", "--name", "python", &source]);
        thread::sleep(Duration::from_millis(delay));
        import.signal(Signal::KILL);
        drop(import);
        // Whole or not there.
        let listed = host.run(&["image", "ls", "-q"]);
        assert!(listed.assert_code(0).text().lines().count() <= 1);
        if listed.text().is_empty() {
            assert!(!host.run(&["image", "ls"]).text().contains("python"));
        }
    }
    host.run(&["image", "import", "--name", "python", &source]).assert_code(0);
    host.assert_nothing_left();
    host.run(&["image", "rm", "python"]).assert_clean();
    let left: u64 = store_files(&host).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(left < 64 << 10, "{left} bytes stay in the store: {:?}", store_files(&host));
}
