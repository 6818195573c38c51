//! Pieces of guest memory as the `iovec` array of one system call.

use std::marker::PhantomData;

use crate::memory::{PtrGuardMut, VolatileSlice};

/// The most pieces in one array.
const CAPACITY: usize = 64;

/// Up to 64 pieces of guest memory, mapped for as long as this lives, and of the VMM's own.
pub struct IoVectors<'m> {
    guards: [Option<PtrGuardMut>; CAPACITY],
    vectors: [libc::iovec; CAPACITY],
    first: usize,
    end: usize,
    bytes: usize,
    memory: PhantomData<&'m ()>,
}

impl<'m> IoVectors<'m> {
    /// Takes pieces until the array is full; `slices` keeps the others.
    pub fn new(slices: &mut dyn Iterator<Item = VolatileSlice<'m>>) -> Self {
        let mut new = Self::empty();
        new.extend(slices);
        new
    }

    /// No piece yet.
    #[must_use]
    pub fn empty() -> Self {
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self {
            guards: [const { None }; CAPACITY],
            vectors: [empty; CAPACITY],
            first: 0,
            end: 0,
            bytes: 0,
            memory: PhantomData,
        }
    }

    /// Takes more pieces until the array is full; `slices` keeps the others.
    pub fn extend(&mut self, slices: &mut dyn Iterator<Item = VolatileSlice<'m>>) {
        for slice in slices.take(CAPACITY - self.end) {
            let guard = slice.ptr_guard_mut();
            let (iov_base, iov_len) = (guard.as_ptr().cast(), guard.len());
            self.put(libc::iovec { iov_base, iov_len }, Some(guard));
        }
    }

    /// Takes a piece of the VMM's own memory, unless the array is full.
    pub fn push(&mut self, bytes: &'m mut [u8]) {
        let (iov_base, iov_len) = (bytes.as_mut_ptr().cast(), bytes.len());
        self.put(libc::iovec { iov_base, iov_len }, None);
    }

    fn put(&mut self, vector: libc::iovec, guard: Option<PtrGuardMut>) {
        if let (Some(place), Some(kept)) =
            (self.vectors.get_mut(self.end), self.guards.get_mut(self.end))
        {
            self.bytes += vector.iov_len;
            (*place, *kept) = (vector, guard);
            self.end += 1;
        }
    }

    /// The bytes in all pieces.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// For the system call. Most of the memory is the guest's: the kernel may access it, Rust code must not make references to it.
    #[must_use]
    pub fn as_slice(&self) -> &[libc::iovec] {
        &self.vectors[self.first..self.end]
    }

    /// Leaves out the first `count` bytes.
    pub fn advance(&mut self, mut count: usize) {
        self.bytes = self.bytes.saturating_sub(count);
        while let Some(vector) = self.vectors[..self.end].get_mut(self.first) {
            if count < vector.iov_len {
                vector.iov_base = vector.iov_base.wrapping_byte_add(count);
                vector.iov_len -= count;
                return;
            }
            count -= vector.iov_len;
            self.guards[self.first] = None;
            self.first += 1;
        }
    }
}
