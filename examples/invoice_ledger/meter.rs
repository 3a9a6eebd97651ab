//! The shapes that an invoicing API takes: here those of Stripe. Pure.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::line::Key;

/// A line that is due, and whose it is.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Due {
    pub line_id: String,
    pub customer_id: String,
    #[sqlx(flatten)]
    pub key: Key,
    pub currency: String,
    pub amount: String,
}

/// Lines that are told together: those of one customer that the meter no longer takes.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Together {
    pub amount: String,
    pub lines: i64,
    pub first_hour: DateTime<Utc>,
    pub last_hour: DateTime<Utc>,
}

/// How many units an amount is, at 10^`scale` units in 1 of the currency: Stripe takes whole
/// numbers. `None` where it is no whole number of them, or more than 64 bits hold: never rounded.
pub fn units(amount: &str, scale: usize) -> Option<i64> {
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > scale {
        return None;
    }
    format!("{whole}{fraction:0<scale$}").parse().ok()
}

/// A meter event. The meter is of one currency, since a price is.
pub fn meter_event(line: &Due, event_name: &str, scale: usize) -> Result<Value, String> {
    let Some(value) = units(&line.amount, scale) else {
        return Err(format!(
            "line {} of {} {} is no whole number of 10^-{scale} that the meter takes; --meter-scale must be \
             the pricebook's rate_scale",
            line.line_id, line.amount, line.currency
        ));
    };
    Ok(json!({
        "identifier": line.line_id,
        "event_name": format!("{event_name}_{}", line.currency.to_lowercase()),
        "timestamp": line.key.window_start.timestamp(),
        "payload": {"stripe_customer_id": line.customer_id, "value": value.to_string()},
    }))
}

/// What becomes an invoice item: one for all, so that it is rounded to the cent once. Its id is the
/// request's idempotency key.
pub fn invoice_item(customer_id: &str, currency: &str, together: &Together) -> Value {
    let hour = |time: DateTime<Utc>| time.format("%Y-%m-%d %H:00").to_string();
    let (first, last) = (hour(together.first_hour), hour(together.last_hour));
    json!({
        "customer": customer_id,
        "currency": currency.to_lowercase(),
        "amount": together.amount,
        "description": format!("Usage of earlier hours, {first} to {last} UTC"),
        "metadata": {"ledger_lines": together.lines.to_string()},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_a_whole_number_of_units_or_none() {
        for (amount, scale, expected) in [
            ("0.000000000001", 12, Some(1)),
            ("-0.000450", 12, Some(-450_000_000)),
            ("12", 0, Some(12)),
            ("1.5", 9, Some(1_500_000_000)),
            ("0.0000000001", 9, None),
            ("0.5", 0, None),
            ("9223372.036854775807", 12, Some(i64::MAX)),
            ("-9223372.036854775808", 12, Some(i64::MIN)),
            ("9223372.036854775808", 12, None),
        ] {
            assert_eq!(units(amount, scale), expected, "{amount} at {scale}");
        }
    }

    #[test]
    fn a_line_is_a_meter_event_of_its_hour_and_its_currencys_meter() {
        let line = Due {
            line_id: "c1".into(),
            customer_id: "cus_1".into(),
            key: Key {
                auth_id: "acme".into(),
                resource_id: "chat".into(),
                model_id: "m".into(),
                window_start: DateTime::from_timestamp(1_780_308_000, 0).expect("a time"),
                price_class: "standard".into(),
            },
            currency: "USD".into(),
            amount: "-0.00045".into(),
        };
        let expected = json!({
            "identifier": "c1", "event_name": "rater_cost_usd", "timestamp": 1_780_308_000,
            "payload": {"stripe_customer_id": "cus_1", "value": "-450000000"},
        });
        assert_eq!(meter_event(&line, "rater_cost", 12), Ok(expected));
        assert!(meter_event(&line, "rater_cost", 4).expect_err("not whole").contains("rate_scale"));
    }
}
