//! One run that can be repeated: a seed and a plan. A seed alone draws its plan; a plan file has both, so that a run can be made smaller, handed
//! on and kept.

use serde::{Deserialize, Serialize};

use crate::outcome::{fingerprint, run_standard};
use crate::{ClientPlan, Observer, Outcome, Plan, Rng};

/// A run: the plan, and the seed that everything else comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Decides everything that the plan leaves open.
    pub seed: u64,
    /// The shape of the run.
    pub plan: Plan,
}

/// Why a plan file can not be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaseError {
    /// It is not the text of a plan.
    #[error("this is no plan file: {0}")]
    Text(String),
    /// A value that no run could have.
    #[error("the plan can not be run: {what} is {value}; {must}")]
    Value {
        /// Of what.
        what: &'static str,
        /// Which.
        value: u64,
        /// What it must be.
        must: &'static str,
    },
    /// The core refuses its settings.
    #[error("the plan can not be run: {0}")]
    Config(String),
}

/// The text of a plan file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseText {
    seed: Seed,
    plan: Plan,
}

/// TOML's numbers end at 2^63.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Seed {
    Number(i64),
    Text(String),
}

/// Runs are small: more nodes than this would say nothing more.
const NODES_MAX: u64 = 32;
/// No time in a plan is longer than this: an hour.
const TIME_US_MAX: u64 = 3_600_000_000;

impl Case {
    /// What a seed stands for.
    pub fn of_seed(seed: u64) -> Case {
        Case { seed, plan: Plan::draw(&mut Rng::new(seed)) }
    }

    /// What a seed stands for where dense traffic is asked for.
    pub fn dense(seed: u64) -> Case {
        Case { seed, plan: Plan::draw_dense(&mut Rng::new(seed)) }
    }

    /// The chance of the run itself: what the seed gives after the plan was drawn from it.
    pub(crate) fn rng(&self) -> Rng {
        let mut rng = Rng::new(self.seed);
        let _ = Plan::draw(&mut rng);
        rng
    }

    /// Runs it with the standard machine, and tells `observer` of every moment.
    pub fn run(&self, observer: Option<Observer<'_>>) -> Outcome {
        run_standard(self, observer)
    }

    /// A hash over everything that a run of it does: the whole of every input and action of every node, all counts, and how it ends. Two runs must have the same.
    pub fn fingerprint(&self) -> u64 {
        fingerprint(self)
    }

    /// The text of its plan file: TOML.
    pub fn to_text(&self) -> String {
        let seed = i64::try_from(self.seed).map_or(Seed::Text(self.seed.to_string()), Seed::Number);
        let text = CaseText { seed, plan: self.plan.clone() };
        // Every value of a plan is a number, a flag, or a list or table of them.
        toml::to_string_pretty(&text).unwrap_or_else(|error| format!("# {error}\n"))
    }

    /// Reads a plan file.
    ///
    /// # Errors
    /// [`CaseError`], if it is none, or describes a run that can not be.
    pub fn from_text(text: &str) -> Result<Case, CaseError> {
        let error = |error: toml::de::Error| CaseError::Text(error.to_string());
        let CaseText { seed, plan } = toml::from_str(text).map_err(error)?;
        let seed = match seed {
            Seed::Number(number) => u64::try_from(number).ok(),
            Seed::Text(text) => text.parse().ok(),
        };
        let seed = seed.ok_or_else(|| CaseError::Text("its seed is no number".to_owned()))?;
        validate(&plan)?;
        Ok(Case { seed, plan })
    }
}

/// Whether a plan from outside can be run: it keeps to bounds, and the core takes its settings.
fn validate(plan: &Plan) -> Result<(), CaseError> {
    let check = |what, value: u64, low: u64, high: u64, must| {
        if (low..=high).contains(&value) {
            Ok(())
        } else {
            Err(CaseError::Value { what, value, must })
        }
    };
    check("voters", plan.voters, 1, NODES_MAX, "1 to 32")?;
    let nodes = plan.voters.saturating_add(plan.spares);
    check("voters and spares", nodes, 1, NODES_MAX, "at most 32")?;
    let has_places = plan.priorities.len() as u64;
    check("the number of priorities", has_places, nodes, nodes, "one for each node")?;
    let weight = plan.weights.iter().fold(0u64, |sum, weight| sum.saturating_add(*weight));
    check("the sum of the weights", weight, 0, 1_000_000, "at most a million")?;
    check("client.every_us", plan.client.every_us, 1, TIME_US_MAX, "1 to 3600000000")?;
    check("client.batch_max", plan.client.batch_max, 1, 10_000, "1 to 10000")?;
    let bytes = plan.client.command_bytes_max;
    check("client.command_bytes_max", bytes, 0, 1 << 20, "at most 1048576")?;
    let client = &plan.client;
    check("client.keys", client.keys, 1, ClientPlan::KEYS_MAX, "1 to 8")?;
    check("client.sessions", client.sessions, 1, 1_000, "1 to 1000")?;
    check("client.pipeline_max", client.pipeline_max, 1, 1_000, "1 to 1000")?;
    check("client.sessions_max", client.sessions_max, 1, 10_000, "1 to 10000")?;
    check("network.chunks", plan.network.chunks, 1, 1_000, "1 to 1000")?;
    check("network.chunks_in_flight", plan.network.chunks_in_flight, 1, 1_000, "1 to 1000")?;
    check("network.damage", plan.network.damage, 0, 1_000, "at most 1000")?;
    check("drift", plan.drift, 0, 1000, "at most 1000")?;
    for (what, value) in [
        ("config.election_timeout_us", plan.election_us()),
        ("chaos_us", plan.chaos_us),
        ("apply_us", plan.apply_us),
        ("install_us", plan.install_us),
        ("network.stream_us", plan.network.stream_us),
        ("fault_every_us", plan.fault_every_us),
        ("fault_us", plan.fault_us),
        ("operate_every_us", plan.operate_every_us),
        ("network.delay_us", plan.network.delay_us),
        ("network.straggle_us", plan.network.straggle_us),
        ("disk.write_us", plan.disk.write_us),
        ("disk.notice_us", plan.disk.notice_us),
    ] {
        check(what, value, 0, TIME_US_MAX, "at most an hour, 3600000000")?;
    }
    for priority in &plan.priorities {
        let config = raft_core::Config { priority: *priority, ..plan.config.clone() };
        config.validate().map_err(|error| CaseError::Config(error.to_string()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_file_holds_all_of_a_case() {
        for seed in (0..200).chain([u64::MAX, 1 << 63]) {
            for case in [Case::of_seed(seed), Case::dense(seed)] {
                let text = case.to_text();
                assert_eq!(Case::from_text(&text).as_ref(), Ok(&case), "{text}");
            }
        }
    }

    #[test]
    fn a_case_from_its_file_runs_as_the_seed_does() {
        let case = Case::from_text(&Case::of_seed(7).to_text()).expect("a plan");
        assert_eq!(case.run(None).hash, crate::run_seed(7).hash);
    }

    #[test]
    fn what_can_not_be_run_is_refused() {
        let refused = |from: &str, to: &str| {
            let text = Case::of_seed(7).to_text();
            assert!(text.contains(from), "no {from:?} in {text}");
            Case::from_text(&text.replacen(from, to, 1)).expect_err(to).to_string()
        };
        let text = Case::of_seed(7).to_text();
        let voters = text.lines().find(|line| line.starts_with("voters")).expect("voters");
        assert!(refused(voters, "voters = 1000000").contains("voters is 1000000"));
        assert!(refused(voters, "voters = 0").contains("voters is 0"));
        assert!(refused(voters, "voters = -1").contains("no plan file"));
        assert!(refused(voters, "").contains("voters"));
        assert!(refused("seed = 7", "seed = 7\nmore = 1").contains("more"));
        assert!(refused("seed = 7", "seed = -7").contains("seed"));
        assert!(Case::from_text("").is_err());
        let keys = text.lines().find(|line| line.starts_with("keys")).expect("keys");
        assert!(refused(keys, "keys = 9").contains("client.keys is 9"));
        let kept = text.lines().find(|line| line.starts_with("sessions_max")).expect("a budget");
        assert!(refused(kept, "sessions_max = 0").contains("client.sessions_max is 0"));
    }

    /// Plan files from before plans had keys and sessions say nothing of them.
    #[test]
    fn an_old_plan_file_can_be_read() {
        let case = Case::of_seed(7);
        let new = ["keys = ", "sessions = ", "pipeline_max = ", "sessions_max = "];
        let text = case.to_text();
        let is_old = |line: &&str| !new.iter().any(|field| line.starts_with(field));
        let old: Vec<&str> = text.lines().filter(is_old).collect();
        assert_eq!(old.len() + new.len(), text.lines().count(), "{text}");
        let read = Case::from_text(&old.join("\n")).expect("a plan");
        let ClientPlan { keys, sessions, pipeline_max, sessions_max, .. } = read.plan.client;
        assert_eq!((keys, sessions, pipeline_max, sessions_max), (3, 4, 4, 10_000));
        let client = ClientPlan { keys, sessions, pipeline_max, sessions_max, ..case.plan.client };
        assert_eq!(read.plan, Plan { client, ..case.plan }, "and nothing else differs");
    }
}
