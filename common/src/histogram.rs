//! Usage histograms: the grid of HdrHistogram with two significant digits, kept sparse.
//!
//! The grid is exact up to 255 and has 128 buckets per power of two above (relative width <= 0.78 %). It is
//! identical to `hdrhistogram::Histogram::new_with_bounds(1, max, 2)` and to H2 with grouping power 7, which a
//! property test holds against the crate. Merging is integer addition: associative, commutative, exact.

use std::cmp::Ordering;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::packed::{BitReader, BitWriter, Damaged, NoNumber, Pack, Reader, push_varint};

/// Highest value that the grid holds: 2^28 - 1 units (26 thousand cores, or 16 TiB). Larger values are recorded as
/// this one; the exact maximum is kept beside the buckets.
pub const MAX_VALUE: u64 = (1 << 28) - 1;

/// Index of the last bucket.
pub const MAX_INDEX: u16 = index_of(MAX_VALUE);

/// Bucket of a value. Values above [`MAX_VALUE`] fall into the last bucket.
#[allow(clippy::cast_possible_truncation, reason = "at most 128 * 20 + 255 after the cap")]
pub const fn index_of(value: u64) -> u16 {
    let value = if value > MAX_VALUE { MAX_VALUE } else { value };
    if value < 256 {
        return value as u16;
    }
    let group = value.ilog2() - 7;
    (group as u16) * 128 + (value >> group) as u16
}

/// Lowest value of a bucket.
pub const fn lowest_of(index: u16) -> u64 {
    if index < 256 {
        return index as u64;
    }
    let group = index / 128 - 1;
    ((index % 128) as u64 + 128) << group
}

/// Highest value of a bucket.
pub const fn highest_of(index: u16) -> u64 {
    if index < 256 { index as u64 } else { lowest_of(index) + (1 << (index / 128 - 1)) - 1 }
}

/// Two series whose slots differ in length describe different things and never merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("slots of {left} ms and {right} ms do not merge")]
pub struct SlotMismatch {
    left: u32,
    right: u32,
}

/// Bytes or numbers that are not a histogram.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes end within a number.
    #[error("buckets end in the middle of a number at byte {0}")]
    Truncated(usize),
    /// A number or an index is out of range.
    #[error("bucket {0} is beyond the last bucket {MAX_INDEX} or not ascending")]
    Index(u64),
    /// Counts do not fit 64 bits.
    #[error("bucket counts overflow")]
    Overflow,
    /// The exact count disagrees with the buckets.
    #[error("count is {count}, buckets hold {buckets}")]
    Count {
        /// As sent.
        count: u64,
        /// Sum over the buckets.
        buckets: u64,
    },
    /// The exact maximum is not in the highest bucket.
    #[error("maximum {0} is not in the highest bucket")]
    Max(u64),
    /// The exact sum cannot come from these buckets.
    #[error("sum {0} is impossible for these buckets")]
    Sum(u64),
    /// A slot has a length.
    #[error("slot length is zero")]
    Slot,
}

/// A histogram of usage with exact count, sum and maximum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageHistogram {
    slot_millis: u32,
    count: u64,
    sum: u64,
    max: u64,
    /// (bucket, count), ascending, counts above zero.
    buckets: Vec<(u16, u64)>,
}

impl UsageHistogram {
    /// An empty histogram whose values each describe a slot of this many milliseconds.
    pub const fn new(slot_millis: u32) -> Self {
        Self { slot_millis, count: 0, sum: 0, max: 0, buckets: Vec::new() }
    }

    /// From values in any order.
    pub fn from_values(slot_millis: u32, values: impl IntoIterator<Item = u64>) -> Self {
        let mut histogram = Self::new(slot_millis);
        let mut indexes: Vec<u16> = Vec::new();
        for value in values {
            histogram.sum = histogram.sum.saturating_add(value);
            histogram.max = histogram.max.max(value);
            indexes.push(index_of(value));
        }
        histogram.count = indexes.len() as u64;
        indexes.sort_unstable();
        for index in indexes {
            match histogram.buckets.last_mut() {
                Some((last, count)) if *last == index => *count += 1,
                _ => histogram.buckets.push((index, 1)),
            }
        }
        histogram
    }

    /// Length of the slot that one value describes, milliseconds.
    pub const fn slot_millis(&self) -> u32 {
        self.slot_millis
    }

    /// Number of values.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Exact sum of the values, in units.
    pub const fn sum(&self) -> u64 {
        self.sum
    }

    /// Exact maximum of the values, in units; 0 when empty.
    pub const fn max(&self) -> u64 {
        self.max
    }

    /// True when nothing was recorded.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The buckets that hold something: (index, count), ascending.
    pub fn buckets(&self) -> &[(u16, u64)] {
        &self.buckets
    }

    /// Smallest bucket bound that at least this share of the values does not exceed, never above the exact maximum.
    /// `permyriad` is the quantile in 1/10,000 (P99.9 = 9990). `None` when empty. As of [`MergedHistogram`].
    pub fn quantile(&self, permyriad: u16) -> Option<u64> {
        let rank = (u128::from(self.count) * u128::from(permyriad)).div_ceil(10_000).max(1);
        let mut below = 0;
        let reached = self.buckets.iter().find(|(_, count)| {
            below += u128::from(*count);
            below >= rank
        });
        reached.map(|(index, _)| highest_of(*index).min(self.max))
    }

    /// Adds one value.
    pub fn record(&mut self, value: u64) {
        let index = index_of(value);
        match self.buckets.binary_search_by_key(&index, |(i, _)| *i) {
            Ok(at) => {
                if let Some((_, count)) = self.buckets.get_mut(at) {
                    *count = count.saturating_add(1);
                }
            }
            Err(at) => self.buckets.insert(at, (index, 1)),
        }
        self.count = self.count.saturating_add(1);
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
    }

    /// Adds all of `other`. Exact in any order.
    ///
    /// # Errors
    /// When the slots differ in length; then nothing was added.
    pub fn merge(&mut self, other: &Self) -> Result<(), SlotMismatch> {
        if self.slot_millis != other.slot_millis {
            return Err(SlotMismatch { left: self.slot_millis, right: other.slot_millis });
        }
        let mut merged = Vec::with_capacity(self.buckets.len() + other.buckets.len());
        let (mut ours, mut theirs) = (self.buckets.iter().peekable(), other.buckets.iter().peekable());
        while let (Some(&&(a, x)), Some(&&(b, y))) = (ours.peek(), theirs.peek()) {
            match a.cmp(&b) {
                Ordering::Less => merged.extend(ours.next()),
                Ordering::Greater => merged.extend(theirs.next()),
                Ordering::Equal => {
                    merged.push((a, x.saturating_add(y)));
                    ours.next();
                    theirs.next();
                }
            }
        }
        merged.extend(ours.chain(theirs));
        self.buckets = merged;
        self.count = self.count.saturating_add(other.count);
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
        Ok(())
    }

    /// The buckets as bytes; the format is documented at `Series.buckets` in `telemetry.proto`.
    pub fn encode_buckets(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.buckets.len() * 2);
        let mut previous = 0;
        for &(index, count) in &self.buckets {
            let delta = u64::from(index - previous);
            previous = index;
            push_varint(&mut bytes, delta << 1 | u64::from(count > 1));
            if count > 1 {
                push_varint(&mut bytes, count - 2);
            }
        }
        bytes
    }

    /// The inverse of [`Self::encode_buckets`]; checks that count, sum, maximum and buckets belong together.
    ///
    /// # Errors
    /// Whatever is not a histogram, with the reason.
    pub fn decode(
        slot_millis: u32,
        count: u64,
        sum: u64,
        max: u64,
        bytes: &[u8],
    ) -> Result<Self, DecodeError> {
        if slot_millis == 0 {
            return Err(DecodeError::Slot);
        }
        let mut reader = Reader::new(bytes);
        let mut buckets: Vec<(u16, u64)> = Vec::new();
        let (mut total, mut lowest, mut highest) = (0_u64, 0_u64, 0_u64);
        while !reader.is_done() {
            let head = number(&mut reader)?;
            let (delta, many) = (head >> 1, head & 1 == 1);
            let previous = buckets.last().map(|(index, _)| *index);
            if delta == 0 && previous.is_some() {
                return Err(DecodeError::Index(previous.unwrap_or(0).into()));
            }
            let index = delta.saturating_add(previous.unwrap_or(0).into());
            let index =
                u16::try_from(index).ok().filter(|i| *i <= MAX_INDEX).ok_or(DecodeError::Index(index))?;
            let n = if many { number(&mut reader)?.checked_add(2).ok_or(DecodeError::Overflow)? } else { 1 };
            let spread = |value: u64| value.checked_mul(n).ok_or(DecodeError::Overflow);
            total = total.checked_add(n).ok_or(DecodeError::Overflow)?;
            lowest = lowest.checked_add(spread(lowest_of(index))?).ok_or(DecodeError::Overflow)?;
            highest = highest.checked_add(spread(highest_of(index))?).ok_or(DecodeError::Overflow)?;
            buckets.push((index, n));
        }
        if total != count {
            return Err(DecodeError::Count { count, buckets: total });
        }
        let top = buckets.last().map_or(0, |(index, _)| *index);
        if index_of(max) != top || (buckets.is_empty() && max != 0) {
            return Err(DecodeError::Max(max));
        }
        // values beyond the grid make the sum larger than the last bucket allows
        if sum < lowest || (sum > highest && max <= MAX_VALUE) {
            return Err(DecodeError::Sum(sum));
        }
        Ok(Self { slot_millis, count, sum, max, buckets })
    }
}

/// Histograms of many slots and pods in one, dense, to ask for quantiles.
#[derive(Clone, Debug)]
pub struct MergedHistogram {
    histogram: Histogram<u64>,
    sum: u128,
    max: u64,
}

impl Default for MergedHistogram {
    fn default() -> Self {
        // Cannot fail: 1 <= low, high >= 2 * low, digits <= 5 (hdrhistogram `CreationError`).
        let histogram =
            Histogram::new_with_bounds(1, MAX_VALUE, 2).expect("constant bounds are within hdrhistogram's");
        Self { histogram, sum: 0, max: 0 }
    }
}

impl MergedHistogram {
    /// Adds all of `part`. Its slot length is the caller's business: one merged histogram, one slot length.
    pub fn add(&mut self, part: &UsageHistogram) {
        for &(index, count) in part.buckets() {
            // every index is within the bounds that the histogram was made with
            self.histogram.saturating_record_n(lowest_of(index), count);
        }
        self.sum += u128::from(part.sum());
        self.max = self.max.max(part.max());
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Exact maximum in units; 0 when empty.
    pub const fn max(&self) -> u64 {
        self.max
    }

    /// Exact mean in units, rounded up; `None` when empty.
    pub fn mean(&self) -> Option<u64> {
        let count = u128::from(self.count());
        (count > 0).then(|| u64::try_from(self.sum.div_ceil(count)).unwrap_or(u64::MAX))
    }

    /// Smallest bucket bound that at least this share of the values does not exceed, never above the exact maximum.
    /// `permyriad` is the quantile in 1/10,000 (P99.9 = 9990). `None` when empty.
    pub fn quantile(&self, permyriad: u16) -> Option<u64> {
        (self.count() > 0)
            .then(|| self.histogram.value_at_quantile(f64::from(permyriad) / 10_000.0).min(self.max))
    }
}

fn number(from: &mut Reader<'_>) -> Result<u64, DecodeError> {
    from.number().map_err(|why| match why {
        NoNumber::Truncated => DecodeError::Truncated(from.at()),
        NoNumber::Overflow => DecodeError::Overflow,
    })
}

/// Order of the exponential Golomb code for these numbers: that in which their median has the fewest bits.
fn order_of(numbers: impl Iterator<Item = u64>) -> u8 {
    let (mut orders, mut count) = ([0_u32; 64], 0);
    for number in numbers {
        let order = number.saturating_add(1).ilog2();
        if let Some(of_order) = orders.get_mut(usize::try_from(order).unwrap_or(0)) {
            *of_order += 1;
        }
        count += 1;
    }
    let mut below = 0;
    let median = orders.iter().zip(0..).find(|(of_order, _)| {
        below += **of_order;
        below > count / 2
    });
    median.map_or(0, |(_, order)| order)
}

impl Pack for UsageHistogram {
    /// Gaps between the buckets, and counts, each in the code that suits most of them: half of what
    /// [`Self::encode_buckets`] takes.
    fn pack(&self, into: &mut Vec<u8>) {
        let Self { slot_millis, count: _, sum, max, buckets } = self;
        (*slot_millis, *sum, *max).pack(into);
        (buckets.len() as u64).pack(into);
        let Some((first, _)) = buckets.first() else { return };
        let gaps = buckets.iter().zip(buckets.iter().skip(1)).map(|((a, _), (b, _))| u64::from(b - a) - 1);
        let counts = buckets.iter().map(|(_, count)| count - 1);
        let (of_gaps, of_counts) = (order_of(gaps.clone()), order_of(counts.clone()));
        first.pack(into);
        into.extend([of_gaps, of_counts]);
        let mut bits = BitWriter::new(into);
        for (gap, count) in std::iter::once(None).chain(gaps.map(Some)).zip(counts) {
            if let Some(gap) = gap {
                bits.golomb(gap, of_gaps.into());
            }
            bits.golomb(count, of_counts.into());
        }
        bits.end();
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let (slot_millis, sum, max) = Pack::unpack(from)?;
        let mut histogram = Self { slot_millis, count: 0, sum, max, buckets: Vec::new() };
        let length = u64::unpack(from)?;
        if length == 0 {
            return Ok(histogram);
        }
        let mut index = u16::unpack(from)?;
        let (of_gaps, of_counts) = (u8::unpack(from)?, u8::unpack(from)?);
        if of_gaps.max(of_counts) >= 64 || length > u64::from(MAX_INDEX) + 1 {
            return Err(from.damaged("not a histogram"));
        }
        histogram.buckets.reserve_exact(usize::try_from(length).unwrap_or(0));
        let mut bits = BitReader::new(from);
        for n in 0..length {
            let gap = if n == 0 { Some(0) } else { bits.golomb(of_gaps.into())?.checked_add(1) };
            let next = gap.and_then(|gap| u16::try_from(gap).ok()?.checked_add(index));
            let count = bits.golomb(of_counts.into())?.checked_add(1);
            let (Some(next), Some(count)) = (next.filter(|next| *next <= MAX_INDEX), count) else {
                return Err(bits.damaged("a bucket is beyond the last"));
            };
            index = next;
            histogram.buckets.push((index, count));
            histogram.count = histogram.count.saturating_add(count);
        }
        bits.end();
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(prop_oneof![0..300_u64, 0..100_000_u64, 0..=MAX_VALUE], 0..200)
    }

    proptest! {
        #[test]
        fn grid_is_hdrhistograms(value in prop_oneof![0..1024_u64, 0..=MAX_VALUE]) {
            let hdr = Histogram::<u64>::new_with_bounds(1, MAX_VALUE, 2).unwrap();
            prop_assert_eq!(lowest_of(index_of(value)), hdr.lowest_equivalent(value));
            prop_assert_eq!(highest_of(index_of(value)), hdr.highest_equivalent(value));
        }

        #[test]
        fn record_and_from_values_agree(values in values()) {
            let mut one_by_one = UsageHistogram::new(100);
            for v in &values {
                one_by_one.record(*v);
            }
            prop_assert_eq!(one_by_one, UsageHistogram::from_values(100, values));
        }

        #[test]
        fn merge_is_exact_in_any_order(a in values(), b in values()) {
            let whole = UsageHistogram::from_values(100, a.iter().chain(&b).copied());
            let (a, b) = (UsageHistogram::from_values(100, a), UsageHistogram::from_values(100, b));
            let (mut ab, mut ba) = (a.clone(), b.clone());
            ab.merge(&b).unwrap();
            ba.merge(&a).unwrap();
            prop_assert_eq!(&ab, &whole);
            prop_assert_eq!(&ba, &whole);
        }

        #[test]
        fn encoding_round_trips(values in values()) {
            let h = UsageHistogram::from_values(1000, values);
            let decoded = UsageHistogram::decode(1000, h.count(), h.sum(), h.max(), &h.encode_buckets());
            prop_assert_eq!(decoded, Ok(h));
        }

        #[test]
        fn packing_round_trips(values in values(), counts in prop::collection::vec(any::<u64>(), 0..20)) {
            let mut histogram = UsageHistogram::from_values(1000, values);
            for ((_, count), many) in histogram.buckets.iter_mut().zip(counts) {
                *count = many.max(1);
            }
            histogram.count = histogram.buckets.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count));
            let mut bytes = Vec::new();
            histogram.pack(&mut bytes);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(UsageHistogram::unpack(&mut reader), Ok(histogram));
            prop_assert!(reader.is_done());
        }

        #[test]
        fn a_sparse_quantile_is_that_of_the_dense_histogram(values in values(), permyriad in 0..=10_000_u16) {
            let sparse = UsageHistogram::from_values(1000, values);
            let mut dense = MergedHistogram::default();
            dense.add(&sparse);
            prop_assert_eq!(sparse.quantile(permyriad), dense.quantile(permyriad));
        }

        #[test]
        fn decode_of_garbage_never_panics(count in any::<u64>(), sum in any::<u64>(), max in any::<u64>(), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = UsageHistogram::decode(100, count, sum, max, &bytes);
        }

        #[test]
        fn decode_of_a_prefix_is_refused(values in values(), cut in any::<prop::sample::Index>()) {
            let h = UsageHistogram::from_values(1000, values);
            let bytes = h.encode_buckets();
            prop_assume!(!bytes.is_empty());
            let cut = cut.index(bytes.len());
            let decoded = UsageHistogram::decode(1000, h.count(), h.sum(), h.max(), &bytes[..cut]);
            prop_assert!(decoded.is_err());
        }

        #[test]
        fn merged_quantile_is_within_a_bucket_of_the_sorted_values(mut values in values(), permyriad in 1..=10_000_u16) {
            prop_assume!(!values.is_empty());
            let mut merged = MergedHistogram::default();
            let (left, right) = values.split_at(values.len() / 2);
            merged.add(&UsageHistogram::from_values(100, left.iter().copied()));
            merged.add(&UsageHistogram::from_values(100, right.iter().copied()));
            values.sort_unstable();
            let rank = (values.len() * usize::from(permyriad)).div_ceil(10_000).max(1);
            let exact = values[rank - 1];
            let got = merged.quantile(permyriad).unwrap();
            prop_assert!(got >= exact && got <= highest_of(index_of(exact)), "{} for {}", got, exact);
        }
    }

    #[test]
    fn quantile_of_few_values_is_exact() {
        let histogram = UsageHistogram::from_values(100, [1, 2, 3, 4000]);
        assert_eq!([0, 5000, 9900].map(|q| histogram.quantile(q)), [Some(1), Some(2), Some(4000)]);
        assert_eq!(UsageHistogram::new(100).quantile(5000), None);
    }

    #[test]
    fn unlike_slots_do_not_merge() {
        let mut a = UsageHistogram::new(100);
        assert!(a.merge(&UsageHistogram::new(500)).is_err());
    }

    #[test]
    fn values_beyond_the_grid_keep_their_exact_maximum() {
        let h = UsageHistogram::from_values(100, [MAX_VALUE + 5, 1]);
        let decoded = UsageHistogram::decode(100, h.count(), h.sum(), h.max(), &h.encode_buckets());
        assert_eq!(decoded.as_ref(), Ok(&h));
        assert_eq!(h.max(), MAX_VALUE + 5);
    }
}
