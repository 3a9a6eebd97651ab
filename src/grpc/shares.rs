//! Places of which nobody has more than a share, so that whoever takes all of theirs leaves the rest
//! to others. Who has none takes no memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// The places. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Shares<K> {
    most: usize,
    taken: Arc<Mutex<Taken<K>>>,
}

#[derive(Debug)]
struct Taken<K> {
    all: usize,
    by: HashMap<K, usize>,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// So many.
    pub(super) fn of(most: usize) -> Shares<K> {
        Shares { most, taken: Arc::new(Mutex::new(Taken { all: 0, by: HashMap::new() })) }
    }

    /// So many more for somebody who has `each` at most; none where there are not so many.
    pub(super) fn take(&self, who: &K, places: usize, each: usize) -> Option<Share<K>> {
        let mut share = Share { shares: self.clone(), who: who.clone(), each, places: 0 };
        share.more(places).then_some(share)
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.taken.lock().expect("whole").all
    }
}

/// Some of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Share<K: Eq + Hash> {
    shares: Shares<K>,
    who: K,
    each: usize,
    places: usize,
}

impl<K: Eq + Hash + Clone> Share<K> {
    /// Takes so many more; nothing where there are not so many.
    pub(super) fn more(&mut self, places: usize) -> bool {
        let mut taken = self.shares.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = taken.by.get(&self.who).copied().unwrap_or(0);
        if taken.all + places > self.shares.most || mine + places > self.each {
            return false;
        }
        taken.all += places;
        taken.by.insert(self.who.clone(), mine + places);
        self.places += places;
        true
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(self.places);
        match taken.by.get_mut(&self.who) {
            Some(mine) if *mine > self.places => *mine -= self.places,
            _ => drop(taken.by.remove(&self.who)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_a_share_and_all_is_given_back() {
        let shares = Shares::of(4);
        let mut busy = shares.take(&"busy", 1, 2).expect("a place");
        assert!(busy.more(1) && !busy.more(1));
        assert!(shares.take(&"busy", 1, 2).is_none());
        let quiet = shares.take(&"quiet", 2, 2).expect("the rest");
        assert!(shares.take(&"late", 1, 2).is_none());
        drop(busy);
        let _late = shares.take(&"late", 2, 2).expect("what was given back");
        drop(quiet);
        assert_eq!((shares.taken(), shares.taken.lock().expect("whole").by.len()), (2, 1));
    }
}
