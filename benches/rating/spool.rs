//! How many records a spool takes a second, each on disk before it is acknowledged, with 1, 16 and
//! 256 producers that wait for theirs; against bare writes of 4 KiB, each with its `fdatasync`, on
//! the same disk. `cargo bench --bench rating -- spool` runs this alone, RATER_BENCH_SPOOL_DIR names the disk.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rater::spool::{Options, Spool};

use crate::Outcome;

/// An event as a proxy sends it.
const RECORD: usize = 300;
const BLOCK: usize = 4096;
const PRODUCERS: [usize; 3] = [1, 16, 256];
/// Each measure, a few times in turn, so that a slow moment of the disk meets all of them.
const SLICE: Duration = Duration::from_millis(1200);
const ROUNDS: usize = 3;

pub fn measure() -> Outcome<()> {
    let place = std::env::var_os("RATER_BENCH_SPOOL_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::Builder::new().prefix("spool-").tempdir_in(place)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut bare: Vec<f64> = Vec::new();
    let mut spooled: [Vec<f64>; PRODUCERS.len()] = Default::default();
    for round in 0..ROUNDS {
        bare.push(writes(&dir.path().join(format!("bare-{round}")))?);
        for (producers, rates) in PRODUCERS.iter().zip(&mut spooled) {
            let dir = dir.path().join(format!("{producers}-{round}"));
            rates.push(runtime.block_on(appends(&dir, *producers))?);
        }
    }
    let bare = median(bare);
    println!("\nspool, records of {RECORD} bytes");
    println!("{:<42} {:>9}   {:>6}", "", "a second", "ratio");
    println!("{:<42} {bare:>9.0}", "bare writes of 4 KiB, each with fdatasync");
    for (producers, rates) in PRODUCERS.iter().zip(spooled) {
        let rate = median(rates);
        let name = format!("records acknowledged, {producers} producers");
        println!("{name:<42} {rate:>9.0}   {:>6.2}", rate / bare);
    }
    Ok(())
}

fn writes(path: &Path) -> Outcome<f64> {
    let mut file = OpenOptions::new().create_new(true).write(true).open(path)?;
    let (block, began, mut count) = ([7_u8; BLOCK], Instant::now(), 0_u32);
    while began.elapsed() < SLICE {
        file.write_all(&block)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

async fn appends(dir: &Path, producers: usize) -> Outcome<f64> {
    let options = Options { max_bytes: 16 << 30, ..Options::default() };
    let (spool, _consumer) = tokio::task::block_in_place(|| Spool::open(dir, options))?;
    let began = Instant::now();
    let tasks: Vec<_> = (0..producers)
        .map(|_| {
            let spool = spool.clone();
            tokio::spawn(async move {
                let mut count = 0_u32;
                while began.elapsed() < SLICE {
                    spool.append(vec![vec![b'x'; RECORD]]).await?;
                    count += 1;
                }
                Outcome::Ok(count)
            })
        })
        .collect();
    let mut count = 0.0;
    for task in tasks {
        count += f64::from(task.await??);
    }
    Ok(count / began.elapsed().as_secs_f64())
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
