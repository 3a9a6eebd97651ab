//! tonic only: conversion, status, layers, server and client.

mod activity;
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
mod places;
pub mod rating;
pub mod server;
mod shares;
pub mod status;
mod stream;
pub mod tls;
mod who;
