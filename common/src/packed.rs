//! State at rest: numbers as varints, histograms in bits.
//!
//! What is at rest takes a tenth of what is worked on, and its bytes are its checkpoint. Whatever bytes are unpacked, they
//! become a state or an error, and take no more memory than a small multiple of their length.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use thiserror::Error;

use crate::time::Timestamp;

/// Bytes that are not the state that they should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("state is damaged at byte {at}: {what}")]
pub struct Damaged {
    at: usize,
    what: &'static str,
}

/// Why a number cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoNumber {
    /// The bytes end within it.
    Truncated,
    /// It does not fit 64 bits.
    Overflow,
}

/// Seven bits in a byte, lowest first; all bytes but the last have the highest bit.
pub(crate) fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
}

/// Reads what was written, front to back.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes that were read.
    pub const fn at(&self) -> usize {
        self.at
    }

    /// True at the end.
    pub const fn is_done(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// The next varint.
    #[inline]
    pub fn number(&mut self) -> Result<u64, NoNumber> {
        let mut value = 0_u64;
        for shift in (0..63).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(NoNumber::Truncated)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        // the tenth byte has one bit left
        let byte = *self.bytes.get(self.at).ok_or(NoNumber::Truncated)?;
        self.at += 1;
        if byte > 1 { Err(NoNumber::Overflow) } else { Ok(value | u64::from(byte) << 63) }
    }

    pub const fn damaged(&self, what: &'static str) -> Damaged {
        Damaged { at: self.at, what }
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Damaged> {
        // most numbers of a state are small
        if let Some(&byte) = self.bytes.get(self.at).filter(|byte| **byte < 0x80) {
            self.at += 1;
            return Ok(byte.into());
        }
        self.number().map_err(|why| match why {
            NoNumber::Truncated => self.damaged("it ends within a number"),
            NoNumber::Overflow => self.damaged("a number is too large"),
        })
    }

    /// The next bytes.
    fn slice(&mut self, length: u64) -> Result<&'a [u8], Damaged> {
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        let bytes = end.and_then(|end| self.bytes.get(self.at..end));
        let bytes = bytes.ok_or_else(|| self.damaged("it ends within a part"))?;
        self.at += bytes.len();
        Ok(bytes)
    }

    /// All was read.
    pub fn finish(&self) -> Result<(), Damaged> {
        if self.is_done() { Ok(()) } else { Err(self.damaged("something follows its end")) }
    }
}

/// What can be at rest.
pub(crate) trait Pack: Sized {
    /// Appends at least one byte.
    fn pack(&self, into: &mut Vec<u8>);
    /// The inverse of [`Self::pack`].
    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged>;
}

/// A value as its bytes. They are written by [`Pack::pack`] only: equal values have equal bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed<T> {
    bytes: Box<[u8]>,
    of: PhantomData<fn() -> T>,
}

impl<T: Pack> Packed<T> {
    pub fn new(value: &T) -> Self {
        Self::within(value, 64)
    }

    fn within(value: &T, expected: usize) -> Self {
        let mut bytes = Vec::with_capacity(expected);
        value.pack(&mut bytes);
        Self { bytes: bytes.into(), of: PhantomData }
    }

    pub fn get(&self) -> T {
        T::unpack(&mut Reader::new(&self.bytes)).expect("pack wrote these bytes")
    }

    pub fn change(&mut self, by: impl FnOnce(&mut T)) {
        let mut value = self.get();
        by(&mut value);
        *self = Self::within(&value, self.bytes.len() + 64);
    }

    /// What the bytes begin with.
    pub fn peek<P: Pack>(&self) -> P {
        P::unpack(&mut Reader::new(&self.bytes)).expect("pack wrote these bytes")
    }
}

impl<T: Pack + Default> Default for Packed<T> {
    fn default() -> Self {
        Self::new(&T::default())
    }
}

impl<T: Pack> Pack for Packed<T> {
    fn pack(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.bytes);
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self::new(&T::unpack(from)?))
    }
}

/// Fields one after the other.
macro_rules! packed_fields {
    ($name:ident { $($field:ident),+ }) => {
        impl $crate::packed::Pack for $name {
            fn pack(&self, into: &mut Vec<u8>) {
                let Self { $($field),+ } = self;
                $($crate::packed::Pack::pack($field, into);)+
            }

            fn unpack(
                from: &mut $crate::packed::Reader<'_>,
            ) -> Result<Self, $crate::packed::Damaged> {
                Ok(Self { $($field: $crate::packed::Pack::unpack(from)?),+ })
            }
        }
    };
}
pub(crate) use packed_fields;

impl Pack for u64 {
    fn pack(&self, into: &mut Vec<u8>) {
        push_varint(into, *self);
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        from.varint()
    }
}

macro_rules! packed_as_u64 {
    ($($number:ty),+) => {$(
        impl Pack for $number {
            fn pack(&self, into: &mut Vec<u8>) {
                push_varint(into, (*self).into());
            }

            fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
                let value = from.varint()?;
                value.try_into().map_err(|_| from.damaged("a number is too large"))
            }
        }
    )+};
}
packed_as_u64!(u8, u16, u32);

impl Pack for usize {
    fn pack(&self, into: &mut Vec<u8>) {
        (*self as u64).pack(into);
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let value = from.varint()?;
        value.try_into().map_err(|_| from.damaged("a number is too large"))
    }
}

impl Pack for bool {
    fn pack(&self, into: &mut Vec<u8>) {
        u8::from(*self).pack(into);
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        match u8::unpack(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(from.damaged("neither yes nor no")),
        }
    }
}

impl Pack for i64 {
    /// Zigzag: what is near zero is short, whatever its sign.
    fn pack(&self, into: &mut Vec<u8>) {
        ((*self << 1) ^ (*self >> 63)).cast_unsigned().pack(into);
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let value = u64::unpack(from)?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }
}

impl Pack for Timestamp {
    fn pack(&self, into: &mut Vec<u8>) {
        self.unix_micros().pack(into);
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        i64::unpack(from).map(Self::from_unix_micros)
    }
}

impl Pack for Duration {
    /// Microseconds, as differences of timestamps are; beyond 584,000 years as these.
    fn pack(&self, into: &mut Vec<u8>) {
        u64::try_from(self.as_micros()).unwrap_or(u64::MAX).pack(into);
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        u64::unpack(from).map(Self::from_micros)
    }
}

impl Pack for String {
    fn pack(&self, into: &mut Vec<u8>) {
        (self.len() as u64).pack(into);
        into.extend_from_slice(self.as_bytes());
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let length = u64::unpack(from)?;
        let bytes = from.slice(length)?;
        let text = str::from_utf8(bytes).map_err(|_| from.damaged("a text is not UTF-8"))?;
        Ok(text.to_owned())
    }
}

impl<const N: usize> Pack for [u8; N] {
    fn pack(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(self);
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let bytes = from.slice(N as u64)?;
        bytes.try_into().map_err(|_| from.damaged("it ends within a part"))
    }
}

impl<const N: usize> Pack for [u64; N] {
    fn pack(&self, into: &mut Vec<u8>) {
        for value in self {
            value.pack(into);
        }
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut values = [0; N];
        for value in &mut values {
            *value = u64::unpack(from)?;
        }
        Ok(values)
    }
}

impl<T: Pack> Pack for Option<T> {
    fn pack(&self, into: &mut Vec<u8>) {
        self.is_some().pack(into);
        if let Some(value) = self {
            value.pack(into);
        }
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        bool::unpack(from)?.then(|| T::unpack(from)).transpose()
    }
}

impl<T: Pack> Pack for Box<T> {
    fn pack(&self, into: &mut Vec<u8>) {
        (**self).pack(into);
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        T::unpack(from).map(Self::new)
    }
}

impl<A: Pack, B: Pack> Pack for (A, B) {
    fn pack(&self, into: &mut Vec<u8>) {
        self.0.pack(into);
        self.1.pack(into);
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok((A::unpack(from)?, B::unpack(from)?))
    }
}

impl<A: Pack, B: Pack, C: Pack> Pack for (A, B, C) {
    fn pack(&self, into: &mut Vec<u8>) {
        self.0.pack(into);
        self.1.pack(into);
        self.2.pack(into);
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok((A::unpack(from)?, B::unpack(from)?, C::unpack(from)?))
    }
}

impl<T: Pack> Pack for Vec<T> {
    fn pack(&self, into: &mut Vec<u8>) {
        (self.len() as u64).pack(into);
        for value in self {
            value.pack(into);
        }
    }

    /// A length that is not true ends with the bytes: little is reserved for it.
    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let length = usize::unpack(from)?;
        let mut all = Self::with_capacity(length.min(64));
        for _ in 0..length {
            all.push(T::unpack(from)?);
        }
        Ok(all)
    }
}

impl<K: Pack + Ord, V: Pack> Pack for BTreeMap<K, V> {
    fn pack(&self, into: &mut Vec<u8>) {
        (self.len() as u64).pack(into);
        for (key, value) in self {
            key.pack(into);
            value.pack(into);
        }
    }

    fn unpack(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let length = u64::unpack(from)?;
        (0..length).map(|_| Pack::unpack(from)).collect()
    }
}

/// Writes numbers that are mostly small in few bits: exponential Golomb codes.
pub(crate) struct BitWriter<'a> {
    into: &'a mut Vec<u8>,
    /// The last `held` bits are to be written; the rest are zero.
    bits: u64,
    held: u32,
}

impl<'a> BitWriter<'a> {
    pub const fn new(into: &'a mut Vec<u8>) -> Self {
        Self { into, bits: 0, held: 0 }
    }

    /// Of order `order`, below 64; shortest for numbers near 2^order. The value is below 2^64 - 1.
    pub fn golomb(&mut self, value: u64, order: u32) {
        let high = (value >> order).saturating_add(1);
        let low = value & ((1 << order) - 1);
        let zeros = high.ilog2();
        if 2 * zeros + 1 + order <= MOST {
            self.put(high << order | low, 2 * zeros + 1 + order);
        } else {
            self.put_long(0, zeros);
            self.put_long(high, zeros + 1);
            self.put_long(low, order);
        }
    }

    /// At most 64 bits.
    fn put_long(&mut self, value: u64, length: u32) {
        let lower = length.min(32);
        self.put(value >> lower, length - lower);
        self.put(value & ((1 << lower) - 1), lower);
    }

    /// At most [`MOST`] bits.
    fn put(&mut self, value: u64, length: u32) {
        self.bits = self.bits << length | value;
        self.held += length;
        while self.held >= 8 {
            self.held -= 8;
            self.into.push((self.bits >> self.held).to_le_bytes()[0]);
            self.bits &= (1 << self.held) - 1;
        }
    }

    /// Fills the last byte.
    pub fn end(mut self) {
        let rest = (8 - self.held) % 8;
        self.put(0, rest);
    }
}

/// Bits that a word holds beside a part of a byte.
const MOST: u32 = 56;

/// The inverse of [`BitWriter`].
pub(crate) struct BitReader<'r, 'a> {
    from: &'r mut Reader<'a>,
    /// Bits of the next byte that were read.
    read: u32,
}

impl<'r, 'a> BitReader<'r, 'a> {
    pub const fn new(from: &'r mut Reader<'a>) -> Self {
        Self { from, read: 0 }
    }

    pub const fn damaged(&self, what: &'static str) -> Damaged {
        self.from.damaged(what)
    }

    /// See [`BitWriter::golomb`].
    pub fn golomb(&mut self, order: u32) -> Result<u64, Damaged> {
        let next = self.next();
        let zeros = next.leading_zeros();
        let head = 2 * zeros + 1;
        let (high, low) = if head + order <= MOST {
            self.skip(head + order)?;
            let low = (next << head).checked_shr(64 - order).unwrap_or(0);
            (next >> (64 - head), low)
        } else {
            self.take_long(order, zeros)?
        };
        let high = high - 1;
        if high.leading_zeros() < order {
            return Err(self.damaged("a number is too large"));
        }
        Ok(high << order | low)
    }

    fn take_long(&mut self, order: u32, zeros: u32) -> Result<(u64, u64), Damaged> {
        let mut zeros = zeros.min(MOST);
        self.skip(zeros)?;
        if zeros == MOST {
            let more = self.next().leading_zeros();
            zeros += more;
            if zeros >= 64 {
                return Err(self.damaged("a number is too large"));
            }
            self.skip(more)?;
        }
        Ok((self.take(zeros + 1)?, self.take(order)?))
    }

    /// At most 64 bits.
    fn take(&mut self, length: u32) -> Result<u64, Damaged> {
        let lower = length.min(32);
        let mut value = 0;
        for part in [length - lower, lower] {
            value = value << part | self.next().checked_shr(64 - part).unwrap_or(0);
            self.skip(part)?;
        }
        Ok(value)
    }

    /// At least [`MOST`] bits from here on, highest first; behind the end they are zero.
    fn next(&self) -> u64 {
        let rest = self.from.bytes.get(self.from.at..).unwrap_or_default();
        let word = rest.first_chunk().copied().unwrap_or_else(|| {
            let mut last = [0; 8];
            last.iter_mut().zip(rest).for_each(|(into, byte)| *into = *byte);
            last
        });
        u64::from_be_bytes(word) << self.read
    }

    fn skip(&mut self, bits: u32) -> Result<(), Damaged> {
        let bits = self.read + bits;
        self.from.at += usize::try_from(bits / 8).unwrap_or(usize::MAX);
        self.read = bits % 8;
        let used = self.from.at + usize::from(self.read > 0);
        if used > self.from.bytes.len() { Err(self.damaged("it ends within a number")) } else { Ok(()) }
    }

    /// Leaves out what fills the last byte.
    pub fn end(self) {
        self.from.at += usize::from(self.read > 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn codes_round_trip(numbers in prop::collection::vec((0..64_u32, 0..64_u32, any::<u64>()), 0..100)) {
            let numbers: Vec<(u64, u32)> =
                numbers.into_iter().map(|(shift, order, n)| ((n >> shift).min(u64::MAX - 1), order)).collect();
            let mut bytes = vec![7];
            let mut bits = BitWriter::new(&mut bytes);
            for (value, order) in &numbers {
                bits.golomb(*value, *order);
            }
            bits.end();
            bytes.push(8);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(u8::unpack(&mut reader), Ok(7));
            let mut bits = BitReader::new(&mut reader);
            for (value, order) in &numbers {
                prop_assert_eq!(bits.golomb(*order), Ok(*value));
            }
            bits.end();
            prop_assert_eq!(u8::unpack(&mut reader), Ok(8));
            prop_assert!(reader.is_done());
        }

        #[test]
        fn codes_of_garbage_end(bytes in prop::collection::vec(any::<u8>(), 0..64), order in 0..64_u32) {
            let mut reader = Reader::new(&bytes);
            let mut bits = BitReader::new(&mut reader);
            let read = (0..=bytes.len() * 8).take_while(|_| bits.golomb(order).is_ok()).count();
            prop_assert!(read <= bytes.len() * 8);
        }

        #[test]
        fn values_round_trip(
            all in prop::collection::vec((any::<i64>(), any::<u64>(), any::<u16>()), 0..20), text in ".*",
            some in prop::option::of(any::<bool>()), words in any::<[u64; 4]>(),
        ) {
            let map: BTreeMap<i64, (u64, u16)> = all.iter().map(|(a, b, c)| (*a, (*b, *c))).collect();
            let mut bytes = Vec::new();
            (all.clone(), map.clone(), text.clone()).pack(&mut bytes);
            (some, words).pack(&mut bytes);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(Pack::unpack(&mut reader), Ok((all, map, text)));
            prop_assert_eq!(Pack::unpack(&mut reader), Ok((some, words)));
            prop_assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn a_length_that_is_not_true_reserves_nothing() {
        let mut bytes = Vec::new();
        u64::MAX.pack(&mut bytes);
        assert!(Vec::<u64>::unpack(&mut Reader::new(&bytes)).is_err());
        assert!(String::unpack(&mut Reader::new(&bytes)).is_err());
        assert!(BTreeMap::<u64, u64>::unpack(&mut Reader::new(&bytes)).is_err());
    }
}
