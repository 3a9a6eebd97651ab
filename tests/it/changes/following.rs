//! `follow`: woken by commits, whoever makes them, and never silent for long.

use std::time::{Duration, Instant};

use super::{at, following, next, open};
use crate::harness::Service;
use crate::rig::{BOOK, Rig, backfill};

#[tokio::test]
async fn a_follower_is_woken_by_a_commit_of_any_process() {
    let rig = Rig::start(BOOK, &[]).await;
    let book = rig.book_path();
    let other = Service::start(&rig.db.url, &["--pricebook", book.to_str().unwrap()]).await;
    let mut stream = open(&rig.client(), following("")).await.unwrap();
    for (n, service) in [&rig.service, &other, &rig.service, &other].into_iter().enumerate() {
        let h = 10 + n as u32;
        rig.insert([at(&format!("e{n}"), h)]).await;
        let mut client = service.client_rating().await;
        client.rate_window(backfill(h, h + 1)).await.unwrap();
        let committed = Instant::now();
        let told = next(&mut stream).await.unwrap().unwrap();
        assert_eq!(told.changes.len(), 1);
        assert!(committed.elapsed() < Duration::from_secs(2), "{:?}", committed.elapsed());
    }
}
