//! Floating point numbers as Java prints them (`Double.toString`, `Float.toString` since JDK 19).
//!
//! The digits are the shortest that read back the same, in Java as here; only the layout differs.

/// `Double.toString`: `1.0`, `1.0E7`, `1.0E-4`, `NaN`, `Infinity`.
pub fn double(value: f64) -> String {
    layout(value.is_finite(), value.abs(), value.is_sign_negative(), || format!("{:e}", value.abs()))
}

/// `Float.toString`.
pub fn float(value: f32) -> String {
    layout(value.is_finite(), f64::from(value.abs()), value.is_sign_negative(), || format!("{:e}", value.abs()))
}

fn layout(finite: bool, size: f64, negative: bool, scientific: impl Fn() -> String) -> String {
    if size.is_nan() {
        return "NaN".into();
    }
    let sign = if negative { "-" } else { "" };
    if !finite {
        return format!("{sign}Infinity");
    }
    // The smallest double has two digits in Java.
    let text = if size == f64::from_bits(1) { "4.9e-324".into() } else { scientific() };
    let (mantissa, exponent) = text.split_once('e').expect("Rust's {:e} has an exponent");
    let exponent: i32 = exponent.parse().expect("Rust's {:e} has a number for an exponent");
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    if size != 0.0 && !(1e-3..1e7).contains(&size) {
        let (first, rest) = digits.split_at(1);
        return format!("{sign}{first}.{}E{exponent}", if rest.is_empty() { "0" } else { rest });
    }
    if exponent < 0 {
        return format!("{sign}0.{}{digits}", "0".repeat((-exponent - 1) as usize));
    }
    let whole = exponent as usize + 1;
    let padded = format!("{digits:0<whole$}");
    let (whole, fraction) = padded.split_at(whole);
    format!("{sign}{whole}.{}", if fraction.is_empty() { "0" } else { fraction })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from Debezium 3.7.0.
    #[test]
    fn numbers_look_as_in_java() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (100.0, "100.0"),
            (-1.5, "-1.5"),
            (0.001, "0.001"),
            (0.0001, "1.0E-4"),
            (1e7, "1.0E7"),
            (9_999_999.0, "9999999.0"),
            (123_456_789.125, "1.23456789125E8"),
            (12_345_678.9, "1.23456789E7"),
            (1e21, "1.0E21"),
            (4.9e-324, "4.9E-324"),
            (f64::MAX, "1.7976931348623157E308"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(double(value), text);
        }
        assert_eq!(float(0.1), "0.1");
        assert_eq!(float(1.5), "1.5");
    }
}
