//! A kubeconfig file, read, and written anew to point elsewhere: the parts of `staging/src/k8s.io/client-go/tools/clientcmd/api/v1/types.go` that a proxy needs.

use super::error::{ConfigError, Exit};
use super::files;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::path::{Path, PathBuf};
use yaml_rust2::{Yaml, YamlLoader};

/// A file's contents: given within the kubeconfig, or by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// `…-data`, decoded.
    Inline(Vec<u8>),
    /// A path, relative ones taken from the kubeconfig's own folder.
    File(PathBuf),
}

/// A token: itself, or the file in which the newest is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// `token`
    Value(String),
    /// `tokenFile`, which client-go prefers where both are given.
    File(PathBuf),
}

/// The current context of a kubeconfig.
#[derive(Debug)]
pub(crate) struct Kubeconfig {
    pub(crate) server: String,
    pub(crate) certificate_authority: Option<Source>,
    pub(crate) insecure: bool,
    pub(crate) tls_server_name: Option<String>,
    /// The proxy through which the server is reached.
    pub(crate) proxy_url: Option<String>,
    pub(crate) namespace: Option<String>,
    /// Certificate and key.
    pub(crate) pair: Option<(Source, Source)>,
    pub(crate) token: Option<Token>,
}

/// Reads the context `wanted` (or the current one) of a kubeconfig.
pub(super) fn read(path: &Path, wanted: Option<&str>) -> Result<Kubeconfig, ConfigError> {
    parse("--kubeconfig", path, files::read("--kubeconfig", path)?, wanted)
}

/// The same of bytes that were found at `path`, which `what` names.
pub(crate) fn parse(
    what: &'static str,
    path: &Path,
    bytes: Vec<u8>,
    wanted: Option<&str>,
) -> Result<Kubeconfig, ConfigError> {
    let file = Reader { what, path };
    let text = String::from_utf8(bytes).map_err(|_| file.wrong("it is no UTF-8"))?;
    let documents = YamlLoader::load_from_str(&text).map_err(|e| file.wrong(&format!("no valid YAML: {e}")))?;
    let root = documents.first().ok_or_else(|| file.wrong("it is empty"))?;
    file.read(root, wanted)
}

impl Kubeconfig {
    /// A kubeconfig that points at `server`, which `ca` vouches for, and carries the same user's credentials, the pair being
    /// `pair`. It is JSON, which is YAML too.
    pub(crate) fn pointed_at(
        &self,
        server: Option<&str>,
        ca: Option<&Source>,
        pair: Option<&(Source, Source)>,
    ) -> String {
        let put = |to: &mut serde_json::Map<String, serde_json::Value>, name: &str, source: &Source| match source {
            Source::File(path) => to.insert(name.to_owned(), path.to_string_lossy().into()),
            Source::Inline(bytes) => to.insert(format!("{name}-data"), STANDARD.encode(bytes).into()),
        };
        let (mut cluster, mut user) = (serde_json::Map::new(), serde_json::Map::new());
        cluster.insert("server".into(), server.into());
        if let Some(ca) = ca {
            put(&mut cluster, "certificate-authority", ca);
        }
        if let Some((cert, key)) = pair {
            put(&mut user, "client-certificate", cert);
            put(&mut user, "client-key", key);
        }
        match &self.token {
            Some(Token::Value(token)) => user.insert("token".into(), token.as_str().into()),
            Some(Token::File(path)) => user.insert("tokenFile".into(), path.to_string_lossy().into()),
            None => None,
        };
        let mut context = serde_json::json!({"cluster": "lite-apiserver", "user": "same"});
        if let Some(namespace) = &self.namespace {
            context["namespace"] = namespace.as_str().into();
        }
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lite-apiserver", "cluster": cluster}],
            "users": [{"name": "same", "user": user}],
            "contexts": [{"name": "lite-apiserver", "context": context}],
            "current-context": "lite-apiserver",
        });
        format!("{config:#}\n")
    }
}

struct Reader<'a> {
    what: &'static str,
    path: &'a Path,
}

impl Reader<'_> {
    fn wrong(&self, why: &str) -> ConfigError {
        ConfigError::new(Exit::Data, format!("{} {}: {why}", self.what, self.path.display()))
    }

    fn read(&self, root: &Yaml, wanted: Option<&str>) -> Result<Kubeconfig, ConfigError> {
        let context_name = match wanted {
            Some(name) => name,
            None => text(root, "current-context")
                .ok_or_else(|| self.wrong("it has no current-context; name one with --context"))?,
        };
        let context = self.named(root, "contexts", context_name, "context")?;
        let part = |name: &str| {
            text(context, name).ok_or_else(|| self.wrong(&format!("the context {context_name:?} has no {name}")))
        };
        let (cluster_name, user_name) = (part("cluster")?, part("user")?);
        let cluster = self.named(root, "clusters", cluster_name, "cluster")?;
        let user = self.named(root, "users", user_name, "user")?;
        for (field, cure) in [
            ("exec", "write a client certificate or a token into the file instead"),
            ("auth-provider", "write a client certificate or a token into the file instead"),
            ("username", "kube-apiserver takes no passwords since 1.19; use a client certificate or a token"),
            ("as", "use the credentials of the user himself"),
        ] {
            if !user[field].is_badvalue() {
                return Err(self.wrong(&format!(
                    "the user {user_name:?} has {field:?}, which lite-apiserver does not use; {cure}"
                )));
            }
        }
        let pair = match (self.source(user, "client-certificate")?, self.source(user, "client-key")?) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => {
                return Err(
                    self.wrong(&format!("the user {user_name:?} has only one of client-certificate and client-key"))
                );
            }
        };
        let token = match (text(user, "tokenFile"), text(user, "token")) {
            (Some(file), _) => Some(Token::File(self.beside(file))),
            (None, Some(token)) => Some(Token::Value(token.to_owned())),
            (None, None) => None,
        };
        Ok(Kubeconfig {
            server: text(cluster, "server")
                .ok_or_else(|| self.wrong(&format!("the cluster {cluster_name:?} has no server")))?
                .to_owned(),
            certificate_authority: self.source(cluster, "certificate-authority")?,
            insecure: cluster["insecure-skip-tls-verify"].as_bool().unwrap_or(false),
            tls_server_name: text(cluster, "tls-server-name").map(str::to_owned),
            proxy_url: text(cluster, "proxy-url").filter(|url| !url.is_empty()).map(str::to_owned),
            namespace: text(context, "namespace").map(str::to_owned),
            pair,
            token,
        })
    }

    /// The entry of a list that has this name: `clusters: [{name: …, cluster: {…}}]`.
    fn named<'y>(&self, root: &'y Yaml, list: &str, name: &str, what: &str) -> Result<&'y Yaml, ConfigError> {
        let entries = root[list].as_vec().map_or(&[][..], Vec::as_slice);
        entries
            .iter()
            .find(|e| e["name"].as_str() == Some(name))
            .map(|e| &e[what])
            .ok_or_else(|| self.wrong(&format!("it has no {what} named {name:?}")))
    }

    /// `NAME-data`, which wins, or `NAME`.
    fn source(&self, entry: &Yaml, name: &str) -> Result<Option<Source>, ConfigError> {
        let data_name = format!("{name}-data");
        if let Some(data) = text(entry, &data_name) {
            let bytes = base64(data).ok_or_else(|| self.wrong(&format!("{data_name} is no base64")))?;
            return Ok(Some(Source::Inline(bytes)));
        }
        Ok(text(entry, name).map(|path| Source::File(self.beside(path))))
    }

    /// A path as client-go resolves it: from the kubeconfig's own folder.
    fn beside(&self, path: &str) -> PathBuf {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::path::absolute(folder.join(path)).unwrap_or_else(|_| folder.join(path))
    }
}

/// A member that is a text and not empty.
fn text<'y>(entry: &'y Yaml, name: &str) -> Option<&'y str> {
    entry[name].as_str().filter(|t| !t.is_empty())
}

/// Decodes base64 (RFC 4648 section 4), as YAML wraps it: with line ends in between.
fn base64(text: &str) -> Option<Vec<u8>> {
    let bare: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    STANDARD.decode(bare).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Kubeconfig, ConfigError> {
        let documents = YamlLoader::load_from_str(text).expect("YAML");
        Reader { what: "--kubeconfig", path: Path::new("/k/config") }.read(&documents[0], None)
    }

    fn with_user(user: &str) -> String {
        format!(
            "{{clusters: [{{name: c, cluster: {{server: 'https://h:6443', certificate-authority: ca.crt}}}}], \
             users: [{{name: u, user: {{{user}}}}}], contexts: [{{name: x, context: {{cluster: c, user: u}}}}], current-context: x}}"
        )
    }

    #[test]
    fn the_usual_credentials_are_read() {
        let read = read_text(&with_user("client-certificate: c.crt, client-key-data: aGk=")).expect("read");
        assert_eq!(read.server, "https://h:6443");
        assert_eq!(read.certificate_authority, Some(Source::File("/k/ca.crt".into())));
        assert_eq!(read.pair, Some((Source::File("/k/c.crt".into()), Source::Inline(b"hi".to_vec()))));
        let read = read_text(&with_user("token: t, tokenFile: /t")).expect("read");
        assert_eq!(read.token, Some(Token::File("/t".into())), "client-go prefers the file");
        assert!(read_text(&with_user("")).expect("read").token.is_none());
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (text, part) in [
            (with_user("exec: {command: aws}"), "\"exec\", which lite-apiserver does not use"),
            (with_user("auth-provider: {name: gcp}"), "\"auth-provider\""),
            (with_user("username: a, password: b"), "takes no passwords"),
            (with_user("client-key: k"), "only one of client-certificate and client-key"),
            (with_user("client-certificate-data: '!', client-key: k"), "client-certificate-data is no base64"),
            (with_user("").replace("user: u", "user: v"), "it has no user named \"v\""),
            (with_user("").replace("current-context: x", ""), "it has no current-context"),
        ] {
            let error = read_text(&text).expect_err(&text);
            assert!(error.message.contains(part), "{}", error.message);
            assert_eq!(error.exit, Exit::Data);
        }
    }
}
