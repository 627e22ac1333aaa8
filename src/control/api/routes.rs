// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be asked, and who answers: the table of paths and methods.
//!
//! `docs/openapi.json` describes the same for clients; tests hold the two together.

use hyper::{Method, StatusCode};

use super::answer::{self, Answer};
use super::percent::decode;
use super::request::Request;
use crate::control::error::Error;
use crate::control::metrics;
use crate::control::model::{CreateNetwork, Flow, PublishRequest};
use crate::control::registry::Registry;
use crate::publish::Opened;

/// The description of this API for clients.
const OPENAPI: &str = include_str!("../../../docs/openapi.json");

/// Why a port left that a client had detached.
const DETACHED: &str = "a client asked for it";

/// Answers by what the registry says, which may take a while.
type Ask = fn(&Registry, &Request) -> Result<Answer, Error>;

/// Who answers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Handler {
    /// The registry, asked without a body.
    Ask(Ask),
    /// The registry, told something in a JSON body.
    Tell(Ask),
    /// The stream of events.
    Events,
    /// The end of the process.
    Shutdown,
}

/// Something that can be asked.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: Method,
    /// Segments; the last may be `{...}`, which stands for any.
    pub(super) path: &'static str,
    /// The query's parameters.
    pub(super) parameters: &'static [&'static str],
    pub(super) handler: Handler,
}

const fn route(
    method: Method,
    path: &'static str,
    parameters: &'static [&'static str],
    handler: Handler,
) -> Route {
    Route { method, path, parameters, handler }
}

const BY_NETWORK: &[&str] = &["network"];

/// Everything that can be asked.
pub(super) const ROUTES: &[Route] = &[
    route(Method::GET, "/v1/info", &[], Handler::Ask(info)),
    route(Method::GET, "/v1/networks", &[], Handler::Ask(networks)),
    route(Method::POST, "/v1/networks", &[], Handler::Tell(create_network)),
    route(Method::DELETE, "/v1/networks/{name}", &[], Handler::Ask(remove_network)),
    route(Method::GET, "/v1/ports", BY_NETWORK, Handler::Ask(ports)),
    route(Method::DELETE, "/v1/ports/{name}", BY_NETWORK, Handler::Ask(detach)),
    route(Method::GET, "/v1/leases", BY_NETWORK, Handler::Ask(leases)),
    route(Method::GET, "/v1/flows", &["network", "protocol", "container", "state"], Handler::Ask(flows)),
    route(Method::GET, "/v1/stats", BY_NETWORK, Handler::Ask(stats)),
    route(Method::GET, "/v1/publications", BY_NETWORK, Handler::Ask(publications)),
    route(Method::POST, "/v1/publications", &[], Handler::Tell(publish)),
    route(Method::DELETE, "/v1/publications/{id}", &[], Handler::Ask(unpublish)),
    route(Method::POST, "/v1/reload", &[], Handler::Ask(reload)),
    route(Method::POST, "/v1/shutdown", &[], Handler::Shutdown),
    route(Method::GET, "/v1/events", BY_NETWORK, Handler::Events),
    route(Method::GET, "/v1/openapi.json", &[], Handler::Ask(openapi)),
    route(Method::GET, "/metrics", &[], Handler::Ask(openmetrics)),
];

/// What a path leads to.
#[derive(Debug)]
pub(super) enum Found {
    /// This, about this item.
    Route(&'static Route, String),
    /// Nothing with that method; with these there is.
    OtherMethods(String),
    /// Nothing.
    Nothing,
}

/// Looks for a route.
///
/// # Errors
/// A segment of the path is not encoded as it must be.
pub(super) fn find(method: &Method, path: &str) -> Result<Found, Error> {
    let mut others = Vec::new();
    for route in ROUTES {
        let Some(item) = item_of(route.path, path) else { continue };
        if route.method == *method {
            return Ok(Found::Route(route, decode(item)?));
        }
        others.push(route.method.as_str());
    }
    Ok(if others.is_empty() { Found::Nothing } else { Found::OtherMethods(others.join(", ")) })
}

/// What `{...}` of a pattern stands for in a path that fits it; nothing where it has none.
fn item_of<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    match pattern.split_once('{') {
        None => (pattern == path).then_some(""),
        Some((prefix, _)) => path.strip_prefix(prefix).filter(|item| !item.is_empty() && !item.contains('/')),
    }
}

fn info(registry: &Registry, _: &Request) -> Result<Answer, Error> {
    answer::json(StatusCode::OK, &registry.info())
}

fn networks(registry: &Registry, _: &Request) -> Result<Answer, Error> {
    answer::json(StatusCode::OK, &registry.networks())
}

fn create_network(registry: &Registry, request: &Request) -> Result<Answer, Error> {
    answer::json(StatusCode::CREATED, &registry.create_network(request.json::<CreateNetwork>()?)?)
}

fn remove_network(registry: &Registry, request: &Request) -> Result<Answer, Error> {
    registry.remove_network(&request.name()?)?;
    Ok(answer::done(StatusCode::NO_CONTENT))
}

fn ports(registry: &Registry, request: &Request) -> Result<Answer, Error> {
    answer::json(StatusCode::OK, &registry.ports(request.network()?.as_ref())?)
}

fn detach(registry: &Registry, request: &Request) -> Result<Answer, Error> {
    registry.detach(request.network()?.as_ref(), &request.name()?, DETACHED)?;
    Ok(answer::done(StatusCode::NO_CONTENT))
}

fn leases(registry: &Registry, request: &Request) -> Result<Answer, Error> {
    answer::json(StatusCode::OK, &registry.leases(request.network()?.as_ref())?)
}

fn flows(registry: &Registry, request: &Request) -> Result<Answer, Error> {
    const PROTOCOLS: [&str; 4] = ["tcp", "udp", "icmp", "icmpv6"];
    let [protocol, container, state] = ["protocol", "container", "state"].map(|key| request.parameter(key));
    if let Some(wrong) = protocol.filter(|protocol| !PROTOCOLS.contains(protocol)) {
        let error = Error::invalid(format!("there is no protocol `{wrong}`"));
        return Err(error.hint(format!("there is {}", PROTOCOLS.join(", "))));
    }
    let is_meant = |flow: &Flow| {
        protocol.is_none_or(|protocol| flow.protocol == protocol)
            && container.is_none_or(|container| flow.container.as_deref() == Some(container))
            && state.is_none_or(|state| flow.state == state)
    };
    let mut flows = registry.flows(request.network()?.as_ref())?;
    flows.retain(is_meant);
    answer::json(StatusCode::OK, &flows)
}

fn stats(registry: &Registry, request: &Request) -> Result<Answer, Error> {
    answer::json(StatusCode::OK, &registry.stats(request.network()?.as_ref())?)
}

fn publications(registry: &Registry, request: &Request) -> Result<Answer, Error> {
    answer::json(StatusCode::OK, &registry.publications(request.network()?.as_ref())?)
}

fn publish(registry: &Registry, request: &Request) -> Result<Answer, Error> {
    answer::json(
        StatusCode::CREATED,
        &registry.publish(&request.json::<PublishRequest>()?, Opened::default())?,
    )
}

fn unpublish(registry: &Registry, request: &Request) -> Result<Answer, Error> {
    let wrong = |_| Error::invalid(format!("`{}` is no number of something published", request.item));
    answer::json(StatusCode::OK, &registry.unpublish(request.item.parse().map_err(wrong)?)?)
}

fn reload(registry: &Registry, _: &Request) -> Result<Answer, Error> {
    answer::json(StatusCode::OK, &registry.reload()?)
}

fn openapi(_: &Registry, _: &Request) -> Result<Answer, Error> {
    Ok(answer::document(OPENAPI))
}

fn openmetrics(registry: &Registry, _: &Request) -> Result<Answer, Error> {
    Ok(answer::text(metrics::CONTENT_TYPE, metrics::expose(&metrics::Snapshot::of(registry)?)))
}
