//! Roots whose files have other owners than on their disk: the mounts of a snapshotter for a container with a user namespace, which containerd 2 names by
//! options of its own (`uidmap=INSIDE:OUTSIDE:COUNT[,…]`, `gidmap=`; its `core/mount`).

use std::{fs::File, path::Path};

use bulkhead::sandbox::Mount;
use bulkhead_container::spec::IdMapping;
use rustix::fs::{AtFlags, StatxFlags};

use crate::{
    refusal::{Refusal, at},
    root::{LOWER, shorter, within},
};

const UIDS: &str = "uidmap=";
const GIDS: &str = "gidmap=";

/// Ids on a disk, and those that the files have instead.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Owners {
    uids: Vec<IdMapping>,
    gids: Vec<IdMapping>,
}

impl Owners {
    /// Of a mount's options, and the options without them; none: the owners are those on the disk.
    ///
    /// # Errors
    /// A map that cannot be read.
    pub(crate) fn of(options: &[String]) -> Result<Option<(Self, Vec<String>)>, Refusal> {
        let (mut owners, mut others) = (Self::default(), Vec::new());
        for option in options {
            if let Some(text) = option.strip_prefix(UIDS) {
                owners.uids = map(text).ok_or_else(|| not_a_map(option))?;
            } else if let Some(text) = option.strip_prefix(GIDS) {
                owners.gids = map(text).ok_or_else(|| not_a_map(option))?;
            } else {
                others.push(option.clone());
            }
        }
        Ok((others.len() < options.len()).then_some((owners, others)))
    }

    /// Makes a mount with them. An overlay's lower directories have to be below one directory, without mounts between; that is mounted first, and stays
    /// hidden under the overlay, so that it goes when that does.
    ///
    /// # Errors
    /// What the kernel refuses, or a mount of another kind.
    pub(crate) fn mount(&self, mount: &Mount, on: &Path) -> Result<(), Refusal> {
        match mount.kind.as_str() {
            "bind" => self.bind(&mount.source, &mount.options, on),
            "overlay" => {
                let (above, options) = shorter(&mount.options);
                one_mount(&above, &options)?;
                self.bind(&above.display().to_string(), &[], on)?;
                let made =
                    within(on, || bulkhead_container::mount("overlay", "overlay", &options, on))?;
                made.map_err(|error| Refusal::failed(error.to_string()))
            }
            other => Err(Refusal::invalid(format!(
                "{UIDS} and {GIDS} of a mount of kind {other:?}: bind and overlay have them"
            ))),
        }
    }

    fn bind(&self, source: &str, options: &[String], on: &Path) -> Result<(), Refusal> {
        bulkhead_container::mount_mapped(source, &self.uids, &self.gids, options, on)
            .map_err(|error| Refusal::failed(error.to_string()))
    }
}

fn map(text: &str) -> Option<Vec<IdMapping>> {
    let line = |text: &str| {
        let mut numbers = text.split(':').map(|number| number.parse().ok());
        let line = IdMapping {
            container_id: numbers.next()??,
            host_id: numbers.next()??,
            size: numbers.next()??,
        };
        numbers.next().is_none().then_some(line)
    };
    text.split(',').map(line).collect()
}

fn not_a_map(option: &str) -> Refusal {
    let shown: String = option.chars().take(100).flat_map(char::escape_default).collect();
    Refusal::invalid(format!(
        "mount option {shown}: INSIDE:OUTSIDE:COUNT, three numbers, are wanted"
    ))
}

/// Lower directories that are mounts of their own would be empty in a copy of the mount above them.
fn one_mount(above: &Path, options: &[String]) -> Result<(), Refusal> {
    let number = |path: &Path| {
        let directory = File::open(path).map_err(at("open", path))?;
        rustix::fs::statx(&directory, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
            .map(|stat| stat.stx_mnt_id)
            .map_err(at("look at", path))
    };
    let whole = number(above)?;
    for lower in options.iter().filter_map(|option| option.strip_prefix(LOWER)) {
        for path in lower.split(':').map(|path| above.join(path)) {
            if number(&path)? != whole {
                return Err(Refusal::invalid(format!(
                    "lower directory {} is on another mount than {}: its owners cannot be mapped",
                    path.display(),
                    above.display()
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::*;
    use crate::root::{self, unmount};

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn maps_are_read() {
        let line = |container_id, host_id, size| IdMapping { container_id, host_id, size };
        let (owners, others) =
            Owners::of(&words(&["uidmap=0:1000:10,10:5:1", "rw", "gidmap=0:2000:10"]))
                .unwrap()
                .unwrap();
        assert_eq!(owners.uids, [line(0, 1000, 10), line(10, 5, 1)]);
        assert_eq!((owners.gids, others), (vec![line(0, 2000, 10)], words(&["rw"])));
        assert!(Owners::of(&words(&["rw", "lowerdir=/a:/b"])).unwrap().is_none());
        for bad in [
            "uidmap=",
            "uidmap=0:1",
            "gidmap=0:1:2:3",
            "uidmap=0:-1:2",
            "uidmap=0:0:4294967296",
            "gidmap=a:b:c,",
        ] {
            let refused = Owners::of(&words(&[bad])).unwrap_err().to_string();
            assert!(refused.contains(bad), "{refused}");
        }
    }

    /// Files of the lower directories and of a bind have the owners outside; what is written has those that it is given.
    #[test]
    fn files_have_the_owners_outside() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: mounts need root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["1/fs", "2/fs", "3/fs", "3/work", "bundle/rootfs"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        fs::write(path("1/fs/below"), "below").unwrap();
        fs::write(path("2/fs/above"), "above").unwrap();
        std::os::unix::fs::chown(path("2/fs/above"), Some(7), Some(8)).unwrap();
        let text = |name: &str| path(name).display().to_string();
        let mapped = ["uidmap=0:100000:65536", "gidmap=0:200000:65536"];
        let overlay = Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: [
                words(&mapped),
                vec![
                    format!("workdir={}", text("3/work")),
                    format!("upperdir={}", text("3/fs")),
                    format!("lowerdir={}:{}", text("2/fs"), text("1/fs")),
                ],
            ]
            .concat(),
        };
        let owner = |name: &str| {
            let file = fs::metadata(path("bundle/rootfs").join(name)).unwrap();
            (file.uid(), file.gid())
        };
        let bundle = path("bundle");
        root::mount(&bundle, std::slice::from_ref(&overlay)).unwrap();
        assert_eq!((owner("below"), owner("above")), ((100_000, 200_000), (100_007, 200_008)));
        fs::write(bundle.join("rootfs/new"), "new").unwrap();
        assert_eq!((owner("new"), fs::metadata(path("3/fs/new")).unwrap().uid()), ((0, 0), 0));
        unmount(&bundle).unwrap();
        assert_eq!(fs::read_dir(bundle.join("rootfs")).unwrap().count(), 0);
        let bind = Mount {
            kind: "bind".into(),
            source: text("1/fs"),
            options: words(&[&mapped[..], &["ro", "rbind"]].concat()),
            ..overlay.clone()
        };
        root::mount(&bundle, &[bind]).unwrap();
        assert_eq!(owner("below"), (100_000, 200_000));
        assert!(fs::write(bundle.join("rootfs/new"), "new").is_err());
        unmount(&bundle).unwrap();
        // A lower directory that is a mount would not be seen.
        bulkhead_container::mount("tmpfs", "tmpfs", &[], &path("1/fs")).unwrap();
        let refused = root::mount(&bundle, &[overlay]).unwrap_err().to_string();
        rustix::mount::unmount(path("1/fs"), rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(refused.contains("another mount"), "{refused}");
        assert_eq!(fs::read_dir(bundle.join("rootfs")).unwrap().count(), 0);
    }
}
