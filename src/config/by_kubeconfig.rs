//! The one-command way to start: a kubeconfig says where the upstream is and with which credentials; what else is needed is
//! made once and kept in the data directory, so that clients on the node can be pointed at it.
//!
//! What the kubeconfig holds within itself (`…-data`) is kept in files of its own there, and kept again when the
//! kubeconfig changes. The upstream's address is taken from it at start only.

use super::certificates::{Named, Pair, PairFiles, Roots};
use super::error::{ConfigError, Exit};
use super::flags::Given;
use super::kubeconfig::{self, Kubeconfig, Source};
use super::load::Start;
use super::upstream::{ByKubeconfig, UpstreamConfig, server, upstream};
use super::watch::CertificateFiles;
use super::{files, pki};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

const WHAT: &str = "--kubeconfig";

/// The kubeconfig, with all that it takes to read it again.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) path: PathBuf,
    context: Option<String>,
    /// The data directory.
    data: PathBuf,
    listen: Vec<SocketAddr>,
    /// The CA that clients are to trust; `None`: the cluster's, which signed the serving certificate that was named.
    serving_ca: Option<PathBuf>,
    /// `--apiserver-ca-file`, `--ca-file`: then the kubeconfig's CA is not used for it.
    given_upstream_roots: Option<PathBuf>,
    given_client_roots: Option<PathBuf>,
}

/// Starts as the kubeconfig at `path` says.
pub(super) fn start(
    given: &Given,
    path: &Path,
    listen: &[SocketAddr],
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Start, ConfigError> {
    let read = kubeconfig::read(path, given.get("context"))?;
    let data = data_dir(given, environment)?;
    files::make_folder("--data-dir", &data)?;
    let upstream = named_upstream(given, path, &read, environment)?;
    let made = pki::serving("--data-dir", &data.join("pki"), &listen.iter().map(SocketAddr::ip).collect::<Vec<_>>())?;
    let origin = Origin {
        path: path.to_owned(),
        context: given.get("context").map(str::to_owned),
        data: data.clone(),
        listen: listen.to_owned(),
        serving_ca: given.get("tls-cert-file").is_none().then_some(made.ca),
        given_upstream_roots: given.get("apiserver-ca-file").map(PathBuf::from),
        given_client_roots: given.get("ca-file").map(PathBuf::from),
    };
    let mut files = CertificateFiles {
        serving: PairFiles {
            cert_what: "--tls-cert-file",
            cert: given.get("tls-cert-file").map_or(made.cert, PathBuf::from),
            key_what: "--tls-private-key-file",
            key: given.get("tls-private-key-file").map_or(made.key, PathBuf::from),
        },
        client_roots: None,
        upstream_roots: None,
        list: given.get("tls-config-file").map(PathBuf::from),
        own: None,
        origin: None,
    };
    origin.keep(&read, &mut files)?;
    if files.upstream_roots.is_none() && !upstream.insecure {
        let why = format!(
            "{WHAT} {}: its cluster has no certificate-authority, and the system's own are not used; name a CA with --apiserver-ca-file",
            path.display()
        );
        return Err(ConfigError::new(Exit::Config, why));
    }
    let client_kubeconfig = Some(origin.client_path());
    files.origin = Some(origin);
    Ok(Start { files, upstream, data: Some(data), client_kubeconfig })
}

/// The upstream, as flags and the kubeconfig have it.
pub(super) fn named_upstream(
    given: &Given,
    path: &Path,
    read: &Kubeconfig,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<UpstreamConfig, ConfigError> {
    let field = |name: &str| format!("{WHAT} {}: {name}", path.display());
    let named = ByKubeconfig {
        servers: vec![server(&field("server"), &read.server, 443).map_err(|e| ConfigError { exit: Exit::Data, ..e })?],
        tls_server_name: read.tls_server_name.clone(),
        insecure: read.insecure,
        proxy: read.proxy_url.as_ref().map(|url| (field("proxy-url"), url.clone())),
    };
    let no_server = || ConfigError::new(Exit::Data, field("it names no server"));
    upstream(given, named, environment)?.ok_or_else(no_server)
}

impl Origin {
    /// Reads the kubeconfig again, and says in `files` where its certificates are now.
    pub(super) fn follow(&self, files: &mut CertificateFiles) -> Result<(), ConfigError> {
        let read = kubeconfig::read(&self.path, self.context.as_deref())?;
        self.keep(&read, files)
    }

    /// Keeps what the kubeconfig holds within itself, once it is found to be good, and writes the one for clients.
    fn keep(&self, read: &Kubeconfig, files: &mut CertificateFiles) -> Result<(), ConfigError> {
        let roots = match (&self.given_upstream_roots, &read.certificate_authority) {
            (Some(path), _) => Some(Named { what: "--apiserver-ca-file", path: path.clone() }),
            (None, Some(Source::File(path))) => Some(Named { what: WHAT, path: path.clone() }),
            (None, Some(Source::Inline(text))) => {
                let file = Named { what: WHAT, path: self.data.join("upstream-ca.crt") };
                Roots::from_pem(&file, text)?;
                files::write("--data-dir", &file.path, text)?;
                Some(file)
            }
            (None, None) if files.upstream_roots.is_some() => {
                let why = format!("{WHAT} {}: its cluster has no certificate-authority any more", self.path.display());
                return Err(ConfigError::new(Exit::Config, why));
            }
            (None, None) => None,
        };
        let own = match &read.pair {
            None => None,
            Some((cert, key)) => Some(self.keep_pair(cert, key)?),
        };
        // Client certificates come from the cluster's own CA, unless told otherwise.
        let given = self.given_client_roots.clone().map(|path| Named { what: "--ca-file", path });
        files.client_roots = given.or_else(|| roots.clone());
        // With `--insecure` and no CA there is none.
        files.upstream_roots.clone_from(&roots);
        let ca = self.serving_ca.clone().or_else(|| roots.as_ref().map(|r| r.path.clone()));
        let client = self.client_kubeconfig(read, own.as_ref(), ca.as_deref());
        files.own = own;
        files::write("--data-dir", &self.client_path(), client.as_bytes())
    }

    fn keep_pair(&self, cert: &Source, key: &Source) -> Result<PairFiles, ConfigError> {
        let place = |source: &Source, name: &str| match source {
            Source::File(path) => path.clone(),
            Source::Inline(_) => self.data.join(name),
        };
        let text = |source: &Source| match source {
            Source::File(path) => files::read(WHAT, path),
            Source::Inline(text) => Ok(text.clone()),
        };
        let pair = PairFiles::of(WHAT, place(cert, "user.crt"), place(key, "user.key"));
        if Pair::from_pem(&pair, &text(cert)?, &text(key)?)?.common_name.is_none() {
            let why = format!("{WHAT} {}: the client certificate has no single CN", self.path.display());
            return Err(ConfigError::new(Exit::Data, why));
        }
        for (source, path) in [(cert, &pair.cert), (key, &pair.key)] {
            if let Source::Inline(text) = source {
                files::write("--data-dir", path, text)?;
            }
        }
        Ok(pair)
    }

    /// Where the kubeconfig for clients is.
    fn client_path(&self) -> PathBuf {
        self.data.join("client.kubeconfig")
    }

    /// A kubeconfig that points here and carries the same user's credentials.
    fn client_kubeconfig(&self, read: &Kubeconfig, pair: Option<&PairFiles>, ca: Option<&Path>) -> String {
        let server = self.listen.first().map(|address| server_for_clients(*address));
        let file = |path: &Path| Source::File(path.to_owned());
        let pair = pair.map(|pair| (file(&pair.cert), file(&pair.key)));
        read.pointed_at(server.as_deref(), ca.map(file).as_ref(), pair.as_ref())
    }
}

/// The `server` of clients on this machine, of a daemon that listens on `address`.
pub(crate) fn server_for_clients(address: SocketAddr) -> String {
    let reachable = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
    };
    format!("https://{}", SocketAddr::new(reachable, address.port()))
}

/// Where `--kubeconfig` keeps what it makes.
pub(super) fn data_dir(given: &Given, environment: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf, ConfigError> {
    if let Some(path) = given.get("data-dir").map(str::to_owned).or_else(|| environment("STATE_DIRECTORY")) {
        // It is written into a kubeconfig that is read elsewhere.
        return std::path::absolute(&path).map_err(|e| ConfigError::unmakable("--data-dir", Path::new(&path), &e));
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/lite-apiserver"));
    }
    let state = environment("XDG_STATE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let state = state.or_else(|| environment("HOME").map(|home| PathBuf::from(home).join(".local/state")));
    state.map(|s| s.join("lite-apiserver")).ok_or_else(|| {
        ConfigError::usage("--data-dir is needed: neither $XDG_STATE_HOME nor $HOME says where to keep data")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::given;

    #[test]
    fn the_data_directory_is_found_as_daemons_find_it() {
        let read = |line: &str, set: &'static str| {
            let environment = move |name: &str| (name == set).then(|| "/from/environment".to_owned());
            data_dir(&given(line), &environment)
        };
        assert_eq!(read("--data-dir /d", "STATE_DIRECTORY"), Ok("/d".into()));
        assert_eq!(read("", "STATE_DIRECTORY"), Ok("/from/environment".into()));
    }
}
