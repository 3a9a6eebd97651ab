//! The wire contract, generated from `proto/rating/v1/rating.proto` by `build.rs`.
#![allow(missing_docs, clippy::all)]

tonic::include_proto!("rating.v1");

/// The contract's descriptor set, for server reflection and proto3 JSON.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
