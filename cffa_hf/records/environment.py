"""Versions of the software and the kind of machine, as they may be published."""

import importlib.metadata
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from cffa_hf.arguments.training import CFFATrainingArguments
from cffa_hf.version import VERSION

PUBLISHED_PRECISION = "float16 weights, updated in place"


def package_version() -> dict[str, Any]:
    """Name the version of this package and, as far as it can be found out, its git commit."""
    version: dict[str, Any] = {"version": VERSION, "commit": None, "uncommitted_changes": None}
    try:
        source = json.loads(importlib.metadata.distribution("cffa_hf").read_text("direct_url.json") or "{}")
        version["commit"] = source.get("vcs_info", {}).get("commit_id")
    except importlib.metadata.PackageNotFoundError:
        pass
    folder = Path(__file__).resolve().parents[2]
    if version["commit"] is None and (folder / ".git").exists():
        try:
            git = ["git", "-C", str(folder)]
            options: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "timeout": 20}
            version["commit"] = subprocess.run([*git, "rev-parse", "HEAD"], **options).stdout.strip()
            changed = subprocess.run([*git, "status", "--porcelain", "--", "cffa_hf"], **options).stdout
            version["uncommitted_changes"] = bool(changed.strip())
        except (OSError, subprocess.SubprocessError):
            pass
    return version


def environment(args: CFFATrainingArguments) -> dict[str, str]:
    """Name the device, the precision and the versions of Python and libraries."""
    if args.device.type == "cuda":
        device, count = torch.cuda.get_device_name(args.device), args.world_size
        device = f"{count} x {device}" if count > 1 else device
    else:
        device = f"{args.device.type.upper()}, {os.cpu_count()} cores, {torch.get_num_threads()} in use"
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "datasets", "accelerate")}
    return {
        "device": device,
        "precision": precision(args),
        "system": platform.system(),
        "python": platform.python_version(),
        **versions,
    }


def precision(args: CFFATrainingArguments) -> str:
    """Name the floating point types of weights and computation."""
    if args.precision == "published":
        return PUBLISHED_PRECISION
    autocast = "bfloat16" if args.bf16 else "float16" if args.fp16 else None
    return f"float32 weights, {autocast} autocast" if autocast else "float32"


PACKAGES = ("torch", "transformers", "datasets", "huggingface_hub", "tokenizers", "safetensors", "pillow", "numpy")


def package_versions() -> dict[str, str]:
    """Return the versions of this package and of those that a result may depend on."""
    versions = {"cffa_hf": VERSION}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
