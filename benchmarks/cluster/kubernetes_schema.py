"""Claim: the manifest of `stin-pipe job kubernetes` is a valid RayJob, without unknown fields.

By hand, with KubeRay's definition of the kind (ray_rayjobs.yaml under config/crd of its repository, or
`kubectl get crd rayjobs.ray.io -o yaml`):

    python benchmarks/cluster/kubernetes_schema.py rayjobs.crd.yaml

An API server drops unknown fields in silence, so here every object that lists its fields allows no
others. The pod template is part of the definition. A manifest with one field misspelled must fail, else
the check itself is broken. Prints one JSON object.
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import yaml

CONFIG = 'run = "/data/runs/mine"\n[extract]\nvideos = "/data/videos"\n'


def strict(schema: Any) -> Any:
    """Close every object that lists its properties, and turn Kubernetes' int-or-string into JSON schema."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if schema.pop("x-kubernetes-int-or-string", False):
        return {"type": ["integer", "string"]}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        schema.setdefault("additionalProperties", False)
    return schema


def rendered(*options: str) -> dict[str, Any]:
    """The RayJob that the command writes."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "run.toml"
        config.write_text(CONFIG)
        command = [
            "job",
            "kubernetes",
            "--config",
            str(config),
            "--image",
            "stin-pipe:cpu",
            "--claim",
            "videos",
        ]
        code = "from stin_pipe.workflows.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *command, *options], capture_output=True, text=True, check=True
        )
    config_map, job = yaml.safe_load_all(done.stdout)
    assert config_map["kind"] == "ConfigMap" and set(config_map) == {"apiVersion", "kind", "metadata", "data"}
    return job


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("crd", type=Path)
    crd = yaml.safe_load(parser.parse_args().crd.read_text())
    (version,) = [item for item in crd["spec"]["versions"] if item["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "namespace": {"type": "string"}},
        "additionalProperties": False,
    }
    check = jsonschema.Draft202012Validator(schema)
    manifests = {
        "CPU": rendered(),
        "GPU": rendered("--gpus", "1", "--workers", "5", "--namespace", "vision"),
        "head alone": rendered("--workers", "0"),
    }
    found = {
        name: [error.message[:300] for error in check.iter_errors(job)] for name, job in manifests.items()
    }
    wrong = copy.deepcopy(manifests["GPU"])
    pod = wrong["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    pod["containers"][0]["volumeMount"] = pod["containers"][0].pop("volumeMounts")
    notices = [error.message[:100] for error in check.iter_errors(wrong)]
    ok = not any(found.values()) and bool(notices)
    print(json.dumps({"errors": found, "misspelled_field_is_noticed": notices, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
