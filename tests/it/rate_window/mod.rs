//! RateWindow on the wire: what is refused, and a run's life from the request to the retry.

mod chunks;
mod deadline;
mod detach;
mod parallel;
mod refusals;
mod request_id;
mod too_late;
