//! `metav1.Status`, as a body of its own or within an ERROR event.

use super::{Encoding, protobuf};

/// A Status that tells of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusBody {
    /// HTTP status code.
    pub code: u16,
    /// `metav1.StatusReason`, for example `Expired`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// `details.causes[0]`, as (`reason`, `message`), where a client looks for one.
    pub cause: Option<(String, String)>,
}

impl StatusBody {
    /// The body and its media type, in the encoding asked for where it is known.
    pub fn encode(&self, encoding: Option<Encoding>) -> (&'static str, Vec<u8>) {
        match encoding {
            Some(Encoding::Protobuf) => (protobuf::MEDIA_TYPE, protobuf::status(self)),
            Some(Encoding::Json) | None => ("application/json", self.json()),
        }
    }

    /// As JSON.
    pub fn json(&self) -> Vec<u8> {
        let mut out = br#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"#.to_vec();
        quote(&self.message, &mut out);
        out.extend_from_slice(b",\"reason\":");
        quote(&self.reason, &mut out);
        if let Some((reason, message)) = &self.cause {
            out.extend_from_slice(b",\"details\":{\"causes\":[{\"reason\":");
            quote(reason, &mut out);
            out.extend_from_slice(b",\"message\":");
            quote(message, &mut out);
            out.extend_from_slice(b"}]}");
        }
        out.extend_from_slice(format!(",\"code\":{}}}", self.code).as_bytes());
        out
    }
}

/// Appends `text` as a JSON string.
pub(super) fn quote(text: &str, out: &mut Vec<u8>) {
    // Writing a string into memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_what_client_go_reads() {
        let status = StatusBody {
            code: 504,
            reason: "Timeout".into(),
            message: "a \"b\"\n".into(),
            cause: Some(("ResourceVersionTooLarge".into(), "m".into())),
        };
        let read: serde_json::Value = serde_json::from_slice(&status.json()).expect("JSON");
        assert_eq!(read["kind"], "Status");
        assert_eq!(read["status"], "Failure");
        assert_eq!(read["message"], "a \"b\"\n");
        assert_eq!(read["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
        assert_eq!(read["code"], 504);
    }
}
