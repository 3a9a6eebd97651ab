//! The document as YAML: what is refused before anything in it is understood.

use super::*;

#[test]
fn the_documented_example_is_valid_without_a_warning() {
    finds(EXAMPLE, &[]);
}

#[test]
fn an_empty_document_is_refused() {
    for empty in ["", "\n\n", "# only a comment\n", "---\n", "~\n", "null\n", "\u{feff}"] {
        finds(empty, &["1:1 empty_document"]);
    }
}

#[test]
fn a_document_that_is_not_a_mapping_is_refused() {
    finds("- 1\n", &["1:1 bad_type"]);
    finds("hello\n", &["1:1 bad_type"]);
}

#[test]
fn a_syntax_error_is_one_finding_at_its_place() {
    finds("version: 1\nbase_models: [\n", &["2:14 yaml_syntax"]);
    finds("version: 1\nbase_models: {a: 1]\n", &["2:14 yaml_syntax"]);
    finds("version: 1\n@: 1\n", &["2:1 yaml_syntax"]);
}

#[test]
fn what_was_found_before_a_syntax_error_is_told_too() {
    finds("version: 1\nversion: 1\nper: }\n", &["2:1 duplicate_key version", "3:6 yaml_syntax"]);
}

#[test]
fn control_characters_are_not_yaml() {
    finds("version: 1\0\nbase_models: {}\n", &["1:11 yaml_syntax"]);
    finds("version: 1 # \u{7}\n", &["1:14 yaml_syntax"]);
}

#[test]
fn duplicate_keys_are_refused_wherever_they_are() {
    finds(&with("per: 1\nper: 10\n"), &["5:1 duplicate_key per"]);
    let model = "  \"acme/large\": {prompt: \"0\", cached: \"0\", completion: \"0\"}\n";
    finds(&with(model), &[r#"4:3 duplicate_key base_models."acme/large""#]);
    finds(&prompt("\"1\", 'prompt': \"2\"", ""), &["3:20 duplicate_key base_models.m.prompt"]);
    finds(&with("extra: {a: {b: 1, b: 2}}\n"), &["4:1 unknown_key extra", "4:19 duplicate_key extra.a.b"]);
}

#[test]
fn anchors_and_aliases_are_refused_each() {
    let yaml = r#"version: 1
base_models:
  a: &a {prompt: &p "1", cached: *p, completion: *nowhere}
  b: *a
"#;
    finds(
        yaml,
        &[
            "3:6 anchor base_models.a",
            "3:18 anchor base_models.a.prompt",
            "3:34 alias base_models.a.cached",
            "3:50 alias base_models.a.completion",
            "4:6 alias base_models.b",
        ],
    );
}

#[test]
fn merge_keys_are_refused() {
    let yaml = "version: 1\nbase_models:\n  a: {<<: {prompt: \"1\"}, cached: \"0\", completion: \"0\"}\n";
    finds(yaml, &["3:3 missing_component base_models.a.prompt", r#"3:7 merge_key base_models.a."<<""#]);
}

#[test]
fn tags_are_refused() {
    finds(&prompt("!!str 0.1", ""), &["3:15 tag base_models.m.prompt"]);
    finds(&with("gpu_floor_rates: !gpus {}\n"), &["4:18 tag gpu_floor_rates"]);
}

#[test]
fn keys_are_texts() {
    finds(
        &with("gpu_floor_rates: {[a]: \"0\", {b: c}: \"0\", ~: \"0\"}\n"),
        &["4:19 bad_key gpu_floor_rates", "4:29 bad_key gpu_floor_rates", "4:42 bad_key gpu_floor_rates"],
    );
    // A quoted one is only a name.
    finds(&with("gpu_floor_rates: {\"null\": \"0\", '<<': \"0\", 123: \"0\"}\n"), &[]);
}

#[test]
fn a_second_document_is_refused() {
    finds(&with("---\nversion: 1\n"), &["4:1 multiple_documents"]);
    finds(&with("---\n"), &["4:1 multiple_documents"]);
    // One document with its markers is one document.
    finds(&format!("---\n{BOOK}...\n# end\n"), &[]);
}

#[test]
fn directives_are_refused() {
    finds(&format!("%YAML 1.1\n---\n{BOOK}"), &["1:1 directive"]);
}

#[test]
fn nesting_past_16_is_refused() {
    let nested = |n: usize| with(&format!("x: {}{}\n", "[".repeat(n), "]".repeat(n)));
    finds(&nested(15), &["4:1 unknown_key x"]);
    let path = format!("4:19 nested_too_deep x{}", "[0]".repeat(15));
    finds(&nested(16), &[&path]);
    assert!(findings(&nested(5_000)).iter().any(|f| f.contains("nested_too_deep")));
}

#[test]
fn more_than_a_mebibyte_is_refused() {
    let padded = |size: usize| format!("{BOOK}#{}", "x".repeat(size - BOOK.len() - 1));
    finds(&padded(MAX_BYTES), &[]);
    finds(&padded(MAX_BYTES + 1), &["1:1 too_large"]);
    let cut = ["x".repeat(MAX_BYTES).as_bytes(), b"\xc3"].concat();
    assert_eq!(parse_bytes(&cut).diagnostics[0].code, "too_large");
    assert_eq!(parse_bytes(padded(MAX_BYTES + 1).as_bytes()).diagnostics[0].code, "too_large");
}

#[test]
fn invalid_utf_8_is_refused_with_its_place() {
    let parsed = parse_bytes(b"version: 1\n# \xc3\xa9 \xff\n");
    let found: Vec<String> = parsed.diagnostics.iter().map(finding).collect();
    assert_eq!(found, ["2:5 invalid_utf8"]);
    assert_eq!(parsed.book, None);
}

#[test]
fn a_byte_order_mark_is_no_content() {
    let marked = format!("\u{feff}{BOOK}");
    assert_eq!(book(&marked).digest(), book(BOOK).digest());
    assert_eq!(book(&marked).yaml(), marked);
    assert_eq!(parse_bytes(marked.as_bytes()), parse(&marked));
    finds(
        "\u{feff}per: 3\n",
        &["1:1 missing_version version", "1:1 no_base_models base_models", "1:6 per_not_power_of_ten per"],
    );
    assert!(parse(&with("\u{feff}per: 1\n")).book.is_none(), "only the first is a mark");
}

#[test]
fn line_ends_of_all_systems_are_read() {
    let windows = format!("{}per: 3\r\n", BOOK.replace('\n', "\r\n"));
    finds(&windows, &["4:6 per_not_power_of_ten per"]);
    assert_eq!(book(&BOOK.replace('\n', "\r\n")).digest(), book(BOOK).digest());
}

#[test]
fn columns_count_characters() {
    finds(
        &prompt("\"1\", é: 1, ü: 2", ""),
        &["3:20 unknown_key base_models.m.\"é\"", "3:26 unknown_key base_models.m.\"ü\""],
    );
}
