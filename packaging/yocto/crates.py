#!/usr/bin/env python3
"""Writes the layer's list of crates from Cargo.lock, as bitbake's crate fetcher wants it. Needs Python 3.11."""

import pathlib
import tomllib

here = pathlib.Path(__file__).resolve().parent
lock = tomllib.loads((here.parent.parent / "Cargo.lock").read_text())
out = here / "meta-lite-apiserver/recipes-kubernetes/lite-apiserver/lite-apiserver-crates.inc"
crates = [p for p in lock["package"] if "checksum" in p]
# `registry+https://…/NAME-index`: NAME is what the fetcher calls that registry.
registry = lambda package: package["source"].rsplit("/", 1)[1].removesuffix("-index")
lines = ["# Written by packaging/yocto/crates.py.\n", 'SRC_URI += " \\\n']
lines += [f"    crate://{registry(p)}/{p['name']}/{p['version']} \\\n" for p in crates]
lines += ['"\n\n']
lines += [f'SRC_URI[{p["name"]}-{p["version"]}.sha256sum] = "{p["checksum"]}"\n' for p in crates]
out.write_text("".join(lines))
print(f"{out}: {len(crates)} crates")
