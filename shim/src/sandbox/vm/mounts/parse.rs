//! What mounts ask for, by their words alone.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bulkhead_rootfs::snapshot::Marks;

use super::{Kind, Mount};

/// What a list of mounts asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Bind {
        path: PathBuf,
        read_only: bool,
    },
    Disk {
        path: PathBuf,
        kind: Kind,
        read_only: bool,
    },
    Overlay {
        /// The uppermost first.
        lower: Vec<PathBuf>,
        upper: Option<Upper>,
        marks: Marks,
    },
}

/// The directories of an overlay that are written to: two in one, so that files can be moved from one to the other.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Upper {
    pub(super) snapshot: PathBuf,
    pub(super) upper: String,
    pub(super) work: String,
}

/// Options of an overlay that change nothing of what it shows or that a guest's overlay has anyway.
const USUAL: [&str; 7] = [
    "rw",
    "index=off",
    "metacopy=off",
    "nfs_export=off",
    "redirect_dir=off",
    "redirect_dir=nofollow",
    "volatile",
];

/// The error is what is not understood.
pub(super) fn parse(mounts: &[Mount]) -> Result<Asked, String> {
    let [mount] = mounts else {
        return Err(format!("{} of them; one is possible", mounts.len()));
    };
    if !matches!(mount.target.as_str(), "" | "/") {
        return Err(format!("{} is below the root", mount.target));
    }
    match mount.kind.as_str() {
        "overlay" => overlay(mount),
        "bind" => bind(mount),
        "ext4" => disk(mount, Kind::Ext4),
        "erofs" => disk(mount, Kind::Erofs),
        other => Err(format!("{other:?} is no kind that a microVM takes")),
    }
}

fn bind(mount: &Mount) -> Result<Asked, String> {
    let mut read_only = false;
    for option in &mount.options {
        match option.as_str() {
            "bind" | "rbind" => {}
            "ro" => read_only = true,
            "rw" => read_only = false,
            other => return Err(unknown(mount, other)),
        }
    }
    Ok(Asked::Bind { path: absolute(&mount.source)?, read_only })
}

fn disk(mount: &Mount, kind: Kind) -> Result<Asked, String> {
    let mut read_only = false;
    for option in &mount.options {
        match option.as_str() {
            // The machine reads the file itself.
            "loop" | "discard" | "noatime" => {}
            "ro" => read_only = true,
            "rw" => read_only = false,
            other => return Err(unknown(mount, other)),
        }
    }
    let read_only = read_only || kind == Kind::Erofs;
    Ok(Asked::Disk { path: absolute(&mount.source)?, kind, read_only })
}

fn overlay(mount: &Mount) -> Result<Asked, String> {
    let (mut lower, mut upper, mut work) = (Vec::new(), None, None);
    let (mut marks, mut read_only) = (Marks::Trusted, false);
    for option in &mount.options {
        match option.split_once('=') {
            // A backslash makes a path of what would be two.
            Some(("lowerdir", paths)) if !paths.contains('\\') => {
                lower = paths.split(':').map(absolute).collect::<Result<_, _>>()?;
            }
            Some(("upperdir", path)) => upper = Some(absolute(path)?),
            Some(("workdir", path)) => work = Some(absolute(path)?),
            Some(("xino", _)) => {}
            _ => match option.as_str() {
                "userxattr" => marks = Marks::User,
                "ro" => read_only = true,
                usual if USUAL.contains(&usual) => {}
                other => return Err(unknown(mount, other)),
            },
        }
    }
    if lower.is_empty() {
        return Err("an overlay without lower directories".into());
    }
    let upper = match (upper, work) {
        (None, None) => None,
        // What is in the upper directory may change.
        (Some(_), _) if read_only => return Err("an overlay with an upper directory and ro".into()),
        (Some(upper), Some(work)) => Some(Upper::of(&upper, &work)?),
        _ => return Err("an overlay with one of upperdir and workdir".into()),
    };
    Ok(Asked::Overlay { lower, upper, marks })
}

fn unknown(mount: &Mount, option: &str) -> String {
    let shown: String = option.chars().take(100).flat_map(char::escape_default).collect();
    format!("the option \"{shown}\" of {}", mount.kind)
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    if path.starts_with('/') {
        Ok(path.into())
    } else {
        Err(format!("{path:?} is no absolute path"))
    }
}

impl Upper {
    fn of(upper: &Path, work: &Path) -> Result<Self, String> {
        let refused = || {
            let (upper, work) = (upper.display(), work.display());
            format!("{upper} and {work} are not two directories in one, with plain names")
        };
        // Neither overlayfs's separators nor anything else that would have to be quoted in the guest.
        let plain = |path: &Path| {
            let name = path.file_name()?.to_str()?;
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            name.bytes().all(fits).then(|| name.to_owned())
        };
        let parent = upper.parent().filter(|parent| work.parent() == Some(parent));
        match (parent, plain(upper), plain(work)) {
            (Some(snapshot), Some(upper), Some(work)) if upper != work => {
                Ok(Self { snapshot: snapshot.into(), upper, work })
            }
            _ => Err(refused()),
        }
    }

    /// Where the upper directory is.
    pub(super) fn path(&self) -> PathBuf {
        self.snapshot.join(&self.upper)
    }

    /// Both are there, and no other directory, which a guest would find; files are the snapshotter's own, and stay so.
    pub(super) fn check(&self) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.snapshot.display());
        let mut found = 0;
        for entry in fs::read_dir(&self.snapshot).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let known = [&self.upper, &self.work].iter().any(|known| name == known.as_str());
            match (known, entry.file_type().map_err(failed)?.is_dir()) {
                (true, true) => found += 1,
                (false, false) => {}
                _ => {
                    let (path, name) = (self.snapshot.display(), name.display());
                    return Err(format!("{path} has something else: {name}"));
                }
            }
        }
        if found == 2 {
            return Ok(());
        }
        Err(format!("{} lacks {} or {}", self.snapshot.display(), self.upper, self.work))
    }
}
