"""The part of kustomize that deploy/kubernetes uses: a renderer for machines without kustomize.

It knows the fields `namespace`, `resources`, `components`, `images` and `patches` with a `path`. It
refuses all others, so the manifests stay within what it renders. A test compares it with kustomize,
where there is one.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

Manifest = dict[str, Any]

FIELDS = {"apiVersion", "kind", "namespace", "resources", "components", "images", "patches"}

CLUSTER_KINDS = ("Namespace",)
"""Kinds of ours that are in no namespace."""

MERGE_KEYS = {
    "containers": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
"""Lists of a pod that a patch merges, by the field that tells their items apart."""

PATCHED_IN_PODS = ("Deployment", "StatefulSet")
"""Kinds whose lists are merged; a patch replaces each list of others as a whole."""


class NotRendered(Exception):
    """A kustomization uses what this renderer does not know."""


def load(path: Path) -> list[Manifest]:
    """Return the documents of a YAML file."""
    return list(YAML(typ="safe", pure=True).load_all(path))


def render(folder: Path) -> list[Manifest]:
    """Return the manifests of a kustomization.

    Raises:
        NotRendered: it has a field that is not known here, or a patch without a target.
    """
    return _apply(folder, [])


def identity(manifest: Manifest) -> tuple[str, str, str]:
    """Return what tells a manifest from others: API version, kind and name."""
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def _apply(folder: Path, manifests: list[Manifest]) -> list[Manifest]:
    """Return manifests with those of a folder, as its kustomization changes them."""
    (plan,) = load(folder / "kustomization.yaml")
    if unknown := plan.keys() - FIELDS:
        raise NotRendered(f"{folder.name}: {', '.join(sorted(unknown))}")
    found = [*manifests, *_resources(folder, plan)]
    for name in plan.get("components", ()):
        found = _apply(folder / name, found)
    for patch in plan.get("patches", ()):
        if patch.keys() != {"path"}:
            raise NotRendered(f"{folder.name}: a patch with {', '.join(sorted(patch))}")
        for document in load(folder / patch["path"]):
            found = _patched(found, document)
    for manifest in found:
        _set_images(manifest, plan.get("images", ()))
        if "namespace" in plan and manifest["kind"] not in CLUSTER_KINDS:
            manifest["metadata"]["namespace"] = plan["namespace"]
    return found


def _resources(folder: Path, plan: Manifest) -> Iterator[Manifest]:
    for name in plan.get("resources", ()):
        path = folder / name
        yield from _apply(path, []) if path.is_dir() else load(path)


def _patched(manifests: list[Manifest], patch: Manifest) -> list[Manifest]:
    wanted = identity(patch)
    if wanted not in map(identity, manifests):
        raise NotRendered(f"there is nothing to patch: {wanted}")
    if patch.get("$patch") == "delete":
        return [each for each in manifests if identity(each) != wanted]
    by_key = patch["kind"] in PATCHED_IN_PODS
    return [
        _merged(each, patch, by_key=by_key) if identity(each) == wanted else each
        for each in manifests
    ]


def _merged(below: Any, above: Any, *, by_key: bool) -> Any:
    """Return a mapping with another one over it, in which None removes a field."""
    result = copy.deepcopy(below)
    for name, value in above.items():
        present = result.get(name)
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict) and isinstance(present, dict):
            result[name] = _merged(present, value, by_key=by_key)
        elif isinstance(value, list) and isinstance(present, list) and by_key:
            result[name] = _merged_list(name, present, value)
        else:
            result[name] = copy.deepcopy(value)
    return result


def _merged_list(name: str, below: list[Any], above: list[Any]) -> list[Any]:
    """Return a list of a pod with another one over it; its items come first, as in kustomize."""
    if name not in MERGE_KEYS:
        return copy.deepcopy(above)
    key = MERGE_KEYS[name]
    items = {item[key]: item for item in below}
    changed = [_merged(items.pop(item[key], {}), item, by_key=True) for item in above]
    return [*changed, *items.values()]


def _set_images(manifest: Manifest, images: list[Manifest]) -> None:
    for container in containers_of(manifest):
        name, _, tag = container["image"].partition(":")
        for image in images:
            if image["name"] == name:
                tag = image.get("newTag", tag)
                container["image"] = image.get("newName", name) + (f":{tag}" if tag else "")


def containers_of(manifest: Manifest) -> list[Manifest]:
    """Return the containers of a manifest, if it makes pods."""
    pod = manifest.get("spec", {}).get("template", {}).get("spec", {})
    found: list[Manifest] = pod.get("containers", [])
    return found
