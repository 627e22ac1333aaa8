// SPDX-License-Identifier: MIT OR Apache-2.0
//! A request taken apart: what it is about, its filters, and its body.

use std::collections::BTreeMap;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{CONTENT_TYPE, HeaderMap};
use serde::de::DeserializeOwned;

use super::percent::decode;
use crate::control::error::{Code, Error};
use crate::control::spec::Name;

/// The largest body of a request.
pub(super) const MAX_BODY_BYTES: usize = 64 << 10;

/// What is asked for, apart from the route.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// The last segment of the path, where the route has one that varies.
    pub(super) item: String,
    query: BTreeMap<&'static str, String>,
    body: Bytes,
}

impl Request {
    /// Takes the query apart, which may have the parameters `known`.
    ///
    /// # Errors
    /// A parameter is another, stands there twice, or makes no sense.
    pub(super) fn new(
        item: String,
        query: Option<&str>,
        known: &[&'static str],
        body: Bytes,
    ) -> Result<Self, Error> {
        let mut parameters = BTreeMap::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = decode(key)?;
            let Some(known) = known.iter().find(|known| **known == key) else {
                return Err(unknown_parameter(&key, known));
            };
            if parameters.insert(*known, decode(value)?).is_some() {
                return Err(Error::invalid(format!("parameter `{key}` stands there twice")));
            }
        }
        Ok(Self { item, query: parameters, body })
    }

    /// The value of a parameter.
    pub(super) fn parameter(&self, key: &str) -> Option<&str> {
        self.query.get(key).map(String::as_str)
    }

    /// The network that it is about, if it names one.
    ///
    /// # Errors
    /// That is no name.
    pub(super) fn network(&self) -> Result<Option<Name>, Error> {
        let wrong = |text: String| Error::invalid(format!("parameter `network`: {text}"));
        self.parameter("network").map(Name::parse).transpose().map_err(wrong)
    }

    /// What the last segment of its path names.
    ///
    /// # Errors
    /// That is no name.
    pub(super) fn name(&self) -> Result<Name, Error> {
        Name::parse(&self.item).map_err(|text| Error::invalid(format!("`{}` is no name: {text}", self.item)))
    }

    /// Its body.
    ///
    /// # Errors
    /// It is no JSON, or not of the form that is wanted here.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| Error::invalid(format!("body: {error}")))
    }
}

fn unknown_parameter(key: &str, known: &[&str]) -> Error {
    let error = Error::invalid(format!("there is no parameter `{key}` here"));
    match known {
        [] => error.hint("there are none"),
        known => error.hint(format!("there is {}", known.join(", "))),
    }
}

/// Takes the whole body of a request.
///
/// # Errors
/// It is too large, is not there to its end, is not JSON, or `is_wanted` is not so.
pub(super) async fn take_body<B>(body: B, headers: &HeaderMap, is_wanted: bool) -> Result<Bytes, Error>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Said before anything is sent that cannot be taken.
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(too_large());
    }
    let bytes = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(broken)?.to_bytes();
    match (is_wanted, bytes.is_empty()) {
        (true, true) => Err(Error::invalid("the body is missing").hint("send a JSON object")),
        (false, false) => Err(Error::invalid("this request has no body")),
        (true, false) if !is_json(headers) => {
            Err(Error::invalid("the body must be JSON").hint("send it with `Content-Type: application/json`"))
        }
        _ => Ok(bytes),
    }
}

fn too_large() -> Error {
    Error::new(Code::TooLarge, format!("the body is larger than {MAX_BODY_BYTES} bytes"))
}

fn broken(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    if error.is::<LengthLimitError>() {
        too_large()
    } else {
        Error::invalid(format!("the body cannot be read: {error}"))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return true };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use hyper::header::HeaderValue;

    use super::*;

    fn parsed(query: &str) -> Result<Request, Error> {
        Request::new(String::new(), Some(query), &["network", "state"], Bytes::new())
    }

    #[test]
    fn a_query_has_known_parameters_once_each() {
        let request = parsed("network=a%2Db&&state=").unwrap();
        assert_eq!((request.parameter("network"), request.parameter("state")), (Some("a-b"), Some("")));
        assert_eq!(request.network().unwrap().unwrap().as_str(), "a-b");
        for (wrong, hint) in [
            ("networks=a", "there is network, state"),
            ("network=a&network=a", "twice"),
            ("network=%4", "percent-encoded"),
            ("%", "percent-encoded"),
        ] {
            let error = parsed(wrong).unwrap_err();
            assert!(error.code == Code::Invalid && error.to_string().contains(hint), "{wrong}: {error}");
        }
        assert!(parsed("network=A%20B").unwrap().network().is_err());
    }

    async fn taken(
        body: &'static [u8],
        content_type: Option<&'static str>,
        is_wanted: bool,
    ) -> Result<Bytes, Error> {
        let mut headers = HeaderMap::new();
        headers.extend(content_type.map(|value| (CONTENT_TYPE, HeaderValue::from_static(value))));
        take_body(Full::new(Bytes::from_static(body)), &headers, is_wanted).await
    }

    #[tokio::test]
    async fn a_body_is_json_of_a_bounded_size_where_one_is_wanted() {
        const TOO_MUCH: &[u8] = &[b' '; MAX_BODY_BYTES + 1];
        assert_eq!(taken(b"{}", Some("application/JSON; charset=utf-8"), true).await.unwrap(), "{}");
        assert_eq!(taken(b"{}", None, true).await.unwrap(), "{}");
        assert_eq!(taken(b"", None, false).await.unwrap(), "");
        assert!(taken(&TOO_MUCH[1..], None, true).await.is_ok());
        for (body, content_type, is_wanted, code) in [
            (TOO_MUCH, None, true, Code::TooLarge),
            (TOO_MUCH, None, false, Code::TooLarge),
            (b"", None, true, Code::Invalid),
            (b"{}", None, false, Code::Invalid),
            (b"{}", Some("text/plain"), true, Code::Invalid),
        ] {
            assert_eq!(taken(body, content_type, is_wanted).await.unwrap_err().code, code);
        }
    }
}
