"""Executors: where steps run. Today that is this machine; nothing else knows."""
