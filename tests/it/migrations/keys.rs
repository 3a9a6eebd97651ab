//! The natural key of an adopted table: the narrow one, in any form, makes way for the wide
//! one, and at no moment is there none.

use rater::service::schema;
use sqlx::postgres::PgPool;

use super::{RATED_USAGE, again, indexes, refused, row, run, with};

const FOUR: &str = "auth_id, resource_id, model_id, window_start";
const OURS: [&str; 4] = [
    "rated_usage_auth_id_window_start_ix",
    "rated_usage_natural_key unique",
    "rated_usage_page_ix",
    "rated_usage_window_start_ix",
];

/// The table with its narrow key in another form.
fn keyed(column: &str, key: &str) -> String {
    RATED_USAGE
        .replace(&format!(", UNIQUE ({FOUR})"), column)
        .replace("INSERT INTO", &format!("{key}; INSERT INTO"))
}

async fn insert(pool: &PgPool, class: &str) -> sqlx::Result<()> {
    let sql = format!(
        "INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, window_end, price_class,
            prompt_tokens, cached_tokens, completion_tokens, billable_prompt_tokens, cost, applied_prompt_rate,
            applied_cached_rate, applied_completion_rate)
         VALUES (md5(random()::text), 'auth-1', 'resource-1', 'acme/large', '2026-01-01Z', '2026-01-01 01:00Z',
            '{class}', 0, 0, 0, 0, 0, 0, 0, 0)"
    );
    super::try_run(pool, &sql).await
}

#[tokio::test]
async fn a_narrow_key_in_any_form_makes_way_for_the_wide_one() {
    let none = "";
    let (database, db) = with(none).await;
    for (column, key) in [
        (", UNIQUE (auth_id, resource_id, model_id, window_start)", none),
        (", CONSTRAINT \"Odd name\" UNIQUE (window_start, model_id, resource_id, auth_id)", none),
        (", CONSTRAINT rated_usage_natural_key UNIQUE (auth_id, resource_id, model_id, window_start)", none),
        (
            none,
            "CREATE UNIQUE INDEX \"Odd index\" ON rated_usage (auth_id, resource_id, model_id, window_start)",
        ),
        (
            none,
            "CREATE UNIQUE INDEX narrow ON rated_usage (auth_id, resource_id, model_id, window_start DESC)
                INCLUDE (cost)",
        ),
        (
            none,
            "CREATE UNIQUE INDEX rated_usage_natural_key
                ON rated_usage (auth_id, resource_id, model_id, window_start)",
        ),
        (
            none,
            "CREATE UNIQUE INDEX one ON rated_usage (auth_id, resource_id, model_id, window_start);
                CREATE UNIQUE INDEX two ON rated_usage (model_id, auth_id, resource_id, window_start)",
        ),
    ] {
        again(&database, &keyed(column, key)).await;
        let form = format!("{column}{key}");
        insert(database.pool(), "standard").await.unwrap_err();
        schema::up(&db).await.unwrap();
        assert_eq!(indexes(database.pool(), "rated_usage").await, OURS, "{form}");
        insert(database.pool(), "standard").await.expect_err(&form);
        insert(database.pool(), "priority").await.expect(&form);
        schema::down(&db).await.unwrap();
        insert(database.pool(), "priority").await.expect_err(&form);
        schema::up(&db).await.unwrap();
        assert_eq!(indexes(database.pool(), "rated_usage").await, OURS, "{form}");
    }
}

#[tokio::test]
async fn a_narrow_primary_key_and_replica_identity_are_replaced_by_the_wide_one() {
    let sql = keyed(", PRIMARY KEY (auth_id, resource_id, model_id, window_start)", "")
        .replace("id varchar(32) PRIMARY KEY", "id varchar(32)");
    let (database, db) = with(&sql).await;
    schema::up(&db).await.unwrap();
    assert_eq!(indexes(database.pool(), "rated_usage").await, OURS);
    let primary = "SELECT indexrelid::regclass FROM pg_index
        WHERE indrelid = 'rated_usage'::regclass AND indisprimary";
    assert_eq!(row(database.pool(), primary).await, "rated_usage_natural_key");
    insert(database.pool(), "priority").await.unwrap();

    let sql = keyed(
        "",
        "CREATE UNIQUE INDEX narrow ON rated_usage (auth_id, resource_id, model_id, window_start);
        ALTER TABLE rated_usage REPLICA IDENTITY USING INDEX narrow",
    );
    let (database, db) = with(&sql).await;
    schema::up(&db).await.unwrap();
    let identity = "SELECT indexrelid::regclass FROM pg_index
        WHERE indrelid = 'rated_usage'::regclass AND indisreplident";
    assert_eq!(row(database.pool(), identity).await, "rated_usage_natural_key");
}

#[tokio::test]
async fn other_unique_indexes_stay() {
    let key = "
        CREATE UNIQUE INDEX by_note ON rated_usage (auth_id, resource_id, model_id, window_start, note);
        CREATE UNIQUE INDEX by_day ON rated_usage
            (auth_id, resource_id, model_id, window_start, (window_end - window_start));
        CREATE UNIQUE INDEX of_some ON rated_usage (auth_id, resource_id, model_id, window_start)
            WHERE note = 'other'";
    let (database, db) = with(&keyed("", key)).await;
    schema::up(&db).await.unwrap();
    let expected = [&["by_day unique", "by_note unique", "of_some unique"][..], &OURS].concat();
    assert_eq!(indexes(database.pool(), "rated_usage").await, expected);
}

#[tokio::test]
async fn a_nullable_key_becomes_a_whole_one() {
    let sql = RATED_USAGE
        .replace("varchar(64) NOT NULL", "varchar(64)")
        .replace("window_start timestamptz NOT NULL", "window_start timestamptz, price_class varchar(20)");
    let sql = sql.replace("'2026-01-01Z',", "'2026-01-01Z', 'standard',");
    let (database, db) = with(&sql).await;
    schema::up(&db).await.unwrap();
    let nullable =
        "SELECT string_agg(attname, ',') FROM pg_attribute WHERE attrelid = 'rated_usage'::regclass
        AND NOT attnotnull AND attname IN ('auth_id', 'resource_id', 'window_start', 'price_class')";
    assert_eq!(row(database.pool(), nullable).await, "NULL");
    let check = "SELECT count(*) FROM pg_constraint WHERE conname = 'rated_usage_key_is_whole'";
    assert_eq!(row(database.pool(), check).await, "0", "it has done its work");
    assert_eq!(refused(database.pool(), "UPDATE rated_usage SET auth_id = NULL").await, "23502");
    let default =
        "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'rated_usage'::regclass";
    assert_eq!(row(database.pool(), default).await, "'standard'::character varying");

    // A row without one is nobody's: it must be decided by hand, and up goes on from there.
    let (database, db) =
        with(&format!("{sql}; UPDATE rated_usage SET resource_id = NULL WHERE auth_id = 'auth-1'")).await;
    let line = schema::up(&db).await.unwrap_err().to_string();
    assert!(line.contains("a row has no id, auth_id, resource_id"), "{line}");
    run(database.pool(), "DELETE FROM rated_usage WHERE resource_id IS NULL").await;
    schema::up(&db).await.unwrap();
}
