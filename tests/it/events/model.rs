//! Random batches against a plain model.

use std::collections::HashMap;

use rater::domain::event::{Event, RawEvent};
use rater::service::Error;
use rater::service::record_events::Recorded;

use super::{Fixture, Random, fixture};
use crate::harness::soak;

/// What is stored, and the rules in as few words as there are.
#[derive(Default, Clone)]
struct Model {
    stored: HashMap<String, Event>,
}

/// Stored, duplicates, and the index and reason of each rejected event.
type Outcome = (i64, i64, Vec<(usize, &'static str)>);

impl Model {
    /// Takes the events one by one, and a batch that was refused back as a whole.
    fn record(
        &mut self,
        batch: &[RawEvent],
        skip_invalid: bool,
    ) -> Result<Outcome, Vec<(String, &'static str)>> {
        let before = self.clone();
        let (mut stored, mut duplicates, mut rejected) = (0, 0, Vec::new());
        let (mut invalid, mut conflicts) = (Vec::new(), Vec::new());
        for (i, raw) in batch.iter().enumerate() {
            match raw.clone().check() {
                Err(errors) => {
                    rejected.push((i, errors[0].reason));
                    invalid.extend(errors.iter().map(|e| (format!("events[{i}].{}", e.field), e.reason)));
                }
                Ok(event) => match self.stored.get(&event.request_id) {
                    None => {
                        self.stored.insert(event.request_id.clone(), event);
                        stored += 1;
                    }
                    Some(known) if *known == event => duplicates += 1,
                    Some(_) => {
                        rejected.push((i, "EVENT_CONFLICT"));
                        conflicts.push((format!("events[{i}].request_id"), "EVENT_CONFLICT"));
                    }
                },
            }
        }
        if skip_invalid || rejected.is_empty() {
            return Ok((stored, duplicates, rejected));
        }
        *self = before;
        Err(if invalid.is_empty() { conflicts } else { invalid })
    }
}

fn outcome(result: Result<Recorded, Error>) -> Result<Outcome, Vec<(String, &'static str)>> {
    match result {
        Ok(r) => Ok((r.stored, r.duplicates, r.rejected.iter().map(|r| (r.index, r.reason)).collect())),
        Err(Error::Invalid(v) | Error::EventConflict(v)) => {
            Err(v.into_iter().map(|v| (v.field, v.reason)).collect())
        }
        Err(other) => panic!("{other:?}"),
    }
}

/// Few ids and few contents, so that they meet.
fn batch(f: &Fixture, case: u64, random: &mut Random) -> Vec<RawEvent> {
    let ids = 1 + random.below(12);
    let invalid = random.below(3) == 0;
    (0..random.below(16))
        .map(|_| {
            let mut event = f.event(&format!("{case}-{}", random.below(ids)));
            match random.below(8) {
                0 => event.prompt_tokens = 11,
                1 => event.auth_id.clear(),
                2 => event.event_time = None,
                // The same to the microsecond.
                3 => event.event_time = event.event_time.map(|(s, n)| (s, n + 999)),
                4 if invalid => event.completion_tokens = -1,
                5 if invalid => event.user_id = "u".repeat(33),
                6 if invalid => event.request_id.clear(),
                _ => {}
            }
            event
        })
        .collect()
}

/// What another writer has stored, in the forms that are equal to ours.
async fn by_another_writer(f: &Fixture, case: u64, model: &mut Model, random: &mut Random) {
    let raw = RawEvent { auth_id: String::new(), ..f.event(&format!("{case}-{}", random.below(4))) };
    let event = raw.check().unwrap();
    sqlx::query(
        "INSERT INTO billing_event (request_id, auth_id, resource_id, model, prompt_tokens, cached_tokens,
            completion_tokens, event_ts, aborted, adapter)
        VALUES ($1, NULLIF($2, 'NULL'), $3, $4, $5, $6, $7, $8, $9, '')",
    )
    .bind(&event.request_id)
    .bind(if random.below(2) == 0 { "NULL" } else { "" })
    .bind(&event.resource_id)
    .bind(&event.model)
    .bind(event.prompt_tokens)
    .bind(event.cached_tokens)
    .bind(event.completion_tokens)
    .bind(event.event_time)
    .bind((random.below(2) == 0).then_some(false))
    .execute(f.other())
    .await
    .unwrap();
    model.stored.insert(event.request_id.clone(), event);
}

#[tokio::test]
async fn random_batches_agree_with_a_plain_model() {
    let f = fixture().await;
    let seed = std::env::var("RATER_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_260_601);
    let cases = if soak() { 3_000 } else { 60 };
    let mut random = Random(seed);
    let mut all = Model::default();
    for case in 0..cases {
        let mut model = Model::default();
        if random.below(2) == 0 {
            by_another_writer(&f, case, &mut model, &mut random).await;
        }
        for step in 0..5 {
            let batch = batch(&f, case, &mut random);
            let skip_invalid = random.below(2) == 0;
            let expected = model.record(&batch, skip_invalid);
            let got = outcome(f.intake.record(batch.clone(), skip_invalid).await);
            assert_eq!(got, expected, "seed {seed}, case {case}, step {step}: {skip_invalid} {batch:#?}");
        }
        all.stored.extend(model.stored);
    }
    assert_eq!(f.count().await, i64::try_from(all.stored.len()).unwrap());
}
