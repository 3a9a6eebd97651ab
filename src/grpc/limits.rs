//! How much a server takes on: its connections, and the calls on them.

use std::num::NonZeroU32;
use std::time::Duration;

/// The limits of one process. What is past one is answered at once, or closed, and never waits in
/// memory.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections; one address, or one network of IPv6, has half of them at most.
    pub max_connections: usize,
    /// From a connection's acceptance until it has shaken hands and begun to speak HTTP/2.
    pub first_byte_timeout: Duration,
    /// When a connection is asked to make place for a new one; its calls end first.
    pub max_connection_age: Duration,
    /// Calls at once on one connection.
    pub max_streams: u32,
    /// Calls at once on all of them, health checks and reflection aside.
    pub max_calls: usize,
    /// Calls of one caller; `None`: as many as it likes.
    pub max_calls_per_second: Option<NonZeroU32>,
    /// The longest that a call goes on, whatever its caller allows.
    pub max_call_time: Duration,
}
