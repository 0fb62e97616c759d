//! The alphabet of a recording: numbers, options, lists, bytes. It knows nothing of Raft; what is written with it is in
//! [`vocabulary`](super::vocabulary).
//!
//! Every value has exactly one encoding, and every other sequence of bytes is refused: so what can be read is what was
//! written. Nothing is allocated on the word of a length: a list grows by what was really read.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;

use super::RecordingError;

/// What can be written into a recording and read back.
pub(super) trait Code: Sized {
    fn encode(&self, out: &mut Vec<u8>);

    fn decode(reader: &mut Reader<'_>) -> Result<Self, RecordingError>;
}

/// The bytes of a recording that are not read yet.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// How many bytes were read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], RecordingError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..count).ok_or(RecordingError::Truncated { at: self.at })?;
        self.at += count;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, RecordingError> {
        let at = self.at;
        self.take(1)?.first().copied().ok_or(RecordingError::Truncated { at })
    }
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
impl Code for u64 {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut rest = *self;
        while rest >= 0x80 {
            out.push(low_byte(rest) | 0x80);
            rest >>= 7;
        }
        out.push(low_byte(rest));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<u64, RecordingError> {
        let at = reader.at();
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = reader.byte()?;
            let bits = u64::from(byte & 0x7f);
            let is_last = byte & 0x80 == 0;
            let is_padded = is_last && byte == 0 && shift > 0;
            let overflows = shift == 63 && byte > 1;
            if is_padded || overflows {
                break;
            }
            value |= bits << shift;
            if is_last {
                return Ok(value);
            }
        }
        Err(RecordingError::BadNumber { at })
    }
}

fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0] & 0x7f
}

macro_rules! code_number {
    ($($number:ty),*) => { $(
        impl Code for $number {
            fn encode(&self, out: &mut Vec<u8>) {
                // No `usize` is wider than 64 bits.
                u64::try_from(*self).unwrap_or(u64::MAX).encode(out);
            }

            fn decode(reader: &mut Reader<'_>) -> Result<$number, RecordingError> {
                let at = reader.at();
                let value = u64::decode(reader)?;
                <$number>::try_from(value).map_err(|_| RecordingError::OutOfRange { value, at })
            }
        }
    )* };
}

code_number!(u8, u32, usize);

impl Code for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<bool, RecordingError> {
        let at = reader.at();
        match reader.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(RecordingError::UnknownTag { of: "a yes or no", tag, at }),
        }
    }
}

impl<T: Code> Code for Option<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Option<T>, RecordingError> {
        if bool::decode(reader)? { T::decode(reader).map(Some) } else { Ok(None) }
    }
}

impl<A: Code, B: Code> Code for (A, B) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<(A, B), RecordingError> {
        Ok((A::decode(reader)?, B::decode(reader)?))
    }
}

impl<T: Code> Code for Vec<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.len().encode(out);
        for value in self {
            value.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Vec<T>, RecordingError> {
        let count = u64::decode(reader)?;
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(T::decode(reader)?);
        }
        Ok(values)
    }
}

/// In rising order, each once.
impl<T: Code + Ord> Code for BTreeSet<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.len().encode(out);
        for value in self {
            value.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<BTreeSet<T>, RecordingError> {
        let count = u64::decode(reader)?;
        let mut values = BTreeSet::new();
        for _ in 0..count {
            let at = reader.at();
            let value = T::decode(reader)?;
            if values.last().is_some_and(|last| *last >= value) {
                return Err(RecordingError::OutOfOrder { at });
            }
            values.insert(value);
        }
        Ok(values)
    }
}

/// In rising order of the keys, each once.
impl<K: Code + Ord, V: Code> Code for BTreeMap<K, V> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.len().encode(out);
        for (key, value) in self {
            key.encode(out);
            value.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<BTreeMap<K, V>, RecordingError> {
        let count = u64::decode(reader)?;
        let mut values = BTreeMap::new();
        for _ in 0..count {
            let at = reader.at();
            let (key, value) = <(K, V)>::decode(reader)?;
            if values.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(RecordingError::OutOfOrder { at });
            }
            values.insert(key, value);
        }
        Ok(values)
    }
}

impl Code for Bytes {
    fn encode(&self, out: &mut Vec<u8>) {
        self.len().encode(out);
        out.extend_from_slice(self);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Bytes, RecordingError> {
        let length = usize::decode(reader)?;
        reader.take(length).map(Bytes::copy_from_slice)
    }
}

/// Seconds, then nanoseconds. Some thirty thousand years are enough for everybody; what is longer is written as that,
/// so that no arithmetic on what is read can overflow.
const SECONDS_MAX: u64 = 1 << 40;

impl Code for Duration {
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_secs().min(SECONDS_MAX).encode(out);
        self.subsec_nanos().encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Duration, RecordingError> {
        let at = reader.at();
        let (seconds, nanos) = <(u64, u32)>::decode(reader)?;
        if seconds > SECONDS_MAX {
            return Err(RecordingError::OutOfRange { value: seconds, at });
        }
        if nanos >= 1_000_000_000 {
            return Err(RecordingError::OutOfRange { value: u64::from(nanos), at });
        }
        Ok(Duration::new(seconds, nanos))
    }
}

impl<T: Code> Code for alloc::sync::Arc<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, RecordingError> {
        T::decode(reader).map(alloc::sync::Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn written<T: Code>(value: &T) -> Vec<u8> {
        let mut out = Vec::new();
        value.encode(&mut out);
        out
    }

    fn read<T: Code>(bytes: &[u8]) -> Result<T, RecordingError> {
        T::decode(&mut Reader::new(bytes))
    }

    proptest! {
        #[test]
        fn numbers_come_back(value: u64) {
            prop_assert_eq!(read::<u64>(&written(&value)), Ok(value));
        }

        #[test]
        fn what_can_be_read_is_what_was_written(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = u64::decode(&mut reader) {
                prop_assert_eq!(written(&value), &bytes[..reader.at()]);
            }
        }
    }

    #[test]
    fn the_extremes_come_back() {
        for value in [0, 1, 0x7f, 0x80, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            assert_eq!(read::<u64>(&written(&value)), Ok(value));
        }
        assert_eq!(written(&300u64), [0xac, 0x02]);
        assert_eq!(written(&u64::MAX).len(), 10);
    }

    #[test]
    fn every_second_way_to_write_something_is_refused() {
        assert_eq!(read::<u64>(&[0x80, 0x00]), Err(RecordingError::BadNumber { at: 0 }));
        let mut too_large = vec![0xff; 9];
        too_large.push(2);
        assert_eq!(read::<u64>(&too_large), Err(RecordingError::BadNumber { at: 0 }));
        assert_eq!(read::<u64>(&[0x80; 20]), Err(RecordingError::BadNumber { at: 0 }));
        assert_eq!(read::<u64>(&[0x80]), Err(RecordingError::Truncated { at: 1 }));
        assert_eq!(
            read::<u8>(&[0x80, 0x02]),
            Err(RecordingError::OutOfRange { value: 256, at: 0 })
        );
        assert_eq!(
            read::<bool>(&[2]),
            Err(RecordingError::UnknownTag { of: "a yes or no", tag: 2, at: 0 })
        );
        assert_eq!(read::<BTreeSet<u64>>(&[2, 5, 5]), Err(RecordingError::OutOfOrder { at: 2 }));
        assert_eq!(
            read::<BTreeMap<u64, bool>>(&[2, 5, 0, 4, 0]),
            Err(RecordingError::OutOfOrder { at: 3 })
        );
        let too_long = written(&(SECONDS_MAX + 1, 0u32));
        assert!(matches!(read::<Duration>(&too_long), Err(RecordingError::OutOfRange { .. })));
        let too_fine = written(&(0u64, 1_000_000_000u32));
        assert!(matches!(read::<Duration>(&too_fine), Err(RecordingError::OutOfRange { .. })));
    }

    #[test]
    fn a_length_is_never_trusted() {
        let huge = written(&u64::MAX);
        assert_eq!(read::<Bytes>(&huge), Err(RecordingError::Truncated { at: 10 }));
        assert_eq!(read::<Vec<u64>>(&huge), Err(RecordingError::Truncated { at: 10 }));
        assert_eq!(read::<BTreeSet<u64>>(&huge), Err(RecordingError::Truncated { at: 10 }));
    }

    #[test]
    fn a_duration_without_end_is_written_as_a_very_long_one() {
        let read = read::<Duration>(&written(&Duration::MAX)).expect("in range");
        assert_eq!(read, Duration::new(SECONDS_MAX, 999_999_999));
    }
}
