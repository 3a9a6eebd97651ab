//! Which role each call needs: the one table. What is not in it nobody may call.

use crate::service::caller::Role;

/// What is served to everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Health checking.
    pub health: bool,
    /// Reflection.
    pub reflection: bool,
}

/// What a call asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Not even to be known.
    Nothing,
    /// One of these roles; the operator has every one.
    Role(&'static [Role]),
}

use Needs::Role as Any;
use Role::{Ingest, Operator, Orchestrator, Reader};

const HEALTH: [&str; 2] = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];
const REFLECTION: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Every call of the contract, by its path. Of RateWindow an orchestrator gets routine runs alone,
/// which the call itself looks at (`grpc/rating.rs`).
const TABLE: &[(&str, Needs)] = &[
    ("/rating.v1.EventService/RecordEvents", Any(&[Ingest])),
    ("/rating.v1.RatingService/RateWindow", Any(&[Orchestrator])),
    ("/rating.v1.RatingService/GetRun", Any(&[Orchestrator])),
    ("/rating.v1.RatingService/ListRuns", Any(&[Orchestrator])),
    ("/rating.v1.RatingService/WatchRun", Any(&[Orchestrator])),
    ("/rating.v1.RatingService/GetRatedUsage", Any(&[Reader])),
    ("/rating.v1.RatingService/SummarizeRatedUsage", Any(&[Reader])),
    ("/rating.v1.RatingService/StreamRatedUsageChanges", Any(&[Reader])),
    ("/rating.v1.RatingService/CancelRun", Any(&[Operator])),
    ("/rating.v1.RatingService/ListAnomalies", Any(&[Operator])),
    ("/rating.v1.RatingService/GetPricebook", Any(&[Operator])),
    ("/rating.v1.RatingService/ValidatePricebook", Any(&[Operator])),
];

/// The calls that go on telling.
const STREAMS: [&str; 2] =
    ["/rating.v1.RatingService/WatchRun", "/rating.v1.RatingService/StreamRatedUsageChanges"];

/// Whether a call's answer goes on: its caller is looked at again meanwhile, and it has the time of a
/// stream.
pub fn is_stream(path: &str) -> bool {
    STREAMS.contains(&path)
}

/// What a call needs, by its exact path; none where there is no such call.
pub fn needs(path: &str, open: Open) -> Option<Needs> {
    if open.health && HEALTH.contains(&path) || open.reflection && REFLECTION.contains(&path) {
        return Some(Needs::Nothing);
    }
    TABLE.iter().find(|(known, _)| *known == path).map(|(_, needs)| *needs)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::proto::DESCRIPTOR_SET;

    #[test]
    fn every_rpc_of_the_contract_has_its_line_and_no_line_is_for_nothing() {
        let set = FileDescriptorSet::decode(DESCRIPTOR_SET).expect("a descriptor set");
        let ours = set.file.iter().filter(|file| file.package() == "rating.v1");
        let services = ours.flat_map(|file| &file.service);
        let mut served: Vec<String> = services
            .flat_map(|service| {
                let path = |method: &prost_types::MethodDescriptorProto| {
                    let path = format!("/rating.v1.{}/{}", service.name(), method.name());
                    assert_eq!(is_stream(&path), method.server_streaming(), "{path}");
                    path
                };
                service.method.iter().map(path).collect::<Vec<_>>()
            })
            .collect();
        let mut known: Vec<_> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
        served.sort();
        known.sort();
        assert_eq!(known, served);
        assert_eq!(served.len(), 12);
    }

    #[test]
    fn a_path_that_is_written_otherwise_is_none() {
        for path in [
            "/rating.v1.RatingService/getrun",
            "/rating.v1.RatingService/GetRun/",
            "//rating.v1.RatingService/GetRun",
            "/rating.v1.RatingService/%47etRun",
            "/rating.v1.RatingService/../RatingService/GetRun",
            "/Rating.v1.RatingService/GetRun",
            "rating.v1.RatingService/GetRun",
            "/grpc.health.v1.Health/",
            "",
        ] {
            assert_eq!(needs(path, Open { health: true, reflection: true }), None, "{path}");
        }
    }
}
