//! The image, as far as it can be read: what it is made from, and who runs in it. What it does is
//! tried by `make static`.

use super::text;

/// The file's instructions, continued lines joined.
fn instructions() -> Vec<String> {
    let file = text("Dockerfile").replace("\\\n", " ");
    let lines = file.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[test]
fn the_image_holds_one_static_program_that_is_not_root() {
    let instructions = instructions();
    let stages: Vec<&String> = instructions.iter().filter(|line| line.starts_with("FROM ")).collect();
    assert_eq!(stages.len(), 2, "{stages:?}");
    assert_eq!(stages[1], "FROM scratch");
    let last: Vec<&String> = instructions.iter().skip_while(|line| *line != "FROM scratch").collect();
    assert!(last.iter().any(|line| *line == "USER 65532:65532"), "{last:?}");
    assert!(last.iter().any(|line| *line == r#"ENTRYPOINT ["/rater"]"#), "{last:?}");
    assert!(!last.iter().any(|line| line.starts_with("RUN") || line.starts_with("ADD")), "{last:?}");
    let made = last.iter().filter(|line| line.starts_with("COPY")).count();
    assert_eq!(made, 2, "the program and the authorities, nothing else: {last:?}");
}

#[test]
fn the_image_is_pinned_and_built_as_make_static_builds() {
    let instructions = instructions();
    let from = instructions.iter().find(|line| line.starts_with("FROM ")).unwrap();
    let version = text("Cargo.toml");
    let oldest =
        version.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    let tag = from.split([' ', ':']).nth(2).unwrap();
    let parts =
        |text: &str| -> Vec<u32> { text.split(['.', '-']).map_while(|part| part.parse().ok()).collect() };
    assert_eq!(parts(tag).len(), 3, "{from} is not pinned to a version");
    assert!(parts(tag) >= parts(oldest), "{from} is older than {oldest}");
    // A name alone: which registry is the builder's to say.
    assert!(from.split(' ').nth(1).is_some_and(|image| !image.contains('/')), "{from}");
    assert!(instructions.iter().any(|line| line.contains("scripts/static.sh")));
    assert!(text("scripts/static.sh").contains("cargo build --locked --release"));
}

#[test]
fn nothing_but_the_source_gets_into_the_build() {
    let ignored = text(".dockerignore");
    let mut lines = ignored.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    assert_eq!(lines.next(), Some("*"), "what is not named stays outside");
    let named: Vec<&str> = lines.collect();
    for needed in ["!Cargo.toml", "!Cargo.lock", "!build.rs", "!src", "!proto", "!migrations", "!.sqlx"] {
        assert!(named.contains(&needed), "{needed} of {named:?}");
    }
}
