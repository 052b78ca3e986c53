"""Cluster jobs made from templates: scripts for Slurm, a manifest for Kubernetes, a command for Ray."""
