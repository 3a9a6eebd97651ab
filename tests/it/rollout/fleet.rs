//! The services of both builds that are there at a moment. They come, are drained and are killed while
//! others ask them.

use std::sync::{Mutex, MutexGuard};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Build, SOON};
use crate::events::Random;
use crate::harness::Service;
use crate::stage::{assert_no_panic, until};

#[derive(Default)]
pub struct Fleet {
    members: Mutex<Vec<(Build, Service)>>,
    /// What those said that are gone.
    said: Mutex<Vec<Value>>,
}

impl Fleet {
    pub fn take_in(&self, build: Build, service: Service) {
        self.members().push((build, service));
    }

    fn members(&self) -> MutexGuard<'_, Vec<(Build, Service)>> {
        self.members.lock().unwrap()
    }

    /// One of them, if there is any, with its address.
    pub fn any(&self, random: &mut Random) -> Option<(Build, String)> {
        let members = self.members();
        let one = random.below(members.len().max(1) as u64) as usize;
        members.get(one).map(|(build, service)| (*build, service.url()))
    }

    /// Stops all of a build; who calls meanwhile is told to go elsewhere.
    pub async fn drain(&self, build: Build) {
        let is_of = |member: &&mut (Build, Service)| member.0 == build;
        self.members().iter_mut().filter(is_of).for_each(|(_, service)| service.signal(Signal::SIGTERM));
        until("they are drained", SOON, async || {
            self.members().iter_mut().filter(is_of).all(|(_, service)| service.ended().is_some())
        })
        .await;
        for mut service in self.leave(build, usize::MAX) {
            assert_eq!(service.ended().and_then(|status| status.code()), Some(0), "{build:?}");
        }
    }

    /// Kills one of a build in the middle of whatever it does.
    pub async fn kill(&self, build: Build) {
        let mut service = self.leave(build, 1).remove(0);
        service.signal(Signal::SIGKILL);
        service.wait(SOON).await;
    }

    /// Up to so many of a build, which nobody calls any more.
    fn leave(&self, build: Build, count: usize) -> Vec<Service> {
        let (mut gone, mut stay) = (Vec::new(), Vec::new());
        for (of, service) in std::mem::take(&mut *self.members()) {
            if of == build && gone.len() < count {
                gone.push(service);
            } else {
                stay.push((of, service));
            }
        }
        *self.members() = stay;
        for service in &gone {
            assert_no_panic(service);
            self.said.lock().unwrap().extend(service.logs());
        }
        gone
    }

    /// How often somebody went on with the run of a process that was gone.
    pub fn takeovers(&self) -> usize {
        let mut said = self.said.lock().unwrap().clone();
        said.extend(self.members().iter().flat_map(|(_, service)| service.logs()));
        said.iter().filter(|line| line.to_string().contains("process is gone; going on with it")).count()
    }
}
