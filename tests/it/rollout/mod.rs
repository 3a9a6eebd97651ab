//! A rollout, and the way back: the previous build (`tests/previous`) and this one beside each other
//! over one schema. `make rollout` builds the previous one; without it these tests say loudly that
//! they were skipped.

mod edges;
mod fleet;
mod handed;
mod load;
mod together;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rater::proto::{RateWindowRequest, RatingResult};

use crate::harness::{Service, TestDb, empty_database, rater, rater_of, skipped};
use crate::stage::{Stage, rate_until_done, window};

/// For whatever has to happen, however busy the machine is.
const SOON: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Build {
    Old,
    New,
}

const BUILDS: [Build; 2] = [Build::Old, Build::New];

impl Build {
    fn other(self) -> Build {
        match self {
            Build::Old => Build::New,
            Build::New => Build::Old,
        }
    }
}

/// A database, and both builds for it.
struct Site {
    stage: Stage,
    previous: PathBuf,
    _db: TestDb,
}

impl Site {
    /// With the schema that the previous build makes; None, said loudly, where that build is not there.
    async fn old(test: &str) -> Option<Site> {
        let Some(previous) = std::env::var_os("RATER_PREVIOUS").filter(|path| !path.is_empty()) else {
            skipped(
                test,
                "the previous build is not here; `make rollout` makes it, from this clone's history",
            );
            return None;
        };
        let db = empty_database().await;
        let site = Site { stage: Stage::over(&db.url), previous: previous.into(), _db: db };
        site.did(Build::Old, &["migrate", "up"]);
        Some(site)
    }

    /// And then brought up by this build.
    async fn both(test: &str) -> Option<Site> {
        let site = Site::old(test).await?;
        site.did(Build::New, &["migrate", "up"]);
        Some(site)
    }

    fn command(&self, build: Build) -> Command {
        match build {
            Build::Old => rater_of(&self.previous),
            Build::New => rater(),
        }
    }

    /// Exit code, and what was said on either stream. Blocks.
    fn run(&self, build: Build, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = self.command(build);
        let output = command.args(arguments).env("RATER_DATABASE_URL", &self.stage.url).output().unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.code(), said.concat())
    }

    fn did(&self, build: Build, arguments: &[&str]) -> String {
        let (code, said) = self.run(build, arguments);
        assert_eq!(code, Some(0), "{build:?} {arguments:?}: {said}");
        said
    }

    async fn serve(&self, build: Build) -> Service {
        Service::spawn(self.serving(build)).await
    }

    fn serving(&self, build: Build) -> Command {
        let mut command = self.command(build);
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--lease-ttl", "2s", "--chunk-hours", "1", "--pricebook", &self.stage.pricebook()]);
        command.env("RATER_DATABASE_URL", &self.stage.url);
        command
    }

    /// Rates these hours by each build in turn, and holds that the second changes nothing, finds the
    /// same and has the same plan: what one build has written is what the other would write.
    async fn agree(&self, services: [&Service; 2], hours: i64) {
        rate_until_done(services[0], window(0, hours), SOON).await;
        let rows = self.versions().await;
        let mut plans = Vec::new();
        for service in [services[1], services[0]] {
            let (again, _) = rate_until_done(service, window(0, hours), SOON).await;
            assert_eq!(written(&again), 0, "{again:?}");
            assert_eq!(again.unchanged_rollups, again.rollups);
            let dry = RateWindowRequest { dry_run: true, ..window(0, hours) };
            plans.push(rate_until_done(service, dry, SOON).await.0);
        }
        assert!(!plans[0].plan_hash.is_empty());
        assert_eq!(plans[0], plans[1], "they plan the same");
        assert_eq!(self.versions().await, rows, "not a row was written again");
        assert_eq!(self.stage.mismatches().await, 0, "not what a plain sum over the events says");
        assert_eq!(self.stage.feed_faults().await, 0, "R12");
        assert_eq!(self.stage.number("SELECT count(*) FROM rating_lease").await, 0);
        let open = "SELECT count(*) FROM rating_run WHERE finished_at IS NULL";
        assert_eq!(self.stage.number(open).await, 0, "runs that nobody went on with");
    }

    /// Every row version of rated usage.
    async fn versions(&self) -> Vec<String> {
        let sql = "SELECT ctid::text || ' ' || xmin::text FROM rated_usage ORDER BY 1";
        sqlx::query_scalar(sql).fetch_all(&self.stage.pool).await.unwrap()
    }
}

/// Rollups that a run wrote or took away.
fn written(result: &RatingResult) -> i64 {
    result.inserted_rollups + result.updated_rollups + result.reconciled_deletions
}
