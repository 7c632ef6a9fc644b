require lite-apiserver.inc
# Written by packaging/yocto/crates.py from Cargo.lock.
require lite-apiserver-crates.inc

LIC_FILES_CHKSUM = "file://LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

SRC_URI += "git://${LITE_APISERVER_CHECKOUT};protocol=file;branch=${LITE_APISERVER_BRANCH}"
LITE_APISERVER_BRANCH ?= "main"
SRCREV ?= "${AUTOREV}"
S = "${@d.getVar('UNPACKDIR') and d.expand('${UNPACKDIR}/${BP}') or d.expand('${WORKDIR}/git')}"

inherit cargo

PACKAGECONFIG ??= ""
# --cache-type redb (or bolt); fjall (or badger).
PACKAGECONFIG[redb] = ""
PACKAGECONFIG[fjall] = ""
CARGO_BUILD_FLAGS += "--no-default-features ${@'--features ' + ','.join(d.getVar('PACKAGECONFIG').split()) if d.getVar('PACKAGECONFIG').split() else ''}"

do_install:append() {
    install_service
}
