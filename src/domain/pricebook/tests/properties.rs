//! Properties over random pricebooks: the rate table is `resolve`, the digest is of the
//! meaning, and no input makes the parser panic.

use proptest::prelude::*;

use super::*;

/// An entry of a dated list: its hour (none: undated), and a value.
type Dated<T> = Vec<(Option<u8>, T)>;

#[derive(Debug, Clone)]
struct Random {
    per: u32,
    bases: Vec<Dated<[u32; 3]>>,
    premium: Option<Dated<(u8, u32)>>,
    tunes: Vec<Tune>,
}

#[derive(Debug, Clone)]
enum Tune {
    Own(Dated<[u32; 3]>),
    From(usize),
}

const HOURS: u8 = 12;
const BASES: usize = 4;

fn dated<T: std::fmt::Debug + Clone + 'static>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Dated<T>> {
    let hours = prop::collection::btree_set(1..HOURS - 1, 0..4);
    (any::<bool>(), hours, prop::collection::vec(value, 5)).prop_map(|(undated, hours, values)| {
        let undated = undated || hours.is_empty();
        let starts = undated.then_some(None).into_iter().chain(hours.into_iter().map(Some));
        starts.zip(values).collect()
    })
}

fn random() -> impl Strategy<Value = Random> {
    let terms = || dated(prop::array::uniform3(0u32..2_000));
    let tune = prop_oneof![terms().prop_map(Tune::Own), (0..BASES).prop_map(Tune::From)];
    (
        prop::sample::select(vec![1u32, 1_000, 1_000_000]),
        prop::collection::vec(terms(), BASES),
        prop::option::of(dated((0u8..3, 1u32..400))),
        prop::collection::vec(tune, 0..4),
    )
        .prop_map(|(per, bases, premium, tunes)| Random { per, bases, premium, tunes })
}

/// How the same pricebook is written.
#[derive(Clone, Copy)]
struct Style {
    quote: char,
    zeros: &'static str,
    reversed: bool,
    per: Option<u32>,
}

const PLAINLY: Style = Style { quote: '"', zeros: "", reversed: false, per: None };
const OTHERWISE: Style = Style { quote: '\'', zeros: "0", reversed: true, per: Some(100) };

fn hour(n: u8) -> DateTime<Utc> {
    utc("2026-07-01T00:00:00Z") + chrono::Duration::hours(i64::from(n))
}

/// `n` billionths, times `per`, as a decimal.
fn decimal(n: u32, per: u32, style: Style) -> String {
    let n = u64::from(n) * u64::from(per);
    let (whole, fraction) = (n / 1_000_000_000, n % 1_000_000_000);
    format!("{q}{whole}.{fraction:09}{zeros}{q}", q = style.quote, zeros = style.zeros)
}

fn list<T>(entries: &Dated<T>, fields: impl Fn(&T) -> String) -> String {
    let entry = |(start, value): &(Option<u8>, T)| {
        let from = start.map_or_else(String::new, |n| format!("effective_from: {}, ", hour(n).to_rfc3339()));
        format!("{{{from}{}}}", fields(value))
    };
    format!("[{}]", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
}

fn written(random: &Random, style: Style) -> String {
    let per = style.per.unwrap_or(random.per);
    let money = |n: u32| decimal(n, per, style);
    let terms = |entries: &Dated<[u32; 3]>| {
        list(entries, |[p, c, o]| {
            format!("prompt: {}, cached: {}, completion: {}", money(*p), money(*c), money(*o))
        })
    };
    let mut bases: Vec<String> =
        random.bases.iter().enumerate().map(|(n, entries)| format!("  b{n}: {}\n", terms(entries))).collect();
    let mut tunes: Vec<String> = Vec::new();
    for (n, tune) in random.tunes.iter().enumerate() {
        tunes.push(match tune {
            Tune::Own(entries) => format!("  ft:{n}: {{rate: {}}}\n", terms(entries)),
            Tune::From(base) => format!("  ft:{n}: {{derived_from: b{base}}}\n"),
        });
    }
    if style.reversed {
        bases.reverse();
        tunes.reverse();
    }
    let mut parts =
        vec!["version: 1\n".to_owned(), format!("per: {per}\n"), format!("base_models:\n{}", bases.concat())];
    if let Some(premium) = &random.premium {
        let premium = list(premium, |(policy, n)| match policy {
            0 => "policy: identity".to_owned(),
            // Tenths: a factor is no rate, so `per` leaves it alone.
            1 => format!("policy: multiplier, factor: \"{}.{}\"", n / 10, n % 10),
            _ => format!("policy: markup, markup: {}", money(*n)),
        });
        parts.push(format!("fine_tune_premium: {premium}\n"));
    }
    if !tunes.is_empty() {
        parts.push(format!("fine_tunes:\n{}", tunes.concat()));
    }
    if style.reversed {
        parts.reverse();
    }
    parts.concat()
}

/// The price of an event by the table, as the rating statement looks it up.
fn by_table(table: &RateTable, model: &str, base: Option<&str>, hour: DateTime<Utc>) -> Option<Rates> {
    let covers = |row: &&RateRow| row.from.is_none_or(|f| f <= hour) && row.until.is_none_or(|u| hour < u);
    let find = |rows: &[RateRow], key: &str| -> Option<Option<Rates>> {
        let found: Vec<&RateRow> = rows.iter().filter(|row| row.model == key).filter(covers).collect();
        assert!(found.len() <= 1, "rows of {key} overlap");
        found.first().map(|row| row.rates)
    };
    match find(&table.direct, model) {
        Some(rates) => rates,
        None => find(&table.derived, base.filter(|_| model.starts_with("ft:"))?)?,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_rate_table_is_resolve(random in random(), from in 0..HOURS, hours in 1..HOURS) {
        let book = book(&written(&random, PLAINLY));
        let (start, end) = (hour(from), hour(from + hours));
        let table = book.rate_table(start, end);
        let models = ["b0", "b1", "b2", "b3", "b9", "ft:0", "ft:1", "ft:2", "ft:3", "ft:9", "x", ""];
        let bases = [None, Some("b0"), Some("b3"), Some("b9"), Some("ft:0"), Some("ft:9"), Some("")];
        for at in (from..from + hours).map(hour) {
            for (model, base) in models.iter().flat_map(|m| bases.iter().map(move |b| (*m, *b))) {
                let resolved = book.resolve(model, base, at).map(|resolved| resolved.rates);
                prop_assert_eq!(by_table(&table, model, base, at), resolved, "{} {:?} {}", model, base, at);
            }
        }
    }

    #[test]
    fn the_digest_is_of_the_meaning(random in random(), other in random()) {
        let plainly = book(&written(&random, PLAINLY));
        let otherwise = book(&written(&random, OTHERWISE));
        prop_assert_eq!(plainly.digest(), otherwise.digest());
        prop_assert_eq!(plainly.resolved_rates(), otherwise.resolved_rates());
        prop_assert_eq!(plainly.changes_to(&otherwise), vec![]);
        let other = book(&written(&other, PLAINLY));
        if plainly.resolved_rates() != other.resolved_rates() {
            prop_assert_ne!(plainly.digest(), other.digest());
            prop_assert!(!plainly.changes_to(&other).is_empty());
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}", yamlish in "([a-z&*!|>%@`'\"#{}\\[\\],:?~<0-9. -]|\\n){0,200}") {
        parse(&text);
        parse(&yamlish);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        parse_bytes(&bytes);
    }

    /// A book with one character changed: still no panic, and an answer either way.
    #[test]
    fn no_slip_of_the_pen_makes_it_panic(at in 0..EXAMPLE.len(), put in any::<char>(), cut in 0usize..3) {
        let head = &EXAMPLE[..at];
        let tail = &EXAMPLE[(at + cut).min(EXAMPLE.len())..];
        let parsed = parse(&format!("{head}{put}{tail}"));
        prop_assert_eq!(parsed.book.is_none(), parsed.diagnostics.iter().any(|d| d.severity == DiagnosticSeverity::Error));
    }
}
