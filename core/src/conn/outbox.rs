//! What is to be sent to one side: a few slices, in order, none of them copied.

use crate::http::Buf;
use std::io::IoSlice;

/// Most slices of one vectored write.
pub const IOV: usize = 5;

/// The outgoing bytes of one side. In order:
///
/// ```text
/// pre      | head            | inject             | body              | tail
/// ours     | ready zone of   | ours: added fields | rest of the ready | constant
///          | the other side's| and the empty line | zone              |
///          | buffer          |                    |                   |
/// ```
///
/// The head's own empty line (`gap`) is skipped: ours follows the added fields.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pre: Vec<u8>,
    pre_sent: usize,
    head: usize,
    gap: usize,
    inject: Vec<u8>,
    inject_sent: usize,
    tail: &'static [u8],
}

impl Outbox {
    /// Bytes of ours that go out before everything else: interim and own responses.
    pub(super) const fn pre(&mut self) -> &mut Vec<u8> {
        &mut self.pre
    }

    /// Starts a message whose head is the first `head` bytes of the ready zone, and returns the (emptied) place for the fields to
    /// add and the empty line. The last two bytes of the head, its empty line, are left out.
    pub(super) fn start(&mut self, head: usize) -> &mut Vec<u8> {
        self.head = head.saturating_sub(2);
        self.gap = head - self.head;
        self.inject.clear();
        self.inject_sent = 0;
        &mut self.inject
    }

    /// What follows the body.
    pub(super) const fn set_tail(&mut self, tail: &'static [u8]) {
        self.tail = tail;
    }

    /// Forgets everything that was not sent.
    pub(super) fn clear(&mut self) {
        self.pre.clear();
        self.inject.clear();
        (self.pre_sent, self.inject_sent, self.head, self.gap) = (0, 0, 0, 0);
        self.tail = b"";
    }

    /// Whether nothing is left to send, given the other side's buffer.
    pub(super) fn is_empty(&self, source: &Buf) -> bool {
        self.pre_sent == self.pre.len()
            && self.inject_sent == self.inject.len()
            && self.tail.is_empty()
            && source.ready().is_empty()
    }

    /// The unsent slices; returns how many.
    pub(super) fn slices<'a>(&'a self, source: &'a Buf, iov: &mut [IoSlice<'a>; IOV]) -> usize {
        let ready = source.ready();
        let mut count = 0;
        for part in [
            self.pre.get(self.pre_sent..).unwrap_or_default(),
            ready.get(..self.head).unwrap_or_default(),
            self.inject.get(self.inject_sent..).unwrap_or_default(),
            ready.get(self.head + self.gap..).unwrap_or_default(),
            self.tail,
        ] {
            if let (false, Some(slot)) = (part.is_empty(), iov.get_mut(count)) {
                *slot = IoSlice::new(part);
                count += 1;
            }
        }
        count
    }

    /// Says that the first `n` bytes of the slices were sent.
    pub(super) fn advance(&mut self, mut n: usize, source: &mut Buf) {
        let mut take = |available: usize| {
            let taken = n.min(available);
            n -= taken;
            taken
        };
        self.pre_sent += take(self.pre.len() - self.pre_sent);
        let head = take(self.head);
        self.head -= head;
        source.sent(head);
        self.inject_sent += take(self.inject.len() - self.inject_sent);
        if self.head == 0 && self.inject_sent == self.inject.len() {
            source.sent(self.gap);
            self.gap = 0;
        }
        let body = take(source.ready().len() - self.head - self.gap);
        if body > 0 {
            source.sent(body);
        }
        self.tail = self.tail.get(take(self.tail.len())..).unwrap_or_default();
        if self.pre_sent == self.pre.len() {
            self.pre.clear();
            self.pre_sent = 0;
            // A status document may have been long; an idle connection does not keep its room.
            if self.pre.capacity() > 8 * 1024 {
                self.pre = Vec::new();
            }
        }
    }
}
