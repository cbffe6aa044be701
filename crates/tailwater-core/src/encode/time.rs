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

/// Digits only: no sign, at most 18 of them.
fn number(text: &str) -> Option<i64> {
    (!text.is_empty() && text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
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
    fn what_is_no_time_is_none() {
        for text in
            ["", "infinity", "x", "2024-13-01", "2024-01-01 25:00:00", "2024-01-01 1", "294276-12-31 23:59:59.1234567"]
        {
            assert_eq!(timestamp_us(text), None, "{text}");
        }
    }
}
