//! An image in memory, and its two forms on disk: an OCI image layout and docker's archive.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Compression, Entry, ImageError, append, tar_of};

/// A layer: its archive and how it is stored.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The uncompressed tar archive.
    pub tar: Vec<u8>,
    /// How it is stored.
    pub compression: Compression,
}

impl Layer {
    /// The layer of these entries.
    #[must_use]
    pub fn new(entries: &[Entry], compression: Compression) -> Self {
        Self { tar: tar_of(entries), compression }
    }
}

/// What an image says about its container (OCI image-spec, config).
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`.
    pub env: Vec<String>,
    /// `User`.
    pub user: String,
    /// `WorkingDir`.
    pub working_dir: String,
    /// `StopSignal`.
    pub stop_signal: String,
}

/// An image.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Its layers, the lowest first.
    pub layers: Vec<Layer>,
    /// Its configuration.
    pub config: Config,
}

/// `sha256:<hex>` of these bytes.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", bulkhead_probe::hex(&Sha256::digest(bytes)))
}

impl Image {
    /// Reads back what [`Image::write_layout`] wrote.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub fn read_layout(directory: &Path) -> Result<Self, ImageError> {
        let index = read_json(&directory.join("index.json"))?;
        let manifest = read_json(&blob_path(directory, &index["manifests"][0]))?;
        let config = read_json(&blob_path(directory, &manifest["config"]))?;
        let mut layers = Vec::new();
        for layer in manifest["layers"].as_array().into_iter().flatten() {
            let path = blob_path(directory, layer);
            let compression = Compression::of(layer["mediaType"].as_str().unwrap_or_default());
            let blob = fs::read(&path).map_err(ImageError::at(&path))?;
            let tar = compression.decompress(&blob).map_err(ImageError::at(&path))?;
            layers.push(Layer { tar, compression });
        }
        let config = &config["config"];
        let word = |key: &str| config[key].as_str().unwrap_or_default().to_owned();
        let list = |key: &str| {
            let words = config[key].as_array().into_iter().flatten();
            words.filter_map(|word| word.as_str().map(str::to_owned)).collect()
        };
        let config = Config {
            entrypoint: list("Entrypoint"),
            cmd: list("Cmd"),
            env: list("Env"),
            user: word("User"),
            working_dir: word("WorkingDir"),
            stop_signal: word("StopSignal"),
        };
        Ok(Self { layers, config })
    }

    /// Its configuration document.
    #[must_use]
    pub fn config_json(&self) -> Value {
        let mut config = json!({});
        let lists = [
            ("Entrypoint", &self.config.entrypoint),
            ("Cmd", &self.config.cmd),
            ("Env", &self.config.env),
        ];
        for (key, list) in lists {
            if !list.is_empty() {
                config[key] = json!(list);
            }
        }
        let words = [
            ("User", &self.config.user),
            ("WorkingDir", &self.config.working_dir),
            ("StopSignal", &self.config.stop_signal),
        ];
        for (key, word) in words {
            if !word.is_empty() {
                config[key] = json!(word);
            }
        }
        let diff_ids: Vec<_> = self.layers.iter().map(|layer| digest_of(&layer.tar)).collect();
        json!({
            "architecture": "amd64",
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
    }

    /// Writes an OCI image layout (image-spec, image layout) with the tag `latest` into `directory`, which is made.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub fn write_layout(&self, directory: &Path) -> Result<(), ImageError> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(ImageError::at(&blobs))?;
        let mut layers = Vec::new();
        for layer in &self.layers {
            let blob = layer.compression.compress(&layer.tar).map_err(ImageError::at(&blobs))?;
            layers.push(write_blob(&blobs, layer.compression.media_type(), &blob)?);
        }
        let config = self.config_json().to_string();
        let config =
            write_blob(&blobs, "application/vnd.oci.image.config.v1+json", config.as_bytes())?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        });
        let mut manifest = write_blob(
            &blobs,
            "application/vnd.oci.image.manifest.v1+json",
            manifest.to_string().as_bytes(),
        )?;
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        manifest["platform"] = json!({"architecture": "amd64", "os": "linux"});
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [manifest],
        });
        write(&directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        write(&directory.join("index.json"), index.to_string().as_bytes())
    }

    /// Writes docker's archive (`docker save`) of the image, called `name`, to `file`; its layers are not compressed.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub fn write_docker_archive(&self, name: &str, file: &Path) -> Result<(), ImageError> {
        let mut out = Vec::new();
        let mut layers = Vec::new();
        for layer in &self.layers {
            let id = digest_of(&layer.tar).replace("sha256:", "");
            let path = format!("{id}/layer.tar");
            append(&mut out, &Entry::directory(&format!("{id}/")));
            append(&mut out, &Entry::file(&path, layer.tar.clone()));
            layers.push(path);
        }
        let config = self.config_json().to_string();
        let config_path = format!("{}.json", digest_of(config.as_bytes()).replace("sha256:", ""));
        append(&mut out, &Entry::file(&config_path, config));
        let manifest = json!([{"Config": config_path, "RepoTags": [name], "Layers": layers}]);
        append(&mut out, &Entry::file("manifest.json", manifest.to_string()));
        out.resize(out.len() + 1024, 0);
        write(file, &out)
    }
}

fn read_json(path: &Path) -> Result<Value, ImageError> {
    let text = fs::read(path).map_err(ImageError::at(path))?;
    serde_json::from_slice(&text).map_err(|error| ImageError::at(path)(error.into()))
}

fn blob_path(directory: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().unwrap_or_default();
    directory.join("blobs").join(digest.replace(':', "/"))
}

fn write_blob(blobs: &Path, media_type: &str, bytes: &[u8]) -> Result<Value, ImageError> {
    let digest = digest_of(bytes);
    let path: PathBuf = blobs.join(digest.replace("sha256:", ""));
    write(&path, bytes)?;
    Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    fs::File::create(path).and_then(|mut file| file.write_all(bytes)).map_err(ImageError::at(path))
}
