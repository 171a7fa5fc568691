//! Tables for people.

use std::fmt;

/// Columns with a heading, as wide as they must be.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(heading: [&str; N]) -> Self {
        Self { rows: vec![heading.map(String::from)] }
    }

    pub(super) fn row(&mut self, row: [String; N]) {
        self.rows.push(row.map(|cell| printable(&cell.replace('\n', " "))));
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &self.rows {
            let line: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Text of others without what a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// A moment, in UTC: `2026-01-31 23:59:59`; nothing for none.
pub(super) fn time(millis: Option<u64>) -> String {
    let Some(seconds) = millis.map(|millis| millis / 1000) else { return String::new() };
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a date of the Gregorian calendar, counted in eras of 400 years that begin in March.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// How many milliseconds a unit of time has.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Milliseconds in the greatest unit that divides them: `90s`, `10m`, `90d`.
pub(super) fn duration(millis: u64) -> String {
    let fits = UNITS.iter().rev().find(|(_, length)| millis > 0 && millis.is_multiple_of(*length));
    fits.map_or_else(|| "0s".into(), |(unit, length)| format!("{}{unit}", millis / length))
}

/// The other way round.
pub(super) fn milliseconds(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let length = UNITS.iter().find(|(known, _)| *known == unit).map(|(_, length)| *length);
    let wrong = || "write a number and a unit: 30s, 10m, 24h, 90d".to_owned();
    number.parse::<u64>().ok().zip(length).and_then(|(number, length)| number.checked_mul(length)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::{duration, milliseconds, printable, time};

    #[test]
    fn durations_are_read_as_they_are_printed() {
        for (millis, text) in [(1500, "1500ms"), (90_000, "90s"), (600_000, "10m"), (86_400_000, "1d"), (7_776_000_000, "90d")] {
            assert_eq!((duration(millis).as_str(), milliseconds(text)), (text, Ok(millis)));
        }
        assert_eq!(milliseconds("24h"), Ok(86_400_000));
        for text in ["", "10", "d", "1.5h", "-1s", "10 m", "99999999999999999999s", "9999999999999d"] {
            assert!(milliseconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (millis, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399_000, "2000-02-28 23:59:59"),
            (951_868_800_000, "2000-03-01 00:00:00"),
            (1_767_225_599_999, "2025-12-31 23:59:59"),
        ] {
            assert_eq!(time(Some(millis)), text);
        }
        assert_eq!(time(None), "");
        assert_eq!(printable("a\u{1b}[31m\nb"), "a\u{fffd}[31m\nb");
    }
}
