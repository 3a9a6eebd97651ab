//! The places of connections that have begun. One address has half of them at most. Where all are
//! taken, a connection that nobody would miss makes place for a new one, so that whoever only holds
//! on keeps nobody out; and after a stop those on which nothing moves any more are closed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::activity::Activity;
use crate::metrics::Metrics;

/// How long a peer may leave untaken what it is answered, once the service stops, and how often that
/// is looked at.
const TAKES_WITHIN: Duration = Duration::from_secs(5);
const LOOKS: Duration = Duration::from_millis(250);

/// All of them.
#[derive(Debug)]
pub(super) struct Open {
    most: usize,
    pub(super) metrics: Arc<Metrics>,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    /// In the order of their coming.
    all: BTreeMap<u64, (IpAddr, Arc<Activity>)>,
    by_address: HashMap<IpAddr, usize>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    open: Arc<Open>,
    id: u64,
}

impl Open {
    pub(super) fn new(most: usize, metrics: Arc<Metrics>) -> Open {
        Open { most, metrics, inside: Mutex::default() }
    }

    /// A place for a connection from an address, if need be another one's.
    pub(super) fn enter(self: &Arc<Open>, address: IpAddr, activity: &Arc<Activity>) -> Option<Place> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = inside.of(address);
        let of_share = theirs >= self.most.div_ceil(2);
        if of_share || inside.all.len() >= self.most {
            let id = inside.spare(address, of_share)?;
            if let Some(activity) = inside.remove(id) {
                activity.cut.cancel();
                self.metrics.connection_refused("crowded_out");
            }
        }
        let id = inside.next;
        inside.next += 1;
        inside.all.insert(id, (address, activity.clone()));
        *inside.by_address.entry(address).or_default() += 1;
        self.metrics.connections(inside.all.len());
        Some(Place { open: self.clone(), id })
    }

    /// After a stop, until all are gone.
    pub(super) async fn clear(&self) {
        tokio::time::sleep(TAKES_WITHIN).await;
        loop {
            {
                let inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                let quiet = inside.all.values().filter(|(_, activity)| activity.is_quiet(now, TAKES_WITHIN));
                quiet.for_each(|(_, activity)| activity.cut.cancel());
                if inside.all.is_empty() {
                    return;
                }
            }
            tokio::time::sleep(LOOKS).await;
        }
    }
}

impl Inside {
    fn of(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).copied().unwrap_or(0)
    }

    /// Which one makes place: the oldest of the address that has most, of those that nobody would miss.
    /// Among those that have not shown yet what they are for, that is whoever has more of them than the
    /// newcomer has connections. Where the newcomer's `share` is taken, one of its own.
    fn spare(&self, newcomer: IpAddr, share: bool) -> Option<u64> {
        let now = Instant::now();
        let mut unproven: HashMap<IpAddr, usize> = HashMap::new();
        for (address, _) in self.all.values().filter(|(_, activity)| activity.is_unproven()) {
            *unproven.entry(*address).or_default() += 1;
        }
        let theirs = self.of(newcomer);
        let spare = |address: IpAddr, activity: &Activity| {
            let many = unproven.get(&address).is_some_and(|many| *many > theirs + 1);
            match share {
                true => address == newcomer && activity.is_stale(now),
                false => activity.is_stale(now) || many && activity.is_unproven(),
            }
        };
        let spare = self.all.iter().filter(|(_, (address, activity))| spare(*address, activity));
        spare.max_by_key(|(id, (address, _))| (self.of(*address), Reverse(**id))).map(|(id, _)| *id)
    }

    fn remove(&mut self, id: u64) -> Option<Arc<Activity>> {
        let (address, activity) = self.all.remove(&id)?;
        match self.by_address.get_mut(&address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.by_address.remove(&address)),
        }
        Some(activity)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.open.inside.lock().unwrap_or_else(PoisonError::into_inner);
        // None: it made place.
        if inside.remove(self.id).is_some() {
            self.open.metrics.connections(inside.all.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::listener::network;
    use super::*;

    fn open(most: usize) -> Arc<Open> {
        Arc::new(Open::new(most, Arc::new(Metrics::new())))
    }

    fn address(text: &str) -> IpAddr {
        network(text.parse().expect("an address"))
    }

    fn used() -> Arc<Activity> {
        let activity = Arc::new(Activity::new());
        drop(activity.call());
        activity
    }

    #[test]
    fn no_address_has_more_than_half_of_the_places() {
        let open = open(3);
        let first = open.enter(address("10.0.0.1"), &used()).expect("a place");
        let _second = open.enter(address("::ffff:10.0.0.1"), &used()).expect("another one");
        assert!(open.enter(address("10.0.0.1"), &used()).is_none());
        let other = open.enter(address("2001:db8::1"), &used()).expect("a place for others");
        assert!(open.enter(address("10.0.0.2"), &used()).is_none(), "all are taken");
        drop(first);
        let _again = open.enter(address("10.0.0.1"), &used()).expect("the place that was given back");
        drop(other);
        assert_eq!(open.inside.lock().expect("whole").by_address.len(), 1);
        assert_eq!(address("2001:db8::1"), address("2001:db8::2:1"));
    }

    #[test]
    fn whoever_only_holds_on_makes_place_and_whoever_calls_does_not() {
        let open = open(6);
        let mut held = Vec::new();
        let mut enter = |from: &str, activity: &Arc<Activity>| match open.enter(address(from), activity) {
            Some(place) => {
                held.push(place);
                true
            }
            None => false,
        };
        let [busy, idle] = [used(), Arc::new(Activity::new())];
        assert!(enter("10.0.0.1", &busy));
        assert!(enter("10.0.0.2", &idle));
        for from in ["10.0.0.2", "10.0.0.2", "10.0.0.3", "10.0.0.3"] {
            assert!(enter(from, &Arc::new(Activity::new())), "{from}");
        }
        assert!(enter("10.0.0.4", &used()), "the oldest of whoever has most makes place");
        assert!(idle.cut.is_cancelled() && !busy.cut.is_cancelled());
        assert!(!enter("10.0.0.2", &Arc::new(Activity::new())), "not for one of the same");
    }
}
