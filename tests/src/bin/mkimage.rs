//! `mkimage NAME OUT`: writes one of the catalogue's images as an OCI image layout, made from the distribution's packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use bulkhead_tests::image::{ImageError, Name, cached};
use clap::Parser;

/// Makes an OCI image from the distribution's packages.
#[derive(Parser)]
struct Arguments {
    /// busybox, debian or python
    name: String,
    /// Where to put the image layout; an older one there is replaced
    out: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match make(&arguments.name, &arguments.out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mkimage: {error}");
            ExitCode::FAILURE
        }
    }
}

fn make(name: &str, out: &Path) -> Result<(), ImageError> {
    let layout = cached(name.parse::<Name>()?)?;
    let at = |source| ImageError::File { path: out.display().to_string(), source };
    let parent =
        out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(at)?;
    let unfinished = tempfile::Builder::new().prefix(".mkimage-").tempdir_in(parent).map_err(at)?;
    let copy = unfinished.path().join("new");
    copy_tree(&layout, &copy).map_err(at)?;
    if out.join("oci-layout").exists() {
        fs::rename(out, unfinished.path().join("old")).map_err(at)?;
    }
    fs::rename(&copy, out).map_err(at)
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir(to)?;
    for item in fs::read_dir(from)? {
        let item = item?;
        let target = to.join(item.file_name());
        if item.file_type()?.is_dir() {
            copy_tree(&item.path(), &target)?;
        } else {
            fs::copy(item.path(), target)?;
        }
    }
    Ok(())
}
