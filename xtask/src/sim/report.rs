//! A failure, for a person: the command that reproduces it, the last moments of whom it concerns, and a diagram.

use std::path::PathBuf;

use anyhow::Context;
use raft_core::NodeId;
use raft_sim::timeline::{Moment, Window};
use raft_sim::{Case, Failure, Violation, diagram};

use super::SimArgs;

/// How many lines of the timeline are printed; the files have more.
const LINES: usize = 30;
/// How many moments before the failure are kept: for the timeline's file, and to know in which role everybody is.
const WINDOW: usize = 200_000;

/// Prints a failure, and writes its plan, timeline and diagram to files.
pub(super) fn show(args: &SimArgs, case: &Case, failure: &Failure, command: &str) {
    println!("\nFAILED seed {} at {} us: {}", failure.seed, failure.at_us, failure.violation.rule);
    for line in failure.violation.detail.lines() {
        println!("  {}", short(line.trim()));
    }
    println!("  reproduce: {command} --verbose");
    let mut window = Window::new(WINDOW);
    case.run(Some(&mut |moment| window.push(moment)));
    let nodes = concerned(&failure.violation);
    let name = if args.dense { "dense" } else { "seed" };
    match write(args, &format!("{name}-{}", failure.seed), case, failure, &window) {
        Ok(files) => {
            println!("  diagram:   {}", files.diagram.display());
            println!("  timeline:  {}", files.timeline.display());
            println!("  plan:      {}", files.plan.display());
        }
        Err(error) => println!("  no files: {error:#}"),
    }
    let whom = if nodes.is_empty() {
        "all nodes".to_owned()
    } else {
        let ids: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        format!("node {}", ids.join(", "))
    };
    println!("  the last of {whom} (times in milliseconds):");
    for moment in window.last_of(&nodes, LINES) {
        println!("  {}", short(&moment.to_string()));
    }
}

/// Where a failure was written.
struct Files {
    diagram: PathBuf,
    timeline: PathBuf,
    plan: PathBuf,
}

fn write(
    args: &SimArgs,
    name: &str,
    case: &Case,
    failure: &Failure,
    window: &Window,
) -> anyhow::Result<Files> {
    let folder = &args.out;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let path = |end: &str| folder.join(format!("{name}.{end}"));
    let (diagram, timeline, plan) = (path("svg"), path("txt"), path("toml"));
    let put = |path: &PathBuf, text: String| {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let moments: Vec<&Moment> = window.iter().collect();
    put(&diagram, diagram::draw(&failure.to_string(), &moments, args.rows))?;
    let lines = moments.iter().map(|moment| format!("{moment}\n"));
    put(&timeline, lines.collect())?;
    put(&plan, plan_text(case, failure))?;
    Ok(Files { diagram, timeline, plan })
}

/// A plan file that says what it is for.
pub(super) fn plan_text(case: &Case, failure: &Failure) -> String {
    let what: Vec<String> =
        failure.violation.to_string().lines().map(|line| format!("# {line}\n")).collect();
    format!(
        "# Fails at {} us by:\n{}# Run it with: cargo xtask sim --replay THIS-FILE\n\n{}",
        failure.at_us,
        what.concat(),
        case.to_text()
    )
}

/// The nodes that a failure names: "node 3 …".
pub(super) fn concerned(violation: &Violation) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = Vec::new();
    // What does not go on concerns all.
    let detail = if violation.rule == "liveness" { "" } else { &violation.detail };
    for part in detail.split("node ").skip(1) {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        if let Ok(id) = digits.parse() {
            nodes.push(NodeId(id));
        }
    }
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

/// A line that fits most screens.
fn short(line: &str) -> String {
    let most = 180;
    if line.chars().count() <= most {
        return line.to_owned();
    }
    line.chars().take(most).chain(['…']).collect()
}
