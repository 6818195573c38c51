//! Gives guest memory back to the host.

use crate::{
    devices::{BalloonCounts, virtio::Slices},
    memory::{GuestAddress, GuestMemory, GuestMemoryTrait, VolatileSlice},
};

/// Bytes of a page: the balloon's unit (virtio 1.3, 5.5.6) and the host's.
pub(super) const PAGE: usize = 4096;
/// Bytes of a page's number.
const NUMBER: usize = 4;

/// Gives back what a report names, `length` bytes of it from `from` on (virtio 1.3, 5.5.6.7).
pub(super) fn ranges(report: &Slices<'_>, from: usize, length: usize, counts: &BalloonCounts) {
    for slice in report.range(from, length) {
        give_back(&slice, counts);
    }
}

/// Gives back the pages that an inflate request names, of the `length` bytes from `from` on (virtio 1.3, 5.5.6).
pub(super) fn numbers(
    request: &Slices<'_>,
    from: usize,
    length: usize,
    memory: &GuestMemory,
    counts: &BalloonCounts,
) {
    let end = request.len().min(from.saturating_add(length));
    for at in (from..end).step_by(NUMBER) {
        let mut number = [0; NUMBER];
        let page = request.read(at, &mut number).then(|| {
            let address = u64::from(u32::from_le_bytes(number)) * PAGE as u64;
            memory.get_slice(GuestAddress(address), PAGE).ok()
        });
        match page.flatten() {
            Some(page) => give_back(&page, counts),
            None => counts.errors.add(1),
        }
    }
}

/// Gives back the whole pages of `slice`. They are mapped as before: anonymous memory is zero when it is touched again, a private
/// mapping of a file has the file's contents.
pub(super) fn give_back(slice: &VolatileSlice<'_>, counts: &BalloonCounts) {
    let guard = slice.ptr_guard_mut();
    let start = guard.as_ptr();
    let before = start.align_offset(PAGE);
    let length = slice.len().saturating_sub(before) / PAGE * PAGE;
    if length == 0 {
        return;
    }
    // SAFETY: the pages are within a piece of guest memory, which is mapped for longer than the call and stays so. Their contents
    // change as they do when the guest writes; no Rust reference to them exists.
    let done = unsafe {
        libc::madvise(start.wrapping_add(before).cast(), length, libc::MADV_DONTNEED) == 0
    };
    if done {
        counts.pages.add((length / PAGE) as u64);
    } else {
        counts.errors.add(1);
    }
}
