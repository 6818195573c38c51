//! How fast an image comes into the store, beside `tar x` of the same layers.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use bulkhead_tests::{
    harness::binary,
    image::{Image, Name, cached},
};

use super::{
    Reason,
    report::{Report, Unit},
};

pub(crate) fn measure(report: &mut Report, runs: u8) {
    match samples(runs) {
        Ok((megabytes, ours, theirs)) => {
            let what =
                format!("the python image, {megabytes:.1} MB of tar in two layers, gzip and zstd");
            let how =
                format!("`bulkhead image import` into an empty store, with all digests; {what}");
            report.add("import into EROFS", Unit::Rate, &ours, &how);
            let how = format!(
                "`tar x` of each layer into an empty directory of the same file system; {what}"
            );
            report.add("tar x", Unit::Rate, &theirs, &how);
        }
        Err(reason) => report.fail("import into EROFS", &reason),
    }
}

/// Megabytes of tar, and the rates of both.
fn samples(runs: u8) -> Result<(f64, Vec<f64>, Vec<f64>), Reason> {
    let layout = cached(Name::Python).map_err(|error| error.to_string())?;
    let image = Image::read_layout(&layout).map_err(|error| error.to_string())?;
    let bytes: usize = image.layers.iter().map(|layer| layer.tar.len()).sum();
    #[allow(clippy::cast_precision_loss, reason = "an image is small")]
    let megabytes = bytes as f64 / 1e6;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        ours.push(megabytes / seconds(|directory| import(&layout, directory))?);
        theirs.push(megabytes / seconds(|directory| unpack(&layout, directory))?);
    }
    Ok((megabytes, ours, theirs))
}

fn seconds(work: impl FnOnce(&Path) -> Result<(), Reason>) -> Result<f64, Reason> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let begin = Instant::now();
    work(directory.path())?;
    Ok(begin.elapsed().as_secs_f64())
}

fn import(layout: &Path, directory: &Path) -> Result<(), Reason> {
    let mut command = Command::new(binary("bulkhead"));
    command
        .args(["image", "import", "--quiet", &format!("oci:{}", layout.display())])
        .env("BULKHEAD_DATA", directory.join("data"))
        .env("BULKHEAD_RUN", directory.join("run"));
    run(&mut command)
}

/// The layers are the two largest blobs; zstd is told from gzip by its first byte.
fn unpack(layout: &Path, directory: &Path) -> Result<(), Reason> {
    let failed = |error: std::io::Error| format!("{}: {error}", layout.display());
    let mut blobs = Vec::new();
    for item in fs::read_dir(layout.join("blobs/sha256")).map_err(failed)? {
        let item = item.map_err(failed)?;
        blobs.push((item.metadata().map_err(failed)?.len(), item.path()));
    }
    blobs.sort();
    for (_, blob) in blobs.iter().rev().take(2) {
        let first = fs::File::open(blob).and_then(|mut file| {
            let mut byte = [0];
            std::io::Read::read_exact(&mut file, &mut byte).map(|()| byte[0])
        });
        let how = if first.map_err(failed)? == 0x28 { "--zstd" } else { "--gzip" };
        run(Command::new("tar").args(["-x", how, "-C"]).arg(directory).arg("-f").arg(blob))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<(), Reason> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
