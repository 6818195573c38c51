//! The distribution's packages: which versions apt would take, their files in a cache, and the members of one.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::fs::FlockOperation;

use super::{Entry, ImageError, Kind};

/// A package as apt would download it.
#[derive(Debug, Clone)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// The file's name, which has the version.
    pub file: String,
    /// The file's hash as the archive's index says it, `SHA256:<hex>`.
    pub hash: String,
}

/// Fetches apt's index of packages.
///
/// # Errors
/// [`ImageError::Program`].
pub(super) fn refresh() -> Result<(), ImageError> {
    eprintln!("images: fetching the package index");
    run(apt(Path::new("/")).args(["-q", "update"])).map(drop)
}

/// Asks apt which files these packages are, by the index that is there.
///
/// # Errors
/// [`ImageError::Program`].
pub fn resolve(names: &[&str]) -> Result<Vec<Package>, ImageError> {
    let printed = run(apt(Path::new("/")).args(["download", "--print-uris"]).args(names))?;
    let mut packages: Vec<_> = printed
        .lines()
        .filter_map(|line| {
            // 'URI' FILE SIZE HASH
            let mut words = line.rsplitn(4, ' ');
            let (hash, _size, file) = (words.next()?, words.next()?, words.next()?);
            words.next()?.starts_with('\'').then(|| Package {
                name: file.split('_').next().unwrap_or(file).to_owned(),
                file: file.to_owned(),
                hash: hash.to_owned(),
            })
        })
        .collect();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    for name in names {
        if !packages.iter().any(|package| package.name == *name) {
            return Err(ImageError::Program {
                program: "apt-get download".to_owned(),
                reason: format!("it does not know the package {name}"),
            });
        }
    }
    Ok(packages)
}

/// The files of these packages in `directory`; those that are missing are downloaded, checked by apt.
///
/// # Errors
/// [`ImageError::Program`] or [`ImageError::File`].
pub(super) fn download(packages: &[Package], directory: &Path) -> Result<Vec<PathBuf>, ImageError> {
    fs::create_dir_all(directory).map_err(ImageError::at(directory))?;
    let lock = fs::File::open(directory).map_err(ImageError::at(directory))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| ImageError::at(directory)(error.into()))?;
    let missing: Vec<_> = packages
        .iter()
        .filter(|package| !directory.join(&package.file).exists())
        .map(|package| package.name.as_str())
        .collect();
    if !missing.is_empty() {
        eprintln!("images: downloading {} packages", missing.len());
        run(apt(directory).args(["-q", "download"]).args(missing))?;
    }
    Ok(packages.iter().map(|package| directory.join(&package.file)).collect())
}

fn apt(directory: &Path) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-o", "APT::Sandbox::User=root"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8")
        .current_dir(directory);
    command
}

fn run(command: &mut Command) -> Result<String, ImageError> {
    let program = format!("{command:?}");
    let failed = |reason: String| ImageError::Program { program: program.clone(), reason };
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let last_words = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        return Err(failed(last_words));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The members of a package's file, as a layer would have them: paths without `./` or a leading `/`.
///
/// # Errors
/// [`ImageError::Program`] or [`ImageError::File`].
pub fn members(file: &Path) -> Result<Vec<Entry>, ImageError> {
    let failed = |reason: String| ImageError::Program {
        program: format!("dpkg-deb --fsys-tarfile {}", file.display()),
        reason,
    };
    let output = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(file)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let mut archive = tar::Archive::new(output.stdout.as_slice());
    let mut entries = Vec::new();
    for member in archive.entries().map_err(ImageError::at(file))? {
        let member = member.map_err(ImageError::at(file))?;
        entries.extend(entry_of(member).map_err(ImageError::at(file))?);
    }
    Ok(entries)
}

fn entry_of(mut member: tar::Entry<'_, &[u8]>) -> std::io::Result<Option<Entry>> {
    let path = clean(&member.path_bytes());
    if path.is_empty() {
        return Ok(None);
    }
    let link = member.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
    let kind = match member.header().entry_type() {
        tar::EntryType::Directory => Kind::Directory,
        tar::EntryType::Symlink => Kind::Symlink(link),
        tar::EntryType::Link => Kind::HardLink(clean(&link)),
        tar::EntryType::Regular => {
            let mut data = Vec::new();
            member.read_to_end(&mut data)?;
            Kind::File(data)
        }
        other => {
            return Err(std::io::Error::other(format!(
                "a package with a member of type {other:?}"
            )));
        }
    };
    let header = member.header();
    let small = |id: u64| u32::try_from(id).unwrap_or(u32::MAX);
    Ok(Some(Entry {
        path,
        kind,
        mode: header.mode()? & 0o7777,
        uid: small(header.uid()?),
        gid: small(header.gid()?),
        mtime: (i64::try_from(header.mtime()?).unwrap_or(0), 0),
        xattrs: Vec::new(),
    }))
}

fn clean(path: &[u8]) -> Vec<u8> {
    let path = path.strip_prefix(b".").filter(|rest| rest.starts_with(b"/")).unwrap_or(path);
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path == b"." { Vec::new() } else { path.to_vec() }
}
