//! There is one account of what is counted: the collector's and the page's are the same.

use std::collections::BTreeMap;
use std::time::Duration;

use super::receiver::Attributes;
use super::{Receiver, service};
use crate::rig::http_get;
use crate::stage::{Stage, event, rate, record, until, window};

/// The page's counters and gauges as the collector has them; and its histograms' counts.
fn series(page: &str) -> (BTreeMap<String, f64>, BTreeMap<String, f64>) {
    let (mut numbers, mut histograms) = (BTreeMap::new(), BTreeMap::new());
    let mut kind = "";
    for line in page.lines().skip_while(|line| !line.starts_with('#')) {
        if let Some(said) = line.strip_prefix("# TYPE ") {
            kind = said.split_once(' ').unwrap().1;
        }
        let Some((series, value)) = line.rsplit_once(' ').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let label = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap();
            (name.to_owned(), value.trim_matches('"').to_owned())
        };
        let labels: Attributes =
            labels.trim_end_matches('}').split(',').filter(|pair| !pair.is_empty()).map(label).collect();
        let value: f64 = value.parse().unwrap();
        match (kind, name.strip_suffix("_total"), name.strip_suffix("_count")) {
            ("counter", Some(name), _) => drop(numbers.insert(format!("{name}{labels:?}"), value)),
            ("gauge", ..) => drop(numbers.insert(format!("{name}{labels:?}"), value)),
            ("histogram", _, Some(name)) if value > 0.0 => {
                histograms.insert(format!("{name}{labels:?}"), value);
            }
            _ => {}
        }
    }
    (numbers, histograms)
}

#[tokio::test]
async fn the_collector_has_every_number_of_the_page() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    let service = service(&stage, &receiver.url(), &[], &[]).await;
    // From the start, at 0.
    let key = |name: &str, labels: &[(&str, &str)]| {
        let labels: Attributes = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        format!("{name}{labels:?}")
    };
    let failed = key("rater_runs", &[("trigger", "routine"), ("state", "failed")]);
    until("it is there", Duration::from_secs(20), async || receiver.series().get(&failed) == Some(&0.0))
        .await;
    record(&service, &[event("a", 0), event("b", 0)]).await.unwrap();
    rate(&service, window(0, 1)).await.unwrap();

    let mut differ = Vec::new();
    until("both are the same", Duration::from_secs(30), async || {
        let (numbers, histograms) = series(&http_get(service.admin_address(), "/metrics").await);
        assert!(numbers.len() > 200 && histograms.len() >= 2, "{numbers:?} {histograms:?}");
        let (here, mut all) = (receiver.series(), numbers);
        // The times of calls have OpenTelemetry's name.
        all.extend(
            histograms.into_iter().filter(|(name, _)| !name.starts_with("rater_grpc_server_duration")),
        );
        differ = all.into_iter().filter(|(name, value)| here.get(name) != Some(value)).collect();
        differ.is_empty()
    })
    .await;
    let there = receiver.series();
    let stored = key("rater_recorded_events", &[("outcome", "stored")]);
    assert_eq!(there[&stored], 2.0);
    let call = [
        ("rpc.system.name", "grpc"),
        ("rpc.method", "rating.v1.EventService/RecordEvents"),
        ("rpc.response.status_code", "OK"),
    ];
    assert_eq!(there[&key("rpc.server.call.duration", &call)], 1.0);
    let operations = |collection: &str| {
        let of = format!("\"db.collection.name\": \"{collection}\"");
        let found = there.iter().filter(|(name, _)| name.starts_with("db.client.operation.duration"));
        found.filter(|(name, _)| name.contains(&of)).map(|(_, count)| count).sum::<f64>()
    };
    assert_eq!((operations("billing_event"), operations("rating_lease")), (1.0, 2.0), "{there:#?}");
}
