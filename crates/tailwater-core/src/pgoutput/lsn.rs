//! A place in the write-ahead log as PostgreSQL writes it: `16/B374D848`.

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log; displayed and parsed as two hexadecimal halves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// The text is not two hexadecimal numbers of at most eight digits with a slash between.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an LSN: expected two hexadecimal numbers with a slash between, e.g. 16/B374D848")]
pub struct LsnParseError(pub String);

impl FromStr for Lsn {
    type Err = LsnParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        fn half(text: &str) -> Option<u64> {
            let digits = !text.is_empty() && text.len() <= 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
        }
        let parsed = text.split_once('/').and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)));
        parsed.ok_or_else(|| LsnParseError(text.to_owned()))
    }
}

impl From<u64> for Lsn {
    fn from(lsn: u64) -> Self {
        Lsn(lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_reads_as_it_is_written() {
        for (number, text) in [(0, "0/0"), (1, "0/1"), (0x16_B374_D848, "16/B374D848"), (u64::MAX, "FFFFFFFF/FFFFFFFF")]
        {
            assert_eq!(Lsn(number).to_string(), text);
            assert_eq!(text.parse(), Ok(Lsn(number)));
        }
        assert_eq!("1/ab".parse(), Ok(Lsn(0x1_0000_00ab)), "lower case is read too");
    }

    #[test]
    fn what_is_no_lsn_is_refused() {
        for text in ["", "/", "1", "1/", "/1", "+1/1", "1/-1", "1/123456789", "g/1", "1/1/1", " 1/1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }
}
