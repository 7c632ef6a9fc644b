SUMMARY = "The flags of lite-apiserver's service"
DESCRIPTION = "Append to this recipe, with a file named flags of your own."
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

FILESEXTRAPATHS:prepend := "${LITE_APISERVER_CHECKOUT}/packaging:"
# `flags.example` wants a kubeconfig at /etc/lite-apiserver/kubeconfig.
LITE_APISERVER_FLAGS ?= "flags.example"
SRC_URI = "file://${LITE_APISERVER_FLAGS}"
LITE_APISERVER_FILES = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"
S = "${LITE_APISERVER_FILES}"

inherit allarch

do_install() {
    install -d -m 0700 ${D}${sysconfdir}/lite-apiserver
    install -m 0600 ${LITE_APISERVER_FILES}/${LITE_APISERVER_FLAGS} ${D}${sysconfdir}/lite-apiserver/flags
}
CONFFILES:${PN} = "${sysconfdir}/lite-apiserver/flags"
