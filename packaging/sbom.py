#!/usr/bin/env python3
"""Writes what is in a binary of packaging/build.sh as a CycloneDX 1.5 document, from `cargo metadata`.

sbom.py METADATA LOCKFILE BINARY EPOCH OTHER...: METADATA is that of the same target and features, LOCKFILE the Cargo.lock
with the crates' sums; OTHER is NAME=VERSION=LICENSE of what is linked in and is no crate. The same input makes the same
bytes. What only builds or tests is left out.
"""

import datetime
import hashlib
import json
import re
import sys


def sums(lockfile):
    """The SHA-256 of each crate, by (name, version)."""
    with open(lockfile, encoding="utf-8") as file:
        packages = file.read().split("[[package]]")[1:]
    found = {}
    for package in packages:
        fields = dict(re.findall(r'^(\w+) = "([^"]*)"$', package, re.MULTILINE))
        found[fields["name"], fields["version"]] = fields.get("checksum")
    return found


def linked(metadata):
    """Package ids that end up in the binary, each with those it needs: normal dependencies, from the root on."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    macros = {p["id"] for p in metadata["packages"] if any("proc-macro" in t["kind"] for t in p["targets"])}
    needs, waiting = {}, [metadata["resolve"]["root"]]
    while waiting:
        package = waiting.pop()
        if package in needs:
            continue
        normal = [
            d["pkg"]
            for d in nodes[package]["deps"]
            if any(k["kind"] is None for k in d["dep_kinds"]) and d["pkg"] not in macros
        ]
        needs[package] = sorted(normal)
        waiting.extend(normal)
    return needs


def component(package, checksums):
    """A crate, as CycloneDX has it."""
    name, version = package["name"], package["version"]
    made = {
        "type": "library",
        "bom-ref": f"pkg:cargo/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:cargo/{name}@{version}",
    }
    if package.get("license"):
        # Cargo still takes `MIT/Apache-2.0`, which SPDX has never known.
        made["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if checksums.get((name, version)):
        made["hashes"] = [{"alg": "SHA-256", "content": checksums[name, version]}]
    return made


def main():
    metadata_file, lockfile, binary, epoch, *others = sys.argv[1:]
    with open(metadata_file, encoding="utf-8") as file:
        metadata = json.load(file)
    with open(binary, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    needs = linked(metadata)
    packages = {p["id"]: p for p in metadata["packages"] if p["id"] in needs}
    checksums = sums(lockfile)
    made = {package: component(packages[package], checksums) for package in needs}
    root = made.pop(metadata["resolve"]["root"])
    root |= {"type": "application", "hashes": [{"alg": "SHA-256", "content": digest}]}
    components = sorted(made.values(), key=lambda c: c["bom-ref"])
    for other in others:
        name, version, license_ = other.split("=")
        components.append(
            {"type": "library", "bom-ref": f"{name}@{version}", "name": name, "version": version, "licenses": [{"expression": license_}]}
        )
    made[metadata["resolve"]["root"]] = root
    edges = [
        {"ref": made[package]["bom-ref"], "dependsOn": sorted(made[n]["bom-ref"] for n in needed)}
        for package, needed in needs.items()
    ]
    when = datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"timestamp": when.strftime("%Y-%m-%dT%H:%M:%SZ"), "component": root},
        "components": components,
        "dependencies": sorted(edges, key=lambda e: e["ref"]),
    }
    json.dump(document, sys.stdout, indent=1)
    print()


main()
