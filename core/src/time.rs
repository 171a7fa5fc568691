//! Time as the core sees it: two integers that the shell hands in, never a clock.
//!
//! Both count nanoseconds, so that a caller's tick (PX-51) and ours compare without rounding. Own integers instead of
//! `Instant`: they print, compare and can be written down in a fixture, and core has no way to ask a clock.

use core::fmt;
use core::ops::Add;
use core::time::Duration;

/// Monotonic time in nanoseconds since an arbitrary start (the shells use `CLOCK_BOOTTIME`, which keeps counting while the
/// machine sleeps: W-73). All deadlines and durations are taken from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// Time elapsed since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Wall-clock time in nanoseconds since 1970-01-01T00:00:00Z. Text and ticks only; no timer reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Wall(pub u64);

impl Wall {
    /// Whole seconds since 1970.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0 / 1_000_000_000
    }

    /// The same moment shifted by `d`.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    const fn civil(self) -> Civil {
        Civil::from_secs(self.secs())
    }

    /// The date format of HTTP (RFC 9110 section 5.6.7, W-60): `Tue, 06 Jan 2026 08:15:30 GMT`, always 29 bytes.
    #[must_use]
    pub fn http_date(self) -> HttpDate {
        HttpDate::new(self.secs())
    }

    /// Reads a date in the format of [`Wall::http_date`]; nothing else is accepted (W-71).
    #[must_use]
    pub fn parse_http_date(text: &[u8]) -> Option<Self> {
        let &[
            _,
            _,
            _,
            b',',
            b' ',
            d1,
            d2,
            b' ',
            m1,
            m2,
            m3,
            b' ',
            y1,
            y2,
            y3,
            y4,
            b' ',
            h1,
            h2,
            b':',
            i1,
            i2,
            b':',
            s1,
            s2,
            b' ',
            b'G',
            b'M',
            b'T',
        ] = text
        else {
            return None;
        };
        let num = |digits: &[u8]| digits.iter().try_fold(0u64, |n, d| d.is_ascii_digit().then(|| n * 10 + u64::from(d - b'0')));
        let month = MONTHS.iter().position(|m| **m == [m1, m2, m3])? as u64 + 1;
        let (day, year) = (num(&[d1, d2])?, num(&[y1, y2, y3, y4])?);
        let (hour, minute, second) = (num(&[h1, h2])?, num(&[i1, i2])?, num(&[s1, s2])?);
        if year < 1970 || day == 0 || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let days = days_from_civil(year, month, day);
        // The day must exist in its month and the name of the weekday must be right: a date that does not print
        // as itself is not a date in this format.
        let wall = Self((days * 86_400 + hour * 3_600 + minute * 60 + second.min(59)).checked_mul(1_000_000_000)?);
        let printed = wall.http_date();
        (printed.as_bytes().get(..16) == text.get(..16)).then_some(wall)
    }

    /// The format of status documents and logs: `YYYY-MM-DDTHH:MM:SS.mmm`, UTC, no zone (FS-41, FS-70).
    #[must_use]
    pub fn stamp(self) -> Stamp {
        Stamp(self)
    }

    /// Reads the format of [`Wall::stamp`], also as people shorten it: without milliseconds, seconds or the whole time of day, with a
    /// blank for the `T`, with a final `Z`. UTC.
    #[must_use]
    pub fn parse_stamp(text: &str) -> Option<Self> {
        let text = text.strip_suffix(['Z', 'z']).unwrap_or(text);
        let (date, clock) = text.split_once(['T', 't', ' ']).unwrap_or((text, "00:00"));
        let (clock, millis) = clock.split_once('.').unwrap_or((clock, "0"));
        let number = |digits: &str, lengths: core::ops::RangeInclusive<usize>| -> Option<u64> {
            let plain = lengths.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|_| plain)
        };
        let mut date = date.splitn(3, '-');
        let year = number(date.next()?, 4..=4)?;
        let (month, day) = (number(date.next()?, 2..=2)?, number(date.next()?, 2..=2)?);
        let mut clock = clock.splitn(3, ':');
        let (hour, minute) = (number(clock.next()?, 2..=2)?, number(clock.next()?, 2..=2)?);
        let second = number(clock.next().unwrap_or("00"), 2..=2)?;
        let fraction = number(millis, 1..=9)? * 10u64.pow(9 - u32::try_from(millis.len()).ok()?);
        if year < 1970 || !(1..=12).contains(&month) || day == 0 || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second.min(59);
        let wall = Self(seconds.checked_mul(1_000_000_000)?.checked_add(fraction)?);
        // The day must exist in its month.
        (wall.civil().day == day).then_some(wall)
    }

    /// What tells files of one kind apart and sorts them by age: `YYYY-MM-DDTHH.MM.SS.mmm-<nanoseconds>` (FS-62, R-150).
    #[must_use]
    pub fn file_stamp(self) -> String {
        format!("{}-{}", self.stamp().to_string().replace(':', "."), self.0)
    }

    /// Whether `text` has exactly the form of a [`file_stamp`](Self::file_stamp).
    #[must_use]
    pub fn is_file_stamp(text: &str) -> bool {
        let shape = |text: &str| {
            text.len() == 23
                && text.bytes().zip(*b"0000-00-00T00.00.00.000").all(|(b, s)| if s == b'0' { b.is_ascii_digit() } else { b == s })
        };
        text.split_at_checked(23).and_then(|(stamp, nanos)| Some((stamp, nanos.strip_prefix('-')?))).is_some_and(
            |(stamp, nanos)| shape(stamp) && (1..=20).contains(&nanos.len()) && nanos.bytes().all(|b| b.is_ascii_digit()),
        )
    }
}

/// A wall-clock time that prints as `YYYY-MM-DDTHH:MM:SS.mmm` (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(Wall);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = self.0.civil();
        let ms = self.0.0 / 1_000_000 % 1_000;
        write!(f, "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{ms:03}", c.year, c.month, c.day, c.hour, c.minute, c.second)
    }
}

/// Both clocks, read once by the shell before it enters the core. No timer reads `wall`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// For deadlines and durations.
    pub mono: Mono,
    /// For text.
    pub wall: Wall,
}

/// The host's clock as we know it (section 5 of wire.md): either never heard of, or "it was `wall` at `mono`".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostClock {
    /// No response with a date yet: the system clock serves (W-72).
    #[default]
    System,
    /// The host said `wall` when our monotonic clock showed `mono`.
    Synchronized {
        /// Monotonic time of the last update.
        mono: Mono,
        /// The host's time at that moment.
        wall: Wall,
    },
}

impl HostClock {
    /// The synchronized time (W-72); it feeds `x-ms-azure-host-date` and nothing else.
    #[must_use]
    pub fn at(self, now: Now) -> Wall {
        match self {
            Self::System => now.wall,
            Self::Synchronized { mono, wall } => wall.plus(now.mono.since(mono)),
        }
    }
}

/// 29 bytes of HTTP date text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpDate {
    secs: u64,
    text: [u8; 29],
}

impl HttpDate {
    fn new(secs: u64) -> Self {
        let c = Civil::from_secs(secs);
        let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
        let weekday = WEEKDAYS[(secs / 86_400 % 7) as usize];
        text[..3].copy_from_slice(weekday);
        two(&mut text, 5, c.day);
        text[8..11].copy_from_slice(MONTHS[(c.month - 1) as usize]);
        two(&mut text, 12, c.year / 100);
        two(&mut text, 14, c.year % 100);
        two(&mut text, 17, c.hour);
        two(&mut text, 20, c.minute);
        two(&mut text, 23, c.second);
        Self { secs, text }
    }

    /// The text, ASCII.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 29] {
        &self.text
    }

    /// Moves to `wall`; recomputes the text only when the second has changed.
    pub fn refresh(&mut self, wall: Wall) -> &[u8; 29] {
        if self.secs != wall.secs() {
            *self = Self::new(wall.secs());
        }
        &self.text
    }
}

impl Default for HttpDate {
    fn default() -> Self {
        Self::new(0)
    }
}

/// Writes `value` (0 to 99) as two digits at `at`.
fn two(text: &mut [u8; 29], at: usize, value: u64) {
    text[at] = b'0' + (value / 10 % 10) as u8;
    text[at + 1] = b'0' + (value % 10) as u8;
}

const WEEKDAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&[u8; 3]; 12] = [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

struct Civil {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Civil {
    /// Proleptic Gregorian calendar from seconds since 1970 (days-to-civil, with March as the first month of the year).
    const fn from_secs(secs: u64) -> Self {
        let (days, rest) = (secs / 86_400, secs % 86_400);
        let z = days + 719_468;
        let era = z / 146_097;
        let doe = z % 146_097;
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = doy - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + if month <= 2 { 1 } else { 0 };
        Self { year, month, day, hour: rest / 3_600, minute: rest / 60 % 60, second: rest % 60 }
    }
}

/// Days since 1970-01-01 of a civil date at or after it.
const fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y / 400;
    let yoe = y % 400;
    let mp = (month + 9) % 12;
    let doy = (153 * mp + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    const JAN_6: u64 = 1_767_687_330;

    #[test]
    fn http_date_is_the_format_of_w60() {
        let wall = Wall(JAN_6 * 1_000_000_000);
        assert_eq!(wall.http_date().as_bytes(), b"Tue, 06 Jan 2026 08:15:30 GMT");
        assert_eq!(Wall(0).http_date().as_bytes(), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(Wall(951_782_400_000_000_000).http_date().as_bytes(), b"Tue, 29 Feb 2000 00:00:00 GMT");
    }

    #[test]
    fn every_day_of_a_century_reads_back() {
        for day in 0..36_525u64 {
            let wall = Wall((day * 86_400 + day % 86_400) * 1_000_000_000);
            assert_eq!(Wall::parse_http_date(wall.http_date().as_bytes()), Some(wall), "day {day}");
        }
    }

    #[test]
    fn only_the_exact_format_is_a_date_w71() {
        for bad in [
            "Wed, 06 Jan 2026 08:15:30 GMT",
            "Tue, 6 Jan 2026 08:15:30 GMT",
            "Tue, 06 Jan 2026 08:15:30 UTC",
            "Sat, 31 Feb 2026 08:15:30 GMT",
            "Tue, 06 Jan 2026 24:15:30 GMT",
            "Tue, 06 jan 2026 08:15:30 GMT",
            "",
        ] {
            assert_eq!(Wall::parse_http_date(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn stamp_is_the_format_of_fs41() {
        assert_eq!(Wall(JAN_6 * 1_000_000_000 + 412_999_999).stamp().to_string(), "2026-01-06T08:15:30.412");
    }

    #[test]
    fn fs41_a_stamp_reads_back_also_shortened() {
        for day in 0..36_525u64 {
            let wall = Wall((day * 86_400 + day % 86_400) * 1_000_000_000 + 7_000_000);
            assert_eq!(Wall::parse_stamp(&wall.stamp().to_string()), Some(wall), "day {day}");
        }
        let at = |seconds| Some(Wall(seconds * 1_000_000_000));
        for text in ["2026-01-06T08:15:30", "2026-01-06 08:15:30Z", "2026-01-06t08:15:30.000000000z"] {
            assert_eq!(Wall::parse_stamp(text), at(JAN_6), "{text}");
        }
        assert_eq!(Wall::parse_stamp("2026-01-06T08:15"), at(JAN_6 - 30));
        assert_eq!(Wall::parse_stamp("2026-01-06"), at(JAN_6 / 86_400 * 86_400));
        for bad in [
            "",
            "2026",
            "2026-1-6",
            "2026-02-30",
            "2026-13-01",
            "1969-12-31",
            "2026-01-06T24:00",
            "2026-01-06T",
            "x",
            "2026-01-06T08:15:30.",
            "2026-01-06T+8:15",
            "2026-01-06T08:15:30+01:00",
            "9999999999-01-01",
        ] {
            assert_eq!(Wall::parse_stamp(bad), None, "{bad}");
        }
    }

    #[test]
    fn host_clock_follows_monotonic_time_w72() {
        let clock = HostClock::Synchronized { mono: Mono(5), wall: Wall(1_000_000_000) };
        assert_eq!(clock.at(Now { mono: Mono(2_000_000_005), wall: Wall(7) }), Wall(3_000_000_000));
        assert_eq!(HostClock::System.at(Now { mono: Mono(9), wall: Wall(7) }), Wall(7));
    }
}
