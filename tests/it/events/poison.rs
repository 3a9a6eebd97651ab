//! Events that only the database refuses, by a rule of a table that was there before: each is
//! found and named, nothing else of its batch is lost, and no good batch pays for it.

use std::time::{Duration, Instant};

use rater::domain::event::RawEvent;
use rater::service::record_events::Recorded;
use rater::service::{Error, StoreError};
use sqlx::{AssertSqlSafe, Executor};

use super::{Fixture, done, fixture, fixture_in, rejected, violations};

const REFUSED: &str = "REFUSED_BY_DATABASE";

async fn rule(f: &Fixture, sql: &str) {
    f.other().execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
}

/// Events named by their places; the ids do not sort as the places do.
fn batch(f: &Fixture, count: usize) -> Vec<RawEvent> {
    (0..count).map(|n| f.event(&format!("{}-{n}", (n * 7919) % 1009))).collect()
}

fn poison(events: &mut [RawEvent], at: &[usize]) {
    at.iter().for_each(|&at| events[at].model = "poison".into());
}

const CHECK: &str = "ALTER TABLE billing_event ADD CONSTRAINT theirs CHECK (model <> 'poison')";

/// Each way in which a database can refuse a row: the rule, and the field that it names.
const RULES: [(&str, &str); 7] = [
    (CHECK, ""),
    (
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.model = 'poison' THEN RAISE EXCEPTION 'secret of the trigger'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER no BEFORE INSERT ON billing_event FOR EACH ROW EXECUTE FUNCTION no()",
        "",
    ),
    (
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.model = 'poison' THEN RAISE EXCEPTION 'secret' USING ERRCODE = '22000'; END IF; RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER no AFTER INSERT ON billing_event DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION no()",
        "",
    ),
    (
        "CREATE TABLE customer (model varchar(255) PRIMARY KEY); INSERT INTO customer VALUES ('acme/large');
         ALTER TABLE billing_event ADD FOREIGN KEY (model) REFERENCES customer DEFERRABLE INITIALLY DEFERRED",
        "",
    ),
    (
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.model = 'poison' THEN NEW.resource_id = NULL; END IF; RETURN NEW; END $$;
         CREATE TRIGGER no BEFORE INSERT ON billing_event FOR EACH ROW EXECUTE FUNCTION no();
         ALTER TABLE billing_event ALTER resource_id SET NOT NULL",
        "resource_id",
    ),
    ("CREATE UNIQUE INDEX ON billing_event (model) WHERE model = 'poison'", ""),
    // Dropped without a word.
    (
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.model = 'poison' THEN RETURN NULL; END IF; RETURN NEW; END $$;
         CREATE TRIGGER no BEFORE INSERT ON billing_event FOR EACH ROW EXECUTE FUNCTION no()",
        "",
    ),
];

#[tokio::test]
async fn an_event_that_only_the_database_refuses_costs_its_batch_nothing() {
    for (sql, field) in RULES {
        let f = fixture().await;
        rule(&f, sql).await;
        let unique = sql.contains("UNIQUE");
        let mut events = batch(&f, 300);
        poison(&mut events, &[0, 17, 18, 299]);
        // Of those that are one too many for a unique index the first, in the order of ids, is stored.
        let recorded = f.record_skipping(&events).await.unwrap();
        let all = [(0, field, REFUSED), (17, field, REFUSED), (18, field, REFUSED), (299, field, REFUSED)];
        let expected = if unique { &all[1..] } else { &all[..] };
        assert_eq!(rejected(&recorded), expected, "{sql}");
        assert_eq!((recorded.stored, recorded.duplicates), (300 - expected.len() as i64, 0), "{sql}");
        assert_eq!(f.count().await, recorded.stored, "{sql}");
        assert_eq!(recorded.rejected.last().unwrap().request_id, events[299].request_id);
        // Again, with a new one: nothing twice, and refused for the same.
        events.push(f.event("new"));
        let again = f.record_skipping(&events).await.unwrap();
        assert_eq!((again.stored, again.duplicates), (1, recorded.stored), "{sql}");
        assert_eq!(rejected(&again), expected, "{sql}");
    }
}

#[tokio::test]
async fn without_skip_invalid_it_is_named_and_nothing_is_stored() {
    for (sql, field) in RULES {
        let f = fixture().await;
        rule(&f, sql).await;
        let mut events = batch(&f, 40);
        poison(&mut events, &[3, 21]);
        let result = f.record(&events).await;
        let Err(Error::Invalid(told)) = &result else { panic!("{sql}: {result:?}") };
        assert!(
            told.iter().all(|v| !v.message.contains("secret") && !v.message.contains("theirs")),
            "{told:?}"
        );
        let mut expected: Vec<_> = [3, 21]
            .map(|at| (format!("events[{at}]{}{field}", if field.is_empty() { "" } else { "." }), REFUSED))
            .to_vec();
        if sql.contains("UNIQUE") {
            expected.remove(0);
        }
        assert_eq!(violations(result), expected, "{sql}");
        assert_eq!(f.count().await, 0, "{sql}");
        // The others can be stored.
        let good: Vec<_> = events.into_iter().filter(|event| event.model != "poison").collect();
        assert_eq!(f.record(&good).await.unwrap(), done(38, 0), "{sql}");
    }
}

#[tokio::test]
async fn a_character_that_the_database_lacks_refuses_its_event_alone() {
    let f = fixture_in("template0 LOCALE 'C' ENCODING 'LATIN1'").await;
    let mut events = batch(&f, 100);
    events[5].user_id = "€uro".into();
    events[50].request_id = "\u{1F600}".into();
    events[60].user_id = "é".into();
    let expected = [("events[5]".into(), REFUSED), ("events[50]".into(), REFUSED)];
    assert_eq!(violations(f.record(&events).await), expected);
    let recorded = f.record_skipping(&events).await.unwrap();
    assert_eq!(rejected(&recorded), [(5, "", REFUSED), (50, "", REFUSED)]);
    assert_eq!((recorded.stored, f.count().await), (98, 98));
}

/// As if each came alone and in turn.
#[tokio::test]
async fn a_refused_event_does_not_use_up_its_id() {
    let f = fixture().await;
    rule(&f, CHECK).await;
    let event = |tokens, model: &str| RawEvent { prompt_tokens: tokens, model: model.into(), ..f.event("a") };
    let events =
        [event(1, "poison"), event(2, "good"), event(2, "good"), event(3, "good"), event(1, "poison")];
    let recorded = f.record_skipping(&events).await.unwrap();
    assert_eq!((recorded.stored, recorded.duplicates), (1, 1));
    // Of an id that is stored by then, the last one has other content.
    assert_eq!(
        rejected(&recorded),
        [(0, "", REFUSED), (3, "request_id", "EVENT_CONFLICT"), (4, "request_id", "EVENT_CONFLICT")]
    );
    assert_eq!(f.prompt_tokens("a").await, 2);
}

/// A producer that sends again must not be told that what is stored is refused.
#[tokio::test]
async fn what_was_stored_before_there_was_the_rule_is_a_duplicate() {
    let f = fixture().await;
    let old = RawEvent { model: "poison".into(), ..f.event("old") };
    assert_eq!(f.record(std::slice::from_ref(&old)).await.unwrap(), done(1, 0));
    rule(&f, &format!("{CHECK} NOT VALID")).await;
    let new = RawEvent { model: "poison".into(), ..f.event("new") };
    let other = RawEvent { prompt_tokens: 99, ..old.clone() };
    let recorded = f.record_skipping(&[f.event("a"), old.clone(), new, other]).await.unwrap();
    assert_eq!((recorded.stored, recorded.duplicates), (1, 1));
    assert_eq!(rejected(&recorded), [(2, "", REFUSED), (3, "request_id", "EVENT_CONFLICT")]);
    assert_eq!(f.record(&[old, f.event("b")]).await.unwrap(), done(1, 1));
}

fn takes_none(result: &Result<Recorded, Error>) {
    let Err(Error::Store(StoreError::TakesNone(rule))) = result else { panic!("{result:?}") };
    assert!(!rule.is_empty());
    let told = result.as_ref().unwrap_err().to_string();
    assert!(told.contains("takes none of these events") && !told.contains("billing_event"), "{told}");
}

/// That it is the event is known only where another new one was taken.
#[tokio::test]
async fn an_event_is_refused_only_where_another_new_one_is_taken() {
    for (sql, field) in RULES.iter().filter(|(sql, _)| !sql.contains("UNIQUE")) {
        let f = fixture().await;
        f.record(&[f.event("known")]).await.unwrap();
        rule(&f, sql).await;
        let poison = |id: &str| RawEvent { model: "poison".into(), ..f.event(id) };
        for skip_invalid in [false, true] {
            let alone = vec![poison("p")];
            takes_none(&f.intake.record(alone, skip_invalid).await);
            let beside = vec![poison("p"), f.event("known"), poison("q")];
            takes_none(&f.intake.record(beside, skip_invalid).await);
        }
        let beside = f.record_skipping(&[f.event("good"), poison("p")]).await.unwrap();
        assert_eq!((beside.stored, rejected(&beside)), (1, vec![(1, *field, REFUSED)]), "{sql}");
        assert_eq!(f.count().await, 2);
    }
}

/// What is wrong with a table, and how it is mended.
const TROUBLE: [(&str, &str); 6] = [
    ("ALTER TABLE billing_event ADD CHECK (false) NOT VALID", "DROP CONSTRAINT billing_event_check"),
    (
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no more today'; END $$;
         CREATE TRIGGER theirs BEFORE INSERT ON billing_event FOR EACH ROW EXECUTE FUNCTION no()",
        "DISABLE TRIGGER theirs",
    ),
    (
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER theirs BEFORE INSERT ON billing_event FOR EACH ROW EXECUTE FUNCTION no()",
        "DISABLE TRIGGER theirs",
    ),
    // As where no partition is for some of them.
    (
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.request_id > '5' THEN
                RAISE EXCEPTION 'no partition' USING ERRCODE = '23514', TABLE = 'billing_event';
            END IF; RETURN NEW; END $$;
         CREATE TRIGGER theirs BEFORE INSERT ON billing_event FOR EACH ROW EXECUTE FUNCTION no()",
        "DISABLE TRIGGER theirs",
    ),
    // A sequence that ends after some of them.
    (
        "CREATE SEQUENCE short MAXVALUE 120; ALTER TABLE billing_event ADD id int NOT NULL DEFAULT nextval('short')",
        "ALTER id DROP DEFAULT, ALTER id DROP NOT NULL",
    ),
    // One that is past what its column holds.
    (
        "CREATE SEQUENCE large START 3000000000;
         ALTER TABLE billing_event ADD id int, ALTER id SET DEFAULT nextval('large')",
        "ALTER id DROP DEFAULT",
    ),
];

#[tokio::test]
async fn what_is_wrong_with_the_table_makes_no_event_a_bad_one() {
    for (sql, mended) in TROUBLE {
        let f = fixture().await;
        rule(&f, sql).await;
        let events = batch(&f, 300);
        for skip_invalid in [true, false] {
            takes_none(&f.intake.record(events.clone(), skip_invalid).await);
            assert_eq!(f.count().await, 0, "{sql}");
        }
        rule(&f, &format!("ALTER TABLE billing_event {mended}")).await;
        assert_eq!(f.record(&events).await.unwrap(), done(300, 0), "{sql}");
    }
}

/// As after a restore: ids of the table's own are given out a second time. Some of a batch would pass.
#[tokio::test]
async fn a_sequence_that_is_behind_makes_no_event_a_bad_one() {
    let f = fixture().await;
    rule(
        &f,
        "ALTER TABLE billing_event DROP CONSTRAINT billing_event_pkey, ADD UNIQUE (request_id),
            ADD id serial PRIMARY KEY;
         INSERT INTO billing_event (id, request_id) SELECT n, 'old-' || n FROM generate_series(100, 120, 2) n",
    )
    .await;
    let events = batch(&f, 100);
    // Each try uses some of them up, whatever becomes of it.
    let mut tries = 1;
    let recorded = loop {
        match f.record_skipping(&events).await {
            Ok(recorded) => break recorded,
            refused => takes_none(&refused),
        }
        tries += 1;
    };
    assert_eq!(recorded, done(100, 0));
    assert!((2..10).contains(&tries), "{tries}");
}

/// The ids of those that are refused come first, more of them than are tried before others are.
#[tokio::test]
async fn many_that_are_refused_first_cost_the_others_nothing() {
    let f = fixture().await;
    rule(&f, CHECK).await;
    let mut events: Vec<_> = (0..400).map(|n| f.event(&format!("{n:03}"))).collect();
    poison(&mut events, &(0..200).collect::<Vec<_>>());
    assert_eq!(violations(f.record(&events).await).len(), 50);
    let recorded = f.record_skipping(&events).await.unwrap();
    assert_eq!((recorded.stored, recorded.rejected.len(), f.count().await), (200, 200, 200));
}

/// A rule that no event can follow is the table's trouble: it refuses nothing for good.
#[tokio::test]
async fn a_table_that_takes_nothing_is_no_events_fault() {
    for sql in [
        "ALTER TABLE billing_event ADD COLUMN theirs int NOT NULL",
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'closed'; END $$;
         CREATE TRIGGER no BEFORE INSERT ON billing_event FOR EACH STATEMENT EXECUTE FUNCTION no()",
    ] {
        let f = fixture().await;
        rule(&f, sql).await;
        let result = f.record_skipping(&batch(&f, 10)).await;
        takes_none(&result);
        assert_eq!(f.count().await, 0);
    }
}

/// Counted by a trigger that sees each statement, into a sequence, which no rollback takes back.
#[tokio::test]
async fn a_poison_event_costs_a_few_statements_and_a_good_batch_one() {
    let f = fixture().await;
    rule(
        &f,
        &format!(
            "CREATE SEQUENCE inserts;
             CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM nextval('inserts'); RETURN NULL; END $$;
             CREATE TRIGGER counted BEFORE INSERT ON billing_event FOR EACH STATEMENT EXECUTE FUNCTION counted();
             {CHECK}"
        ),
    )
    .await;
    let inserts = async || -> i64 {
        sqlx::query_scalar("SELECT nextval('inserts') - 1").fetch_one(f.other()).await.unwrap()
    };
    let good: Vec<_> = (0..1_000).map(|n| f.event(&format!("good-{n}"))).collect();
    assert_eq!(f.record_skipping(&good).await.unwrap(), done(1_000, 0));
    assert_eq!(inserts().await, 1);
    let mut events: Vec<_> = (0..1_000).map(|n| f.event(&format!("one-{n}"))).collect();
    poison(&mut events, &[567]);
    let before = inserts().await;
    assert_eq!(f.record_skipping(&events).await.unwrap().stored, 999);
    let cost = inserts().await - before;
    assert!(cost <= 16, "{cost} statements for one poison event of 1,000");
}

#[tokio::test]
async fn a_batch_of_nothing_but_poison_ends_in_bounded_time() {
    let f = fixture().await;
    rule(&f, CHECK).await;
    let count = if crate::harness::soak() { 10_000 } else { 2_000 };
    let mut events = batch(&f, count);
    poison(&mut events, &(0..count).collect::<Vec<_>>());
    let began = Instant::now();
    // Soon: that it takes none is plain after a few.
    for skip_invalid in [true, false] {
        takes_none(&f.intake.record(events.clone(), skip_invalid).await);
    }
    println!("{count} refused twice in {:.1?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(f.count().await, 0);
    // Some that are good: each is looked at.
    let count = count / 2;
    events.truncate(count);
    (0..count).step_by(10).for_each(|at| events[at].model = "good".into());
    let began = Instant::now();
    let recorded = f.record_skipping(&events).await.unwrap();
    println!("{} refused and the others stored in {:.1?}", recorded.rejected.len(), began.elapsed());
    assert_eq!((recorded.stored as usize, recorded.rejected.len()), (count / 10, count - count / 10));
}
