//! The command line, and that what fails says so.

use std::path::Path;

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: SimArgs,
}

fn parse(line: &str) -> Result<SimArgs, String> {
    let words = std::iter::once("sim").chain(line.split_whitespace());
    Line::try_parse_from(words).map(|line| line.args).map_err(|error| error.to_string())
}

#[test]
fn the_command_line_says_what_to_run() {
    let args = parse("").expect("nothing is needed");
    let other = SimArgs::default();
    assert_eq!((args.seeds, args.tries, args.failures), (other.seeds, other.tries, other.failures));
    assert_eq!((args.rows, args.out, args.corpus), (other.rows, other.out, other.corpus));
    assert_eq!(parse("--seeds 20 --start 5 --jobs 3").map(|args| args.jobs()), Ok(3));
    assert_eq!(parse("--seed 7 --verbose").map(|args| args.seed), Ok(Some(7)));
    assert_eq!(parse("--seed 7 --shrink --tries 3").map(|args| args.tries), Ok(3));
    assert!(parse("--replay a.toml --shrink").is_ok_and(|args| args.replay.is_some()));
    assert!(parse("--minutes 5 --dense").is_ok_and(|args| args.minutes == Some(5)));
    for wrong in [
        "--seed 7 --seeds 10",
        "--seed 7 --replay a.toml",
        "--minutes 5 --seed 7",
        "--minutes 5 --seeds 7",
        "--seed x",
        "--jobs 0",
        "--tries 5",
        "--seed 7 --shrink --verbose",
        "--dense --replay a.toml",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
    let sweep = parse("--seeds 1 --verbose").expect("it is parsed");
    assert!(run(&sweep).is_err_and(|error| error.to_string().contains("--seed N")));
}

/// A run that fails soon: its leases are none, since clocks run further apart than they allow for.
fn broken_plan() -> Option<Case> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../raft-sim/tests/leases.toml");
    let mut case = Case::from_text(&std::fs::read_to_string(file).ok()?).ok()?;
    case.plan.drift = 1000;
    case.plan.chaos_us = 6_000_000;
    let seeds = (0..60).map(|seed| Case { seed, ..case.clone() });
    seeds.into_iter().find(|case| case.run(None).failure.is_some())
}

fn args(folder: &Path) -> SimArgs {
    SimArgs {
        jobs: Some(2),
        out: folder.join("out"),
        corpus: folder.join("c.txt"),
        ..SimArgs::default()
    }
}

#[test]
fn a_run_that_fails_fails_the_command_and_leaves_what_a_person_needs() {
    let folder = tempfile::tempdir().expect("a folder");
    let case = broken_plan().expect("a plan that fails");
    let file = folder.path().join("broken.toml");
    std::fs::write(&file, case.to_text()).expect("a plan file");
    let args = SimArgs { replay: Some(file), ..args(folder.path()) };
    let error = run(&args).expect_err("it fails").to_string();
    assert!(error.contains(&format!("seed {}", case.seed)), "{error}");
    let out = |end: &str| {
        let path = args.out.join(format!("seed-{}.{end}", case.seed));
        std::fs::read_to_string(path).expect("a file")
    };
    assert!(out("svg").starts_with("<svg"));
    assert!(out("txt").lines().last().is_some_and(|line| line.contains("BROKEN")));
    assert_eq!(Case::from_text(&out("toml")), Ok(case.clone()));

    let smaller = SimArgs { shrink: true, tries: 2, ..args.clone() };
    run(&smaller).expect("it finds a smaller one");
    let small = args.out.join(format!("small-{}.toml", case.seed));
    let again = SimArgs { replay: Some(small), ..args };
    assert!(run(&again).is_err(), "what was found fails too");
}

#[test]
fn seeds_that_fail_fail_a_sweep_and_a_soak_notes_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = args(folder.path());
    let failure = raft_sim::Failure {
        seed: 12,
        at_us: 3,
        violation: raft_sim::Violation { rule: "two leaders", detail: "node 1 and node 3".into() },
    };
    assert!(sweep::verdict(1, &[]).is_ok());
    let error = sweep::verdict(5, std::slice::from_ref(&failure)).expect_err("it fails");
    assert_eq!(error.to_string(), "1 of 5 seeds failed: [12]");
    sweep::note_in_corpus(&args, &[]).expect("nothing");
    assert!(!args.corpus.exists(), "nothing failed");
    let other = raft_sim::Failure { seed: 1, ..failure.clone() };
    for _ in 0..2 {
        sweep::note_in_corpus(&args, &[failure.clone(), other.clone()]).expect("noted");
    }
    let dense = SimArgs { dense: true, ..args.clone() };
    sweep::note_in_corpus(&dense, std::slice::from_ref(&other)).expect("noted");
    let known = raft_sim::corpus::read(&args.corpus).expect("a corpus");
    let cases: Vec<&Case> = known.iter().map(|known| &known.case).collect();
    assert_eq!(cases, [&Case::of_seed(12), &Case::of_seed(1), &Case::dense(1)]);
    assert_eq!((&known[0].case, known[0].found.as_str()), (&Case::of_seed(12), "two leaders"));
    assert_eq!(report::concerned(&failure.violation).len(), 2);
}

#[test]
fn what_can_not_be_replayed_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    let args = SimArgs { replay: Some(file.clone()), ..args(folder.path()) };
    assert!(run(&args).is_err(), "there is none");
    for bytes in [&b"no plan"[..], b"\xff\xfe", b"raft-rec\x01", b""] {
        std::fs::write(&file, bytes).expect("a file");
        assert!(run(&args).is_err(), "{bytes:?}");
    }
}

#[test]
fn a_recording_is_lived_again_and_drawn() {
    use raft_core::recording::Recorder;
    use raft_core::{Config, Input, Instant, Membership, NodeId, Restored, Ticket};

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("node1.rec");
    let restored = Restored::founding(Membership::of_voters([NodeId(1)]));
    let mut recorder = Recorder::new(&Config::new(NodeId(1)), 7, Instant(0), &restored);
    recorder.drained();
    recorder.record(Instant(5_000_000), &Input::Timeout);
    recorder.drained();
    let honest = recorder.take();
    recorder.record(Instant(5_000_000), &Input::Persisted(Ticket(99)));
    let lie = recorder.take();

    let args = SimArgs { replay: Some(file.clone()), ..args(folder.path()) };
    std::fs::write(&file, &honest).expect("a file");
    run(&args).expect("it is lived again");
    let drawn = std::fs::read_to_string(args.out.join("node1.rec.svg")).expect("a diagram");
    assert!(drawn.contains("candidate t1"), "{drawn}");
    std::fs::write(&file, [honest, lie].concat()).expect("a file");
    let error = run(&args).expect_err("it was never asked for").to_string();
    assert!(error.contains("did not do what it did then"), "{error}");
    let smaller = SimArgs { shrink: true, ..args };
    assert!(run(&smaller).is_err(), "what happened can not be made smaller");
}

#[test]
fn a_sweep_that_did_too_little_fails() {
    let nothing = raft_sim::Coverage::default();
    assert!(gates::check_coverage(&nothing, gates::SEEDS_MIN - 1).is_ok(), "too few to judge");
    let error = gates::check_coverage(&nothing, gates::SEEDS_MIN).expect_err("nothing happened");
    let floor = gates::floor("one-way partitions", 2_000).expect("it has one");
    assert!(floor > 0 && error.to_string().contains("one-way partitions: 0, at least"));
    let mut some = raft_sim::Coverage::default();
    some.add("one-way partitions", floor);
    let short = |coverage, seeds| {
        let short = gates::check_coverage(coverage, seeds).expect_err("of others");
        short.to_string().contains("one-way partitions")
    };
    assert!(!short(&some, 2_000) && short(&some, 4_000), "floors grow with the seeds");
    let guesses = "histories explained by a guess";
    let mut many = raft_sim::Coverage::default();
    many.add(guesses, 91);
    let error = gates::check_coverage(&many, 2_000).expect_err("too many").to_string();
    assert!(error.contains("histories explained by a guess: 91, at most 90"), "{error}");
    assert!(gates::check_coverage(&many, gates::SEEDS_MIN - 1).is_ok(), "too few to judge");
    assert!(
        !gates::check_coverage(&many, 3_000).expect_err("of others").to_string().contains(guesses)
    );
}

/// The names in the table are those that worlds count.
#[test]
fn every_floor_is_of_something_that_happens() {
    let mut coverage = raft_sim::Coverage::default();
    for seed in 0..200 {
        coverage.merge(&Case::of_seed(seed).run(None).coverage);
    }
    let mut all = coverage;
    // Rarer than a few times in a thousand seeds. What befalls real stores has a test in raft-sim/tests/real.rs too.
    for rare in [
        "streams superseded",
        "crashes of real stores that kept what was under way",
        "crashes of real stores that lost what was under way",
        "real disks: bit flips",
        "real disks: misdirected writes",
        "real disks: stale pages",
        "real stores that found what they lost",
        "real disks: full",
        "real disks: syncs that lied",
        "real disks: garbage in pages",
        "real disks: torn sectors",
        "real disks: zeroed pages",
        "real stores that failed",
        "refused at start: WitnessStore",
    ] {
        all.add(rare, 1);
    }
    assert_eq!(gates::never(&all), Vec::<&str>::new());
}

#[test]
fn a_sweep_that_ran_out_of_time_fails() {
    assert!(sweep::check_number(5_000, 5_000).is_ok());
    let error = sweep::check_number(4_999, 5_000);
    assert!(error.is_err_and(|error| error.to_string().contains("only 4999 seeds")));
}

#[test]
fn a_seed_that_does_not_do_the_same_twice_is_named() {
    let cases = || (3..6).map(Case::of_seed);
    assert_eq!(gates::check_determinism(cases(), Case::fingerprint).ok(), Some(3));
    let calls = std::cell::Cell::new(0);
    let error = gates::check_determinism(cases(), |case| {
        calls.set(calls.get() + 1);
        if case.seed == 4 { calls.get() } else { 0 }
    });
    assert!(error.is_err_and(|error| error.to_string().contains("[4]")));
}
