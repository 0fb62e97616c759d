//! What a key and a value may be. Checked by clients, by the service and by the state machine alike.

/// The most bytes in a key. Keys are not empty.
pub const KEY_BYTES_MAX: usize = 4 << 10;
/// The most bytes in a value. Values may be empty.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// Something is too large, or empty where it must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitExceeded {
    /// The key is empty.
    #[error("the key is empty: a key has at least one byte")]
    EmptyKey,
    /// The key is too long.
    #[error("the key has {bytes} bytes, more than the {KEY_BYTES_MAX} allowed: shorten it")]
    KeyTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The value is too long.
    #[error(
        "the value has {bytes} bytes, more than the {VALUE_BYTES_MAX} allowed: split it over several keys"
    )]
    ValueTooLong {
        /// Its length.
        bytes: usize,
    },
}

/// Checks a key.
///
/// # Errors
/// If it is empty or too long.
pub fn check_key(key: &[u8]) -> Result<(), LimitExceeded> {
    match key.len() {
        0 => Err(LimitExceeded::EmptyKey),
        bytes if bytes > KEY_BYTES_MAX => Err(LimitExceeded::KeyTooLong { bytes }),
        _ => Ok(()),
    }
}

/// Checks a value.
///
/// # Errors
/// If it is too long.
pub fn check_value(value: &[u8]) -> Result<(), LimitExceeded> {
    let bytes = value.len();
    if bytes > VALUE_BYTES_MAX { Err(LimitExceeded::ValueTooLong { bytes }) } else { Ok(()) }
}
