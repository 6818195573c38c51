//! Pieces of guest memory as the `iovec` array of one system call.

use std::marker::PhantomData;

use crate::memory::{PtrGuardMut, VolatileSlice};

/// The most pieces in one array.
const CAPACITY: usize = 64;

/// Up to 64 pieces of guest memory, mapped for as long as this lives.
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
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut new = Self {
            guards: [const { None }; CAPACITY],
            vectors: [empty; CAPACITY],
            first: 0,
            end: 0,
            bytes: 0,
            memory: PhantomData,
        };
        for slice in slices.take(CAPACITY) {
            let guard = slice.ptr_guard_mut();
            new.vectors[new.end] =
                libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() };
            new.bytes += guard.len();
            new.guards[new.end] = Some(guard);
            new.end += 1;
        }
        new
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

    /// For the system call. The memory is the guest's: the kernel may access it, Rust code must not make references to it.
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
