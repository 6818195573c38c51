use std::os::unix::fs::symlink;

use super::{
    parse::{Upper, parse},
    *,
};

fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        kind: kind.into(),
        source: source.into(),
        target: String::new(),
        options: options.iter().map(|option| (*option).into()).collect(),
    }
}

#[test]
fn what_snapshotters_give_is_understood() {
    let overlay = mount(
        "overlay",
        "overlay",
        &["index=off", "workdir=/s/9/work", "upperdir=/s/9/fs", "lowerdir=/s/8/fs:/s/1/fs"],
    );
    let lower = vec!["/s/8/fs".into(), "/s/1/fs".into()];
    let upper = Upper { snapshot: "/s/9".into(), upper: "fs".into(), work: "work".into() };
    let asked = Asked::Overlay { lower: lower.clone(), upper: Some(upper), marks: Marks::Trusted };
    assert_eq!(parse(&[overlay]).unwrap(), asked);
    let view = mount("overlay", "overlay", &["userxattr", "lowerdir=/s/8/fs:/s/1/fs"]);
    let asked = Asked::Overlay { lower, upper: None, marks: Marks::User };
    assert_eq!(parse(&[view]).unwrap(), asked);
    for (options, read_only) in [(["rbind", "rw"], false), (["rbind", "ro"], true)] {
        let asked = Asked::Bind { path: "/s/1/fs".into(), read_only };
        assert_eq!(parse(&[mount("bind", "/s/1/fs", &options)]).unwrap(), asked);
    }
    for (kind, options, expected, read_only) in [
        ("ext4", &["loop"][..], Kind::Ext4, false),
        ("ext4", &["ro", "loop"], Kind::Ext4, true),
        ("ext4", &["discard"], Kind::Ext4, false),
        ("erofs", &["ro", "loop"], Kind::Erofs, true),
        ("erofs", &[], Kind::Erofs, true),
    ] {
        let asked = Asked::Disk { path: "/d".into(), kind: expected, read_only };
        assert_eq!(parse(&[mount(kind, "/d", options)]).unwrap(), asked);
    }
}

#[test]
fn anything_else_is_the_callers() {
    let overlay = |options: &[&str]| vec![mount("overlay", "overlay", options)];
    let both = |upper: &str, work: &str| {
        let (upper, work) = (format!("upperdir={upper}"), format!("workdir={work}"));
        overlay(&["lowerdir=/l", &upper, &work])
    };
    let below = Mount { target: "/usr".into(), ..mount("bind", "/s", &[]) };
    for (mounts, word) in [
        (vec![], "0 of them"),
        (vec![mount("bind", "/a", &[]), mount("bind", "/b", &[])], "2 of them"),
        (vec![below], "/usr"),
        (vec![mount("xfs", "/dev/dm-1", &["nouuid"])], "\"xfs\""),
        (vec![mount("format/overlay", "overlay", &[])], "format/overlay"),
        (vec![mount("bind", "relative", &[])], "relative"),
        (vec![mount("bind", "/a", &["ro", "uidmap=0:1:2"])], "uidmap=0:1:2"),
        (vec![mount("ext4", "/a", &["data=journal"])], "data=journal"),
        (overlay(&[]), "without lower"),
        (overlay(&["lowerdir="]), "\"\""),
        (overlay(&["lowerdir=/a:b"]), "\"b\""),
        (overlay(&["lowerdir=/a\\:b"]), "lowerdir"),
        (overlay(&["lowerdir=/a", "redirect_dir=on"]), "redirect_dir=on"),
        (overlay(&["lowerdir=/a", "metacopy=on"]), "metacopy=on"),
        (overlay(&["lowerdir=/a", "upperdir=/u/fs"]), "one of"),
        (both("/u/fs", "/w/work"), "two directories in one"),
        (both("/u/fs", "/u/fs"), "two directories in one"),
        (both("/u/f,s", "/u/work"), "plain names"),
        (both("/u/fs", "/u/.."), "two directories in one"),
        (overlay(&["ro", "lowerdir=/a", "upperdir=/u/fs", "workdir=/u/work"]), "and ro"),
    ] {
        let why = parse(&mounts).unwrap_err();
        assert!(why.contains(word), "{why}");
        assert!(!takes(&mounts));
    }
}

#[test]
fn what_is_not_there_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    for name in ["lower", "snapshot/fs", "snapshot/work"] {
        fs::create_dir_all(path(name)).unwrap();
    }
    fs::write(path("image"), "").unwrap();
    let over = |lower: &str| {
        let lower = format!("lowerdir={}", text(lower));
        let upper = format!("upperdir={}", text("snapshot/fs"));
        let work = format!("workdir={}", text("snapshot/work"));
        [mount("overlay", "overlay", &[&lower, &upper, &work])]
    };
    assert!(takes(&over("lower")));
    assert!(!takes(&over("missing")) && !takes(&over("image")));
    assert!(takes(&[mount("bind", &text("lower"), &[])]));
    assert!(!takes(&[mount("bind", &text("image"), &[])]));
    assert!(takes(&[mount("ext4", &text("image"), &["loop"])]));
    assert!(!takes(&[mount("ext4", &text("lower"), &["loop"])]));
    assert!(!takes(&[mount("erofs", &text("missing"), &["ro"])]));
    // A guest would find a directory, and no file.
    fs::write(path("snapshot/.mark"), "").unwrap();
    assert!(takes(&over("lower")));
    fs::create_dir(path("snapshot/else")).unwrap();
    assert!(!takes(&over("lower")));
    fs::remove_dir(path("snapshot/else")).unwrap();
    fs::remove_dir(path("snapshot/work")).unwrap();
    assert!(!takes(&over("lower")));
    symlink(path("lower"), path("snapshot/work")).unwrap();
    assert!(!takes(&over("lower")));
    // A file system without birth times.
    assert!(!takes(&[mount("overlay", "overlay", &["lowerdir=/sys/kernel"])]));
}

#[test]
fn an_overlay_becomes_a_disk_and_what_is_written_stays_where_it_is_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = || {
        Store::open(&dir.path().join("store"))
            .map_err(|error| SandboxError::Failed(error.to_string()))
    };
    let snapshot = dir.path().join("9");
    let lower = dir.path().join("lower");
    for path in [&lower, &snapshot.join("fs"), &snapshot.join("work")] {
        fs::create_dir_all(path).unwrap();
    }
    fs::write(lower.join("file"), "content").unwrap();
    let options = [
        format!("lowerdir={}", lower.display()),
        format!("upperdir={}", snapshot.join("fs").display()),
        format!("workdir={}", snapshot.join("work").display()),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let active = [mount("overlay", "overlay", &options)];
    let view = [mount("overlay", "overlay", &options[..1])];
    let writes = Container { read_only: false, in_user: false };
    let reads = Container { read_only: true, ..writes };
    let Taken::Over { files, snapshot: found, upper, work, settles } =
        take(&active, writes, store).unwrap()
    else {
        panic!("{active:?}")
    };
    assert_eq!(
        (found, upper.as_str(), work.as_str(), settles),
        (snapshot.clone(), "fs", "work", true)
    );
    assert_eq!(files.len(), 2);
    let lower_only = Taken::Lower { files, kind: Kind::Erofs };
    assert_eq!(take(&view, writes, store).unwrap(), lower_only);
    // Nothing is written, and nothing was.
    assert_eq!(take(&active, reads, store).unwrap(), lower_only);
    fs::write(snapshot.join("fs/there"), "already").unwrap();
    assert!(matches!(take(&active, reads, store).unwrap(), Taken::Over { .. }));
    // A user namespace mounts no disks, and directories in it need none.
    let in_user = Container { in_user: true, ..writes };
    let why = take(&active, in_user, store).unwrap_err();
    assert!(matches!(why, SandboxError::Mounts(_)) && why.to_string().contains("user namespace"));
    let bound = [mount("bind", lower.to_str().unwrap(), &["rw"])];
    let directory = Taken::Directory { path: lower.clone(), read_only: false };
    assert_eq!(take(&bound, in_user, store).unwrap(), directory);
    // The mounts that turn out to be impossible are told from all other errors.
    fs::remove_dir_all(&lower).unwrap();
    assert!(matches!(take(&active, writes, store), Err(SandboxError::Mounts(_))));
}
