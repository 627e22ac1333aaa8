// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a request could not be served, as clients see it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of failure it is. The list is part of the API: it may grow, but no code changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request makes no sense as it stands.
    Invalid,
    /// What it names does not exist.
    NotFound,
    /// What it would make exists already.
    Exists,
    /// Somebody else has what it asks for: an address, a port.
    InUse,
    /// The host, or the network's own rules, do not permit it.
    Forbidden,
    /// A table, a range or the host's descriptors are exhausted.
    Exhausted,
    /// The request is larger than any that makes sense.
    TooLarge,
    /// This process does not do that: `wharf run` attaches nobody.
    Unsupported,
    /// wharf failed.
    Internal,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 9] = [
        Self::Invalid,
        Self::NotFound,
        Self::Exists,
        Self::InUse,
        Self::Forbidden,
        Self::Exhausted,
        Self::TooLarge,
        Self::Unsupported,
        Self::Internal,
    ];

    /// The status of an HTTP answer (RFC 9110 section 15).
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Exists | Self::InUse => 409,
            Self::TooLarge => 413,
            Self::Internal => 500,
            Self::Unsupported => 501,
            Self::Exhausted => 503,
        }
    }

    /// The exit status of a command that met it.
    #[must_use]
    pub const fn exit_status(self) -> u8 {
        match self {
            Self::Invalid | Self::TooLarge => 2,
            Self::NotFound => 3,
            Self::Exists | Self::InUse => 4,
            Self::Forbidden => 5,
            Self::Exhausted => 6,
            Self::Unsupported => 7,
            Self::Internal => crate::cli::EXIT_FAILURE,
        }
    }
}

/// A request that could not be served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// What kind of failure.
    pub code: Code,
    /// What went wrong.
    pub message: String,
    /// What to do about it, where that is not plain.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

impl Error {
    /// A failure without a hint.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The request makes no sense.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::Invalid, message)
    }

    /// There is no such thing.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// wharf failed.
    #[must_use]
    pub fn internal(error: &dyn std::error::Error) -> Self {
        Self::new(Code::Internal, error.to_string())
    }

    /// With what to do about it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

impl std::error::Error for Error {}

/// The body of an answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// The failure.
    pub error: Error,
}
