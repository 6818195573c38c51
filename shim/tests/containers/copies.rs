//! `cp`: both directions, files and directories, running and stopped, and nothing leads out.

use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    process::Stdio,
};

use crate::host::{Host, host, text};

/// A container that runs, or has ended, with some files.
fn prepared(host: &Host, running: bool) {
    let script = "mkdir -p /d/sub; echo one > /d/one; echo two > /d/sub/two; ln -s one /d/link; ln -s / /d/root; \
                  chmod 640 /d/one; ln -s /etc /d/etc; mkfifo /d/fifo; echo prepared; ";
    let end = if running { "sleep 1000" } else { "exit 0" };
    host.ok(&["run", "-d", "--name", "c1", "busybox", "sh", "-c", &format!("{script}{end}")]);
    host.wait_for_log("c1", "prepared");
    if !running {
        host.ok(&["wait", "c1"]);
    }
}

#[test]
fn files_come_and_go_running_or_not() {
    let Some(host) = host() else { return };
    for running in [true, false] {
        prepared(&host, running);
        let here = host.path(if running { "running" } else { "stopped" });
        fs::create_dir(&here).unwrap();
        let at = |name: &str| here.join(name).to_str().unwrap().to_owned();
        let read = |name: &str| fs::read_to_string(here.join(name)).unwrap();
        // A file: into a directory, under a name, over a file.
        host.ok(&["cp", "c1:/d/one", &at("")]);
        host.ok(&["cp", "c1:d/one", &at("named")]);
        host.ok(&["cp", "c1:/d/sub/two", &at("named")]);
        assert_eq!((read("one"), read("named")), ("one\n".into(), "two\n".into()));
        assert_eq!(fs::metadata(here.join("one")).unwrap().permissions().mode() & 0o777, 0o640);
        // A directory: under a new name, into a directory, its content only.
        host.ok(&["cp", "c1:/d", &at("new")]);
        assert_eq!(read("new/sub/two"), "two\n");
        host.ok(&["cp", "c1:/d", &at("new")]);
        assert_eq!(read("new/d/sub/two"), "two\n");
        fs::create_dir(here.join("content")).unwrap();
        host.ok(&["cp", "c1:/d/.", &at("content")]);
        assert_eq!(read("content/sub/two"), "two\n");
        assert_eq!(fs::read_link(here.join("new/link")).unwrap().to_str(), Some("one"));
        // Links: themselves, or what they lead to, in the container.
        host.ok(&["cp", "c1:/d/link", &at("link")]);
        assert!(fs::symlink_metadata(here.join("link")).unwrap().is_symlink());
        host.ok(&["cp", "-L", "c1:/d/link", &at("followed")]);
        assert_eq!(read("followed"), "one\n");
        let passwd = host.run(&["cp", "c1:/d/root/d/root/d/one", &at("round")]);
        assert!(passwd.status.success() && read("round") == "one\n");
        // Into the container.
        fs::write(here.join("up"), "uploaded").unwrap();
        fs::create_dir(here.join("tree")).unwrap();
        fs::write(here.join("tree/leaf"), "leaf").unwrap();
        host.ok(&["cp", &at("up"), "c1:/d/up"]);
        host.ok(&["cp", &at("up"), "c1:/d/sub/"]);
        host.ok(&["cp", &at("tree"), "c1:/d"]);
        // By way of a link of the container, which leads to the container's own /etc.
        host.ok(&["cp", &at("up"), "c1:/d/etc/uploaded"]);
        assert!(!std::path::Path::new("/etc/uploaded").exists());
        host.ok(&["cp", "c1:/etc/uploaded", &at("back")]);
        host.ok(&["cp", "c1:/d/tree/leaf", &at("leaf")]);
        host.ok(&["cp", "c1:/d/sub/up", &at("sub-up")]);
        assert_eq!(
            (read("back"), read("leaf"), read("sub-up")),
            ("uploaded".into(), "leaf".into(), "uploaded".into())
        );
        if running {
            assert_eq!(host.ok(&["exec", "c1", "stat", "-c", "%u:%g", "/d/up"]), "0:0");
        }
        // What is not there, and what does not fit.
        host.refused(&["cp", "c1:/none", &at("x")], 1, "/none");
        host.refused(&["cp", &at("none"), "c1:/d"], 1, "none");
        host.refused(&["cp", &at("up"), "c1:/none/x"], 1, "/none");
        host.refused(&["cp", "c1:/d", &at("up")], 1, "file");
        host.refused(&["cp", "c1:/d/one", &at("nowhere/")], 1, "no such directory");
        host.refused(&["cp", "nope:/d/one", &at("x")], 1, "No such container: nope");
        host.refused(&["cp", &at("up"), &at("x")], 1, "CONTAINER:PATH");
        host.ok(&["rm", "-f", "c1"]);
    }
    host.assert_nothing_left();
}

#[test]
fn archives_are_streams() {
    let Some(host) = host() else { return };
    prepared(&host, true);
    let mut command = host.command(&["cp", "c1:/d", "-"]);
    let archive = command.output().unwrap();
    assert!(archive.status.success(), "{archive:?}");
    let mut list = std::process::Command::new("tar");
    let mut list = list.arg("t").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    list.stdin.take().unwrap().write_all(&archive.stdout).unwrap();
    let names = text(&list.wait_with_output().unwrap().stdout);
    assert!(names.contains("d/sub/two\n") && names.starts_with("d/\n"), "{names}");
    host.ok(&["exec", "c1", "mkdir", "/copy"]);
    let mut into = host.command(&["cp", "-", "c1:/copy"]);
    let mut into = into.stdin(Stdio::piped()).spawn().unwrap();
    into.stdin.take().unwrap().write_all(&archive.stdout).unwrap();
    assert!(into.wait().unwrap().success());
    assert_eq!(host.ok(&["exec", "c1", "cat", "/copy/d/sub/two"]), "two");
    host.ok(&["rm", "-f", "c1"]);
}

#[test]
fn a_containers_links_lead_nowhere_on_this_host() {
    let Some(host) = host() else { return };
    let here = host.path("here");
    let outside = host.path("outside");
    fs::create_dir(&here).unwrap();
    fs::create_dir(&outside).unwrap();
    // The second copy brings a file by way of the link that the first one brought.
    let script = format!(
        "mkdir -p /a /b/way; ln -s {} /a/way; echo bad > /b/way/file; echo prepared; sleep 1000",
        outside.display()
    );
    host.ok(&["run", "-d", "--name", "c1", "busybox", "sh", "-c", &script]);
    host.wait_for_log("c1", "prepared");
    let to = here.to_str().unwrap();
    host.ok(&["cp", "c1:/a/.", to]);
    assert!(!host.run(&["cp", "c1:/b/.", to]).status.success());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // Nor does a link of this host that a name of the archive meets.
    symlink(outside.join("target"), here.join("file")).unwrap();
    host.ok(&["cp", "c1:/b/way/file", &format!("{to}/sub")]);
    host.ok(&["cp", "c1:/b/way/.", to]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(here.join("file")).unwrap(), "bad\n");
    host.ok(&["rm", "-f", "c1"]);
}
