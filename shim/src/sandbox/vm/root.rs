//! A container's root as its machine has it: disks, a share, and what the agent makes of them.

use std::path::{Path, PathBuf};

use bulkhead_container::{
    root_directory,
    spec::{NamespaceType, Spec},
};
use bulkhead_protocol::{Lower, Root as GuestRoot, Upper};
use bulkhead_rootfs::Store;
use bulkhead_vmm::api::Disk;

use super::{
    Create, MachineOptions, Root, SandboxError,
    mounts::{self, Kind, Taken},
    rewrite::{ROOT_NAME, ROOT_TAG, Role, SHARES, SNAPSHOT_NAME},
};
use crate::{
    monitor::chain,
    settings::Settings,
    template::slots::{IMAGE, WRITABLE},
};

/// The device of the disk [`IMAGE`] in a guest.
const IMAGE_DEVICE: &str = "/dev/vda";
/// The device of the disk [`WRITABLE`].
const WRITABLE_DEVICE: &str = "/dev/vdb";

/// A root, for the machine and for its agent.
#[derive(Debug)]
pub(super) struct Media {
    /// What the agent is told.
    pub(super) root: GuestRoot,
    /// The machine's disks.
    pub(super) disks: Vec<Disk>,
    /// A directory of the host that is the root.
    pub(super) directory: Option<PathBuf>,
    /// A directory of the host that the root is made with.
    pub(super) snapshot: Option<PathBuf>,
    /// Nothing can be written to the root, whatever the specification says.
    pub(super) read_only: bool,
    /// The upper directory that is to be settled when the machine has ended.
    pub(super) upper: Option<PathBuf>,
    /// What somebody wants of the machine.
    pub(super) machine: MachineOptions,
}

impl Media {
    fn of(root: GuestRoot, disks: Vec<Disk>) -> Self {
        Self {
            root,
            disks,
            directory: None,
            snapshot: None,
            read_only: false,
            upper: None,
            machine: MachineOptions::default(),
        }
    }

    fn directory(path: PathBuf, read_only: bool, role: Role<'_>) -> Self {
        let root = GuestRoot::Directory { path: shared(role, ROOT_NAME) };
        Self { directory: Some(path), read_only, ..Self::of(root, Vec::new()) }
    }

    /// Of what is asked for. Makes the disk of an overlay's lower directories if it has to.
    ///
    /// # Errors
    /// [`SandboxError`].
    pub(super) fn find(
        create: &Create<'_>,
        spec: &Spec,
        role: Role<'_>,
        settings: &Settings,
    ) -> Result<Self, SandboxError> {
        match &create.root {
            Root::Bundle => Ok(Self::directory(root_directory(spec, create.bundle)?, false, role)),
            Root::Layers { image, writable, machine } => {
                let upper = writable
                    .as_ref()
                    .map_or(Upper::Tmpfs, |_| Upper::Ext4 { device: WRITABLE_DEVICE.into() });
                let disks = [image_disk(image.clone())].into_iter();
                let disks = disks.chain(writable.clone().map(writable_disk)).collect();
                Ok(Self { machine: machine.clone(), ..Self::of(layers(Kind::Erofs, upper), disks) })
            }
            Root::Mounts(mounts) => {
                let container = mounts::Container {
                    read_only: spec.root.as_ref().is_some_and(|root| root.readonly),
                    in_user: spec.has_namespace(NamespaceType::User),
                };
                let store = || {
                    Store::open(&settings.data).map_err(|error| SandboxError::Failed(chain(&error)))
                };
                let taken = mounts::take(mounts, container, store)?;
                Ok(Self::of_mounts(taken, role))
            }
        }
    }

    fn of_mounts(taken: Taken, role: Role<'_>) -> Self {
        match taken {
            Taken::Directory { path, read_only } => Self::directory(path, read_only, role),
            Taken::Lower { files, kind } => Self {
                read_only: true,
                ..Self::of(layers(kind, Upper::Tmpfs), vec![image_disk(files)])
            },
            Taken::Over { files, snapshot, upper, work, settles } => {
                let paths = Upper::Directory {
                    upper: shared(role, SNAPSHOT_NAME).join(&upper),
                    work: shared(role, SNAPSHOT_NAME).join(work),
                };
                Self {
                    upper: settles.then(|| snapshot.join(upper)),
                    snapshot: Some(snapshot),
                    ..Self::of(layers(Kind::Erofs, paths), vec![image_disk(files)])
                }
            }
            Taken::Disk(file) => {
                let root = GuestRoot::Disk { device: WRITABLE_DEVICE.into() };
                // The first slot stays empty, so that the device is the second here as in a clone.
                Self::of(root, vec![image_disk(Vec::new()), writable_disk(file)])
            }
        }
    }
}

/// Where a directory of a root's share is in a guest.
fn shared(role: Role<'_>, name: &str) -> PathBuf {
    Path::new(SHARES).join(ROOT_TAG).join(role.name(name))
}

fn layers(kind: Kind, upper: Upper) -> GuestRoot {
    let device = IMAGE_DEVICE.into();
    let lower = match kind {
        Kind::Erofs => Lower::Erofs { device },
        Kind::Ext4 => Lower::Ext4 { device },
    };
    GuestRoot::Layers { lower, upper }
}

fn image_disk(files: Vec<PathBuf>) -> Disk {
    Disk { id: IMAGE.into(), files, read_only: true }
}

fn writable_disk(file: PathBuf) -> Disk {
    Disk { id: WRITABLE.into(), files: vec![file], read_only: false }
}
