//! tonic only: conversion, status, layers, server and client.

pub mod client;
pub mod convert;
mod deadline;
pub mod events;
pub mod rating;
pub mod server;
pub mod status;
mod stream;
