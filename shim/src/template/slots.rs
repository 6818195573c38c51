//! The devices of a template's machine. Its disks and shares are slots: a clone gives them the media that its container has.

use std::path::{Path, PathBuf};

use bulkhead_vmm::api::{Cache, Disk, Nic, Share, SnapshotFiles, VmConfig, Vsock};
use serde::{Deserialize, Serialize};

use super::{Shape, TemplateError};
use crate::{
    network::nic,
    sandbox::vm::{
        GUEST_CID,
        rewrite::{BINDS_TAG, ROOT_TAG},
    },
};

/// The disk of an image, `/dev/vda`.
pub(crate) const IMAGE: &str = "image";
/// The disk of a writable layer, `/dev/vdb`.
pub(crate) const WRITABLE: &str = "writable";

/// Disks of a pod's machine beside those: so many read-only ones and so many writable ones, for the containers that join it.
const FOR_MEMBERS: usize = 4;
const MEMBERS_IMAGE: &str = "pod-image-";
const MEMBERS_WRITABLE: &str = "pod-writable-";

/// Whether the disk of this id is for containers that join a pod.
pub(crate) fn is_for_members(id: &str) -> bool {
    id.starts_with(MEMBERS_IMAGE) || id.starts_with(MEMBERS_WRITABLE)
}

/// Slots as a [`Shape`] holds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Slots {
    /// Names, and whether they are read-only.
    disks: Vec<(String, bool)>,
    /// Tags.
    shares: Vec<String>,
    /// Network cards.
    #[serde(default)]
    nics: u8,
}

impl Slots {
    /// Those that every template has; `pod`: of a pod's machine.
    pub(super) fn of_templates(pod: bool) -> Self {
        let disks = disks(pod).into_iter().map(|disk| (disk.id, disk.read_only)).collect();
        let shares = shares().into_iter().map(|share| share.tag).collect();
        Self { disks, shares, nics: NICS }
    }
}

/// The network cards of a template.
const NICS: u8 = 1;

fn nics() -> Vec<Nic> {
    (0..NICS).map(|device| nic(device, None)).collect()
}

fn disks(pod: bool) -> Vec<Disk> {
    let own = [(IMAGE.to_owned(), true), (WRITABLE.to_owned(), false)];
    let members = (0..if pod { FOR_MEMBERS } else { 0 }).flat_map(|number| {
        let image = (format!("{MEMBERS_IMAGE}{number}"), true);
        [image, (format!("{MEMBERS_WRITABLE}{number}"), false)]
    });
    let all = own.into_iter().chain(members);
    all.map(|(id, read_only)| Disk { id, files: Vec::new(), read_only }).collect()
}

/// Makes of a machine that would boot one that containers can join: it has all slots of a pod, with its media in them.
pub(crate) fn open_to_members(machine: &mut VmConfig) {
    machine.exchange = true;
    let media = std::mem::replace(&mut machine.disks, disks(true));
    fill_disks(&mut machine.disks, &media);
    let media = std::mem::replace(&mut machine.shares, shares().into());
    fill_shares(&mut machine.shares, &media);
}

fn fill_disks(slots: &mut [Disk], media: &[Disk]) {
    for slot in slots {
        if let Some(disk) = media.iter().find(|disk| disk.id == slot.id) {
            slot.clone_from(disk);
        }
    }
}

fn fill_shares(slots: &mut [Share], media: &[Share]) {
    for slot in slots {
        if let Some(share) = media.iter().find(|share| share.tag == slot.tag) {
            slot.clone_from(share);
        }
    }
}

fn shares() -> [Share; 2] {
    [(ROOT_TAG, Cache::Auto), (BINDS_TAG, Cache::None)].map(|(tag, cache)| Share {
        tag: tag.into(),
        cache,
        entries: Vec::new(),
    })
}

/// What its guest mounts of the shares ahead.
pub(super) fn tags() -> Vec<String> {
    shares().into_iter().map(|share| share.tag).collect()
}

/// The machine that becomes a template of this shape.
pub(super) fn template(shape: &Shape, sockets: PathBuf, files: SnapshotFiles) -> VmConfig {
    VmConfig {
        kernel: shape.kernel.path.clone(),
        initrd: Some(shape.initrd.path.clone()),
        cmdline: String::new(),
        vcpus: shape.vcpus,
        memory_mib: shape.memory_mib,
        disks: disks(shape.pod),
        vsock: Some(Vsock { cid: GUEST_CID, path: sockets }),
        shares: shares().into(),
        nics: nics(),
        serial: None,
        backend: shape.backend,
        balloon: true,
        exchange: shape.pod,
        snapshot: Some(files),
        restore: None,
    }
}

/// The machine that goes on from a template with the media of `machine`, which would have booted.
///
/// # Errors
/// [`TemplateError::Unfit`]: it has something for which templates have no slot.
pub(crate) fn clone_of(
    machine: &VmConfig,
    state: &Path,
    memory: &Path,
) -> Result<VmConfig, TemplateError> {
    fits(machine)?;
    let mut disks = disks(machine.exchange);
    fill_disks(&mut disks, &machine.disks);
    let mut shares = shares();
    fill_shares(&mut shares, &machine.shares);
    Ok(VmConfig {
        disks,
        shares: shares.into(),
        nics: nics(),
        restore: Some(SnapshotFiles { state: state.into(), memory: memory.into() }),
        ..machine.clone()
    })
}

/// Puts network cards in the slots of a clone.
///
/// # Errors
/// [`TemplateError::Unfit`]: there are more of them.
pub(crate) fn plug(clone: &mut VmConfig, cards: &[Nic]) -> Result<(), TemplateError> {
    if cards.len() > clone.nics.len() {
        let (slots, wanted) = (clone.nics.len(), cards.len());
        return Err(TemplateError::Unfit(format!(
            "the container has {wanted} network interfaces, and a clone has {slots}"
        )));
    }
    for (slot, card) in clone.nics.iter_mut().zip(cards) {
        slot.clone_from(card);
    }
    Ok(())
}

/// Whether a machine that would boot can be a clone instead.
///
/// # Errors
/// [`TemplateError::Unfit`]: why not.
pub(crate) fn fits(machine: &VmConfig) -> Result<(), TemplateError> {
    let unfit = |why: String| Err(TemplateError::Unfit(why));
    if machine.serial.is_some() {
        return unfit("a clone has no console (--console-log)".into());
    }
    if !machine.cmdline.is_empty() {
        return unfit("a clone has its template's kernel command line".into());
    }
    let slots = disks(machine.exchange);
    for (index, disk) in machine.disks.iter().enumerate() {
        let slot = slots.get(index).map(|slot| (&slot.id, slot.read_only));
        if slot != Some((&disk.id, disk.read_only)) {
            return unfit(format!("a clone has no slot for the disk {:?}", disk.id));
        }
    }
    let slots = shares();
    for (index, share) in machine.shares.iter().enumerate() {
        let known = slots.iter().any(|slot| slot.tag == share.tag);
        let again = machine.shares.iter().take(index).any(|other| other.tag == share.tag);
        if !known || again {
            return unfit(format!("a clone has no slot for the share {:?}", share.tag));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bulkhead_vmm::api::{SerialOutput, ShareEntry};

    use super::*;
    use crate::template::testing;

    fn machine() -> VmConfig {
        let dir = tempfile::tempdir().unwrap();
        let shape = Shape::of(&testing::machine(dir.path())).unwrap();
        let files = SnapshotFiles { state: "/s".into(), memory: "/m".into() };
        VmConfig {
            disks: Vec::new(),
            shares: Vec::new(),
            snapshot: None,
            ..template(&shape, "/v".into(), files)
        }
    }

    fn disk(id: &str, read_only: bool) -> Disk {
        Disk { id: id.into(), files: vec!["/f".into()], read_only }
    }

    fn share(tag: &str) -> Share {
        let entry =
            ShareEntry { name: "x".into(), path: "/x".into(), read_only: true, sealed: false };
        Share { tag: tag.into(), cache: Cache::None, entries: vec![entry] }
    }

    #[test]
    fn media_go_into_their_slots_and_the_rest_stays_empty() {
        let cold = VmConfig {
            disks: vec![disk(IMAGE, true)],
            shares: vec![share(BINDS_TAG)],
            ..machine()
        };
        let clone = clone_of(&cold, Path::new("/s"), Path::new("/m")).unwrap();
        assert_eq!(clone.disks[0], cold.disks[0]);
        assert_eq!((clone.disks[1].id.as_str(), clone.disks[1].files.len()), (WRITABLE, 0));
        assert_eq!(clone.shares[0].tag, ROOT_TAG);
        assert!(clone.shares[0].entries.is_empty());
        assert_eq!(clone.shares[1], cold.shares[0]);
        assert!(clone.restore.is_some() && clone.snapshot.is_none());
        // The machine that was saved has the same devices in the same order.
        let slots = |machine: &VmConfig| {
            let disks = machine.disks.iter().map(|disk| (disk.id.clone(), disk.read_only));
            let shares = machine.shares.iter().map(|share| share.tag.clone());
            (disks.collect::<Vec<_>>(), shares.collect::<Vec<_>>())
        };
        let Slots { disks, shares, nics } = Slots::of_templates(false);
        assert_eq!(slots(&clone), (disks, shares));
        assert_eq!(clone.nics.len(), usize::from(nics));
    }

    #[test]
    fn network_cards_go_into_their_slots() {
        let clone = clone_of(&machine(), Path::new("/s"), Path::new("/m")).unwrap();
        let mut without = clone.clone();
        plug(&mut without, &[]).unwrap();
        assert_eq!(without, clone);
        let mut with = clone;
        let card = nic(0, Some("tap".into()));
        plug(&mut with, std::slice::from_ref(&card)).unwrap();
        assert_eq!(with.nics, std::slice::from_ref(&card));
        let error = plug(&mut with, &[card.clone(), card]).unwrap_err().to_string();
        assert!(error.contains("2 network interfaces"), "{error}");
    }

    #[test]
    fn what_has_no_slot_is_named() {
        let console = Some(SerialOutput::File("/log".into()));
        for (bad, word) in [
            (VmConfig { serial: console, ..machine() }, "--console-log"),
            (VmConfig { cmdline: "debug".into(), ..machine() }, "command line"),
            (VmConfig { disks: vec![disk(WRITABLE, false)], ..machine() }, WRITABLE),
            (VmConfig { disks: vec![disk(IMAGE, false)], ..machine() }, IMAGE),
            (VmConfig { shares: vec![share("home")], ..machine() }, "home"),
            (VmConfig { shares: vec![share(ROOT_TAG), share(ROOT_TAG)], ..machine() }, ROOT_TAG),
        ] {
            let error = fits(&bad).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
            assert!(clone_of(&bad, Path::new("/s"), Path::new("/m")).is_err());
        }
    }
}
