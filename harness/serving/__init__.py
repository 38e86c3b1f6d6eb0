"""Serving: engines that turn a merged checkpoint into answers, the vLLM server behind one, and the proof of a swap."""
