//! Dates and times in PostgreSQL's ISO text → numbers. Sessions have DateStyle = ISO and TimeZone = UTC.
//!
//! Not here: any clock, and time zones by name.

/// Days since 1970-01-01 in the proleptic Gregorian calendar; `year` is astronomical (0 = 1 BC).
pub fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// `2024-05-01` or `0044-03-15 BC` → days since 1970. `None` for what is no such date.
pub fn date_days(text: &str) -> Option<i64> {
    let (text, bc) = text.strip_suffix(" BC").map_or((text, false), |text| (text, true));
    let mut parts = text.splitn(3, '-');
    let year: i64 = number(parts.next()?)?;
    let (month, day) = (number(parts.next()?)?, number(parts.next()?)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some(days(if bc { 1 - year } else { year }, month, day))
}

/// Days since 1970 → `2024-05-01`; years before 1 with a minus sign, astronomically.
pub fn date_text(days: i64) -> String {
    // The inverse of `days`, by the same calendar of years that begin in March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (sign, year) = if year < 0 { ("-", -year) } else { ("", year) };
    format!("{sign}{year:04}-{month:02}-{day:02}")
}

/// µs since midnight → `10:00:00.500` with this many digits of a second, 0 to 6.
pub fn clock_text(us: i64, digits: usize) -> String {
    let seconds = us / 1_000_000;
    let text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if digits == 0 {
        return text;
    }
    let fraction = format!("{:06}", us % 1_000_000);
    format!("{text}.{}", fraction.get(..digits.min(6)).unwrap_or(&fraction))
}

/// `04:05:06.789` → µs since midnight; `24:00:00` is allowed.
pub fn time_us(text: &str) -> Option<i64> {
    let mut parts = text.splitn(3, ':');
    let (hour, minute) = (number(parts.next()?)?, number(parts.next()?)?);
    let seconds = parts.next().unwrap_or("0");
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let mut micros = 0;
    if !fraction.is_empty() {
        if fraction.len() > 6 {
            return None;
        }
        micros = number(fraction)? * 10_i64.pow(6 - fraction.len() as u32);
    }
    if hour > 24 || minute > 59 || number(whole)? > 60 {
        return None;
    }
    Some(((hour * 60 + minute) * 60 + number(whole)?) * 1_000_000 + micros)
}

/// `2024-05-01 10:00:00.5`, the same with `+02`, `+05:30`, ` BC`, or a bare date → µs since 1970 UTC.
pub fn timestamp_us(text: &str) -> Option<i64> {
    let (text, bc) = text.strip_suffix(" BC").map_or((text, false), |text| (text, true));
    let (date, clock) = text.split_once(' ').unwrap_or((text, "00:00:00"));
    let days = if bc { date_days(&format!("{date} BC"))? } else { date_days(date)? };
    let (clock, offset) = split_zone(clock)?;
    days.checked_mul(86_400_000_000)?.checked_add(time_us(clock)?)?.checked_sub(offset * 1_000_000)
}

/// `10:00:00+05:30` → (`10:00:00`, seconds east of UTC).
pub fn split_zone(clock: &str) -> Option<(&str, i64)> {
    let Some(at) = clock.find(['+', '-']) else { return Some((clock, 0)) };
    let (clock, zone) = clock.split_at(at);
    let mut seconds = 0;
    for (part, unit) in zone.get(1..)?.split(':').zip([3600, 60, 1]) {
        seconds += number(part)? * unit;
    }
    Some((clock, if zone.starts_with('-') { -seconds } else { seconds }))
}

/// Digits only: no sign, at most 9 of them, so that no sum of them overflows.
fn number(text: &str) -> Option<i64> {
    (!text.is_empty() && text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_microseconds() {
        for (text, us) in [
            ("1970-01-01 00:00:00", 0),
            ("1969-12-31 23:59:59.999999", -1),
            ("2019-03-24 20:52:59", 1_553_460_779_000_000),
            ("2024-05-01 12:00:00.5+02", 1_714_557_600_500_000),
            ("2024-05-01 10:00:00.5+00", 1_714_557_600_500_000),
            ("2024-05-01 04:30:00.5-05:30", 1_714_557_600_500_000),
            ("2024-05-01", 1_714_521_600_000_000),
            ("2000-02-29 24:00:00", 951_868_800_000_000),
            ("0001-12-31 00:00:00 BC", -62_135_683_200_000_000),
            ("4713-01-01 00:00:00 BC", -210_863_520_000_000_000),
        ] {
            assert_eq!(timestamp_us(text), Some(us), "{text}");
        }
    }

    #[test]
    fn days_and_dates_go_both_ways() {
        for day in (-1_000_000..1_000_000).step_by(97) {
            let text = date_text(day);
            let read = text.strip_prefix('-').map_or_else(|| date_days(&text), |_| None);
            assert!(day < -719_528 || read == Some(day), "{day} {text}");
        }
        assert_eq!(date_text(days(-4712, 1, 1)), "-4712-01-01");
        assert_eq!((clock_text(1_500_000, 3), clock_text(0, 0)), ("00:00:01.500".into(), "00:00:00".into()));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in
            ["", "infinity", "x", "2024-13-01", "2024-01-01 25:00:00", "2024-01-01 1", "294276-12-31 23:59:59.1234567"]
        {
            assert_eq!(timestamp_us(text), None, "{text}");
        }
    }
}
