use super::*;

fn wrong(text: &str) -> Vec<(&'static str, u32, u32)> {
    let found = Mapping::parse(text, FilePath::new("/etc/rater")).expect_err("refused");
    found.iter().map(|d| (d.code, d.line, d.column)).collect()
}

#[test]
fn names_and_roles_are_read_and_the_keys_file_stands_beside_the_mapping() {
    let text = r#"version: 1
jwt: {issuer: "https://issuer.example", audience: "rater", jwks: jwks.json}
callers:
  - {uri: "spiffe://prod/ns/billing/sa/orchestrator", roles: [orchestrator, reader]}
  - dns: proxy.billing.internal
    roles: [ingest]
  - {subject: "alice@example.com", roles: [operator]}
"#;
    let mapping = Mapping::parse(text, FilePath::new("/etc/rater")).expect("good");
    let jwt = mapping.jwt.clone().expect("an issuer");
    assert_eq!((jwt.issuer.as_str(), jwt.audience.as_str()), ("https://issuer.example", "rater"));
    assert_eq!(jwt.jwks, FilePath::new("/etc/rater/jwks.json"));
    let roles = |name: Name| mapping.callers.get(&name).cloned();
    assert_eq!(
        roles(Name::Uri("spiffe://prod/ns/billing/sa/orchestrator".into())),
        Some(vec![Role::Orchestrator, Role::Reader])
    );
    assert_eq!(roles(Name::Dns("proxy.billing.internal".into())), Some(vec![Role::Ingest]));
    assert_eq!(roles(Name::Subject("alice@example.com".into())), Some(vec![Role::Operator]));
    // A name of one kind is none of another.
    assert_eq!(roles(Name::Uri("alice@example.com".into())), None);
    assert!(mapping.has_certificates());
}

#[test]
fn everything_that_is_wrong_is_told_at_once_with_its_place() {
    let text = r#"version: 2
jwt: {issuer: "", jwks: jwks.json}
callers:
  - {uri: "a", dns: "b", roles: [reader]}
  - {roles: [reader]}
  - {uri: "c", roles: [reader, boss, reader]}
  - {uri: "c", roles: []}
  - {dns: "c"}
  - {uri: " d", rolls: [reader]}
  - {uri: "e\0f", roles: [reader]}
extra: 1
"#;
    assert_eq!(
        wrong(text),
        [
            ("unknown_version", 1, 10),
            ("missing_key", 2, 1),
            ("bad_name", 2, 15),
            ("caller_name", 4, 5),
            ("caller_name", 5, 5),
            ("unknown_role", 6, 32),
            ("duplicate_role", 6, 38),
            ("duplicate_caller", 7, 5),
            ("missing_roles", 7, 16),
            ("duplicate_caller", 8, 5),
            ("missing_roles", 8, 5),
            ("missing_roles", 9, 5),
            ("bad_name", 9, 11),
            ("unknown_key", 9, 17),
            ("bad_name", 10, 11),
            ("unknown_key", 11, 1),
        ]
    );
}

#[test]
fn a_file_that_lets_nobody_in_or_is_none_is_refused() {
    assert_eq!(wrong("")[0].0, "empty_document");
    assert_eq!(wrong("version: 1\n")[0].0, "missing_callers");
    assert_eq!(wrong("version: 1\ncallers: []\n")[0].0, "missing_callers");
    assert_eq!(wrong("version: 1\ncallers: {a: b}\n")[0].0, "bad_type");
    assert_eq!(wrong("version: 1\nversion: 1\ncallers: [{uri: a, roles: [reader]}]")[0].0, "duplicate_key");
    assert_eq!(wrong("version: 1\ncallers: [{subject: a, roles: [reader]}]")[0].0, "missing_jwt");
    assert_eq!(wrong("version: 1\ncallers: [{uri: a, uri: b, roles: [reader]}]")[0].0, "duplicate_key");
    let anchored = "version: 1\ncallers: [{uri: a, roles: &r [reader]}, {uri: b, roles: *r}]";
    let codes: Vec<_> = wrong(anchored).iter().map(|(code, ..)| *code).collect();
    assert!(codes.contains(&"anchor") && codes.contains(&"alias"), "{codes:?}");
}
