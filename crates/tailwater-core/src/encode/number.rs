//! Floating point numbers as Java 17 prints them (`Double.toString`, `Float.toString`), the Java of the recordings.
//!
//! Its digits are mostly, but not always, the shortest that read back the same (JDK-4511638): the smallest normal float is
//! `1.17549435E-38`. So this is Java's own algorithm, after Steele and White, and not Rust's. Not here: parsing.

use std::cmp::Ordering;

/// `Double.toString`: `1.0`, `1.0E7`, `1.0E-4`, `NaN`, `Infinity`.
pub fn double(value: f64) -> String {
    let bits = value.to_bits();
    let (exponent, fraction) = ((bits >> 52 & 0x7FF) as i32, bits & ((1 << 52) - 1));
    special(value).unwrap_or_else(|| {
        let binary = if exponent == 0 {
            Binary::tiny(fraction, 52, 1023)
        } else {
            Binary { exponent: exponent - 1023, fraction: fraction | 1 << 52, significant: 53 }
        };
        layout(value.is_sign_negative(), binary.decimal())
    })
}

/// `Float.toString`.
pub fn float(value: f32) -> String {
    let bits = value.to_bits();
    let (exponent, fraction) = ((bits >> 23 & 0xFF) as i32, u64::from(bits & ((1 << 23) - 1)));
    special(f64::from(value)).unwrap_or_else(|| {
        let binary = if exponent == 0 {
            Binary::tiny(fraction, 23, 127)
        } else {
            Binary { exponent: exponent - 127, fraction: (fraction | 1 << 23) << 29, significant: 24 }
        };
        layout(value.is_sign_negative(), binary.decimal())
    })
}

fn special(value: f64) -> Option<String> {
    let sign = if value.is_sign_negative() { "-" } else { "" };
    match value {
        _ if value.is_nan() => Some("NaN".into()),
        _ if value.is_infinite() => Some(format!("{sign}Infinity")),
        0.0 => Some(format!("{sign}0.0")),
        _ => None,
    }
}

/// `0.digits × 10^exponent`.
struct Decimal {
    digits: Vec<u8>,
    exponent: i32,
}

/// Plain from 10⁻³ up to 10⁷, else with an exponent; always a digit after the point.
fn layout(negative: bool, Decimal { digits, exponent }: Decimal) -> String {
    let sign = if negative { "-" } else { "" };
    let text: String = digits.iter().map(|digit| char::from(b'0' + digit)).collect();
    let or_zero = |rest: &str| if rest.is_empty() { "0".to_owned() } else { rest.to_owned() };
    match exponent {
        1..8 => {
            let whole = exponent as usize;
            let text = format!("{text:0<whole$}");
            format!("{sign}{}.{}", &text[..whole], or_zero(&text[whole..]))
        }
        -2..=0 => format!("{sign}0.{}{text}", "0".repeat(exponent.unsigned_abs() as usize)),
        _ => format!("{sign}{}.{}E{}", &text[..1], or_zero(&text[1..]), exponent - 1),
    }
}

/// `fraction × 2^(exponent - 52)`, bit 52 of `fraction` being set.
struct Binary {
    exponent: i32,
    fraction: u64,
    /// Bits of the fraction that the type really has.
    significant: i32,
}

impl Binary {
    /// A subnormal number, not zero.
    fn tiny(fraction: u64, fraction_bits: i32, bias: i32) -> Binary {
        let significant = 64 - fraction.leading_zeros() as i32;
        let shift = fraction_bits + 1 - significant;
        Binary { exponent: 1 - shift - bias, fraction: fraction << (53 - significant), significant }
    }

    /// `FloatingDecimal.dtoa`.
    fn decimal(&self) -> Decimal {
        let tail = self.fraction.trailing_zeros() as i32;
        let bits = 53 - tail;
        let tiny_bits = (bits - self.exponent - 1).max(0);
        if (0..=62).contains(&self.exponent) && tiny_bits == 0 {
            return self.whole();
        }
        // fraction = B / S × 10^exponent with 1 <= B / S < 10; M is half the distance to the next number.
        let mut exponent = self.estimate();
        let b5 = (-exponent).max(0);
        let mut b2 = b5 + tiny_bits + self.exponent;
        let s5 = exponent.max(0);
        let mut s2 = s5 + tiny_bits;
        let mut m2 = b2 - self.significant;
        b2 -= bits - 1;
        let common = b2.min(s2);
        (b2, s2, m2) = (b2 - common, s2 - common, m2 - common);
        if bits == 1 {
            m2 -= 1;
        }
        if m2 < 0 {
            (b2, s2, m2) = (b2 - m2, s2 - m2, 0);
        }
        // With 64 bits or less it compares with `>`, beyond with `>=`.
        let small = bits + b2 + bits_of_5_to(b5) < 64 && s2 + 1 + bits_of_5_to(s5 + 1) < 64;
        let enough = |sum: Ordering| sum == Ordering::Greater || (!small && sum == Ordering::Equal);
        let s = Big::new(1, s5, s2);
        let tens = s.times(10);
        let mut b = Big::new(self.fraction >> tail, b5, b2);
        let mut m = Big::new(1, b5, m2).times(10);
        let mut digits = Vec::new();
        let first = b.next_digit(&s);
        let mut low = b.cmp(&m) == Ordering::Less;
        let mut high = enough(b.plus(&m).cmp(&tens));
        if first == 0 && !high {
            exponent -= 1;
        } else {
            digits.push(first);
        }
        if !(-3..8).contains(&exponent) {
            (low, high) = (false, false);
        }
        while !low && !high {
            digits.push(b.next_digit(&s));
            m = m.times(10);
            low = b.cmp(&m) == Ordering::Less;
            high = enough(b.plus(&m).cmp(&tens));
        }
        let half = b.times(2).cmp(&tens);
        let odd = digits.last().is_some_and(|digit| digit % 2 == 1);
        let mut decimal = Decimal { digits, exponent: exponent + 1 };
        if high && (!low || half == Ordering::Greater || (half == Ordering::Equal && odd)) {
            decimal.round_up();
        }
        decimal
    }

    /// A whole number below 2⁶³: all digits that its bits are sure of.
    fn whole(&self) -> Decimal {
        let mut number = if self.exponent >= 52 {
            self.fraction << (self.exponent - 52)
        } else {
            self.fraction >> (52 - self.exponent)
        };
        let unsure = self.exponent - self.significant - 1;
        let mut zeros = if unsure > 1 { f64::from(unsure) * std::f64::consts::LOG10_2 } else { 0.0 } as u32;
        if zeros > 0 {
            let unit = 10u64.pow(zeros);
            number = number / unit + u64::from(number % unit >= unit / 2);
        }
        while number % 10 == 0 {
            number /= 10;
            zeros += 1;
        }
        let digits: Vec<u8> = number.to_string().bytes().map(|digit| digit - b'0').collect();
        Decimal { exponent: (digits.len() as u32 + zeros) as i32, digits }
    }

    #[allow(clippy::approx_constant)] // Java's constants, as short as they are there
    fn estimate(&self) -> i32 {
        let fraction = f64::from_bits(1023 << 52 | (self.fraction & ((1 << 52) - 1)));
        let estimate =
            (fraction - 1.5) * 0.289_529_654 + 0.176_091_259 + f64::from(self.exponent) * 0.301_029_995_663_981;
        estimate.floor() as i32
    }
}

impl Decimal {
    fn round_up(&mut self) {
        for digit in self.digits.iter_mut().rev() {
            if *digit < 9 {
                *digit += 1;
                return;
            }
            *digit = 0;
        }
        if let Some(first) = self.digits.first_mut() {
            *first = 1;
        }
        self.exponent += 1;
    }
}

/// Bits of 5ⁿ as Java's table has them: exact to 26, then three each.
fn bits_of_5_to(n: i32) -> i32 {
    match n {
        0 => 0,
        1..27 => 64 - 5u64.pow(n as u32).leading_zeros() as i32,
        _ => n * 3,
    }
}

/// A large natural number, lowest digits (base 2³²) first, without zeros at the top.
struct Big(Vec<u32>);

impl Big {
    /// `number × 5^fives × 2^twos`.
    fn new(number: u64, fives: i32, twos: i32) -> Big {
        let mut big = Big(vec![number as u32, (number >> 32) as u32]);
        for _ in 0..fives {
            big = big.times(5);
        }
        for _ in 0..twos / 31 {
            big = big.times(1 << 31);
        }
        big.times(1 << (twos % 31))
    }

    fn times(&self, factor: u32) -> Big {
        let mut carry = 0u64;
        let mut digits: Vec<u32> = Vec::with_capacity(self.0.len() + 1);
        for digit in &self.0 {
            carry += u64::from(*digit) * u64::from(factor);
            digits.push(carry as u32);
            carry >>= 32;
        }
        digits.push(carry as u32);
        while digits.last() == Some(&0) {
            digits.pop();
        }
        Big(digits)
    }

    fn plus(&self, other: &Big) -> Big {
        let mut carry = 0u64;
        let mut digits: Vec<u32> = Vec::new();
        for index in 0..self.0.len().max(other.0.len()) {
            let of = |big: &Big| u64::from(big.0.get(index).copied().unwrap_or(0));
            carry += of(self) + of(other);
            digits.push(carry as u32);
            carry >>= 32;
        }
        if carry > 0 {
            digits.push(carry as u32);
        }
        Big(digits)
    }

    fn cmp(&self, other: &Big) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }

    /// The quotient by `divisor`, below 10; ten times the rest stays.
    fn next_digit(&mut self, divisor: &Big) -> u8 {
        let mut quotient = 0;
        while self.cmp(divisor) != Ordering::Less {
            let mut borrow = 0i64;
            for (index, digit) in self.0.iter_mut().enumerate() {
                borrow += i64::from(*digit) - i64::from(divisor.0.get(index).copied().unwrap_or(0));
                *digit = borrow as u32;
                borrow >>= 32;
            }
            while self.0.last() == Some(&0) {
                self.0.pop();
            }
            quotient += 1;
        }
        *self = self.times(10);
        quotient
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Recorded from Debezium 3.7.0 on Java 17.
    #[test]
    fn numbers_look_as_in_java() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (100.0, "100.0"),
            (-1.5, "-1.5"),
            (12.5, "12.5"),
            (0.1, "0.1"),
            (0.001, "0.001"),
            (0.0001, "1.0E-4"),
            (1e-7, "1.0E-7"),
            (1e7, "1.0E7"),
            (9_999_999.0, "9999999.0"),
            (16_777_217.0, "1.6777217E7"),
            (123_456_789.125, "1.23456789125E8"),
            (12_345_678.9, "1.23456789E7"),
            (1e10, "1.0E10"),
            (1e16, "1.0E16"),
            (1e21, "1.0E21"),
            (3.333_333_333_333_333_5, "3.3333333333333335"),
            (1.175_494_35e-38, "1.17549435E-38"),
            (4.9e-324, "4.9E-324"),
            (f64::MAX, "1.7976931348623157E308"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(double(value), text);
        }
        for (value, text) in [
            (0.1, "0.1"),
            (1.5, "1.5"),
            (123_456_790.0, "1.23456792E8"),
            (16_777_217.0, "1.6777216E7"),
            (3.333_333_3, "3.3333333"),
            (1.175_494_4e-38, "1.17549435E-38"),
            (f32::MAX, "3.4028235E38"),
            (3.4e38, "3.4E38"),
            (1e-45, "1.4E-45"),
            (1e21, "1.0E21"),
        ] {
            assert_eq!(float(value), text);
        }
    }

    proptest! {
        #[test]
        fn any_number_reads_back_the_same(bits in any::<u64>(), small in any::<i32>(), scale in 1..1000i32) {
            for value in [f64::from_bits(bits), f64::from(small) / f64::from(scale)] {
                let read: f64 = double(value).parse().unwrap();
                prop_assert!(read.to_bits() == value.to_bits() || value.is_nan(), "{}", double(value));
            }
            let value = f32::from_bits(bits as u32);
            let read: f32 = float(value).parse().unwrap();
            prop_assert!(read.to_bits() == value.to_bits() || value.is_nan(), "{}", float(value));
        }

        /// What Java prints is the shortest form, or longer; never another number of the same length.
        #[test]
        fn it_is_close_to_the_shortest_form(cents in -1_000_000_000i64..1_000_000_000) {
            let value = cents as f64 / 100.0;
            let plain = if cents % 100 == 0 { format!("{value:.1}") } else { format!("{value}") };
            if (1e-3..1e7).contains(&value.abs()) {
                prop_assert_eq!(double(value), plain);
            }
        }
    }
}
