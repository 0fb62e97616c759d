//! Who checks the checkers? For each rule something wrong that was made on purpose, which the rule rejects, and beside it something right of the same
//! kind, which it accepts. A rule in the sources without such a pair fails a test here.
//!
//! `quiet` makes the world in which single things are made wrong; `books` has the rules that judge by books of their own, `budgets` those of memory and log, `driving` those of the driver,
//! disks and machines, `votes`, `leading` and `requests` those of conduct.

mod books;
mod budgets;
mod driving;
mod leading;
mod quiet;
mod requests;
mod votes;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;

use crate::Violation;
use quiet::Quiet;

type Judged = Result<(), Violation>;

/// A rule, and what shows that it can be broken and can hold.
struct Shown {
    rule: &'static str,
    right: fn(&mut Quiet) -> Judged,
    wrong: fn(&mut Quiet) -> Judged,
}

/// One line of a table.
const fn shown(
    rule: &'static str,
    right: fn(&mut Quiet) -> Judged,
    wrong: fn(&mut Quiet) -> Judged,
) -> Shown {
    Shown { rule, right, wrong }
}

/// Whatever a judgement says beside its verdict is not looked at.
fn verdict<T: Debug>(judged: Result<T, Violation>) -> Judged {
    judged.map(|_| ())
}

fn tables() -> impl Iterator<Item = &'static Shown> {
    [books::SHOWN, budgets::SHOWN, driving::SHOWN, votes::SHOWN, leading::SHOWN, requests::SHOWN]
        .into_iter()
        .flatten()
}

#[test]
fn every_rule_rejects_what_is_wrong_and_accepts_what_is_right() {
    for Shown { rule, right, wrong } in tables() {
        assert_eq!(right(&mut quiet::world()), Ok(()), "what is right of {rule:?}");
        let broken = wrong(&mut quiet::world()).map_err(|violation| violation.rule);
        assert_eq!(broken, Err(*rule), "what is wrong of {rule:?}");
    }
}

/// The names of all rules in a source, tests left out: what `broken` is given, or a violation that is made by hand.
fn rules_in(file: &str, text: &str) -> BTreeSet<String> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let literal = |after: &str| after.strip_prefix('"')?.split('"').next().map(str::to_owned);
    let mut found = BTreeSet::new();
    for after in text.split("broken(").skip(1).map(str::trim_start) {
        let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let constant = format!("const {name}: &str = ");
        let declared = text.split(&constant).nth(1).and_then(literal);
        let rule = literal(after).or(declared);
        found.insert(rule.unwrap_or_else(|| panic!("{file}: a rule by no name: {name}")));
    }
    found.extend(text.split("Violation { rule: ").skip(1).filter_map(literal));
    found
}

/// Tests are not searched: they break rules of their own.
fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "rejected" {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|it| it == "rs") && !name.ends_with("tests.rs") {
            found.push((name, std::fs::read_to_string(&path).expect("a source")));
        }
    }
    found
}

/// The rules that stand in the sources and are shown nowhere, and those that are shown and stand nowhere.
fn differences(rules: &BTreeSet<String>, shown: &BTreeSet<String>) -> (Vec<String>, Vec<String>) {
    (rules.difference(shown).cloned().collect(), shown.difference(rules).cloned().collect())
}

#[test]
fn no_rule_is_without_a_test_that_it_rejects() {
    let all = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let rules: BTreeSet<String> =
        all.iter().flat_map(|(name, text)| rules_in(name, text)).collect();
    assert!(rules.len() > 80, "{} rules: is the search broken?", rules.len());
    let shown = tables().map(|shown| shown.rule.to_owned()).collect();
    let (unshown, unknown) = differences(&rules, &shown);
    assert!(unshown.is_empty(), "nothing shows that these reject anything: {unshown:#?}");
    assert!(unknown.is_empty(), "no source has these rules any more: {unknown:#?}");
}

/// The test above can fail: the search sees every way in which a rule is named.
#[test]
fn a_rule_that_nobody_shows_is_found() {
    let text = "const RULE: &str = \"by a constant\";\nreturn broken(RULE, detail);\n\
        broken(\n    \"by itself\",\n    detail)\nViolation { rule: \"by hand\", detail }\n\
        #[cfg(test)]\nmod tests {\nbroken(\"only in a test\", detail)";
    let rules = rules_in("a.rs", text);
    let expected = ["by a constant", "by hand", "by itself"].map(str::to_owned);
    assert_eq!(rules, BTreeSet::from(expected.clone()));
    let shown = BTreeSet::from(["by hand".to_owned(), "by itself".to_owned(), "old".to_owned()]);
    assert_eq!(differences(&rules, &shown), (vec![expected[0].clone()], vec!["old".to_owned()]));
}
