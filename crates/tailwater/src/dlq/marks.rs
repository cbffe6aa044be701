//! Which records of a partition are settled, as text that fits beside an offset in a consumer group. Pure.
//!
//! A topic cannot lose single records. So the group's offset says that everything before it is settled, and its metadata
//! which records behind it are, too: `tailwater-dlq 1 17-20,25`.

/// Of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Everything before this offset is settled.
    before: i64,
    /// Settled runs behind it, `from..=to`, in order, with gaps between.
    behind: Vec<(i64, i64)>,
}

/// What a broker takes (`offset.metadata.max.bytes`, 4096 unless configured).
pub const TEXT_MAX: usize = 4096;
const HEAD: &str = "tailwater-dlq 1 ";

impl Marks {
    /// From what the group holds. Nothing, or another tool's text: all before the offset, nothing behind it.
    pub fn read(offset: i64, text: &str) -> Marks {
        let mut marks = Marks { before: offset.max(0), behind: Vec::new() };
        for run in text.strip_prefix(HEAD).unwrap_or_default().split(',') {
            let (from, to) = run.split_once('-').unwrap_or((run, run));
            if let (Ok(from), Ok(to)) = (from.parse::<i64>(), to.parse::<i64>())
                && from <= to
            {
                marks.settle(from, to);
            }
        }
        marks
    }

    /// The offset to commit, and the text beside it.
    pub fn write(&self) -> (i64, String) {
        let run = |(from, to): &(i64, i64)| if from == to { from.to_string() } else { format!("{from}-{to}") };
        let runs: Vec<String> = self.behind.iter().map(run).collect();
        (self.before, if runs.is_empty() { String::new() } else { format!("{HEAD}{}", runs.join(",")) })
    }

    pub fn before(&self) -> i64 {
        self.before
    }

    pub fn contains(&self, offset: i64) -> bool {
        offset < self.before || self.behind.iter().any(|(from, to)| (*from..=*to).contains(&offset))
    }

    /// Settles `from..=to`; what touches becomes one run.
    pub fn settle(&mut self, from: i64, to: i64) {
        self.behind.push((from, to));
        self.behind.sort_unstable();
        let mut runs: Vec<(i64, i64)> = Vec::new();
        for (from, to) in self.behind.drain(..) {
            if to < self.before {
                continue;
            }
            if from <= self.before {
                self.before = to + 1;
                continue;
            }
            match runs.last_mut() {
                Some(last) if from <= last.1 + 1 => last.1 = last.1.max(to),
                _ => runs.push((from, to)),
            }
        }
        self.behind = runs;
    }

    /// Whether one more would still fit beside the offset.
    pub fn fits(&self, offset: i64) -> bool {
        let mut more = self.clone();
        more.settle(offset, offset);
        more.write().1.len() <= TEXT_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_grow_together_and_move_the_offset() {
        let mut marks = Marks::default();
        for (offset, expected) in [
            (5, (0, "tailwater-dlq 1 5")),
            (3, (0, "tailwater-dlq 1 3,5")),
            (4, (0, "tailwater-dlq 1 3-5")),
            (0, (1, "tailwater-dlq 1 3-5")),
            (0, (1, "tailwater-dlq 1 3-5")),
            (1, (2, "tailwater-dlq 1 3-5")),
            (2, (6, "")),
            (9, (6, "tailwater-dlq 1 9")),
        ] {
            marks.settle(offset, offset);
            assert_eq!(marks.write(), (expected.0, expected.1.to_owned()));
            assert_eq!(Marks::read(expected.0, expected.1), marks);
        }
        assert!(marks.contains(5) && !marks.contains(6) && marks.contains(9));
        marks.settle(0, 7);
        assert_eq!(marks.before(), 8);
    }

    #[test]
    fn what_somebody_else_wrote_there_is_no_mark() {
        for text in ["", "hello 5-7", "tailwater-dlq 1 x,7-5,-", "tailwater-dlq 1 "] {
            assert_eq!(Marks::read(-1001, text), Marks::default(), "{text}");
        }
    }

    #[test]
    fn a_text_that_the_broker_would_refuse_is_seen_before() {
        let mut marks = Marks::default();
        let mut offset = 1;
        while marks.fits(offset) {
            marks.settle(offset, offset);
            offset += 2;
        }
        assert!(marks.write().1.len() <= TEXT_MAX && offset > 1000);
        assert!(marks.fits(0), "what closes a gap always fits");
    }
}
