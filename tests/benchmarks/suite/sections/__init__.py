"""One module for each section, with a function `run(settings) -> Section`.

A module imports at its top what it needs. Where a package is not installed, its section is skipped.
"""

TITLES = {
    "forward": "Forward: what capturing costs",
    "rollout": "Rollout: factored against dense",
    "peers": "Peers: Hugging Face's model with hooks",
    "methods": "Methods: what each costs",
    "videos": "Video: decoding and drawing",
    "job": "A whole job through HTTP",
    "throughput": "Throughput: jobs a minute",
    "memory": "Memory of each process",
    "overhead": "Overhead of the service",
    "start": "Start: import to ready",
    "card": "The card: clips a second",
}
"""Every section, in the order of the report."""

QUICK = tuple(name for name in TITLES if name not in ("methods", "card"))
ON_CPU = tuple(name for name in TITLES if name != "card")
ON_GPU = ("forward", "rollout", "peers", "card")
"""What runs unless sections are named: in three minutes, on a CPU, on a GPU."""
