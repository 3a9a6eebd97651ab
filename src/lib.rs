//! `rater` turns metered LLM usage into money: it reads raw token counts from
//! `billing_event`, prices them from a YAML pricebook, and keeps `rated_usage` exactly equal
//! to what the latest run computed.
//!
//! The map, and who may import what (held by `tests/it/imports.rs`):
//!
//! ```text
//! cli ──> grpc ──> service ──> store ──> domain
//!  every arrow may also skip ahead; none points back
//! ```
//!
//! - [`domain`]: pure rules, without I/O, clock or async; the plain-Rust oracle.
//! - [`store`]: the statements, one file a table or statement; sqlx stays inside.
//! - [`service`]: use cases, one file each: what an RPC does, without gRPC.
//! - [`grpc`]: tonic only: conversion, status, server, client.
//! - [`identity`]: who a caller is, by certificate or token, and what they may do for it.
//! - [`cli`]: one file a command.
//! - [`forwarder`]: the sender: events into a spool, and from there to a service.
//! - [`dead_letters`]: what was refused, set aside in files.
//! - [`admin`]: metrics, health and readiness over HTTP.
//! - [`metrics`], [`telemetry`]: what is counted and how it is logged; nothing of ours inside.
//! - [`proto`], [`proto_json`]: the generated contract and its JSON, seen by `grpc`, `forwarder`
//!   and `cli` alone.
//!
//! The invariants R1 to R15 are listed in ARCHITECTURE.md with the place that enforces each.

pub mod admin;
pub mod cli;
pub mod dead_letters;
pub mod domain;
pub mod embedded_postgres;
pub mod forwarder;
pub mod grpc;
pub mod identity;
pub mod metrics;
pub mod proto;
pub mod proto_json;
pub mod service;
pub mod spool;
pub mod store;
pub mod telemetry;
