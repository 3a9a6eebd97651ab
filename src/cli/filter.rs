//! The options that choose hours, identities and models, and what to group them by, for every
//! command that lists them.

use chrono::{DateTime, Utc};

use crate::grpc::convert::time::to_proto;
use crate::proto::{Dimension, UsageFilter};

/// Which hours, whose, and of what.
#[derive(Debug, Clone, clap::Args)]
pub struct FilterOptions {
    /// Hours that start at or after this (RFC 3339)
    #[arg(long, env = "RATER_SINCE", value_name = "TIME", value_parser = super::time::parse)]
    since: Option<DateTime<Utc>>,
    /// Hours that start before this
    #[arg(long, env = "RATER_UNTIL", value_name = "TIME", value_parser = super::time::parse)]
    until: Option<DateTime<Utc>>,
    /// Only this identity (may be given again)
    #[arg(long = "auth-id", env = "RATER_AUTH_ID", value_name = "ID")]
    auth_ids: Vec<String>,
    /// Only this resource (may be given again)
    #[arg(long = "resource-id", env = "RATER_RESOURCE_ID", value_name = "ID")]
    resource_ids: Vec<String>,
    /// Only this model (may be given again)
    #[arg(long = "model-id", env = "RATER_MODEL_ID", value_name = "ID")]
    model_ids: Vec<String>,
}

impl FilterOptions {
    /// For the wire.
    pub fn filter(self) -> UsageFilter {
        UsageFilter {
            since: self.since.map(to_proto),
            until: self.until.map(to_proto),
            auth_ids: self.auth_ids,
            resource_ids: self.resource_ids,
            model_ids: self.model_ids,
        }
    }
}

/// What a line is made for each of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum GroupArg {
    /// The identity that is billed
    AuthId,
    /// The resource
    ResourceId,
    /// The model
    ModelId,
    /// The hour, in UTC
    Hour,
    /// The day, in UTC
    Day,
    /// The month, in UTC
    Month,
}

impl GroupArg {
    /// For the wire.
    pub fn dimension(self) -> Dimension {
        match self {
            GroupArg::AuthId => Dimension::AuthId,
            GroupArg::ResourceId => Dimension::ResourceId,
            GroupArg::ModelId => Dimension::ModelId,
            GroupArg::Hour => Dimension::Hour,
            GroupArg::Day => Dimension::Day,
            GroupArg::Month => Dimension::Month,
        }
    }
}
