// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers: JSON, text, a stream of events, or a failure.

use http_body_util::{Either, Full};
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::events::EventStream;
use crate::control::error::{Body, Code, Error};

/// An answer as it is sent.
pub(super) type Answer = Response<Either<Full<Bytes>, EventStream>>;

const JSON: &str = "application/json";

/// This text.
pub(super) fn text(content_type: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(text.into())));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// This document, which is JSON.
pub(super) fn document(json: &'static str) -> Answer {
    text(JSON, json)
}

/// This as JSON.
///
/// # Errors
/// It cannot be JSON, which is a bug.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Result<Answer, Error> {
    let bytes = serde_json::to_vec(value).map_err(|error| Error::internal(&error))?;
    let mut answer = text(JSON, bytes);
    *answer.status_mut() = status;
    Ok(answer)
}

/// It is done, and there is nothing to say.
pub(super) fn done(status: StatusCode) -> Answer {
    let mut answer = Response::new(Either::Left(Full::default()));
    *answer.status_mut() = status;
    answer
}

/// Events as they happen, a line each.
pub(super) fn events(stream: EventStream) -> Answer {
    let mut answer = Response::new(Either::Right(stream));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    answer
}

/// It did not work.
pub(super) fn failure(error: Error) -> Answer {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = Body { error };
    // A code and two texts can always be JSON.
    json(status, &body).unwrap_or_else(|_| done(status))
}

/// That cannot be done to what the path names; `allowed` can.
pub(super) fn method_not_allowed(allowed: &str) -> Answer {
    let error =
        Error::new(Code::Invalid, "this path does not have that method").hint(format!("it has {allowed}"));
    let mut answer = failure(error);
    *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        answer.headers_mut().insert(ALLOW, allowed);
    }
    answer
}

/// The same, and the connection ends with it.
pub(super) fn last(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}
