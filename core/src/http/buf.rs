//! A receive buffer in which the bytes stay where they arrived.

/// Bytes received from one peer and relayed to the other, in three zones:
///
/// ```text
/// data: [ free | ready ……… | dead | raw ……… | free ]
///         start^        mid^  raw^       end^
/// ```
///
/// * *ready* (`start..mid`): decided about; an outbox sends it on.
/// * *dead* (`mid..raw`): framing that was taken out.
/// * *raw* (`raw..end`): received, not looked at yet.
///
/// Invariant: `start <= mid <= raw <= end <= data.len()`. `data` is always initialized, so handing it to `read` needs no `unsafe`
/// and no zeroing per read.
#[derive(Debug, Default)]
pub struct Buf {
    data: Vec<u8>,
    start: usize,
    mid: usize,
    raw: usize,
    end: usize,
}

impl Buf {
    /// Bytes ready to be sent on.
    #[must_use]
    pub fn ready(&self) -> &[u8] {
        self.data.get(self.start..self.mid).unwrap_or_default()
    }

    /// Received bytes that nobody has looked at.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        self.data.get(self.raw..self.end).unwrap_or_default()
    }

    /// The raw bytes for decoding in place.
    pub fn raw_mut(&mut self) -> &mut [u8] {
        self.data.get_mut(self.raw..self.end).unwrap_or_default()
    }

    /// The ready bytes for changes in place.
    pub fn ready_mut(&mut self) -> &mut [u8] {
        self.data.get_mut(self.start..self.mid).unwrap_or_default()
    }

    /// Neither ready nor raw bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start == self.mid && self.raw == self.end
    }

    /// Room for one read of about `want` bytes, with the buffer never growing beyond `max` bytes. Empty only if the buffer is
    /// full; then stop reading.
    pub fn space(&mut self, want: usize, max: usize) -> &mut [u8] {
        if self.is_empty() {
            (self.start, self.mid, self.raw, self.end) = (0, 0, 0, 0);
        }
        if self.data.len() - self.end < want {
            self.compact();
        }
        let room = self.data.len() - self.end;
        if room < want && self.data.len() < max {
            // Doubling keeps the number of moves small; `max` keeps memory bounded.
            let len = (self.end + want).max(self.data.len() * 2).min(max);
            self.data.reserve_exact(len - self.data.len());
            self.data.resize(len, 0);
        }
        self.data.get_mut(self.end..).unwrap_or_default()
    }

    /// Whether [`Buf::space`] would return room under `max`.
    #[must_use]
    pub fn has_space(&self, max: usize) -> bool {
        (self.mid - self.start) + (self.end - self.raw) < max
    }

    /// Says that `n` bytes were put at the beginning of the space.
    pub fn received(&mut self, n: usize) {
        self.end = (self.end + n).min(self.data.len());
    }

    /// Moves the first `n` raw bytes to the ready zone.
    pub fn accept(&mut self, n: usize) {
        let n = n.min(self.end - self.raw);
        if self.mid != self.raw {
            self.data.copy_within(self.raw..self.raw + n, self.mid);
        }
        self.mid += n;
        self.raw += n;
    }

    /// Accepts `kept` bytes which a decoder left at the beginning of the raw zone in place of the `consumed` it took.
    pub fn accept_decoded(&mut self, consumed: usize, kept: usize) {
        let consumed = consumed.min(self.end - self.raw);
        let kept = kept.min(consumed);
        if self.mid != self.raw {
            self.data.copy_within(self.raw..self.raw + kept, self.mid);
        }
        self.mid += kept;
        self.raw += consumed;
    }

    /// Drops the first `n` raw bytes.
    pub fn discard(&mut self, n: usize) {
        self.raw = (self.raw + n).min(self.end);
    }

    /// Drops the first `n` ready bytes, because they were sent.
    pub fn sent(&mut self, n: usize) {
        self.start = (self.start + n).min(self.mid);
    }

    /// Drops all ready bytes.
    pub fn drop_ready(&mut self) {
        self.start = self.mid;
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        (self.start, self.mid, self.raw, self.end) = (0, 0, 0, 0);
    }

    /// Cuts `from..to` (relative to the ready zone) out of the ready zone.
    pub fn cut_ready(&mut self, from: usize, to: usize) {
        let (from, to) = (self.start + from, self.start + to);
        if from <= to && to <= self.mid {
            // The beginning moves up: it is the short part (a head), and the ready zone then still ends at `mid`.
            self.data.copy_within(self.start..from, self.start + (to - from));
            self.start += to - from;
        }
    }

    /// Gives memory back when the buffer grew beyond `keep` and holds nothing.
    pub fn shrink(&mut self, keep: usize) {
        if self.is_empty() && self.data.len() > keep {
            self.clear();
            self.data.truncate(keep);
            self.data.shrink_to_fit();
        }
    }

    fn compact(&mut self) {
        let ready = self.mid - self.start;
        let raw = self.end - self.raw;
        if self.start > 0 {
            self.data.copy_within(self.start..self.mid, 0);
        }
        if self.raw > ready {
            self.data.copy_within(self.raw..self.end, ready);
        }
        (self.start, self.mid, self.raw, self.end) = (0, ready, ready, ready + raw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(buf: &mut Buf, bytes: &[u8]) {
        let space = buf.space(bytes.len(), 64);
        space[..bytes.len()].copy_from_slice(bytes);
        buf.received(bytes.len());
    }

    #[test]
    fn zones_keep_their_bytes_through_compaction() {
        let mut buf = Buf::default();
        put(&mut buf, b"headbodyNEXT");
        buf.accept(4);
        buf.accept_decoded(4, 2);
        assert_eq!((buf.ready(), buf.raw()), (&b"headbo"[..], &b"NEXT"[..]));
        buf.sent(2);
        put(&mut buf, &[b'x'; 50]);
        assert_eq!(buf.ready(), b"adbo");
        assert_eq!(&buf.raw()[..5], b"NEXTx");
        assert!(buf.has_space(64));
        assert!(!buf.has_space(58));
    }

    #[test]
    fn never_grows_beyond_its_bound() {
        let mut buf = Buf::default();
        for _ in 0..100 {
            let n = buf.space(10, 64).len().min(10);
            buf.received(n);
        }
        assert_eq!(buf.raw().len(), 64);
        assert!(buf.space(10, 64).is_empty());
    }

    #[test]
    fn cut_ready_takes_out_the_middle() {
        let mut buf = Buf::default();
        put(&mut buf, b"0123456789");
        buf.accept(10);
        buf.cut_ready(2, 5);
        assert_eq!(buf.ready(), b"0156789");
    }
}
