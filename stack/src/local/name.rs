// SPDX-License-Identifier: MIT OR Apache-2.0
//! A domain name as the wire has it: labels, each with its length in front, and an empty one at the end.
//!
//! # Sources
//! RFC 1035 sections 2.3.4 and 3.1.

/// RFC 1035 section 2.3.4: "labels 63 octets or less".
pub const MAX_LABEL_LEN: usize = 63;
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

/// Whether a label is one that hosts are called by. Underscores are no host's by RFC 1123 section 2.1, and many a container's.
#[must_use]
pub fn is_host_label(label: &str) -> bool {
    let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_LABEL_LEN).contains(&label.len())
        && label.bytes().all(is_inside)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Whether a name, as labels, is `ancestor` or lies below it. Names are compared label by label and without regard to case
/// (RFC 1035 section 2.3.3).
#[must_use]
pub fn is_at_or_below(mut name: &[u8], ancestor: &[u8]) -> bool {
    while name.len() > ancestor.len() {
        let label_len = name.first().map_or(0, |&len| usize::from(len));
        name = name.get(1 + label_len..).unwrap_or_default();
    }
    name.eq_ignore_ascii_case(ancestor)
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
