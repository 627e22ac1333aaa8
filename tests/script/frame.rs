// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a script's words to the bytes of a frame.

use std::net::{IpAddr, SocketAddr};

use crate::Flow;
use crate::stage::CONTAINER_MAC;
use crate::stage::frames::{self, Tcp};
use wharf_stack::local::dns::message::kind;
use wharf_stack::local::name;

/// The frame that `words` describe.
pub(crate) fn parse(words: &str, flow: &Flow) -> Result<Vec<u8>, String> {
    if let Some(rest) = words.strip_prefix("broadcast ") {
        let mut frame = parse(rest, flow)?;
        frame[..6].fill(0xff);
        return Ok(frame);
    }
    let (hop_limit, words) = match words.strip_prefix("ttl ") {
        None => (64, words),
        Some(rest) => {
            let (number, rest) = rest.split_once(' ').ok_or("a number")?;
            (number.parse().map_err(|_| "a number")?, rest)
        }
    };
    let (kind, rest) = words.split_once(' ').unwrap_or((words, ""));
    match kind {
        "hex" => hex(rest),
        "tcp" => tcp(rest, hop_limit, flow),
        "udp" => {
            let (src, dst, rest) = ends::<SocketAddr>(rest)?;
            Ok(frames::udp(src, dst, hop_limit, &data(rest)?))
        }
        "icmp" => {
            let (src, dst, rest) = ends::<IpAddr>(rest)?;
            let body = hex(rest)?;
            let [kind, code, body @ ..] = &body[..] else { return Err("type and code".into()) };
            Ok(frames::icmp(src, dst, hop_limit, *kind, *code, body))
        }
        "unreachable" => unreachable(rest, flow),
        "fragment" => fragment(rest),
        "arp" => arp(rest),
        "dhcp" => dhcp(rest),
        "dns" => dns(rest),
        _ => Err(format!("no such frame: {kind}")),
    }
}

/// Bytes: a number of them, or a literal.
pub(crate) fn data(words: &str) -> Result<Vec<u8>, String> {
    let words = words.trim();
    if let Some(literal) = words.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        return Ok(literal.as_bytes().to_vec());
    }
    let len: usize = words.parse().map_err(|_| format!("no data: {words}"))?;
    Ok((b'a'..=b'z').cycle().take(len).collect())
}

fn hex(words: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u32> = words.chars().filter_map(|letter| letter.to_digit(16)).collect();
    if !digits.len().is_multiple_of(2) {
        return Err("half a byte".into());
    }
    Ok(digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
}

/// `A > B rest`
fn ends<T: std::str::FromStr>(words: &str) -> Result<(T, T, &str), String> {
    let (src, rest) = words.split_once(" > ").ok_or("A > B")?;
    let (dst, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let parse = |word: &str| word.parse().map_err(|_| format!("no address: {word}"));
    Ok((parse(src)?, parse(dst)?, rest))
}

/// `FLAGS SEQ:END(LEN) [ack N] [win N] [<options>] ["data"]`
fn tcp(words: &str, hop_limit: u8, flow: &Flow) -> Result<Vec<u8>, String> {
    let mut header = Tcp { window: 65_535, ..Tcp::default() };
    let mut payload = Vec::new();
    let (words, literal) = match words.split_once('"') {
        Some((words, literal)) => (words, Some(literal.trim_end_matches('"'))),
        None => (words, None),
    };
    let (words, options) = match words.split_once('<') {
        Some((words, options)) => (words, options.trim().trim_end_matches('>')),
        None => (words, ""),
    };
    let mut words = words.split_whitespace();
    words.next().ok_or("flags")?.clone_into(&mut header.flags);
    let span = words.next().ok_or("numbers")?;
    let (seq, rest) = span.split_once(':').ok_or("SEQ:END(LEN)")?;
    header.seq = seq.parse().map_err(|_| "SEQ")?;
    let len = rest.split_once('(').ok_or("(LEN)")?.1.trim_end_matches(')');
    let len: usize = len.parse().map_err(|_| "LEN")?;
    payload.extend(data(&len.to_string())?);
    if let Some(literal) = literal {
        payload = literal.as_bytes().to_vec();
    }
    if payload.len() != len {
        return Err("the data has another length".into());
    }
    while let Some(word) = words.next() {
        let number = words.next().and_then(|number| number.parse::<u32>().ok()).ok_or("a number")?;
        match word {
            "ack" => header.ack = number.wrapping_add(flow.first.unwrap_or(0)),
            "win" => header.window = number as u16,
            _ => return Err(format!("no such field: {word}")),
        }
    }
    for option in options.split(',').filter(|option| !option.trim().is_empty()) {
        let words: Vec<&str> = option.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u32>().ok()).ok_or("a number");
        match words[0] {
            "mss" => header.options.extend([&[2, 4][..], &(number(1)? as u16).to_be_bytes()].concat()),
            "sackOK" => header.options.extend([4, 2]),
            "wscale" => header.options.extend([3, 3, number(1)? as u8]),
            "nop" => header.options.push(1),
            "TS" => header.options.extend([8, 10, 0, 0, 0, 1, 0, 0, 0, 0]),
            "sack" => {
                header.options.extend([5, 10]);
                for at in [1, 2] {
                    let number = number(at)?.wrapping_add(flow.first.unwrap_or(0));
                    header.options.extend(number.to_be_bytes());
                }
            }
            other => return Err(format!("no such option: {other}")),
        }
    }
    Ok(frames::tcp(flow.container, flow.remote, hop_limit, &header, &payload))
}

/// `CODE quotes SEQ`: the container cannot deliver the gateway's segment with this number.
fn unreachable(words: &str, flow: &Flow) -> Result<Vec<u8>, String> {
    let (code, seq) = words.split_once(" quotes ").ok_or("CODE quotes SEQ")?;
    let seq: u32 = seq.parse().map_err(|_| "SEQ")?;
    let seq = seq.wrapping_add(flow.first.unwrap_or(0));
    let header = Tcp { flags: "S".into(), seq, window: 65_535, ..Tcp::default() };
    let quoted = frames::tcp(flow.remote, flow.container, 64, &header, &[]);
    let (container, remote) = (flow.container.ip(), flow.remote.ip());
    let kind = if container.is_ipv4() { 3 } else { 1 };
    let body = [&[0; 4], &quoted[frames::ETHERNET..]].concat();
    Ok(frames::icmp(container, remote, 64, kind, code.parse().map_err(|_| "CODE")?, &body))
}

/// `A > B id N offset N [more] LEN`
fn fragment(words: &str) -> Result<Vec<u8>, String> {
    let (src, dst, rest) = ends::<IpAddr>(words)?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u16>().ok()).ok_or("a number");
    let more = words.contains(&"more");
    let len: usize = number(words.len() - 1)?.into();
    Ok(frames::fragment(src, dst, number(1)?, number(3)?, more, &data(&len.to_string())?))
}

/// `who-has TARGET tell SENDER`, or `ADDRESS is here`, which tells the gateway
fn arp(words: &str) -> Result<Vec<u8>, String> {
    let words: Vec<&str> = words.split_whitespace().collect();
    let (operation, target, sender) = match words[..] {
        ["who-has", target, "tell", sender] => (1, target, sender),
        [sender, "is", "here"] => (2, "10.0.2.2", sender),
        _ => return Err("who-has A tell B, or A is here".into()),
    };
    let octets = |word: &str| word.parse::<std::net::Ipv4Addr>().map(|address| address.octets());
    let (target, sender) = (octets(target).map_err(|_| "address")?, octets(sender).map_err(|_| "address")?);
    Ok(frames::arp(operation, CONTAINER_MAC, sender, target))
}

/// `A > B NAME TYPE`: a query with id 1 that wants recursion
fn dns(words: &str) -> Result<Vec<u8>, String> {
    let (src, dst, rest) = ends::<SocketAddr>(words)?;
    let (name, kind) = rest.split_once(' ').ok_or("NAME TYPE")?;
    let kind = match kind {
        "A" => kind::A,
        "AAAA" => kind::AAAA,
        "PTR" => kind::PTR,
        _ => return Err(format!("no such type: {kind}")),
    };
    let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(name::encode(name).ok_or("a name")?);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    Ok(frames::udp(src, dst, 64, &message))
}

/// `discover`, `request A server B`
fn dhcp(words: &str) -> Result<Vec<u8>, String> {
    let words: Vec<&str> = words.split_whitespace().collect();
    let octets = |word: &str| word.parse::<std::net::Ipv4Addr>().map(|address| address.octets());
    match words[..] {
        ["discover"] => Ok(frames::dhcp(1, 1, &[])),
        ["request", address, "server", server] => {
            let mut options = vec![50, 4];
            options.extend(octets(address).map_err(|_| "address")?);
            options.extend([54, 4]);
            options.extend(octets(server).map_err(|_| "address")?);
            Ok(frames::dhcp(1, 3, &options))
        }
        _ => Err("discover, or request A server B".into()),
    }
}
