// SPDX-License-Identifier: MIT OR Apache-2.0
//! A domain name as the wire has it: labels, each with its length in front, and an empty one at the end.
//!
//! # Sources
//! RFC 1035 sections 2.3.4 and 3.1.

/// RFC 1035 section 2.3.4: "labels 63 octets or less".
const MAX_LABEL_LEN: usize = 63;
/// RFC 1035 section 2.3.4: "names 255 octets or less".
pub const MAX_NAME_LEN: usize = 255;

/// Writes a dotted name as labels, without compression. `None` when it is no valid name.
#[must_use]
pub fn encode(name: &str) -> Option<Vec<u8>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        let len = u8::try_from(label.len()).ok()?;
        if label.is_empty() || label.len() > MAX_LABEL_LEN || label.contains(char::is_whitespace) {
            return None;
        }
        bytes.push(len);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    (bytes.len() <= MAX_NAME_LEN).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dotted_name_becomes_labels() {
        assert_eq!(encode("eng.example").unwrap(), b"\x03eng\x07example\x00");
        assert_eq!(encode("eng.example."), encode("eng.example"));
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let label = "a".repeat(63);
        assert!(encode(&label).is_some());
        for name in ["", ".", "a..b", "a b", &"a".repeat(64), &[&*label, &label, &label, &label].join(".")] {
            assert_eq!(encode(name), None, "{name}");
        }
    }
}
