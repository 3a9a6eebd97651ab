//! A database a test, copied from one that was migrated once, and dropped behind its back.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use rater::service::schema;
use rater::store::{Db, DbOptions};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::{Mutex, OnceCell};

use super::rows::{event, insert, rated_usage};
use super::server::shared;

const TEMPLATE: &str = "rater_template";

/// A database of one test, dropped with it.
pub struct TestDb {
    /// `postgres://…`, for `--database-url`.
    pub url: String,
    name: String,
    pool: PgPool,
}

impl TestDb {
    /// A few connections to look at it with, from outside of the service.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        drop(dropper().send(self.name.clone()));
    }
}

/// A new database with the current schema.
pub async fn database() -> TestDb {
    static MADE: OnceCell<()> = OnceCell::const_new();
    MADE.get_or_init(|| async {
        let template = create(TEMPLATE, "template1").await;
        migrate(&template).await;
        leave(TEMPLATE).await;
    })
    .await;
    make(TEMPLATE).await
}

/// A new database with nothing in it.
pub async fn empty_database() -> TestDb {
    make("template1").await
}

/// A new database with the current schema, made from a template with options after its name.
pub async fn database_from(template: &str) -> TestDb {
    let db = make(template).await;
    migrate(&db.url).await;
    db
}

/// A new database with the current schema, in which text sorts by a language, not by its bytes,
/// where the server can do so.
pub async fn sorted_database() -> TestDb {
    static CAN: OnceCell<bool> = OnceCell::const_new();
    let can = async || {
        let mut connection = PgConnection::connect(&server_url().await).await.unwrap();
        let sql = "SELECT EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i')";
        sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
    };
    if !*CAN.get_or_init(can).await {
        super::skipped("text that does not sort by its bytes", "this PostgreSQL is built without ICU");
        return database().await;
    }
    database_from("template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US' ENCODING 'UTF8'").await
}

/// Brings a database up to the current schema.
async fn migrate(url: &str) {
    let options = DbOptions { url: url.into(), max_connections: 2, acquire_timeout: Duration::from_secs(10) };
    schema::up(&Db::new(&options).unwrap()).await.unwrap();
}

/// Leaves a template without a connection: while there is one, it can't be copied.
async fn leave(template: &str) {
    let mut connection = PgConnection::connect(&shared().url()).await.unwrap();
    let sql = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = $1";
    sqlx::query(sql).bind(template).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn make(template: &str) -> TestDb {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let url = create(&name, template).await;
    let options: PgConnectOptions = url.parse().unwrap();
    let pool = PgPoolOptions::new().max_connections(4).connect_lazy_with(options);
    TestDb { url, name, pool }
}

/// Creates a database from a template, which may have options after its name, and gives its URL.
async fn create(name: &str, template: &str) -> String {
    // One copy of a template at a time: a second would find the template in use.
    static GATE: Mutex<()> = Mutex::const_new(());
    let server = server_url().await;
    let _gate = GATE.lock().await;
    let mut connection = PgConnection::connect(&server).await.unwrap();
    let sql = format!("CREATE DATABASE {name} TEMPLATE {template}");
    sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    server.replace("/rater?", &format!("/{name}?"))
}

async fn server_url() -> String {
    tokio::task::spawn_blocking(|| shared().url()).await.unwrap()
}

/// The thread that drops databases whose tests are done; no test waits for it.
fn dropper() -> &'static Sender<String> {
    static SEND: OnceLock<Sender<String>> = OnceLock::new();
    SEND.get_or_init(|| {
        let (send, receive) = channel::<String>();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            for name in receive {
                runtime
                    .block_on(async {
                        let mut connection = PgConnection::connect(&shared().url()).await?;
                        let sql = format!("DROP DATABASE {name} WITH (FORCE)");
                        sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await?;
                        connection.close().await
                    })
                    .unwrap_or_else(|error| eprintln!("could not drop {name}: {error}"));
            }
        });
        send
    })
}

#[tokio::test]
async fn every_test_gets_a_database_of_its_own() {
    let (one, two) = (database().await, empty_database().await);
    insert(one.pool(), [event("req-1"), event("req-2").without_auth()]).await;
    let sql = "SELECT count(*) FROM billing_event WHERE auth_id IS NULL";
    assert_eq!(sqlx::query_scalar::<_, i64>(sql).fetch_one(one.pool()).await.unwrap(), 1);
    assert_eq!(rated_usage(one.pool()).await, []);
    let sql = "SELECT to_regclass('billing_event') IS NULL";
    assert!(sqlx::query_scalar::<_, bool>(sql).fetch_one(two.pool()).await.unwrap());
}
