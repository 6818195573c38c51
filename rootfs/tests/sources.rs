//! Every form in which an image may come gives the same image.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests too"
)]

mod support;

use std::{fs, path::Path};

use bulkhead_rootfs::{Digest, Image, Source};
use serde_json::{Value, json};
use support::{
    Fixture,
    archive::{Archive, gzip},
    chain,
    layout::{self, Layout},
};

fn layers() -> Vec<Vec<u8>> {
    let one =
        Archive::new().dir("etc", 0o755).file("etc/passwd", b"root:x:0:0::/:/bin/sh\n").finish();
    let two = Archive::new().symlink("etc/users", "/etc/passwd").file("data", &[5; 9000]).finish();
    vec![one.clone(), two, one]
}

fn disk(image: &Image) -> Vec<u8> {
    image.disk_files().iter().flat_map(|file| fs::read(file).unwrap()).collect()
}

fn import_file(fixture: &Fixture, name: &str, bytes: &[u8], tag: &str) -> Result<Image, String> {
    let path = fixture.dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    let source = Source::parse(&format!("docker-archive:{}{tag}", path.display())).unwrap();
    fixture.store.import(&source, None, &()).map_err(|e| chain(&e))
}

#[test]
fn every_form_gives_the_same_image() {
    let layout = Layout::new(&layers());
    let reference = Fixture::new();
    let expected = reference.import(&layers()).unwrap();
    assert_eq!(expected.names, ["test:latest"]);
    assert_eq!(expected.created.as_deref(), Some("2026-01-02T03:04:05Z"));
    assert_eq!(
        expected.config.config().as_ref().unwrap().cmd().as_deref(),
        Some(&["/bin/sh".to_owned()][..])
    );
    assert_eq!(expected.read_file("/etc/users", 100).unwrap().unwrap(), b"root:x:0:0::/:/bin/sh\n");
    // The first and the last layer are one blob.
    assert_eq!(expected.disk_files().len(), 3);

    let old = Fixture::new();
    let image =
        import_file(&old, "old.tar", &layout::docker_archive(&layout, &["a/b:1", "c:2"]), "")
            .unwrap();
    assert_eq!(
        (image.id, image.names.clone()),
        (expected.id, vec!["a/b:1".to_owned(), "c:2".to_owned()])
    );
    assert!(disk(&image) == disk(&expected));

    let compressed = Fixture::new();
    let gzipped = Layout::new(&layers()).compressed(gzip, "+gzip");
    let image = import_file(&compressed, "gz.tar", &layout::docker_archive(&gzipped, &["a:1"]), "")
        .unwrap();
    assert!(disk(&image) == disk(&expected));

    // A layout in a tar file, with and without docker's manifest.json beside it.
    let new = Fixture::new();
    let dir = new.dir.path().join("layout");
    gzipped.write(&dir);
    let image = import_file(&new, "oci.tar", &layout::pack(&dir), "").unwrap();
    assert_eq!(image.names, ["oci:latest"]);
    assert!(disk(&image) == disk(&expected));
    let config = serde_json::to_vec(&gzipped.config).unwrap();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let names: Vec<_> = gzipped.layers.iter().map(|(layer, _)| blob(layer)).collect();
    let manifest = json!([{ "Config": blob(&config), "RepoTags": ["d:3"], "Layers": names }]);
    fs::write(dir.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    let image = import_file(&new, "both.tar", &layout::pack(&dir), "").unwrap();
    assert_eq!(image.names, ["d:3", "oci:latest"]);
}

#[test]
fn one_of_several_images_is_named() {
    let fixture = Fixture::new();
    let layout = Layout::new(&layers());
    let config = serde_json::to_vec(&layout.config).unwrap();
    let entry = |tag: &str| json!({ "Config": "config.json", "RepoTags": [tag], "Layers": ["0.tar", "1.tar", "0.tar"] });
    let archive = Archive::new()
        .file("config.json", &config)
        .file("0.tar", &layout.layers[0].0)
        .file("1.tar", &layout.layers[1].0)
        .file("manifest.json", &serde_json::to_vec(&json!([entry("a:1"), entry("b:2")])).unwrap())
        .finish();
    let line = import_file(&fixture, "two.tar", &archive, "").unwrap_err();
    assert!(line.contains("several images") && line.contains("a:1, b:2"), "{line}");
    assert_eq!(import_file(&fixture, "two.tar", &archive, ":b:2").unwrap().names, ["b:2"]);
}

#[test]
fn damaged_archives_are_refused() {
    let fixture = Fixture::new();
    let archive = layout::docker_archive(&Layout::new(&layers()), &["a:1"]);
    for cut in [600, 3000] {
        let line = import_file(&fixture, "cut.tar", &archive[..cut], "").unwrap_err();
        assert!(line.contains("cut short"), "{line}");
    }
    let layer_byte = archive.windows(14).position(|w| w == b"root:x:0:0::/:").unwrap();
    let mut flipped = archive.clone();
    flipped[layer_byte] ^= 1;
    let line = import_file(&fixture, "flipped.tar", &flipped, "").unwrap_err();
    assert!(
        line.contains("digest mismatch") && line.contains(&Digest::of(&layers()[0]).to_string()),
        "{line}"
    );
    let config_byte = archive.windows(7).position(|w| w == b"/bin/sh").unwrap();
    let mut flipped = archive;
    flipped[config_byte] ^= 1;
    assert!(
        import_file(&fixture, "flipped.tar", &flipped, "").unwrap_err().contains("digest mismatch")
    );
    let looping = Archive::new().symlink("manifest.json", "manifest.json").finish();
    assert!(import_file(&fixture, "loop.tar", &looping, "").is_err());
    assert_eq!(fixture.leftovers(), [] as [String; 0]);
}

#[test]
fn the_platform_is_chosen_from_nested_indexes() {
    let fixture = Fixture::new();
    let dir = fixture.dir.path().join("many");
    let layout = Layout::new(&layers());
    let (manifest, mut blobs) = layout.manifest();
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let on = |platform: Value, blob: &[u8]| {
        let mut entry = layout::descriptor("application/vnd.oci.image.manifest.v1+json", blob);
        entry["platform"] = platform;
        entry
    };
    let nonsense = b"not for us".to_vec();
    let index = json!({ "schemaVersion": 2, "manifests": [
        on(json!({ "os": "linux", "architecture": "arm64" }), &nonsense),
        on(json!({ "os": "unknown", "architecture": "unknown" }), &nonsense),
        on(json!({ "os": "linux", "architecture": "amd64", "variant": "v3" }), &nonsense),
        on(json!({ "os": "linux", "architecture": "amd64" }), &manifest),
    ]});
    let index = serde_json::to_vec(&index).unwrap();
    let mut top =
        layout::descriptor("application/vnd.docker.distribution.manifest.list.v2+json", &index);
    top["annotations"] = json!({ "org.opencontainers.image.ref.name": "12", "io.containerd.image.name": "example/debian:12" });
    let foreign = on(json!({ "os": "linux", "architecture": "ppc64le" }), &nonsense);
    blobs.extend([manifest, index]);
    layout::write(&dir, &blobs, &json!([top, foreign]));
    let import = |tag: &str| {
        let source = Source::parse(&format!("oci:{}{tag}", dir.display())).unwrap();
        fixture.store.import(&source, None, &()).map_err(|e| chain(&e))
    };
    for tag in ["", ":12", ":example/debian:12"] {
        assert_eq!(import(tag).unwrap().names, ["example/debian:12"], "{tag}");
    }
    assert_eq!(fixture.store.get("debian:12").unwrap().names, ["example/debian:12"]);
    layout::write(&dir, &[], &json!([foreign]));
    let line = import("").unwrap_err();
    assert!(line.contains("linux/ppc64le") && line.contains("linux/amd64"), "{line}");
}

#[test]
fn a_layout_is_never_changed() {
    let fixture = Fixture::new();
    let dir = fixture.dir.path().join("layout");
    let source = Layout::new(&layers()).write(&dir);
    let before = listing(&dir);
    fixture.store.import(&source, Some("x"), &()).unwrap();
    assert_eq!(listing(&dir), before);
}

fn listing(dir: &Path) -> Vec<(String, std::time::SystemTime)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap().chain(fs::read_dir(dir.join("blobs/sha256")).unwrap()) {
        let entry = entry.unwrap();
        all.push((
            entry.path().display().to_string(),
            entry.metadata().unwrap().modified().unwrap(),
        ));
    }
    all.sort();
    all
}
