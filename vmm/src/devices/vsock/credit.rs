//! Credit flow control (virtio 1.3, 5.10.6.3): each side says how much it can hold and how much it has passed on. The counters
//! run free and wrap.

use serde::{Deserialize, Serialize};

/// Bytes that the host holds for one stream, at most: what the Unix socket did not take yet.
pub(super) const HOST_BUFFER: u32 = 128 << 10;

/// Both directions' counters of one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Credit {
    /// What the guest can hold, and has passed on, as it last said.
    guest_alloc: u32,
    guest_forwarded: u32,
    /// Bytes sent to the guest.
    sent: u32,
    /// Bytes that the Unix socket took.
    forwarded: u32,
    /// What the guest was last told of `forwarded`.
    announced: u32,
}

impl Credit {
    /// Takes what a packet of the guest says. A guest that lies about it hurts only itself.
    pub(super) fn heard(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.guest_alloc = buf_alloc;
        self.guest_forwarded = fwd_cnt;
    }

    /// Bytes that may be sent to the guest.
    pub(super) fn available(&self) -> u32 {
        let held = self.sent.wrapping_sub(self.guest_forwarded);
        self.guest_alloc.saturating_sub(held)
    }

    /// Counts bytes sent to the guest.
    pub(super) fn sent(&mut self, bytes: u32) {
        self.sent = self.sent.wrapping_add(bytes);
    }

    /// Counts bytes of the guest that the Unix socket took.
    pub(super) fn forwarded(&mut self, bytes: u32) {
        self.forwarded = self.forwarded.wrapping_add(bytes);
    }

    /// Whether the guest should hear that there is room again, lest it stop sending.
    pub(super) fn is_news(&self) -> bool {
        self.forwarded.wrapping_sub(self.announced) >= HOST_BUFFER / 2
    }

    /// `buf_alloc` and `fwd_cnt` for a packet to the guest.
    pub(super) fn announce(&mut self) -> (u32, u32) {
        self.announced = self.forwarded;
        (HOST_BUFFER, self.forwarded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_what_the_guest_can_still_hold_across_the_wrap() {
        let mut credit = Credit::default();
        assert_eq!(credit.available(), 0);
        credit.sent(u32::MAX - 9);
        credit.heard(100, u32::MAX - 9);
        assert_eq!(credit.available(), 100);
        credit.sent(60);
        assert_eq!(credit.available(), 40);
        credit.heard(100, 20);
        assert_eq!(credit.available(), 70);
    }

    #[test]
    fn a_guest_that_lies_gets_no_credit() {
        let mut credit = Credit::default();
        credit.heard(100, 50);
        assert_eq!(credit.available(), 0);
        credit.sent(10);
        credit.heard(5, 0);
        assert_eq!(credit.available(), 0);
    }

    #[test]
    fn half_a_buffer_is_news_once() {
        let mut credit = Credit::default();
        credit.forwarded(HOST_BUFFER / 2 - 1);
        assert!(!credit.is_news());
        credit.forwarded(1);
        assert!(credit.is_news());
        assert_eq!(credit.announce(), (HOST_BUFFER, HOST_BUFFER / 2));
        assert!(!credit.is_news());
    }
}
