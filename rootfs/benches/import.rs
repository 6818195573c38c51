//! Import of a layer beside `tar -x` of the same layer, in the same run: `cargo bench -p bulkhead-rootfs [-- --json FILE] [--rounds N] [--dir DIR]`.
//!
//! The layer is made here, the same on every machine: file sizes as in a distribution's image, text that compresses about as well as programs
//! do. MB/s are megabytes of the uncompressed layer. An import ends with everything durable on disk (fsync); `tar -x` does not wait for that, so a
//! second figure for it includes `sync -f` of its directory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark may stop when something is wrong"
)]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bulkhead_rootfs::{Digest, Source, Store};
use serde_json::{Value, json};

/// Bytes of file content in the layer.
const CONTENT: usize = 128 << 20;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Many small files, few big ones: four of five below 16 KiB, one of two hundred of megabytes.
fn layer() -> (Vec<u8>, usize) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let words: Vec<Vec<u8>> = (0..4096)
        .map(|_| {
            (0..3 + random.below(9)).map(|_| u8::try_from(random.below(256)).unwrap()).collect()
        })
        .collect();
    let mut builder = tar::Builder::new(Vec::new());
    let (mut total, mut files) = (0, 0);
    while total < CONTENT {
        let size = match random.below(200) {
            0..160 => random.below(16 << 10),
            160..190 => random.below(64 << 10),
            190..199 => random.below(512 << 10),
            _ => random.below(4 << 20),
        };
        let size = usize::try_from(size).unwrap();
        let mut data = Vec::with_capacity(size + 16);
        while data.len() < size {
            // Skewed, so that some words are common.
            let word = random.below(64) * random.below(64);
            data.extend_from_slice(&words[usize::try_from(word).unwrap()]);
        }
        data.truncate(size);
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(data.len() as u64);
        builder
            .append_data(
                &mut header,
                format!("usr/d{}/d{}/file{files}", files / 1000, files / 50 % 20),
                &data[..],
            )
            .unwrap();
        (total, files) = (total + size, files + 1);
    }
    (builder.into_inner().unwrap(), files)
}

fn layout(dir: &Path, layer: &[u8], blob: &[u8], suffix: &str) -> Source {
    let put = |kind: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(dir.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": kind, "digest": digest.to_string(), "size": bytes.len() })
    };
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let config = json!({ "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": [Digest::of(layer).to_string()] } });
    let config =
        put("application/vnd.oci.image.config.v1+json", &serde_json::to_vec(&config).unwrap());
    let blob = put(&format!("application/vnd.oci.image.layer.v1.tar{suffix}"), blob);
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [blob] });
    let manifest =
        put("application/vnd.oci.image.manifest.v1+json", &serde_json::to_vec(&manifest).unwrap());
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(
        dir.join("index.json"),
        serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [manifest] })).unwrap(),
    )
    .unwrap();
    Source::parse(&format!("oci:{}", dir.display())).unwrap()
}

/// Seconds that `work` takes, once what was written before is on disk.
fn timed(dir: &Path, work: impl FnOnce()) -> f64 {
    let sync = Command::new("sync").arg("-f").arg(dir).status().unwrap();
    assert!(sync.success());
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn extract(blob: &Path, filter: &[&str], to: &Path, durable: bool) {
    fs::create_dir(to).unwrap();
    let status = Command::new("tar")
        .args(filter)
        .arg("-x")
        .arg("-f")
        .arg(blob)
        .arg("-C")
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success(), "tar -x");
    if durable {
        assert!(Command::new("sync").arg("-f").arg(to).status().unwrap().success());
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn field(file: &str, key: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
}

fn machine(dir: &Path, layer: &[u8]) -> Value {
    let said = |program: &str, args: &[&str]| {
        let output =
            Command::new(program).args(args).output().map(|o| o.stdout).unwrap_or_default();
        String::from_utf8_lossy(&output).trim().to_owned()
    };
    let flags = field("/proc/cpuinfo", "flags");
    let cpu_time = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(u64::try_from(now.tv_sec).unwrap(), u32::try_from(now.tv_nsec).unwrap())
    };
    let start = cpu_time();
    let digest = Digest::of(layer);
    #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
    let sha256 = (layer.len() as f64 / 1e6 / (cpu_time() - start).as_secs_f64()).round();
    json!({
        "cpu": field("/proc/cpuinfo", "model name"),
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "sha_ni": flags.split(' ').any(|flag| flag == "sha_ni"),
        // What one thread hashes in a second of CPU time: far below 1000 where the CPU's SHA instructions are not used.
        "sha256_mb_s": sha256,
        "layer": digest.to_string(),
        "kernel": said("uname", &["-r"]),
        "file_system": said("stat", &["-f", "-c", "%T", &dir.display().to_string()]),
        "tar": said("tar", &["--version"]).lines().next().unwrap_or_default(),
    })
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value =
        |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1));
    let rounds: usize =
        value("--rounds").map_or(3, |n| n.parse().expect("--rounds takes a number"));
    let dir = {
        let parent = value("--dir").map_or_else(std::env::temp_dir, PathBuf::from);
        tempfile::Builder::new().prefix("bulkhead-bench-").tempdir_in(parent).unwrap()
    };
    let root = dir.path().canonicalize().unwrap();
    let (layer, files) = layer();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    gzip.write_all(&layer).unwrap();
    let forms = [
        ("none", "", layer.clone(), &[][..]),
        ("gzip", "+gzip", gzip.finish().unwrap(), &["-z"][..]),
        ("zstd", "+zstd", zstd::encode_all(&layer[..], 3).unwrap(), &["--zstd"][..]),
    ];
    let machine = machine(&root, &layer);
    println!("layer: {} MB, {files} files; {machine}", layer.len() / 1_000_000);
    println!(
        "{:<6} {:>10} {:>14} {:>14} {:>18}",
        "blob", "blob MB", "import MB/s", "tar -x MB/s", "tar -x+sync MB/s"
    );
    let has_zstd = Command::new("zstd")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    let mut results = Vec::new();
    #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
    let megabytes = layer.len() as f64 / 1e6;
    for (name, suffix, blob, filter) in forms {
        let blob_path: PathBuf = root.join(format!("layer-{name}"));
        fs::write(&blob_path, &blob).unwrap();
        let source = layout(&root.join(format!("layout-{name}")), &layer, &blob, suffix);
        let (mut import, mut tar, mut tar_sync) = (Vec::new(), Vec::new(), Vec::new());
        // Taken in turns, so that what else the machine does meets all of them.
        for round in 0..rounds {
            let store_path = root.join("store");
            let store = Store::open(&store_path).unwrap();
            import.push(
                megabytes
                    / timed(&root, || drop(store.import(&source, Some("bench"), &()).unwrap())),
            );
            fs::remove_dir_all(&store_path).unwrap();
            if name == "zstd" && !has_zstd {
                continue;
            }
            for (times, durable) in [(&mut tar, false), (&mut tar_sync, true)] {
                let to = root.join(format!("extracted-{round}"));
                times.push(megabytes / timed(&root, || extract(&blob_path, filter, &to, durable)));
                fs::remove_dir_all(&to).unwrap();
            }
        }
        let middle = |values: &[f64]| {
            if values.is_empty() { Value::Null } else { json!(median(values.to_vec()).round()) }
        };
        let show = |values: &[f64]| {
            if values.is_empty() {
                "no zstd".to_owned()
            } else {
                format!("{:.0}", median(values.to_vec()))
            }
        };
        println!(
            "{name:<6} {:>10} {:>14} {:>14} {:>18}",
            blob.len() / 1_000_000,
            show(&import),
            show(&tar),
            show(&tar_sync)
        );
        results.push(json!({
            "blob": name, "blob_bytes": blob.len(), "layer_bytes": layer.len(), "files": files, "rounds": rounds,
            "import_mb_s": middle(&import), "tar_mb_s": middle(&tar), "tar_sync_mb_s": middle(&tar_sync),
            "all": { "import": import, "tar": tar, "tar_sync": tar_sync },
        }));
    }
    if let Some(path) = value("--json") {
        fs::write(
            path,
            serde_json::to_vec_pretty(
                &json!({ "benchmark": "import", "machine": machine, "results": results }),
            )
            .unwrap(),
        )
        .unwrap();
    }
}
