# For releases whose Rust is older than 1.90: the static binary, made by `packaging/build.sh --minimal` into target/static of the checkout.
require lite-apiserver.inc

LIC_FILES_CHKSUM = "file://${LITE_APISERVER_CHECKOUT}/LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

PROVIDES += "lite-apiserver"
RPROVIDES:${PN} += "lite-apiserver"
RCONFLICTS:${PN} += "lite-apiserver"

# As packaging/build.sh calls the machine.
def lite_apiserver_target(d):
    arch, features = d.getVar('TARGET_ARCH'), (d.getVar('TUNE_FEATURES') or '').split()
    if arch == 'arm':
        return 'armv7hf' if 'armv7a' in features or 'armv7ve' in features else 'armv6'
    return {'x86_64': 'x86_64', 'aarch64': 'aarch64', 'riscv64': 'riscv64gc', 'mipsel': 'mipsel'}.get(arch, 'unknown')

LITE_APISERVER_TARGET = "${@lite_apiserver_target(d)}"
LITE_APISERVER_BINARY ?= "${LITE_APISERVER_CHECKOUT}/target/static/lite-apiserver-${PV}-${LITE_APISERVER_TARGET}-minimal"
COMPATIBLE_HOST = "(x86_64|aarch64|arm|riscv64|mipsel).*-linux.*"

# It is stripped, and linked with nothing.
INSANE_SKIP:${PN} += "already-stripped"
S = "${LITE_APISERVER_FILES}"

do_install() {
    install -D -m 0755 ${LITE_APISERVER_BINARY} ${D}${bindir}/lite-apiserver
    install_service
}
do_install[file-checksums] += "${LITE_APISERVER_BINARY}:True"
