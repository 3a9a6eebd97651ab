//! tonic only: conversion, status, layers, server and client.

pub mod client;
pub mod convert;
pub mod events;
pub mod status;
