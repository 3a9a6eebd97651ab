//! Every service looks for runs without a process, and one alone goes on with each.

use super::*;
use crate::stage::GATE;

#[tokio::test]
async fn of_six_services_that_look_for_six_runs_one_goes_on_with_each() {
    const RUN_HOURS: i64 = 8;
    let stage = Stage::new().await;
    stage.fill("e", 0, 6 * RUN_HOURS, 5).await;
    let (db, book) = (store(&stage), book(&stage));
    for n in 0..6 {
        let run = new_run(&format!("run-{n}"), n * RUN_HOURS, (n + 1) * RUN_HOURS, &book);
        db.begin_run(&run).await.unwrap();
    }
    let mut services = Vec::new();
    for _ in 0..6 {
        let arguments = ["--lease-ttl", "3s", "--chunk-hours", "2", "--database-connections", "4"];
        services.push(stage.service(&arguments).await);
    }
    // None of their processes has ever said anything. All leases end in the same moment, and all
    // services find that in the same moment.
    let mut gate = stage.pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock($1)").bind(GATE).execute(&mut *gate).await.unwrap();
    end_leases(&stage).await;
    stage.waiting(GATE, 6).await;
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(GATE).execute(&mut *gate).await.unwrap();
    let done = "SELECT count(*) FROM rating_run WHERE state = 'succeeded'";
    until("all are done", SOON, async || stage.number(done).await == 6).await;

    let services: Vec<&Service> = services.iter().collect();
    let taken = || lines(&services, "message", "a run's process is gone; going on with it");
    let succeeded = || lines(&services, "message", "run succeeded");
    until("all is told", SOON, async || succeeded().len() == 6).await;
    let mut runs: Vec<String> = taken().iter().map(|line| field(line, "run_id").to_string()).collect();
    runs.sort();
    runs.dedup();
    assert_eq!((taken().len(), runs.len(), succeeded().len()), (6, 6, 6));
    // A new fence each, and no other: nobody else ever held it.
    let fences = "SELECT count(DISTINCT u.fence) FROM rated_usage u JOIN rating_run r USING (run_id)
        WHERE u.fence > (SELECT max(fence) FROM rating_run)";
    assert_eq!(stage.number(fences).await, 6);
    assert_eq!(stage.number("SELECT max(fence) - min(fence) FROM rated_usage").await, 5);
    assert_eq!(stage.number(CHUNKS).await, 6 * RUN_HOURS / 2);
    assert_billed_once(&stage).await;
    assert_eq!(stage.deadlocks().await, 0);
}
