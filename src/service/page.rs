//! How large a page is: by rows as asked for, within a call's limits, and by weight, so that a
//! message stays under 2 MiB whatever was asked for.

use crate::domain::violation::Violation;

/// What the rows of a page may weigh together.
const PAGE_BYTES: usize = 1_900_000;

/// The sizes of a call's pages, in rows.
pub(super) struct PageSizes {
    /// Where the caller asks for 0.
    pub default: u16,
    /// Where the caller asks for more.
    pub largest: u16,
}

impl PageSizes {
    /// The rows of a page.
    pub fn of(&self, asked: i32, wrong: &mut Vec<Violation>) -> u16 {
        if asked < 0 {
            let message = format!("must be 0 (for the default of {}) or more", self.default);
            wrong.push(Violation::new("page_size", "NEGATIVE", message));
        }
        match u16::try_from(asked) {
            Ok(0) => self.default,
            Ok(size) => size.min(self.largest),
            Err(_) => self.largest,
        }
    }
}

/// How many rows a page of `size` holds if the others weigh as much as these do.
pub(super) fn fitting<T>(rows: &[T], size: u16, weight: impl Fn(&T) -> usize) -> u16 {
    let bytes = rows.iter().map(weight).sum::<usize>().max(1);
    u16::try_from(rows.len() * PAGE_BYTES / bytes).map_or(size, |rows| rows.min(size))
}

/// Cuts `rows` to a page of `size`, and says whether more follow: the caller reads one row more
/// than it asks for. A page holds at least one row, or it would never go on.
pub(super) fn cut<T>(rows: &mut Vec<T>, size: u16, weight: impl Fn(&T) -> usize) -> bool {
    let mut bytes = 0;
    let fitting = rows.iter().take(usize::from(size)).take_while(|row| {
        let first = bytes == 0;
        bytes += weight(row);
        first || bytes <= PAGE_BYTES
    });
    let fits = fitting.count();
    let more = rows.len() > fits;
    rows.truncate(fits);
    more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_what_fits_and_at_least_one_row() {
        let cut_to = |weights: &[usize], size| {
            let mut rows = weights.to_vec();
            let more = cut(&mut rows, size, |weight| *weight);
            (rows.len(), more)
        };
        assert_eq!(cut_to(&[], 5), (0, false));
        assert_eq!(cut_to(&[1; 5], 5), (5, false));
        assert_eq!(cut_to(&[1; 6], 5), (5, true));
        assert_eq!(cut_to(&[PAGE_BYTES, 1], 5), (1, true));
        assert_eq!(cut_to(&[PAGE_BYTES + 1, 1], 5), (1, true));
        assert_eq!(cut_to(&[PAGE_BYTES / 2, PAGE_BYTES / 2, 1], 5), (2, true));
    }

    #[test]
    fn what_fits_is_told_by_the_rows_at_hand() {
        let fit = |weights: &[usize], size| fitting(weights, size, |weight| *weight);
        assert_eq!(fit(&[190, 210], 10_000), 9_500);
        assert_eq!(fit(&[190, 210], 500), 500);
        assert_eq!(fit(&[PAGE_BYTES * 2], 500), 0);
        assert_eq!(fit(&[], 500), 0);
        assert_eq!(fit(&[0, 0], 500), 500);
    }

    #[test]
    fn a_size_is_within_its_limits() {
        let sizes = PageSizes { default: 50, largest: 200 };
        let mut wrong = Vec::new();
        for (asked, size) in [(0, 50), (1, 1), (200, 200), (201, 200), (i32::MAX, 200)] {
            assert_eq!(sizes.of(asked, &mut wrong), size);
        }
        assert_eq!(wrong, []);
        sizes.of(-1, &mut wrong);
        assert_eq!(wrong.len(), 1);
    }
}
