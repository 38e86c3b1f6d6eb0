"""The store: artifacts on disk, the keys they lie under, and the manifests that say what they came from."""
