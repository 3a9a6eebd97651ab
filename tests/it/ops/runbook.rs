//! The runbook: a section for each alert that says what it means, how to look and what to do, in
//! commands that this build has.

use std::collections::BTreeMap;

use super::{rules, text};
use crate::harness::run;

/// Every section, by its heading.
fn sections() -> BTreeMap<String, String> {
    let book = text("docs/RUNBOOK.md");
    let parts = book.split("\n## ").skip(1);
    parts.map(|part| part.split_once('\n').unwrap()).map(|(name, said)| (name.into(), said.into())).collect()
}

#[test]
fn every_alert_has_a_section_that_says_what_it_means_how_to_look_and_what_to_do() {
    let sections = sections();
    assert!(sections.keys().eq(rules::alerts().iter()), "{:?}\n{:?}", sections.keys(), rules::alerts());
    for (alert, said) in &sections {
        assert!(said.contains("**Means.**"), "{alert} does not say what it means");
        let whole = said.contains("**Look.**") && said.contains("**Do.**");
        // A short one names another that does.
        let mut others = sections.iter().filter(|(name, said)| *name != alert && said.contains("**Do.**"));
        let named = others.any(|(name, _)| said.contains(&format!("for {name}")));
        assert!(whole || named, "{alert} does not say how to look and what to do");
    }
    // What is named is there.
    for (alert, said) in &sections {
        for word in said.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| w.starts_with("Rater")) {
            assert!(sections.contains_key(word), "{alert} names {word}");
        }
    }
}

/// What the runbook has somebody type, each to its first pipe or separator, without its prompt.
fn commands() -> Vec<String> {
    let book = text("docs/RUNBOOK.md");
    let typed = book.lines().filter_map(|line| line.strip_prefix("$ "));
    let inline = book.lines().filter(|line| !line.starts_with("$ ")).flat_map(|line| {
        line.split('`').skip(1).step_by(2).filter(|quoted| quoted.starts_with("rater ")).collect::<Vec<_>>()
    });
    let all = typed.chain(inline).map(|line| line.split(" | ").next().unwrap().to_owned());
    let ours =
        all.map(|line| line.split_once(IN_A_POD).map_or(line.clone(), |(_, said)| format!("rater {said}")));
    ours.filter(|line| line.starts_with("rater ")).collect()
}

/// How a command runs where the database is reached.
const IN_A_POD: &str = "kubectl -n billing exec deploy/rater -- /rater ";

#[test]
fn what_the_runbook_has_somebody_type_does_what_it_is_for() {
    let book = text("docs/RUNBOOK.md");
    let typed = || book.lines().filter_map(|line| line.strip_prefix("$ "));
    for line in typed().filter(|line| line.contains(" logs -l ")) {
        // By a selector, kubectl tells ten lines, and those of jobs beside the service's.
        assert!(line.contains("app.kubernetes.io/component=service"), "{line}");
        assert!(line.contains(" --tail=-1") && !line.contains("--previous"), "{line}");
    }
    for line in typed().filter(|line| line.contains(" create job ")) {
        // The job's name is the run's request id, which finds the run that there was for a day.
        assert!(line.ends_with("-$(date +%s)"), "{line}");
    }
    // Nobody but the pods reaches the database.
    for command in ["audit", "migrate", "retention"] {
        let direct = format!("rater {command} ");
        assert!(!typed().any(|line| format!("{line} ").starts_with(&direct)), "{direct}");
        assert!(typed().any(|line| line.starts_with(&format!("{IN_A_POD}{command}"))), "{command}");
    }
}

/// Words as a shell takes them.
pub fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), None, false);
    for c in line.chars() {
        match (quoted, c) {
            (Some(quote), c) if quote == c => quoted = None,
            (None, '"' | '\'') => (quoted, begun) = (Some(c), true),
            (None, ' ') => {
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (_, c) => word.push(c),
        }
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    words
}

/// What this build says to a command line, which it does not carry out.
pub fn understood(arguments: &[&str]) -> Result<(), String> {
    let asked: Vec<&str> = arguments.iter().copied().chain(["--help"]).collect();
    let output = run("", &asked);
    if output.code() == Some(0) { Ok(()) } else { Err(output.stderr) }
}

#[test]
fn every_command_of_the_runbook_is_one_of_this_build() {
    let commands = commands();
    assert!(commands.len() > 40, "only {} were found", commands.len());
    for command in commands {
        let words = words(&command);
        let arguments: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        if let Err(said) = understood(&arguments) {
            panic!("{command}: {said}");
        }
    }
}

#[test]
fn a_command_that_does_not_exist_would_be_seen() {
    assert_eq!(
        words(r#"rater rate --reason "of 1 June" x"#),
        ["rater", "rate", "--reason", "of 1 June", "x"]
    );
    assert!(understood(&["runs", "list", "--limit", "5"]).is_ok());
    for wrong in [&["runs", "lists"][..], &["runs", "list", "--last", "5"], &["runs", "list", "--limit", "x"]]
    {
        assert!(understood(wrong).is_err(), "{wrong:?}");
    }
}
