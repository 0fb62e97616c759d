//! The shrinker against rules that are wrong on purpose: what it keeps is what the rule needs, and no more.

use super::*;
use crate::Violation;

fn failure(case: &Case, rule: &'static str, at_us: u64) -> Failure {
    let violation = Violation { rule, detail: "on purpose".to_owned() };
    Failure { seed: case.seed, at_us, violation }
}

const EFFORT: Effort = Effort { tries: 4, runs_max: 2_000, jobs: 1 };

/// A seed whose plan has what the tests need.
fn case_with(is_wanted: impl Fn(&Plan) -> bool) -> Case {
    let all = (0..2000).map(Case::of_seed);
    all.into_iter().find(|case| is_wanted(&case.plan)).expect("such a plan")
}

#[test]
fn all_that_the_rule_does_not_need_goes() {
    let crash = 0;
    assert_eq!(Fault::ALL[crash].0, Fault::Crash);
    // It needs crashes, three voters and lost messages.
    let rule = |plan: &Plan| {
        plan.fault_every_us > 0
            && plan.weights[crash] > 0
            && plan.voters >= 3
            && plan.network.drop > 0
    };
    let case = case_with(|plan| {
        rule(plan) && { plan.voters == 7 && plan.spares > 0 && plan.client.forgets_sessions() }
    });
    let fails =
        |case: &Case| rule(&case.plan).then(|| failure(case, "made wrong", case.plan.chaos_us));
    let found = shrink(&case, EFFORT, &fails, &mut |_| {}).expect("it fails");
    let plan = &found.case.plan;
    assert!(rule(plan));
    assert_eq!((plan.voters, plan.spares, plan.priorities.len()), (3, 0, 3));
    assert_eq!(plan.weights.iter().filter(|weight| **weight > 0).count(), 1);
    assert_eq!((plan.operate_every_us, plan.network.duplicate, plan.disk.stall), (0, 0, 0));
    assert_eq!(plan.network.drop, 1);
    let client = &plan.client;
    assert_eq!((client.keys, client.sessions, client.pipeline_max), (1, 1, 1));
    assert!(!client.forgets_sessions());
    assert!(plan.config.lease.is_none() && plan.config.commit_groups.is_none());
    assert!(plan.chaos_us < case.plan.chaos_us);
    assert_eq!(Case::from_text(&found.case.to_text()).as_ref(), Ok(&found.case));
}

#[test]
fn another_rule_is_another_failure() {
    let case = case_with(|plan| plan.voters == 5);
    let fails = |case: &Case| {
        let rule = if case.plan.voters == 5 { "of five" } else { "of fewer" };
        Some(failure(case, rule, 10))
    };
    let found = shrink(&case, EFFORT, &fails, &mut |_| {}).expect("it fails");
    assert_eq!(found.case.plan.voters, 5);
    assert_eq!(found.failure.violation.rule, "of five");
}

#[test]
fn what_does_not_fail_is_not_shrunk_and_runs_are_bounded() {
    let case = Case::of_seed(3);
    assert!(shrink(&case, EFFORT, &|_| None, &mut |_| {}).is_none());
    let effort = Effort { runs_max: 20, ..EFFORT };
    let fails = |case: &Case| Some(failure(case, "always", 10));
    let found = shrink(&case, effort, &fails, &mut |_| {}).expect("it fails");
    assert!(found.runs < 40, "{}", found.runs);
}

/// A real run, with a rule that is broken on purpose: nobody may crash. The same on any number of threads.
#[test]
fn a_run_that_breaks_a_rule_shrinks_to_the_same_on_any_number_of_threads() {
    let fails = |case: &Case| {
        let mut crashed_at = None;
        case.run(Some(&mut |moment: crate::timeline::Moment| {
            if moment.text.starts_with("crashes") && crashed_at.is_none() {
                crashed_at = Some(moment.at_us);
            }
        }));
        crashed_at.map(|at_us| failure(case, "nobody crashes", at_us))
    };
    // A plan may allow crashes and its run have none.
    let mut cases = (0..50).map(Case::of_seed);
    let case = cases.find(|case| fails(case).is_some()).expect("somebody crashes");
    let effort = Effort { tries: 2, runs_max: 100, jobs: 1 };
    let mut told = 0;
    let found = shrink(&case, effort, &fails, &mut |_| told += 1).expect("it fails");
    assert_eq!(told, found.steps.len());
    assert!(found.case.plan.chaos_us <= case.plan.chaos_us);
    assert!(fails(&found.case).is_some(), "what was found still fails");
    assert_eq!(shrink(&case, effort, &fails, &mut |_| {}), Some(found.clone()));
    let on_three = Effort { jobs: 3, ..effort };
    let again = shrink(&case, on_three, &fails, &mut |_| {}).expect("it fails");
    assert_eq!((again.case, again.failure), (found.case, found.failure));
}
