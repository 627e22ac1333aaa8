// SPDX-License-Identifier: MIT OR Apache-2.0
//! The API socket's language: a JSON object asks for something, another one answers.
//!
//! | request | answer |
//! |---|---|
//! | `{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":8080,"guest_port":80}}` | `{"return":{"id":1}}` |
//! | `{"execute":"list_hostfwd"}` | `{"return":{"entries":[...]},"entries":[...]}` |
//! | `{"execute":"remove_hostfwd","arguments":{"id":1}}` | `{"return":{}}` |
//!
//! `host_addr` is any address unless it is named, `guest_addr` the interface's. The list is said twice, as the manual has
//! it and as slirp4netns does it. What is wrong with a request is said as `{"error":{"desc":"..."}}` in the words that
//! slirp4netns has for it.

pub(super) mod server;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Serialize;
use serde_json::{Map, Value, json};
use wharf_stack::host::Transport;

use super::forward::{Forward, Forwards, Publisher, name};
use super::say;

/// A request has less bytes than this.
const MAX_REQUEST: usize = 4096;

/// What there is to answer with.
pub(super) struct Api<P: Publisher> {
    forwards: Forwards<P>,
    /// The address of the interface.
    guest: Ipv4Addr,
}

/// What was read of a request so far.
#[derive(Clone, Debug, PartialEq)]
enum Parsed {
    Whole(Value),
    /// It may become one.
    Part,
    Broken,
}

/// What follows the first value is nobody's: programs in C send the zero behind their text too.
fn parse(bytes: &[u8]) -> Parsed {
    match serde_json::Deserializer::from_slice(bytes).into_iter().next() {
        Some(Ok(value)) => Parsed::Whole(value),
        None => Parsed::Part,
        Some(Err(error)) if error.is_eof() => Parsed::Part,
        Some(Err(_)) => Parsed::Broken,
    }
}

#[derive(Serialize)]
struct Entry {
    id: u64,
    proto: &'static str,
    host_addr: IpAddr,
    host_port: u16,
    guest_addr: IpAddr,
    guest_port: u16,
}

/// Why a request is not followed, without the words in front.
type Refused = &'static str;

const NOT_JSON: Refused = "cannot parse JSON";
const TOO_LARGE: Refused = "too large message";

fn error(refused: Refused) -> String {
    json!({ "error": { "desc": format!("bad request: {refused}") } }).to_string()
}

impl<P: Publisher> Api<P> {
    pub(super) fn new(publisher: P, guest: Ipv4Addr) -> Self {
        Self { forwards: Forwards::new(publisher), guest }
    }

    /// Answers what a client has sent, if that is a whole request or can never become one. With `is_all` no more comes.
    fn answer(&mut self, request: &[u8], is_all: bool) -> Option<String> {
        if request.len() >= MAX_REQUEST {
            return Some(error(TOO_LARGE));
        }
        let result = match parse(request) {
            Parsed::Whole(value) => self.execute(&value),
            Parsed::Part if !is_all => return None,
            Parsed::Part | Parsed::Broken => Err(NOT_JSON),
        };
        Some(result.unwrap_or_else(error))
    }

    fn execute(&mut self, request: &Value) -> Result<String, Refused> {
        let request = request.as_object().ok_or("json_object() failed")?;
        let arguments = request.get("arguments").and_then(Value::as_object);
        let execute = request.get("execute").and_then(Value::as_str).ok_or("no execute found")?;
        match execute {
            "add_hostfwd" => self.add(arguments.unwrap_or(&Map::new())),
            "list_hostfwd" => Ok(self.list()),
            "remove_hostfwd" => self.remove(arguments.unwrap_or(&Map::new())),
            _ => Err("unknown execute"),
        }
    }

    fn add(&mut self, arguments: &Map<String, Value>) -> Result<String, Refused> {
        let transport =
            arguments.get("proto").and_then(transport).ok_or("add_hostfwd: bad arguments.proto")?;
        let host = address(arguments.get("host_addr"), Ipv4Addr::UNSPECIFIED.into())
            .ok_or("add_hostfwd: bad arguments.host_addr")?;
        let host_port = port(arguments.get("host_port")).ok_or("add_hostfwd: bad arguments.host_port")?;
        let guest = address(arguments.get("guest_addr"), self.guest.into())
            .ok_or("add_hostfwd: bad arguments.guest_addr")?;
        let guest_port = port(arguments.get("guest_port")).ok_or("add_hostfwd: bad arguments.guest_port")?;
        let (host, guest) = (SocketAddr::new(host, host_port), SocketAddr::new(guest, guest_port));
        let forward = Forward { transport, host, guest };
        match self.forwards.add(forward) {
            Ok(id) => Ok(json!({ "return": { "id": id } }).to_string()),
            Err(error) => {
                say(&format_args!("add_hostfwd: {forward}: {}", super::said(&error)));
                Err("add_hostfwd: slirp_add_hostfwd failed")
            }
        }
    }

    fn list(&self) -> String {
        let entry = |(id, forward): (u64, &Forward)| Entry {
            id,
            proto: name(forward.transport),
            host_addr: forward.host.ip(),
            host_port: forward.host.port(),
            guest_addr: forward.guest.ip(),
            guest_port: forward.guest.port(),
        };
        let entries: Vec<Entry> = self.forwards.iter().map(entry).collect();
        // Numbers and addresses: nothing that JSON does not have.
        let entries = serde_json::to_string(&entries).unwrap_or_default();
        format!(r#"{{"return":{{"entries":{entries}}},"entries":{entries}}}"#)
    }

    fn remove(&mut self, arguments: &Map<String, Value>) -> Result<String, Refused> {
        let id = arguments.get("id").and_then(whole).filter(|&id| self.forwards.remove(id));
        id.ok_or("remove_hostfwd: bad arguments.id")?;
        Ok(json!({ "return": {} }).to_string())
    }
}

fn transport(value: &Value) -> Option<Transport> {
    let text = value.as_str()?;
    [Transport::Tcp, Transport::Udp].into_iter().find(|&transport| name(transport) == text)
}

/// An address, which need not be there.
fn address(value: Option<&Value>, default: IpAddr) -> Option<IpAddr> {
    match value {
        None | Some(Value::Null) => Some(default),
        Some(value) => match value.as_str()? {
            "" => Some(default),
            text => text.parse().ok(),
        },
    }
}

/// A whole number, however it is written: some languages have no other numbers than 80.0.
fn whole(value: &Value) -> Option<u64> {
    let written = || value.as_f64().filter(|number| number.fract() == 0.0)?.to_string().parse().ok();
    value.as_u64().or_else(written)
}

fn port(value: Option<&Value>) -> Option<u16> {
    value.and_then(whole).and_then(|port| u16::try_from(port).ok()).filter(|&port| port != 0)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Publishes everything but what stands on port 1.
    struct Board;

    impl Publisher for Board {
        type Published = ();

        fn publish(&mut self, forward: &Forward) -> io::Result<()> {
            if forward.host.port() == 1 { Err(io::ErrorKind::AddrInUse.into()) } else { Ok(()) }
        }

        fn withdraw(&mut self, (): ()) {}
    }

    fn api() -> Api<Board> {
        Api::new(Board, Ipv4Addr::new(10, 0, 2, 100))
    }

    #[track_caller]
    fn says(api: &mut Api<Board>, request: &str, answer: &str) {
        assert_eq!(api.answer(request.as_bytes(), true).as_deref(), Some(answer), "{request}");
    }

    fn add(arguments: &str) -> String {
        format!(r#"{{"execute":"add_hostfwd","arguments":{{{arguments}}}}}"#)
    }

    #[test]
    fn ports_are_published_listed_and_removed_under_their_numbers() {
        let api = &mut api();
        says(api, r#"{"execute":"list_hostfwd"}"#, r#"{"return":{"entries":[]},"entries":[]}"#);
        says(api, &add(r#""proto":"tcp","host_port":8080,"guest_port":80"#), r#"{"return":{"id":1}}"#);
        let udp = r#""proto":"udp","host_addr":"127.0.0.1","host_port":53,"guest_addr":"10.0.2.9","guest_port":5353"#;
        says(api, &add(udp), r#"{"return":{"id":2}}"#);
        says(api, &add(r#""proto":"tcp","host_port":90.0,"guest_port":9e1"#), r#"{"return":{"id":3}}"#);
        says(api, r#"{"execute":"remove_hostfwd","arguments":{"id":3.0}}"#, r#"{"return":{}}"#);
        let first = r#"{"id":1,"proto":"tcp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}"#;
        let second = r#"{"id":2,"proto":"udp","host_addr":"127.0.0.1","host_port":53,"guest_addr":"10.0.2.9","guest_port":5353}"#;
        let both = format!(r#"{{"return":{{"entries":[{first},{second}]}},"entries":[{first},{second}]}}"#);
        says(api, r#"{"execute":"list_hostfwd"}"#, &both);
        says(api, r#"{"execute":"remove_hostfwd","arguments":{"id":1}}"#, r#"{"return":{}}"#);
        says(
            api,
            r#"{"execute":"remove_hostfwd","arguments":{"id":1}}"#,
            r#"{"error":{"desc":"bad request: remove_hostfwd: bad arguments.id"}}"#,
        );
        says(
            api,
            &add(r#""proto":"tcp","host_addr":"","host_port":65535,"guest_addr":"","guest_port":1"#),
            r#"{"return":{"id":4}}"#,
        );
        says(
            api,
            &add(r#""proto":"tcp","host_addr":"::","host_port":2,"guest_port":1"#),
            r#"{"return":{"id":5}}"#,
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_the_usual_words() {
        let with =
            |arguments: &str| add(&format!(r#""proto":"tcp","host_port":2,"guest_port":3,{arguments}"#));
        for (request, desc) in [
            (String::new(), "cannot parse JSON"),
            ("{".to_owned(), "cannot parse JSON"),
            ("{]".to_owned(), "cannot parse JSON"),
            ("[]".to_owned(), "json_object() failed"),
            ("7".to_owned(), "json_object() failed"),
            ("{}".to_owned(), "no execute found"),
            (r#"{"execute":1}"#.to_owned(), "no execute found"),
            (r#"{"execute":"bogus"}"#.to_owned(), "unknown execute"),
            (r#"{"execute":"add_hostfwd"}"#.to_owned(), "add_hostfwd: bad arguments.proto"),
            (add(r#""host_port":2,"guest_port":3"#), "add_hostfwd: bad arguments.proto"),
            (with(r#""proto":"TCP""#), "add_hostfwd: bad arguments.proto"),
            (with(r#""proto":7"#), "add_hostfwd: bad arguments.proto"),
            (with(r#""host_addr":"localhost""#), "add_hostfwd: bad arguments.host_addr"),
            (with(r#""host_addr":7"#), "add_hostfwd: bad arguments.host_addr"),
            (with(r#""host_port":0"#), "add_hostfwd: bad arguments.host_port"),
            (with(r#""host_port":65536"#), "add_hostfwd: bad arguments.host_port"),
            (with(r#""host_port":-1"#), "add_hostfwd: bad arguments.host_port"),
            (with(r#""host_port":80.5"#), "add_hostfwd: bad arguments.host_port"),
            (with(r#""host_port":"80""#), "add_hostfwd: bad arguments.host_port"),
            (add(r#""proto":"udp","guest_port":3"#), "add_hostfwd: bad arguments.host_port"),
            (with(r#""guest_addr":"x""#), "add_hostfwd: bad arguments.guest_addr"),
            (with(r#""guest_port":70000"#), "add_hostfwd: bad arguments.guest_port"),
            (with(r#""host_port":1"#), "add_hostfwd: slirp_add_hostfwd failed"),
            (r#"{"execute":"remove_hostfwd"}"#.to_owned(), "remove_hostfwd: bad arguments.id"),
            (
                r#"{"execute":"remove_hostfwd","arguments":{"id":"1"}}"#.to_owned(),
                "remove_hostfwd: bad arguments.id",
            ),
            (" ".repeat(4096), "too large message"),
        ] {
            says(&mut api(), &request, &format!(r#"{{"error":{{"desc":"bad request: {desc}"}}}}"#));
        }
    }

    #[test]
    fn a_request_in_parts_is_answered_when_it_is_whole() {
        let request = "{\"execute\":\"list_hostfwd\"}\n".as_bytes();
        let api = &mut api();
        for len in 0..request.len() - 2 {
            assert_eq!(api.answer(&request[..len], false), None, "{len}");
        }
        for ending in ["", "\n", "\0", " and more"] {
            let whole = [request.trim_ascii_end(), ending.as_bytes()].concat();
            assert!(api.answer(&whole, false).is_some_and(|answer| answer.contains("entries")), "{ending:?}");
        }
        assert!(api.answer(b"{]", false).is_some());
    }
}
