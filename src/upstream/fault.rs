//! What went wrong on a connection, as the transport knows it, and the few words a person reads. Travels through ureq
//! inside an [`io::Error`] and is taken out again on the other side.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError};

use super::wait::Interrupted;

/// Why a connection could not be made, or stopped being of use.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// The client hung up.
    ClientGone,
    /// The link was found down.
    LinkDown,
    /// No answer in time.
    FirstByte,
    /// No connection: name, TCP or TLS failed, for everybody alike.
    Connect(String),
    /// No connection in time: dead, or only slow.
    Late(String),
    /// The upstream does not like the certificate that was shown: other credentials may well get through.
    Refused(String),
    /// The connection broke.
    Torn(String),
}

impl Fault {
    /// A wait that ended early, where a passed deadline means `late`.
    pub(super) fn from_wait(interrupted: Interrupted, late: impl FnOnce() -> Self) -> Self {
        match interrupted {
            Interrupted::ClientGone => Self::ClientGone,
            Interrupted::Ended => Self::LinkDown,
            Interrupted::Deadline => late(),
            Interrupted::Poll(e) => Self::Torn(format!("poll: {e}")),
        }
    }

    /// Wrapped for the way through ureq. Never of the kinds (`UnexpectedEof`, `ConnectionReset`, `ConnectionAborted`) that
    /// ureq's body reader takes for the regular end of a body that is delimited by close (`ureq/src/run.rs`, `do_read`).
    pub(super) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// The fault inside `e`, if there is one.
    pub(super) fn in_io(e: &io::Error) -> Option<&Self> {
        e.get_ref()?.downcast_ref()
    }

    /// A TLS error while the handshake goes on, or after it.
    pub(super) fn from_tls(e: &rustls::Error, handshaking: bool) -> Self {
        if let rustls::Error::AlertReceived(alert) = e {
            return match alert {
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::CertificateRequired => {
                    Self::Refused(format!("our certificate was refused: {alert:?}"))
                }
                alert if handshaking => Self::Connect(format!("TLS refused: {alert:?}")),
                alert => Self::Torn(format!("TLS alert: {alert:?}")),
            };
        }
        let words = tls_words(e);
        if handshaking { Self::Connect(words) } else { Self::Torn(words) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientGone => f.write_str("the client hung up"),
            Self::LinkDown => f.write_str("the link to the upstream is down"),
            Self::FirstByte => f.write_str("no answer in time"),
            Self::Connect(why) | Self::Late(why) | Self::Refused(why) | Self::Torn(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Fault {}

/// What kubectl's user should read of a failed system call; without the number that `io::Error` adds.
pub(super) fn io_words(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        io::ErrorKind::HostUnreachable => "no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".into(),
        io::ErrorKind::NetworkDown => "network down".into(),
        io::ErrorKind::BrokenPipe => "connection closed".into(),
        io::ErrorKind::TimedOut => "connection timed out".into(),
        _ => e.to_string(),
    }
}

fn tls_words(e: &rustls::Error) -> String {
    match e {
        rustls::Error::InvalidCertificate(why) => {
            let why = match why {
                // A CA that was made anew under its old name shows as a bad signature.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    "signed by an unknown authority".into()
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired".into(),
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "not valid yet (is this machine's clock right?)".into()
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    "made for another name".into()
                }
                CertificateError::Revoked => "revoked".into(),
                other => format!("{other:?}"),
            };
            format!("certificate not trusted: {why}")
        }
        rustls::Error::InvalidMessage(_) => "the answer is not TLS".into(),
        other => format!("TLS: {other}"),
    }
}
