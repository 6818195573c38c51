//! Images that must be refused: one clear line that names the layer and the entry, and nothing left in the store.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests too"
)]

mod support;

use std::fs;

use bulkhead_rootfs::{Digest, Source, Store};
use serde_json::json;
use support::{
    Fixture,
    archive::{Archive, gzip, header, zstd},
    chain,
    layout::{self, LAYER, Layout},
};
use tar::EntryType;

/// Asserts that the layers are refused with a line that holds `words`, and that nothing is left.
fn refused(what: &str, layers: &[Vec<u8>], words: &[&str]) {
    let fixture = Fixture::new();
    let error = fixture.import(layers).map(|image| image.id).expect_err(what);
    let line = chain(&error);
    let last = Digest::of(layers.last().unwrap()).to_string();
    for word in words.iter().copied().chain([last.as_str()]) {
        assert!(line.contains(word), "{what}: \"{line}\" does not say \"{word}\"");
    }
    assert!(!line.contains('\n'), "{what}: {line}");
    assert_eq!(fixture.leftovers(), [] as [String; 0], "{what}");
}

#[test]
fn one_bad_entry_refuses_the_layer() {
    let file = || header(EntryType::Regular, 0o644);
    let fifo = || header(EntryType::Fifo, 0o644);
    let mut owner = file();
    owner.set_uid(u64::from(u32::MAX));
    let table: Vec<(&str, Archive, &[&str])> = vec![
        ("dot-dot", Archive::new().file("a/../../b", b"x"), &["a/../../b", "\"..\""]),
        ("only dot-dot", Archive::new().dir("..", 0o755), &["\"..\" component"]),
        ("absolute", Archive::new().file("/etc/passwd", b"x"), &["/etc/passwd", "absolute"]),
        (
            "through a link",
            Archive::new().symlink("l", "/etc").file("l/passwd", b"x"),
            &["l/passwd", "symbolic link \"l\""],
        ),
        (
            "through a file",
            Archive::new().file("f", b"").file("f/x", b"x"),
            &["f/x", "\"f\", which is not a directory"],
        ),
        ("duplicate file", Archive::new().file("f", b"1").file("./f", b"2"), &["./f", "twice"]),
        (
            "link over directory",
            Archive::new().dir("d", 0o755).symlink("d", "/"),
            &["entry \"d\"", "twice"],
        ),
        (
            "directory over link",
            Archive::new().symlink("d", "/").dir("d", 0o755),
            &["entry \"d\"", "twice"],
        ),
        (
            "link over implied",
            Archive::new().file("d/x", b"").symlink("d", "/"),
            &["entry \"d\"", "twice"],
        ),
        ("missing link target", Archive::new().hardlink("h", "gone"), &["entry \"h\"", "\"gone\""]),
        (
            "outside link target",
            Archive::new().hardlink("h", "../../etc/shadow"),
            &["entry \"h\"", "../../etc/shadow"],
        ),
        (
            "absolute link target",
            Archive::new().hardlink("h", "/etc/shadow"),
            &["entry \"h\"", "absolute"],
        ),
        ("link to itself", Archive::new().hardlink("h", "h"), &["entry \"h\""]),
        (
            "link to directory",
            Archive::new().dir("d", 0o755).hardlink("h", "d"),
            &["entry \"h\"", "\"d\" is not a file"],
        ),
        (
            "link through link",
            Archive::new().symlink("l", "/").hardlink("h", "l/etc/shadow"),
            &["entry \"h\"", "symbolic link"],
        ),
        ("empty name", Archive::new().raw(fifo(), b"", b""), &["empty"]),
        (
            "NUL in name",
            Archive::new().pax(&[("path", b"a\0b")]).raw(fifo(), b"x", b""),
            &["a\\x00b", "NUL"],
        ),
        ("long component", Archive::new().file(&"n".repeat(256), b""), &["255"]),
        ("long name", Archive::new().file(&"n/".repeat(2100), b""), &["4095"]),
        ("root is a file", Archive::new().raw(fifo(), b"/", b""), &["root"]),
        ("bare whiteout", Archive::new().file("d/.wh.", b""), &["d/.wh.", "whiteout"]),
        ("whiteout directory", Archive::new().file(".wh.d/x", b""), &[".wh.d/x", "whiteout"]),
        ("whiteout of dot-dot", Archive::new().file("d/.wh...", b""), &["whiteout"]),
        ("no owner", Archive::new().raw(owner, b"f", b""), &["entry \"f\"", "4294967295"]),
        (
            "device number",
            Archive::new().device("d", EntryType::Char, 4096, 0),
            &["entry \"d\"", "4096:0"],
        ),
        ("empty symlink", Archive::new().symlink("l", ""), &["entry \"l\"", "target"]),
        (
            "long symlink",
            Archive::new().symlink("l", &"x".repeat(4096)),
            &["entry \"l\"", "target"],
        ),
        (
            "bad ACL",
            Archive::new().pax(&[("SCHILY.xattr.system.posix_acl_access", b"no")]).file("f", b""),
            &["posix_acl_access"],
        ),
        (
            "big attribute",
            Archive::new().pax(&[("SCHILY.xattr.user.a", &[0; 65_536])]).file("f", b""),
            &["user.a"],
        ),
        (
            "big pax header",
            Archive::new().pax(&[("comment", &[b'x'; 1 << 20])]).file("f", b""),
            &["extended header", "1048576"],
        ),
        (
            "unknown type",
            Archive::new().raw(header(EntryType::new(b'V'), 0), b"label", b""),
            &["type 'V'", "label"],
        ),
        ("noise", Archive::new().bytes(&[0x55; 1024]), &["no valid tar header", "byte 0"]),
        (
            "16 TiB and a bit",
            Archive::new()
                .pax(&[("GNU.sparse.map", b"0,0"), ("GNU.sparse.size", b"17592186044417")])
                .file("f", b""),
            &["entry \"f\"", "16 TiB"],
        ),
    ];
    for (what, archive, words) in table {
        refused(what, &[Archive::new().dir("base", 0o755).finish(), archive.finish()], words);
    }
}

#[test]
fn layers_that_do_not_fit_are_refused() {
    let base = Archive::new()
        .file("f", b"")
        .symlink("loop", "loop")
        .symlink("l", "d")
        .dir("d", 0o755)
        .finish();
    for (what, top, words) in [
        (
            "through a lower file",
            Archive::new().file("f/x", b""),
            ["entry \"f\"", "not a directory"],
        ),
        (
            "through a lower loop",
            Archive::new().file("loop/x", b""),
            ["entry \"loop\"", "symbolic link"],
        ),
        (
            "twice by a lower link",
            Archive::new().file("d/x", b"").file("l/x", b""),
            ["entry \"l/x\"", "twice"],
        ),
        (
            "link to hidden",
            Archive::new().file(".wh.f", b"").hardlink("h", "f"),
            ["entry \"h\"", "\"f\""],
        ),
    ] {
        refused(what, &[base.clone(), top.finish()], &words);
    }
}

#[test]
fn damaged_layers_name_both_digests() {
    let layer = Archive::new().file("f", &[1; 100_000]).finish();
    for (compress, suffix) in
        [(<[u8]>::to_vec as fn(&[u8]) -> Vec<u8>, ""), (gzip, "+gzip"), (zstd, "+zstd")]
    {
        for damage in ["cut", "flipped", "longer"] {
            let fixture = Fixture::new();
            let dir = fixture.dir.path().join("layout");
            let layout = Layout::new(std::slice::from_ref(&layer)).compressed(compress, suffix);
            let source = layout.write(&dir);
            let mut blob = layout.layers[0].0.clone();
            let promised = Digest::of(&blob);
            let path = dir.join("blobs/sha256").join(promised.hex());
            match damage {
                "cut" => blob.truncate(blob.len() / 2),
                "longer" => blob.push(0),
                _ => {
                    let middle = blob.len() / 2;
                    blob[middle] ^= 1;
                }
            }
            fs::write(&path, &blob).unwrap();
            let line = chain(&fixture.store.import(&source, None, &()).unwrap_err());
            for digest in [promised, Digest::of(&blob)] {
                assert!(line.contains(&digest.to_string()), "{damage}{suffix}: {line}");
            }
            assert_eq!(fixture.leftovers(), [] as [String; 0], "{damage}{suffix}");
        }
    }
}

#[test]
fn a_wrong_diff_id_is_found() {
    let layer = Archive::new().file("f", b"x").finish();
    let wrong = Digest::of(b"something else");
    for compress in [<[u8]>::to_vec as fn(&[u8]) -> Vec<u8>, gzip] {
        let fixture = Fixture::new();
        let mut layout = Layout::new(std::slice::from_ref(&layer)).compressed(compress, "");
        layout.config["rootfs"]["diff_ids"] = json!([wrong.to_string()]);
        let source = layout.write(&fixture.dir.path().join("layout"));
        let line = chain(&fixture.store.import(&source, None, &()).unwrap_err());
        assert!(
            line.contains(&wrong.to_string()) && line.contains(&Digest::of(&layer).to_string()),
            "{line}"
        );
        assert_eq!(fixture.leftovers(), [] as [String; 0]);
    }
}

/// Imports a layout that `change` has spoiled; returns the line.
fn spoiled(change: impl FnOnce(&mut Layout)) -> String {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&[Archive::new().file("f", b"x").finish()]);
    change(&mut layout);
    let source = layout.write(&fixture.dir.path().join("layout"));
    let line = chain(&fixture.store.import(&source, None, &()).map(|image| image.id).unwrap_err());
    assert_eq!(fixture.leftovers(), [] as [String; 0]);
    line
}

#[test]
fn odd_images_are_refused() {
    let no_layers = spoiled(|layout| {
        layout.layers.clear();
        layout.config["rootfs"]["diff_ids"] = json!([]);
    });
    assert!(no_layers.contains("0 layers"), "{no_layers}");
    let count = spoiled(|layout| layout.config["rootfs"]["diff_ids"] = json!([]));
    assert!(count.contains("1 layers") && count.contains("0 diff_ids"), "{count}");
    for (key, value) in [("os", "windows"), ("architecture", "s390x")] {
        let line = spoiled(|layout| layout.config[key] = json!(value));
        assert!(line.contains(value) && line.contains("linux/amd64"), "{line}");
    }
    let not_layers = spoiled(|layout| layout.config["rootfs"]["type"] = json!("tarballs"));
    assert!(not_layers.contains("tarballs"), "{not_layers}");
    let config = spoiled(|layout| layout.config = json!({ "secret": "hunter2" }));
    assert!(config.contains("malformed") && !config.contains("hunter2"), "{config}");
    for suffix in ["+encrypted", "+gzip+encrypted"] {
        let line = spoiled(|layout| layout.media_type = format!("{LAYER}{suffix}"));
        assert!(line.contains("media type") && line.contains(suffix), "{line}");
    }
    let foreign = spoiled(|layout| {
        layout.media_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into()
    });
    assert!(foreign.contains("foreign"), "{foreign}");
    let sha512 = spoiled(|layout| {
        layout.config["rootfs"]["diff_ids"] = json!([format!("sha512:{}", "0".repeat(128))])
    });
    assert!(sha512.contains("sha512"), "{sha512}");
}

#[test]
fn odd_layouts_are_refused() {
    let fixture = Fixture::new();
    let layer = Archive::new().file("f", b"x").finish();
    let dir = fixture.dir.path().join("layout");
    let layout = Layout::new(std::slice::from_ref(&layer));
    let source = layout.write(&dir);
    let import = |source: &Source| {
        chain(&fixture.store.import(source, None, &()).map(|image| image.id).unwrap_err())
    };

    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert!(import(&source).contains("2.0.0"));
    layout.write(&dir);
    let tagged = Source::parse(&format!("oci:{}:other", dir.display())).unwrap();
    assert!(import(&tagged).contains("\"other\"; the source has: latest"));

    // A manifest that is not what its digest says, or not as long.
    let (manifest, _) = layout.manifest();
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let path = dir.join("blobs/sha256").join(Digest::of(&manifest).hex());
    fs::write(&path, b"{}").unwrap();
    let line = import(&source);
    assert!(
        line.contains("digest mismatch") && line.contains(&Digest::of(b"{}").to_string()),
        "{line}"
    );
    fs::write(&path, &manifest).unwrap();
    let mut entry = layout::descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["size"] = json!(manifest.len() + 1);
    layout::write(&dir, &[], &json!([entry]));
    assert!(import(&source).contains("size mismatch"));

    // A configuration of something that is no container image.
    let mut odd: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    odd["config"]["mediaType"] = json!("application/vnd.example.artifact");
    let odd = serde_json::to_vec(&odd).unwrap();
    let entry = layout::descriptor("application/vnd.oci.image.manifest.v1+json", &odd);
    layout::write(&dir, &[odd], &json!([entry]));
    assert!(import(&source).contains("application/vnd.example.artifact"));

    // Indexes without end.
    let mut bytes = b"{}".to_vec();
    let mut blobs = Vec::new();
    for _ in 0..10 {
        let inner = layout::descriptor("application/vnd.oci.image.index.v1+json", &bytes);
        bytes = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [inner] })).unwrap();
        blobs.push(bytes.clone());
    }
    let entry = layout::descriptor("application/vnd.oci.image.index.v1+json", &bytes);
    layout::write(&dir, &blobs, &json!([entry]));
    assert!(import(&source).contains("nested"));

    // Files that lead out of the layout are not followed, and not waited for.
    fs::write(fixture.dir.path().join("secret"), "top secret").unwrap();
    fs::remove_file(dir.join("index.json")).unwrap();
    std::os::unix::fs::symlink(fixture.dir.path().join("secret"), dir.join("index.json")).unwrap();
    let line = import(&source);
    assert!(
        line.contains("index.json") && line.contains("symbolic link") && !line.contains("top"),
        "{line}"
    );
    fs::remove_file(dir.join("index.json")).unwrap();
    let status = std::process::Command::new("mkfifo").arg(dir.join("index.json")).status().unwrap();
    assert!(status.success());
    assert!(import(&source).contains("not a regular file"));
    assert_eq!(fixture.leftovers(), [] as [String; 0]);
}

#[test]
fn sources_are_parsed_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    for bad in
        ["debian", "docker:debian", "oci:", "oci:/nonexistent:tag", "docker-archive:/nonexistent"]
    {
        assert!(Source::parse(bad).is_err(), "{bad}");
    }
    let colon = dir.path().join("a:b");
    fs::create_dir(&colon).unwrap();
    for (text, shown) in [
        (format!("oci:{}", colon.display()), ""),
        (format!("oci:{}:1.0:x", colon.display()), ":1.0:x"),
    ] {
        assert_eq!(
            Source::parse(&text).unwrap().to_string(),
            format!("oci:{}{shown}", colon.display())
        );
    }
    let file = dir.path().join("empty.tar");
    fs::write(&file, [0; 1024]).unwrap();
    let source = Source::parse(&format!("docker-archive:{}", file.display())).unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    assert!(
        chain(&store.import(&source, None, &()).unwrap_err())
            .contains("neither manifest.json nor index.json")
    );
}
