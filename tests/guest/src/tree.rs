//! `probe tree ROOT`: one line for every file below ROOT that is not on another mount, and `mount PATH` for each of those.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use bulkhead_probe::{FileLine, escape, hex};
use rustix::fs::{lgetxattr, llistxattr, major, minor};
use sha2::{Digest, Sha256};

pub(crate) fn print(root: &str) -> Result<(), String> {
    let root = Path::new(root);
    let mounts = mount_points().map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    let mut lines = BTreeMap::new();
    let mut names: HashMap<(u64, u64), Vec<Vec<u8>>> = HashMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        if path != root && mounts.contains(&path) {
            println!(
                "mount /{}",
                escape(path.strip_prefix(root).unwrap_or(&path).as_os_str().as_bytes())
            );
            continue;
        }
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        let metadata = fs::symlink_metadata(&path).map_err(failed)?;
        if metadata.is_dir() {
            for item in fs::read_dir(&path).map_err(failed)? {
                pending.push(item.map_err(failed)?.path());
            }
        }
        let name = path.strip_prefix(root).unwrap_or(&path).as_os_str().as_bytes().to_vec();
        if metadata.nlink() > 1 && !metadata.is_dir() {
            names.entry((metadata.dev(), metadata.ino())).or_default().push(name.clone());
        }
        lines.insert(name.clone(), line(&path, name, &metadata).map_err(failed)?);
    }
    for mut same in names.into_values().filter(|same| same.len() > 1) {
        same.sort();
        for name in &same {
            if let Some(line) = lines.get_mut(name) {
                line.same_as.clone_from(&same[0]);
            }
        }
    }
    let mut out = BufWriter::new(io::stdout().lock());
    for line in lines.values() {
        writeln!(out, "{line}").map_err(|error| format!("standard output: {error}"))?;
    }
    out.flush().map_err(|error| format!("standard output: {error}"))
}

fn line(path: &Path, name: Vec<u8>, metadata: &fs::Metadata) -> io::Result<FileLine> {
    let file_type = metadata.file_type();
    let device = || format!("{}:{}", major(metadata.rdev()), minor(metadata.rdev()));
    let (kind, content) = if file_type.is_dir() {
        ('d', "-".to_owned())
    } else if file_type.is_symlink() {
        ('l', escape(fs::read_link(path)?.as_os_str().as_bytes()))
    } else if file_type.is_fifo() {
        ('p', "-".to_owned())
    } else if file_type.is_char_device() {
        ('c', device())
    } else if file_type.is_block_device() {
        ('b', device())
    } else if file_type.is_file() {
        ('f', checksum(path)?)
    } else {
        ('s', "-".to_owned())
    };
    Ok(FileLine {
        path: name,
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: if matches!(kind, 'f' | 'l') { metadata.size() } else { 0 },
        mtime: (metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap_or(u32::MAX)),
        content,
        same_as: Vec::new(),
        xattrs: xattrs(path)?,
    })
}

fn checksum(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 256 << 10];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&chunk[..n]),
        }
    }
}

fn xattrs(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![0; 4096];
    let length = match llistxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::NOTSUP) => 0,
        other => other?,
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65536];
        let length = lgetxattr(path, OsStr::from_bytes(name), &mut value[..])?;
        value.truncate(length);
        found.push((String::from_utf8_lossy(name).into_owned(), value));
    }
    found.sort();
    Ok(found)
}

/// Where something is mounted (proc(5), mountinfo: the fifth word, blanks as `\040`).
fn mount_points() -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let points = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let word = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(std::ffi::OsString::from_vec(word.to_vec())))
    });
    Ok(points.collect())
}
