//! Bounds of what is possible: a size that never moves, and one that knows the next hour.

use std::{collections::VecDeque, time::Duration};

use optipod_common::replay::{Observation, Replayed, Rule, Trace};

/// Never asks for anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Static;

impl Rule for Static {
    fn observe(&mut self, _seen: &Observation) -> Option<u64> {
        None
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// The size of each sample is the highest use of the hour that begins with it.
pub fn oracle(trace: &Trace) -> Replayed {
    let mut sizes = vec![0; trace.samples.len()];
    // indexes of samples within the hour, highest use first
    let mut ahead: VecDeque<usize> = VecDeque::new();
    for (index, &(start, used)) in trace.samples.iter().enumerate().rev() {
        let value = |at: usize| trace.samples.get(at).map_or(0, |(_, used)| *used);
        let beyond = |at: usize| trace.samples.get(at).is_none_or(|(time, _)| *time >= start + HOUR);
        while ahead.front().is_some_and(|at| beyond(*at)) {
            ahead.pop_front();
        }
        while ahead.back().is_some_and(|at| value(*at) <= used) {
            ahead.pop_back();
        }
        ahead.push_back(index);
        if let (Some(size), Some(front)) = (sizes.get_mut(index), ahead.front()) {
            *size = value(*front);
        }
    }
    let resizes = sizes.windows(2).zip(1..).filter(|(pair, _)| pair.first() != pair.last());
    let resizes = resizes.map(|(_, sample)| sample).collect();
    Replayed { sizes, oom_kills: Vec::new(), resizes }
}

#[cfg(test)]
mod tests {
    use optipod_common::time::Timestamp;

    use super::*;

    #[test]
    fn the_oracle_is_the_highest_of_the_next_hour() {
        let values = [1, 5, 2, 2, 9, 1, 1];
        let start = Timestamp::from_unix_seconds(0);
        let step = Duration::from_secs(1800);
        let samples = values.iter().zip(0_u32..).map(|(value, n)| (start + step * n, *value)).collect();
        assert_eq!(oracle(&Trace { step, samples }).sizes, [5, 5, 2, 9, 9, 1, 1]);
    }
}
