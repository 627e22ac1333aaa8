// SPDX-License-Identifier: MIT OR Apache-2.0
//! Options as GNU programs read them: `getopt_long(3)`.
//!
//! # How it works
//! Options and operands come in any order, up to a `--`. A long option may be shortened as long as that is not ambiguous,
//! and has its value in the same word after `=`, or in the next; short ones may stand together in one word, the last with
//! its value behind it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// One option: what it is called, whether it has a value, and what it stands for.
#[derive(Debug)]
pub(super) struct Spec<T> {
    pub(super) long: &'static str,
    pub(super) short: Option<u8>,
    pub(super) has_value: bool,
    pub(super) meaning: T,
}

/// What an argument was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Argument<T> {
    /// An option, with its value if it has one.
    Option(T, Option<OsString>),
    /// Something else.
    Operand(OsString),
}

/// Why an argument is none, in the words that GNU programs have for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("unrecognized option '{0}'")]
    UnknownLong(String),
    #[error("invalid option -- '{0}'")]
    UnknownShort(char),
    #[error("option '{0}' is ambiguous; possibilities:{1}")]
    Ambiguous(String, String),
    #[error("option '--{0}' doesn't allow an argument")]
    NoValue(&'static str),
    #[error("option '{0}' requires an argument")]
    LongNeedsValue(String),
    #[error("option requires an argument -- '{0}'")]
    ShortNeedsValue(char),
}

/// The arguments, one by one.
#[derive(Debug)]
pub(super) struct Arguments<'a, T, I> {
    specs: &'a [Spec<T>],
    words: I,
    /// What is left of a word of short options.
    cluster: Vec<u8>,
    only_operands: bool,
}

impl<'a, T: Copy + PartialEq, I: Iterator<Item = OsString>> Arguments<'a, T, I> {
    pub(super) fn new(specs: &'a [Spec<T>], words: I) -> Self {
        Self { specs, words, cluster: Vec::new(), only_operands: false }
    }

    /// An option from a word without its `--`.
    fn long(&mut self, word: &[u8]) -> Result<Argument<T>, Error> {
        let (name, value) = match word.iter().position(|&byte| byte == b'=') {
            Some(at) => (word.get(..at).unwrap_or_default(), word.get(at + 1..)),
            None => (word, None),
        };
        let spec = self.spec(name)?;
        let value = match (spec.has_value, value) {
            (false, Some(_)) => return Err(Error::NoValue(spec.long)),
            (false, None) => None,
            (true, Some(value)) => Some(OsStr::from_bytes(value).to_owned()),
            (true, None) => {
                let next = self.words.next();
                Some(next.ok_or_else(|| Error::LongNeedsValue(dashed(name)))?)
            }
        };
        Ok(Argument::Option(spec.meaning, value))
    }

    /// The option called `name`, or the only one whose name begins so.
    fn spec(&self, name: &[u8]) -> Result<&'a Spec<T>, Error> {
        if let Some(spec) = self.specs.iter().find(|spec| spec.long.as_bytes() == name) {
            return Ok(spec);
        }
        let mut candidates = self.specs.iter().filter(|spec| spec.long.as_bytes().starts_with(name));
        let first = candidates.next().ok_or_else(|| Error::UnknownLong(dashed(name)))?;
        if candidates.all(|other| other.meaning == first.meaning) {
            return Ok(first);
        }
        let candidates = self.specs.iter().filter(|spec| spec.long.as_bytes().starts_with(name));
        Err(Error::Ambiguous(dashed(name), candidates.map(|spec| format!(" '--{}'", spec.long)).collect()))
    }

    /// The next option of a word of short ones.
    fn short(&mut self, letter: u8) -> Result<Argument<T>, Error> {
        let shown = char::from(letter);
        let spec = self.specs.iter().find(|spec| spec.short == Some(letter));
        let spec = spec.ok_or(Error::UnknownShort(shown))?;
        let value = match (spec.has_value, self.cluster.is_empty()) {
            (false, _) => None,
            (true, false) => Some(OsString::from_vec(std::mem::take(&mut self.cluster))),
            (true, true) => Some(self.words.next().ok_or(Error::ShortNeedsValue(shown))?),
        };
        Ok(Argument::Option(spec.meaning, value))
    }
}

fn dashed(name: &[u8]) -> String {
    format!("--{}", String::from_utf8_lossy(name))
}

impl<T: Copy + PartialEq, I: Iterator<Item = OsString>> Iterator for Arguments<'_, T, I> {
    type Item = Result<Argument<T>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.cluster.is_empty() {
            let letter = self.cluster.remove(0);
            return Some(self.short(letter));
        }
        let word = self.words.next()?;
        match word.as_bytes() {
            b"--" if !self.only_operands => {
                self.only_operands = true;
                self.words.next().map(|word| Ok(Argument::Operand(word)))
            }
            [b'-', b'-', name @ ..] if !self.only_operands => Some(self.long(name)),
            [b'-', letter, rest @ ..] if !self.only_operands => {
                self.cluster = rest.to_vec();
                Some(self.short(*letter))
            }
            _ => Some(Ok(Argument::Operand(word))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn spec(long: &'static str, short: Option<u8>, has_value: bool, meaning: char) -> Spec<char> {
        Spec { long, short, has_value, meaning }
    }

    const SPECS: &[Spec<char>] = &[
        spec("configure", Some(b'c'), false, 'c'),
        spec("mtu", Some(b'm'), true, 'm'),
        spec("enable-ipv6", Some(b'6'), false, '6'),
        spec("enable-sandbox", None, false, 's'),
        spec("enable-seccomp", None, false, 'x'),
        spec("outbound-addr", None, true, 'o'),
        spec("outbound-addr6", None, true, 'p'),
        spec("no-host-loopback", None, false, 'h'),
        spec("no-host-loop", None, false, 'h'),
    ];

    /// What the arguments are: options as a letter and their value, operands as they are, an error in the end.
    fn read(line: &str) -> String {
        let words = line.split_whitespace().map(OsString::from);
        let shown = Arguments::new(SPECS, words).map(|argument| match argument {
            Ok(Argument::Option(letter, None)) => format!("-{letter}"),
            Ok(Argument::Option(letter, Some(value))) => format!("-{letter}={}", value.to_string_lossy()),
            Ok(Argument::Operand(word)) => word.to_string_lossy().into_owned(),
            Err(error) => format!("{error}"),
        });
        shown.collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn options_and_operands_come_in_any_order_and_form() {
        for (line, expected) in [
            ("", ""),
            ("-c 42 tap0", "-c | 42 | tap0"),
            ("42 --mtu 1500 tap0 -c", "42 | -m=1500 | tap0 | -c"),
            ("--mtu=65520 -m 9000 -m1400", "-m=65520 | -m=9000 | -m=1400"),
            ("--mtu= 1", "-m= | 1"),
            ("-c6m 1500 -6cm1500", "-c | -6 | -m=1500 | -6 | -c | -m=1500"),
            ("--conf --mt 5 --enable-i", "-c | -m=5 | -6"),
            ("--outbound-addr 192.0.2.1 --outbound-addr6=2001:db8::1", "-o=192.0.2.1 | -p=2001:db8::1"),
            ("--no-host", "-h"),
            ("-c -- -c --mtu", "-c | -c | --mtu"),
            ("- -c", "- | -c"),
            ("-m -c", "-m=-c"),
        ] {
            assert_eq!(read(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_option_is_told_in_the_usual_words() {
        for (line, expected) in [
            ("--bogus", "unrecognized option '--bogus'"),
            ("--bogus=1", "unrecognized option '--bogus'"),
            ("-z", "invalid option -- 'z'"),
            ("--mtu", "option '--mtu' requires an argument"),
            ("-cm", "-c | option requires an argument -- 'm'"),
            ("--configure=yes", "option '--configure' doesn't allow an argument"),
            (
                "--enable-s",
                "option '--enable-s' is ambiguous; possibilities: '--enable-sandbox' '--enable-seccomp'",
            ),
            (
                "--outb 1",
                "option '--outb' is ambiguous; possibilities: '--outbound-addr' '--outbound-addr6' | 1",
            ),
        ] {
            assert_eq!(read(line), expected, "{line}");
        }
    }

    #[test]
    fn words_need_not_be_text() {
        let word = OsString::from_vec(b"/run/\xff".to_vec());
        let mut arguments = Arguments::new(SPECS, [word.clone()].into_iter());
        assert_eq!(arguments.next(), Some(Ok(Argument::Operand(word))));
    }
}
