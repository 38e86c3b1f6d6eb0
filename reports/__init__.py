"""Reports: tables and text from the results file alone; nothing here knows how a model is trained."""
