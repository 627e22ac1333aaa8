// SPDX-License-Identifier: MIT OR Apache-2.0
//! `docs/openapi.json` says what the server does, and nothing else.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::schema::{check, resolve};
use super::*;
use crate::control::api::routes::{Handler, ROUTES};
use crate::control::error::{Body, Code, Error};
use crate::control::model::{
    Allow, CreateNetwork, Drops, Event, Flow, Info, Lease, Lost, LostTag, Network, Port, Publication,
    Reloaded, Stats, Subnet, Traffic, Transport,
};
use crate::publish::HostAddress;

fn document() -> Value {
    serde_json::from_str(include_str!("../../../../docs/openapi.json")).unwrap()
}

fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, methods)| {
        methods
            .as_object()
            .unwrap()
            .iter()
            .map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
    })
}

#[test]
fn the_document_and_the_server_have_the_same_routes() {
    let document = document();
    let said: BTreeSet<_> = operations(&document)
        .map(|(path, method, operation)| {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let names = parameters.map(|parameter| {
                let parameter = resolve(&document, parameter);
                format!("{}:{}", parameter["in"].as_str().unwrap(), parameter["name"].as_str().unwrap())
            });
            let has_body = operation["requestBody"].is_object();
            (path.to_owned(), method.to_uppercase(), has_body, names.collect::<BTreeSet<_>>())
        })
        .collect();
    let done: BTreeSet<_> = ROUTES
        .iter()
        .map(|route| {
            let item =
                route.path.split_once('{').map(|(_, item)| format!("path:{}", item.trim_end_matches('}')));
            let parameters = route.parameters.iter().map(|name| format!("query:{name}")).chain(item);
            let has_body = matches!(route.handler, Handler::Tell(_));
            (route.path.to_owned(), route.method.to_string(), has_body, parameters.collect())
        })
        .collect();
    assert_eq!(said, done);
}

#[test]
fn the_document_has_every_code_with_its_status() {
    let document = document();
    let codes: Vec<Value> = Code::ALL.iter().map(|code| json!(code)).collect();
    let failure = &document["components"]["schemas"]["Failure"];
    assert_eq!(failure["properties"]["error"]["properties"]["code"]["enum"], Value::Array(codes));
    for code in Code::ALL {
        let (name, status) = (json!(code), code.http_status().to_string());
        let is_said = operations(&document).any(|(.., operation)| {
            let response = resolve(&document, &operation["responses"][&status]);
            response["description"].as_str().is_some_and(|text| text.contains(name.as_str().unwrap()))
        });
        assert!(is_said, "{name} has status {status}");
    }
}

#[test]
fn the_document_defines_nothing_that_it_does_not_use() {
    let document = document();
    let text = document.to_string();
    for (kind, parts) in document["components"].as_object().unwrap() {
        for name in parts.as_object().unwrap().keys() {
            assert!(text.contains(&format!("\"#/components/{kind}/{name}\"")), "{kind}/{name}");
        }
    }
}

/// Checks an answer against what the document says of the operation.
fn check_answer(document: &Value, operation: &Value, status: u16, body: &str) {
    let response = resolve(document, &operation["responses"][status.to_string()]);
    let id = &operation["operationId"];
    assert!(response.is_object(), "{id} answers {status}: {body}");
    match response["content"].as_object().map(|content| content.iter().next().unwrap()) {
        None => assert_eq!(body, "", "{id}"),
        Some((kind, content)) if kind == "application/json" => {
            let body = serde_json::from_str(body).unwrap();
            check(document, &content["schema"], &body).unwrap_or_else(|error| panic!("{id}: {error}"));
        }
        Some(_) => assert_ne!(body, "", "{id}"),
    }
}

#[tokio::test]
async fn every_path_answers_as_the_document_says() {
    let document = document();
    let stage = Stage::new(Mode::Daemon);
    let publication = stage.registry.publications(None).unwrap().remove(0).id;
    let ports = json!({"network": "default", "ports": "127.0.0.1:0:web:80"}).to_string();
    let spec = json!({"ipv6": false, "mtu": 1500, "memory": "1M", "dns": ["192.0.2.53"]});
    let network = json!({"name": "other", "spec": spec}).to_string();
    let calls = [
        ("get", "/v1/info", String::new(), String::new(), 200),
        ("get", "/v1/networks", String::new(), String::new(), 200),
        ("post", "/v1/networks", String::new(), network, 201),
        ("get", "/v1/ports", "?network=default".to_owned(), String::new(), 200),
        ("get", "/v1/leases", String::new(), String::new(), 200),
        (
            "get",
            "/v1/flows",
            "?protocol=tcp&container=web&state=established&network=default".to_owned(),
            String::new(),
            200,
        ),
        ("get", "/v1/stats", String::new(), String::new(), 200),
        ("get", "/v1/publications", String::new(), String::new(), 200),
        ("post", "/v1/publications", String::new(), ports, 201),
        ("delete", "/v1/publications/{id}", publication.to_string(), String::new(), 200),
        ("delete", "/v1/ports/{name}", "web?network=default".to_owned(), String::new(), 204),
        ("delete", "/v1/networks/{name}", "other".to_owned(), String::new(), 204),
        ("post", "/v1/reload", String::new(), String::new(), 400),
        ("get", "/v1/openapi.json", String::new(), String::new(), 200),
        ("get", "/metrics", String::new(), String::new(), 200),
        ("post", "/v1/shutdown", String::new(), String::new(), 202),
    ];
    for (method, path, item, body, status) in &calls {
        let target = format!("{}{item}", path.split('{').next().unwrap());
        let (got, answer) = stage.ask(&method.to_uppercase(), &target, body).await;
        assert_eq!(got, *status, "{method} {target}: {answer}");
        check_answer(&document, &document["paths"][path][method], got, &answer);
    }
    // The stream has a test of its own, and its events have one below.
    let called: BTreeSet<_> =
        calls.iter().map(|(method, path, ..)| (*path, *method)).chain([("/v1/events", "get")]).collect();
    assert_eq!(
        operations(&document).map(|(path, method, _)| (path, method)).collect::<BTreeSet<_>>(),
        called
    );
}

#[tokio::test]
async fn failures_are_among_those_that_the_document_names() {
    let document = document();
    let too_large = " ".repeat(70_000);
    for stage in [Stage::new(Mode::Daemon), Stage::new(Mode::Run)] {
        for (path, method, operation) in operations(&document) {
            for (query, body) in
                [("?bogus=1", ""), ("?network=none", ""), ("", "{}"), ("", "{]"), ("", &too_large)]
            {
                let target = format!("{}{query}", path.replace("{name}", "none").replace("{id}", "99"));
                // A stream does not end.
                if path == "/v1/events" && query == "?network=none" {
                    continue;
                }
                let (status, answer) = stage.ask(&method.to_uppercase(), &target, body).await;
                assert!(status >= 400, "{method} {target}: {status}");
                check_answer(&document, operation, status, &answer);
            }
        }
    }
}

#[tokio::test]
async fn what_a_run_does_not_do_is_told_as_the_document_says() {
    let document = document();
    let stage = Stage::new(Mode::Run);
    for (method, path, item, body) in [
        ("post", "/v1/networks", "", r#"{"name":"other"}"#),
        ("delete", "/v1/networks/{name}", "default", ""),
        ("delete", "/v1/ports/{name}", "web", ""),
        ("post", "/v1/reload", "", ""),
        ("post", "/v1/shutdown", "", ""),
    ] {
        let target = format!("{}{item}", path.split('{').next().unwrap());
        let (status, answer) = stage.ask(&method.to_uppercase(), &target, body).await;
        assert_eq!(status, 501, "{method} {target}: {answer}");
        check_answer(&document, &document["paths"][path][method], status, &answer);
    }
}

fn network() -> Network {
    Network {
        name: "default".to_owned(),
        ipv4: Some(Subnet {
            subnet: "192.0.2.0/24".to_owned(),
            gateway: [192, 0, 2, 2].into(),
            dns: [192, 0, 2, 3].into(),
        }),
        ipv6: None,
        nat64: None,
        domain: Some("default.internal".to_owned()),
        mtu: 1500,
        workers: 1,
        internal: false,
        isolated: false,
        links: vec!["other".to_owned()],
        waiting_links: vec!["later".to_owned()],
        host_loopback: false,
        host_sockets: vec!["80:/run/web.sock".to_owned()],
        ports: 1,
        up: true,
    }
}

fn port() -> Port {
    Port {
        network: "default".to_owned(),
        name: "web".to_owned(),
        aliases: vec!["www".to_owned()],
        id: "1.0".to_owned(),
        kind: PortKind::Tap,
        at: "pid 4711".to_owned(),
        interface: Some("eth0".to_owned()),
        mac: "02:00:00:00:00:0a".to_owned(),
        ipv4: Some([192, 0, 2, 10].into()),
        ipv6: None,
        vlan: Some(5),
        isolated: true,
        allow: vec![Allow::AnyMac, Allow::AnyAddress, Allow::Dhcp, Allow::Router],
        age_secs: 1,
        rx_frames: 2,
        rx_bytes: 3,
        tx_frames: 4,
        tx_bytes: 5,
    }
}

fn flow() -> Flow {
    Flow {
        network: "default".to_owned(),
        protocol: "tcp".to_owned(),
        direction: "outbound".to_owned(),
        internal: ([192, 0, 2, 10], 1).into(),
        container: Some("web".to_owned()),
        external: Some(([198, 51, 100, 1], 2).into()),
        destination: Some(([203, 0, 113, 1], 3).into()),
        translated: None,
        state: "established".to_owned(),
        age_secs: 1,
        idle_secs: Some(2),
        bytes_sent: 3,
        bytes_received: 4,
    }
}

fn publication(transport: Transport) -> Publication {
    Publication {
        id: 1,
        network: "default".to_owned(),
        transport,
        host: HostAddress::Inet(([127, 0, 0, 1], 8080).into()),
        interface: Some("lo".to_owned()),
        proxy: true,
        auto: true,
        container: Some("web".to_owned()),
        target: ([192, 0, 2, 10], 80).into(),
    }
}

fn lease(expires_secs: Option<u64>) -> Lease {
    Lease {
        network: "default".to_owned(),
        address: [192, 0, 2, 10].into(),
        mac: "02:00:00:00:00:0a".to_owned(),
        name: Some("web".to_owned()),
        state: "bound".to_owned(),
        expires_secs,
    }
}

fn stats() -> Stats {
    let drops = |at: &str, class: &str| Drops {
        at: at.to_owned(),
        reason: "SamePort".to_owned(),
        class: class.to_owned(),
        text: "the destination is behind the same port".to_owned(),
        count: 1,
    };
    Stats {
        network: "default".to_owned(),
        frames: crate::control::model::Frames::default(),
        drops: vec![
            drops("switch", "malformed"),
            drops("gateway", "elsewhere"),
            drops("gateway", "policy"),
            drops("switch", "exhausted"),
        ],
        load: crate::control::model::Load::default(),
        ports: [("web".to_owned(), Traffic::default())].into(),
    }
}

fn events() -> Vec<EventKind> {
    let (name, mac) = ("web".to_owned(), "02:00:00:00:00:0a".to_owned());
    vec![
        EventKind::NetworkUp,
        EventKind::NetworkDown,
        EventKind::NetworkLost,
        EventKind::Attach { name: name.clone(), mac: mac.clone(), addresses: vec![[192, 0, 2, 10].into()] },
        EventKind::Detach { name: name.clone(), reason: "it ended".to_owned() },
        EventKind::Lease { address: [192, 0, 2, 10].into(), mac },
        EventKind::Publish(publication(Transport::Tcp)),
        EventKind::Unpublish(publication(Transport::Udp)),
        EventKind::PublishFailed {
            name,
            transport: Transport::Tcp,
            port: 80,
            reason: "the port is in use".to_owned(),
        },
        EventKind::Guard { name: Some("web".to_owned()), reason: "arp_forged".to_owned(), count: 7 },
    ]
}

#[test]
fn what_is_sent_is_of_its_schema() {
    let document = document();
    let check = |name: &str, value: Value| {
        check(&document, &document["components"]["schemas"][name], &value)
            .unwrap_or_else(|error| panic!("{name}: {error}: {value}"));
    };
    for mode in [Mode::Daemon, Mode::Run] {
        check("Info", json!(Info { version: "0.1.0".to_owned(), api: 1, pid: 1, mode }));
    }
    check("Network", json!(network()));
    for kind in [PortKind::Tap, PortKind::Veth, PortKind::Stream] {
        check("Port", json!(Port { kind, ..port() }));
    }
    check("Flow", json!(flow()));
    check(
        "Flow",
        json!(Flow { container: None, external: None, destination: None, idle_secs: None, ..flow() }),
    );
    for transport in [Transport::Tcp, Transport::Udp] {
        check("Publication", json!(publication(transport)));
    }
    check("Lease", json!(lease(None)));
    check("Lease", json!(lease(Some(60))));
    check("Stats", json!(stats()));
    check("Reloaded", json!(Reloaded { created: vec!["a".to_owned()], ..Reloaded::default() }));
    check("Failure", json!(Body { error: Error::invalid("no") }));
    check("Failure", json!(Body { error: Error::invalid("no").hint("yes") }));
    for kind in events() {
        check("Event", json!(Event { at_millis: 1, network: "default".to_owned(), kind }));
    }
    check("Event", json!(Lost { event: LostTag::Lost, count: 7 }));
}

#[test]
fn what_is_taken_is_of_its_schema() {
    let document = document();
    let schema = |name: &str| &document["components"]["schemas"][name];
    let file = File::parse(
        "version = 1\n[networks.default]\nipv4 = '10.8.0.0/24'\nnat64 = true\nipv6 = 'fd00:1:2:3::/64'\n\
         dns = ['192.0.2.53']\ndomain = 'x.internal'\nsearch = ['example.org']\nntp = ['192.0.2.123']\n\
         outbound_ipv4 = '192.0.2.1'\noutbound_ipv6 = '2001:db8::1'\noutbound_interface = 'eth1'\n\
         publish = ['8080:web:80']\nhost_sockets = ['80:/run/web.sock']\nlinks = ['other']\n\
         [networks.default.containers.web]\nipv4 = '10.8.0.10'\nipv6 = 'fd00:1:2:3::10'\nmac = '02:00:00:00:00:0a'\n\
         aliases = ['www']\nexternal_ipv4 = '192.0.2.1'\nexternal_ipv6 = '2001:db8::1'\nvlan = 5\ntrunk = [6]\nisolated = true\nallow = ['any_mac', 'any_address', 'dhcp', 'router']\n\
         outbound_ipv4 = '192.0.2.1'\noutbound_ipv6 = '2001:db8::1'\noutbound_interface = 'eth1'\n",
    );
    for spec in [NetworkSpec::default(), file.unwrap().networks.into_values().next().unwrap()] {
        let request = json!(CreateNetwork { name: "default".to_owned(), spec });
        check(&document, schema("CreateNetwork"), &request).unwrap();
        // Every field that the schema has is one that is taken.
        if let Some(containers) = request["spec"]["containers"].as_object() {
            let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
            assert_eq!(names(&containers["web"]), names(&schema("ContainerSpec")["properties"]));
            assert_eq!(names(&request["spec"]), names(&schema("NetworkSpec")["properties"]));
        }
    }
    let request = PublishRequest { network: Some("default".to_owned()), ports: "80:80".to_owned() };
    check(&document, schema("PublishRequest"), &json!(request)).unwrap();
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let document = document();
    let right = json!(publication(Transport::Tcp));
    for (field, wrong) in [
        ("id", json!("1")),
        ("id", json!(-1)),
        ("id", Value::Null),
        ("transport", json!("sctp")),
        ("host", json!(80)),
        ("further", json!(1)),
    ] {
        let mut value = right.clone();
        value[field] = wrong;
        assert!(
            check(&document, &document["components"]["schemas"]["Publication"], &value).is_err(),
            "{value}"
        );
    }
    let mut value = right;
    value.as_object_mut().unwrap().remove("target");
    assert!(check(&document, &document["components"]["schemas"]["Publication"], &value).is_err());
}
