//! The one date format of this protocol, `Tue, 06 Jan 2026 08:15:30 GMT` (W-60). Strict: a host is not lenient with what
//! was signed.

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The date of `seconds` since 1970.
pub fn format(seconds: i64) -> String {
    let days = seconds.div_euclid(86_400);
    let rest = seconds.rem_euclid(86_400);
    let (year, month, day) = civil(days);
    format!(
        "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
        DAYS[days.rem_euclid(7) as usize],
        day,
        MONTHS[(month - 1) as usize],
        year,
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Seconds since 1970, or `None` if `text` is not exactly what [`format()`] would print for that time.
pub fn parse(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() != 29 || !text.is_ascii() {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<i64>().ok();
    let month = MONTHS.iter().position(|m| *m == &text[8..11])? as i64 + 1;
    let days = days_from_civil(number(12, 16)?, month, number(5, 7)?);
    let seconds = days * 86_400 + number(17, 19)? * 3600 + number(20, 22)? * 60 + number(23, 25)?;
    (format(seconds) == text).then_some(seconds)
}

/// Year, month and day of a day number since 1970 (proleptic Gregorian calendar, years from March).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let yoe = year.rem_euclid(400);
    let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w60_example_both_ways() {
        assert_eq!(format(1_767_687_330), "Tue, 06 Jan 2026 08:15:30 GMT");
        assert_eq!(parse("Tue, 06 Jan 2026 08:15:30 GMT"), Some(1_767_687_330));
    }

    #[test]
    fn round_trip_over_leap_days_and_centuries() {
        for seconds in (-2_208_988_800..4_102_444_800).step_by(86_400 * 13 + 3671) {
            assert_eq!(parse(&format(seconds)), Some(seconds));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "Mon, 06 Jan 2026 08:15:30 GMT",
            "Tue, 6 Jan 2026 08:15:30 GMT",
            "Tue, 06 jan 2026 08:15:30 GMT",
            "Tue, 06 Jan 2026 08:15:60 GMT",
            "Tue, 06 Jan 2026 +8:15:30 GMT",
            "Tue, 06 Jan 2026 08:15:30 UTC",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
