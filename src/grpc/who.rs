//! Whom a call counts for: its caller by the authenticated name, or by the address where it has none.

use std::net::IpAddr;

use tonic::codegen::http::Extensions;

use super::listener::{Peer, network};
use crate::service::caller::Caller;

/// Somebody who calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Who {
    Name(String),
    Address(IpAddr),
    /// Whoever has no place of their own.
    Crowd,
}

impl Who {
    /// By name, or else by address.
    pub(super) fn of(extensions: &Extensions) -> Who {
        let name = extensions.get::<Caller>().map(|caller| &caller.name).filter(|name| !name.is_empty());
        name.map_or_else(|| Who::address(extensions), |name| Who::Name(name.clone()))
    }

    /// By address alone.
    pub(super) fn address(extensions: &Extensions) -> Who {
        let address = extensions.get::<Peer>().and_then(|peer| peer.address);
        address.map_or(Who::Crowd, |address| Who::Address(network(address.ip())))
    }

    /// The most that one of these may have of so many: half, where callers are told apart by name.
    pub(super) fn share(&self, most: usize) -> usize {
        match self {
            Who::Name(_) => most.div_ceil(2),
            Who::Address(_) | Who::Crowd => most,
        }
    }
}
