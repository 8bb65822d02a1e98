"""The manifests fit Kubernetes' schemas, and agree with the code and with the compose file."""

import copy
import json
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from rollout_core import __version__
from rollout_core.jobs.redis_records import LIVE_SECONDS
from service.metric_table import DEFINITIONS
from service.settings import Settings as ServiceSettings
from tests.shipping.kustomize import NotRendered, containers_of, identity, load, render
from tests.shipping.test_compose import default, in_bytes
from tests.system.node import FOLDER as NODE
from tests.system.node import require_node_package
from tests.system.tools import require_tool
from worker.messages import MediaOptions
from worker.settings import Settings as WorkerSettings

OVERLAYS = ("fake", "gpu", "object-storage", "production")

VERSIONS = ("1.29", kubernetes_validate.latest_version())
"""The oldest release of Kubernetes that docs/kubernetes.md names, and the newest known one."""

CUSTOM_KINDS = {
    "PodMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor",
    "ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
}
"""Kinds that Kubernetes does not bring, and the modules that have their types."""

NAMES = {"app.kubernetes.io/name": "timesformer-rollout"}

UNITS = {"Mi": 20, "Gi": 30}


@pytest.fixture(scope="module")
def folder(root):
    return root / "deploy" / "kubernetes"


@pytest.fixture(scope="module")
def rendered(folder):
    """Return the manifests of each overlay, by kind and name."""
    return {name: by_name(render(folder / "overlays" / name)) for name in OVERLAYS}


@pytest.fixture(params=OVERLAYS)
def manifests(request, rendered):
    return rendered[request.param]


@pytest.fixture
def production(rendered):
    return rendered["production"]


@pytest.fixture(scope="module")
def compose(root):
    return YAML(typ="safe").load(root / "docker-compose.yml")["services"]


def by_name(manifests):
    return {(each["kind"], each["metadata"]["name"]): each for each in manifests}


def pods_of(manifests):
    """Return the templates of the pods, by the names of what makes them."""
    return {
        name: manifest["spec"]["template"]
        for (_, name), manifest in manifests.items()
        if containers_of(manifest)
    }


def container(manifests, name):
    (found,) = pods_of(manifests)[name]["spec"]["containers"]
    return found


def environment(manifests, name):
    """Return the environment of a container: of its config maps, and its own; not of secrets."""
    found = {}
    for source in container(manifests, name).get("envFrom", ()):
        if "configMapRef" in source:
            found |= manifests["ConfigMap", source["configMapRef"]["name"]]["data"]
    return found | {item["name"]: item["value"] for item in container(manifests, name)["env"]}


def fields(variables):
    """Return the settings that variables set, by the names of their fields."""
    return {
        name.removeprefix("ROLLOUT_").lower(): value
        for name, value in variables.items()
        if name.startswith("ROLLOUT_")
    }


def size(quantity):
    """Return the bytes of a quantity such as `64Mi`."""
    return int(quantity[:-2]) << UNITS[quantity[-2:]]


def selects(selector, labels):
    """Return whether a selector of labels selects a pod; without terms it selects all."""
    equal = selector.get("matchLabels", {}).items() <= labels.items()
    terms = selector.get("matchExpressions", ())
    assert all(term["operator"] == "In" for term in terms)
    return equal and all(labels.get(term["key"]) in term["values"] for term in terms)


def policies(manifests, name, direction):
    """Return the network policies for a direction that select a pod."""
    labels = pods_of(manifests)[name]["metadata"]["labels"]
    return [
        manifest["spec"]
        for (kind, _), manifest in manifests.items()
        if kind == "NetworkPolicy"
        and direction in manifest["spec"]["policyTypes"]
        and selects(manifest["spec"]["podSelector"], labels)
    ]


def way_out(manifests, name):
    """Return where a pod may connect to, as texts: labels or addresses, and the ports."""
    found = set()
    for policy in policies(manifests, name, "Egress"):
        for rule in policy.get("egress", ()):
            ports = sorted({port["port"] for port in rule["ports"]})
            found |= {f"{destination(peer)} {ports}" for peer in rule["to"]}
    return found


def destination(peer):
    if "ipBlock" in peer:
        return peer["ipBlock"]["cidr"]
    labels = [
        value
        for selector in ("namespaceSelector", "podSelector")
        for value in peer.get(selector, {}).get("matchLabels", {}).values()
    ]
    return "/".join(labels)


# Schemas, and kustomize


def unfit(manifest, version):
    """Return what is wrong with a manifest, or None."""
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return error.message
    return None


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_fits_the_schema_of_kubernetes(manifests, version):
    found = {
        (kind, name): unfit(manifest, version)
        for (kind, name), manifest in manifests.items()
        if kind not in CUSTOM_KINDS
    }
    assert len(found) >= 13
    assert not any(found.values()), found


@pytest.mark.parametrize(
    ("kind", "name", "change"),
    [
        ("Deployment", "api", lambda spec: spec["template"]["spec"].update(readOnly=True)),
        ("Deployment", "api", lambda spec: spec.update(replicas="2")),
        ("Deployment", "worker", lambda spec: spec.pop("selector")),
        (
            "StatefulSet",
            "redis",
            lambda spec: spec["template"]["spec"]["containers"][0].pop("name"),
        ),
        ("NetworkPolicy", "to-redis", lambda spec: spec["egress"][0].update(port=6379)),
    ],
)
def test_the_schema_notices_a_wrong_manifest(rendered, kind, name, change):
    wrong = copy.deepcopy(rendered["gpu"][kind, name])
    change(wrong["spec"])
    assert all(unfit(wrong, version) for version in VERSIONS)


def type_errors(manifests, tmp_path):
    """Return what TypeScript says of manifests of custom kinds; unknown fields are errors, too."""
    node = require_node_package("@kubernetes-models/keda")
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    lines = []
    for place, manifest in enumerate(manifests):
        kind = manifest["kind"]
        lines.append(f"import type {{ I{kind} as Kind{place} }} from '{CUSTOM_KINDS[kind]}'")
        lines.append(f"export const _{place} = {json.dumps(manifest)} satisfies Kind{place}")
    (tmp_path / "manifests.mts").write_text("\n".join(lines))
    options = {"strict": True, "noEmit": True, "module": "nodenext", "target": "es2022"}
    plan = {"compilerOptions": options | {"types": [], "skipLibCheck": True}}
    (tmp_path / "tsconfig.json").write_text(json.dumps(plan))
    command = [node, NODE / "node_modules" / "typescript" / "bin" / "tsc"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert bool(done.stdout) == bool(done.returncode), done.stderr
    return done.stdout


def test_kinds_of_others_fit_the_types_made_of_their_schemas(production, tmp_path):
    found = [manifest for (kind, _), manifest in production.items() if kind in CUSTOM_KINDS]
    assert {manifest["kind"] for manifest in found} == set(CUSTOM_KINDS)
    assert not type_errors(found, tmp_path)


def test_the_types_notice_each_wrong_manifest(production, tmp_path):
    changes = (
        ("ScaledObject", "worker", lambda spec: spec.update(minReplicas=1)),
        (
            "ScaledObject",
            "worker",
            lambda spec: spec["triggers"][0]["metadata"].update(threshold=2),
        ),
        ("ScaledObject", "worker", lambda spec: spec["fallback"].update(behavior="stay")),
        ("PodMonitor", "api", lambda spec: spec.pop("selector")),
        ("PodMonitor", "api", lambda spec: spec["podMetricsEndpoints"][0].update(every="15s")),
    )
    wrong = [copy.deepcopy(production[kind, name]) for kind, name, _ in changes]
    for manifest, (_, _, change) in zip(wrong, changes, strict=True):
        change(manifest["spec"])
    found = re.findall(r"^manifests\.mts\((\d+),", type_errors(wrong, tmp_path), re.MULTILINE)
    assert {int(line) for line in found} == {2 * place + 2 for place in range(len(changes))}


def kustomize():
    """Return the command of kustomize 5 or newer; without it the test is skipped.

    No package registry has it, so it is not asked for in CI.
    """
    for program, builds, tells in (
        ("kustomize", ["build"], ["version"]),
        ("kubectl", ["kustomize"], ["version", "--client"]),
    ):
        if path := shutil.which(program):
            told = subprocess.run([path, *tells], capture_output=True, text=True, timeout=60).stdout
            version = re.search(r"(?:^|Kustomize Version: )v(\d+)", told)
            if version and int(version[1]) >= 5:
                return [path, *builds]
    return pytest.skip("there is no kustomize 5")


@pytest.mark.parametrize("name", OVERLAYS)
def test_kustomize_renders_the_same(folder, name):
    command = [*kustomize(), str(folder / "overlays" / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    theirs = {identity(each): each for each in YAML(typ="safe", pure=True).load_all(done.stdout)}
    ours = {identity(each): each for each in render(folder / "overlays" / name)}
    assert ours == theirs


def test_what_the_renderer_does_not_know_is_refused(tmp_path):
    (tmp_path / "kustomization.yaml").write_text("resources: []\nnamePrefix: my-\n")
    with pytest.raises(NotRendered, match="namePrefix"):
        render(tmp_path)


def test_a_patch_of_nothing_is_refused(tmp_path):
    patch = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\n"
    (tmp_path / "patch.yaml").write_text(patch)
    (tmp_path / "kustomization.yaml").write_text("patches: [{path: patch.yaml}]\n")
    with pytest.raises(NotRendered, match="other"):
        render(tmp_path)


def test_every_file_is_used(folder):
    kustomizations = list(folder.rglob("kustomization.yaml"))
    used = {path for path in kustomizations if path.parent.parent.name == "overlays"}
    for path in kustomizations:
        (plan,) = load(path)
        names = [*plan.get("resources", ()), *plan.get("components", ())]
        names += [patch["path"] for patch in plan.get("patches", ())]
        files = [(path.parent / name).resolve() for name in names]
        used |= {each / "kustomization.yaml" if each.is_dir() else each for each in files}
    assert used == set(folder.rglob("*.yaml"))


# Pods


def test_every_pod_is_hardened_as_its_container_of_compose(manifests, compose):
    pods = pods_of(manifests)
    assert set(pods) == {"api", "worker", "redis"}
    for name, pod in pods.items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        own = container(manifests, name)["securityContext"]
        assert own["allowPrivilegeEscalation"] is False  # no-new-privileges
        assert own["readOnlyRootFilesystem"] is compose[name]["read_only"]
        assert own["capabilities"] == {"drop": compose[name]["cap_drop"]}
        assert not {"privileged", "hostNetwork", "hostPID"} & {*spec, *own}
        (tmp,) = (each["emptyDir"] for each in spec["volumes"] if each["name"] == "tmp")
        assert f"/tmp:size={size(tmp['sizeLimit']) >> 20}m" in compose[name]["tmpfs"]
        assert tmp["medium"] == "Memory"


def test_pods_run_as_the_users_of_the_images(manifests, root):
    dockerfile = (root / "Dockerfile").read_text()
    assert set(re.findall(r"^USER (.+)$", dockerfile, re.MULTILINE)) == {"10001:10001"}
    for name, pod in pods_of(manifests).items():
        context = pod["spec"]["securityContext"]
        user = 999 if name == "redis" else 10001
        assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (user,) * 3


def test_the_cluster_refuses_pods_that_are_less_hardened(manifests):
    labels = manifests["Namespace", "rollout"]["metadata"]["labels"]
    assert labels == {"pod-security.kubernetes.io/enforce": "restricted"}
    for (kind, _), manifest in manifests.items():
        assert kind == "Namespace" or manifest["metadata"]["namespace"] == "rollout"


def test_orphans_of_a_worker_are_reaped(manifests, compose):
    assert compose["worker"]["init"] is True
    assert pods_of(manifests)["worker"]["spec"]["shareProcessNamespace"] is True


def test_no_variable_of_a_service_looks_like_a_setting(manifests):
    for name in ("api", "worker", "redis"):
        assert pods_of(manifests)[name]["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize(
    ("overlay", "name", "service"),
    [
        ("gpu", "api", "api"),
        ("gpu", "worker", "worker"),
        ("gpu", "redis", "redis"),
        ("fake", "worker", "worker-fake"),
    ],
)
def test_memory_is_limited_as_in_compose(rendered, compose, overlay, name, service):
    resources = container(rendered[overlay], name)["resources"]
    limit = size(resources["limits"]["memory"])
    assert limit == in_bytes(default(compose[service]["mem_limit"]))
    assert size(resources["requests"]["memory"]) < limit
    if name == "worker":
        assert limit > MediaOptions.model_fields["memory_bytes"].default


def test_only_a_worker_for_gpus_gets_one(rendered):
    for overlay, manifests in rendered.items():
        wanted = {
            name: container(manifests, name)["resources"]["limits"].get("nvidia.com/gpu")
            for name in pods_of(manifests)
        }
        gpu = None if overlay == "fake" else "1"
        assert wanted == {"api": None, "redis": None, "worker": gpu}
        device = environment(manifests, "worker").get("ROLLOUT_DEVICE")
        assert device == ("cuda" if gpu else None)


def test_an_update_of_workers_needs_no_further_gpu(manifests):
    update = manifests["Deployment", "worker"]["spec"]["strategy"]["rollingUpdate"]
    assert update == {"maxSurge": 0, "maxUnavailable": 1}


def test_applying_it_again_leaves_the_number_of_workers(manifests):
    assert "replicas" not in manifests["Deployment", "worker"]["spec"]


def test_images_are_those_of_compose(rendered, compose):
    for overlay, service in (("fake", "worker-fake"), ("gpu", "worker")):
        manifests = rendered[overlay]
        assert container(manifests, "api")["image"] == compose["api"]["image"]
        assert container(manifests, "worker")["image"] == compose[service]["image"]
        assert container(manifests, "redis")["image"] == default(compose["redis"]["image"])


def test_the_example_pins_the_images_of_this_release(production, compose):
    for name in ("api", "worker"):
        image = f"registry.example.org/{compose[name]['image']}:{__version__}"
        assert container(production, name)["image"] == image


# Start, checks and stop


def test_a_stopped_api_has_time_to_end_its_requests(manifests):
    pod = pods_of(manifests)["api"]["spec"]
    drain_seconds = int(environment(manifests, "api")["ROLLOUT_DRAIN_SECONDS"])
    _, pause_seconds = container(manifests, "api")["lifecycle"]["preStop"]["exec"]["command"]
    least = int(pause_seconds) + drain_seconds + 10
    assert pod["terminationGracePeriodSeconds"] >= least


def test_a_stopped_worker_has_time_to_end_its_job(manifests):
    pod = pods_of(manifests)["worker"]["spec"]
    drain_seconds = int(environment(manifests, "worker")["ROLLOUT_DRAIN_SECONDS"])
    assert drain_seconds == WorkerSettings.model_fields["drain_seconds"].default
    assert pod["terminationGracePeriodSeconds"] >= drain_seconds + 15


def test_the_api_is_asked_where_it_answers(manifests, root):
    openapi = json.loads((root / "openapi" / "openapi.json").read_text())
    api = container(manifests, "api")
    ports = {port["name"]: port["containerPort"] for port in api["ports"]}
    for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert api[probe]["httpGet"] == {"path": path, "port": "http"}
        assert path in openapi["paths"]
    assert f"ROLLOUT_PORT={ports['http']}" in (root / "Dockerfile").read_text()


def test_a_worker_is_checked_as_its_image_checks_it(manifests, root):
    worker = container(manifests, "worker")
    command = ["python", "-m", "worker.health"]
    assert f"CMD {json.dumps(command)}" in (root / "Dockerfile").read_text()
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert worker[probe]["exec"]["command"] == command


def test_a_worker_has_time_to_load_its_model(manifests):
    probe = container(manifests, "worker")["startupProbe"]
    load_seconds = WorkerSettings.model_fields["engine_load_seconds"].default
    assert probe["periodSeconds"] * probe["failureThreshold"] > load_seconds


def test_a_worker_survives_minutes_without_redis(manifests):
    probe = container(manifests, "worker")["livenessProbe"]
    assert probe["periodSeconds"] * (probe["failureThreshold"] - 1) >= 240 > LIVE_SECONDS


def test_an_api_is_left_when_a_node_is_drained(manifests):
    budget = manifests["PodDisruptionBudget", "api"]["spec"]
    assert 0 < budget["minAvailable"] < manifests["Deployment", "api"]["spec"]["replicas"]
    labels = pods_of(manifests)["api"]["metadata"]["labels"]
    assert selects(budget["selector"], labels)


# Redis and the store


def test_redis_has_the_options_of_compose(manifests, compose):
    expected = [
        default(word).removesuffix("b") if "$" in word else word
        for word in compose["redis"]["command"]
    ]
    args = container(manifests, "redis")["args"]
    assert [word.removesuffix("b") for word in args] == expected
    mounts = {
        each["name"]: each["mountPath"] for each in container(manifests, "redis")["volumeMounts"]
    }
    (claim,) = manifests["StatefulSet", "redis"]["spec"]["volumeClaimTemplates"]
    assert mounts[claim["metadata"]["name"]] == "/data"


@pytest.mark.parametrize("overlay", sorted({*OVERLAYS} - {"object-storage"}))
def test_all_mount_one_store(rendered, overlay):
    manifests = rendered[overlay]
    claim = manifests["PersistentVolumeClaim", "data"]["spec"]
    assert claim["accessModes"] == ["ReadWriteMany"]
    limit = int(environment(manifests, "api")["ROLLOUT_MAX_STORE_BYTES"])
    assert 0.8 < limit / size(claim["resources"]["requests"]["storage"]) < 0.95
    for name in ("api", "worker"):
        volumes = {each["name"]: each for each in pods_of(manifests)[name]["spec"]["volumes"]}
        assert volumes["data"]["persistentVolumeClaim"] == {"claimName": "data"}
        assert {"name": "data", "mountPath": "/data"} in container(manifests, name)["volumeMounts"]
        assert environment(manifests, name)["ROLLOUT_DATA_DIR"] == "/data"


def test_every_volume_is_there_and_mounted(manifests):
    for name, pod in pods_of(manifests).items():
        volumes = {each["name"] for each in pod["spec"]["volumes"]}
        if name == "redis":
            volumes.add("redis")
        mounted = {each["name"] for each in container(manifests, name)["volumeMounts"]}
        assert mounted == volumes
        for volume in pod["spec"]["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in manifests


def test_checkpoints_are_mounted_read_only(rendered):
    worker = container(rendered["gpu"], "worker")
    assert {"name": "checkpoints", "mountPath": "/checkpoints", "readOnly": True} in worker[
        "volumeMounts"
    ]


# Settings


@pytest.mark.parametrize(
    ("name", "settings", "others"),
    [("api", ServiceSettings, WorkerSettings), ("worker", WorkerSettings, ServiceSettings)],
)
def test_the_environment_has_only_valid_settings(manifests, name, settings, others):
    variables = environment(manifests, name)
    assert {each for each in variables if not each.startswith("ROLLOUT_")} <= {
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "AWS_REGION",
    }
    assert fields(variables).keys() <= settings.model_fields.keys() | others.model_fields.keys()
    own = {key: value for key, value in fields(variables).items() if key in settings.model_fields}
    settings.model_validate(own)
    assert {each["name"] for each in container(manifests, name)["env"]} <= {
        f"ROLLOUT_{field.upper()}" for field in settings.model_fields
    }


def test_redis_is_found_by_its_service(manifests):
    service = manifests["Service", "redis"]["spec"]
    (port,) = service["ports"]
    assert environment(manifests, "api")["ROLLOUT_REDIS_URL"] == f"redis://redis:{port['port']}/0"
    assert selects({"matchLabels": service["selector"]}, labels_of(manifests, "redis"))


def labels_of(manifests, name):
    return pods_of(manifests)[name]["metadata"]["labels"]


@pytest.mark.parametrize("name", ["api", "redis"])
def test_a_service_leads_to_its_pods_alone(manifests, name):
    service = manifests["Service", name]["spec"]
    chosen = [
        each
        for each in pods_of(manifests)
        if selects({"matchLabels": service["selector"]}, labels_of(manifests, each))
    ]
    assert chosen == [name]
    ports = {port["name"] for port in container(manifests, name)["ports"]}
    assert {port["targetPort"] for port in service["ports"]} <= ports


def test_selectors_select_their_own_pods(manifests):
    for (kind, name), manifest in manifests.items():
        if kind in ("Deployment", "StatefulSet"):
            assert selects(manifest["spec"]["selector"], labels_of(manifests, name))
            others = set(pods_of(manifests)) - {name}
            assert not any(
                selects(manifest["spec"]["selector"], labels_of(manifests, each)) for each in others
            )


def test_only_the_api_gets_the_file_of_keys(production, rendered):
    path = environment(production, "api")["ROLLOUT_API_KEYS_FILE"]
    volumes = {each["name"]: each for each in pods_of(production)["api"]["spec"]["volumes"]}
    assert volumes["api-keys"]["secret"] == {"secretName": "api-keys", "defaultMode": 0o440}
    (mount,) = (
        each for each in container(production, "api")["volumeMounts"] if each["name"] == "api-keys"
    )
    assert path == f"{mount['mountPath']}/keys.toml"
    assert "subPath" not in mount, "a changed Secret would not arrive"
    for overlay, manifests in rendered.items():
        assert "ROLLOUT_API_KEYS_FILE" not in environment(manifests, "worker")
        has_secret = "secretName" in json.dumps(pods_of(manifests))
        assert has_secret == (overlay == "production")


def test_media_must_be_confined_but_in_a_trial(rendered):
    confined = {
        overlay: environment(manifests, "worker")["ROLLOUT_REQUIRE_CONFINEMENT"]
        for overlay, manifests in rendered.items()
    }
    assert confined == {
        "fake": "false",
        "gpu": "true",
        "object-storage": "true",
        "production": "true",
    }


def test_with_a_bucket_pods_share_no_volume_that_they_write(rendered):
    manifests = rendered["object-storage"]
    assert ("PersistentVolumeClaim", "data") not in manifests
    assert ("PersistentVolumeClaim", "data") in rendered["gpu"]
    for name in ("api", "worker"):
        volumes = {each["name"]: each for each in pods_of(manifests)[name]["spec"]["volumes"]}
        assert volumes["data"].keys() == {"name", "emptyDir"}
        claims = {volume for volume, each in volumes.items() if "persistentVolumeClaim" in each}
        assert claims == ({"checkpoints"} if name == "worker" else set())
        (mount,) = (e for e in container(manifests, name)["volumeMounts"] if e["name"] == "data")
        assert mount["mountPath"] == environment(manifests, name)["ROLLOUT_DATA_DIR"]
    assert "persistentVolumeClaim" in json.dumps(pods_of(rendered["gpu"])["api"])


def test_api_and_workers_use_one_bucket_with_the_credentials_of_a_secret(rendered):
    manifests = rendered["object-storage"]
    found = {environment(manifests, name)["ROLLOUT_STORE"] for name in ("api", "worker")}
    assert len(found) == 1
    ServiceSettings(store=found.pop())
    for name in ("api", "worker"):
        (secret,) = (
            each["secretRef"]
            for each in container(manifests, name)["envFrom"]
            if "secretRef" in each
        )
        assert secret == {"name": "bucket"}
        assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} & {*environment(manifests, name)}
    assert "envFrom" not in container(manifests, "redis")


# Network

DNS = "kube-system/kube-dns [53]"
TO_REDIS = "timesformer-rollout/redis [6379]"


def test_without_a_policy_nothing_passes(manifests):
    policy = manifests["NetworkPolicy", "nothing-else"]["spec"]
    assert policy == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("overlay", ["fake", "gpu"])
def test_pods_reach_redis_and_names_alone(rendered, overlay):
    for name in ("api", "worker"):
        assert way_out(rendered[overlay], name) == {TO_REDIS, DNS}
    assert way_out(rendered[overlay], "redis") == set()


def test_only_what_is_added_leads_further(production):
    collector = "observability/collector [4318]"
    assert way_out(production, "worker") == {TO_REDIS, DNS, collector}
    assert way_out(production, "api") == {TO_REDIS, DNS, collector, "0.0.0.0/0 [443]"}
    assert way_out(production, "redis") == set()


def test_api_and_workers_reach_the_bucket(rendered):
    manifests = rendered["object-storage"]
    for name in ("api", "worker"):
        assert way_out(manifests, name) == {TO_REDIS, DNS, "0.0.0.0/0 [443]"}
    assert way_out(manifests, "redis") == set()


def test_spans_go_where_the_policy_leads(production):
    endpoint = environment(production, "worker")["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert endpoint == "http://collector.observability.svc:4318"


def test_the_internet_means_public_addresses(production, rendered):
    (rule,) = production["NetworkPolicy", "outbound"]["spec"]["egress"]
    assert [rule] == rendered["object-storage"]["NetworkPolicy", "to-bucket"]["spec"]["egress"]
    (peer,) = rule["to"]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} < {
        *peer["ipBlock"]["except"]
    }


def way_in(manifests, name):
    """Return who may connect to a pod, and to which port."""
    return {
        (json.dumps(rule.get("from", "all"), sort_keys=True), port["port"])
        for policy in policies(manifests, name, "Ingress")
        for rule in policy.get("ingress", ())
        for port in rule["ports"]
    }


def test_who_reaches_a_pod(rendered):
    for overlay, manifests in rendered.items():
        assert way_in(manifests, "worker") == set()
        ((peers, port),) = way_in(manifests, "redis")
        assert port == 6379
        ((selector,),) = (each.values() for each in json.loads(peers))
        for name in ("api", "worker", "redis"):
            assert selects(selector, labels_of(manifests, name)) == (name != "redis")
        ports = {port: peers for peers, port in way_in(manifests, "api")}
        assert set(ports) == ({8000, 9100} if overlay == "production" else {8000})
        assert (json.loads(ports[8000]) == "all") == (overlay != "production")


def test_the_ingress_passes_on_what_the_service_takes(production):
    ingress = production["Ingress", "api"]
    notes = {
        key.removeprefix("nginx.org/"): text
        for key, text in ingress["metadata"]["annotations"].items()
    }
    most = ServiceSettings.model_fields["max_upload_bytes"].default
    assert in_bytes(notes["client-max-body-size"]) >= most
    assert int(notes["proxy-read-timeout"].removesuffix("s")) > 60
    assert notes["location-snippets"] == "proxy_request_buffering off;"
    (rule,) = ingress["spec"]["rules"]
    (tls,) = ingress["spec"]["tls"]
    assert tls["hosts"] == [rule["host"]]
    variables = environment(production, "api")
    assert variables["ROLLOUT_ALLOWED_HOSTS"] == rule["host"]
    assert "ROLLOUT_TRUSTED_PROXIES" in variables
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": "api", "port": {"name": "http"}}


# Metrics and scaling


def test_each_api_is_scraped_where_it_tells(production):
    monitor = production["PodMonitor", "api"]["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    ports = {port["name"]: port["containerPort"] for port in container(production, "api")["ports"]}
    address = environment(production, "api")["ROLLOUT_METRICS_ADDRESS"]
    assert address == f"0.0.0.0:{ports[endpoint['port']]}"
    assert endpoint["path"] == "/metrics"
    assert selects(monitor["selector"], labels_of(production, "api"))
    assert not selects(monitor["selector"], labels_of(production, "worker"))


def test_workers_are_scaled_by_jobs_that_wait_or_run(production):
    scaler = production["ScaledObject", "worker"]["spec"]
    assert ("Deployment", scaler["scaleTargetRef"]["name"]) in production
    (trigger,) = scaler["triggers"]
    query = trigger["metadata"]["query"]
    (metric,) = re.findall(r"\brollout_\w+", query)
    assert DEFINITIONS[metric].shared, "the largest of all API processes counts, not the sum"
    (grouped,) = re.findall(r"^sum\(max by \(([a-z, ]+)\) \(rollout_jobs\{", query)
    assert tuple(grouped.split(", ")) == DEFINITIONS[metric].labels
    wanted = dict(re.findall(r'([a-z]+)=~?"([^"]+)"', query))
    model = environment(production, "worker")["ROLLOUT_MODEL"].partition("=")[0]
    namespace = production["Deployment", "worker"]["metadata"]["namespace"]
    assert wanted == {"namespace": namespace, "model": model, "state": "queued|running"}


def test_the_query_counts_each_job_once(production, tmp_path):
    """Two API pods tell the same; another model and another installation do not count."""
    (trigger,) = production["ScaledObject", "worker"]["spec"]["triggers"]
    own = 'namespace="rollout", model="moving-things"'
    series = {
        f'{own}, pod="api-1", state="queued"': 3,
        f'{own}, pod="api-2", state="queued"': 3,
        f'{own}, pod="api-1", state="running"': 2,
        f'{own}, pod="api-2", state="running"': 2,
        f'{own}, pod="api-1", state="succeeded"': 50,
        'namespace="rollout", model="other", pod="api-1", state="queued"': 70,
        'namespace="trial", model="moving-things", pod="api-1", state="queued"': 90,
    }
    told = [
        {"series": f"rollout_jobs{{{labels}}}", "values": str(value)}
        for labels, value in series.items()
    ]
    expected = {"expr": trigger["metadata"]["query"], "exp_samples": [{"value": 5}]}
    plan = {"tests": [{"input_series": told, "promql_expr_test": [expected]}]}
    (tmp_path / "query.yml").write_text(json.dumps(plan))
    command = [require_tool("promtool"), "test", "rules", "query.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_scaling_down_waits_longer_than_a_worker_ends(production):
    scaler = production["ScaledObject", "worker"]["spec"]
    behavior = scaler["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    grace_seconds = pods_of(production)["worker"]["spec"]["terminationGracePeriodSeconds"]
    assert behavior["stabilizationWindowSeconds"] > grace_seconds
    assert scaler["cooldownPeriod"] > grace_seconds
    assert all(policy["periodSeconds"] > grace_seconds for policy in behavior["policies"])


def test_without_prometheus_no_worker_is_stopped(production):
    scaler = production["ScaledObject", "worker"]["spec"]
    assert scaler["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert scaler["triggers"][0]["metadata"]["ignoreNullValues"] == "false"
    assert scaler["fallback"]["replicas"] >= scaler["minReplicaCount"] >= 1


# The document


def test_the_document_names_every_overlay_and_component(root, folder):
    document = (root / "docs" / "kubernetes.md").read_text()
    found = {path.parent.name for path in folder.glob("*/*/kustomization.yaml")}
    rows = set(re.findall(r"^\| `(?:overlays|components)/([a-z-]+)` \|", document, re.MULTILINE))
    assert rows == found
    for applied in re.findall(r"apply -k (\S+)", document):
        assert applied == "YOUR-OVERLAY" or (root / applied / "kustomization.yaml").is_file()
    assert f"Kubernetes {VERSIONS[0]}" in document
