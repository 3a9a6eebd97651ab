//! tonic only: conversion, status, layers, server and client.

mod answer;
pub mod client;
mod connection;
pub mod convert;
mod deadline;
pub mod events;
pub mod layers;
pub mod limits;
pub mod listener;
mod message;
pub mod rating;
pub mod server;
pub mod status;
mod stream;
pub mod tls;
