//! tonic only: conversion, status, layers, server and client.

mod answer;
pub mod client;
pub mod convert;
mod deadline;
pub mod events;
pub mod layers;
pub mod listener;
pub mod rating;
pub mod server;
pub mod status;
mod stream;
pub mod tls;
