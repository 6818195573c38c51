//! The store under several hands: imports at once, imports that are killed, names that move, and what is swept away.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests too"
)]

mod support;

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::Duration,
};

use bulkhead_rootfs::{Digest, Progress, Source, Store, StoreError};
use support::{
    Fixture,
    archive::{Archive, gzip},
    chain,
    disk::{Mounted, can_mount},
    layout::Layout,
};

/// A layer of a few megabytes that does not compress.
fn noise(seed: u32, files: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut archive = Archive::new();
    for file in 0..files {
        let data: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()
        })
        .take(50_000)
        .flatten()
        .collect();
        archive = archive.file(&format!("f{seed}-{file}"), &data);
    }
    archive.finish()
}

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Progress for Recorder {
    fn layer_started(&self, number: usize, count: usize, _: &Digest, bytes: u64) {
        self.0.lock().unwrap().push(format!("{number}/{count} of {bytes}"));
    }
    fn layer_advanced(&self, number: usize, bytes: u64) {
        let mut lines = self.0.lock().unwrap();
        if lines.last().is_some_and(|line| line.starts_with("read")) {
            lines.pop();
        }
        lines.push(format!("read {number}: {bytes}"));
    }
    fn layer_finished(&self, number: usize, reused: bool) {
        self.0.lock().unwrap().push(format!("{number} {}", if reused { "reused" } else { "new" }));
    }
}

#[test]
fn progress_is_told_and_layers_are_reused() {
    let fixture = Fixture::new();
    let base = noise(1, 3);
    let (one, two) = (fixture.dir.path().join("one"), fixture.dir.path().join("two"));
    let top = Archive::new().file("top", b"x").finish();
    let first = Recorder::default();
    fixture
        .store
        .import(&Layout::new(std::slice::from_ref(&base)).write(&one), None, &first)
        .unwrap();
    let size = base.len();
    assert_eq!(
        *first.0.lock().unwrap(),
        [format!("0/1 of {size}"), format!("read 0: {size}"), "0 new".into()]
    );
    let second = Recorder::default();
    let layout = Layout::new(&[base.clone(), top.clone()]).compressed(gzip, "+gzip");
    fixture.store.import(&layout.write(&two), None, &second).unwrap();
    let lines = second.0.lock().unwrap();
    assert!(lines[1] == "0 reused" && lines.last().unwrap() == "1 new", "{lines:?}");
}

#[test]
fn many_imports_at_once_make_each_layer_once() {
    let fixture = Fixture::new();
    let (shared, other) = (noise(1, 20), noise(2, 5));
    let layouts = [
        vec![shared.clone()],
        vec![shared.clone(), other.clone()],
        vec![other.clone(), shared.clone()],
    ];
    let sources: Vec<_> = layouts
        .iter()
        .enumerate()
        .map(|(i, layers)| Layout::new(layers).write(&fixture.dir.path().join(format!("l{i}"))))
        .collect();
    let finished = Recorder::default();
    thread::scope(|scope| {
        for i in 0..9 {
            // Each with a store of its own, as processes have.
            let store = Store::open(&fixture.dir.path().join("store")).unwrap();
            let (source, finished) = (&sources[i % 3], &finished);
            scope
                .spawn(move || store.import(source, Some(&format!("image{i}")), finished).unwrap());
        }
    });
    let new = finished.0.lock().unwrap().iter().filter(|line| line.ends_with("new")).count();
    assert_eq!(new, 2);
    let images = fixture.store.list().unwrap();
    let names: Vec<_> = images.iter().map(|image| image.names.len()).collect();
    assert_eq!(names, [3, 3, 3]);
    fixture.store.collect_garbage().unwrap();
    assert_eq!(fixture.leftovers().len(), 5, "{:?}", fixture.leftovers());
}

/// Run by the next test in a process of its own.
#[test]
fn child_import() {
    if let (Ok(store), Ok(source)) = (env::var("CHILD_STORE"), env::var("CHILD_SOURCE")) {
        let store = Store::open(store.as_ref()).unwrap();
        let image = store.import(&Source::parse(&source).unwrap(), Some("killed"), &()).unwrap();
        assert_eq!(image.names, ["killed:latest"]);
    }
}

#[test]
fn a_killed_import_leaves_nothing_that_the_next_open_does_not_sweep() {
    let fixture = Fixture::new();
    let root = fixture.dir.path().join("store");
    let layout = fixture.dir.path().join("layout");
    let layers: Vec<_> = (0..4).map(|i| noise(i, 15)).collect();
    let source = Layout::new(&layers).compressed(gzip, "+gzip").write(&layout).to_string();
    let child = || {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "child_import"])
            .env("CHILD_STORE", &root)
            .env("CHILD_SOURCE", &source)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut interrupted = 0;
    for delay in [1, 20, 60, 120, 200, 300, 450, 700] {
        let mut process = child();
        thread::sleep(Duration::from_millis(delay));
        process.kill().unwrap();
        process.wait().unwrap();
        let killed_early = fs::read_dir(root.join("images")).unwrap().next().is_none();
        let store = Store::open(&root).unwrap();
        assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0, "{delay} ms");
        if killed_early {
            interrupted += 1;
            assert_eq!(fixture.leftovers(), [] as [String; 0], "{delay} ms");
        } else {
            // Whole, or not there.
            for image in store.list().unwrap() {
                assert!(image.read_file("f0-0", 1 << 20).unwrap().is_some());
                store.remove(&image.id.to_string()).unwrap();
            }
        }
    }
    assert!(interrupted > 0);
    assert!(child().wait().unwrap().success());
    let image = Store::open(&root).unwrap().get("killed").unwrap();
    assert_eq!(image.read_file("f3-14", 1 << 20).unwrap().unwrap().len(), 200_000);
}

#[test]
fn a_failed_import_leaves_the_layers_of_others() {
    let fixture = Fixture::new();
    let (good, bad) = (noise(1, 1), Archive::new().file("../x", b"").finish());
    fixture.import(std::slice::from_ref(&good)).unwrap();
    let before = fixture.leftovers();
    assert!(fixture.import(&[good, noise(2, 1), bad]).is_err());
    let mut after = fixture.leftovers();
    after.retain(|name| !before.contains(name));
    assert_eq!(after, [] as [String; 0]);
    assert!(fixture.store.get("test").unwrap().read_file("f1-0", 1 << 20).unwrap().is_some());
}

#[test]
fn names_move_and_images_go() {
    let fixture = Fixture::new();
    let one = fixture.import(&[noise(1, 1)]).unwrap();
    let two = fixture.import(&[noise(2, 1)]).unwrap();
    let images = fixture.store.list().unwrap();
    assert_eq!(
        (images[0].id, images[0].names.len(), images[1].id, images[1].names.len()),
        (two.id, 1, one.id, 0)
    );
    assert_eq!(fixture.store.get("test").unwrap().id, two.id);
    assert_eq!(fixture.store.get(&one.id.hex()[..12]).unwrap().id, one.id);
    assert_eq!(fixture.store.get(&one.id.to_string()).unwrap().id, one.id);
    for missing in ["other", "test:2", "", "sha256:"] {
        assert!(matches!(fixture.store.get(missing), Err(StoreError::NotFound(_))), "{missing}");
    }
    // A file that is open stays readable.
    let open = fs::File::open(&one.disk_files()[1]).unwrap();
    fixture.store.remove(&one.id.hex()[..12]).unwrap();
    assert!(!one.disk_files()[1].exists() && open.metadata().unwrap().len() > 0);
    fixture.store.remove("test:latest").unwrap();
    assert_eq!(fixture.leftovers(), [] as [String; 0]);
    assert!(fixture.store.list().unwrap().is_empty());
}

#[test]
fn the_store_is_private_and_of_one_version() {
    let fixture = Fixture::new();
    let root = fixture.dir.path().join("store");
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    fs::write(root.join("version"), "9\n").unwrap();
    let line = chain(&Store::open(&root).unwrap_err());
    assert!(line.contains("version \"9\"") && line.contains("another directory"), "{line}");
}

#[test]
fn a_full_disk_is_told_in_time() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::new();
    let full = Mounted::new("bulkhead-test".as_ref(), "tmpfs", "size=100m");
    let store = Store::open(&full.path().join("store")).unwrap();
    let source = Layout::new(&[noise(1, 1)]).write(&fixture.dir.path().join("layout"));
    let line = chain(&store.import(&source, None, &()).map(|image| image.id).unwrap_err());
    assert!(line.contains("f1-0") && line.contains("bytes left"), "{line}");
    assert!(fs::read_dir(full.path().join("store/layers")).unwrap().next().is_none());
}

#[test]
fn a_damaged_index_is_found() {
    let fixture = Fixture::new();
    let layer = noise(1, 1);
    fixture.import(std::slice::from_ref(&layer)).unwrap();
    let index =
        fixture.dir.path().join("store/layers").join(Digest::of(&layer).hex()).join("index");
    let mut bytes = fs::read(&index).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&index, bytes).unwrap();
    let line = chain(&fixture.import(&[layer, noise(2, 1)]).unwrap_err());
    assert!(line.contains("corrupt: checksum mismatch"), "{line}");
}
