//! Values of one interval, kept as a log. A dense histogram has 25 KiB; 15 s at 10 Hz are 600 bytes here.

use optipod_common::histogram::UsageHistogram;

/// The values of one series since the last frame.
#[derive(Debug)]
pub struct SeriesLog {
    slot_millis: u32,
    /// Units of the series. 2^32 - 1 units are 429,000 cores or 256 TiB.
    values: Vec<u32>,
}

impl SeriesLog {
    /// An empty log with room for the values of one interval.
    pub fn new(slot_millis: u32, expected: usize) -> Self {
        Self { slot_millis, values: Vec::with_capacity(expected) }
    }

    /// Adds one value.
    pub fn push(&mut self, value: u64) {
        self.values.push(u32::try_from(value).unwrap_or(u32::MAX));
    }

    /// The histogram of the interval. The log is empty after it, and keeps its memory.
    pub fn take(&mut self) -> UsageHistogram {
        let histogram =
            UsageHistogram::from_values(self.slot_millis, self.values.iter().map(|v| u64::from(*v)));
        self.values.clear();
        histogram
    }

    /// Values are about slots of another length from now on. Only an empty log can change.
    pub fn set_slot_millis(&mut self, slot_millis: u32) {
        debug_assert!(self.values.is_empty(), "slots of different length never merge");
        self.slot_millis = slot_millis;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_a_log_empties_it() {
        let mut log = SeriesLog::new(100, 2);
        log.push(7);
        log.push(u64::MAX);
        let taken = log.take();
        assert_eq!((taken.count(), taken.max(), taken.slot_millis()), (2, u64::from(u32::MAX), 100));
        assert!(log.take().is_empty());
        log.set_slot_millis(500);
        assert_eq!(log.take().slot_millis(), 500);
    }
}
