//! The rules. A new top-level module gets a line in [`LAYERS`].

use super::paths::{Path, Token, paths, tokens};

/// What a top-level module may import of ours, and which libraries it keeps out.
struct Layer {
    name: &'static str,
    ours: &'static [&'static str],
    without: &'static [&'static str],
}

const LAYERS: &[Layer] = &[
    Layer { name: "domain", ours: &["domain"], without: &["sqlx", "tonic", "prost", "tokio"] },
    Layer { name: "store", ours: &["store", "domain"], without: &["tonic", "prost"] },
    Layer {
        name: "service",
        ours: &["service", "store", "domain", "metrics", "telemetry"],
        without: &["sqlx", "tonic", "prost"],
    },
    Layer {
        name: "identity",
        ours: &["identity", "service", "domain", "metrics"],
        without: &["sqlx", "tonic", "prost"],
    },
    Layer {
        name: "grpc",
        ours: &["grpc", "identity", "service", "domain", "proto", "metrics", "telemetry"],
        without: &["sqlx"],
    },
    Layer { name: "spool", ours: &["spool", "domain"], without: &["sqlx", "tonic", "prost"] },
    Layer {
        name: "dead_letters",
        ours: &["dead_letters", "domain"],
        without: &["sqlx", "tonic", "prost", "tokio"],
    },
    Layer {
        name: "forwarder",
        ours: &["forwarder", "spool", "dead_letters", "grpc", "proto", "proto_json", "domain"],
        without: &["sqlx", "tonic"],
    },
    Layer {
        name: "cli",
        ours: &[
            "cli",
            "forwarder",
            "spool",
            "dead_letters",
            "grpc",
            "identity",
            "service",
            "store",
            "domain",
            "proto",
            "proto_json",
            "embedded_postgres",
            "admin",
            "metrics",
            "telemetry",
        ],
        without: &["sqlx", "tonic"],
    },
    Layer { name: "admin", ours: &["admin", "service", "metrics"], without: &["sqlx", "tonic", "prost"] },
    Layer { name: "metrics", ours: &["metrics"], without: &["sqlx", "tonic", "prost", "tokio"] },
    Layer { name: "telemetry", ours: &["telemetry"], without: &["sqlx", "tonic", "prost"] },
    Layer { name: "proto", ours: &[], without: &["sqlx", "tokio"] },
    Layer { name: "proto_json", ours: &["proto", "domain"], without: &["sqlx", "tonic", "tokio"] },
    Layer {
        name: "embedded_postgres",
        ours: &["embedded_postgres"],
        without: &["sqlx", "tonic", "prost", "tokio"],
    },
    Layer { name: "main", ours: &["cli"], without: &["sqlx", "tonic", "prost"] },
    Layer { name: "lib", ours: &[], without: &["sqlx", "tonic", "prost", "tokio"] },
];

/// The one file that makes a `Status`.
const STATUS: &str = "grpc/status.rs";
const MAKERS: &[&str] = &[
    "new",
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
    "from_error",
    "try_from_error",
    "from_header_map",
];

const LONGEST: usize = 400;

/// A file below `src/`.
pub struct Source {
    name: String,
    lines: usize,
    tokens: Vec<Token>,
}

impl Source {
    /// From its path below `src/` and its text.
    pub fn new(name: &str, text: &str) -> Source {
        Source { name: name.into(), lines: text.lines().count(), tokens: tokens(text) }
    }

    /// `["domain", "money"]` for `domain/money.rs`, `["domain"]` for `domain/mod.rs`.
    fn module(&self) -> Vec<String> {
        let parts = self.name.trim_end_matches(".rs").split('/');
        parts.filter(|part| *part != "mod").map(String::from).collect()
    }
}

/// Every rule that a file breaks: `src/FILE:LINE: what; the rule`.
pub fn violations(source: &Source) -> Vec<String> {
    let module = source.module();
    let at = |line: usize, what: String| format!("src/{}:{line}: {what}", source.name);
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == module[0]) else {
        let what = format!("the module {} has no rule in tests/it/imports/rules.rs; give it one", module[0]);
        return vec![at(1, what)];
    };
    // The two roots are the crate itself.
    let inside = if matches!(layer.name, "main" | "lib") { &[][..] } else { &module[..] };
    let mut found: Vec<String> = paths(&source.tokens, inside)
        .iter()
        .filter_map(|path| Some(at(path.line, breach(layer, path)?)))
        .collect();
    found.extend(status(source).into_iter().map(|(line, what)| at(line, what.into())));
    if source.lines > LONGEST {
        found.push(at(LONGEST, format!("{} lines; past {LONGEST} a file holds two things", source.lines)));
    }
    found
}

/// How a path breaks a layer's rule.
fn breach(layer: &Layer, path: &Path) -> Option<String> {
    let (name, first) = (layer.name, path.first.as_str());
    if !path.ours {
        let kept_out = |library: &&str| first == *library || first.starts_with(&format!("{library}_"));
        return layer
            .without
            .iter()
            .any(kept_out)
            .then(|| format!("uses {first}; {name} does without {}", layer.without.join(", ")));
    }
    if first == "*" {
        return Some(format!("imports the whole crate; {name} must name what it needs"));
    }
    let allowed = layer.ours.contains(&first);
    let may = if layer.ours.is_empty() {
        "nothing of ours".into()
    } else {
        format!("only {}", layer.ours.join(", "))
    };
    (!allowed).then(|| format!("imports crate::{first}; {name} may import {may}"))
}

/// Where a `Status` is made outside of its file, and wildcard arms inside of it.
fn status(source: &Source) -> Vec<(usize, &'static str)> {
    let is_status_file = source.name == STATUS;
    let words = source.tokens.windows(3);
    words
        .filter_map(|window| {
            let [a, b, c] = [&window[0], &window[1], &window[2]].map(|token| token.text.as_str());
            let maker = MAKERS.contains(&c) || c.starts_with("with_");
            if !is_status_file && a == "Status" && b == "::" && maker {
                return Some((window[0].line, "makes a Status; only src/grpc/status.rs does"));
            }
            let wildcard = is_status_file && a == "_" && b == "=>";
            wildcard.then_some((
                window[0].line,
                "a wildcard arm; name every case, so that a new one is not forgotten",
            ))
        })
        .collect()
}
