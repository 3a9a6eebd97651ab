//! Where a reader stands in the feed, and what it reads next. A place is held against the same
//! snapshot that the changes after it are read from: nothing that was retired is ever skipped.

use crate::service::Error;
use crate::store::{BatchPart, Feed, FeedBatch, FeedPlace};

/// The place that a cursor stands for; `None` is the empty cursor, before the first change.
pub(super) fn stands(cursor: Option<FeedPlace>, feed: &Feed) -> Result<FeedPlace, Error> {
    let Some(place) = cursor else {
        let beginning = FeedPlace { feed_id: feed.feed_id, ..FeedPlace::default() };
        return if feed.whole_story { stands(Some(beginning), feed) } else { Err(Error::CursorExpired) };
    };
    if place.feed_id != feed.feed_id {
        return Err(Error::CursorUnknown);
    }
    if (0..feed.retired_through).contains(&place.position) {
        return Err(Error::CursorExpired);
    }
    if place == (FeedPlace { feed_id: feed.feed_id, ..FeedPlace::default() }) {
        return Ok(place);
    }
    // A batch of another history has another id, and one that is not there is of no history.
    let batch = feed
        .batches
        .first()
        .filter(|batch| (batch.position, batch.batch_id) == (place.position, place.batch_id))
        .filter(|batch| (0..=batch.changes).contains(&place.ordinal))
        .ok_or(Error::CursorUnknown)?;
    match place.position == feed.retired_through && place.ordinal < batch.changes {
        true => Err(Error::CursorExpired),
        false => Ok(place),
    }
}

/// The next `most` changes after a place, of `batches` that begin there, and the place after them.
pub(super) fn next_parts(place: FeedPlace, batches: &[FeedBatch], most: i64) -> (Vec<BatchPart>, FeedPlace) {
    let (mut parts, mut reached, mut room) = (Vec::new(), place, most);
    for batch in batches {
        let after = if batch.position == place.position { place.ordinal } else { 0 };
        let until = batch.changes.min(after.saturating_add(room));
        if until > after {
            parts.push(BatchPart { batch: *batch, after, until });
            reached = after_change(place, batch, until);
            room -= until - after;
        }
        if room == 0 {
            break;
        }
    }
    (parts, reached)
}

/// The place after a change of a batch, in the feed of another place.
pub(super) fn after_change(place: FeedPlace, batch: &FeedBatch, ordinal: i64) -> FeedPlace {
    FeedPlace { position: batch.position, batch_id: batch.batch_id, ordinal, ..place }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::domain::window::Trigger;

    fn batch(position: i64, changes: i64) -> FeedBatch {
        let batch_id = Uuid::from_u128(u128::from(position.unsigned_abs()));
        FeedBatch { position, batch_id, changes, trigger: Trigger::Routine, changed_at: DateTime::UNIX_EPOCH }
    }

    /// Batches at 3, 5 and 6 of 10 changes each, from a cursor's on.
    fn feed(retired_through: i64, from: i64) -> Feed {
        let batches = [3, 5, 6].into_iter().filter(|position| *position >= from);
        let batches = batches.map(|position| batch(position, 10)).collect();
        Feed { feed_id: Uuid::from_u128(99), whole_story: true, retired_through, batches }
    }

    fn place(position: i64, ordinal: i64) -> FeedPlace {
        FeedPlace { ordinal, ..after_change(beginning(), &batch(position, 10), ordinal) }
    }

    fn beginning() -> FeedPlace {
        FeedPlace { feed_id: Uuid::from_u128(99), ..FeedPlace::default() }
    }

    fn told(cursor: Option<FeedPlace>, retired_through: i64) -> &'static str {
        let from = cursor.map_or(0, |place| place.position);
        match stands(cursor, &feed(retired_through, from)) {
            Ok(place) => {
                assert_eq!(place, cursor.unwrap_or(beginning()));
                "good"
            }
            Err(Error::CursorUnknown) => "unknown",
            Err(Error::CursorExpired) => "expired",
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_place_is_good_while_everything_after_it_is_kept() {
        for (cursor, retired_through, expected) in [
            (None, 0, "good"),
            (None, 3, "expired"),
            (Some(beginning()), 0, "good"),
            (Some(beginning()), 3, "expired"),
            (Some(place(3, 0)), 0, "good"),
            (Some(place(3, 10)), 0, "good"),
            (Some(place(3, 9)), 3, "expired"),
            (Some(place(3, 10)), 3, "good"),
            (Some(place(3, 10)), 5, "expired"),
            (Some(place(6, 10)), 6, "good"),
            (Some(place(6, 9)), 6, "expired"),
            (Some(place(5, 0)), 3, "good"),
        ] {
            assert_eq!(told(cursor, retired_through), expected, "{cursor:?} {retired_through}");
        }
        let adopted = Feed { whole_story: false, ..feed(0, 0) };
        assert!(matches!(stands(None, &adopted), Err(Error::CursorExpired)));
        assert!(stands(Some(beginning()), &adopted).is_ok(), "after a first copy");
    }

    #[test]
    fn a_place_that_the_feed_does_not_have_is_unknown() {
        for wrong in [
            FeedPlace { feed_id: Uuid::from_u128(98), ..place(5, 10) },
            FeedPlace { feed_id: Uuid::nil(), ..beginning() },
            FeedPlace { batch_id: Uuid::from_u128(7), ..place(5, 10) },
            FeedPlace { batch_id: Uuid::from_u128(7), ..beginning() },
            FeedPlace { ordinal: 1, ..beginning() },
            place(4, 10),
            place(7, 10),
            place(i64::MAX, 10),
            place(5, 11),
            place(5, -1),
            place(5, i64::MIN),
            place(-1, 0),
        ] {
            assert_eq!(told(Some(wrong), 0), "unknown", "{wrong:?}");
        }
    }

    #[test]
    fn the_next_changes_are_so_many_and_none_is_left_out() {
        for most in 1..=35 {
            let (mut at, mut seen) = (beginning(), Vec::new());
            loop {
                let (parts, reached) = next_parts(at, &feed(0, at.position).batches, most);
                assert!(parts.iter().map(|part| part.until - part.after).sum::<i64>() <= most);
                if parts.is_empty() {
                    assert_eq!((reached, at), (at, place(6, 10)));
                    break;
                }
                for part in parts {
                    seen.extend((part.after + 1..=part.until).map(|ordinal| (part.batch.position, ordinal)));
                }
                assert_eq!(seen.last(), Some(&(reached.position, reached.ordinal)));
                at = reached;
            }
            let all = [3, 5, 6].into_iter().flat_map(|position| (1..=10).map(move |n| (position, n)));
            assert_eq!(seen, all.collect::<Vec<_>>(), "{most} at a time");
        }
    }
}
