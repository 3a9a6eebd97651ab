//! tonic only: conversion, status, layers, server and client.

pub mod convert;
