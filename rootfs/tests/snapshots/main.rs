//! Disks of an overlay's lower directories: random stacks of directories beside the overlay that this host's kernel makes of them; what is found
//! again and what is made anew; what is refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests too"
)]

mod layers;
#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::CString,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use bulkhead_rootfs::{
    Store,
    snapshot::{self, Marks, SnapshotError},
};
use proptest::{collection::vec, prelude::*, sample::select};
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use support::{
    Fixture, chain,
    disk::{Kind, Mounted, Tree, can_mount, fsck, join},
};

/// Something that a container may do to its root.
#[derive(Debug, Clone)]
enum Op {
    Directory(PathBuf),
    File { path: PathBuf, seed: u8, size: usize },
    Sparse { path: PathBuf, at: u64, size: u64 },
    Symlink(PathBuf, &'static str),
    Link(PathBuf, PathBuf),
    Node(PathBuf, u32, u32),
    Fifo(PathBuf),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    Mode(PathBuf, u32),
    Owner(PathBuf, u32, u32),
    Time(PathBuf, i64, i64),
    Attribute(PathBuf, &'static str, Vec<u8>),
}

fn path() -> impl Strategy<Value = PathBuf> {
    let mut names: Vec<String> = ["a", "b", "c", "!", ".x", "ü"].map(String::from).to_vec();
    names.push("n".repeat(255));
    vec(select(names), 1..=3).prop_map(|names| names.iter().collect())
}

fn op() -> impl Strategy<Value = Op> {
    let size = select(vec![0_usize, 1, 4095, 4096, 4097, 65_537, (1 << 20) + 1]);
    prop_oneof![
        5 => path().prop_map(Op::Directory),
        5 => (path(), any::<u8>(), size).prop_map(|(path, seed, size)| Op::File { path, seed, size }),
        1 => (path(), 0..5_000_000_u64, 1_000_000..5_000_000_u64)
            .prop_map(|(path, at, size)| Op::Sparse { path, at: at % size, size }),
        2 => (path(), select(vec!["a", "/a/b", "../c", "."])).prop_map(|(path, to)| Op::Symlink(path, to)),
        2 => (path(), path()).prop_map(|(path, to)| Op::Link(path, to)),
        1 => (path(), 0..4096_u32, 1..1_048_576_u32).prop_map(|(path, major, minor)| Op::Node(path, major, minor)),
        1 => path().prop_map(Op::Fifo),
        5 => path().prop_map(Op::Remove),
        2 => (path(), path()).prop_map(|(path, to)| Op::Rename(path, to)),
        2 => (path(), 0..0o10000_u32).prop_map(|(path, mode)| Op::Mode(path, mode)),
        2 => (path(), 0..70_000_u32, 0..70_000_u32).prop_map(|(path, uid, gid)| Op::Owner(path, uid, gid)),
        1 => (path(), -1000..5_000_000_000_i64, 0..1_000_000_000_i64).prop_map(|(path, s, ns)| Op::Time(path, s, ns)),
        1 => (path(), select(vec!["user.a", "security.test"]), vec(any::<u8>(), 0..3000))
            .prop_map(|(path, name, value)| Op::Attribute(path, name, value)),
    ]
}

/// Does it in `root`; what cannot be done is left.
fn act(root: &Path, op: &Op) {
    let node = |path: &Path, kind, device| {
        let _ = rustix::fs::mknodat(CWD, root.join(path), kind, Mode::from(0o640), device);
    };
    match op {
        Op::Directory(path) => {
            let _ = fs::create_dir(root.join(path));
        }
        Op::File { path, seed, size } => {
            let content: Vec<u8> =
                (0..*size).map(|i| (i % 251).to_le_bytes()[0].wrapping_add(*seed)).collect();
            write(&root.join(path), &content);
        }
        Op::Sparse { path, at, size } => {
            use std::os::unix::fs::FileExt;
            let path = root.join(path);
            if fs::symlink_metadata(&path).is_err()
                && let Ok(file) = fs::File::create_new(path)
            {
                file.set_len(*size).unwrap();
                file.write_at(b"data", *at).unwrap();
            }
        }
        Op::Symlink(path, to) => {
            let _ = symlink(to, root.join(path));
        }
        Op::Link(path, to) => {
            let _ = fs::hard_link(root.join(path), root.join(to));
        }
        Op::Node(path, major, minor) => {
            node(path, FileType::CharacterDevice, rustix::fs::makedev(*major, *minor));
        }
        Op::Fifo(path) => node(path, FileType::Fifo, 0),
        Op::Remove(path) => {
            let path = root.join(path);
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir_all(&path);
        }
        Op::Rename(path, to) => {
            let _ = fs::rename(root.join(path), root.join(to));
        }
        Op::Mode(path, mode) => {
            let path = root.join(path);
            if fs::symlink_metadata(&path).is_ok_and(|facts| !facts.is_symlink()) {
                let _ = fs::set_permissions(&path, fs::Permissions::from_mode(*mode));
            }
        }
        Op::Owner(path, uid, gid) => {
            let _ = std::os::unix::fs::lchown(root.join(path), Some(*uid), Some(*gid));
        }
        Op::Time(path, tv_sec, tv_nsec) => {
            let time = Timespec { tv_sec: *tv_sec, tv_nsec: *tv_nsec };
            let times = Timestamps { last_access: time, last_modification: time };
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            let _ = rustix::fs::utimensat(CWD, root.join(path), &times, flags);
        }
        Op::Attribute(path, name, value) => {
            let _ = rustix::fs::lsetxattr(root.join(path), *name, value, XattrFlags::empty());
        }
    }
}

/// Writes a file, never through a link.
fn write(path: &Path, content: &[u8]) {
    if fs::symlink_metadata(path).is_ok_and(|facts| !facts.is_file()) {
        return;
    }
    let _ = fs::write(path, content);
}

/// Directories as containerd's snapshotter has them, lowest first, and an empty one, since an overlay has at least two.
struct Stack {
    dir: tempfile::TempDir,
    lower: Vec<PathBuf>,
}

impl Stack {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        Self { dir, lower: vec![empty] }
    }

    fn options(&self) -> String {
        let paths: Vec<_> = self.lower.iter().rev().map(|path| path.to_str().unwrap()).collect();
        format!("lowerdir={}", paths.join(":"))
    }

    /// One more directory, with what `change` does to the root in an overlay of those below it.
    fn push(&mut self, change: impl FnOnce(&Path)) -> PathBuf {
        let snapshot = self.dir.path().join(self.lower.len().to_string());
        let (upper, work) = (snapshot.join("fs"), snapshot.join("work"));
        fs::create_dir_all(&upper).unwrap();
        fs::create_dir_all(&work).unwrap();
        let options = format!(
            "{},upperdir={},workdir={},index=off",
            self.options(),
            upper.display(),
            work.display()
        );
        let mounted = Mounted::new(Path::new("overlay"), "overlay", &options);
        change(mounted.path());
        drop(mounted);
        self.lower.push(upper.clone());
        upper
    }

    /// As the option `lowerdir` has them.
    fn lower(&self) -> Vec<PathBuf> {
        self.lower.iter().rev().cloned().collect()
    }

    fn disk(&self, store: &Store) -> Vec<PathBuf> {
        snapshot::disk(store, &self.lower(), Marks::Trusted)
            .unwrap_or_else(|e| panic!("{}", chain(&e)))
    }
}

/// What both must show: links to directories are counted otherwise by overlays, and a file's names that are hidden count there.
fn comparable(mounted: &Mounted) -> (Tree, BTreeSet<BTreeSet<Vec<u8>>>) {
    let mut tree = mounted.tree();
    let mut names: BTreeMap<u64, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for (path, seen) in &mut tree {
        if seen.kind != Kind::Directory {
            let full = mounted.path().join(std::ffi::OsStr::from_bytes(path));
            let inode = fs::symlink_metadata(full).unwrap().ino();
            names.entry(inode).or_default().insert(path.clone());
        }
        seen.links = 0;
    }
    (tree, names.into_values().filter(|names| names.len() > 1).collect())
}

fn assert_equal(stack: &Stack, store: &Store) {
    let disk = stack.dir.path().join("disk");
    join(&stack.disk(store), &disk);
    fsck(&disk);
    let ours = Mounted::new(&disk, "erofs", "ro,loop");
    let theirs = Mounted::new(Path::new("overlay"), "overlay", &stack.options());
    let ((ours, our_links), (theirs, their_links)) = (comparable(&ours), comparable(&theirs));
    for (path, expected) in &theirs {
        let seen = ours.get(path);
        assert!(
            seen == Some(expected),
            "{}: {expected:?} is expected, not {seen:?}",
            path.escape_ascii()
        );
    }
    assert_eq!(ours.len(), theirs.len());
    assert_eq!(our_links, their_links);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_disk_shows_what_the_hosts_overlay_shows(layers in vec(vec(op(), 0..40), 1..5)) {
        if !can_mount() {
            return Ok(());
        }
        let fixture = Fixture::new();
        let mut stack = Stack::new();
        for ops in &layers {
            stack.push(|root| ops.iter().for_each(|op| act(root, op)));
        }
        assert_equal(&stack, &fixture.store);
    }
}

/// What the random ones may miss.
#[test]
fn what_overlays_hide_is_hidden() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::new();
    let mut stack = Stack::new();
    stack.push(|root| {
        for directory in ["opaque/deep", "gone", "kept/a", "file-to-be"] {
            fs::create_dir_all(root.join(directory)).unwrap();
            fs::write(root.join(directory).join("old"), directory).unwrap();
        }
        fs::write(root.join("directory-to-be"), "x").unwrap();
        fs::write(root.join("one"), "linked").unwrap();
        fs::hard_link(root.join("one"), root.join("two")).unwrap();
        let acl = [&2_u32.to_le_bytes()[..], &[1, 0, 7, 0, 255, 255, 255, 255]].concat();
        let acl = [acl, vec![4, 0, 5, 0, 255, 255, 255, 255, 0x20, 0, 5, 0, 255, 255, 255, 255]];
        let name = "system.posix_acl_access";
        rustix::fs::setxattr(root.join("one"), name, &acl.concat(), XattrFlags::empty()).unwrap();
    });
    stack.push(|root| {
        fs::remove_dir_all(root.join("opaque")).unwrap();
        fs::create_dir(root.join("opaque")).unwrap();
        fs::write(root.join("opaque/new"), "new").unwrap();
        fs::remove_dir_all(root.join("gone")).unwrap();
        fs::remove_dir_all(root.join("file-to-be")).unwrap();
        fs::write(root.join("file-to-be"), "file").unwrap();
        fs::remove_file(root.join("directory-to-be")).unwrap();
        fs::create_dir(root.join("directory-to-be")).unwrap();
        fs::write(root.join("kept/a/more"), "more").unwrap();
        fs::write(root.join("two"), "another").unwrap();
    });
    stack.push(|root| {
        fs::create_dir(root.join("gone")).unwrap();
        fs::write(root.join("gone/again"), "").unwrap();
        fs::set_permissions(root, fs::Permissions::from_mode(0o711)).unwrap();
    });
    assert_equal(&stack, &fixture.store);
    // The same directory twice, and all of them without the empty one.
    let top = stack.lower[3].clone();
    stack.lower.push(top);
    let twice = stack.disk(&fixture.store);
    assert_eq!(twice.iter().collect::<BTreeSet<_>>().len(), twice.len());
}

#[test]
fn a_disk_is_found_again_until_its_directories_change() {
    let fixture = Fixture::new();
    let dir = tempfile::tempdir().unwrap();
    let lower: Vec<PathBuf> = ["top", "base"].map(|name| dir.path().join(name)).to_vec();
    let fill = |content: &str| {
        for path in &lower {
            fs::create_dir_all(path.join("etc")).unwrap();
            fs::write(path.join("etc/file"), content).unwrap();
        }
    };
    fill("1");
    let disk = |lower: &[PathBuf]| snapshot::disk(&fixture.store, lower, Marks::Trusted).unwrap();
    let layers = || fixture.leftovers().iter().filter(|name| name.starts_with("snapshots")).count();
    let first = disk(&lower);
    assert_eq!(first.len(), 3);
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let before: Vec<u64> = first.iter().map(|path| inode(path)).collect();
    let again = disk(&lower);
    assert_eq!(again, first);
    assert_eq!(again.iter().map(|path| inode(path)).collect::<Vec<_>>(), before);
    // A disk of one of them has the layer that is there.
    assert_eq!(disk(&lower[1..])[1], first[1]);
    assert_eq!(layers(), 2);

    // Each change gives another disk; what is of no directory any more goes when the next is made.
    let changes: [&dyn Fn(); 4] = [
        &|| fs::write(lower[0].join("new"), "x").unwrap(),
        &|| fs::write(lower[1].join("etc/second"), "x").unwrap(),
        &|| fs::set_permissions(&lower[0], fs::Permissions::from_mode(0o700)).unwrap(),
        &|| {
            // As after the loss of containerd's database: the same names, and maybe the same inodes.
            lower.iter().for_each(|path| fs::remove_dir_all(path).unwrap());
            fill("2");
        },
    ];
    let mut seen = BTreeSet::from([first]);
    for (number, change) in changes.into_iter().enumerate() {
        // Coarse clocks of file systems go on in between.
        thread::sleep(Duration::from_millis(20));
        change();
        let now = disk(&lower);
        assert!(seen.insert(now.clone()), "{number}");
        assert!(now.iter().all(|file| file.exists()), "{number}");
        assert_eq!(layers(), 2, "{number}: {:?}", fixture.leftovers());
    }
    // Nothing is of a directory that is gone.
    fs::remove_dir_all(&lower[0]).unwrap();
    fixture.store.collect_garbage().unwrap();
    assert_eq!(layers(), 1);
    fs::remove_dir_all(&lower[1]).unwrap();
    fixture.store.collect_garbage().unwrap();
    assert_eq!(fixture.leftovers(), [] as [String; 0]);
}

#[test]
fn of_many_at_once_one_reads() {
    let fixture = Fixture::new();
    let dir = tempfile::tempdir().unwrap();
    let lower: Vec<PathBuf> = (0..4)
        .map(|number| {
            let path = dir.path().join(number.to_string());
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), vec![number; 1 << 20]).unwrap();
            path
        })
        .collect();
    let root = fixture.dir.path().join("store");
    let disks: Vec<Vec<PathBuf>> = thread::scope(|scope| {
        let make = |skip: usize| {
            let (root, lower) = (&root, &lower);
            scope.spawn(move || {
                let store = Store::open(root).unwrap();
                let disk = snapshot::disk(&store, &lower[skip..], Marks::Trusted).unwrap();
                // What was made stays.
                disk.iter().for_each(|file| assert!(file.exists(), "{}", file.display()));
                disk
            })
        };
        let threads: Vec<_> = (0..12).map(|number| make(number % 2)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (number, disk) in disks.iter().enumerate() {
        assert_eq!(disk, &disks[number % 2]);
    }
    assert_eq!(disks[0][1..4], disks[1][1..]);
    let roots = fixture.leftovers().iter().filter(|name| name.starts_with("roots/")).count();
    assert_eq!(roots, 2);
}

/// Not a test by itself: what the next one kills.
#[test]
fn child_disk() {
    if let (Some(root), Some(lower)) = (env::var_os("CHILD_STORE"), env::var_os("CHILD_LOWER")) {
        let store = Store::open(Path::new(&root)).unwrap();
        snapshot::disk(&store, &[lower.into()], Marks::Trusted).unwrap();
    }
}

#[test]
fn a_killed_maker_leaves_nothing_that_is_used() {
    let fixture = Fixture::new();
    let root = fixture.dir.path().join("store");
    let dir = tempfile::tempdir().unwrap();
    let lower = dir.path().join("fs");
    fs::create_dir(&lower).unwrap();
    for number in 0..40_u8 {
        fs::write(lower.join(number.to_string()), vec![number + 1; 1 << 20]).unwrap();
    }
    for delay in [1, 10, 30, 60, 100, 200] {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "child_disk"])
            .env("CHILD_STORE", &root)
            .env("CHILD_LOWER", &lower)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        Store::open(&root).unwrap();
        let left = fixture.leftovers();
        assert!(left.iter().all(|name| !name.starts_with("tmp")), "{delay} ms: {left:?}");
    }
    let disk = snapshot::disk(&fixture.store, &[lower], Marks::Trusted).unwrap();
    assert_eq!(fs::metadata(&disk[1]).unwrap().len(), 40 << 20);
}

/// Asserts that a directory is refused with a line that has these words, and that nothing is left.
fn refused(directory: &Path, words: &[&str]) {
    let fixture = Fixture::new();
    let lower = [directory.to_owned()];
    let error = snapshot::disk(&fixture.store, &lower, Marks::Trusted).unwrap_err();
    let line = chain(&error);
    for word in words {
        assert!(line.contains(word), "{line:?} does not say {word:?}");
    }
    assert!(!line.contains('\n'), "{line}");
    let left: Vec<_> =
        fixture.leftovers().into_iter().filter(|name| !name.starts_with("locks")).collect();
    assert_eq!(left, [] as [String; 0]);
}

#[test]
fn what_cannot_be_a_layer_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let new = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    refused(&dir.path().join("missing"), &["missing", "No such file"]);
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    refused(&file, &["file", "Not a directory"]);
    // The snapshotter's own directories are real.
    let link = dir.path().join("link");
    symlink(new("target"), &link).unwrap();
    refused(&link, &["link", "Not a directory"]);

    let deep = new("deep");
    let mut at = rustix::fs::open(&deep, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    let name = CString::new("d".repeat(200)).unwrap();
    for _ in 0..30 {
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &name, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    }
    refused(&deep, &["deep", "entry \"dddd", "more than 4095 bytes"]);

    let fixture = Fixture::new();
    assert!(matches!(
        snapshot::disk(&fixture.store, &[], Marks::Trusted),
        Err(SnapshotError::Count(0))
    ));
    let many = vec![new("one"); 257];
    assert!(matches!(
        snapshot::disk(&fixture.store, &many, Marks::Trusted),
        Err(SnapshotError::Count(257))
    ));
    if !can_mount() {
        return;
    }
    for (mark, value) in [("redirect", &b"/x"[..]), ("metacopy", b""), ("opaque", b"x")] {
        let marked = new(mark);
        fs::create_dir(marked.join("below")).unwrap();
        let name = format!("trusted.overlay.{mark}");
        rustix::fs::setxattr(marked.join("below"), &name, value, XattrFlags::empty()).unwrap();
        refused(&marked, &["\"below\"", &name, "only the host's kernel"]);
    }
    let mounted = new("mounted");
    fs::create_dir(mounted.join("point")).unwrap();
    let done = Command::new("mount")
        .args(["-t", "tmpfs", "none"])
        .arg(mounted.join("point"))
        .status()
        .unwrap();
    assert!(done.success());
    refused(&mounted, &["\"point\"", "another file system"]);
    Command::new("umount").arg(mounted.join("point")).status().unwrap();
}

#[test]
fn links_lead_nowhere_and_sockets_are_left_out() {
    let fixture = Fixture::new();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    let lower = dir.path().join("fs");
    fs::create_dir(&lower).unwrap();
    symlink("../secret", lower.join("file")).unwrap();
    symlink("..", lower.join("directory")).unwrap();
    symlink("/etc", lower.join("etc")).unwrap();
    let _listener = UnixListener::bind(lower.join("socket")).unwrap();
    let disk = snapshot::disk(&fixture.store, &[lower], Marks::User).unwrap();
    // Nothing has content.
    assert_eq!(disk.len(), 1);
    if can_mount() {
        let tree = Mounted::new(&disk[0], "erofs", "ro,loop").tree();
        let names: Vec<_> = tree.keys().map(|name| name.escape_ascii().to_string()).collect();
        assert_eq!(names, ["", "directory", "etc", "file"]);
        assert_eq!(tree[&b"file"[..]].kind, Kind::Symlink(b"../secret".to_vec()));
    }
}

fn settle(upper: &Path) -> Result<(), SnapshotError> {
    snapshot::Upper::open(upper)?.settle()
}

#[test]
fn opaque_directories_are_so_for_the_host_and_for_guests() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let upper = dir.path();
    let (host, guest) = (upper.join("host"), upper.join("a/guest"));
    fs::create_dir_all(&host).unwrap();
    fs::create_dir_all(&guest).unwrap();
    symlink("/etc", upper.join("link")).unwrap();
    let set = |path: &Path, name: &str, value: &[u8]| {
        rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
    };
    let get = |path: &Path, name: &str| {
        let mut value = vec![0; 16];
        let length = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
        value.truncate(length);
        Some(value)
    };
    set(&host, "trusted.overlay.opaque", b"y");
    set(&guest, "user.overlay.opaque", b"y");
    for _ in 0..2 {
        settle(upper).unwrap();
        for directory in [&host, &guest] {
            for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
                assert_eq!(get(directory, name), Some(b"y".to_vec()), "{name}");
            }
        }
        assert_eq!(get(&upper.join("a"), "trusted.overlay.opaque"), None);
    }
    set(&upper.join("a"), "user.overlay.opaque", b"no");
    settle(upper).unwrap();
    assert_eq!(get(&upper.join("a"), "trusted.overlay.opaque"), None);
    set(&guest, "trusted.overlay.redirect", b"/host");
    let error = chain(&settle(upper).unwrap_err());
    assert!(error.contains("a/guest") && error.contains("redirect"), "{error}");
    assert!(settle(&upper.join("missing")).is_err());
}
