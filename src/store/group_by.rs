//! What usage and anomalies can be gathered by.

/// Dimensions to gather by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct GroupBy {
    /// Who.
    pub auth_id: bool,
    /// On what.
    pub resource_id: bool,
    /// Which model.
    pub model_id: bool,
    /// When; `None`: all hours together.
    pub period: Option<Period>,
}

/// A stretch of time in UTC (R14), finest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A month.
    Month,
}

impl Period {
    /// As statements take it.
    pub fn as_str(self) -> &'static str {
        match self {
            Period::Hour => "hour",
            Period::Day => "day",
            Period::Month => "month",
        }
    }
}

impl GroupBy {
    /// The period as statements take it; empty: all hours together.
    pub(super) fn period_name(&self) -> &'static str {
        self.period.map_or("", Period::as_str)
    }
}
