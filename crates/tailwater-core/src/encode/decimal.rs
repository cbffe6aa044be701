//! Decimal numbers as Connect carries them: an unscaled integer in two's complement and a scale.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

/// A `java.math.BigDecimal`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    /// Of the unscaled number, without leading zeros; `0` for zero.
    digits: String,
    pub scale: usize,
}

impl Decimal {
    /// From the server's text of a numeric; `None` for NaN and the infinities.
    pub fn parse(text: &str) -> Option<Decimal> {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let all = format!("{whole}{fraction}");
        if all.is_empty() || !all.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Decimal { negative, digits: trimmed(&all), scale: fraction.len() })
    }

    /// The same number with at least this scale.
    pub fn with_scale(mut self, scale: usize) -> Decimal {
        if scale > self.scale {
            self.digits = trimmed(&format!("{}{}", self.digits, "0".repeat(scale - self.scale)));
            self.scale = scale;
        }
        self
    }

    /// The same number without zeros at the end of its fraction.
    pub fn shortened(mut self) -> Decimal {
        while self.scale > 0 && self.digits.len() > 1 && self.digits.ends_with('0') {
            self.digits.pop();
            self.scale -= 1;
        }
        if self.digits == "0" {
            self.scale = 0;
        }
        self
    }

    /// `BigInteger.toByteArray` of the unscaled number, as base64.
    pub fn unscaled_base64(&self) -> String {
        BASE64.encode(self.unscaled())
    }

    /// Big-endian two's complement, as short as it can be.
    pub fn unscaled(&self) -> Vec<u8> {
        let mut limbs: Vec<u32> = Vec::new();
        for chunk in self.digits.as_bytes().chunks(9) {
            let mut carry = chunk.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
            for limb in &mut limbs {
                carry += u64::from(*limb) * 10u64.pow(chunk.len() as u32);
                *limb = carry as u32;
                carry >>= 32;
            }
            limbs.push(carry as u32);
        }
        let mut bytes: Vec<u8> = limbs.iter().flat_map(|limb| limb.to_le_bytes()).collect();
        bytes.push(0);
        if self.negative {
            let mut carry = true;
            for byte in &mut bytes {
                let (sum, over) = (!*byte).overflowing_add(u8::from(carry));
                (*byte, carry) = (sum, over);
            }
        }
        let filler = if self.negative && self.digits != "0" { 0xFF } else { 0 };
        while let [.., before, last] = bytes.as_slice()
            && *last == filler
            && (*before ^ filler) & 0x80 == 0
        {
            bytes.pop();
        }
        bytes.reverse();
        bytes
    }
}

impl std::fmt::Display for Decimal {
    /// `BigDecimal.toString`: scientific when the adjusted exponent is below -6.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.negative && self.digits != "0" { "-" } else { "" };
        let adjusted = self.digits.len() as i64 - 1 - self.scale as i64;
        if adjusted < -6 {
            let (first, rest) = self.digits.split_at(1);
            let point = if rest.is_empty() { "" } else { "." };
            return write!(f, "{sign}{first}{point}{rest}E{adjusted}");
        }
        let width = self.scale + 1;
        let padded = format!("{:0>width$}", self.digits);
        let (whole, fraction) = padded.split_at(padded.len() - self.scale);
        write!(f, "{sign}{whole}{}{fraction}", if fraction.is_empty() { "" } else { "." })
    }
}

fn trimmed(digits: &str) -> String {
    let trimmed = digits.trim_start_matches('0');
    if trimmed.is_empty() { "0".into() } else { trimmed.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from Debezium 3.7.0.
    #[test]
    fn decimals_are_as_in_java() {
        for (text, base64, printed) in [
            ("12345678.90", "SZYC0g==", "12345678.90"),
            ("-0.01", "/w==", "-0.01"),
            ("0", "AA==", "0"),
            ("-1", "/w==", "-1"),
            ("128", "AIA=", "128"),
            ("-128", "gA==", "-128"),
            ("-129", "/38=", "-129"),
            ("255", "AP8=", "255"),
            ("42.10", "EHI=", "42.10"),
            ("12345678901234567890", "AKtUqYzrHwrS", "12345678901234567890"),
            (
                "9999999999999999999999999999.9999999999",
                "SztMqFqGxHoJiiI//////w==",
                "9999999999999999999999999999.9999999999",
            ),
            ("0.0000001", "AQ==", "1E-7"),
            ("0.00000012", "DA==", "1.2E-7"),
            ("0.000001", "AQ==", "0.000001"),
            ("0.00", "AA==", "0.00"),
        ] {
            let decimal = Decimal::parse(text).unwrap();
            assert_eq!((decimal.unscaled_base64().as_str(), decimal.to_string().as_str()), (base64, printed), "{text}");
        }
        assert_eq!(Decimal::parse("NaN"), None);
        assert_eq!(Decimal::parse("-Infinity"), None);
    }

    #[test]
    fn the_scale_grows_or_shrinks_to_what_is_needed() {
        let decimal = Decimal::parse("1.10").unwrap().shortened();
        assert_eq!((decimal.scale, decimal.unscaled()), (1, vec![11]));
        assert_eq!(Decimal::parse("-100").unwrap().shortened().scale, 0);
        assert_eq!(Decimal::parse("0.00").unwrap().shortened().scale, 0);
        assert_eq!(Decimal::parse("1.5").unwrap().with_scale(4).to_string(), "1.5000");
    }
}
