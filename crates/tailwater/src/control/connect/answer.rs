//! Answers as Kafka Connect gives them: JSON, errors with `error_code` and `message`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub message: String,
}

pub(super) type Answer = Result<Response, Refusal>;

impl Refusal {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into() }
    }

    pub fn bad(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, message)
    }

    pub fn not_found(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, message)
    }

    /// By the status alone, as Connect answers outside its own resources.
    pub fn plain(status: StatusCode) -> Refusal {
        Refusal::new(status, format!("HTTP {} {}", status.as_u16(), status.canonical_reason().unwrap_or_default()))
    }

    /// The form in which Connect lists what is wrong with a configuration.
    pub fn invalid(errors: &[String]) -> Refusal {
        Refusal::bad(format!(
            "Connector configuration is invalid and contains the following {} error(s):\n{}\nYou can also find the above \
             list of errors at the endpoint `/connector-plugins/{{connectorType}}/config/validate`",
            errors.len(),
            errors.join("\n")
        ))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, JSON, json!({ "error_code": self.status.as_u16(), "message": self.message }).to_string())
            .into_response()
    }
}

const JSON: [(header::HeaderName, HeaderValue); 1] =
    [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];

/// A JSON body.
pub(super) fn body(status: StatusCode, value: &Value) -> Answer {
    Ok((status, JSON, value.to_string()).into_response())
}

/// 200 with a JSON body.
pub(super) fn ok(value: &Value) -> Answer {
    body(StatusCode::OK, value)
}

/// A status and nothing else.
pub(super) fn empty(status: StatusCode) -> Answer {
    Ok(status.into_response())
}
