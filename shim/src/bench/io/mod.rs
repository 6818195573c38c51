//! `bulkhead bench io`: files and streams of a container in a microVM and on the host's kernel, in turns: the image's disk and the writable layer,
//! a shared directory, standard input and output.

mod container;
mod steps;

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

pub use super::orders::Options;

pub(super) use self::steps::STEPS;
use self::{
    container::{Container, Making},
    steps::LARGE,
};
use super::{
    BenchError, host,
    orders::{Area, group, measure},
    process,
    report::{Kind, Report},
    stage::image_of,
    work::Work,
};
use crate::settings::{Isolation, Settings};

/// Measures.
///
/// # Errors
/// [`BenchError`]; everything that was started is removed.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let settings = Settings::load()?;
    let scout = settings.scout()?;
    image_of(&settings, &options.image)?;
    process::prepare()?;
    let work = Work::new(&settings)?;
    let (program, share, files) = (work.file("program"), work.file("share"), work.file(""));
    prepare(&scout, &program, &share, options)?;
    let mut notes = Vec::new();
    let title = format!("Files and streams of {}", options.image);
    let mut report = Report::new(Kind::Io, &title, host::facts());
    let making = Making {
        settings: &settings,
        image: &options.image,
        scout: &program,
        share: &share,
        files: &files,
        limit: options.limit,
    };
    let mut containers = Vec::new();
    for (isolation, about) in [
        (
            Isolation::Vm,
            "bulkhead run: an EROFS disk of the image and an ext4 disk over it, virtio-fs, streams over vsock",
        ),
        (
            Isolation::Host,
            "bulkhead run --isolation host: the same image and a directory over it, a bind mount, pipes",
        ),
    ] {
        if !options.wants(isolation, &mut notes) {
            continue;
        }
        containers.push(Container::start(&making, isolation)?);
        report.subject(isolation.name(), isolation.name(), about);
    }
    if containers.is_empty() {
        return Err(BenchError::Usage(notes.join("; ")));
    }
    let mut scouts: Vec<_> = containers.iter_mut().map(|container| &mut container.scout).collect();
    let costs = measure(&mut scouts, STEPS, options.rounds, (options.bytes, options.count))?;
    for container in containers {
        container.end()?;
    }
    report.groups =
        [Area::Block, Area::Share, Area::Streams].map(|area| group(area, STEPS, &costs)).into();
    notes.push(format!(
        "Each step was done {} times in one container of each isolation, in turns. The host's own cache may hold what a container reads for the first time.",
        options.rounds
    ));
    report.notes = notes;
    Ok(report)
}

/// The scout's directory, and a shared one for each isolation with a file to read.
fn prepare(
    scout: &Path,
    program: &Path,
    share: &Path,
    options: &Options,
) -> Result<(), BenchError> {
    let failed = || BenchError::host("make the bench's files");
    let shares = [Isolation::Vm, Isolation::Host].map(|isolation| share.join(isolation.name()));
    for directory in shares.iter().map(PathBuf::as_path).chain([program]) {
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(directory);
        made.map_err(failed())?;
    }
    fs::copy(scout, program.join("scout")).map_err(failed())?;
    let length = options.bytes.saturating_mul(options.rounds);
    for share in shares {
        let mut large = fs::File::create(share.join(LARGE)).map_err(failed())?;
        std::io::copy(&mut std::io::Read::take(std::io::repeat(7), length), &mut large)
            .map_err(failed())?;
    }
    Ok(())
}
