"""What a run is computed with on this machine."""

import json

import torch

from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import RunSpec
from dinov2lab.store.result import RunFolder


def settle(resources: Resources, spec: RunSpec, folder: RunFolder) -> Resources:
    """As the run was begun, so that a resume ends with the same numbers; with as many processes as there are now.

    Tells torch so.
    """
    if folder.checkpoint.exists() and folder.provenance.exists():
        begun = Resources.model_validate_json(json.dumps(folder.read_provenance()["resources"]))
        if begun.processes == resources.processes and (begun.device == "cpu" or torch.cuda.is_available()):
            resources = begun
    device = resources.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    tell_torch(resources, spec, device)
    return resources.model_copy(update={"device": device})


def tell_torch(resources: Resources, spec: RunSpec, device: str) -> None:
    torch.set_num_threads(resources.threads)
    torch.use_deterministic_algorithms(spec.optim.deterministic and device == "cuda")


def device_of(resources: Resources, here: int = 0) -> torch.device:
    """Of the process with that number on its machine."""
    if resources.device == "cuda" and resources.processes > 1:
        return torch.device("cuda", here % torch.cuda.device_count())  # where each sees its own alone, that one
    return torch.device(resources.device)


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
