//! What the `OTEL_*` variables ask for. The SDK reads most of them itself and passes over what it
//! does not know; here is what it leaves to us, and a word where it would be silent.

use std::fs;

/// The signals, as the variables name them.
const SIGNALS: [&str; 3] = ["TRACES", "METRICS", "LOGS"];
/// The samplers that there are.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// What is exported, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub traces: Option<Collector>,
    pub metrics: Option<Collector>,
    pub logs: Option<Collector>,
    /// Whether a trace goes on from callers and to whoever is called.
    pub propagated: bool,
}

/// What reaching a signal's collector takes, beside what the SDK reads itself. PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Collector {
    /// The variable that names it, for errors.
    pub named_by: String,
    pub ca: Option<Vec<u8>>,
    /// Certificate and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Reads them. An error names the variable, and never its value, which may hold a secret.
pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Settings, String> {
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(Settings::default());
    }
    let mut collectors = Vec::new();
    for signal in SIGNALS {
        collectors.push(collector(signal, &variable)?);
    }
    let mut collectors = collectors.into_iter();
    let mut next = || collectors.next().flatten();
    let (traces, metrics, logs) = (next(), next(), next());
    if traces.is_some()
        && let Some(sampler) = variable("OTEL_TRACES_SAMPLER")
        && !SAMPLERS.contains(&sampler.as_str())
    {
        return Err(format!(
            "OTEL_TRACES_SAMPLER: there is no such sampler; take one of {}",
            SAMPLERS.join(", ")
        ));
    }
    let propagators = variable("OTEL_PROPAGATORS").unwrap_or_else(|| "tracecontext".into());
    let propagated = propagators.split(',').any(|name| name.trim() == "tracecontext");
    Ok(Settings { traces, metrics, logs, propagated })
}

/// How a signal is exported, if it is.
fn collector(signal: &str, variable: &impl Fn(&str) -> Option<String>) -> Result<Option<Collector>, String> {
    let name = format!("OTEL_{signal}_EXPORTER");
    match variable(&name).as_deref() {
        Some("none") => return Ok(None),
        None | Some("otlp") => {}
        Some(_) => return Err(format!("{name}: must be otlp or none")),
    }
    // A signal's own variable comes before the one for all.
    let either = |what: &str| {
        let names = [format!("OTEL_EXPORTER_OTLP_{signal}_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")];
        names.into_iter().find_map(|name| variable(&name).map(|value| (name, value)))
    };
    let Some((named_by, endpoint)) = either("ENDPOINT") else { return Ok(None) };
    if !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
        return Err(format!(
            "{named_by}: must begin with http:// or https://, such as http://collector:4317"
        ));
    }
    if let Some((name, _)) = either("PROTOCOL").filter(|(_, protocol)| protocol != "grpc") {
        return Err(format!("{name}: only grpc is spoken, to port 4317 of most collectors"));
    }
    let file = |what: &str| {
        let read =
            |(name, path): (String, String)| fs::read(path).map_err(|error| format!("{name}: {error}"));
        either(what).map(read).transpose()
    };
    let identity = match (file("CLIENT_CERTIFICATE")?, file("CLIENT_KEY")?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            return Err(
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY belong together"
                    .into(),
            );
        }
    };
    Ok(Some(Collector { named_by, ca: file("CERTIFICATE")?, identity }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, String> {
        read(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
    }

    /// Which signals are exported.
    fn on(variables: &[(&str, &str)]) -> [bool; 3] {
        let settings = settings(variables).expect("they are right");
        [settings.traces, settings.metrics, settings.logs].map(|signal| signal.is_some())
    }

    const ALL: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");

    #[test]
    fn nothing_is_exported_without_an_endpoint() {
        assert_eq!(on(&[]), [false; 3]);
        assert_eq!(on(&[ALL]), [true; 3]);
        assert_eq!(on(&[("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://c")]), [false, false, true]);
        assert_eq!(on(&[ALL, ("OTEL_SDK_DISABLED", "TRUE")]), [false; 3]);
        assert_eq!(on(&[ALL, ("OTEL_TRACES_EXPORTER", "none")]), [false, true, true]);
        assert_eq!(on(&[ALL, ("OTEL_METRICS_EXPORTER", "none")]), [true, false, true]);
        assert_eq!(on(&[ALL, ("OTEL_LOGS_EXPORTER", "none")]), [true, true, false]);
    }

    #[test]
    fn what_can_not_be_followed_is_named_and_its_value_is_not_told() {
        for (name, value) in [
            ("OTEL_TRACES_EXPORTER", "zipkin-s3cret"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/s3cret"),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/s3cret"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "s3cret:4317"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/s3cret"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/dev/null"),
            ("OTEL_TRACES_SAMPLER", "s3cret"),
        ] {
            let error = settings(&[ALL, (name, value)]).expect_err("wrong");
            assert!(error.contains(name) && !error.contains("s3cret"), "{error}");
            assert_eq!(settings(&[("OTEL_SDK_DISABLED", "true"), (name, value)]), Ok(Settings::default()));
        }
    }

    #[test]
    fn a_trace_goes_on_unless_somebody_says_otherwise() {
        assert!(settings(&[ALL]).expect("right").propagated);
        assert!(settings(&[ALL, ("OTEL_PROPAGATORS", "baggage, tracecontext")]).expect("right").propagated);
        assert!(!settings(&[ALL, ("OTEL_PROPAGATORS", "none")]).expect("right").propagated);
    }
}
