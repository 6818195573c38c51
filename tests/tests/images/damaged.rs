//! Images that are cut short, changed, incomplete, or something else altogether.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bulkhead_tests::{
    harness::Host,
    image::{Compression, Entry, Image, Layer, digest_of},
};
use serde_json::{Value, json};

use super::{assert_import_refused, image};

/// An image layout on a host, to be damaged.
struct Layout {
    host: Host,
    directory: PathBuf,
}

impl Layout {
    fn of(image: &Image) -> Self {
        let host = Host::new();
        let directory = host.path("layout");
        image.write_layout(&directory).unwrap();
        Self { host, directory }
    }

    fn good() -> Self {
        // Enough that a cut is in the middle of something.
        let data: Vec<u8> = (0..200_000u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
        Self::of(&image(&[vec![Entry::file("data", data)], vec![Entry::file("more", "x")]]))
    }

    fn source(&self) -> String {
        format!("oci:{}", self.directory.display())
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.directory.join("blobs").join(digest.replace(':', "/"))
    }

    fn read(&self, path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    fn index(&self) -> Value {
        self.read(&self.directory.join("index.json"))
    }

    fn manifest(&self) -> Value {
        self.read(&self.blob(self.index()["manifests"][0]["digest"].as_str().unwrap()))
    }

    fn layer_digest(&self, layer: usize) -> String {
        self.manifest()["layers"][layer]["digest"].as_str().unwrap().to_owned()
    }

    /// Puts a changed manifest in the place of the old one, with the right digest.
    fn change_manifest(&self, change: impl FnOnce(&mut Value)) {
        let mut manifest = self.manifest();
        change(&mut manifest);
        let text = manifest.to_string();
        let digest = digest_of(text.as_bytes());
        fs::write(self.blob(&digest), &text).unwrap();
        let mut index = self.index();
        index["manifests"][0]["digest"] = json!(digest);
        index["manifests"][0]["size"] = json!(text.len());
        fs::write(self.directory.join("index.json"), index.to_string()).unwrap();
    }

    /// Puts a changed configuration in the place of the old one, with the right digest.
    fn change_config(&self, change: impl FnOnce(&mut Value)) {
        let manifest = self.manifest();
        let mut config = self.read(&self.blob(manifest["config"]["digest"].as_str().unwrap()));
        change(&mut config);
        self.replace_config(&config.to_string());
    }

    fn replace_config(&self, text: &str) {
        let digest = digest_of(text.as_bytes());
        fs::write(self.blob(&digest), text).unwrap();
        self.change_manifest(|manifest| {
            manifest["config"]["digest"] = json!(digest);
            manifest["config"]["size"] = json!(text.len());
        });
    }

    #[track_caller]
    fn assert_refused(&self, names: &[&str]) {
        assert_import_refused(&self.host, &self.source(), names);
    }
}

/// A digest as a message may shorten it.
fn short(digest: &str) -> &str {
    &digest["sha256:".len()..][..12]
}

#[test]
fn a_truncated_layer_is_refused() {
    for layer in [0, 1] {
        let layout = Layout::good();
        let digest = layout.layer_digest(layer);
        let path = layout.blob(&digest);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        layout.assert_refused(&[short(&digest)]);
        fs::write(&path, b"").unwrap();
        layout.assert_refused(&[short(&digest)]);
        // What was refused is taken when it is whole again.
        fs::write(&path, bytes).unwrap();
        layout.host.run(&["image", "import", &layout.source()]).assert_code(0);
    }
}

#[test]
fn a_layer_cut_before_it_was_digested_is_refused() {
    let whole = image(&[vec![Entry::file("cut-file", vec![7; 100_000])]]);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let mut cut = whole.clone();
        let tar = whole.layers[0].tar[..50_000].to_vec();
        cut.layers[0] = Layer { tar, compression };
        Layout::of(&cut).assert_refused(&["cut"]);
    }
}

#[test]
fn a_changed_layer_is_refused() {
    for layer in [0, 1] {
        let layout = Layout::good();
        let digest = layout.layer_digest(layer);
        let path = layout.blob(&digest);
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        layout.assert_refused(&[short(&digest)]);
    }
}

#[test]
fn another_good_layer_under_a_layers_digest_is_refused() {
    let layout = Layout::good();
    let digest = layout.layer_digest(0);
    let other = Layer::new(&[Entry::file("other", "y")], Compression::Gzip);
    fs::write(layout.blob(&digest), other.compression.compress(&other.tar).unwrap()).unwrap();
    layout.assert_refused(&[short(&digest)]);
}

#[test]
fn a_layer_that_the_configuration_does_not_know_is_refused() {
    let layout = Layout::good();
    let wrong = format!("sha256:{}", "ab".repeat(32));
    layout.change_config(|config| config["rootfs"]["diff_ids"][0] = json!(wrong));
    layout.assert_refused(&["digest", short(&wrong)]);
    let layout = Layout::good();
    layout.change_config(|config| config["rootfs"]["diff_ids"] = json!([]));
    layout.assert_refused(&["layers"]);
}

#[test]
fn a_missing_blob_is_named() {
    let layout = Layout::good();
    let digest = layout.layer_digest(1);
    fs::remove_file(layout.blob(&digest)).unwrap();
    layout.assert_refused(&[short(&digest)]);

    let layout = Layout::good();
    let digest = layout.manifest()["config"]["digest"].as_str().unwrap().to_owned();
    fs::remove_file(layout.blob(&digest)).unwrap();
    layout.assert_refused(&[short(&digest)]);
}

#[test]
fn a_changed_manifest_or_configuration_is_refused() {
    for what in ["manifest", "config"] {
        let layout = Layout::good();
        let digest = match what {
            "manifest" => layout.index()["manifests"][0]["digest"].clone(),
            _ => layout.manifest()["config"]["digest"].clone(),
        };
        let path = layout.blob(digest.as_str().unwrap());
        let text = fs::read_to_string(&path).unwrap().replacen('{', "{ ", 1);
        fs::write(&path, text).unwrap();
        layout.assert_refused(&[short(digest.as_str().unwrap())]);
    }
}

#[test]
fn an_image_without_layers_is_refused() {
    let layout = Layout::of(&image(&[]));
    layout.assert_refused(&["0 layers"]);
}

#[test]
fn a_configuration_that_is_none_is_refused() {
    for text in ["not JSON", "[]", "{}", r#"{"architecture":"amd64","os":"linux","rootfs":7}"#] {
        let layout = Layout::good();
        layout.replace_config(text);
        layout.assert_refused(&[short(&digest_of(text.as_bytes()))]);
    }
}

#[test]
fn an_image_for_another_machine_is_refused() {
    for (key, value) in [("architecture", "riscv64"), ("os", "plan9")] {
        let layout = Layout::good();
        layout.change_config(|config| config[key] = json!(value));
        layout.change_manifest(|_| {});
        let mut index = layout.index();
        index["manifests"][0].as_object_mut().unwrap().remove("platform");
        fs::write(layout.directory.join("index.json"), index.to_string()).unwrap();
        layout.assert_refused(&[value]);
    }
}

#[test]
fn what_is_no_image_is_refused() {
    let layout = Layout::good();
    let kind = "application/vnd.example.recipe.v1+json";
    layout.change_manifest(|manifest| manifest["config"]["mediaType"] = json!(kind));
    layout.assert_refused(&[kind]);

    let layout = Layout::good();
    let kind = "application/vnd.example.layer.v1+brotli";
    layout.change_manifest(|manifest| manifest["layers"][0]["mediaType"] = json!(kind));
    layout.assert_refused(&[kind]);
}

#[test]
fn a_digest_that_is_a_path_is_refused() {
    let layout = Layout::good();
    let digest = "sha256:../../../../../../etc/passwd";
    layout.change_manifest(|manifest| manifest["layers"][0]["digest"] = json!(digest));
    layout.assert_refused(&["../etc/passwd"]);
}

#[test]
fn a_source_that_is_not_there_is_named() {
    let host = Host::new();
    assert_import_refused(&host, "oci:/no/such/layout", &["/no/such/layout"]);
    assert_import_refused(&host, "docker-archive:/no/such/file.tar", &["/no/such/file.tar"]);
    assert_import_refused(&host, "ftp:somewhere", &["ftp:somewhere"]);
    let empty = host.path("empty");
    fs::create_dir(&empty).unwrap();
    assert_import_refused(&host, &format!("oci:{}", empty.display()), &["empty"]);
    let layout = Layout::good();
    let source = format!("{}:no-such-tag", layout.source());
    assert_import_refused(&layout.host, &source, &["no-such-tag"]);
}

#[test]
fn a_docker_archive_that_is_cut_is_refused() {
    let host = Host::new();
    let file = host.path("image.tar");
    image(&[vec![Entry::file("data", vec![7; 100_000])]])
        .write_docker_archive("example:1", &file)
        .unwrap();
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..60_000]).unwrap();
    let source = format!("docker-archive:{}", file.display());
    assert_import_refused(&host, &source, &["image.tar"]);
    fs::write(&file, b"this is no archive").unwrap();
    assert_import_refused(&host, &source, &["image.tar"]);
}
