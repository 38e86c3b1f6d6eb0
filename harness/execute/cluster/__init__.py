"""Steps on the nodes of a Ray cluster. This folder alone knows Ray; a run on one machine imports none of it."""
