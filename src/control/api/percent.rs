// SPDX-License-Identifier: MIT OR Apache-2.0
//! Percent-encoding of path segments and query values (RFC 3986 section 2.1).

use std::fmt::Write as _;

use crate::control::error::Error;

/// What a segment or value stands for. A `+` is a `+`.
///
/// # Errors
/// A `%` without two hexadecimal digits, or bytes that are no UTF-8.
pub(in crate::control) fn decode(text: &str) -> Result<String, Error> {
    let wrong = || Error::invalid(format!("`{text}` is not percent-encoded UTF-8"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let high = rest.next().and_then(hex_digit).ok_or_else(wrong)?;
                let low = rest.next().and_then(hex_digit).ok_or_else(wrong)?;
                high << 4 | low
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// The text as a segment or value.
pub(in crate::control) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            // RFC 3986 section 2.3: the unreserved characters.
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            byte => {
                // A string takes everything.
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_to_the_same() {
        for text in ["", "web", "a b/c?d=e&f%g+h", "\u{e9}\u{1f6a2}", "\0"] {
            assert_eq!(decode(&encode(text)).unwrap(), text);
        }
        assert_eq!(encode("a/b c"), "a%2Fb%20c");
        assert_eq!(decode("a%2fb+c").unwrap(), "a/b+c");
    }

    #[test]
    fn half_an_escape_and_what_is_no_text_are_refused() {
        for wrong in ["%", "%4", "%4g", "%+1", "%ff", "a%c3", "%\u{e9}"] {
            assert!(decode(wrong).is_err(), "{wrong}");
        }
    }
}
