//! Where the upstream is and how it is reached: `--kube-apiserver-url` and its kin, and the proxies that the environment or
//! a kubeconfig names. Resolves no name and opens no connection.

use super::error::ConfigError;
use super::flags::Given;
use super::load::port;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use std::net::IpAddr;

/// The cluster's kube-apiserver: every address that stands for it, and the ways there.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// In the order in which they were named; never empty.
    pub servers: Vec<ServerConfig>,
    /// How one is chosen (`--lb-mode`).
    pub balance: Balance,
    /// The name that every server's certificate must carry when it is not its host (kubeconfig `tls-server-name`).
    pub tls_server_name: Option<String>,
    /// `--insecure`: the upstream's certificate is not verified.
    pub insecure: bool,
    /// `--network-interface`, in the order of preference; empty: the system's routes decide.
    pub interfaces: Vec<String>,
    /// `--source-address`; `None`: the system chooses.
    pub source: Option<IpAddr>,
}

/// One address of the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// A path in front of every request's path, without a trailing slash; mostly empty (kubeconfig `server: https://h/p`).
    pub base_path: String,
    /// The HTTP proxy through which it is reached.
    pub proxy: Option<ProxyConfig>,
}

/// Which of several servers that are up a request goes to (`--lb-mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// The first in order.
    Priority,
    /// Each in turn.
    RoundRobin,
}

/// An HTTP proxy that is asked to CONNECT (RFC 9110 section 9.3.6).
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The value of `Proxy-Authorization`, a secret.
    pub authorization: Option<String>,
}

impl fmt::Debug for ProxyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyConfig").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl UpstreamConfig {
    /// One server, reached straight; all else as without flags.
    pub fn at(host: &str, port: u16) -> Self {
        let server = ServerConfig { host: host.to_owned(), port, base_path: String::new(), proxy: None };
        Self {
            servers: vec![server],
            balance: Balance::Priority,
            tls_server_name: None,
            insecure: false,
            interfaces: Vec::new(),
            source: None,
        }
    }
}

impl ServerConfig {
    /// `host:port`, with brackets where they are needed.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

impl ProxyConfig {
    /// `host:port`, with brackets where they are needed.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// What a kubeconfig says of the upstream; what is not said is left to the flags and the environment.
#[derive(Debug, Default)]
pub(super) struct ByKubeconfig {
    pub(super) servers: Vec<ServerConfig>,
    pub(super) tls_server_name: Option<String>,
    pub(super) insecure: bool,
    /// `proxy-url`, with the words that name its place.
    pub(super) proxy: Option<(String, String)>,
}

/// The upstream as flags, environment and kubeconfig name it. `None`: nobody names one.
pub(super) fn upstream(
    given: &Given,
    file: ByKubeconfig,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<UpstreamConfig>, ConfigError> {
    let mut servers = by_flags(given)?;
    if servers.is_empty() {
        servers = file.servers;
    }
    let insecure = file.insecure || given.switch("insecure")?;
    // As client-go has it: a kubeconfig's own proxy is used for all, whatever NO_PROXY says.
    let by_file = file.proxy.map(|(what, url)| proxy(&what, &url)).transpose()?;
    for server in &mut servers {
        server.proxy = match &by_file {
            Some(proxy) => Some(proxy.clone()),
            None => by_environment(server, environment)?,
        };
    }
    let names = |name| given.given(name).unwrap_or_default().iter().flat_map(|v| v.split(','));
    let interfaces: Vec<String> =
        names("network-interface").map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    // IFNAMSIZ of linux/if.h, with its final NUL.
    if let Some(name) = interfaces.iter().find(|name| name.len() > 15 || name.contains(['/', ' '])) {
        return Err(ConfigError::usage(format!("--network-interface: {name:?} is no name of an interface")));
    }
    let source = match given.get("source-address").filter(|text| !text.is_empty()) {
        None => None,
        Some(_) => {
            Some(given.read("source-address", |text| text.parse().map_err(|_| format!("{text:?} is no IP address")))?)
        }
    };
    let balance = given.read("lb-mode", |text| match text {
        "priority" => Ok(Balance::Priority),
        "rr" | "round-robin" => Ok(Balance::RoundRobin),
        _ => Err(format!("{text:?} is neither priority nor rr")),
    })?;
    let tls_server_name = file.tls_server_name;
    let config = UpstreamConfig { servers, balance, tls_server_name, insecure, interfaces, source };
    Ok(Some(config).filter(|config| !config.servers.is_empty()))
}

/// The servers of `--kube-apiserver-url`, in order, none twice.
fn by_flags(given: &Given) -> Result<Vec<ServerConfig>, ConfigError> {
    let default_port = port(given, "kube-apiserver-port")?;
    let texts = given.given("kube-apiserver-url").unwrap_or_default().iter().flat_map(|v| v.split(','));
    let mut servers = Vec::new();
    for text in texts.map(str::trim).filter(|text| !text.is_empty()) {
        let server = server("--kube-apiserver-url", text, default_port)?;
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    Ok(servers)
}

/// Reads `HOST`, `HOST:PORT`, `[V6]:PORT` or `https://HOST[:PORT][/PATH]`.
pub(super) fn server(what: &str, text: &str, default_port: u16) -> Result<ServerConfig, ConfigError> {
    let wrong = |why: &str| ConfigError::usage(format!("{what}: {text:?} {why}; write a host, or https://host:port"));
    let rest = match text.split_once("://") {
        Some(("https", rest)) => rest,
        Some(_) => return Err(wrong("is not reached by https")),
        None => text,
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    if authority.contains('@') || path.contains(['?', '#']) {
        return Err(wrong("has more than a host, a port and a path"));
    }
    let (host, port) = host_and_port(authority, default_port).map_err(wrong)?;
    Ok(ServerConfig { host, port, base_path: path.trim_end_matches('/').to_owned(), proxy: None })
}

/// Splits `HOST`, `HOST:PORT`, `V6`, `[V6]` or `[V6]:PORT`; the error goes on after what was read.
fn host_and_port(authority: &str, default_port: u16) -> Result<(String, u16), &'static str> {
    let port_of = |port: &str| port.parse::<u16>().ok().filter(|p| *p > 0).ok_or("has no valid port");
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("has an opening bracket only")?;
        (host, after.strip_prefix(':').map_or(Ok(default_port), port_of)?)
    } else if authority.parse::<std::net::Ipv6Addr>().is_ok() {
        (authority, default_port)
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, port_of(port)?),
            None => (authority, default_port),
        }
    };
    if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b)) {
        return Err("names no host");
    }
    Ok((host.to_owned(), port))
}

/// The proxy that `HTTPS_PROXY` and `NO_PROXY` (or their lower-case twins) name for a server.
fn by_environment(
    server: &ServerConfig,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<ProxyConfig>, ConfigError> {
    let read = |upper: &str, lower: &str| environment(upper).or_else(|| environment(lower)).unwrap_or_default();
    let url = read("HTTPS_PROXY", "https_proxy");
    if url.is_empty() || is_exempt(server, &read("NO_PROXY", "no_proxy")) {
        return Ok(None);
    }
    proxy("HTTPS_PROXY", &url).map(Some)
}

/// Whether a server is reached without a proxy, as Go reads `NO_PROXY` (`golang.org/x/net/http/httpproxy`, `useProxy`):
/// loopback always; else `*`, addresses, CIDRs, and names that stand for what is below them too (only that, with a dot
/// in front), each with a port or without.
fn is_exempt(server: &ServerConfig, list: &str) -> bool {
    let host = server.host.to_ascii_lowercase();
    let ip: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
        return true;
    }
    list.split(',').map(|entry| entry.trim().to_ascii_lowercase()).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let Some((network, bits)) = entry.split_once('/') {
            return match (ip, network.parse(), bits.parse()) {
                (Some(ip), Ok(network), Ok(bits)) => is_within(ip, network, bits),
                _ => false,
            };
        }
        let Ok((name, port)) = host_and_port(entry.trim_start_matches('*'), server.port) else { return false };
        if port != server.port {
            return false;
        }
        match (ip, name.strip_prefix('.')) {
            (Some(ip), _) => name.parse() == Ok(ip),
            (None, Some(_)) => host.ends_with(&name),
            (None, None) => host == name || host.strip_suffix(&name).is_some_and(|above| above.ends_with('.')),
        }
    })
}

fn is_within(ip: IpAddr, network: IpAddr, bits: u32) -> bool {
    let same = |a: u128, b: u128, width: u32| bits <= width && (bits == 0 || (a ^ b) >> (width - bits) == 0);
    match (ip, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

/// Reads `[http://][USER[:PASSWORD]@]HOST[:PORT][/]`.
fn proxy(what: &str, text: &str) -> Result<ProxyConfig, ConfigError> {
    // What stands before the host may be a password.
    let shown = text.rsplit('@').next().unwrap_or_default();
    let wrong = |why: &str| ConfigError::usage(format!("{what}: the proxy {shown:?} {why}; write http://host:port"));
    let rest = match text.split_once("://") {
        Some(("http", rest)) => rest,
        Some(_) => return Err(wrong("is not spoken to by http, and others are not supported")),
        None => text,
    };
    let rest = rest.trim_end_matches('/');
    let (user, authority) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
    let (host, port) = host_and_port(authority, 80).map_err(wrong)?;
    let authorization = match user {
        None => None,
        Some(user) => {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            let part = |text: &str| unescaped(text).ok_or_else(|| wrong("has credentials with a wrong %-escape"));
            let plain = [part(name)?, b":".to_vec(), part(password)?].concat();
            Some(format!("Basic {}", STANDARD.encode(plain)))
        }
    };
    Ok(ProxyConfig { host, port, authorization })
}

/// Undoes percent-encoding (RFC 3986 section 2.1).
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digits =
                std::str::from_utf8(rest.get(..2)?).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests;
