//! The pricebook's file: followed while the service runs, refused loudly where it is bad, and
//! read back by digest; and what another one would change.

mod impact;

use std::fs;
use std::io::{self, Seek};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rater::domain::pricebook;
use rater::metrics::Metrics;
use rater::service::Error;
use rater::service::pricebooks::{LoadError, Pricebooks};
use rater::store::{Db, DbOptions};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::instrument::WithSubscriber;

use crate::harness::{database, temp_dir};

/// What the design promises.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);

const BAD: &str = "version: 1\nbase_models:\n  m: {prompt: 0.1, cached: -1, completion: \"0\"}\n";

fn book(prompt: &str) -> String {
    format!("version: 1\nbase_models:\n  m: {{prompt: \"{prompt}\", cached: \"0\", completion: \"0\"}}\n")
}

fn digest(yaml: &str) -> String {
    pricebook::parse(yaml).book.unwrap().digest().to_owned()
}

/// A file that is followed.
struct Followed {
    dir: TempDir,
    path: PathBuf,
    books: Arc<Pricebooks>,
    metrics: Arc<Metrics>,
    log: Arc<fs::File>,
    /// The digest in force after each change.
    changes: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Followed {
    /// Follows `name`, which `make` brings about in a folder.
    fn start(name: &str, make: impl FnOnce(&Path)) -> Followed {
        let dir = temp_dir();
        make(dir.path());
        let path = dir.path().join(name);
        let books = Arc::new(Pricebooks::load(&path).unwrap());
        let (metrics, changes) = (Arc::new(Metrics::new()), Arc::new(Mutex::new(vec![])));
        books.publish(&metrics);
        let (counted, seen) = (metrics.clone(), changes.clone());
        let on_change = move |books: &Pricebooks| {
            books.publish(&counted);
            seen.lock().unwrap().push(books.current().book.digest().to_owned());
        };
        let stop = CancellationToken::new();
        let log = Arc::new(tempfile::tempfile().unwrap());
        let to = tracing_subscriber::fmt().json().flatten_event(true).with_writer(log.clone()).finish();
        let task = tokio::spawn(books.clone().watch(stop.clone(), on_change).with_subscriber(to));
        Followed { dir, path, books, metrics, log, changes, stop, task }
    }

    /// Follows a plain file.
    fn plain(yaml: &str) -> Followed {
        Followed::start("prices.yaml", |dir| fs::write(dir.join("prices.yaml"), yaml).unwrap())
    }

    fn digest(&self) -> String {
        self.books.current().book.digest().to_owned()
    }

    #[track_caller]
    fn metric(&self, line: &str) {
        let text = self.metrics.encode().unwrap();
        assert!(text.lines().any(|l| l == line), "no `{line}` in\n{text}");
    }

    /// The lines of the log from `level` on.
    fn logged(&self, levels: &[&str]) -> Vec<Value> {
        (&*self.log).rewind().unwrap();
        let lines = io::read_to_string(&*self.log).unwrap();
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| levels.contains(&line["level"].as_str().unwrap())).collect()
    }

    async fn in_force(&self, yaml: &str) {
        let digest = digest(yaml);
        eventually(|| self.digest() == digest).await;
    }
}

async fn eventually(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + NOTICED_WITHIN;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {NOTICED_WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_file_that_is_written_anew_comes_into_force() {
    let followed = Followed::plain(&book("1"));
    let before = followed.books.current();
    followed.metric(&format!("rater_pricebook_info{{digest=\"{}\"}} 1", digest(&book("1"))));
    fs::write(&followed.path, book("2")).unwrap();
    followed.in_force(&book("2")).await;
    followed.metric(&format!("rater_pricebook_info{{digest=\"{}\"}} 1", digest(&book("2"))));
    // Who began with the old one keeps it.
    assert_eq!(before.book.digest(), digest(&book("1")));
    assert!(followed.books.current().loaded_at > before.loaded_at);
    let log = followed.logged(&["INFO", "WARN", "ERROR"]);
    assert_eq!((log.len(), &log[0]["message"]), (1, &"pricebook loaded".into()), "{log:#?}");
    assert_eq!(log[0]["changed_rates"], 1);
}

#[tokio::test]
async fn a_file_that_is_renamed_over_the_old_one_comes_into_force() {
    let followed = Followed::plain(&book("1"));
    let new = followed.dir.path().join(".prices.yaml.swp");
    fs::write(&new, book("2")).unwrap();
    fs::rename(&new, &followed.path).unwrap();
    followed.in_force(&book("2")).await;
}

#[tokio::test]
async fn a_config_map_whose_link_is_swapped_comes_into_force() {
    let make = |dir: &Path, version: &str, prompt: &str| {
        fs::create_dir(dir.join(version)).unwrap();
        fs::write(dir.join(version).join("prices.yaml"), book(prompt)).unwrap();
        symlink(version, dir.join("..new")).unwrap();
        fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
    };
    let followed = Followed::start("prices.yaml", |dir| {
        make(dir, "..v1", "1");
        symlink("..data/prices.yaml", dir.join("prices.yaml")).unwrap();
    });
    make(followed.dir.path(), "..v2", "2");
    fs::remove_dir_all(followed.dir.path().join("..v1")).unwrap();
    followed.in_force(&book("2")).await;
    assert_eq!(followed.logged(&["ERROR"]), Vec::<Value>::new());
}

#[tokio::test]
async fn a_bad_file_is_refused_once_and_the_old_one_stays_in_force() {
    let followed = Followed::plain(&book("1"));
    fs::write(&followed.path, BAD).unwrap();
    eventually(|| followed.books.refused().is_some()).await;
    let refused = followed.books.refused().unwrap();
    assert!(refused.first_line.starts_with("3:15: error: "), "{refused:?}");
    followed.metric("rater_pricebook_refused 1");
    // Three more looks at the same file.
    tokio::time::sleep(Duration::from_millis(3_300)).await;
    let errors = followed.logged(&["ERROR"]);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    let findings = errors[0]["findings"].as_str().unwrap();
    assert_eq!((findings.lines().count(), &errors[0]["count"]), (2, &2.into()), "{findings}");
    assert_eq!(errors[0]["digest"], digest(&book("1")).as_str());
    assert_eq!(followed.digest(), digest(&book("1")));

    fs::write(&followed.path, book("2")).unwrap();
    followed.in_force(&book("2")).await;
    eventually(|| followed.books.refused().is_none()).await;
    followed.metric("rater_pricebook_refused 0");
    let infos = followed.logged(&["INFO"]);
    assert_eq!((infos.len(), &infos[0]["recovered"]), (1, &true.into()), "{infos:#?}");
}

#[tokio::test]
async fn a_file_that_is_gone_is_refused_until_it_is_back() {
    let followed = Followed::plain(&book("1"));
    fs::remove_file(&followed.path).unwrap();
    eventually(|| followed.books.refused().is_some()).await;
    assert!(followed.books.refused().unwrap().first_line.starts_with("it can't be read: "));
    assert_eq!(followed.digest(), digest(&book("1")));
    followed.metric("rater_pricebook_refused 1");
    fs::write(&followed.path, book("1")).unwrap();
    eventually(|| followed.books.refused().is_none()).await;
    followed.metric("rater_pricebook_refused 0");
    let infos = followed.logged(&["INFO"]);
    let good = "the pricebook file is good again; it prices as before";
    assert_eq!((infos.len(), &infos[0]["message"]), (1, &good.into()));
}

#[tokio::test]
async fn a_file_in_the_midst_of_being_written_is_not_taken() {
    let followed = Followed::plain(&book("1"));
    let mut yaml = book("2");
    // Every state of it is a valid pricebook, with models missing.
    for model in 0..40 {
        yaml += &format!("  m{model}: {{prompt: \"1\", cached: \"0\", completion: \"0\"}}\n");
        fs::write(&followed.path, &yaml).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    followed.in_force(&yaml).await;
    eventually(|| *followed.changes.lock().unwrap() == [digest(&yaml)]).await;
    assert_eq!(followed.logged(&["ERROR"]), Vec::<Value>::new());
}

#[tokio::test]
async fn a_comment_is_taken_without_a_word() {
    let followed = Followed::plain(&book("1"));
    let commented = format!("# as agreed in May\n{}", book("1"));
    fs::write(&followed.path, &commented).unwrap();
    eventually(|| followed.books.current().book.yaml() == commented).await;
    assert_eq!(followed.digest(), digest(&book("1")));
    assert_eq!(followed.logged(&["INFO", "WARN", "ERROR"]), Vec::<Value>::new());
}

#[tokio::test]
async fn the_watch_ends_when_it_is_told_to() {
    let followed = Followed::plain(&book("1"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    followed.stop.cancel();
    tokio::time::timeout(Duration::from_millis(500), followed.task).await.unwrap().unwrap();
}

#[test]
fn there_is_no_start_without_a_good_pricebook() {
    let dir = temp_dir();
    let path = dir.path().join("prices.yaml");
    let missing = Pricebooks::load(&path).unwrap_err();
    assert!(matches!(missing, LoadError::Unreadable { .. }));
    let text = missing.to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains("No such file"), "{text}");
    assert!(Pricebooks::load(dir.path()).unwrap_err().to_string().contains("it is not a file"));

    fs::write(&path, BAD).unwrap();
    let text = Pricebooks::load(&path).unwrap_err().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    for (line, column) in lines.iter().zip(["15", "28"]) {
        assert!(line.starts_with(&format!("{}:3:{column}: error: ", path.display())), "{text}");
    }
}

fn db(url: &str) -> Db {
    let acquire_timeout = Duration::from_secs(10);
    Db::new(&DbOptions { url: url.into(), max_connections: 2, acquire_timeout }).unwrap()
}

fn loaded(yaml: &str) -> Pricebooks {
    let dir = temp_dir();
    let path = dir.path().join("prices.yaml");
    fs::write(&path, yaml).unwrap();
    Pricebooks::load(&path).unwrap()
}

#[tokio::test]
async fn a_pricebook_is_found_by_its_digest() {
    let database = database().await;
    let db = db(&database.url);
    let books = loaded(&book("1"));
    for digest in [String::new(), digest(&book("1"))] {
        let found = books.get(&db, &digest).await.unwrap();
        assert_eq!((found.digest, found.yaml), (self::digest(&book("1")), book("1")));
        assert_eq!(found.loaded_at, Some(books.current().loaded_at));
        assert_eq!(found.rates.len(), 1);
    }
    let old = digest(&book("2"));
    assert!(matches!(books.get(&db, &old).await, Err(Error::PricebookNotFound)));
    store(database.pool(), &old, &book("2")).await;
    let found = books.get(&db, &old).await.unwrap();
    assert_eq!((found.digest, found.yaml, found.loaded_at), (old, book("2"), None));
    assert_eq!(found.rates[0].rates.prompt.to_string(), "2");
}

#[tokio::test]
async fn a_stored_text_that_reads_otherwise_now_comes_without_rates() {
    let database = database().await;
    let digest = digest(&book("2"));
    store(database.pool(), &digest, &book("3")).await;
    let found = loaded(&book("1")).get(&db(&database.url), &digest).await.unwrap();
    assert_eq!((found.digest, found.yaml, found.rates), (digest, book("3"), vec![]));
}

async fn store(pool: &sqlx::PgPool, digest: &str, yaml: &str) {
    let sql = "INSERT INTO pricebook (digest, pricebook_yaml) VALUES ($1, $2)";
    sqlx::query(sql).bind(digest).bind(yaml).execute(pool).await.unwrap();
}

#[tokio::test]
async fn what_is_no_digest_is_refused_at_its_field() {
    let db = db("postgres://nobody@127.0.0.1:1/nothing");
    let books = loaded(&book("1"));
    for wrong in ["1", &"A".repeat(64), &"g".repeat(64), &"a".repeat(65), " "] {
        let Err(Error::Invalid(violations)) = books.get(&db, wrong).await else { panic!("{wrong}") };
        assert_eq!((violations.len(), violations[0].field.as_str()), (1, "digest"));
    }
}

#[tokio::test]
async fn a_candidate_is_told_from_the_pricebook_in_force() {
    let books = loaded(&book("1"));
    let check = async |yaml: String| books.check(yaml).await.validation;
    let same = check(book("1.0")).await;
    assert_eq!((same.digest, same.changes), (Some(digest(&book("1"))), vec![]));
    let dearer = check(book("2")).await;
    let change = &dearer.changes[0];
    let prompt = |rate: &Option<pricebook::ResolvedRate>| rate.as_ref().unwrap().rates.prompt.to_string();
    assert_eq!((prompt(&change.before), prompt(&change.after)), ("1".into(), "2".into()));
    let bad = check(BAD.into()).await;
    assert_eq!((bad.digest, bad.diagnostics.len(), bad.rates, bad.changes), (None, 2, vec![], vec![]));
    assert_eq!(books.current().book.digest(), digest(&book("1")));
}
