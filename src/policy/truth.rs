//! Three-valued logic: what cannot be known stays unknown, also under `not`, and refuses.
//!
//! Must not be turned into a `bool` anywhere but in `is_true`.

use std::fmt;
use std::ops::Not;

/// Whether something holds, as far as the evidence tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Truth {
    #[serde(rename = "met")]
    True,
    #[serde(rename = "not_met")]
    False,
    #[serde(rename = "unknown")]
    Unknown,
}

impl Truth {
    pub fn is_true(self) -> bool {
        self == Self::True
    }

    /// True only if both are; false if either is.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::False, _) | (_, Self::False) => Self::False,
            (Self::True, Self::True) => Self::True,
            _ => Self::Unknown,
        }
    }

    /// True if either is; false only if both are.
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::True, _) | (_, Self::True) => Self::True,
            (Self::False, Self::False) => Self::False,
            _ => Self::Unknown,
        }
    }
}

impl Not for Truth {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            Self::Unknown => Self::Unknown,
        }
    }
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::True => "met",
            Self::False => "not met",
            Self::Unknown => "unknown",
        })
    }
}
