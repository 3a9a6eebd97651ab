//! Random lives of a spool, each ended by a power failure or a kill, some with failing calls in
//! between. What was acknowledged is there exactly once and in order, what was not at most once.

use std::time::{Duration, Instant};

use super::memory::{Fault, MemoryDisk};
use super::{Random, all, dir, open, options, soak};
use crate::spool::consumer::Reader;
use crate::spool::retained::retained;
use crate::spool::writer::Writer;
use crate::spool::{Options, Record};

const SEED: u64 = 20_260_701;

/// What became of a record; its index is its id.
#[derive(Debug, Clone, Copy, Default)]
struct Fate {
    acknowledged: bool,
    /// It was said to be done, and that was on disk.
    done: bool,
    /// It was said to be done, and that failed.
    maybe_done: bool,
}

#[derive(Debug, Default)]
struct Figures {
    lives: u64,
    power_failures: u64,
    acknowledged: u64,
    refused: u64,
    refused_and_there: u64,
    done: u64,
}

struct History {
    seed: u64,
    random: Random,
    disk: MemoryDisk,
    options: Options,
    fates: Vec<Fate>,
    figures: Figures,
}

/// Of any length, and some with bytes that look like frames.
fn payload(id: u64) -> Vec<u8> {
    let mut random = Random(id);
    let longest = if random.below(20) == 0 { 6000 } else { 200 };
    let length = random.below(longest);
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.extend((0..length).map(|_| if random.below(4) == 0 { 0xf5 } else { random.next() as u8 }));
    bytes
}

impl History {
    fn new(seed: u64) -> History {
        let mut random = Random(seed);
        let retain = Duration::from_secs(if random.below(2) == 0 { 0 } else { 86_400 });
        let options = Options { segment_bytes: 512 << random.below(6), retain, ..options() };
        let disk = MemoryDisk::new();
        let figures = Figures::default();
        History { seed, random, disk, options, fates: Vec::new(), figures }
    }

    fn life(&mut self) {
        self.figures.lives += 1;
        self.fault(3);
        if let Ok((mut writer, mut reader)) = open(&self.disk, &self.options) {
            if !self.disk.get().killed {
                self.check(&mut reader);
            }
            for _ in 0..self.random.below(25) {
                match self.random.below(10) {
                    0..=4 => self.append(&mut writer),
                    5..=7 => self.ship(&mut reader),
                    8 if !self.disk.get().killed => self.fault(2),
                    // The clock may go back.
                    _ => {
                        let jump = self.random.below(10_000) as u64;
                        let mut memory = self.disk.get();
                        memory.millis = memory.millis + jump - 5_000;
                    }
                }
            }
        } else {
            assert!(self.disk.get().failed > 0, "seed {}: open failed, no call did", self.seed);
        }
        assert_eq!(self.disk.get().retried, 0, "seed {}: a file that failed was written again", self.seed);
        self.disk = match self.random.below(3) {
            0 => self.disk.restart(),
            _ => {
                self.figures.power_failures += 1;
                self.disk.crash(&mut self.random)
            }
        };
    }

    /// One of the next calls will fail, with this chance in six.
    fn fault(&mut self, chance: usize) {
        let fault = [Fault::NoSpace, Fault::Broken, Fault::Killed][self.random.below(3)];
        let soon = self.random.below(25) as u64;
        let fails = self.random.below(6) < chance;
        let killed_in = (self.random.below(2) == 0).then_some(self.random.below(4) as u64);
        let mut memory = self.disk.get();
        memory.fail_in = fails.then_some((soon, fault));
        memory.killed_in = killed_in;
    }

    fn append(&mut self, writer: &mut Writer) {
        let calls: Vec<Vec<Vec<u8>>> = (0..1 + self.random.below(3))
            .map(|_| {
                (0..1 + self.random.below(4))
                    .map(|_| {
                        self.fates.push(Fate::default());
                        payload(self.fates.len() as u64 - 1)
                    })
                    .collect()
            })
            .collect();
        let slices: Vec<&[Vec<u8>]> = calls.iter().map(Vec::as_slice).collect();
        let mut id = self.fates.len() - calls.iter().map(Vec::len).sum::<usize>();
        let due = self.disk.get().fail_in.is_some() || self.disk.get().killed;
        for (answer, call) in writer.append(&slices).into_iter().zip(&calls) {
            assert!(answer.is_ok() || due, "seed {}: {answer:?}", self.seed);
            for _ in call {
                self.fates[id].acknowledged = answer.is_ok();
                *(if answer.is_ok() { &mut self.figures.acknowledged } else { &mut self.figures.refused }) +=
                    1;
                id += 1;
            }
        }
    }

    fn ship(&mut self, reader: &mut Reader) {
        let Ok(found) = reader.peek(1 + self.random.below(12), 1 + self.random.below(5_000)) else {
            return assert!(self.disk.get().failed > 0, "seed {}: no call failed", self.seed);
        };
        let count = self.random.below(found.len() + 1);
        let done = reader.done(count).is_ok();
        for record in &found[..count] {
            let fate = &mut self.fates[id(record)];
            assert!(!fate.done, "seed {}: given out again", self.seed);
            (fate.done, fate.maybe_done) = (done, !done);
            self.figures.done += u64::from(done);
        }
    }

    fn check(&mut self, reader: &mut Reader) {
        // A look is no test of what fails in it.
        let armed = self.disk.get().fail_in.take();
        let found = all(reader);
        self.disk.get().fail_in = armed;
        let depth = reader.shared().depth();
        assert_eq!(depth.events, found.len() as u64, "seed {}", self.seed);
        let ids: Vec<usize> = found.iter().map(id).collect();
        self.in_order(&ids);
        for (id, fate) in self.fates.iter().enumerate() {
            let there = ids.binary_search(&id).is_ok();
            assert!(
                there || !fate.acknowledged || fate.done || fate.maybe_done,
                "seed {}: {id} is lost",
                self.seed
            );
            assert!(!there || !fate.done, "seed {}: {id} is there again", self.seed);
            self.figures.refused_and_there += u64::from(there && !fate.acknowledged);
        }
        assert_eq!(depth.missing_records, 0, "seed {}: nothing that was promised is", self.seed);
    }

    fn in_order(&self, ids: &[usize]) {
        assert!(
            ids.windows(2).all(|two| two[0] < two[1]),
            "seed {}: twice or out of order: {ids:?}",
            self.seed
        );
    }

    /// In the end everything is shipped, or kept and to be had again.
    fn end(mut self) -> Figures {
        let (_writer, mut reader) = open(&self.disk, &self.options).unwrap();
        self.check(&mut reader);
        let mut ids: Vec<usize> = retained(std::sync::Arc::new(self.disk.clone()), &dir(), None)
            .unwrap()
            .map(|record| id(&record.unwrap()))
            .collect();
        let found = all(&mut reader);
        ids.extend(found.iter().map(id));
        self.in_order(&ids);
        for (id, fate) in self.fates.iter().enumerate() {
            let kept = self.options.retain.is_zero() || ids.binary_search(&id).is_ok();
            assert!(kept || !fate.acknowledged, "seed {}: {id} was not kept", self.seed);
        }
        reader.done(found.len()).unwrap();
        drop((_writer, reader));
        let (_writer, mut reader) = open(&self.disk.restart(), &self.options).unwrap();
        assert_eq!(all(&mut reader), [], "seed {}", self.seed);
        self.figures
    }
}

fn id(record: &Record) -> usize {
    let id = u64::from_le_bytes(record.payload[..8].try_into().unwrap());
    assert_eq!(record.payload, payload(id), "a record that nobody appended");
    id as usize
}

#[test]
fn what_was_acknowledged_is_there_exactly_once_whatever_a_power_failure_loses() {
    let (histories, lives, began) = (if soak() { 20_000 } else { 250 }, 6, Instant::now());
    let mut sum = Figures::default();
    for seed in SEED..SEED + histories {
        let mut history = History::new(seed);
        for _ in 0..lives {
            history.life();
        }
        let figures = history.end();
        sum.lives += figures.lives;
        sum.power_failures += figures.power_failures;
        sum.acknowledged += figures.acknowledged;
        sum.refused += figures.refused;
        sum.refused_and_there += figures.refused_and_there;
        sum.done += figures.done;
    }
    println!("seeds {SEED} and on: {histories} histories in {:.1?}, {sum:?}", began.elapsed());
    // It must have been hard.
    assert!(sum.power_failures > 3 * histories && sum.refused > histories && sum.done > histories);
    assert!(sum.refused_and_there > 0, "no write was half done");
}
