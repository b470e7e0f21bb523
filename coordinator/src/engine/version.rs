//! Which version of a strategy's algorithm acts: the one that is pinned. A new version shows what it would do first.

use optipod_common::policy::Policy;

use crate::api::v1alpha1::{OptimizationPolicyStatus, StrategyRef};
use crate::recommendations::kind_of;

/// The version that acts, or that acted last: what the policy's status says, until this coordinator's own may act.
pub fn pinned(policy: &Policy, status: &OptimizationPolicyStatus) -> StrategyRef {
    let acts = shadow(policy, status).is_none();
    let version = acted(policy, status).filter(|_| !acts).unwrap_or(current(policy));
    StrategyRef { kind: kind_of(&policy.strategy), version }
}

/// The version of the policy's strategy that its status names.
fn acted(policy: &Policy, status: &OptimizationPolicyStatus) -> Option<i32> {
    let before = status.strategy.as_ref().filter(|before| before.kind == kind_of(&policy.strategy));
    before.map(|before| before.version)
}

/// Why the policy's strategy only shows what it would do, when it does: another version is pinned.
pub fn shadow(policy: &Policy, status: &OptimizationPolicyStatus) -> Option<String> {
    let kind = kind_of(&policy.strategy);
    let said = policy.strategy_version.map(|version| i32::try_from(version).unwrap_or(i32::MAX));
    let current = current(policy);
    let version = said.or(acted(policy, status)).unwrap_or(current);
    (version != current).then(|| {
        format!(
            "version {version} of strategy {kind:?} is pinned and this coordinator has version {current}: \
             spec.strategy.version: {current} lets it act"
        )
    })
}

/// The version that this coordinator has.
pub fn current(policy: &Policy) -> i32 {
    i32::try_from(policy.strategy.version()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use optipod_common::policy::{Objective, Strategy};

    use super::*;
    use crate::api::v1alpha1::StrategyType;

    fn status(kind: StrategyType, version: i32) -> OptimizationPolicyStatus {
        OptimizationPolicyStatus {
            strategy: Some(StrategyRef { kind, version }),
            ..OptimizationPolicyStatus::default()
        }
    }

    #[test]
    fn the_first_evaluation_pins_and_later_ones_keep() {
        let policy = Policy::default();
        let first = pinned(&policy, &OptimizationPolicyStatus::default());
        assert_eq!(first, StrategyRef { kind: StrategyType::Percentile, version: current(&policy) });
        assert_eq!(pinned(&policy, &status(StrategyType::Percentile, 7)).version, 7);
    }

    #[test]
    fn another_version_than_the_pinned_one_only_shows() {
        let policy = Policy::default();
        assert_eq!(shadow(&policy, &OptimizationPolicyStatus::default()), None);
        assert_eq!(shadow(&policy, &status(StrategyType::Percentile, current(&policy))), None);
        let text = shadow(&policy, &status(StrategyType::Percentile, 7)).unwrap();
        assert!(text.contains("version 7") && text.contains("spec.strategy.version: "), "{text}");
    }

    #[test]
    fn a_version_that_never_acted_is_not_pinned() {
        let wrong = Policy { strategy_version: Some(7), ..Policy::default() };
        let first = pinned(&wrong, &OptimizationPolicyStatus::default());
        assert_eq!(first.version, current(&wrong), "the mistake is not remembered");
        assert_eq!(shadow(&Policy::default(), &status(StrategyType::Percentile, first.version)), None);
        // and what acted before stays pinned beside it
        assert_eq!(pinned(&wrong, &status(StrategyType::Percentile, 3)).version, 3);
    }

    #[test]
    fn people_decide() {
        let mut policy = Policy::default();
        policy.strategy_version = Some(policy.strategy.version());
        assert_eq!(shadow(&policy, &status(StrategyType::Percentile, 7)), None);
        policy.strategy_version = Some(9);
        assert!(shadow(&policy, &OptimizationPolicyStatus::default()).is_some());
        // another strategy was never pinned
        let adaptive = Policy { strategy: Strategy::Adaptive(Objective::default()), ..Policy::default() };
        assert_eq!(shadow(&adaptive, &status(StrategyType::Percentile, 7)), None);
    }
}
