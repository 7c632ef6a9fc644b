#!/usr/bin/env python3
"""Makes packages of static binaries: deb, ipk, apk and an OCI image, each the same bytes for the same binary.

Needs Python 3.9 and nothing else: no dpkg, no SDK, no docker engine. The formats are those of deb(5), of opkg (a gzipped tar
of the members of a deb), of apk-v2(5), which apk-tools 3 takes as well, and of the OCI image layout with the manifest.json of
`docker save` beside it.
"""

import argparse
import gzip
import hashlib
import io
import json
import pathlib
import re
import sys
import tarfile

HERE = pathlib.Path(__file__).resolve().parent
NAME = "lite-apiserver"
SUMMARY = "Kubernetes for a node whose control plane is far away"
DESCRIPTION = (
    "A reverse proxy between an edge node and its Kubernetes control plane. While the",
    "link is up it forwards and records; while it is down it answers reads from its",
    "record, so that the node and its pods carry on, also after a reboot.",
)
ORIGIN = "the lite-apiserver authors"
RELEASE = 1

# What each kind of machine is called: by Debian, by OCI (architecture and variant), by `uname -m`.
TARGETS = {
    "x86_64": ("amd64", ("amd64", None), "x86_64"),
    "aarch64": ("arm64", ("arm64", None), "aarch64"),
    "armv7hf": ("armhf", ("arm", "v7"), "armv7*|armv8*|aarch64"),
    "armv6": ("armel", ("arm", "v6"), "arm*|aarch64"),
    "riscv64gc": ("riscv64", ("riscv64", None), "riscv64"),
    "mipsel": ("mipsel", ("mipsle", None), "mips"),
}


class Tar:
    """A tar archive whose bytes depend on nothing but what is put in."""

    def __init__(self, checksums=False, format=tarfile.USTAR_FORMAT):
        self.bytes = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.bytes, mode="w", format=tarfile.PAX_FORMAT if checksums else format)
        self.checksums = checksums
        self.folders = set()
        self.size = 0

    def add(self, path, content, mode=0o644, prefix=""):
        for folder in reversed(pathlib.PurePosixPath(path).parents[:-1]):
            self.folder(str(folder), prefix=prefix)
        self.put(prefix + path, tarfile.REGTYPE, mode, content)
        self.size += len(content)

    def folder(self, path, mode=0o755, prefix=""):
        if path not in self.folders:
            self.folders.add(path)
            self.put(prefix + path, tarfile.DIRTYPE, mode, b"")

    def put(self, path, kind, mode, content):
        info = tarfile.TarInfo(path)
        info.type, info.mode, info.size, info.uname, info.gname = kind, mode, len(content), "root", "root"
        if self.checksums and kind == tarfile.REGTYPE:
            info.pax_headers = {"APK-TOOLS.checksum.SHA1": hashlib.sha1(content).hexdigest()}
        self.tar.addfile(info, io.BytesIO(content))

    def whole(self):
        self.tar.close()
        return self.bytes.getvalue()

    def section(self):
        """Without the end of the archive: another section follows (apk-v2)."""
        end = self.tar.offset
        return self.bytes.getvalue()[:end]


def zipped(content):
    return gzip.compress(content, 9, mtime=0)


def version():
    text = (HERE.parent / "Cargo.toml").read_text()
    return re.search(r'^version = "(.*)"', text, re.M).group(1)


def source(name):
    return (HERE / name).read_bytes()


def files_of_openwrt(binary):
    """Path, content, mode."""
    files = "openwrt/lite-apiserver/files/lite-apiserver."
    return [
        ("usr/bin/lite-apiserver", binary, 0o755),
        ("etc/init.d/lite-apiserver", source(files + "init"), 0o755),
        ("etc/config/lite-apiserver", source(files + "config"), 0o600),
        ("etc/capabilities/lite-apiserver.json", source(files + "json"), 0o644),
        ("lib/upgrade/keep.d/lite-apiserver", source(files + "keep"), 0o644),
    ]


def files_of_debian(binary):
    return [
        ("etc/init.d/lite-apiserver", source("sysv/lite-apiserver"), 0o755),
        ("usr/bin/lite-apiserver", binary, 0o755),
        ("usr/lib/systemd/system/lite-apiserver.service", source("systemd/lite-apiserver.service"), 0o644),
        ("usr/share/doc/lite-apiserver/copyright", (HERE.parent / "LICENSE").read_bytes(), 0o644),
        ("usr/share/doc/lite-apiserver/flags.example", source("flags.example"), 0o644),
    ]


def scripts_of_openwrt(target):
    machines = TARGETS[target][2].encode()
    fill = lambda text: text.replace(b"@MACHINES@", machines).replace(b"@TARGET@", target.encode())
    return {name: fill(source(f"openwrt/package/{name}")) for name in ("preinst", "postinst", "prerm")}


USER = "lite-apiserver=51003:lite-apiserver=51003"


def lines(separator, *fields):
    """The fields of a control file, a line each."""
    return "".join(f"{name}{separator}{value}\n" for name, value in fields)


def deb(target, binary, _arch):
    architecture = TARGETS[target][0]
    data = Tar(format=tarfile.GNU_FORMAT)
    data.folder("./")
    sums = []
    for path, content, mode in files_of_debian(binary):
        data.add(path, content, mode, "./")
        if not path.startswith("etc/"):
            sums.append(f"{hashlib.md5(content).hexdigest()}  {path}\n")
    data.folder("etc/lite-apiserver", 0o700, "./")
    control = lines(
        ": ",
        ("Package", NAME),
        ("Version", f"{version()}-{RELEASE}"),
        ("Section", "net"),
        ("Priority", "optional"),
        ("Architecture", architecture),
        ("Maintainer", ORIGIN),
        ("Installed-Size", (data.size + 1023) // 1024),
        ("Description", SUMMARY + "".join(f"\n {line}" for line in DESCRIPTION)),
    )
    info = Tar(format=tarfile.GNU_FORMAT)
    info.folder("./")
    for name, text in (
        ("control", control),
        ("conffiles", "/etc/init.d/lite-apiserver\n"),
        ("md5sums", "".join(sums)),
    ):
        info.put(f"./{name}", tarfile.REGTYPE, 0o644, text.encode())
    for name in ("postinst", "prerm", "postrm"):
        info.put(f"./{name}", tarfile.REGTYPE, 0o755, source(f"debian/{name}"))
    members = (
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", zipped(info.whole())),
        ("data.tar.gz", zipped(data.whole())),
    )
    out = b"!<arch>\n"
    for name, content in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    return f"{NAME}_{version()}-{RELEASE}_{architecture}.deb", out


def ipk(target, binary, arch):
    data = Tar(format=tarfile.GNU_FORMAT)
    data.folder("./")
    for path, content, mode in files_of_openwrt(binary):
        data.add(path, content, mode, "./")
    data.folder("etc/lite-apiserver", 0o700, "./")
    control = lines(
        ": ",
        ("Package", NAME),
        ("Version", f"{version()}-r{RELEASE}"),
        ("Section", "net"),
        ("Architecture", arch or "all"),
        ("Maintainer", ORIGIN),
        ("License", "Apache-2.0"),
        ("Installed-Size", data.size),
        ("Require-User", USER),
        ("Description", "".join(f" {line}\n" for line in (SUMMARY + ".", *DESCRIPTION)).strip()),
    )
    info = Tar(format=tarfile.GNU_FORMAT)
    info.folder("./")
    info.put("./control", tarfile.REGTYPE, 0o644, control.encode())
    info.put("./conffiles", tarfile.REGTYPE, 0o644, b"/etc/config/lite-apiserver\n")
    for name, content in scripts_of_openwrt(target).items():
        info.put(f"./{name}", tarfile.REGTYPE, 0o755, content)
    outer = Tar(format=tarfile.GNU_FORMAT)
    for name, content in (
        ("./debian-binary", b"2.0\n"),
        ("./data.tar.gz", zipped(data.whole())),
        ("./control.tar.gz", zipped(info.whole())),
    ):
        outer.put(name, tarfile.REGTYPE, 0o644, content)
    return f"{NAME}_{version()}-r{RELEASE}_{arch or target}.ipk", zipped(outer.whole())


def apk(target, binary, arch):
    data = Tar(checksums=True)
    files = files_of_openwrt(binary)
    # What OpenWrt's own packages say in these files, since apk has no fields for it.
    folder = f"lib/apk/packages/{NAME}"
    files += [
        (f"{folder}.conffiles", b"/etc/config/lite-apiserver\n", 0o644),
        (f"{folder}.rusers", USER.encode() + b"\n", 0o644),
    ]
    listed = "".join(f"/{path}\n" for path, _, _ in sorted(files))
    files.append((f"{folder}.list", listed.encode(), 0o644))
    for path, content, mode in sorted(files):
        data.add(path, content, mode)
    data.folder("etc/lite-apiserver", 0o700)
    size = data.size
    data = zipped(data.whole())
    info = lines(
        " = ",
        ("pkgname", NAME),
        ("pkgver", f"{version()}-r{RELEASE}"),
        ("pkgdesc", SUMMARY),
        ("url", "https://kubernetes.io"),
        ("builddate", 0),
        ("packager", ORIGIN),
        ("size", size),
        ("arch", arch or "noarch"),
        ("origin", NAME),
        ("license", "Apache-2.0"),
        ("datahash", hashlib.sha256(data).hexdigest()),
    )
    control = Tar(checksums=True)
    control.put(".PKGINFO", tarfile.REGTYPE, 0o644, info.encode())
    scripts = scripts_of_openwrt(target)
    for name, script in (
        (".pre-install", "preinst"),
        (".post-install", "postinst"),
        (".post-upgrade", "postinst"),
        (".pre-deinstall", "prerm"),
    ):
        control.put(name, tarfile.REGTYPE, 0o755, scripts[script])
    return f"{NAME}-{version()}-r{RELEASE}-{arch or target}.apk", zipped(control.section()) + data


def oci(binaries):
    """One image for all these machines: `ctr images import` and `docker load` take it."""
    out = Tar(format=tarfile.GNU_FORMAT)
    out.folder("blobs")
    out.folder("blobs/sha256")
    put = set()

    def blob(content, media_type):
        digest = hashlib.sha256(content).hexdigest()
        if digest not in put:
            put.add(digest)
            out.add(f"blobs/sha256/{digest}", content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    manifests, saved = [], []
    tag = f"localhost/{NAME}:{version()}"
    encode = lambda value: json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    for target, binary in binaries:
        architecture, variant = TARGETS[target][1]
        layer = Tar()
        # Where the record and the flags are mounted; /tmp for nobody.
        layer.add("usr/bin/lite-apiserver", binary, 0o755)
        layer.folder("etc")
        layer.put("etc/passwd", tarfile.REGTYPE, 0o644, b"root:x:0:0::/:/bin/false\n")
        layer.folder("etc/lite-apiserver")
        layer.folder("var")
        layer.folder("var/lib")
        layer.folder("var/lib/lite-apiserver", 0o700)
        layer = layer.whole()
        platform = {"architecture": architecture, "os": "linux"} | ({"variant": variant} if variant else {})
        config = platform | {
            "config": {
                "Entrypoint": ["/usr/bin/lite-apiserver"],
                "Labels": {
                    "org.opencontainers.image.title": NAME,
                    "org.opencontainers.image.version": version(),
                    "org.opencontainers.image.licenses": "Apache-2.0",
                },
            },
            "history": [{"created_by": "packaging/package.py"}],
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
        kind = "application/vnd.oci.image"
        config = blob(encode(config), f"{kind}.config.v1+json")
        layer = blob(layer, f"{kind}.layer.v1.tar")
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": config,
            "layers": [layer],
        }
        manifests.append(blob(encode(manifest), manifest["mediaType"]) | {"platform": platform})
        path = lambda digest: "blobs/" + digest["digest"].replace(":", "/")
        saved.append({"Config": path(config), "RepoTags": [tag], "Layers": [path(layer)]})
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
    named = blob(encode(index), index["mediaType"]) | {
        "annotations": {"io.containerd.image.name": tag, "org.opencontainers.image.ref.name": version()}
    }
    out.put("oci-layout", tarfile.REGTYPE, 0o644, b'{"imageLayoutVersion":"1.0.0"}')
    out.put("index.json", tarfile.REGTYPE, 0o644, encode(index | {"manifests": [named]}))
    # An old docker reads this and knows one machine only.
    out.put("manifest.json", tarfile.REGTYPE, 0o644, encode(saved[:1]))
    return f"{NAME}-{version()}-oci.tar", out.whole()


FORMATS = {"deb": deb, "ipk": ipk, "apk": apk}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("format", choices=[*FORMATS, "oci"])
    parser.add_argument(
        "binaries", nargs="+", metavar="TARGET=BINARY", help="one, but for oci; TARGET: " + ", ".join(TARGETS)
    )
    parser.add_argument("--arch", help="ipk, apk: OpenWrt's name for one kind of machine (default: for any, told apart at install)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."), help="the folder for it (default: this one)")
    asked = parser.parse_args()
    binaries = []
    for word in asked.binaries:
        target, _, path = word.partition("=")
        if target not in TARGETS or not path:
            parser.error(f"{word!r} is no TARGET=BINARY; TARGET is one of {', '.join(TARGETS)}")
        try:
            binaries.append((target, pathlib.Path(path).read_bytes()))
        except OSError as e:
            parser.exit(66, f"{parser.prog}: {e}\n")
    if asked.format == "oci":
        name, content = oci(binaries)
    elif len(binaries) == 1:
        name, content = FORMATS[asked.format](*binaries[0], asked.arch)
    else:
        parser.error(f"a {asked.format} is for one TARGET")
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / name).write_bytes(content)
    print(asked.out / name)


if __name__ == "__main__":
    sys.exit(main())
