//! Layers that want to get out of their image, or that no two programs would read alike.

use bulkhead_tests::{
    harness::Host,
    image::{Entry, Layer, append},
};

use super::{assert_import_refused, assert_layer_refused, image};

#[test]
fn a_path_with_dot_dot_is_refused() {
    for path in ["../evil", "a/../../evil", "a/.."] {
        assert_layer_refused(vec![Entry::directory("a"), Entry::file(path, "x")], &[path, ".."]);
    }
}

#[test]
fn an_absolute_path_is_refused() {
    assert_layer_refused(vec![Entry::file("/etc/evil", "x")], &["/etc/evil", "absolute"]);
}

#[test]
fn a_path_through_a_symbolic_link_is_refused() {
    let entries = vec![Entry::symlink("link", "/etc"), Entry::file("link/evil", "x")];
    assert_layer_refused(entries, &["link/evil", "symbolic link"]);
}

#[test]
fn a_path_through_a_file_is_refused() {
    let entries = vec![Entry::file("file", "x"), Entry::file("file/evil", "x")];
    assert_layer_refused(entries, &["file/evil", "not a directory"]);
}

#[test]
fn two_entries_of_one_name_are_refused() {
    let twice = |second| vec![Entry::file("same", "1"), second];
    assert_layer_refused(twice(Entry::file("same", "2")), &["same", "twice"]);
    assert_layer_refused(twice(Entry::file("./same", "2")), &["same", "twice"]);
    assert_layer_refused(twice(Entry::symlink("same", "x")), &["same", "twice"]);
    assert_layer_refused(twice(Entry::directory("same")), &["same", "twice"]);
}

#[test]
fn two_entries_of_one_directory_are_one_directory() {
    let host = Host::new();
    let entries =
        vec![Entry::directory("d").mode(0o700), Entry::file("d/f", "x"), Entry::directory("d")];
    let source = host.source("good", &image(&[entries]));
    host.run(&["image", "import", &source]).assert_code(0);
}

#[test]
fn a_hard_link_that_leads_nowhere_or_out_is_refused() {
    let link = |target| vec![Entry::directory("d"), Entry::hard_link("link", target)];
    assert_layer_refused(link("nowhere"), &["link", "nowhere"]);
    assert_layer_refused(link("../../etc/passwd"), &["link", "../../etc/passwd"]);
    assert_layer_refused(link("link"), &["link"]);
    assert_layer_refused(link("d"), &["link", "\"d\""]);
}

#[test]
fn a_hard_link_through_a_symbolic_link_is_refused() {
    let entries = vec![Entry::symlink("out", "/"), Entry::hard_link("link", "out/etc/passwd")];
    assert_layer_refused(entries, &["link"]);
}

#[test]
fn names_that_no_file_system_has_are_refused() {
    let long = "n".repeat(256);
    assert_layer_refused(vec![Entry::file(&long, "x")], &["nnnn", "255"]);
    assert_layer_refused(vec![Entry::file(&"d/".repeat(2100), "x")], &["d/d/", "4095"]);
}

#[test]
fn a_root_that_is_no_directory_is_refused() {
    assert_layer_refused(vec![Entry::symlink("./", "/etc")], &["root"]);
    assert_layer_refused(vec![Entry::file(".", "x")], &["root"]);
}

#[test]
fn a_whiteout_of_nothing_is_refused() {
    assert_layer_refused(vec![Entry::directory("d"), Entry::file("d/.wh.", "")], &[".wh."]);
}

#[test]
fn an_attribute_too_large_for_any_file_system_is_refused() {
    let entry = Entry::file("f", "").xattr("user.large", &vec![b'v'; 70_000]);
    assert_layer_refused(vec![entry], &["f", "user.large"]);
}

#[test]
fn a_member_of_an_unknown_kind_is_refused() {
    let mut tar = Vec::new();
    append(&mut tar, &Entry::file("odd", ""));
    // The type flag, and the checksum that goes with it.
    tar[156] = b'V';
    let old = u32::from_str_radix(std::str::from_utf8(&tar[148..154]).unwrap(), 8).unwrap();
    let sum = old + u32::from(b'V') - u32::from(b'0');
    tar[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    tar.resize(tar.len() + 1024, 0);
    let host = Host::new();
    let mut bad = image(&[vec![]]);
    bad.layers[0] = Layer { tar, ..bad.layers[0].clone() };
    assert_import_refused(&host, &host.source("bad", &bad), &["odd", "V"]);
}

#[test]
fn the_second_layer_is_checked_like_the_first_and_the_first_does_not_stay() {
    let host = Host::new();
    let bad = image(&[vec![Entry::file("good", "x")], vec![Entry::file("../evil", "x")]]);
    assert_import_refused(&host, &host.source("bad", &bad), &["../evil"]);
}

#[test]
fn a_symbolic_link_below_is_replaced_and_not_followed() {
    let host = Host::new();
    let layers = [vec![Entry::symlink("dir", "/etc")], vec![Entry::file("dir/file", "x")]];
    let outcome = host.run(&["image", "import", &host.source("layers", &image(&layers))]);
    // The specification is silent: to refuse it and to make a directory of it are both safe.
    if outcome.code() != 0 {
        outcome.assert_refused(125, &["dir"]);
    }
    assert!(!std::path::Path::new("/etc/file").exists());
}
