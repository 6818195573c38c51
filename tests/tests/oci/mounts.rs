//! `mounts`: kinds, options, propagation, order, and bind mounts that are live on both sides (runtime-spec, config.md, Mounts).

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use bulkhead_tests::harness::oci::Oci;
use serde_json::{Value, json};

use super::process::{has_option, mount_at};

isolations!(host: options, binds, live_binds, a_file_system_of_files, links_lead_nowhere, many_files, recursive_options, root_propagation; vm: options, binds, live_binds, a_file_system_of_files, links_lead_nowhere, recursive_options, root_propagation);

/// A mount's name, its options, and those that it must and must not have in the end.
type OptionCase =
    (&'static str, &'static [&'static str], &'static [&'static str], &'static [&'static str]);

/// Every option that has a flag or is the file system's own, on a tmpfs each; mounts are made in their order.
fn options(oci: &Oci) {
    let mut bundle = oci.bundle("options");
    let mut cases: Vec<OptionCase> = vec![
        ("ro", &["ro"], &["ro"], &[]),
        ("rw", &["ro", "rw"], &["rw"], &["ro"]),
        ("nosuid", &["nosuid"], &["nosuid"], &[]),
        ("suid", &["nosuid", "suid"], &[], &["nosuid"]),
        ("nodev", &["nodev"], &["nodev"], &[]),
        ("dev", &["nodev", "dev"], &[], &["nodev"]),
        ("noexec", &["noexec"], &["noexec"], &[]),
        ("exec", &["noexec", "exec"], &[], &["noexec"]),
        ("sync", &["sync"], &["sync"], &[]),
        ("dirsync", &["dirsync"], &["dirsync"], &[]),
        ("noatime", &["noatime"], &["noatime"], &["relatime"]),
        ("nodiratime", &["nodiratime"], &["nodiratime"], &[]),
        ("relatime", &["relatime"], &["relatime"], &[]),
        ("strictatime", &["strictatime"], &[], &["relatime", "noatime"]),
        ("size", &["size=8k"], &["size=8k"], &[]),
        (
            "data",
            &["mode=751", "uid=7", "gid=8", "nr_inodes=50"],
            &["mode=751", "uid=7", "gid=8", "nr_inodes=50"],
            &[],
        ),
        (
            "many",
            &["nosuid", "noexec", "nodev", "ro", "size=16k"],
            &["nosuid", "noexec", "nodev", "ro", "size=16k"],
            &[],
        ),
    ];
    if oci.is_bulkhead() {
        cases.push(("defaults", &["defaults"], &["rw"], &[]));
    }
    for (name, given, _, _) in &cases {
        bundle.mount("tmpfs", "tmpfs".as_ref(), &format!("/mnt/{name}"), given);
    }
    for kind in
        ["private", "shared", "slave", "unbindable", "rprivate", "rshared", "rslave", "runbindable"]
    {
        bundle.mount("tmpfs", "tmpfs".as_ref(), &format!("/mnt/{kind}"), &[kind]);
    }
    // One over another, and one in a directory that an earlier mount hides.
    bundle.mount("tmpfs", "first".as_ref(), "/mnt/over", &["size=4k"]);
    bundle.mount("tmpfs", "second".as_ref(), "/mnt/over", &["size=8k"]);
    bundle.mount("tmpfs", "deep".as_ref(), "/mnt/over/a/b/c", &["size=12k"]);
    // A destination without a leading slash is one below the root (runtime-spec 1.0).
    bundle.mount("tmpfs", "relative".as_ref(), "mnt/relative", &["nodev"]);
    let copied = bundle.rootfs().join("mnt/copied");
    fs::create_dir(&copied).unwrap();
    fs::write(copied.join("file"), "words").unwrap();
    fs::set_permissions(copied.join("file"), fs::Permissions::from_mode(0o640)).unwrap();
    bundle.mount("tmpfs", "tmpfs".as_ref(), "/mnt/copied", &["tmpcopyup"]);
    let seen = oci.look(
        "options",
        &mut bundle,
        &["path=/mnt/copied/file", "path=/mnt/data", "path=/mnt/ro", "path=/mnt/size"],
    );
    for (name, _, present, absent) in &cases {
        let mount = mount_at(&seen, &format!("/mnt/{name}"));
        assert!(present.iter().all(|option| has_option(mount, option)), "{name}: {mount}");
        assert!(!absent.iter().any(|option| has_option(mount, option)), "{name}: {mount}");
    }
    for (kind, field) in [
        ("shared", "shared:"),
        ("rshared", "shared:"),
        ("unbindable", "unbindable"),
        ("runbindable", "unbindable"),
    ] {
        let mount = mount_at(&seen, &format!("/mnt/{kind}"));
        let fields = mount["propagation"].as_array().unwrap();
        assert!(
            fields.iter().any(|word| word.as_str().unwrap().starts_with(field)),
            "{kind}: {mount}"
        );
    }
    for kind in ["private", "rprivate"] {
        assert_eq!(mount_at(&seen, &format!("/mnt/{kind}"))["propagation"], json!([]), "{kind}");
    }
    assert_eq!(mount_at(&seen, "/mnt/over")["source"], "second");
    assert!(has_option(mount_at(&seen, "/mnt/over/a/b/c"), "size=12k"));
    assert!(has_option(mount_at(&seen, "/mnt/relative"), "nodev"));
    let files = &seen["wanted"];
    let file = &files["path=/mnt/copied/file"];
    assert_eq!((&file["read"], &file["mode"]), (&json!(5), &json!("0640")), "{file}");
    assert_eq!(mount_at(&seen, "/mnt/copied")["type"], "tmpfs");
    assert_eq!(
        (&files["path=/mnt/data"]["mode"], &files["path=/mnt/data"]["owner"]),
        (&json!("0751"), &json!("7:8"))
    );
    assert_eq!(files["path=/mnt/ro"]["write"], "EROFS");
    assert!(copied.join("file").exists());
}

/// Files, directories, read-only, nested, with options; sources that are not there.
fn binds(oci: &Oci) {
    let mut bundle = oci.bundle("binds");
    let source = oci.path("source");
    fs::create_dir_all(source.join("inner")).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    fs::write(source.join("inner/file"), "inner content").unwrap();
    fs::write(oci.path("alone"), "alone").unwrap();
    symlink("source", oci.path("link")).unwrap();
    bundle
        .mount("bind", &source, "/data", &["rbind", "rw"])
        .mount("bind", &source, "/fixed", &["bind", "ro"])
        .mount("none", &source.join("inner"), "/fixed/inner", &["bind"])
        .mount("bind", &oci.path("alone"), "/etc/alone", &["bind", "ro"])
        .mount("bind", &oci.path("alone"), "/new/directory/alone", &["bind"])
        .mount("bind", &source, "/strict", &["bind", "nosuid", "nodev", "noexec"])
        .mount("bind", &oci.path("link"), "/through-link", &["bind"]);
    // A file of the root file system that a mount covers, and a link in a destination: it stays beneath the root.
    fs::write(bundle.rootfs().join("etc/hostname"), "from the image").unwrap();
    bundle.mount("bind", &oci.path("alone"), "/etc/hostname", &["bind"]);
    symlink("/tmp", bundle.rootfs().join("to-tmp")).unwrap();
    bundle.mount("bind", &source, "/to-tmp/below", &["bind"]);
    symlink("../../../../../../../../../../../tmp", bundle.rootfs().join("climbing")).unwrap();
    bundle.mount("bind", &source, "/climbing/up", &["bind"]);
    let seen = oci.look(
        "binds",
        &mut bundle,
        &[
            "path=/data",
            "read=/data/inner/file",
            "path=/fixed",
            "path=/fixed/file",
            "path=/fixed/inner",
            "path=/etc/alone",
            "read=/new/directory/alone",
            "read=/through-link/file",
            "read=/etc/hostname",
            "read=/tmp/below/file",
            "read=/tmp/up/file",
        ],
    );
    let files = &seen["wanted"];
    assert_eq!(files["path=/data"]["write"], 0);
    assert_eq!(files["read=/data/inner/file"], "inner content");
    assert_eq!(files["path=/fixed"]["write"], "EROFS", "{files}");
    assert_eq!(
        (&files["path=/fixed/file"]["read"], &files["path=/fixed/file"]["write"]),
        (&json!(7), &json!("EROFS"))
    );
    assert_eq!(files["path=/fixed/inner"]["write"], 0, "a nested mount has its own options");
    assert_eq!(
        (&files["path=/etc/alone"]["read"], &files["path=/etc/alone"]["write"]),
        (&json!(5), &json!("EROFS"))
    );
    assert_eq!(files["read=/new/directory/alone"], "alone");
    assert_eq!(files["read=/through-link/file"], "content");
    assert_eq!(files["read=/etc/hostname"], "alone");
    assert_eq!(files["read=/tmp/below/file"], "content");
    assert_eq!(files["read=/tmp/up/file"], "content");
    for option in ["nosuid", "nodev", "noexec"] {
        assert!(has_option(mount_at(&seen, "/strict"), option), "{option}");
    }
    assert_eq!(fs::read_to_string(bundle.rootfs().join("etc/hostname")).unwrap(), "from the image");
    assert!(
        !Path::new("/tmp/below").exists() && !Path::new("/tmp/up").exists(),
        "the host's own /tmp was changed"
    );
    bundle.mount("bind", &oci.path("not-there"), "/x", &["bind"]);
    let outcome = oci.run_bundle("binds", &bundle);
    assert_ne!(outcome.code(), 0);
    assert!(outcome.error_text().contains("not-there"), "{outcome}");
}

/// What one side writes, renames, links or removes the other sees at once; so do descriptors that are open.
fn live_binds(oci: &Oci) {
    let mut bundle = oci.bundle("live");
    let shared = oci.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("from-host"), "first\n").unwrap();
    bundle.mount("bind", &shared, "/shared", &["rbind"]);
    let caps = json!(["CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE"]);
    bundle.config["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps});
    // In turns: the host goes on when there is a file ready-N, the container when there is a file go-N.
    bundle.sh(
        "cd /shared; exec 3< from-host
         step() { while [ ! -e go-$1 ]; do sleep 0.1; done; }
         echo content > from-guest; chmod 640 from-guest; chown 12:34 from-guest; ln from-guest second-name; touch ready-1
         step 1; cat from-host > seen-1; cat <&3 > open-1; touch ready-2
         step 2; ls from-host moved > seen-2 2>/dev/null; cat moved/inner >> seen-2; touch ready-3
         step 3; [ -e moved ] || echo gone > seen-3; stat -c '%u:%g %a' owned >> seen-3; rm second-name; touch ready-4
         step 4; echo end",
    );
    oci.create_and_start("live", &bundle);
    let ready = |turn: u32| {
        oci.wait(&format!("turn {turn}"), || shared.join(format!("ready-{turn}")).exists())
    };
    let go = |turn: u32| fs::write(shared.join(format!("go-{turn}")), "").unwrap();
    let read = |name: &str| fs::read_to_string(shared.join(name)).unwrap();
    ready(1);
    assert_eq!(read("from-guest"), "content\n");
    let made = fs::metadata(shared.join("from-guest")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777, made.nlink()), (12, 34, 0o640, 2));
    assert_eq!(made.ino(), fs::metadata(shared.join("second-name")).unwrap().ino());
    // Longer than before, in place: the container's open descriptor reads the new bytes too.
    fs::write(shared.join("from-host"), "second, and longer\n").unwrap();
    go(1);
    ready(2);
    assert_eq!(read("seen-1"), "second, and longer\n");
    assert_eq!(read("open-1"), "second, and longer\n");
    fs::remove_file(shared.join("from-host")).unwrap();
    fs::create_dir(shared.join("made")).unwrap();
    fs::write(shared.join("made/inner"), "inside\n").unwrap();
    fs::rename(shared.join("made"), shared.join("moved")).unwrap();
    go(2);
    ready(3);
    // `ls` of a directory and of a file that is gone.
    assert!(
        read("seen-2").contains("inner") && read("seen-2").ends_with("inside\n"),
        "{}",
        read("seen-2")
    );
    fs::remove_dir_all(shared.join("moved")).unwrap();
    fs::write(shared.join("owned"), "").unwrap();
    std::os::unix::fs::chown(shared.join("owned"), Some(77), Some(88)).unwrap();
    fs::set_permissions(shared.join("owned"), fs::Permissions::from_mode(0o604)).unwrap();
    go(3);
    ready(4);
    assert_eq!(read("seen-3"), "gone\n77:88 604\n");
    assert_eq!(fs::metadata(shared.join("from-guest")).unwrap().nlink(), 1);
    go(4);
    oci.wait_for_output("live", "end");
    oci.wait_for_status("live", "stopped");
    oci.delete_force("live");
}

/// What programs do with files, on the root file system, a bind mount and a tmpfs.
fn a_file_system_of_files(oci: &Oci) {
    let mut bundle = oci.bundle("files");
    let shared = oci.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::create_dir(bundle.rootfs().join("own")).unwrap();
    let all: Vec<&str> = bulkhead_tests::harness::oci::CAPABILITIES[..8].to_vec();
    bundle.config["process"]["capabilities"] =
        json!({"bounding": all, "effective": all, "permitted": all});
    bundle.mount("bind", &shared, "/shared", &["rbind"]).mount(
        "tmpfs",
        "tmpfs".as_ref(),
        "/memory",
        &[],
    );
    bundle.sh(
        "for d in /own /shared /memory; do echo in $d; /probe files $d || echo failed $?; done",
    );
    let outcome = oci.run_bundle("files", &bundle);
    outcome.assert_code(0);
    let wanted = "append \"one\\ntwo\\n\"\n\
                  truncate [120, 120, 120, 0, 0, 0]\n\
                  sparse 1073741827 true\n\
                  rename a\n\
                  rename-exchange b a\n\
                  rename-noreplace EEXIST\n\
                  hardlink both 2 true\n\
                  symlink a ENOENT\n\
                  unlinked still here 0\n\
                  tmpfile 0 unnamed\n\
                  mmap-shared !\n\
                  xattr blue\n\
                  fifo through\n\
                  socket hello\n\
                  owner 1234:5678 4751\n\
                  lock refused true\n";
    // A tmpfs has no user attributes before Linux 6.6.
    let without = wanted.replace("xattr blue", "xattr EOPNOTSUPP");
    let text = outcome.text();
    let sections: Vec<_> = text.split("in /").filter(|section| !section.is_empty()).collect();
    assert_eq!(sections.len(), 3, "{outcome}");
    for section in sections {
        let (place, lines) = section.split_once('\n').unwrap();
        assert!(
            lines == wanted || place == "memory" && lines == without,
            "in /{place}, wanted:\n{wanted}\nseen:\n{lines}"
        );
    }
    // The host sees what was made, with its owner, modes, attributes and kinds.
    let owned = fs::metadata(shared.join("owner/f")).unwrap();
    assert_eq!((owned.uid(), owned.gid(), owned.mode() & 0o7777), (1234, 5678, 0o4751));
    assert_eq!(fs::read(shared.join("mmap-shared/f")).unwrap()[5000], b'!');
    assert_eq!(fs::read_to_string(shared.join("tmpfile/named")).unwrap(), "unnamed");
    let mut value = [0; 16];
    let length =
        rustix::fs::getxattr(shared.join("xattr/f"), "user.colour", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"blue");
    use std::os::unix::fs::FileTypeExt;
    assert!(fs::metadata(shared.join("fifo/f")).unwrap().file_type().is_fifo());
    assert!(fs::metadata(shared.join("socket/s")).unwrap().file_type().is_socket());
}

/// A link in a shared directory is resolved in the container, never on the host.
fn links_lead_nowhere(oci: &Oci) {
    let mut bundle = oci.bundle("links");
    let (shared, secret) = (oci.path("shared"), oci.path("secret"));
    fs::create_dir(&shared).unwrap();
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("key"), "secret").unwrap();
    fs::write(oci.path("beside"), "secret").unwrap();
    symlink(&secret, shared.join("absolute")).unwrap();
    symlink("../secret/key", shared.join("relative")).unwrap();
    symlink("../../../../../../../../../../../../../proc/1/environ", shared.join("climbing"))
        .unwrap();
    symlink("/proc/self/root", shared.join("magic")).unwrap();
    bundle.mount("bind", &shared, "/shared", &["rbind"]);
    let seen = oci.look(
        "links",
        &mut bundle,
        &[
            "read=/shared/absolute/key",
            "read=/shared/relative",
            "read=/shared/../beside",
            "path=/shared/absolute",
            "read=/shared/magic/etc/passwd",
        ],
    );
    let files = &seen["wanted"];
    for link in ["read=/shared/absolute/key", "read=/shared/relative", "read=/shared/../beside"] {
        assert_eq!(files[link]["error"], "ENOENT", "{link}: {files}");
    }
    assert_eq!(
        files["path=/shared/absolute"]["target"].as_str().unwrap(),
        secret.to_str().unwrap(),
        "a link can be read"
    );
    // It is the container's own root.
    assert!(files["read=/shared/magic/etc/passwd"].as_str().unwrap().contains("guest"), "{files}");
}

/// A directory of 100,000 entries, seen whole; and some files made from inside.
fn many_files(oci: &Oci) {
    let mut bundle = oci.bundle("many");
    let shared = oci.path("shared");
    fs::create_dir_all(shared.join("wide")).unwrap();
    for index in 0..100_000 {
        fs::File::create(shared.join(format!("wide/entry-{index}"))).unwrap();
    }
    bundle.mount("bind", &shared, "/shared", &["rbind"]);
    bundle.sh("/probe count /shared/wide; rm /shared/wide/entry-99999; /probe many /shared 200");
    let outcome = oci.run_bundle("many", &bundle);
    outcome.assert_code(0);
    let text = outcome.text();
    assert!(text.starts_with("entries 100000 different 100000\n"), "{outcome}");
    assert!(text.contains("found 200 bytes 4800"), "{outcome}");
    assert!(!shared.join("wide/entry-99999").exists());
}

/// `rro`, `rnosuid` …: they hold for what is mounted below (runtime-spec 1.1).
fn recursive_options(oci: &Oci) {
    let mut bundle = oci.bundle("recursive");
    let source = oci.path("source");
    fs::create_dir_all(source.join("below")).unwrap();
    let mount = |arguments: &[&str]| {
        assert!(Command::new(arguments[0]).args(&arguments[1..]).status().unwrap().success())
    };
    let below = source.join("below").display().to_string();
    mount(&["mount", "-t", "tmpfs", "tmpfs", &below]);
    bundle
        .mount("bind", &source, "/top-only", &["rbind", "ro"])
        .mount(
            "bind",
            &source,
            "/all",
            &["rbind", "rro", "rnosuid", "rnodev", "rnoexec", "rnoatime"],
        )
        .mount("bind", &source, "/without", &["bind"]);
    let seen = oci.look(
        "recursive",
        &mut bundle,
        &["path=/top-only/below", "path=/all/below", "path=/without/below"],
    );
    mount(&["umount", &below]);
    let files = &seen["wanted"];
    // A guest has one mount of all that the host has below a directory.
    let (top_only, all) =
        if oci.is_vm() { (json!("EROFS"), "/all") } else { (json!(0), "/all/below") };
    assert_eq!(files["path=/top-only/below"]["write"], top_only);
    assert_eq!(files["path=/all/below"]["write"], "EROFS");
    for option in ["ro", "nosuid", "nodev", "noexec", "noatime"] {
        let mount = mount_at(&seen, all);
        assert!(
            mount["options"].as_array().unwrap().iter().any(|word| word == option),
            "{option}: {mount}"
        );
    }
    let mounts = seen["mounts"].as_array().unwrap();
    assert!(!mounts.iter().any(|mount| mount["point"] == "/without/below"), "bind is not rbind");
}

/// `linux.rootfsPropagation`, and slave mounts: what the host mounts later appears.
fn root_propagation(oci: &Oci) {
    for (wanted, fields) in [
        ("private", [].as_slice()),
        ("slave", &["master:"]),
        ("shared", &["shared:"]),
        ("unbindable", &["unbindable"]),
    ] {
        if wanted == "unbindable" && !oci.is_bulkhead() {
            continue;
        }
        let mut bundle = oci.bundle(&format!("root-{wanted}"));
        bundle.config["linux"]["rootfsPropagation"] = json!(wanted);
        let seen = oci.look("root", &mut bundle, &[]);
        let root = mount_at(&seen, "/");
        let has = |field: &&str| {
            root["propagation"]
                .as_array()
                .unwrap()
                .iter()
                .any(|word: &Value| word.as_str().unwrap().starts_with(field))
        };
        // A slave of what is private on the host has no master; runc's root is private whatever is asked for.
        let lacks = wanted == "slave" || !oci.is_bulkhead();
        assert!(fields.iter().all(|field| has(field) || lacks), "{wanted}: {root}");
    }
    if oci.is_vm() {
        // What the host mounts later is the host's alone.
        return;
    }
    let mut bundle = oci.bundle("slave");
    bundle.config["linux"]["rootfsPropagation"] = json!("rslave");
    let source = oci.path("source");
    fs::create_dir_all(source.join("later")).unwrap();
    let path = source.display().to_string();
    let later = source.join("later").display().to_string();
    let command = |arguments: &[&str]| {
        assert!(Command::new(arguments[0]).args(&arguments[1..]).status().unwrap().success())
    };
    command(&["mount", "--bind", &path, &path]);
    command(&["mount", "--make-shared", &path]);
    bundle.mount("bind", &source, "/slave", &["rbind", "rslave"]);
    bundle.mount("bind", &source, "/private", &["rbind", "rprivate"]);
    bundle.sh("echo ready; while ! grep -q ' /slave/later ' /proc/self/mounts; do sleep 0.1; done; grep -c /private/later /proc/self/mounts; mount -t tmpfs none /slave/later 2>/dev/null; echo end");
    oci.create_and_start("slave", &bundle);
    oci.wait_for_output("slave", "ready");
    command(&["mount", "-t", "tmpfs", "tmpfs", &later]);
    oci.wait_for_output("slave", "end");
    command(&["umount", &later]);
    command(&["umount", &path]);
    assert_eq!(oci.output("slave"), "ready\n0\nend\n");
    oci.delete_force("slave");
}
