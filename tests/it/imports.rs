//! The arrows of the layout, and what else a reader may rely on about `src/`: who imports
//! what, where a `Status` is made, how long a file gets.

mod paths;
mod rules;

use std::fs;
use std::path::{Path, PathBuf};

use rules::{Source, violations};

/// Every file below `src/`, with its path from there.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
                found.push(Source::new(&name, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

#[test]
fn the_source_keeps_its_rules() {
    let sources = sources();
    assert!(sources.len() > 10, "the sources are not where this test looks");
    let broken: Vec<String> = sources.iter().flat_map(violations).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// What the rules say about a file with this text.
fn said(name: &str, text: &str) -> String {
    violations(&Source::new(name, text)).join("\n")
}

#[test]
fn an_arrow_that_points_back_is_told_with_its_place() {
    let text = "use std::fmt;\n\nuse crate::store::Db;\n";
    let expected = "src/domain/money.rs:3: imports crate::store; domain may import only domain";
    assert_eq!(said("domain/money.rs", text), expected);
    assert!(said("store/db.rs", "fn f() { crate::service::go() }").contains("imports crate::service"));
    assert!(said("service/rate.rs", "use crate::{domain, grpc::status};").contains("crate::grpc"));
    assert!(said("service/rate.rs", "use crate::{\n  domain::{a, b},\n  proto,\n};").contains(":3: "));
    assert!(said("grpc/convert.rs", "use super::super::store;").contains("crate::store"));
    assert!(said("grpc/mod.rs", "use super::store::Db;").contains("crate::store"));
    assert!(said("domain/money.rs", "pub(crate) use crate::*;").contains("name what it needs"));
    assert!(said("grpc/server.rs", "use crate::cli;").contains("crate::cli"));
    assert!(said("embedded_postgres/mod.rs", "use crate::domain;").contains("crate::domain"));
    assert!(said("main.rs", "fn main() { rater::store::go() }").contains("crate::store"));
    assert!(said("weather.rs", "").contains("has no rule in tests/it/imports/rules.rs"));
}

#[test]
fn an_arrow_that_points_ahead_is_fine() {
    assert_eq!(said("main.rs", "fn main() -> std::process::ExitCode { rater::cli::main() }"), "");
    assert_eq!(said("cli/rate.rs", "use crate::{proto, store::Db, embedded_postgres};"), "");
    assert_eq!(said("grpc/convert.rs", "use crate::proto; use crate::service::{Error, a::b};"), "");
    assert_eq!(said("store/db.rs", "use super::Error; use crate::domain::window; use sqlx::Pool;"), "");
    let nested = "mod tests { use super::*; use super::super::window; mod deep { use super::super::x; } }";
    assert_eq!(said("domain/money.rs", nested), "");
    assert_eq!(
        said("domain/money.rs", "// use crate::store;\n/* crate::grpc /* sqlx::x */ */\nfn f() {}"),
        ""
    );
    assert_eq!(
        said("domain/a.rs", r####"const A: &str = r#"crate::store "x" sqlx::y"#; const B: char = '"';"####),
        ""
    );
    assert_eq!(said("domain/a.rs", "struct S<'a>(&'a str); impl S<'_> { fn crate_(self) {} }"), "");
}

#[test]
fn a_library_stays_in_its_layer() {
    assert!(said("domain/a.rs", "use tokio::time;").contains("uses tokio"));
    assert!(said("service/a.rs", "#[tonic::async_trait]\nimpl X for Y {}").contains(":1: uses tonic"));
    assert!(said("service/a.rs", "use ::sqlx::Pool;").contains("uses sqlx"));
    assert!(said("store/a.rs", "use prost_types::Timestamp;").contains("uses prost_types"));
    assert!(said("cli/a.rs", "use tonic::transport::Channel;").contains("uses tonic"));
    assert!(said("grpc/a.rs", "fn f(e: sqlx::Error) {}").contains("uses sqlx"));
    assert!(said("main.rs", "use {std::fs, sqlx::Pool};").contains("uses sqlx"));
    assert_eq!(said("grpc/a.rs", "use tonic::Code; use prost::Message; use tokio::time;"), "");
    assert_eq!(said("cli/a.rs", "use prost_reflect::DynamicMessage; use tokio::fs;"), "");
}

#[test]
fn a_status_is_made_in_one_file_that_forgets_no_error() {
    let make = "fn f() -> Status {\n    Status::invalid_argument(\"x\")\n}";
    assert!(said("grpc/server.rs", make).contains(":2: makes a Status"));
    assert!(said("grpc/server.rs", "Status::with_error_details(c, m, d)").contains("makes a Status"));
    assert!(said("grpc/server.rs", "tonic::Status::new(c, m)").contains("makes a Status"));
    assert_eq!(said("grpc/status.rs", make), "");
    assert_eq!(said("grpc/server.rs", "fn f(s: Status) -> Result<(), Status> { Err(s) }"), "");
    assert_eq!(said("grpc/server.rs", "std::process::ExitStatus::default()"), "");
    assert!(said("grpc/status.rs", "match e {\n A => 1,\n _ => 2 }").contains(":3: a wildcard"));
    assert_eq!(said("grpc/status.rs", "match e { A(_) => 1, B { .. } => 2 }"), "");
}

#[test]
fn a_file_holds_one_thing() {
    assert_eq!(said("domain/a.rs", &"\n".repeat(400)), "");
    assert!(said("domain/a.rs", &"\n".repeat(401)).contains("401 lines; past 400"));
}
