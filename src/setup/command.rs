//! The command line of `lite-apiserver setup`.

use super::usage;
use crate::failed::Failed;
use std::ffi::OsString;
use std::path::PathBuf;

pub(super) const HELP: &str = "\
lite-apiserver setup: puts the proxy between this node's kubelet and its cluster, and takes it out again

usage: lite-apiserver setup [flags]               makes what the daemon needs, and says what else is to be done
       lite-apiserver setup --apply [--restart]   does it, too
       lite-apiserver setup --undo [--restart]    takes all back

  --apply                       point kubelet and kube-proxy here; each file that is changed is kept beside itself, as
                                FILE.before-lite-apiserver
  --undo                        put back every file that was changed, byte for byte, and remove what was made; the record stays
  --restart                     restart the services, too: the daemon, and once it answers the kubelet; with --undo the kubelet,
                                then the daemon is stopped. Without it the commands are printed
  --kubelet-kubeconfig FILE     the kubelet's kubeconfig (default: the first there is of /etc/kubernetes/kubelet.conf of kubeadm,
                                /var/lib/rancher/k3s/agent/kubelet.kubeconfig of k3s, /var/lib/kubelet/kubeconfig)
  --kube-proxy-kubeconfig FILE  kube-proxy's (default: k3s's beside the kubelet's, /var/lib/kube-proxy/kubeconfig)
  --kubectl-kubeconfig FILE     a person's (default: /etc/kubernetes/admin.conf); it is not changed, a second one is made
  --client-ca-file FILE         the CA of client certificates (default: the first known one that signed the kubelet's)
  --directory DIR               where all is put (default: /etc/lite-apiserver)
  --root DIR                    the node's root, where that is not / : an image, say; paths are the node's all the same
  -h, --help                    this text

It makes in DIR: pki/ (a CA of this node, and the serving certificate), tls-config.json, a kubeconfig for each client, and in
the file flags, which the daemon reads (--config), what it starts with. Flags that are in that file already stay and count:
--address, --port, --tls-cert-file and others. Run again, it changes nothing but what has changed underneath.

Exit codes (sysexits.h): 0 done; 64 wrong command line; 65 a file's contents are wrong, or a file was changed since, so that
--undo leaves it, or where it leads here does nothing; 66 a file is not there; 69 the daemon does not answer after its
restart; 70 internal error; 71 a service cannot be restarted; 73 a file cannot be made; 77 not permitted; 78 the parts do not
fit together.
";

/// What is asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) apply: bool,
    pub(super) undo: bool,
    pub(super) restart: bool,
    pub(super) kubelet: Option<PathBuf>,
    pub(super) kube_proxy: Option<PathBuf>,
    pub(super) kubectl: Option<PathBuf>,
    pub(super) client_ca: Option<PathBuf>,
    /// As the node sees it.
    pub(super) directory: PathBuf,
    pub(super) root: Option<PathBuf>,
}

/// Reads the arguments after `setup`; `None`: help is asked for.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Wanted>, Failed> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut wanted = Wanted {
        apply: false,
        undo: false,
        restart: false,
        kubelet: None,
        kube_proxy: None,
        kubectl: None,
        client_ca: None,
        directory: "/etc/lite-apiserver".into(),
        root: None,
    };
    while let Some(argument) = parser.next().map_err(|e| usage(e.to_string()))? {
        let path = |parser: &mut lexopt::Parser| match parser.value() {
            // It is written into files that are read elsewhere.
            Ok(value) if !value.is_empty() => {
                std::path::absolute(&value).map_err(|e| usage(format!("{}: {e}", value.to_string_lossy())))
            }
            _ => Err(usage("a flag lacks its value")),
        };
        match argument {
            lexopt::Arg::Short('h') | lexopt::Arg::Long("help") => return Ok(None),
            lexopt::Arg::Long("apply") => wanted.apply = true,
            lexopt::Arg::Long("undo") => wanted.undo = true,
            lexopt::Arg::Long("restart") => wanted.restart = true,
            lexopt::Arg::Long("kubelet-kubeconfig") => wanted.kubelet = Some(path(&mut parser)?),
            lexopt::Arg::Long("kube-proxy-kubeconfig") => wanted.kube_proxy = Some(path(&mut parser)?),
            lexopt::Arg::Long("kubectl-kubeconfig") => wanted.kubectl = Some(path(&mut parser)?),
            lexopt::Arg::Long("client-ca-file") => wanted.client_ca = Some(path(&mut parser)?),
            lexopt::Arg::Long("directory") => wanted.directory = path(&mut parser)?,
            lexopt::Arg::Long("root") => wanted.root = Some(path(&mut parser)?),
            other => return Err(usage(other.unexpected().to_string())),
        }
    }
    if wanted.apply && wanted.undo {
        return Err(usage("--apply and --undo: one of them"));
    }
    if wanted.restart && !(wanted.apply || wanted.undo) {
        return Err(usage("--restart goes with --apply or --undo"));
    }
    if wanted.restart && wanted.root.is_some() {
        return Err(usage("--restart: the services of another root are not to be reached from here"));
    }
    Ok(Some(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Wanted>, Failed> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, message) in [
            ("--apply --undo", "--apply and --undo: one of them"),
            ("--restart", "--restart goes with --apply or --undo"),
            ("--apply --restart --root /image", "the services of another root"),
            ("--directory", "a flag lacks its value"),
            ("--kubelet-kubeconfig=", "a flag lacks its value"),
            ("--frobnicate", "invalid option '--frobnicate'"),
            ("kubelet.conf", "unexpected argument"),
        ] {
            let error = read(line).map(drop).expect_err(line);
            assert_eq!((error.exit, error.message.contains(message)), (64, true), "{line}: {}", error.message);
        }
        assert!(read("--help").expect("help").is_none() && HELP.lines().all(|l| l.len() <= 130), "{HELP}");
        let wanted = read("--directory /d --kubectl-kubeconfig /k").expect("read").expect("no help");
        assert_eq!((wanted.directory, wanted.kubectl, wanted.apply), ("/d".into(), Some("/k".into()), false));
    }
}
