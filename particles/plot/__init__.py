"""Pictures of runs; the only importer of matplotlib."""
